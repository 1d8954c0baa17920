//! Backpressure, over TLS: memory stays bounded, and nobody pays for another.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConnection;
use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, Sent, SoftLimit, Via};

use crate::peer::{client_config, configured, name, serve_tls, server_config, Client};
use crate::util::{narrow_client, patient, pattern, reset, Custom, Echo, Event, Server, Sink};

fn narrow(server: &Server) -> Client {
    let mut client = Client::on(narrow_client(server.addr), client_config());
    client.shake_hands();
    client
}

fn small_buffers() -> Config {
    configured(|config| {
        config.send_buffer = Some(4096);
    })
}

// B1
#[test]
fn a_producer_is_told_once_at_high_water_and_once_at_low_water() {
    const PIECE: usize = 1000;
    let server = serve_tls(small_buffers(), Sink);
    let mut client = narrow(&server);
    let conn = server.opened();
    let mut sent = PIECE;
    while server.ask(move |net| net.send(conn, &[5; PIECE])) == Ok(Sent::Queued) {
        sent += PIECE;
        assert!(sent < 1 << 20, "nobody told the producer");
    }
    let queued = server.ask(move |net| net.queued(conn));
    assert!((64 << 10..(64 << 10) + PIECE).contains(&queued), "{queued}");
    assert_eq!(server.stats().congested, 1);
    client.receive(sent);
    server.wait_stats(|stats| stats.queued == 0 && stats.congested == 0);
    let drains = server.events_so_far();
    assert!(matches!(drains[..], [Event::Drain(..)]), "{drains:?}");
}

// B2
#[test]
fn at_the_cap_a_slow_consumer_goes_and_nobody_else_notices() {
    let config = configured(|config| {
        config.max_write_buffer = 1 << 20;
    });
    let data = |net: &mut Net, conn, data: &[u8]| {
        if data == b"flood" {
            while net.send(conn, &[b'f'; 10_000]).is_ok() {}
        } else {
            let _ = net.send(conn, data);
        }
        data.len()
    };
    let server = serve_tls(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut others: Vec<_> = (0..30).map(|_| Client::ready(&server)).collect();
    let mut flooded = narrow(&server);
    flooded.send(b"flood");
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        for client in &mut others {
            let began = Instant::now();
            client.send(b"ping");
            client.receive(4);
            slowest = slowest.max(began.elapsed());
        }
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::SlowConsumer);
    assert!(report.unsent > 0 && report.handed + report.unsent <= 1 << 20, "{report}");
    let (_, ended) = flooded.receive_until_end();
    assert!(ended.is_err(), "a cut stream never looks whole");
    assert_eq!(server.stats().connections, 30);
}

// B3
#[test]
fn a_soft_limit_may_be_passed_for_a_while_only() {
    let config = configured(|config| {
        config.send_buffer = Some(4096);
        config.soft_limit = Some(SoftLimit { bytes: 100_000, duration: Duration::from_millis(600) });
    });
    let server = serve_tls(config, Sink);
    let mut client = narrow(&server);
    let conn = server.opened();
    // So much that what the kernel takes at once leaves enough.
    let send = || server.ask(move |net| net.send(conn, &[1; 130_000]));
    send().expect("queued");
    std::thread::sleep(Duration::from_millis(300));
    // A dip in time: the clock begins anew.
    client.receive(130_000);
    server.wait_stats(|stats| stats.queued == 0);
    let began = Instant::now();
    send().expect("queued");
    let (_, report) = server.closed();
    let lasted = began.elapsed();
    assert_eq!(report.reason, CloseReason::SlowConsumer);
    assert!(lasted >= Duration::from_millis(590) && lasted < Duration::from_millis(2500), "{lasted:?}");
}

// B4
#[test]
fn a_paused_connection_holds_its_peer_up_and_loses_nothing() {
    const LEN: usize = 30_000_000;
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let right = Arc::new(AtomicUsize::new(0));
    let (seen, mut at) = (right.clone(), 0);
    let data = move |_: &mut Net, _, data: &[u8]| {
        let right = data.iter().enumerate().filter(|(i, byte)| **byte == ((at + i) % 251) as u8).count();
        at += data.len();
        seen.fetch_add(right, Ordering::SeqCst);
        data.len()
    };
    let handler = Custom { open: Some(Box::new(open)), data: Some(Box::new(data)), ..Custom::default() };
    let server = serve_tls(Config::default(), handler);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    let mut all = client.seal(&pattern(LEN));
    client.session.send_close_notify();
    all.extend(client.sealed());
    client.socket.set_nonblocking(true).expect("non-blocking");
    let (mut sent, mut idle) = (0, 0);
    while idle < 20 {
        match client.socket.write(&all[sent..]) {
            Ok(count) => sent += count,
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert!(sent < LEN, "it was not held up");
    assert_eq!(server.stats().bytes_in, 0);
    server.ask(move |net| net.resume_reading(conn));
    client.socket.set_nonblocking(false).expect("blocking");
    client.socket.write_all(&all[sent..]).expect("a write");
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, LEN as u64));
    assert_eq!(right.load(Ordering::SeqCst), LEN);
}

// B5, B6
#[test]
fn a_paused_handler_hears_of_the_end_after_the_data_on_resuming() {
    for (ends, expected) in
        [(0, CloseReason::PeerClosed), (1, CloseReason::Truncated), (2, CloseReason::Reset)]
    {
        let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
        let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = Client::ready(&server);
        let conn = server.opened();
        client.send(&[3; 100_000]);
        match ends {
            0 => {
                client.end();
                drop(client);
            }
            1 => drop(client),
            _ => reset(client.socket),
        }
        assert_eq!(server.event_within(Duration::from_millis(100)), None, "not before it resumes");
        server.ask(move |net| net.resume_reading(conn));
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received), (expected, 100_000), "{report}");
        assert_eq!(report.saw_fin, ends == 0);
    }
}

/// Pairs each client with a connection of its own to `upstream`; TLS on both sides.
struct Pair {
    upstream: SocketAddr,
    partners: HashMap<ConnId, ConnId>,
}

impl Handler for Pair {
    fn on_open(&mut self, net: &mut Net, client: ConnId, via: Via) {
        if via != Via::Connect {
            let upstream = net.connect_tls(self.upstream, name(), client_config()).expect("connect");
            self.partners.insert(client, upstream);
            self.partners.insert(upstream, client);
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if net.send(self.partners[&conn], data) == Ok(Sent::Congested) {
            net.pause_reading(conn);
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        net.resume_reading(self.partners[&conn]);
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        net.close_write(self.partners[&conn]);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if !report.reason.is_clean() {
            net.abort(self.partners[&conn]);
        }
    }
}

// B7
#[test]
fn a_slow_sink_holds_its_source_up_and_its_death_ends_it() {
    let sink = TcpListener::bind("127.0.0.1:0").expect("a port");
    let pair = Pair { upstream: sink.local_addr().expect("an address"), partners: HashMap::new() };
    let server = serve_tls(Config::default(), pair);
    let mut source = Client::ready(&server);
    let (mut slow, _) = sink.accept().expect("the upstream");
    patient(&slow);
    let mut session = ServerConnection::new(server_config()).expect("a session");
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut slow).expect("a handshake");
    }
    let all = source.seal(&vec![1; 20 << 20]);
    source.socket.set_nonblocking(true).expect("non-blocking");
    let (mut sent, mut refused) = (0, 0);
    while refused < 20 {
        match source.socket.write(&all[sent..]) {
            Ok(count) => sent += count,
            Err(_) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    let stats = server.stats();
    assert!(sent > 1 << 20 && sent < all.len(), "the kernels took {sent}");
    assert!(stats.queued_peak <= 192 << 10, "{}", stats.queued_peak);
    // It dies with input unread: a reset.
    drop(slow);
    let (_, first) = server.closed();
    let (_, second) = server.closed();
    assert_eq!((first.reason, second.reason), (CloseReason::Reset, CloseReason::Aborted));
    assert!(first.lost_bytes());
    assert!(second.received <= sent as u64 && first.handed + first.unsent <= second.received);
}

// B8
#[test]
fn one_busy_client_does_not_starve_twenty_others() {
    let server = serve_tls(Config::default(), Echo);
    let mut busy = Client::ready(&server);
    let flood = std::thread::spawn(move || {
        let block = pattern(1 << 20);
        for _ in 0..40 {
            busy.send(&block);
            busy.receive(block.len());
        }
    });
    let mut others: Vec<_> = (0..20).map(|_| Client::ready(&server)).collect();
    let mut times = Vec::new();
    while !flood.is_finished() && times.len() < 20_000 {
        for client in &mut others {
            let began = Instant::now();
            client.send(&[2; 64]);
            client.receive(64);
            times.push(began.elapsed());
        }
    }
    flood.join().expect("no panic");
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(100), "{p99:?} of {}", times.len());
}

// rustls#2556: both ends full in both directions.
#[test]
fn two_ends_that_both_send_before_they_read_do_not_hold_each_other_up() {
    let server = serve_tls(Config::default(), Echo);
    let client = Client::ready(&server);
    let Client { mut session, mut socket } = client;
    socket.set_nonblocking(true).expect("non-blocking");
    let all = pattern(20 << 20);
    let (mut offered, mut got, began) = (0, Vec::new(), Instant::now());
    while got.len() < all.len() {
        assert!(began.elapsed() < Duration::from_secs(20), "{} sent, {} back", offered, got.len());
        // It writes as long as it can before it reads anything.
        let mut stuck = false;
        while !stuck && (session.wants_write() || offered < all.len()) {
            if !session.wants_write() {
                let piece = &all[offered..all.len().min(offered + (64 << 10))];
                session.writer().write_all(piece).expect("memory");
                offered += piece.len();
            }
            stuck = session.write_tls(&mut socket).is_err();
        }
        let Ok(1..) = session.read_tls(&mut socket) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let state = session.process_new_packets().expect("records");
        let mut part = vec![0; state.plaintext_bytes_to_read()];
        std::io::Read::read_exact(&mut session.reader(), &mut part).expect("plaintext");
        got.append(&mut part);
    }
    assert!(got == all);
}
