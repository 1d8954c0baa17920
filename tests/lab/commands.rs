//! The first line, and the commands that are about what the client sends.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::Lab;
use crate::util::{pattern, read_all};

#[test]
fn echo_sends_back_all_that_it_receives() {
    let lab = Lab::start(&[]);
    let sent = pattern(3_000_000);
    let mut client = lab.client("ECHO\nin the same segment");
    let mut writer = client.try_clone().unwrap();
    let data = sent.clone();
    // It does not read from whom it cannot write to: reading and writing have to go side by side.
    let writing = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let echoed = client.read_to_eof();
    writing.join().unwrap();
    assert_eq!(echoed, [b"in the same segment".as_slice(), &sent].concat());
    lab.told(&client, "eof");
    let closed = lab.closed(&client);
    assert_eq!(closed.account(), ("peer_closed", 3_000_024, 3_000_019, 0));
    assert_eq!((closed.errno, closed.saw_fin, closed.unacked), (None, true, Some(0)));
}

#[test]
fn sink_discards_what_it_receives() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("SINK\n");
    client.write_all(&[b'x'; 1_000_000]).unwrap();
    client.end();
    assert_eq!(client.read_to_eof(), b"");
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 1_000_005, 0, 0));
}

#[test]
fn what_is_no_command_is_told_so_and_closed() {
    let lab = Lab::start(&[]);
    let too_long = format!("SEND {:0>96}\n", 5);
    let endless = "x".repeat(1000);
    let lines: &[&[u8]] = &[
        b"\n",
        b"\r\n",
        b"HELLO\n",
        b"echo\n",
        b"ECHO \n",
        b" ECHO\n",
        b"ECHO\r\r\n",
        b"ECHO 5\n",
        b"STATS 1\n",
        b"SEND\n",
        b"SEND \n",
        b"SEND x\n",
        b"SEND -1\n",
        b"SEND +1\n",
        b"SEND 1.5\n",
        b"SEND 0x10\n",
        b"SEND  5\n",
        b"SEND 5 \n",
        b"SEND 5 5\n",
        b"SEND\t5\n",
        b"SENDCLOSE\n",
        b"SENDABORT -5\n",
        b"HALF\n",
        b"FLOOD ten\n",
        b"PAUSE\n",
        b"PAUSE -1\n",
        b"TWICE\n",
        b"TWICE 1s\n",
        b"\xff\xfe\n",
        b"SEND \xd9\xa5\n",
        b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n",
        too_long.as_bytes(),
        endless.as_bytes(),
    ];
    for line in lines {
        let text = String::from_utf8_lossy(line).into_owned();
        let mut client = lab.client(line);
        assert_eq!(client.read_to_eof(), b"unknown command\n", "{text:?}");
        let gone = client.gone();
        let expected = ("finished", line.len() as u64, 16, 0);
        assert_eq!(lab.closed(&gone).account(), expected, "{text:?}");
    }
}

#[test]
fn a_first_line_may_have_a_hundred_bytes_and_end_in_a_carriage_return() {
    let lab = Lab::start(&[]);
    for line in [format!("SEND {:0>95}\n", 5), format!("SEND {:0>94}\r\n", 5), "SEND 5\r\n".to_owned()] {
        let mut client = lab.client(&line);
        assert_eq!(client.read_exactly(5), pattern(5), "{line:?}");
        client.end();
        assert_eq!(client.read_to_eof(), b"", "{line:?}");
    }
}

// E2
#[test]
fn a_first_line_may_come_byte_by_byte() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("");
    client.set_nodelay(true).unwrap();
    for byte in b"SEND 1000\r\nabc" {
        client.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.read_exactly(1000), pattern(1000));
    client.end();
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 14, 1000, 0));
}

#[test]
fn a_first_line_that_does_not_end_gets_no_answer() {
    let lab = Lab::start(&[]);
    for text in ["", "ECHO", "SEND 5", "nonsense\r"] {
        let mut client = lab.client(text);
        client.end();
        assert_eq!(client.read_to_eof(), b"", "{text:?}");
        assert_eq!(lab.closed(&client).account(), ("peer_closed", text.len() as u64, 0, 0), "{text:?}");
        lab.told(&client, "eof");
    }
}

#[test]
fn a_line_of_the_room_goes_to_all_members_in_order() {
    let lab = Lab::start(&[]);
    let mut members = Vec::new();
    for _ in 0..3 {
        // Its own line comes back to it, and goes to those who were there before.
        members.push(lab.client("ROOM\nhello\n"));
        for member in &mut members {
            assert_eq!(member.read_exactly(6), b"hello\n");
        }
    }
    // The longest that is allowed, and an empty one; the rest of the first comes later.
    let longest = [&[b'y'; 65_535][..], b"\n"].concat();
    members[0].write_all(&longest[..40_000]).unwrap();
    members[1].write_all(b"\nof one ").unwrap();
    for member in &mut members {
        assert_eq!(member.read_exactly(1), b"\n");
    }
    members[0].write_all(&longest[40_000..]).unwrap();
    for member in &mut members {
        assert!(member.read_exactly(65_536) == longest);
    }
    members[1].write_all(b"piece\r\nunfinished").unwrap();
    for member in &mut members {
        assert_eq!(member.read_exactly(14), b"of one piece\r\n");
    }
    members[1].end();
    assert_eq!(members[1].read_to_eof(), b"");
    assert_eq!(lab.closed(&members[1]).reason, "peer_closed");
    // Who has left gets nothing any more, and what it did not finish is dropped.
    members[2].write_all(b"last\n").unwrap();
    assert_eq!(members[0].read_exactly(5), b"last\n");
    assert_eq!(members[2].read_exactly(5), b"last\n");
}

// E4
#[test]
fn a_line_of_the_room_that_is_too_long_ends_its_sender_only() {
    let lab = Lab::start(&["--max-read-buffer", "1m"]);
    let mut other = lab.client("ROOM\nhere\n");
    assert_eq!(other.read_exactly(5), b"here\n");
    // Ended or not: a line is too long from its 65,537th byte on.
    for end in ["", "\n"] {
        let mut sender = lab.client("ROOM\nbefore\n");
        assert_eq!(sender.read_exactly(7), b"before\n");
        assert_eq!(other.read_exactly(7), b"before\n");
        sender.write_all(&[b'z'; 65_536]).unwrap();
        sender.write_all(end.as_bytes()).unwrap();
        if end.is_empty() {
            // So far the line might still have ended in time, had it been one byte shorter.
            sender.write_all(b"z").unwrap();
        }
        let (data, _) = read_all(&mut *sender);
        assert_eq!(data, b"");
        let closed = lab.closed(&sender);
        assert_eq!((closed.reason.as_str(), closed.errno), ("input_overflow", None));
    }
    other.write_all(b"still here\n").unwrap();
    assert_eq!(other.read_exactly(11), b"still here\n");
}

#[test]
fn a_member_that_cannot_keep_up_meets_the_overflow_policy() {
    for policy in ["close", "refuse"] {
        let lab = Lab::start(&["--overflow", policy, "--max-write-buffer", "100k", "--sndbuf", "4096"]);
        let slow = lab.narrow("ROOM\n");
        lab.conn(&slow);
        let mut quick = lab.client("ROOM\n");
        let line = [&[b'q'; 9_999][..], b"\n"].concat();
        for _ in 0..100 {
            quick.write_all(&line).unwrap();
            assert!(quick.read_exactly(10_000) == line);
        }
        if policy == "close" {
            let closed = lab.closed(&slow);
            assert_eq!(closed.reason, "slow_consumer");
            assert!(closed.unsent > 0 && closed.unsent <= 100 << 10, "{closed:?}");
        } else {
            let mut slow = slow;
            slow.end();
            let got = slow.read_to_eof();
            assert!(got.len() % 10_000 == 0 && got.len() < 1_000_000, "{} bytes", got.len());
            assert_eq!(lab.closed(&slow).reason, "peer_closed");
        }
        quick.end();
        assert_eq!(quick.read_to_eof(), b"");
    }
}

// B5
#[test]
fn pause_reads_nothing_before_its_time_is_up() {
    let lab = Lab::start(&[]);
    let began = Instant::now();
    let mut client = lab.client("PAUSE 300\nin the same segment");
    client.write_all(&[b'x'; 100_000]).unwrap();
    client.end();
    assert_eq!(client.read_to_eof(), b"");
    let eof = lab.told(&client, "eof");
    assert!(eof.at - began >= Duration::from_millis(300), "{:?}", eof.at - began);
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 100_029, 0, 0));
    // It may be as short or as long as one likes.
    let brief = lab.client("PAUSE 0\nabc");
    brief.end();
    assert_eq!(lab.closed(&brief).account(), ("peer_closed", 11, 0, 0));
    drop(lab.client("PAUSE 99999999999999999999\n"));
}

// B6
#[test]
fn input_before_a_reset_is_delivered_when_reading_resumes() {
    let lab = Lab::start(&[]);
    let began = Instant::now();
    let mut client = lab.client("PAUSE 300\n");
    client.write_all(&[b'x'; 100_000]).unwrap();
    let closed = lab.closed(&client.reset());
    assert_eq!(closed.account(), ("reset", 100_010, 0, 0));
    assert_eq!((closed.errno, closed.saw_fin), (Some(104), false));
    assert!(closed.at - began >= Duration::from_millis(300));
}

// E10
#[test]
fn a_panic_costs_one_connection() {
    let mut lab = Lab::start(&[]);
    lab.may_panic();
    let mut other = lab.client("ECHO\nbefore");
    assert_eq!(other.read_exactly(6), b"before");
    for text in ["PANIC\nx", "PANIC\r\n"] {
        let mut client = lab.client(text);
        if text.ends_with('\n') {
            let conn = lab.conn(&client);
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(read_all(&mut *client)
                .1
                .is_some_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
            assert_eq!(lab.lines_of(&conn).len(), 1, "nothing yet");
            client.set_read_timeout(Some(crate::util::SOON)).unwrap();
            client.write_all(b"x").unwrap();
        }
        assert_eq!(client.read_to_reset(), b"");
        let closed = lab.closed(&client);
        assert_eq!(closed.account(), ("handler_panic", text.trim_end_matches('x').len() as u64 + 1, 0, 0));
        assert_eq!(closed.errno, None);
        other.write_all(b"after").unwrap();
        assert_eq!(other.read_exactly(5), b"after");
    }
    let mut late = lab.client("SEND 10\n");
    assert_eq!(late.read_exactly(10), pattern(10));
}

#[test]
fn stats_are_one_line_of_the_engines_counters() {
    let lab = Lab::start(&[]);
    let mut first = lab.client("SEND 1000\n");
    first.read_exactly(1000);
    first.end();
    lab.closed(&first);
    let mut client = lab.client("STATS\n");
    let answer = String::from_utf8(client.read_to_eof()).unwrap();
    assert!(answer.ends_with('\n') && answer.lines().count() == 1, "{answer}");
    let stats: Value = serde_json::from_str(&answer).unwrap();
    for (name, value) in
        [("accepted", 2), ("closed", 1), ("bytes_in", 16), ("bytes_out", 1000), ("queued", 0)]
    {
        assert_eq!(stats[name].as_u64(), Some(value), "{name}: {answer}");
    }
    assert!(stats["partial_writes"].is_u64(), "{answer}");
    let closed = lab.closed(&client.gone());
    assert_eq!(closed.account(), ("finished", 6, answer.len() as u64, 0));
}
