//! Whoever could not be heard, because the program was busy or a poll had no room, is heard before he
//! is judged.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, Reactor, Timeout, TimerId, Via};

use crate::deadlines::{idle, reasons, T};
use crate::stage::{alone, client_with_room, connect, count, crowd, end, full_backlog, in_parallel};
use crate::stage::{is_close, is_open, made_within, meanwhile, millis, reactor, reports, small_send_buffer};
use crate::stage::{turn_for, until, Log, Probe, Roll, Seen, TOLERANCE};
use crate::util::SOON;

/// Clients that write all the time, while the program is busy for longer than the idle timeout: in
/// a callback, or between two turns.
fn writers_that_ended(size: usize, events: usize, in_a_callback: bool) -> Vec<CloseReason> {
    // So many take a while to come in, during which they say nothing.
    let limit = if size > 1000 { 2 * T } else { T };
    let busy = limit + limit / 4;
    let (mut r, mut h, mut clients) = made_within(limit / 2, || {
        let mut config = Config::default();
        config.idle_timeout = Some(limit);
        config.events_per_turn = events;
        let (mut r, addr) = reactor(config);
        let mut h = Probe { quiet: true, ..Probe::default() };
        h.timer = Some(Box::new(move |_, _| std::thread::sleep(busy)));
        let clients = crowd(&mut r, &mut h, addr, size);
        (r, h, clients)
    });
    let _writing = meanwhile(move || {
        for client in &mut clients {
            let _ = client.write_all(b"x");
        }
        std::thread::sleep(millis(50));
    });
    turn_for(&mut r, &mut h, millis(150));
    let before = r.net().stats().bytes_in;
    match in_a_callback {
        true => {
            r.net().set_timer(Duration::ZERO);
        }
        false => std::thread::sleep(busy),
    }
    r.turn(&mut h, Some(Duration::ZERO)).unwrap();
    turn_for(&mut r, &mut h, millis(150));
    let stats = r.net().stats();
    assert!(!in_a_callback || stats.longest_turn >= busy, "{:?}", stats.longest_turn);
    assert!(stats.closed > 0 || (before > 0 && stats.bytes_in > before));
    reasons(&h.log)
}

// B2
#[test]
fn nobody_who_wrote_is_idle_because_a_poll_had_no_room_for_its_event() {
    in_parallel([true, false], |in_a_callback| {
        let ended = writers_that_ended(40, 3, in_a_callback);
        assert_eq!(ended.len(), 0, "of 40, busy in a callback: {in_a_callback}: {:?}", ended[0]);
    });
}

// B2
#[test]
fn of_three_thousand_writers_none_is_idle_after_a_long_callback() {
    let _alone = alone();
    let ended = writers_that_ended(3000, Config::default().events_per_turn, true);
    assert_eq!(ended.len(), 0, "of 3000: {:?}", ended[0]);
}

// B2
#[test]
fn a_connection_that_is_established_is_opened_however_late_the_engine_looks() {
    let _alone = alone();
    for (size, events) in [(60, 4), (2000, Config::default().events_per_turn)] {
        let mut config = Config::default();
        config.connect_timeout = millis(150);
        config.events_per_turn = events;
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(4096).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let (nowhere, _listener, _fillers) = full_backlog();
        let mut r = Reactor::new(config).unwrap();
        let mut h = Probe::default();
        for _ in 0..size {
            r.net().connect(addr).unwrap();
        }
        let hanging = r.net().connect(nowhere).unwrap();
        std::thread::sleep(millis(250));
        until(&mut r, &mut h, SOON, |log| log.len() > size);
        let log = h.log.borrow();
        let opened = count(&log, is_open);
        let ended = log.iter().find(|seen| is_close(seen));
        // A few may have lost their SYN, and were not established indeed.
        assert!(opened >= size - size / 50, "{opened} of {size}: {ended:?}");
        // The one that really hangs is ended all the same.
        let timed_out = |seen: &Seen| match seen {
            Seen::Close(conn, report) => *conn == hanging && report.reason.name() == "connect_timeout",
            _ => false,
        };
        assert!(log.iter().any(timed_out), "{ended:?}");
    }
}

/// Ends whoever was not heard for so long, by a timer for each: as a program does it.
pub struct Heartbeats {
    span: Duration,
    timers: HashMap<ConnId, TimerId>,
    whose: HashMap<TimerId, ConnId>,
    pub ended: usize,
}

impl Heartbeats {
    pub fn new(span: Duration) -> Self {
        Self { span, timers: HashMap::new(), whose: HashMap::new(), ended: 0 }
    }

    fn heard(&mut self, net: &mut Net, conn: ConnId) {
        let timer = net.set_timer(self.span);
        self.whose.insert(timer, conn);
        if let Some(old) = self.timers.insert(conn, timer) {
            net.cancel_timer(old);
            self.whose.remove(&old);
        }
    }
}

impl Handler for Heartbeats {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.heard(net, conn);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.heard(net, conn);
        let _ = net.send(conn, data);
        data.len()
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        if let Some(conn) = self.whose.remove(&timer) {
            self.ended += 1;
            net.abort_as(conn, CloseReason::TimedOut(Timeout::Idle));
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, _: &CloseReport) {
        if let Some(timer) = self.timers.remove(&conn) {
            net.cancel_timer(timer);
            self.whose.remove(&timer);
        }
    }
}

// B3
#[test]
fn beats_that_wait_are_heard_before_the_timer_that_misses_them_fires() {
    // More of them than one poll has room for: as long as there may be more, nobody is judged.
    in_parallel([(1, 1024), (30, 1024), (30, 4)], |(size, events)| {
        let mut config = Config::default();
        config.events_per_turn = events;
        let (mut r, mut h, mut clients) = made_within(T / 8, || {
            let (mut r, addr) = reactor(config.clone());
            let mut h = Heartbeats::new(T / 2);
            let clients = crowd(&mut r, &mut h, addr, size);
            (r, h, clients)
        });
        // The program is busy with something else; they beat on.
        std::thread::sleep(T / 4);
        for client in &mut clients {
            client.write_all(b"beat").unwrap();
        }
        std::thread::sleep(T / 2);
        for _ in 0..size + 20 {
            r.turn(&mut h, Some(Duration::ZERO)).unwrap();
        }
        assert_eq!(h.ended, 0, "of {size} that beat, with {events} events a turn");
        // Who does not beat any more is missed, and in time.
        let silent = Instant::now();
        while h.ended < size && silent.elapsed() < SOON {
            r.turn(&mut h, Some(millis(10))).unwrap();
        }
        let after = silent.elapsed();
        assert!(h.ended == size && after <= T / 2 + TOLERANCE, "{} after {after:?}", h.ended);
    });
}

/// What a crowd of connections does while the program is busy beyond their deadline of 200 ms is heard
/// before the verdict. Gives their ends.
fn judged_after(
    config: Config,
    size: usize,
    act: impl Fn(&mut Net, ConnId),
    saves: impl Fn(&mut TcpStream),
) -> Log {
    let (mut r, mut h, _clients) = made_within(millis(150), || {
        let (mut r, addr) = reactor(config.clone());
        let mut roll = Roll::default();
        let mut clients = crowd(&mut r, &mut roll, addr, size);
        for conn in &roll.0 {
            act(r.net(), *conn);
        }
        let mut h = Probe { quiet: true, ..Probe::default() };
        // All of it leaves, and its effects are known.
        turn_for(&mut r, &mut h, millis(30));
        for client in &mut clients {
            saves(client);
        }
        (r, h, clients)
    });
    std::thread::sleep(millis(300));
    until(&mut r, &mut h, SOON, |log| log.len() == size);
    h.log
}

// B7
#[test]
fn an_end_of_stream_that_waits_is_heard_before_the_deadline_that_it_meets() {
    let span = millis(200);
    in_parallel([1024, 4], |events| {
        let mut config = Config::default();
        config.events_per_turn = events;
        config.half_close_timeout = Some(span);
        let log = judged_after(config.clone(), 30, |net, conn| net.close_write(conn), |client| end(client));
        assert_eq!(reasons(&log), [CloseReason::Finished; 30], "half-closed, {events} events a turn");

        config.half_close_timeout = None;
        config.linger_idle = span;
        let close = |net: &mut Net, conn| {
            net.send(conn, b"bye").unwrap();
            net.close(conn);
        };
        let log = judged_after(config, 30, close, |client| end(client));
        assert_eq!(reasons(&log), [CloseReason::Finished; 30], "closing, {events} events a turn");
    });
}

// B7
#[test]
fn what_the_peer_has_read_meanwhile_is_known_before_it_counts_as_stalled() {
    let mut config = Config::default();
    config.write_stall = Some(millis(200));
    config.soft_limit = Some(unbroken::SoftLimit { bytes: 20_000, duration: millis(200) });
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let mut h = Probe::default();
    h.open = Some(Box::new(|net, conn| {
        net.send(conn, &[7; 120_000]).unwrap();
    }));
    let mut client = client_with_room(addr, 4096);
    assert!(until(&mut r, &mut h, SOON, |log| log.iter().any(is_open)));
    turn_for(&mut r, &mut h, millis(50));
    assert!(r.net().stats().queued > 20_000, "the kernel took {}", 120_000 - r.net().stats().queued);
    let reader = std::thread::spawn(move || {
        client.read_exact(&mut [0; 120_000]).unwrap();
        client
    });
    // The program is busy: the peer reads what the kernel had, and waits for more.
    std::thread::sleep(millis(300));
    turn_for(&mut r, &mut h, millis(150));
    assert_eq!(reports(&h.log), []);
    reader.join().unwrap();
}

// B2, B7: a deadline does not wait for ever either.
#[test]
fn whoever_is_silent_is_idle_and_a_timer_fires_in_time_although_others_keep_the_poll_full() {
    let mut config = idle();
    config.events_per_turn = 2;
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    let silent = connect(addr);
    let mut busy = crowd(&mut r, &mut h, addr, 8);
    let quiet = Instant::now();
    let _writing = meanwhile(move || {
        for client in &mut busy {
            let _ = client.write_all(b"x");
        }
    });
    // So does a timer fire.
    let fired = Rc::new(Cell::new(None));
    let note = fired.clone();
    h.timer = Some(Box::new(move |_, _| note.set(Some(quiet.elapsed()))));
    r.net().set_timer(T / 2);
    until(&mut r, &mut h, 4 * T, |log| log.iter().any(is_close));
    let ended = quiet.elapsed();
    assert_eq!(reasons(&h.log), [CloseReason::TimedOut(Timeout::Idle)]);
    assert_eq!(reports(&h.log)[0].received, 0);
    assert!(ended <= T + T / 8 + TOLERANCE, "{ended:?}");
    assert!(fired.get().is_some_and(|after| after <= T / 2 + TOLERANCE), "{:?}", fired.get());
    drop(silent);
}
