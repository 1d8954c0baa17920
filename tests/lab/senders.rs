//! The commands that are about what the lab sends: every byte of the pattern arrives or is counted.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{Client, Lab};
use crate::util::{pattern, SOON};

/// Above the default cap of 16 MiB: by a byte, by more than 64 bits, by more than any type holds.
const ABOVE_THE_CAP: [&str; 3] =
    ["16777217", "18446744073709551616", "99999999999999999999999999999999999999999999999999"];

#[test]
fn send_sends_the_pattern_and_goes_on_as_a_sink() {
    let lab = Lab::start(&[]);
    for len in [0, 1, 250, 251, 252, 100_000, 3_000_000] {
        let command = format!("SEND {len}\n");
        let mut client = lab.client(&command);
        assert!(client.read_exactly(len) == pattern(len), "{len}");
        client.write_all(&[b'x'; 5000]).unwrap();
        client.end();
        assert_eq!(client.read_to_eof(), b"");
        let received = command.len() as u64 + 5000;
        assert_eq!(lab.closed(&client).account(), ("peer_closed", received, len as u64, 0));
    }
}

// L1, L2
#[test]
fn sendclose_loses_nothing_although_input_is_left_unread() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("SENDCLOSE 4000000\n");
    client.write_all(&[b'u'; 50_000]).unwrap();
    let mut data = client.read_exactly(1_000_000);
    client.write_all(b"late").unwrap();
    data.extend(client.read_to_eof());
    assert!(data == pattern(4_000_000));
    let closed = lab.closed(&client.gone());
    assert_eq!(closed.account(), ("finished", 50_022, 4_000_000, 0));
    assert_eq!((closed.errno, closed.saw_fin, closed.unacked), (None, true, Some(0)));
}

// L9
#[test]
fn sendabort_is_a_reset() {
    let lab = Lab::start(&[]);
    for len in [0, 5000, 1_000_000] {
        let mut client = lab.client(format!("SENDABORT {len}\n"));
        client.read_to_reset();
        let closed = lab.closed(&client);
        assert_eq!((closed.reason.as_str(), closed.errno), ("aborted", None));
        assert_eq!(closed.handed + closed.unsent, len);
    }
}

// H4
#[test]
fn half_ends_its_stream_and_goes_on_receiving() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("HALF 1000000\n");
    assert!(client.read_to_eof() == pattern(1_000_000));
    client.write_all(&[b'x'; 1_000_000]).unwrap();
    client.end();
    lab.told(&client, "eof");
    assert_eq!(lab.closed(&client).account(), ("finished", 1_000_013, 1_000_000, 0));
}

#[test]
fn stream_goes_on_until_the_end_of_the_peers_stream() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("STREAM\nwhatever");
    let mut data = client.read_exactly(5_000_000);
    client.end();
    data.extend(client.read_to_eof());
    assert!(data == pattern(data.len()));
    lab.told(&client, "eof");
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 15, data.len() as u64, 0));
}

#[test]
fn stream_makes_no_more_than_its_peer_takes() {
    let lab = Lab::start(&["--high-water", "100000", "--low-water", "10000", "--sndbuf", "4096"]);
    let mut client = lab.narrow("STREAM\n");
    let congested = lab.told(&client, "congested");
    assert_eq!(congested.queued(), 100_000);
    // Nobody reads, so nothing more comes: neither a drain nor another crossing.
    std::thread::sleep(Duration::from_millis(100));
    let conn = lab.conn(&client);
    assert_eq!(lab.lines_of(&conn).len(), 2);
    let data = client.read_exactly(500_000);
    assert!(data == pattern(500_000));
    let told = lab.lines_of(&conn);
    assert!(told.iter().filter(|line| line.event() == "drain").count() >= 4, "{told:#?}");
    for line in told {
        match line.event() {
            "congested" => assert_eq!(line.queued(), 100_000),
            "drain" => assert!(line.queued() <= 10_000, "{}", line.text),
            _ => {}
        }
    }
}

// B8
#[test]
fn streams_starve_nobody() {
    const ENOUGH: usize = 5_000_000;
    let lab = Lab::start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let (counts, readers): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let mut client = lab.client("STREAM\n");
            let (count, stop) = (Arc::new(AtomicUsize::new(0)), stop.clone());
            let read = count.clone();
            let reader = std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while !stop.load(Ordering::Relaxed) {
                    read.fetch_add(client.read(&mut buffer).unwrap(), Ordering::Relaxed);
                }
            });
            (count, reader)
        })
        .unzip();
    let mut echo = lab.client("ECHO\n");
    echo.set_nodelay(true).unwrap();
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    // As long as it takes for each of the streams to have had its share, too.
    while counts.iter().any(|count| count.load(Ordering::Relaxed) < ENOUGH) {
        let sent = Instant::now();
        echo.write_all(b"ping").unwrap();
        assert_eq!(echo.read_exactly(4), b"ping");
        longest = longest.max(sent.elapsed());
        assert!(began.elapsed() < SOON, "a stream is starved: {counts:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn stream_never_meets_a_cap() {
    // Its own: neither a multiple of what is sent at a time nor of the period.
    let lab = Lab::start(&["--max-write-buffer", "5000"]);
    let mut client = lab.client("STREAM\n");
    assert!(client.read_exactly(300_000) == pattern(300_000));
    client.end();
    client.read_to_eof();
    assert_eq!(lab.closed(&client).reason, "peer_closed");

    // That of all connections together, most of which somebody else holds.
    let args =
        ["--overflow", "refuse", "--total-write-buffer", "120k", "--high-water", "100k", "--sndbuf", "4096"];
    let lab = Lab::start(&args);
    let idle = lab.narrow("STREAM\n");
    lab.told(&idle, "congested");
    let mut client = lab.client("STREAM\n");
    assert!(client.read_exactly(300_000) == pattern(300_000));
}

#[test]
fn flood_ignores_congestion_and_is_told_of_it_once() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("FLOOD 3000500\nabc");
    assert!(client.read_exactly(3_000_500) == pattern(3_000_500));
    client.end();
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 17, 3_000_500, 0));
    let conn = lab.conn(&client);
    let told = lab.lines_of(&conn);
    let events: Vec<_> = told.iter().map(|line| line.event()).collect();
    assert_eq!(events, ["open", "congested", "drain", "eof", "close"]);
    // High water is at 65,536, and pieces have 1000 bytes.
    assert_eq!(told[1].queued(), 66_000);
    assert!(told[2].queued() <= 16 << 10);
}

#[test]
fn flood_stops_at_the_cap() {
    for (n, args, most) in [
        ("20000000", &[][..], 16_777_000),
        ("18446744073709551616", &["--max-write-buffer", "1m"], 1_048_000),
    ] {
        let lab = Lab::start(args);
        let mut client = lab.client(format!("FLOOD {n}\n"));
        client.read_to_reset();
        let closed = lab.closed(&client);
        assert_eq!((closed.reason.as_str(), closed.errno), ("slow_consumer", None));
        assert_eq!((closed.handed, closed.unsent), (0, most));
    }
    let lab = Lab::start(&["--overflow=refuse", "--max-write-buffer=1m"]);
    let mut client = lab.client("FLOOD 20000000\n");
    assert!(client.read_exactly(1_048_000) == pattern(1_048_000));
    client.write_all(b"taken").unwrap();
    client.end();
    assert_eq!(client.read_to_eof(), b"");
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 20, 1_048_000, 0));
}

#[test]
fn twice_answers_twice_after_the_end_of_the_peers_stream() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("TWICE 300\nignored");
    let began = Instant::now();
    client.end();
    let first = client.read_exactly(1000);
    // Nothing more before its time, and no end either.
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(SOON)).unwrap();
    let second = client.read_to_eof();
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert!([first, second].concat() == pattern(2000));
    lab.told(&client, "eof");
    assert_eq!(lab.closed(&client).account(), ("peer_closed", 17, 2000, 0));
}

// R4
#[test]
fn twice_to_a_peer_that_closed_is_a_broken_pipe() {
    let lab = Lab::start(&[]);
    let closed = lab.closed(&lab.client("TWICE 200\n").gone());
    assert_eq!((closed.reason.as_str(), closed.errno, closed.saw_fin), ("broken_pipe", Some(32), true));
    assert_eq!((closed.received, closed.handed), (10, 1000));
    assert!(closed.unsent + closed.unacked.unwrap() >= 1000, "{closed:?}");
}

// R5
#[test]
fn a_reset_behind_an_end_of_stream_is_told_as_such() {
    let lab = Lab::start(&[]);
    let mut client = lab.client("TWICE 60000\n");
    client.end();
    assert_eq!(client.read_exactly(1000), pattern(1000));
    // A delayed acknowledgement takes 200 ms at most: nothing is in flight after that.
    std::thread::sleep(Duration::from_millis(250));
    let closed = lab.closed(&client.reset());
    assert_eq!(closed.account(), ("reset_after_fin", 12, 1000, 0));
    assert_eq!((closed.errno, closed.saw_fin), (Some(32), true));
}

/// The commands that send N bytes, what follows the refusal of all of them, and how the client
/// finds that out.
type Refused = (&'static str, &'static str, fn(&mut Client));

#[test]
fn a_number_above_the_cap_meets_the_policy_before_the_bytes_are_made() {
    let closing = Lab::start(&[]);
    let refusing = Lab::start(&["--overflow", "refuse"]);
    let commands: [Refused; 4] = [
        ("SEND", "peer_closed", |client| client.end()),
        ("SENDCLOSE", "finished", |client| assert_eq!(client.read_to_eof(), b"")),
        ("SENDABORT", "aborted", |client| assert_eq!(client.read_to_reset(), b"")),
        ("HALF", "finished", |client| {
            assert_eq!(client.read_to_eof(), b"");
            client.write_all(b"").unwrap();
            client.end();
        }),
    ];
    for n in ABOVE_THE_CAP {
        for (command, reason, end) in &commands {
            let line = format!("{command} {n}\n");
            let mut client = closing.client(&line);
            assert_eq!(client.read_to_reset(), b"", "{line}");
            let closed = closing.closed(&client);
            assert_eq!(closed.account(), ("slow_consumer", line.len() as u64, 0, 0), "{line}");

            let mut client = refusing.client(&line);
            end(&mut client);
            let closed = refusing.closed(&client.gone());
            assert_eq!(closed.account(), (*reason, line.len() as u64, 0, 0), "{line}");
        }
    }
    // As many as the cap allows are no reason to refuse.
    let mut client = closing.client("SEND 16777216\n");
    assert!(client.read_exactly(16 << 20) == pattern(16 << 20));
}
