//! A peer that does not read costs bounded memory, is told about, and holds up nobody else.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use unbroken::{
    Bytes, CloseReason, Config, ConnId, Handler, Net, Overflow, PerConn, Reactor, SendError, Sent, SoftLimit,
    Via,
};
use util::{pattern, read_all, reset, serve, Custom, Echo, Event, Sink};

fn narrow() -> Config {
    let mut config = Config::default();
    config.send_buffer = Some(4096);
    config
}

// B1
#[test]
fn a_producer_is_told_once_at_high_water_and_once_at_low_water() {
    const PIECE: usize = 1000;
    let server = serve(narrow(), Sink);
    let mut client = util::narrow_client(server.addr);
    let conn = server.opened();
    let mut sent = 0;
    while server.ask(move |net| net.send(conn, &[5; PIECE])) == Ok(Sent::Queued) {
        sent += PIECE;
        assert!(sent < 1 << 20, "nobody told the producer");
    }
    sent += PIECE;
    let queued = server.ask(move |net| net.queued(conn));
    assert!((64 << 10..(64 << 10) + PIECE).contains(&queued), "{queued}");
    assert_eq!(server.stats().congested, 1);
    let mut got = vec![0; sent];
    client.read_exact(&mut got).unwrap();
    server.wait_stats(|stats| stats.queued == 0 && stats.congested == 0);
    let drains = server.events_so_far();
    assert!(matches!(drains[..], [Event::Drain(..)]), "{drains:?}");
}

// B2
#[test]
fn at_the_cap_a_slow_consumer_goes_and_nobody_else_notices() {
    let mut config = Config::default();
    config.max_write_buffer = 1 << 20;
    let open = |net: &mut Net, _: unbroken::ConnId, _: Via| {
        net.set_timer(Duration::from_millis(1));
    };
    let data = |net: &mut Net, conn, data: &[u8]| {
        // The first who speaks is flooded, whatever it takes; the others are echoed.
        if data == b"flood" {
            while net.send(conn, &[b'f'; 10_000]).is_ok() {}
        } else {
            let _ = net.send(conn, data);
        }
        data.len()
    };
    let handler = Custom { open: Some(Box::new(open)), data: Some(Box::new(data)), ..Custom::default() };
    let server = serve(config, handler);
    let mut others: Vec<_> = (0..100).map(|_| server.client()).collect();
    let mut flooded = util::narrow_client(server.addr);
    flooded.write_all(b"flood").unwrap();
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        for client in &mut others {
            let begin = Instant::now();
            client.write_all(b"ping").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            slowest = slowest.max(begin.elapsed());
        }
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::SlowConsumer);
    assert!(report.unsent > 0 && report.handed + report.unsent <= 1 << 20, "{report}");
    assert_eq!(read_all(&mut flooded).1.map(|error| error.kind()), Some(ErrorKind::ConnectionReset));
    assert_eq!(server.stats().connections, 100);
}

// B3
#[test]
fn a_soft_limit_may_be_passed_for_a_while_only() {
    let mut config = narrow();
    config.soft_limit = Some(SoftLimit { bytes: 100_000, duration: Duration::from_millis(600) });
    let server = serve(config, Sink);
    let mut client = util::narrow_client(server.addr);
    let conn = server.opened();
    let send = || server.ask(move |net| net.send(conn, &[1; 110_000]));
    send().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // A dip in time: the clock begins anew.
    client.read_exact(&mut vec![0; 110_000]).unwrap();
    server.wait_stats(|stats| stats.queued == 0);
    let begin = Instant::now();
    send().unwrap();
    let (_, report) = server.closed();
    let lasted = begin.elapsed();
    assert_eq!(report.reason, CloseReason::SlowConsumer);
    assert!(lasted >= Duration::from_millis(590), "{lasted:?}");
    assert!(lasted < Duration::from_millis(1500), "{lasted:?}");
}

// B4
#[test]
fn a_paused_connection_holds_its_peer_up_and_loses_nothing() {
    const LEN: usize = 50_000_000;
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let sum = Arc::new(AtomicUsize::new(0));
    let (seen, mut at) = (sum.clone(), 0);
    let data = move |_: &mut Net, _, data: &[u8]| {
        let right = data.iter().enumerate().filter(|(i, byte)| **byte == ((at + i) % 251) as u8).count();
        at += data.len();
        seen.fetch_add(right, Ordering::SeqCst);
        data.len()
    };
    let handler = Custom { open: Some(Box::new(open)), data: Some(Box::new(data)), ..Custom::default() };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    let conn = server.opened();
    client.set_nonblocking(true).unwrap();
    let all = pattern(LEN);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 20 {
        match client.write(&all[sent..]) {
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
    client.set_nonblocking(false).unwrap();
    client.write_all(&all[sent..]).unwrap();
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, LEN as u64));
    assert_eq!(sum.load(Ordering::SeqCst), LEN);
}

// B5, B6
#[test]
fn a_paused_handler_hears_of_the_end_after_the_data_on_resuming() {
    for resets in [false, true] {
        let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
        let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = server.client();
        let conn = server.opened();
        client.write_all(&[3; 100_000]).unwrap();
        match resets {
            true => reset(client),
            false => drop(client),
        }
        assert_eq!(server.event_within(Duration::from_millis(150)), None, "not before it resumes");
        server.ask(move |net| net.resume_reading(conn));
        let (_, report) = server.closed();
        let expected = if resets { CloseReason::Reset } else { CloseReason::PeerClosed };
        assert_eq!((report.reason, report.received), (expected, 100_000));
        assert_eq!(report.saw_fin, !resets);
    }
}

#[test]
fn unused_input_is_shown_again_on_resuming() {
    let mut shown = 0;
    let data = move |net: &mut Net, conn, data: &[u8]| {
        shown += 1;
        if shown == 1 {
            net.pause_reading(conn);
            return 2;
        }
        let _ = net.send(conn, data);
        data.len()
    };
    let server = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = server.client();
    let conn = server.opened();
    client.write_all(b"abcd").unwrap();
    server.wait_for(util::SOON, |event| matches!(event, Event::Data(_, 4, 2)));
    server.ask(move |net| net.resume_reading(conn));
    let mut got = [0; 2];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"cd");
}

// B8
#[test]
fn one_busy_client_does_not_starve_fifty_others() {
    let server = serve(Config::default(), Echo);
    let busy = server.client();
    let (mut writing, mut reading) = (busy.try_clone().unwrap(), busy);
    let writer = std::thread::spawn(move || {
        let piece = vec![1; 1 << 20];
        while writing.write_all(&piece).is_ok() {}
    });
    let reader = std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 20];
        let mut total = 0u64;
        while total < 300 << 20 {
            total += reading.read(&mut buf).unwrap() as u64;
        }
        reading.shutdown(Shutdown::Both).unwrap();
    });
    let mut others: Vec<_> = (0..50).map(|_| server.client()).collect();
    let mut times = Vec::new();
    while !reader.is_finished() && times.len() < 20_000 {
        for client in &mut others {
            let begin = Instant::now();
            client.write_all(&[2; 64]).unwrap();
            client.read_exact(&mut [0; 64]).unwrap();
            times.push(begin.elapsed());
        }
    }
    reader.join().unwrap();
    writer.join().unwrap();
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(60), "{p99:?} of {}", times.len());
}

#[test]
fn a_client_that_sends_but_never_reads_is_not_read_from_for_ever() {
    let server = serve(Config::default(), Echo);
    let mut client = server.client();
    client.set_nonblocking(true).unwrap();
    let piece = vec![9; 64 << 10];
    let mut idle = 0;
    while idle < 20 {
        if client.write(&piece).is_err() {
            idle += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let stats = server.stats();
    // High water, the read that reached it, and the one that is granted after that.
    assert!(stats.queued_peak <= 192 << 10, "{}", stats.queued_peak);
    assert_eq!(stats.congested, 1);
    // It costs no turns either.
    let before = server.stats().turns;
    std::thread::sleep(Duration::from_millis(200));
    assert!(server.stats().turns <= before + 3);
}

#[test]
fn a_handler_that_always_has_more_to_send_still_hears_its_peer() {
    let fill = |net: &mut Net, conn| while net.send(conn, &[4; 16 << 10]) == Ok(Sent::Queued) {};
    let handler = Custom {
        open: Some(Box::new(move |net, conn, _| fill(net, conn))),
        drain: Some(Box::new(fill)),
        ..Custom::default()
    };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    client.write_all(b"stop").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && !got.is_empty());
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 4));
    assert_eq!((report.unsent, report.unacked), (0, Some(0)));
}

/// An end of a connection over which both ask and both answer.
#[derive(Default)]
struct Talker {
    asked: usize,
    answered: usize,
}

/// Asks until congested, goes on when the queue has drained, and gives each question a short answer.
struct Talkers {
    ends: PerConn<Talker>,
    questions: usize,
}

impl Talkers {
    const QUESTION: usize = 1024;
    const ANSWER: usize = 64;

    fn ask(&mut self, net: &mut Net, conn: ConnId) {
        let end = &mut self.ends[conn];
        while end.asked < self.questions {
            end.asked += 1;
            if net.send(conn, &[b'?'; Self::QUESTION]).expect("room for a question") == Sent::Congested {
                break;
            }
        }
    }

    fn have_all_their_answers(&self) -> bool {
        self.ends.len() == 2 && self.ends.values().all(|end| end.answered == self.questions)
    }
}

impl Handler for Talkers {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.ends.insert(conn, Talker::default());
        self.ask(net, conn);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut used = 0;
        while let Some(first) = data.get(used) {
            let is_question = *first == b'?';
            let len = if is_question { Self::QUESTION } else { Self::ANSWER };
            if data.len() - used < len {
                break;
            }
            used += len;
            match is_question {
                true => net.send(conn, &[b'!'; Self::ANSWER]).map(drop).expect("room for an answer"),
                false => self.ends[conn].answered += 1,
            }
        }
        used
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.ask(net, conn);
    }
}

#[test]
fn two_ends_that_both_ask_before_they_read_and_answer_briefly_do_not_hold_each_other_up() {
    let mut config = Config::default();
    config.send_buffer = Some(32 << 10);
    config.recv_buffer = Some(128 << 10);
    let mut reactor = Reactor::new(config).unwrap();
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    let addr = reactor.net().local_addr(listener).unwrap();
    reactor.net().connect(addr).unwrap();
    let mut talkers = Talkers { ends: PerConn::new(), questions: 1000 };
    let begun = Instant::now();
    while !talkers.have_all_their_answers() {
        reactor.turn(&mut talkers, Some(Duration::from_millis(100))).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30), "they are stuck");
    }
}

#[test]
fn the_common_budget_is_paid_by_who_has_not_got_on_for_longest() {
    let mut config = narrow();
    config.total_write_buffer = 3_000_000;
    config.max_write_buffer = 2_000_000;
    let server = serve(config, Sink);
    let clients: Vec<_> = (0..4).map(|_| util::narrow_client(server.addr)).collect();
    let conns: Vec<_> = clients.iter().map(|_| server.opened()).collect();
    let (first, second, healthy) = (conns[0], conns[1], conns[2]);
    let fill = |net: &mut Net, conn, len: usize| net.send_bytes(conn, Bytes::from(vec![0; len]));
    server.ask(move |net| {
        assert!(fill(net, first, 1_100_000).is_ok());
        assert!(fill(net, second, 1_800_000).is_ok());
        // Nobody had the chance to get on yet: it is refused, and nobody ended.
        assert_eq!(fill(net, healthy, 200_000), Err(SendError::Full));
        assert_eq!(net.queued(healthy), 0);
    });
    assert_eq!(server.stats().connections, 4);
    // Longer than acknowledgements are put off.
    std::thread::sleep(Duration::from_millis(200));
    server.ask(move |net| {
        // Now they have: the first of those that did not goes, not the largest.
        assert!(fill(net, healthy, 200_000).is_ok());
        assert_eq!(net.send(first, b"x"), Err(SendError::Closed));
        assert_eq!(net.queued(healthy), 200_000);
    });
    let (conn, report) = server.closed();
    assert_eq!((conn, report.reason), (first, CloseReason::SlowConsumer));
    assert_eq!(server.stats().connections, 3);
}

#[test]
fn under_the_other_policy_the_common_budget_refuses_and_ends_nobody() {
    let mut config = narrow();
    config.total_write_buffer = 1_000_000;
    config.overflow = Overflow::Refuse;
    let server = serve(config, Sink);
    let clients: Vec<_> = (0..2).map(|_| util::narrow_client(server.addr)).collect();
    let conns: Vec<_> = clients.iter().map(|_| server.opened()).collect();
    let (first, second) = (conns[0], conns[1]);
    server.ask(move |net| {
        assert!(net.send_bytes(first, Bytes::from(vec![0; 900_000])).is_ok());
        assert_eq!(net.send_bytes(second, Bytes::from(vec![0; 200_000])), Err(SendError::Full));
        assert_eq!(net.queued(second), 0);
        assert!(net.send(second, &[0; 100]).is_ok());
    });
    let stats = server.stats();
    assert_eq!((stats.connections, stats.overflows), (2, 1));
}

#[test]
fn a_broadcast_counts_who_took_it() {
    let mut config = narrow();
    config.max_write_buffer = 100_000;
    let server = serve(config, Sink);
    let mut clients: Vec<_> = (0..3).map(|_| util::narrow_client(server.addr)).collect();
    let conns: Vec<_> = clients.iter().map(|_| server.opened()).collect();
    let full = conns[0];
    let outcome = server.ask(move |net| {
        assert!(net.send(full, &[1; 90_000]).is_ok());
        net.close(conns[2]);
        net.broadcast(conns, Bytes::from(vec![2; 20_000]))
    });
    assert_eq!((outcome.queued, outcome.congested, outcome.failed), (1, 0, 2));
    let mut got = vec![0; 20_000];
    clients[1].read_exact(&mut got).unwrap();
    assert_eq!(got, vec![2; 20_000]);
}
