//! The frames of a client's WebSocket (RFC 6455), one at a time and in their order: what is held back
//! stays with the engine, so that no answer can overtake another.

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::CloseFrame;
use unbroken::Bytes;

use crate::wire::Form;

/// A message at most: a line with its tags.
const MAX_MESSAGE: usize = 12 << 10;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a frame came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Message(Vec<u8>),
    /// To be answered with this.
    Ping(Bytes),
    /// The other side said goodbye; this answers it.
    Close(Bytes),
    /// A part of a message, or an answer.
    Nothing,
    /// It cannot go on: why, and what the other side is told.
    Broken(&'static str, Bytes),
}

/// A WebSocket: its form, and the message that has come in part.
pub struct Socket {
    pub form: Form,
    message: Vec<u8>,
    /// The kind of that message; `None` between messages.
    kind: Option<u8>,
    /// Goodbye was said.
    closed: bool,
}

/// The head of a frame: its bits and kind, the place of the mask, the length of the payload.
struct Head {
    first: u8,
    mask: usize,
    length: usize,
}

fn head(data: &[u8]) -> Result<Option<Head>, &'static str> {
    let &[first, second, ..] = data else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err("A client's frame must be masked");
    }
    let (mask, length) = match (second & 0x7f, data) {
        (126, &[_, _, a, b, ..]) => (4, usize::from(u16::from_be_bytes([a, b]))),
        (126, _) => return Ok(None),
        // More than anybody may send.
        (127, _) => (10, usize::MAX),
        (length, _) => (2, usize::from(length)),
    };
    Ok(Some(Head { first, mask, length }))
}

fn formatted(frame: Frame) -> Bytes {
    let mut bytes = Vec::with_capacity(16);
    // Into memory nothing fails.
    let _ = frame.format(&mut bytes);
    bytes.into()
}

fn broken(code: CloseCode, why: &'static str) -> Event {
    Event::Broken(why, formatted(Frame::close(Some(CloseFrame { code, reason: why.into() }))))
}

fn protocol_error(why: &'static str) -> Event {
    broken(CloseCode::Protocol, why)
}

impl Socket {
    pub fn new(form: Form) -> Self {
        Self { form, message: Vec::new(), kind: None, closed: false }
    }

    /// Takes one frame; `None` when it has not come whole.
    pub fn next_in(&mut self, rest: &mut &[u8]) -> Option<Event> {
        let head = match head(rest) {
            Ok(head) => head?,
            Err(why) => return Some(protocol_error(why)),
        };
        let (last, kind) = (head.first & 0x80 != 0, head.first & 0x0f);
        let control = kind >= CLOSE;
        if head.first & 0x70 != 0 || !matches!(kind, CONTINUATION..=BINARY | CLOSE..=PONG) {
            return Some(protocol_error("Unknown kind of frame"));
        }
        if control && (!last || head.length > 125) {
            return Some(protocol_error("Control frame too long"));
        }
        if !control && (kind == CONTINUATION) != self.kind.is_some() {
            return Some(protocol_error("Frame out of order"));
        }
        if !control && head.length > MAX_MESSAGE - self.message.len() {
            return Some(broken(CloseCode::Size, "Message too big"));
        }
        let start = head.mask + 4;
        let mask = rest.get(head.mask..start)?;
        let payload = rest.get(start..start + head.length)?;
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let event = match kind {
            CLOSE => self.farewell(&payload.collect::<Vec<u8>>()),
            PING => Event::Ping(formatted(Frame::pong(payload.collect::<Vec<u8>>()))),
            PONG => Event::Nothing,
            _ => {
                self.message.extend(payload);
                self.kind.get_or_insert(kind);
                if last {
                    self.whole()
                } else {
                    Event::Nothing
                }
            }
        };
        *rest = &rest[start + head.length..];
        Some(event)
    }

    fn whole(&mut self) -> Event {
        let message = std::mem::take(&mut self.message);
        match self.kind.take() {
            Some(TEXT) if std::str::from_utf8(&message).is_err() => {
                broken(CloseCode::Invalid, "Text that is not UTF-8")
            }
            _ => Event::Message(message),
        }
    }

    /// The answer to a Close: its own code.
    fn farewell(&mut self, payload: &[u8]) -> Event {
        self.closed = true;
        let code = match payload {
            [] => None,
            [a, b, words @ ..] if std::str::from_utf8(words).is_ok() => Some(u16::from_be_bytes([*a, *b])),
            _ => return protocol_error("Close without a code"),
        };
        match code {
            Some(code) if !CloseCode::from(code).is_allowed() => protocol_error("Close with a false code"),
            _ => Event::Close(formatted(Frame::close(
                code.map(|code| CloseFrame { code: code.into(), reason: "".into() }),
            ))),
        }
    }

    /// Our own goodbye, unless there was one.
    pub fn goodbye(&mut self, away: bool) -> Bytes {
        if std::mem::replace(&mut self.closed, true) {
            return Bytes::new();
        }
        let code = if away { CloseCode::Away } else { CloseCode::Normal };
        formatted(Frame::close(Some(CloseFrame { code, reason: "".into() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of a client.
    fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(0x80 | length as u8),
            length => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// All events of a stream that comes in pieces, up to the one that ends it.
    fn events(stream: &[u8], cut: usize) -> Vec<Event> {
        let (mut socket, mut events, mut begin) = (Socket::new(Form::Text), Vec::new(), 0);
        for end in (0..stream.len()).step_by(cut).chain([stream.len()]) {
            let mut rest = &stream[begin..end];
            while let Some(event) = socket.next_in(&mut rest) {
                let over = matches!(event, Event::Close(_) | Event::Broken(..));
                events.push(event);
                if over {
                    return events;
                }
            }
            begin = end - rest.len();
        }
        events
    }

    #[test]
    fn what_was_masked_is_read() {
        let stream = [frame(0x81, [1, 2, 3, 4], b"hello"), frame(0x82, [9; 4], &[b'x'; 300])].concat();
        let read = [Event::Message(b"hello".to_vec()), Event::Message(vec![b'x'; 300])];
        assert_eq!(events(&stream, 7), read);
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_it_says_the_same(
            frames in proptest::collection::vec(
                (prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x80, 0x00, 0x89, 0x8a, 0x88, 0x83, 0xc1]),
                 any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..8),
            junk in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 1usize..50,
        ) {
            let mut stream: Vec<u8> = frames.iter().flat_map(|(first, mask, data)| frame(*first, *mask, data)).collect();
            stream.extend(junk);
            prop_assert_eq!(events(&stream, cut), events(&stream, stream.len().max(1)));
        }
    }
}
