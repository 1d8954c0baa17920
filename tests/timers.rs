//! Timers fire once, in order, not early, and cost nothing while they wait. Time is monotonic
//! (M5): setting the clock does not concern them.

mod util;

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use unbroken::{CloseReason, Config, Net, Reactor, Timeout, TimerId, Turn};
use util::{serve, Custom, Sink};

const MILLI: Duration = Duration::from_millis(1);

// M1
#[test]
fn a_hundred_thousand_timers_of_which_half_are_cancelled() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let begin = Instant::now();
    let mut expected = Vec::new();
    for n in 0..100_000u64 {
        // Scattered over half a second.
        let after = Duration::from_micros(n.wrapping_mul(7919) % 500_000);
        // Before the call: it may not come earlier, however long this thread then rests.
        let due = begin.elapsed() + after;
        let timer = reactor.net().set_timer(after);
        match n % 2 {
            0 => expected.push((due, timer)),
            _ => assert!(reactor.net().cancel_timer(timer)),
        }
    }
    let (fired, firings) = mpsc::channel();
    let timer = move |_: &mut Net, timer| fired.send((begin.elapsed(), timer)).unwrap();
    let mut handler = Custom { timer: Some(Box::new(timer)), ..Custom::default() };
    let mut seen: Vec<(Duration, TimerId)> = Vec::new();
    while seen.len() < expected.len() {
        assert!(begin.elapsed() < util::SOON);
        reactor.turn(&mut handler, Some(10 * MILLI)).unwrap();
        seen.extend(firings.try_iter());
    }
    reactor.turn(&mut handler, Some(Duration::ZERO)).unwrap();
    assert_eq!(firings.try_iter().count(), 0);
    let due: std::collections::HashMap<_, _> = expected.iter().map(|(due, timer)| (*timer, *due)).collect();
    let mut late = Vec::new();
    let mut last = Duration::ZERO;
    for (at, timer) in seen {
        let due = due[&timer];
        // A moment passes between the reading of the clock here and in the reactor.
        assert!(at + MILLI >= due, "early");
        assert!(due + 20 * MILLI >= last, "out of order");
        last = last.max(due);
        late.push(at.saturating_sub(due));
    }
    late.sort();
    assert!(late[late.len() / 2] < 10 * MILLI, "{:?}", late[late.len() / 2]);
}

// M2
#[test]
fn a_cancelled_timer_does_not_fire_whoever_cancels_it() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let first = reactor.net().set_timer(Duration::ZERO);
    let second = reactor.net().set_timer(Duration::ZERO);
    let (fired, firings) = mpsc::channel();
    let timer = move |net: &mut Net, timer: TimerId| {
        assert!(!net.cancel_timer(timer), "it has fired");
        assert!(net.cancel_timer(second));
        assert!(!net.cancel_timer(second));
        fired.send(timer).unwrap();
    };
    let mut handler = Custom { timer: Some(Box::new(timer)), ..Custom::default() };
    for _ in 0..5 {
        reactor.turn(&mut handler, Some(5 * MILLI)).unwrap();
    }
    assert_eq!(firings.try_iter().collect::<Vec<_>>(), [first]);
}

// M3
#[test]
fn a_timer_set_again_and_again_does_not_starve_the_sockets() {
    let timer = |net: &mut Net, _| {
        net.set_timer(Duration::ZERO);
    };
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, data);
        data.len()
    };
    let handler = Custom { timer: Some(Box::new(timer)), data: Some(Box::new(data)), ..Custom::default() };
    let server = util::serve_with(Config::default(), handler, |net| {
        net.set_timer(Duration::ZERO);
    });
    let mut client = server.client();
    for _ in 0..20 {
        client.write_all(b"ping").unwrap();
        std::io::Read::read_exact(&mut client, &mut [0; 4]).unwrap();
    }
}

// M4
#[test]
fn an_idle_reactor_sleeps_until_the_next_deadline() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    reactor.net().listen("127.0.0.1:0").unwrap();
    assert_eq!(reactor.next_timeout(), Some(Duration::ZERO), "the listener is looked at once");
    let mut handler = Custom::default();
    reactor.turn(&mut handler, Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.next_timeout(), None);
    let begin = Instant::now();
    reactor.net().set_timer(150 * MILLI);
    assert!(reactor.next_timeout().unwrap() <= 150 * MILLI);
    let before = reactor.net().stats().turns;
    let mut turns = 0;
    while begin.elapsed() < 150 * MILLI {
        assert_eq!(reactor.turn(&mut handler, None).unwrap(), Turn::Running);
        turns += 1;
    }
    assert!(turns <= 3, "{turns} turns");
    assert_eq!(reactor.net().stats().turns - before, turns);
    assert_eq!(reactor.next_timeout(), None);
}

// M4
#[test]
fn idle_connections_make_no_turns() {
    let server = serve(Config::default(), Sink);
    let clients: Vec<_> = (0..50).map(|_| server.client()).collect();
    server.wait_stats(|stats| stats.opened == 50);
    let before = server.stats().turns;
    std::thread::sleep(1000 * MILLI);
    let after = server.stats().turns;
    // One is the question's own.
    assert!(after - before <= 2, "{}", after - before);
    drop(clients);
}

// M6
#[test]
fn the_idle_timeout_begins_anew_with_every_byte_and_only_with_bytes() {
    let mut config = Config::default();
    config.idle_timeout = Some(400 * MILLI);
    let server = serve(config, Sink);
    let mut client = server.client();
    let conn = server.opened();
    let begin = Instant::now();
    for _ in 0..8 {
        std::thread::sleep(100 * MILLI);
        client.write_all(b"x").unwrap();
    }
    let last_byte = begin.elapsed();
    // Asking, pausing and resuming are no bytes.
    for _ in 0..3 {
        std::thread::sleep(50 * MILLI);
        server.ask(move |net| {
            net.pause_reading(conn);
            net.resume_reading(conn);
        });
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Idle));
    let idle = begin.elapsed() - last_byte;
    assert!(report.received == 8 && idle >= 390 * MILLI && idle < 1500 * MILLI, "{idle:?}");
}
