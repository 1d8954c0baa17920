//! The order of replies is the order of requests, and a Close comes last.

use std::time::{Duration, Instant};

use crate::chat::Chat;
use crate::frames::{frame, text, Socket, CLOSE, PING, PONG, TEXT};

const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

#[test]
pub(crate) fn what_came_before_a_close_is_answered_before_it() {
    let chat = Chat::start(&[]);
    let mut socket = Socket::register(&chat, "anna");
    socket.write(&[text("PING x"), frame(PING, b"y"), text("PING z"), frame(CLOSE, &NORMAL)].concat());
    let rest = socket.rest();
    let kinds: Vec<u8> = rest.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [TEXT, PONG, TEXT, CLOSE], "{rest:?}");
    assert!(rest[0].1.ends_with(" :x") && rest[1].1 == "y" && rest[2].1.ends_with(" :z"), "{rest:?}");
}

#[test]
pub(crate) fn a_throttled_clients_lines_come_before_the_answer_to_its_close() {
    let chat = Chat::start(&["--rate", "40", "--burst", "8"]);
    let mut socket = Socket::register(&chat, "anna");
    let mut lines: Vec<u8> = (0..30).flat_map(|n| text(&format!("PING {n}"))).collect();
    lines.extend(frame(CLOSE, &NORMAL));
    socket.write(&lines);
    let rest = socket.rest();
    let (last, pongs) = rest.split_last().expect("answers");
    assert_eq!(last.0, CLOSE, "{rest:?}");
    for (n, pong) in pongs.iter().enumerate() {
        assert!(pong.1.ends_with(&format!(" :{n}")), "{pong:?} is not the answer to {n}");
    }
    assert_eq!(pongs.len(), 30);
}

#[test]
fn a_message_in_pieces_with_a_ping_between_them_is_one_line() {
    let chat = Chat::start(&[]);
    let mut socket = Socket::register(&chat, "anna");
    let mut first = text("PING on");
    first[0] = TEXT;
    let mut last = text("e");
    last[0] = 0x80;
    socket.write(&[first, frame(PING, b"y"), last].concat());
    assert_eq!(socket.next(), Some((PONG, b"y".to_vec())));
    assert!(socket.line().ends_with(" :one"));
}

#[test]
fn a_broken_frame_ends_with_the_code_that_says_why() {
    let chat = Chat::start(&[]);
    let unmasked = vec![0x81, 1, b'x'];
    let with_a_reserved_bit = vec![0xc1, 0x80, 0, 0, 0, 0];
    let of_a_kind_unknown = frame(3, b"");
    let a_piece_of_nothing = frame(0, b"x");
    let a_long_ping = frame(PING, &[0; 126]);
    let too_much = frame(TEXT, &[b'x'; 13_000]);
    let not_utf8 = frame(TEXT, b"PING \xff");
    let a_code_of_one_byte = frame(CLOSE, &[3]);
    let a_code_nobody_sends = frame(CLOSE, &1005u16.to_be_bytes());
    for (bytes, code) in [
        (unmasked, 1002u16),
        (with_a_reserved_bit, 1002),
        (of_a_kind_unknown, 1002),
        (a_piece_of_nothing, 1002),
        (a_long_ping, 1002),
        (too_much, 1009),
        (not_utf8, 1007),
        (a_code_of_one_byte, 1002),
        (a_code_nobody_sends, 1002),
    ] {
        let mut socket = Socket::open(&chat);
        socket.write(&[text("PING before"), bytes.clone()].concat());
        assert!(socket.line().ends_with(" :before"));
        let (kind, payload) = socket.next().expect("a Close");
        assert_eq!((kind, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]), "{bytes:?}");
        assert_eq!(socket.next(), None);
    }
}

/// Pongs count as everything that is asked for: who does not read them is not read from.
#[test]
pub(crate) fn pings_of_a_client_that_does_not_read_are_not_queued_for_without_end() {
    let chat = Chat::start(&["--rate", "1000000", "--burst", "1000000", "--send-queue", "8192"]);
    let mut socket = Socket::open(&chat);
    socket.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let pings = frame(PING, &[b'x'; 125]).repeat(1000);
    let end = Instant::now() + Duration::from_secs(5);
    // Until the kernel's buffers are full on both ways.
    while Instant::now() < end && std::io::Write::write_all(&mut socket.stream, &pings).is_ok() {}
    assert!(chat.metric("chat_queued_bytes") < 20_000.0, "{}", chat.metric("chat_queued_bytes"));
    // It is ended for what it asks without listening, before any cap of the engine's has to do it.
    assert_eq!(chat.metric(r#"chat_closes_total{reason="slow_consumer"}"#), 0.0);
}
