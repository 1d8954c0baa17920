//! Whatever a peer does, the two accounts of a stream agree: a report that says clean means that
//! the peer's kernel has every byte, and a peer that sees a clean end has seen every byte.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use unbroken::{CloseReason, CloseReport, Config, ConnId, Net, Reactor, Timeout, Via};
use util::{pattern, read_all, serve, Custom, Server};

/// More than the kernel takes, so that bytes stay queued.
const LARGE: usize = 12_000_000;

fn send_on_open(len: usize, then: fn(&mut Net, ConnId)) -> Custom {
    let open = move |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, pattern(len).into());
        then(net, conn);
    };
    Custom { open: Some(Box::new(open)), ..Custom::default() }
}

fn nothing(_: &mut Net, _: ConnId) {}

/// The client finds its stream cut: a reset, behind bytes that are the right ones.
fn assert_cut(client: &mut TcpStream, report: &CloseReport, queued: u64) {
    assert!(!report.reason.is_clean() && report.lost_bytes(), "{report}");
    assert_eq!(report.handed + report.unsent, queued, "{report}");
    let (got, error) = read_all(client);
    assert!(got == pattern(got.len()));
    assert!((got.len() as u64) < queued);
    let kind = error.map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::ConnectionReset), "after {} bytes: {report}", got.len());
    // What was acknowledged is with the client, and it can have no more than was handed over.
    let acknowledged = report.handed - report.unacked.expect("Linux can tell");
    assert!((acknowledged..=report.handed).contains(&(got.len() as u64)), "{} of {report}", got.len());
}

/// Reads on to the end: how many bytes of the pattern, and the error if one ended them.
fn what_it_got(stream: &mut TcpStream) -> (usize, Option<ErrorKind>) {
    let (got, error) = read_all(stream);
    assert!(got == pattern(got.len()), "the bytes themselves");
    (got.len(), error.map(|error| error.kind()))
}

/// What one client of the sweep saw of its stream, and the server of the same connection.
struct Seen {
    behaviour: &'static str,
    len: usize,
    /// How many bytes and what ended them, for a client that read on to the end.
    client: Option<(usize, Option<ErrorKind>)>,
    report: CloseReport,
}

type Behaviour = (&'static str, fn(&Server, TcpStream) -> Option<(usize, Option<ErrorKind>)>);

/// The clients of the sweep, each met with streams of every length.
const BEHAVIOURS: [Behaviour; 9] = [
    ("reads to the end", |_, mut client| Some(what_it_got(&mut client))),
    ("ends its stream first, reads to the end", |_, mut client| {
        client.shutdown(Shutdown::Write).unwrap();
        Some(what_it_got(&mut client))
    }),
    ("talks on, reads to the end", |_, mut client| {
        client.write_all(&[1; 20_000]).unwrap();
        Some(what_it_got(&mut client))
    }),
    ("reads late", |_, mut client| {
        std::thread::sleep(Duration::from_millis(100));
        Some(what_it_got(&mut client))
    }),
    ("ends its stream first and reads after the linger is over", |server, mut client| {
        client.shutdown(Shutdown::Write).unwrap();
        server.wait_stats(|stats| stats.closed == 1);
        Some(what_it_got(&mut client))
    }),
    ("reads after the linger is over", |server, mut client| {
        server.wait_stats(|stats| stats.closed == 1);
        Some(what_it_got(&mut client))
    }),
    ("resets at once", |_, client| {
        util::reset(client);
        None
    }),
    ("reads a little and leaves the rest unread", |_, mut client| {
        let _ = client.read(&mut [0; 1]);
        None
    }),
    ("ends its stream and vanishes", |_, client| {
        client.shutdown(Shutdown::Write).unwrap();
        None
    }),
];

fn sweep(config: &Config, end: fn(&mut Net, ConnId)) -> Vec<Seen> {
    let mut all = Vec::new();
    for (behaviour, behave) in BEHAVIOURS {
        for len in [0, 1, 300_000, 6_000_000] {
            let server = serve(config.clone(), send_on_open(len, end));
            let client = behave(&server, server.client());
            let (_, report) = server.closed();
            all.push(Seen { behaviour, len, client, report });
        }
    }
    all
}

fn assert_agree(seen: &Seen) {
    let Seen { behaviour, len, client, report } = seen;
    let context = format!("{behaviour}, {len} bytes, client {client:?}: {report}");
    assert_eq!(report.handed + report.unsent, *len as u64, "{context}");
    if report.reason.is_clean() {
        assert_eq!((report.unsent, report.unacked), (0, Some(0)), "{context}");
        assert_eq!((report.handed, report.errno, report.saw_fin), (*len as u64, None, true), "{context}");
        if let Some((got, error)) = client {
            assert_eq!((got, error), (len, &None), "{context}");
        }
    }
    match client {
        Some((got, None)) => assert_eq!(got, len, "a clean end of a cut stream: {context}"),
        Some((got, Some(_))) => {
            assert!(!report.reason.is_clean(), "{context}");
            let acknowledged = report.handed - report.unacked.expect("Linux can tell");
            assert!(*got as u64 >= acknowledged, "{context}");
        }
        None => {}
    }
}

fn short_linger() -> Config {
    let mut config = Config::default();
    config.linger_idle = Duration::from_millis(300);
    config.linger_total = Duration::from_millis(600);
    config.write_stall = Some(Duration::from_millis(600));
    config
}

#[test]
fn after_a_close_both_sides_agree_on_what_arrived() {
    let all = sweep(&short_linger(), |net, conn| net.close(conn));
    all.iter().for_each(assert_agree);
    // The sweep reaches what it is for.
    let reasons = |reason| all.iter().filter(|seen| seen.report.reason == reason).count();
    assert!(reasons(CloseReason::Finished) >= 8, "{}", reasons(CloseReason::Finished));
    assert!(reasons(CloseReason::TimedOut(Timeout::Linger)) >= 2);
    assert!(reasons(CloseReason::Reset) >= 2);
}

#[test]
fn after_a_half_close_both_sides_agree_on_what_arrived() {
    let mut config = short_linger();
    config.half_close_timeout = Some(Duration::from_millis(600));
    sweep(&config, |net, conn| net.close_write(conn)).iter().for_each(assert_agree);
}

#[test]
fn a_half_closed_stream_that_is_cut_ends_in_a_reset() {
    // Our end of stream stands in the kernel's queue already, behind bytes that will be lost.
    let mut config = Config::default();
    config.half_close_timeout = Some(Duration::from_millis(400));
    const LEN: usize = 1_000_000;
    let server = serve(config, send_on_open(LEN, |net, conn| net.close_write(conn)));
    let mut client = util::narrow_client(server.addr);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Idle));
    assert_eq!(report.unsent, 0, "all was handed over: {report}");
    assert_cut(&mut client, &report, LEN as u64);
}

#[test]
fn an_input_overflow_that_loses_bytes_is_a_reset() {
    let mut config = Config::default();
    // A congested connection may wait with its input: this one is not congested.
    config.high_water = LARGE + 1;
    config.max_write_buffer = 3 * LARGE;
    config.max_read_buffer = 1000;
    let mut handler = send_on_open(LARGE, nothing);
    handler.data = Some(Box::new(|_, _, _| 0));
    let server = serve(config, handler);
    let mut client = util::narrow_client(server.addr);
    server.wait_stats(|stats| stats.write_eagains > 0);
    client.write_all(&[0; 1001]).unwrap();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::InputOverflow, 1001));
    assert_cut(&mut client, &report, LARGE as u64);
}

#[test]
fn a_panic_of_the_handler_is_a_reset_with_an_exact_account() {
    let mut config = Config::default();
    config.catch_panics = true;
    let mut handler = send_on_open(LARGE, nothing);
    handler.eof = Some(Box::new(|_, _| panic!("as this test wants it")));
    config.read_while_congested = true;
    let server = serve(config, handler);
    let mut client = util::narrow_client(server.addr);
    server.wait_stats(|stats| stats.write_eagains > 0);
    client.shutdown(Shutdown::Write).unwrap();
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::HandlerPanic);
    assert_cut(&mut client, &report, LARGE as u64);
}

#[test]
fn no_reason_of_the_programs_own_makes_a_loss_look_clean() {
    for reason in CloseReason::ALL {
        let server = serve(Config::default(), send_on_open(LARGE, nothing));
        let mut client = server.client();
        let conn = server.opened();
        server.wait_stats(|stats| stats.write_eagains > 0);
        server.ask(move |net| net.abort_as(conn, reason));
        let (_, report) = server.closed();
        assert_cut(&mut client, &report, LARGE as u64);
    }
}

#[test]
fn a_reactor_that_is_dropped_cuts_with_a_reset() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    let mut client = TcpStream::connect(addr).unwrap();
    util::patient(&client);
    let mut handler = send_on_open(LARGE, nothing);
    while reactor.net().stats().write_eagains == 0 {
        reactor.turn(&mut handler, Some(Duration::from_secs(1))).unwrap();
    }
    assert!(reactor.net().stats().queued > 0);
    drop(reactor);
    let (got, error) = read_all(&mut client);
    assert!(got.len() < LARGE);
    let kind = error.map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::ConnectionReset), "after {} of {LARGE} bytes", got.len());
}
