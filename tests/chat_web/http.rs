//! HTTP as the standards have it, and what browsers rely on for their users' safety.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::chat::{connect, Chat};
use crate::frames::{read_head, KEY};
use crate::util;

/// What is answered to a request for a WebSocket with these header lines, beyond the usual: the head.
fn upgraded(chat: &Chat, version: &str, headers: &[&str]) -> String {
    let mut request =
        format!("GET /irc HTTP/{version}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    let given = |name: &str| headers.iter().any(|header| header.to_ascii_lowercase().starts_with(name));
    if !given("host:") {
        request += &format!("Host: {}\r\n", chat.web);
    }
    if !given("connection:") {
        request += "Connection: Upgrade\r\n";
    }
    if !given("sec-websocket-key:") {
        request += &format!("Sec-WebSocket-Key: {KEY}\r\n");
    }
    for header in headers {
        request += &format!("{header}\r\n");
    }
    let mut stream = connect(chat.web);
    stream.write_all(format!("{request}\r\n").as_bytes()).expect("write");
    read_head(&mut stream)
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).expect("a status")
}

#[test]
pub(crate) fn a_websocket_is_granted_to_sound_requests_only() {
    let chat = Chat::start(&[]);
    assert_eq!(status(&upgraded(&chat, "1.1", &[])), "101");
    assert_eq!(status(&upgraded(&chat, "1.0", &[])), "426");
    for bad in ["", "x", "dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZS!ub25jZQ==", "dGhlIHNhbXBsZSBub25jZQAA"] {
        assert_eq!(status(&upgraded(&chat, "1.1", &[&format!("Sec-WebSocket-Key: {bad}")])), "400", "{bad}");
    }
    let key = format!("Sec-WebSocket-Key: {KEY}");
    assert_eq!(status(&upgraded(&chat, "1.1", &[&key, &key])), "400");
    // A list may stand on several lines.
    let head = upgraded(&chat, "1.1", &["Connection: keep-alive", "Connection: Upgrade"]);
    assert_eq!(status(&head), "101");
    let lines = ["Sec-WebSocket-Protocol: soap", "Sec-WebSocket-Protocol: wamp, binary.ircv3.net"];
    let head = upgraded(&chat, "1.1", &lines);
    assert!(head.contains("\r\nSec-WebSocket-Protocol: binary.ircv3.net\r\n"), "{head}");
}

#[test]
fn a_websocket_is_granted_to_our_own_pages_and_friends_only() {
    let chat = Chat::start(&["--host", "chat.example.org", "--origin", "https://friend.example"]);
    let own = format!("Origin: http://{}", chat.web);
    let asked = |headers: &[&str]| status(&upgraded(&chat, "1.1", headers)).to_owned();
    assert_eq!(asked(&[&own]), "101");
    assert_eq!(asked(&["Origin: https://friend.example"]), "101");
    assert_eq!(asked(&["Host: chat.example.org", "Origin: https://chat.example.org"]), "101");
    assert_eq!(asked(&["Host: CHAT.example.org:80", "Origin: http://chat.example.org"]), "101");
    assert_eq!(asked(&["Host: [::1]:8080", "Origin: http://[::1]:8080"]), "101");
    for foreign in ["null", "http://evil.example", "http://friend.example", "", "nonsense"] {
        assert_eq!(asked(&[&format!("Origin: {foreign}")]), "403", "{foreign}");
    }
    assert_eq!(asked(&[&own.replace("http:", "ftp:")]), "403");
    assert_eq!(asked(&[&own, "Origin: http://evil.example"]), "403");
    assert_eq!(asked(&["Host:", "Origin: null"]), "421");
    // A name that an attacker's DNS points at us: to the browser, page and socket have one origin.
    assert_eq!(asked(&["Host: evil.example", "Origin: http://evil.example"]), "421");
}

/// A request on a connection of its own, which may ask for its end: the whole answer.
fn answer(chat: &Chat, request: &str) -> (String, Vec<u8>) {
    let mut stream = connect(chat.web);
    stream.write_all(request.as_bytes()).expect("write");
    let head = read_head(&mut stream);
    let (body, error) = util::read_all(&mut stream);
    assert!(error.is_none(), "{error:?}");
    (head, body)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn a_close_on_a_second_line_of_connection_is_obeyed() {
    let chat = Chat::start(&[]);
    let lines = "Host: x\r\nConnection: keep-alive\r\nConnection: close";
    let (head, body) = answer(&chat, &format!("GET /health HTTP/1.1\r\n{lines}\r\n\r\n"));
    assert_eq!((header(&head, "Connection"), &body[..]), (Some("close"), &b"ok\n"[..]));
}

#[test]
fn answers_are_dated_and_pages_are_packed_and_known_again() {
    let chat = Chat::start(&[]);
    let get = |more: &str| {
        answer(&chat, &format!("GET /chat.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"))
    };
    let (plain_head, plain) = get("");
    let date = header(&plain_head, "Date").expect("a date");
    let age = httpdate::parse_http_date(date).expect("a date").elapsed().unwrap_or_default();
    assert!(age < util::SOON, "{date}");
    let (packed_head, packed) = get("Accept-Encoding: br, gzip;q=0.5\r\n");
    assert_eq!(header(&packed_head, "Content-Encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("gzip");
    assert!(unpacked == plain && packed.len() * 2 < plain.len(), "{} of {}", packed.len(), plain.len());
    assert_eq!(header(&get("Accept-Encoding: gzip;q=0\r\n").0, "Content-Encoding"), None);
    let tags = [header(&plain_head, "ETag").expect("a tag"), header(&packed_head, "ETag").expect("a tag")];
    assert_ne!(tags[0], tags[1]);
    let (head, body) = get(&format!("If-None-Match: \"other\", W/{}\r\n", tags[0]));
    assert_eq!((status(&head), body.len()), ("304", 0));
    assert_eq!(status(&get("If-None-Match: \"other\"\r\n").0), "200");
}

/// Reads so many answers of one connection.
fn answers(stream: &mut TcpStream, count: usize) {
    for n in 0..count {
        let head = read_head(stream);
        assert_eq!(status(&head), "200", "answer {n}");
        let length = header(&head, "Content-Length").expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        assert!(body.starts_with(b"// An IRC client"), "answer {n}");
    }
}

#[test]
pub(crate) fn answers_that_nobody_takes_hold_back_those_to_come() {
    let chat = Chat::start(&[]);
    let mut streams: Vec<TcpStream> = (0..5).map(|_| connect(chat.web)).collect();
    for stream in &mut streams {
        stream.write_all("GET /chat.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500).as_bytes()).expect("write");
    }
    util::eventually("requests to be waiting", || chat.metric("chat_congested_clients") == 5.0);
    let queued = chat.metric("chat_queued_bytes");
    assert!(queued < 5.0 * 262_144.0, "{queued} bytes are queued");
    // All of them are answered all the same, once they are taken.
    answers(&mut streams[0], 500);
}
