//! A WebSocket client that writes and reads single frames, and hides none of them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::chat::{connect, Chat};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The key of RFC 6455's own example.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A whole frame of a client, masked with zeros.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | kind];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The frame of one line.
pub fn text(line: &str) -> Vec<u8> {
    frame(TEXT, line.as_bytes())
}

pub struct Socket {
    pub stream: TcpStream,
}

impl Socket {
    /// An open WebSocket that has said nothing yet.
    pub fn open(chat: &Chat) -> Self {
        let mut stream = connect(chat.web);
        let request = format!(
            "GET /irc HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            chat.web
        );
        stream.write_all(request.as_bytes()).expect("write");
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { stream }
    }

    /// One that has registered.
    pub fn register(chat: &Chat, nick: &str) -> Self {
        let mut socket = Self::open(chat);
        socket.write(&[text(&format!("NICK {nick}")), text(&format!("USER {nick} 0 * :{nick}"))].concat());
        while !socket.line().contains(" 376 ") {}
        socket
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("write");
    }

    /// The next frame: its kind and its payload; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        match self.stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            read => read.expect("a frame in time"),
        }
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length).expect("a length");
                u16::from_be_bytes(length).into()
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).expect("a payload");
        Some((head[0] & 15, payload))
    }

    /// The next line.
    pub fn line(&mut self) -> String {
        let (kind, payload) = self.next().expect("a frame");
        assert_eq!(kind, TEXT, "{payload:?}");
        String::from_utf8(payload).expect("UTF-8")
    }

    /// All frames up to the end of the stream.
    pub fn rest(&mut self) -> Vec<(u8, String)> {
        let frames = std::iter::from_fn(|| self.next());
        frames.map(|(kind, payload)| (kind, String::from_utf8_lossy(&payload).into_owned())).collect()
    }
}

/// Reads a head byte by byte, so that nothing behind it is lost.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("UTF-8")
}
