//! A line for many, in the forms that clients take it in: each form is built once, and shared.

use std::time::SystemTime;

use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::Frame;
use unbroken::Bytes;

use crate::irc::{timestamp, truncate, MAX_LINE};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines on a bare connection.
    Irc,
    /// A text message of a WebSocket for each line.
    Text,
    /// A binary one.
    Binary,
}

const FORMS: [Form; 3] = [Form::Irc, Form::Text, Form::Binary];

/// The forms, each with and without the time, and with and without other tags.
pub const VARIANTS: usize = 4 * FORMS.len();

impl Form {
    /// The number of a variant, below [`VARIANTS`].
    pub fn variant(self, timed: bool, tagged: bool) -> usize {
        self as usize * 4 + usize::from(tagged) * 2 + usize::from(timed)
    }
}

/// Whether a variant is for those who take tags.
pub fn is_tagged(variant: usize) -> bool {
    variant % 4 >= 2
}

/// A line for any number of clients.
pub struct Line {
    text: String,
    tags: String,
    time: SystemTime,
    built: [Option<Bytes>; VARIANTS],
}

impl Line {
    /// Text that would be too long a line is cut.
    pub fn new(mut text: String, tags: &str, time: SystemTime) -> Self {
        let length = truncate(&text, MAX_LINE).len();
        text.truncate(length);
        Self { text, tags: tags.to_owned(), time, built: Default::default() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line in one form, by number.
    pub fn variant(&mut self, variant: usize) -> Bytes {
        let Self { text, tags, time, built } = self;
        let (form, timed, tagged) =
            (FORMS[variant / 4], variant % 2 == 1, is_tagged(variant) && !tags.is_empty());
        let bytes = built[variant].get_or_insert_with(|| match (timed, tagged) {
            (false, false) => encode(form, text),
            (true, false) => encode(form, &format!("@time={} {text}", timestamp(*time))),
            (false, true) => encode(form, &format!("@{tags} {text}")),
            (true, true) => encode(form, &format!("@time={};{tags} {text}", timestamp(*time))),
        });
        bytes.clone()
    }
}

/// One line in one form.
pub fn encode(form: Form, line: &str) -> Bytes {
    let data = match form {
        Form::Irc => {
            let mut bytes = Vec::with_capacity(line.len() + 2);
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
            return bytes.into();
        }
        Form::Text => Data::Text,
        Form::Binary => Data::Binary,
    };
    let frame = Frame::message(line.as_bytes().to_vec(), OpCode::Data(data), true);
    let mut bytes = Vec::with_capacity(line.len() + 4);
    // Into memory nothing fails.
    let _ = frame.format(&mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_built_once_and_shared() {
        let mut line = Line::new(":a PRIVMSG #b :c".to_owned(), "msgid=7", SystemTime::UNIX_EPOCH);
        let mut get = |form: Form, timed, tagged| line.variant(form.variant(timed, tagged));
        assert_eq!(get(Form::Irc, false, false), ":a PRIVMSG #b :c\r\n");
        assert_eq!(get(Form::Irc, true, false), "@time=1970-01-01T00:00:00.000Z :a PRIVMSG #b :c\r\n");
        assert_eq!(get(Form::Irc, true, true), "@time=1970-01-01T00:00:00.000Z;msgid=7 :a PRIVMSG #b :c\r\n");
        assert_eq!(get(Form::Irc, false, true), "@msgid=7 :a PRIVMSG #b :c\r\n");
        assert_eq!(get(Form::Irc, false, true).as_ptr(), get(Form::Irc, false, true).as_ptr());
        assert_eq!(get(Form::Text, false, false)[..2], [0x81, 16]);
        assert_eq!(get(Form::Binary, false, false)[..2], [0x82, 16]);
    }

    #[test]
    fn a_line_is_never_longer_than_the_protocol_allows() {
        let mut line = Line::new("ä".repeat(400), "", SystemTime::UNIX_EPOCH);
        assert_eq!(line.variant(Form::Irc.variant(false, false)).len(), MAX_LINE + 2);
    }
}
