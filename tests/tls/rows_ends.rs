//! Half-closes and lingering closes, over TLS.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustls::ServerConnection;
use unbroken::{CloseReason, Config, ConnId, Net, SendError, State, Timeout, Via};

use crate::peer::{client_config, configured, name, only, serve_tls, serve_tls_with, server_config, Client};
use crate::util::{blackhole, eventually, pattern, reset, serve, Custom, Event, SOON};

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
    configured(|config| {
        config.write_stall = Some(Duration::from_millis(idle_ms));
        config.linger_idle = Duration::from_millis(idle_ms);
        config.linger_total = Duration::from_millis(total_ms);
    })
}

// H1, H2: with an end of the session, in both versions, and without.
#[test]
fn a_client_that_ended_its_request_gets_the_whole_answer() {
    for (version, ends) in [("1.2", true), ("1.3", true), ("1.3", false)] {
        let mut request = 0;
        let data = move |net: &mut Net, conn, data: &[u8]| {
            request += data.len();
            if request == 7 {
                let _ = net.send_bytes(conn, pattern(1 << 20).into());
            }
            data.len()
        };
        let server = serve_tls(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
        let mut client = Client::with(&server, only(version));
        client.shake_hands();
        client.send(b"request");
        match ends {
            true => client.end(),
            false => client.socket.shutdown(Shutdown::Write).expect("shutdown"),
        }
        std::thread::sleep(Duration::from_millis(30));
        let (got, ended) = client.receive_all();
        assert!(ended && got == pattern(1 << 20));
        let (_, report) = server.closed();
        let expected = if ends { CloseReason::PeerClosed } else { CloseReason::Truncated };
        assert_eq!((report.reason, report.saw_fin), (expected, ends));
        assert_eq!((report.handed, report.unsent, report.unacked), (1 << 20, 0, Some(0)));
    }
}

// H4
#[test]
fn after_close_write_input_still_comes_and_no_send_is_tried() {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send(conn, b"that is all");
        net.close_write(conn);
        assert_eq!(net.send(conn, b"no"), Err(SendError::WriteClosed));
        assert_eq!(net.state(conn), Some(State::HalfClosedLocal));
    };
    for version in ["1.2", "1.3"] {
        let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = Client::with(&server, only(version));
        client.shake_hands();
        assert_eq!(client.receive_all(), (b"that is all".to_vec(), true));
        client.send(&pattern(1 << 20));
        client.end();
        drop(client);
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received), (CloseReason::Finished, 1 << 20));
        assert_eq!((report.errno, report.handed), (None, 11));
        assert_eq!(server.stats().writes, 1);
    }
}

// H5
#[test]
fn both_may_end_at_once_and_that_is_no_error() {
    for _ in 0..30 {
        let open = |net: &mut Net, conn, _: Via| net.close_write(conn);
        let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = Client::ready(&server);
        client.end();
        assert_eq!(client.receive_all(), (Vec::new(), true));
        let (_, report) = server.closed();
        assert!(report.reason.is_clean() && report.errno.is_none(), "{report}");
    }
}

// H6
#[test]
fn a_peer_that_ended_and_does_not_read_is_not_waited_for_without_end() {
    let config = configured(|config| {
        config.write_stall = Some(Duration::from_millis(300));
    });
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send_bytes(conn, pattern(15_000_000).into());
        data.len()
    };
    let server = serve_tls(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = Client::ready(&server);
    client.send(b"go");
    client.end();
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(report.lost_bytes());
    assert!(report.duration < Duration::from_secs(4));
}

// H7
#[test]
fn a_peer_that_ends_while_we_connect_and_write_is_a_close_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let peer = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        let mut session = ServerConnection::new(server_config()).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut socket).expect("a handshake");
        }
        session.writer().write_all(b"greeting").expect("memory");
        session.send_close_notify();
        while session.wants_write() {
            session.write_tls(&mut socket).expect("a write");
        }
        socket.shutdown(Shutdown::Write).expect("shutdown");
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut rustls::Stream::new(&mut session, &mut socket), &mut plain)
            .expect("an end in good order");
        plain
    });
    let server = serve(Config::default(), Custom::default());
    server.ask(move |net| {
        let conn = net.connect_tls(addr, name(), client_config()).expect("connect");
        net.send_bytes(conn, pattern(1 << 20).into()).expect("queued");
    });
    assert!(peer.join().expect("no panic") == pattern(1 << 20));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 8), "{report}");
    assert_eq!((report.handed, report.unacked), (1 << 20, Some(0)));
}

// L1, L2: a plain close here loses about 2.7 MB.
#[test]
fn unread_input_and_input_after_the_close_do_not_reset_the_reply() {
    let server = serve_tls(Config::default(), reply_and_close(REPLY));
    let mut client = Client::ready(&server);
    client.send(&[1; 50_000]);
    server.wait_for(SOON, |event| matches!(event, Event::Data(..)));
    client.send(b"more");
    let (got, ended) = client.receive_all();
    assert!(ended && got == pattern(REPLY));
    client.end();
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Finished);
    assert_eq!((report.received, report.handed), (50_004, REPLY as u64));
    assert_eq!((report.unsent, report.unacked), (0, Some(0)));
}

// L3
#[test]
fn an_early_answer_reaches_a_client_that_is_still_uploading() {
    let server = serve_tls(Config::default(), reply_and_close(100_000));
    let mut client = Client::ready(&server);
    let upload = client.seal(&vec![7; 20 << 20]);
    let mut socket = client.socket.try_clone().expect("a clone");
    let uploader = std::thread::spawn(move || {
        socket.write_all(&upload).expect("all of it is read");
        let _ = socket.shutdown(Shutdown::Write);
    });
    let (got, ended) = client.receive_all();
    assert!(ended && got == pattern(100_000));
    uploader.join().expect("no panic");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 20 << 20));
}

// L4
#[test]
fn a_trickle_of_input_does_not_prolong_a_close_beyond_its_total() {
    let server = serve_tls(linger(400, 1000), reply_and_close(10));
    let mut client = Client::ready(&server);
    client.send(b"go");
    let began = Instant::now();
    loop {
        let record = client.seal(b"x");
        if client.socket.write_all(&record).is_err() {
            break;
        }
        assert!(began.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    let lived = report.duration.as_millis();
    assert!((1000..3500).contains(&lived), "{lived}");
}

// L5
#[test]
fn a_silent_peer_holds_a_close_no_longer_than_the_idle_cap() {
    let server = serve_tls(linger(400, 5000), reply_and_close(10));
    let mut client = Client::ready(&server);
    client.send(b"go");
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    let lived = report.duration.as_millis();
    assert!((400..3000).contains(&lived), "{lived}");
    // It had got everything, and sees no reset.
    assert_eq!(client.receive_all(), (pattern(10), true));
}

// L6
#[test]
fn a_close_discards_only_so_much_input() {
    let config = configured(|config| {
        config.linger_bytes = 1 << 20;
    });
    let server = serve_tls(config, reply_and_close(10));
    let mut client = Client::ready(&server);
    let began = Instant::now();
    loop {
        let piece = client.seal(&[0; 64 << 10]);
        if client.socket.write_all(&piece).is_err() {
            break;
        }
        assert!(began.elapsed() < SOON);
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    assert!((1 << 20..2 << 20).contains(&report.received), "{report}");
}

// L7
#[test]
fn a_reset_ends_a_lingering_close_at_once() {
    let server = serve_tls(Config::default(), reply_and_close(10));
    let mut client = Client::ready(&server);
    client.send(b"go");
    let conn = server.opened();
    assert_eq!(client.receive_all(), (pattern(10), true));
    eventually("lingering", || server.ask(move |net| net.state(conn)) == Some(State::Lingering));
    reset(client.socket);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert!(report.unsent == 0 && report.duration < Duration::from_secs(4), "{report}");
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
    let server = serve_tls_with(linger(600, 900), handler, |net| {
        net.set_timer(Duration::ZERO);
    });
    let mut client = Client::ready(&server);
    client.send(b"go");
    if !blackhole(&client.socket) {
        return;
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(report.lost_bytes() && report.duration < Duration::from_secs(3), "{report}");
    let mut lateness: Vec<_> = lateness.try_iter().collect();
    lateness.sort();
    let typical = lateness[lateness.len() * 8 / 10];
    assert!(typical < Duration::from_millis(50), "{} timers, {typical:?} late", lateness.len());
}

// L9
#[test]
fn an_abort_is_a_reset_with_an_exact_account() {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, pattern(1_000_000).into());
        net.abort(conn);
    };
    let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = Client::ready(&server);
    let (got, ended) = client.receive_until_end();
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Aborted, None));
    assert_eq!(report.handed + report.unsent, 1_000_000);
    assert!(got == pattern(got.len()) && got.len() as u64 <= report.handed);
}

// L10
#[test]
fn connections_that_owe_their_end_are_bounded_and_the_oldest_goes_first() {
    let config = configured(|config| {
        config.max_lingering = 40;
    });
    let data = |net: &mut Net, conn, data: &[u8]| {
        match data {
            b"close" => net.close(conn),
            _ => drop(net.send(conn, data)),
        }
        data.len()
    };
    let server = serve_tls(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut clients: Vec<_> = (0..50).map(|_| Client::ready(&server)).collect();
    let conns: Vec<ConnId> = clients.iter().map(|_| server.opened()).collect();
    for client in &mut clients {
        client.send(b"close");
        // One after the other: which is the oldest must not be left to chance.
        server.wait_for(SOON, |event| matches!(event, Event::Data(..)));
    }
    let stats = server.wait_stats(|stats| stats.closing == 40 && stats.closed == 10);
    assert_eq!(stats.closed_by(CloseReason::TimedOut(Timeout::Linger)), 10);
    let alive: Vec<ConnId> = server.ask(|net| net.connections().collect());
    assert_eq!(alive, conns[10..]);
    let mut fresh = Client::ready(&server);
    fresh.send(b"served");
    assert_eq!(fresh.receive(6), b"served");
}

#[test]
fn a_stream_cut_by_any_of_our_limits_never_looks_whole() {
    let stalled = configured(|config| {
        config.write_stall = Some(Duration::from_millis(300));
    });
    let idle = configured(|config| {
        config.idle_timeout = Some(Duration::from_millis(300));
    });
    for (config, reason) in
        [(stalled, CloseReason::TimedOut(Timeout::WriteStall)), (idle, CloseReason::TimedOut(Timeout::Idle))]
    {
        let open = |net: &mut Net, conn, _: Via| {
            let _ = net.send_bytes(conn, pattern(15_000_000).into());
        };
        let server = serve_tls(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = Client::ready(&server);
        let (_, report) = server.closed();
        assert_eq!(report.reason, reason);
        assert!(report.unsent > 0 && report.unacked.is_some_and(|unacked| unacked > 0), "{report}");
        assert_eq!(report.handed + report.unsent, 15_000_000);
        let (got, ended) = client.receive_until_end();
        assert_eq!(ended, Err(ErrorKind::ConnectionReset));
        assert!(got.len() as u64 <= report.handed);
    }
}
