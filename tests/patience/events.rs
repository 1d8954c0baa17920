//! No event is lost: whatever a handler pauses, resumes, leaves or ends in its callbacks, the rest of
//! the input comes, then the end of the stream, once.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use unbroken::{Config, ConnId, Net};

use crate::stage::{connect, count, end, enter, is_close, millis, reactor, reports, story, turn_for, until};
use crate::stage::{Log, Probe, Seen};
use crate::util::read_all;

/// How long an event that is due may take on a busy machine.
const DUE: Duration = Duration::from_millis(1500);

/// A client whose words and end of stream both wait in the kernel before anybody looks.
fn says_and_ends(addr: SocketAddr, words: &[u8]) -> TcpStream {
    let mut client = connect(addr);
    client.write_all(words).unwrap();
    end(&client);
    client
}

fn closed(log: &[Seen]) -> bool {
    log.iter().any(is_close)
}

fn is_data(seen: &Seen) -> bool {
    matches!(seen, Seen::Data(..))
}

/// Input, then exactly one end, then a clean close; the input in a handful of calls at most.
fn assert_whole(log: &Log) {
    let told = story(log);
    let log = log.borrow();
    let ends = count(&log, |seen| matches!(seen, Seen::Eof(_)));
    assert_eq!(ends, 1, "{told:?}");
    assert!(count(&log, is_data) <= 4, "{told:?}");
    let last = log.iter().rposition(is_data).unwrap_or(0);
    let eof = log.iter().position(|seen| matches!(seen, Seen::Eof(_))).unwrap_or(0);
    assert!(last < eof, "input after the end: {told:?}");
    assert_eq!(told.last().map(String::as_str), Some("close peer_closed"), "{told:?}");
}

fn pause_and_resume(net: &mut Net, conn: ConnId) {
    net.pause_reading(conn);
    net.resume_reading(conn);
}

// A1
#[test]
fn the_end_of_the_stream_follows_input_in_whose_callback_reading_was_paused_and_resumed() {
    for used in [5, 2, 0] {
        let (mut r, addr) = reactor(Config::default());
        let data = move |net: &mut Net, conn, _: &[u8]| {
            pause_and_resume(net, conn);
            used
        };
        let mut h = Probe { data: Some(Box::new(data)), ..Probe::default() };
        let _client = says_and_ends(addr, b"hello");
        until(&mut r, &mut h, DUE, closed);
        assert_whole(&h.log);
    }
}

// A1
#[test]
fn a_pause_and_a_resume_do_not_show_the_same_input_again_and_again() {
    let (mut r, addr) = reactor(Config::default());
    let data = |net: &mut Net, conn, data: &[u8]| {
        pause_and_resume(net, conn);
        if data == b"hello" {
            5
        } else {
            0
        }
    };
    let mut h = Probe { data: Some(Box::new(data)), ..Probe::default() };
    let (mut client, _) = enter(&mut r, &mut h, addr);
    client.write_all(b"hel").unwrap();
    assert!(until(&mut r, &mut h, DUE, |log| log.iter().any(is_data)));
    let turns = r.net().stats().turns;
    turn_for(&mut r, &mut h, millis(200));
    let shown = count(&h.log.borrow(), is_data);
    assert!(shown <= 4, "{shown} times in 200 ms, and nothing new had come");
    let turns = r.net().stats().turns - turns;
    assert!(turns <= 100, "{turns} turns for nothing");
    // What completes it is shown with it.
    client.write_all(b"lo").unwrap();
    let whole = |log: &[Seen]| log.iter().any(|seen| matches!(seen, Seen::Data(_, data) if data == b"hello"));
    assert!(until(&mut r, &mut h, DUE, whole), "{:?}", story(&h.log));
}

// A1
#[test]
fn the_end_of_the_stream_follows_when_another_callback_resumes_reading() {
    for used in [5, 0] {
        let (mut r, addr) = reactor(Config::default());
        let first = Rc::new(Cell::new(None));
        let resume = first.clone();
        let data = move |net: &mut Net, conn, data: &[u8]| match data {
            b"hello" if first.get().is_none() => {
                first.set(Some(conn));
                net.pause_reading(conn);
                used
            }
            // The other one speaks in the same turn, or in the next.
            b"go on" if first.get().is_none() => {
                net.set_timer(millis(20));
                data.len()
            }
            b"go on" => {
                net.resume_reading(first.get().unwrap());
                data.len()
            }
            _ => data.len(),
        };
        let timer = move |net: &mut Net, _| net.resume_reading(resume.get().unwrap());
        let eof = |net: &mut Net, conn| net.close(conn);
        let mut h = Probe {
            data: Some(Box::new(data)),
            timer: Some(Box::new(timer)),
            eof: Some(Box::new(eof)),
            ..Probe::default()
        };
        let _client = says_and_ends(addr, b"hello");
        let mut other = connect(addr);
        other.write_all(b"go on").unwrap();
        assert!(until(&mut r, &mut h, DUE, closed), "{:?}", story(&h.log));
        let log = h.log.borrow();
        let Some(Seen::Close(conn, report)) = log.iter().find(|seen| is_close(seen)) else { unreachable!() };
        let eofs = count(&log, |seen| *seen == Seen::Eof(*conn));
        assert_eq!((eofs, report.reason.name()), (1, "peer_closed"), "{log:?}");
    }
}

// A1
#[test]
fn the_end_of_the_stream_waits_for_a_resume_and_comes_after_the_input_that_was_left() {
    for (used, then) in [(5, 5), (2, 3), (0, 5), (0, 0)] {
        let (mut r, addr) = reactor(Config::default());
        let paused = Rc::new(Cell::new(false));
        let data = move |net: &mut Net, conn, _: &[u8]| {
            // The pause is what counts, whatever was said before it.
            net.resume_reading(conn);
            match paused.replace(true) {
                false => {
                    net.pause_reading(conn);
                    used
                }
                true => then,
            }
        };
        let mut h = Probe { data: Some(Box::new(data)), ..Probe::default() };
        let _client = says_and_ends(addr, b"hello");
        turn_for(&mut r, &mut h, millis(100));
        assert_eq!(story(&h.log), ["open", "data 5"]);
        let Seen::Open(conn) = h.log.borrow()[0] else { unreachable!() };
        r.net().resume_reading(conn);
        until(&mut r, &mut h, DUE, closed);
        assert_whole(&h.log);
        let told = story(&h.log);
        if used < 5 {
            assert_eq!(told[2], format!("data {}", 5 - used), "{told:?}");
        }
    }
}

#[test]
fn a_pause_and_a_resume_in_on_open_lose_nothing() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe { open: Some(Box::new(pause_and_resume)), ..Probe::default() };
    let _client = says_and_ends(addr, b"hello");
    until(&mut r, &mut h, DUE, closed);
    assert_eq!(story(&h.log), ["open", "data 5", "eof", "close peer_closed"]);
}

#[test]
fn a_pause_a_resume_or_a_close_write_in_on_eof_brings_no_second_end() {
    type Doing = fn(&mut Net, ConnId);
    let doings: [Doing; 4] = [
        |net, conn| net.pause_reading(conn),
        |net, conn| net.resume_reading(conn),
        pause_and_resume,
        |net, conn| net.close_write(conn),
    ];
    for used in [5, 0] {
        for doing in doings {
            let (mut r, addr) = reactor(Config::default());
            let ended = Rc::new(Cell::new(None));
            let tell = ended.clone();
            let eof = move |net: &mut Net, conn| {
                net.send(conn, b"bye").unwrap();
                doing(net, conn);
                tell.set(Some(conn));
                net.set_timer(millis(40));
            };
            let mut h = Probe {
                data: Some(Box::new(move |_, _, _| used)),
                eof: Some(Box::new(eof)),
                timer: Some(Box::new(move |net, _| net.close(ended.get().unwrap()))),
                ..Probe::default()
            };
            let mut client = says_and_ends(addr, b"hello");
            until(&mut r, &mut h, DUE, closed);
            let mut told = story(&h.log);
            if used == 0 {
                // Whether what was left is shown again behind the end is another question.
                let mut shown = 0;
                told.retain(|event| !event.starts_with("data") || std::mem::replace(&mut shown, 1) == 0);
            }
            assert_eq!(told, ["open", "data 5", "eof", "close peer_closed"]);
            let (got, error) = read_all(&mut client);
            assert!(got == b"bye" && error.is_none(), "{got:?} {error:?}");
        }
    }
}

/// Answers the first input with 8 MB and leaves it unused; what follows is used. The client hears of
/// it only after a while.
fn answer_first(mut after: impl FnMut(&mut Net, ConnId) + 'static) -> Probe {
    let mut answered = false;
    let data = move |net: &mut Net, conn, data: &[u8]| {
        if std::mem::replace(&mut answered, true) {
            return data.len();
        }
        net.send(conn, &[7; 8 << 20]).unwrap();
        after(net, conn);
        0
    };
    Probe { data: Some(Box::new(data)), ..Probe::default() }
}

fn reads_late(mut client: TcpStream) -> std::thread::JoinHandle<(usize, bool)> {
    std::thread::spawn(move || {
        std::thread::sleep(millis(100));
        let (got, error) = read_all(&mut client);
        (got.len(), error.is_none())
    })
}

// A2
#[test]
fn a_close_write_behind_unused_input_loses_neither_the_input_nor_the_end() {
    for congested in [false, true] {
        for in_a_timer in [false, true] {
            let mut config = Config::default();
            config.read_while_congested = congested;
            let (mut r, addr) = reactor(config);
            let who = Rc::new(Cell::new(None));
            let tell = who.clone();
            let after = move |net: &mut Net, conn| {
                tell.set(Some(conn));
                match in_a_timer {
                    // By then the peer's end has been read, if it is read at all.
                    true => {
                        net.set_timer(millis(40));
                    }
                    false => net.close_write(conn),
                }
            };
            let mut h = answer_first(after);
            h.timer = Some(Box::new(move |net, _| net.close_write(who.get().unwrap())));
            let reader = reads_late(says_and_ends(addr, b"hello"));
            until(&mut r, &mut h, DUE, closed);
            let what = format!("read_while_congested {congested}, in a timer {in_a_timer}");
            let told = story(&h.log);
            assert_eq!(reader.join().unwrap(), (8 << 20, true), "{what}: {told:?}");
            assert_eq!(told[..5], ["open", "data 5", "drain", "data 5", "eof"], "{what}");
            assert!(reports(&h.log)[0].reason.is_clean(), "{what}: {told:?}");
        }
    }
}

#[test]
fn a_close_write_of_a_paused_connection_loses_neither_its_input_nor_its_end() {
    let (mut r, addr) = reactor(Config::default());
    let mut first = true;
    let data = move |net: &mut Net, conn, data: &[u8]| {
        if !std::mem::take(&mut first) {
            return data.len();
        }
        net.pause_reading(conn);
        0
    };
    let mut h = Probe { data: Some(Box::new(data)), ..Probe::default() };
    let _client = says_and_ends(addr, b"hello");
    assert!(until(&mut r, &mut h, DUE, |log| log.iter().any(is_data)));
    let Seen::Open(conn) = h.log.borrow()[0] else { unreachable!() };
    r.net().close_write(conn);
    turn_for(&mut r, &mut h, millis(60));
    assert_eq!(story(&h.log), ["open", "data 5"]);
    r.net().resume_reading(conn);
    until(&mut r, &mut h, DUE, closed);
    assert_eq!(story(&h.log)[1..4], ["data 5", "data 5", "eof"]);
    assert!(reports(&h.log)[0].reason.is_clean(), "{:?}", story(&h.log));
}

#[test]
fn a_pause_that_is_lifted_in_on_drain_loses_nothing() {
    type Doing = fn(&mut Net, ConnId);
    let doings: [(Doing, Doing); 3] = [
        (|net, conn| net.pause_reading(conn), |net, conn| net.resume_reading(conn)),
        (|_, _| {}, pause_and_resume),
        (pause_and_resume, |_, _| {}),
    ];
    for congested in [false, true] {
        for (place, (at_first, in_drain)) in doings.into_iter().enumerate() {
            let mut config = Config::default();
            config.read_while_congested = congested;
            let (mut r, addr) = reactor(config);
            let mut h = answer_first(at_first);
            h.drain = Some(Box::new(in_drain));
            let reader = reads_late(says_and_ends(addr, b"hello"));
            until(&mut r, &mut h, DUE, closed);
            let what = format!("read_while_congested {congested}, case {place}");
            assert_eq!(reader.join().unwrap(), (8 << 20, true), "{what}: {:?}", story(&h.log));
            assert_whole(&h.log);
            // Where it was not shown before, it is by the drain.
            let told = story(&h.log);
            let drained = told.iter().position(|event| event == "drain");
            let last = told.iter().rposition(|event| event == "data 5");
            assert!(drained.is_some() && (place == 2 || drained < last), "{what}: {told:?}");
        }
    }
}

#[test]
fn nothing_is_shown_after_the_end_of_the_stream() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe {
        data: Some(Box::new(|_, _, _| 0)),
        // The peer waits for its answer, which takes a while, and is congested on the way.
        eof: Some(Box::new(|net, conn| {
            net.send(conn, &[7; 8 << 20]).unwrap();
        })),
        drain: Some(Box::new(|net, conn| {
            pause_and_resume(net, conn);
            net.set_timer(millis(30));
        })),
        ..Probe::default()
    };
    let who = Rc::new(Cell::new(None));
    let tell = who.clone();
    h.open = Some(Box::new(move |_, conn| tell.set(Some(conn))));
    h.timer = Some(Box::new(move |net, _| net.close(who.get().unwrap())));
    let mut client = says_and_ends(addr, b"hello");
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).map(|_| got.len()).map_err(|error| error.to_string())
    });
    until(&mut r, &mut h, DUE, closed);
    assert_eq!(story(&h.log), ["open", "data 5", "eof", "drain", "close peer_closed"]);
    assert_eq!(reader.join().unwrap(), Ok(8 << 20));
}
