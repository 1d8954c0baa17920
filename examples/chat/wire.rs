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

/// The forms, each without the time and with it.
pub const VARIANTS: usize = 2 * FORMS.len();

impl Form {
    /// The number of a variant, below [`VARIANTS`].
    pub fn variant(self, tagged: bool) -> usize {
        self as usize * 2 + usize::from(tagged)
    }
}

/// A line for any number of clients.
pub struct Line {
    text: String,
    time: SystemTime,
    built: [Option<Bytes>; VARIANTS],
}

impl Line {
    /// Text that would be too long a line is cut.
    pub fn new(mut text: String, time: SystemTime) -> Self {
        let length = truncate(&text, MAX_LINE).len();
        text.truncate(length);
        Self { text, time, built: Default::default() }
    }

    /// The line in one form, with the time or without it.
    pub fn get(&mut self, form: Form, tagged: bool) -> Bytes {
        self.variant(form.variant(tagged))
    }

    /// The same by number.
    pub fn variant(&mut self, variant: usize) -> Bytes {
        let (text, time) = (&self.text, self.time);
        let (form, tagged) = (FORMS[variant / 2], variant % 2 == 1);
        let bytes = self.built[variant].get_or_insert_with(|| match tagged {
            true => encode(form, &format!("@time={} {text}", timestamp(time))),
            false => encode(form, text),
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
        let mut line = Line::new(":a PRIVMSG #b :c".to_owned(), SystemTime::UNIX_EPOCH);
        assert_eq!(line.get(Form::Irc, false), ":a PRIVMSG #b :c\r\n");
        assert_eq!(line.get(Form::Irc, true), "@time=1970-01-01T00:00:00.000Z :a PRIVMSG #b :c\r\n");
        assert_eq!(line.get(Form::Irc, false).as_ptr(), line.get(Form::Irc, false).as_ptr());
        assert_eq!(line.get(Form::Text, false)[..2], [0x81, 16]);
        assert_eq!(line.get(Form::Binary, false)[..2], [0x82, 16]);
    }

    #[test]
    fn a_line_is_never_longer_than_the_protocol_allows() {
        let mut line = Line::new("ä".repeat(400), SystemTime::UNIX_EPOCH);
        assert_eq!(line.get(Form::Irc, false).len(), MAX_LINE + 2);
    }
}
