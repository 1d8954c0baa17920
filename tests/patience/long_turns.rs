//! A span runs from the call that sets it, however long the callback took before it, and no time that
//! a long turn kept from the peer counts against the peer.

use std::cell::Cell;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unbroken::{CloseReport, Config, ConnId, Net, SoftLimit};

use crate::stage::{connect, count, end, full_backlog, in_parallel, is_close, is_open, millis, reactor};
use crate::stage::{reports, turn_for, turn_while, until, Probe, TOLERANCE};
use crate::util::{read_all, SOON};

/// How long a callback works.
const BUSY: Duration = Duration::from_millis(400);
/// What is set in it; shorter, so that it is over at once when it is counted from the beginning.
const SPAN: Duration = Duration::from_millis(300);
/// More than the kernel takes of it: it stays queued while the peer does not read.
const LONG: usize = 2 << 20;

fn config() -> Config {
    let mut config = Config::default();
    config.send_buffer = Some(128 << 10);
    // What is not written in the call itself takes several turns, however fast the peer reads.
    config.write_budget = 64 << 10;
    config
}

/// A client asks; `answer` is called at the end of the long callback that its question brings. It
/// reads nothing. Gives how long after that call its connection, or whichever ended first, ended.
fn span_of(config: Config, mut answer: impl FnMut(&mut Net, ConnId) + 'static) -> (Duration, CloseReport) {
    let (mut r, addr) = reactor(config);
    let called = Rc::new(Cell::new(None));
    let tell = called.clone();
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.data = Some(Box::new(move |net, conn, data| {
        std::thread::sleep(BUSY);
        tell.set(Some(Instant::now()));
        answer(net, conn);
        data.len()
    }));
    let mut client = connect(addr);
    client.write_all(b"question").unwrap();
    assert!(until(&mut r, &mut h, SOON, |log| log.iter().any(is_close)), "nothing ended");
    (called.get().unwrap().elapsed(), reports(&h.log).remove(0))
}

fn send_long(net: &mut Net, conn: ConnId) {
    net.send(conn, &[7; LONG]).unwrap();
}

fn assert_a_span((lasted, report): (Duration, CloseReport), reason: &str) {
    assert_eq!(report.reason.name(), reason, "{report}");
    assert!(lasted + millis(2) >= SPAN, "after {lasted:?} already: {report}");
    assert!(lasted <= SPAN + SPAN / 8 + TOLERANCE, "only after {lasted:?}: {report}");
}

// B5
#[test]
fn a_timer_set_late_in_a_callback_waits_its_whole_time() {
    let (mut r, addr) = reactor(Config::default());
    let (called, fired) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(None)));
    let (tell, note) = (called.clone(), fired.clone());
    let mut h = Probe::default();
    h.data = Some(Box::new(move |net, _, data| {
        std::thread::sleep(BUSY);
        tell.set(Some(Instant::now()));
        net.set_timer(SPAN);
        data.len()
    }));
    h.timer = Some(Box::new(move |_, _| note.set(Some(Instant::now()))));
    let mut client = connect(addr);
    client.write_all(b"question").unwrap();
    let seen = fired.clone();
    turn_while(&mut r, &mut h, SOON, || seen.get().is_none());
    let waited = fired.get().unwrap().duration_since(called.get().unwrap());
    assert!(waited >= SPAN, "{waited:?}");
    assert!(waited <= SPAN + TOLERANCE, "{waited:?}");
}

// B5
#[test]
fn a_connect_asked_for_late_in_a_callback_has_its_whole_timeout() {
    let mut config = config();
    config.connect_timeout = SPAN;
    let (nowhere, _listener, _fillers) = full_backlog();
    let ended = span_of(config, move |net, _| {
        net.connect(nowhere).unwrap();
    });
    assert_a_span(ended, "connect_timeout");
}

// B5
#[test]
fn what_is_sent_late_in_a_callback_may_stay_queued_for_the_whole_soft_limit_and_the_whole_stall() {
    in_parallel(["slow_consumer", "write_stall"], |reason| {
        let mut config = config();
        match reason {
            "write_stall" => config.write_stall = Some(SPAN),
            _ => config.soft_limit = Some(SoftLimit { bytes: 256 << 10, duration: SPAN }),
        }
        assert_a_span(span_of(config, send_long), reason);
    });
}

// B5
#[test]
fn a_close_late_in_a_callback_lingers_for_its_whole_time() {
    // The answer is acknowledged at once; the peer's end is what does not come.
    let close = |net: &mut Net, conn: ConnId| {
        net.send(conn, b"answer").unwrap();
        net.close(conn);
    };
    in_parallel(["total", "idle"], |cap| {
        let mut config = config();
        match cap {
            "total" => config.linger_total = SPAN,
            _ => config.linger_idle = SPAN,
        }
        assert_a_span(span_of(config, close), "linger_timeout");
    });
}

// B5
#[test]
fn a_half_close_late_in_a_callback_has_its_whole_timeout() {
    let mut config = config();
    config.half_close_timeout = Some(SPAN);
    assert_a_span(span_of(config, |net, conn| net.close_write(conn)), "idle_timeout");
}

// B5
#[test]
fn a_shutdown_asked_for_late_in_a_callback_has_its_whole_deadline() {
    let shut_down = |net: &mut Net, conn: ConnId| {
        net.send(conn, &[7; LONG]).unwrap();
        net.shutdown(SPAN);
    };
    assert_a_span(span_of(config(), shut_down), "shutdown");
}

// B5
#[test]
fn a_shutdown_by_a_handle_behind_a_long_task_has_its_whole_deadline() {
    let (mut r, addr) = reactor(config());
    let mut h = Probe::default();
    h.open = Some(Box::new(|net, conn| {
        net.send(conn, &[7; LONG]).unwrap();
    }));
    let _client = connect(addr);
    assert!(until(&mut r, &mut h, SOON, |log| log.iter().any(is_open)));
    let handle = r.net().handle();
    let (tell, told) = std::sync::mpsc::channel();
    // Both are taken in the same turn.
    handle
        .run(move |_| {
            std::thread::sleep(BUSY);
            tell.send(Instant::now()).unwrap();
        })
        .unwrap();
    handle.shutdown(SPAN).unwrap();
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    assert_a_span((told.recv().unwrap().elapsed(), reports(&h.log).remove(0)), "shutdown");
}

/// A client that asks and reads on at once, whatever comes. It says what it got, and whether it ended
/// well.
fn reader(addr: SocketAddr, question: &'static [u8]) -> JoinHandle<(usize, Option<String>)> {
    std::thread::spawn(move || {
        let mut client = connect(addr);
        client.write_all(question).unwrap();
        let (got, error) = read_all(&mut client);
        (got.len(), error.map(|error| error.to_string()))
    })
}

/// More than leaves in one turn, and little enough to be delivered in a moment.
const ANSWER: usize = 900 << 10;

fn soft() -> Config {
    let mut config = config();
    config.soft_limit = Some(SoftLimit { bytes: 16 << 10, duration: SPAN });
    config
}

fn short_linger() -> Config {
    let mut config = config();
    config.linger_idle = SPAN;
    config.linger_total = SPAN;
    config
}

/// Answers a question as `then` says, and works on for a while: nothing of it can leave before the
/// callback is over. The client, who reads at once, must get all.
fn assert_delivered(config: Config, busy: Duration, then: fn(&mut Net, ConnId)) {
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.data = Some(Box::new(move |net, conn, data| {
        net.send(conn, &[7; ANSWER]).unwrap();
        then(net, conn);
        std::thread::sleep(busy);
        data.len()
    }));
    let reader = reader(addr, b"question");
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    let report = reports(&h.log).pop();
    assert_eq!(reader.join().unwrap(), (ANSWER, None), "{report:?}");
}

// B5
#[test]
fn a_callback_that_works_on_after_a_send_does_not_use_up_the_soft_limit() {
    assert_delivered(soft(), BUSY, |net, conn| net.close_write(conn));
}

// B5
#[test]
fn a_callback_that_works_on_after_a_close_does_not_use_up_its_linger() {
    assert_delivered(short_linger(), BUSY, |net, conn| net.close(conn));
}

// B5
#[test]
fn a_callback_that_works_on_after_a_shutdown_does_not_use_up_its_deadline() {
    assert_delivered(config(), BUSY, |net, _| net.shutdown(SPAN));
}

// B5: "no deadline counts time that the peer could not have used", be it several times the span.
#[test]
fn a_callback_that_works_on_for_several_times_the_span_uses_up_none_of_it() {
    std::thread::scope(|scope| {
        scope.spawn(|| assert_delivered(soft(), 3 * SPAN, |net, conn| net.close_write(conn)));
        scope.spawn(|| assert_delivered(config(), 3 * SPAN, |net, _| net.shutdown(SPAN)));
    });
}

/// A client is downloading when the callback of another one takes long. It must get all.
fn assert_not_held_up(config: Config, then: fn(&mut Net, ConnId)) {
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    // The other one is heard in the same turn, or a timer works in the next one: once in all.
    let asked = Rc::new(Cell::new(false));
    let due = asked.clone();
    h.data = Some(Box::new(move |net, conn, data| {
        if data == b"question" {
            net.send(conn, &[7; ANSWER]).unwrap();
            then(net, conn);
            net.set_timer(Duration::ZERO);
            asked.set(true);
        } else if asked.take() {
            std::thread::sleep(BUSY);
        }
        data.len()
    }));
    h.timer = Some(Box::new(move |_, _| {
        if due.take() {
            std::thread::sleep(BUSY);
        }
    }));
    let mut other = connect(addr);
    turn_for(&mut r, &mut h, millis(30));
    let reader = reader(addr, b"question");
    other.write_all(b"work").unwrap();
    // It ends itself, so that only the first one's end is waited for.
    end(&other);
    until(&mut r, &mut h, SOON, |log| count(log, is_close) == 2);
    assert_eq!(reader.join().unwrap(), (ANSWER, None), "{:?}", reports(&h.log));
}

// B5
#[test]
fn the_callback_of_another_connection_uses_up_nobodys_time() {
    std::thread::scope(|scope| {
        scope.spawn(|| assert_not_held_up(short_linger(), |net, conn| net.close(conn)));
        scope.spawn(|| assert_not_held_up(soft(), |net, conn| net.close_write(conn)));
        scope.spawn(|| assert_not_held_up(config(), |net, _| net.shutdown(SPAN)));
    });
}

// B5, B7
#[test]
fn an_end_that_comes_during_the_callback_of_another_is_in_time() {
    let mut config = config();
    config.linger_idle = SPAN;
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.data = Some(Box::new(|net, conn, data| {
        match data {
            b"question" => {
                net.send(conn, b"answer").unwrap();
                net.close(conn);
            }
            _ => std::thread::sleep(BUSY),
        }
        data.len()
    }));
    let mut other = connect(addr);
    let client = std::thread::spawn(move || {
        let mut client: TcpStream = connect(addr);
        client.write_all(b"question").unwrap();
        let (got, error) = read_all(&mut client);
        assert!(got == b"answer" && error.is_none(), "{error:?}");
        // Well within the linger, and while the other one's callback runs.
        other.write_all(b"work").unwrap();
        std::thread::sleep(SPAN / 2);
        drop(client);
        other
    });
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    drop(client.join().unwrap());
    assert_eq!(reports(&h.log)[0].reason.name(), "finished", "{}", reports(&h.log)[0]);
}
