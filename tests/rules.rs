//! The seven rules of `Handler`, each with a test that fails when it is broken.

mod util;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use unbroken::{
    Bytes, CloseReason, CloseReport, Config, ConnId, Handler, Net, Overflow, Reactor, SendError, Sent, State,
    TimerId, Turn, Via,
};
use util::{pattern, read_all, reset, serve, serve_with, Custom, Echo, Event, Sink};

/// Calls everything it can from every callback, and notices when it is called from within.
struct Busybody {
    inside: Arc<AtomicBool>,
    nested: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Busybody {
    fn meddle(&mut self, net: &mut Net, conn: Option<ConnId>, last: bool) {
        if self.inside.swap(true, Ordering::SeqCst) {
            self.nested.fetch_add(1, Ordering::SeqCst);
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let all: Vec<_> = net.connections().collect();
        net.broadcast(all.iter().copied(), Bytes::from(vec![b'.'; 700]));
        let timer = net.set_timer(Duration::ZERO);
        if call % 2 == 0 {
            net.cancel_timer(timer);
        }
        if call < 50 {
            let _ = net.connect("127.0.0.1:1");
        }
        for other in all {
            net.pause_reading(other);
            net.resume_reading(other);
            match call % 11 {
                3 => net.close_write(other),
                5 => net.close(other),
                7 => net.abort(other),
                _ => {}
            }
        }
        if let Some(conn) = conn {
            let _ = net.send(conn, &[b'x'; 20_000]);
            let _ = net.try_reserve(conn, usize::MAX);
            if last {
                net.close(conn);
            }
        }
        self.inside.store(false, Ordering::SeqCst);
    }
}

impl Handler for Busybody {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.meddle(net, Some(conn), false);
    }
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.meddle(net, Some(conn), false);
        data.len()
    }
    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.meddle(net, Some(conn), true);
    }
    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.meddle(net, Some(conn), false);
    }
    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        if self.calls.load(Ordering::SeqCst) < 2000 {
            self.meddle(net, None, false);
        }
    }
    fn on_close(&mut self, net: &mut Net, conn: ConnId, _: &CloseReport) {
        self.meddle(net, Some(conn), true);
    }
}

// Rules 1 and 2.
#[test]
fn callbacks_never_nest_whatever_a_handler_calls() {
    let (inside, nested, calls) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let handler = Busybody { inside, nested: nested.clone(), calls: calls.clone() };
    let server = serve(Config::default(), handler);
    for round in 0..40 {
        let mut client = server.client();
        let _ = client.write_all(&[b'a'; 3000]);
        if round % 2 == 0 {
            reset(client);
        }
    }
    util::eventually("enough calls", || calls.load(Ordering::SeqCst) >= 200);
    let stats = server.wait_stats(|stats| stats.connections == 0 && stats.accepted == 40);
    assert_eq!(nested.load(Ordering::SeqCst), 0);
    assert_eq!(stats.closed, stats.accepted + stats.connects);
    let mut closed = HashMap::new();
    for event in server.events_so_far() {
        let conn = match event {
            Event::Open(conn, _) | Event::Data(conn, ..) | Event::Eof(conn) | Event::Drain(conn, _) => conn,
            Event::Close(conn, _) => {
                assert_eq!(closed.insert(conn, ()), None, "{conn} closed twice");
                continue;
            }
            _ => continue,
        };
        assert!(!closed.contains_key(&conn), "{conn} heard of after its close");
    }
    assert_eq!(closed.len() as u64, stats.closed);
}

// Rule 2, T5.
#[test]
fn on_close_comes_once_and_last_and_no_data_after_a_close() {
    for abort in [false, true] {
        let data = move |net: &mut Net, conn, data: &[u8]| {
            for _ in 0..2 {
                match abort {
                    true => net.abort(conn),
                    false => net.close(conn),
                }
            }
            data.len().min(1)
        };
        let close = |net: &mut Net, conn, _: &CloseReport| {
            net.close(conn);
            net.abort(conn);
            net.resume_reading(conn);
        };
        let handler =
            Custom { data: Some(Box::new(data)), close: Some(Box::new(close)), ..Custom::default() };
        let server = serve(Config::default(), handler);
        let mut client = server.client();
        let conn = server.opened();
        client.write_all(b"first").unwrap();
        server.wait_for(util::SOON, |event| matches!(event, Event::Data(..)));
        let _ = client.write_all(b"second");
        drop(client);
        let (closed, _) = server.closed();
        assert_eq!(closed, conn);
        assert_eq!(server.stats().connections, 0);
        assert_eq!(server.events_so_far(), []);
    }
}

// Rule 2, R11: also for a connection that was never open.
#[test]
fn a_failed_connect_is_reported_once_and_never_opens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let server = serve(Config::default(), Sink);
    let conn = server.ask(move |net| net.connect(addr).unwrap());
    let Event::Close(closed, report) = server.event() else { panic!("not closed") };
    assert_eq!((closed, report.reason), (conn, CloseReason::ConnectFailed));
    assert_eq!(report.errno, Some(libc::ECONNREFUSED));
    server.stats();
    assert_eq!(server.events_so_far(), []);
}

// Rule 3, R7, R8, T3.
#[test]
fn a_stale_id_reaches_nobody() {
    let server = serve(Config::default(), Echo);
    let first = server.client();
    let old = server.opened();
    drop(first);
    server.closed();
    let mut second = server.client();
    let new = server.opened();
    assert_eq!(old.slot(), new.slot());
    assert_ne!(old, new);
    let (sent, shared, queued, state, before) = server.ask(move |net| {
        let before = net.stats().stale_sends;
        let sent = net.send(old, b"for somebody else");
        let shared = net.send_bytes(old, Bytes::from_static(b"for somebody else"));
        net.close(old);
        net.close_write(old);
        net.abort(old);
        net.pause_reading(old);
        (sent, shared, net.queued(old), net.state(old), before)
    });
    assert_eq!((sent, shared), (Err(SendError::Closed), Err(SendError::Closed)));
    assert_eq!((queued, state), (0, None));
    assert_eq!(server.stats().stale_sends, before + 2);
    second.write_all(b"mine").unwrap();
    let mut got = [0; 4];
    second.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"mine");
    assert_eq!(server.ask(move |net| net.state(new)), Some(State::Open));
}

// Rule 4, P6.
#[test]
fn a_send_takes_all_or_nothing() {
    let mut config = Config::default();
    config.overflow = Overflow::Refuse;
    config.max_write_buffer = 200_000;
    config.send_buffer = Some(4096);
    let server = serve(config, Sink);
    let mut client = util::narrow_client(server.addr);
    let conn = server.opened();
    let (results, queued) = server.ask(move |net| {
        let data = Bytes::from(pattern(300_000));
        let results = [
            net.send_bytes(conn, data.slice(..1000)),
            net.send_bytes(conn, data.slice(1000..150_000)),
            net.send_bytes(conn, data.slice(..50_001)),
            net.send(conn, &data[..50_001]),
            net.send(conn, b""),
            net.send_bytes(conn, data.slice(150_000..200_000)),
        ];
        let queued = net.queued(conn);
        net.close(conn);
        (results, queued)
    });
    let full = Err(SendError::Full);
    let congested = Ok(Sent::Congested);
    assert_eq!(results, [Ok(Sent::Queued), congested, full, full, congested, congested]);
    assert_eq!(queued, 200_000);
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(200_000));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.handed, report.unsent), (200_000, 0));
}

// Rule 5 on real sockets; the crossings themselves are tried in the unit tests.
#[test]
fn on_drain_comes_once_for_each_crossing() {
    let mut config = Config::default();
    config.send_buffer = Some(4096);
    let server = serve(config, Sink);
    let mut client = util::narrow_client(server.addr);
    let conn = server.opened();
    for round in 0..3 {
        let congested = server.ask(move |net| {
            let mut congested = 0;
            for _ in 0..100 {
                congested += usize::from(net.send(conn, &[round; 1000]) == Ok(Sent::Congested));
            }
            congested
        });
        assert!(congested > 20);
        let mut got = vec![0; 100_000];
        client.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == round));
        server.wait_stats(|stats| stats.queued == 0);
        let drains = server.events_so_far().into_iter().filter(|event| matches!(event, Event::Drain(..)));
        let levels: Vec<_> = drains.collect();
        assert!(matches!(levels[..], [Event::Drain(_, level)] if level <= 16 << 10), "{levels:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    Open,
    Data,
    Eof,
    Close,
    Timer,
    Wake,
}

/// Panics in one kind of callback for clients that ask for it, and echoes otherwise.
struct Fragile(Where);

impl Handler for Fragile {
    fn on_open(&mut self, net: &mut Net, _: ConnId, _: Via) {
        assert!(self.0 != Where::Open || net.stats().opened != 2, "asked for");
    }
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if data == b"panic" {
            match self.0 {
                Where::Data => panic!("asked for"),
                Where::Close => net.close(conn),
                Where::Timer => drop(net.set_timer(Duration::ZERO)),
                Where::Wake => net.handle().wake().unwrap(),
                _ => {}
            }
        }
        let _ = net.send(conn, data);
        data.len()
    }
    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        assert!(self.0 != Where::Eof || net.state(conn).is_none(), "asked for");
        net.close(conn);
    }
    fn on_timer(&mut self, _: &mut Net, _: TimerId) {
        panic!("asked for");
    }
    fn on_wake(&mut self, _: &mut Net) {
        panic!("asked for");
    }
    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        assert!(self.0 != Where::Close || report.received != 5, "asked for");
    }
}

const PLACES: [Where; 6] = [Where::Open, Where::Data, Where::Eof, Where::Close, Where::Timer, Where::Wake];

// Rule 6, E10: with the option the reactor goes on by itself.
#[test]
fn a_panic_costs_its_own_connection_only() {
    for place in PLACES {
        let mut config = Config::default();
        config.catch_panics = true;
        let server = serve(config, Fragile(place));
        let mut bystander = server.client();
        server.opened();
        let mut client = server.client();
        // Whoever asks first is told of the reset: it may be this write.
        let written = client.write_all(b"panic").err();
        if place == Where::Eof {
            let _ = client.shutdown(std::net::Shutdown::Write);
        }
        let own = !matches!(place, Where::Timer | Where::Wake | Where::Close);
        if own {
            let (_, error) = read_all(&mut client);
            let error = written.or(error);
            assert_eq!(
                error.map(|error| error.kind()),
                Some(std::io::ErrorKind::ConnectionReset),
                "{place:?}"
            );
            assert_eq!(server.closed().1.reason, CloseReason::HandlerPanic, "{place:?}");
        }
        drop(client);
        server.wait_stats(|stats| stats.connections == 1);
        bystander.write_all(b"still there").unwrap();
        let mut got = [0; 11];
        bystander.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still there", "{place:?}");
    }
}

// Rule 6: without it the caller catches the panic and calls again.
#[test]
fn a_reactor_is_usable_after_the_panic_was_passed_on() {
    for place in PLACES {
        let mut reactor = Reactor::new(Config::default()).unwrap();
        let listener = reactor.net().listen("127.0.0.1:0").unwrap();
        let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
        let clients = std::thread::spawn(move || {
            let connect = || {
                let stream = std::net::TcpStream::connect(addr).unwrap();
                util::patient(&stream);
                stream
            };
            let mut bystander = connect();
            bystander.write_all(b"a").unwrap();
            bystander.read_exact(&mut [0]).unwrap();
            let mut client = connect();
            let _ = client.write_all(b"panic");
            let _ = client.shutdown(std::net::Shutdown::Write);
            read_all(&mut client);
            bystander.write_all(b"b").unwrap();
            bystander.read_exact(&mut [0]).unwrap();
        });
        let mut handler = Fragile(place);
        let (mut panics, mut stopped) = (0, false);
        while !stopped {
            if clients.is_finished() {
                reactor.net().shutdown(Duration::from_secs(1));
            }
            let wait = Some(Duration::from_millis(10));
            match catch_unwind(AssertUnwindSafe(|| reactor.turn(&mut handler, wait))) {
                Ok(turn) => stopped = turn.unwrap() == Turn::Stopped,
                Err(_) => panics += 1,
            }
        }
        clients.join().unwrap();
        assert!(panics >= 1, "{place:?}");
        let stats = reactor.net().stats().clone();
        assert_eq!((stats.connections, stats.closed), (0, 2), "{place:?}");
    }
}

// Rule 7.
#[test]
fn what_is_sent_while_connecting_is_queued_and_delivered_in_order() {
    let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = peer.local_addr().unwrap();
    let server = serve_with(Config::default(), Sink, move |net| {
        let conn = net.connect(addr).unwrap();
        assert_eq!(net.state(conn), Some(State::Connecting));
        for piece in pattern(150_000).chunks(50_000) {
            assert!(net.send(conn, piece).is_ok());
        }
        assert_eq!(net.queued(conn), 150_000);
        net.close(conn);
        assert_eq!(net.send(conn, b"late"), Err(SendError::Closed));
    });
    let (mut stream, _) = peer.accept().unwrap();
    util::patient(&stream);
    let (got, error) = read_all(&mut stream);
    assert!(error.is_none() && got == pattern(150_000));
    drop(stream);
    assert_eq!(server.closed().1.reason, CloseReason::Finished);
}
