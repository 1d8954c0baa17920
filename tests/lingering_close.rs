//! A close loses nothing that the peer would still take, costs bounded time and memory, and a
//! stream that is cut never looks whole.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use unbroken::{Bytes, CloseReason, Config, ConnId, Net, State, Timeout, Via};
use util::{pattern, read_all, reset, serve, Custom, Event, Server};

const REPLY: usize = 4_000_000;

/// Answers the first bytes with so much of the pattern and closes at once.
fn reply_and_close(len: usize) -> Custom {
    let data = move |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send_bytes(conn, pattern(len).into());
        net.close(conn);
        data.len()
    };
    Custom { data: Some(Box::new(data)), ..Custom::default() }
}

/// With these caps on the wait for the peer's end, and as short a stall as the first of them.
fn linger(idle_ms: u64, total_ms: u64) -> Config {
    let mut config = Config::default();
    config.write_stall = Some(Duration::from_millis(idle_ms));
    config.linger_idle = Duration::from_millis(idle_ms);
    config.linger_total = Duration::from_millis(total_ms);
    config
}

fn assert_reset(stream: &mut TcpStream) -> usize {
    let (got, error) = read_all(stream);
    let kind = error.map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::ConnectionReset), "after {} bytes", got.len());
    assert!(got == pattern(got.len()));
    got.len()
}

// L1: a plain close here loses about 2.7 MB.
#[test]
fn unread_input_does_not_reset_the_reply() {
    let server = serve(Config::default(), reply_and_close(REPLY));
    let mut client = server.client();
    client.write_all(&[1; 50_000]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(REPLY));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Finished);
    assert_eq!((report.received, report.handed), (50_000, REPLY as u64));
    assert_eq!((report.unsent, report.unacked), (0, Some(0)));
}

// L2
#[test]
fn input_that_comes_after_the_close_does_not_reset_the_reply() {
    let server = serve(Config::default(), reply_and_close(REPLY));
    let mut client = server.client();
    client.write_all(b"go").unwrap();
    server.wait_for(util::SOON, |event| matches!(event, Event::Data(..)));
    client.write_all(b"more").unwrap();
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(REPLY));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 6));
}

// L3
#[test]
fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    let server = serve(Config::default(), reply_and_close(100_000));
    let client = server.client();
    let mut upload = client.try_clone().unwrap();
    let uploader = std::thread::spawn(move || {
        let piece = vec![7; 1 << 20];
        let sent = (0..20).take_while(|_| upload.write_all(&piece).is_ok()).count();
        let _ = upload.shutdown(Shutdown::Write);
        sent
    });
    let mut client = client;
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(100_000));
    assert_eq!(uploader.join().unwrap(), 20);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 20 << 20));
}

// L4
#[test]
fn a_trickle_of_input_does_not_prolong_a_close_beyond_its_total() {
    let server = serve(linger(400, 1000), reply_and_close(10));
    let mut client = server.client();
    client.write_all(b"go").unwrap();
    let begin = Instant::now();
    while client.write_all(b"x").is_ok() {
        assert!(begin.elapsed() < util::SOON);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    let lived = report.duration.as_millis();
    assert!((1000..3000).contains(&lived), "{lived}");
}

// L5
#[test]
fn a_silent_peer_holds_a_close_no_longer_than_the_idle_cap() {
    let server = serve(linger(400, 5000), reply_and_close(10));
    let mut client = server.client();
    client.write_all(b"go").unwrap();
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    let lived = report.duration.as_millis();
    assert!((400..2400).contains(&lived), "{lived}");
    // It had got everything, and sees no reset.
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(10));
}

// L6
#[test]
fn a_close_discards_only_so_much_input() {
    let mut config = Config::default();
    config.linger_bytes = 1 << 20;
    let server = serve(config, reply_and_close(10));
    let mut client = server.client();
    let piece = vec![0; 64 << 10];
    let begin = Instant::now();
    while client.write_all(&piece).is_ok() {
        assert!(begin.elapsed() < util::SOON);
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    assert!((1 << 20..2 << 20).contains(&report.received), "{report}");
}

// L7
#[test]
fn a_reset_ends_a_lingering_close_at_once() {
    let server = serve(Config::default(), reply_and_close(10));
    let mut client = server.client();
    client.write_all(b"go").unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    let conn = server.opened();
    util::eventually("lingering", || server.ask(move |net| net.state(conn)) == Some(State::Lingering));
    reset(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert!(!report.lost_bytes() && report.duration < Duration::from_secs(4));
}

// L8: what SO_LINGER would do is block the loop.
#[test]
fn a_vanished_peer_does_not_hold_up_the_loop_while_closing() {
    let (late, lateness) = mpsc::channel();
    let mut expected = None::<Instant>;
    let timer = move |net: &mut Net, _| {
        if let Some(expected) = expected {
            let _ = late.send(Instant::now().saturating_duration_since(expected));
        }
        expected = Some(Instant::now() + Duration::from_millis(5));
        net.set_timer(Duration::from_millis(5));
    };
    let mut handler = reply_and_close(REPLY);
    handler.timer = Some(Box::new(timer));
    let server = util::serve_with(linger(600, 900), handler, |net| {
        net.set_timer(Duration::ZERO);
    });
    let mut client = server.client();
    client.write_all(b"go").unwrap();
    if !util::blackhole(&client) {
        return;
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(report.duration < Duration::from_millis(1500), "{report}");
    assert!(report.lost_bytes());
    let mut lateness: Vec<_> = lateness.try_iter().collect();
    lateness.sort();
    let (count, typical) = (lateness.len(), lateness[lateness.len() * 9 / 10]);
    assert!(count > 50 && typical < Duration::from_millis(20), "{count} timers, {typical:?} late");
}

// L9
#[test]
fn an_abort_is_a_reset_with_an_exact_account() {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, pattern(1_000_000).into());
        net.abort(conn);
    };
    let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = server.client();
    let got = assert_reset(&mut client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Aborted, None));
    assert_eq!(report.handed + report.unsent, 1_000_000);
    assert!(got as u64 <= report.handed);
}

// L10
#[test]
fn connections_that_owe_their_end_are_bounded_and_the_oldest_goes_first() {
    util::allow_descriptors(4096);
    let mut config = Config::default();
    config.max_lingering = 1000;
    let data = |net: &mut Net, conn, data: &[u8]| {
        match data {
            b"close" => net.close(conn),
            _ => drop(net.send(conn, data)),
        }
        data.len()
    };
    let server = serve(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut clients: Vec<_> = (0..1050).map(|_| server.client()).collect();
    let conns: Vec<ConnId> = clients.iter().map(|_| server.opened()).collect();
    for client in &mut clients {
        client.write_all(b"close").unwrap();
        // One after the other: which is the oldest must not be left to chance.
        server.wait_for(util::SOON, |event| matches!(event, Event::Data(..) | Event::Close(..)));
    }
    let stats = server.wait_stats(|stats| stats.closing == 1000 && stats.closed == 50);
    assert_eq!(stats.closed_by(CloseReason::TimedOut(Timeout::Linger)), 50);
    let alive: Vec<ConnId> = server.ask(|net| net.connections().collect());
    assert_eq!(alive, conns[50..]);
    let mut fresh = server.client();
    fresh.write_all(b"served").unwrap();
    fresh.read_exact(&mut [0; 6]).unwrap();
}

fn stream_for_ever() -> Custom {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, Bytes::from(pattern(15_000_000)));
    };
    Custom { open: Some(Box::new(open)), ..Custom::default() }
}

fn cut(server: &Server, client: &mut TcpStream, reason: CloseReason) {
    let (_, report) = server.closed();
    assert_eq!(report.reason, reason);
    assert!(report.unsent > 0 && report.unacked.is_some_and(|unacked| unacked > 0), "{report}");
    assert_eq!(report.handed + report.unsent, 15_000_000);
    let got = assert_reset(client) as u64;
    assert!(got <= report.handed);
}

#[test]
fn a_stream_cut_by_any_of_our_limits_ends_in_a_reset() {
    let mut stalled = Config::default();
    stalled.write_stall = Some(Duration::from_millis(300));
    let server = serve(stalled, stream_for_ever());
    cut(&server, &mut server.client(), CloseReason::TimedOut(Timeout::WriteStall));

    let mut idle = Config::default();
    idle.idle_timeout = Some(Duration::from_millis(300));
    let server = serve(idle, stream_for_ever());
    cut(&server, &mut server.client(), CloseReason::TimedOut(Timeout::Idle));

    let server = serve(linger(300, 600), stream_for_ever());
    let mut client = server.client();
    let conn = server.opened();
    server.ask(move |net| net.close(conn));
    cut(&server, &mut client, CloseReason::TimedOut(Timeout::WriteStall));

    let server = serve(Config::default(), stream_for_ever());
    let mut client = server.client();
    let conn = server.opened();
    server.wait_stats(|stats| stats.write_eagains > 0);
    let refused = server.ask(move |net| net.send(conn, &vec![0; 10 << 20]));
    assert!(refused.is_err());
    cut(&server, &mut client, CloseReason::SlowConsumer);

    let server = serve(Config::default(), stream_for_ever());
    let mut client = server.client();
    server.wait_stats(|stats| stats.write_eagains > 0);
    server.handle.shutdown(Duration::from_millis(200)).unwrap();
    cut(&server, &mut client, CloseReason::Shutdown);
}

#[test]
fn a_refused_send_alone_is_enough_for_a_reset() {
    let mut config = Config::default();
    config.max_write_buffer = 100_000;
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, Bytes::from(vec![0; 100_000]));
        assert!(net.try_reserve(conn, 1).is_err());
    };
    let server = serve(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    assert_eq!(assert_reset(&mut server.client()), 0);
    assert_eq!(server.closed().1.reason, CloseReason::SlowConsumer);
}
