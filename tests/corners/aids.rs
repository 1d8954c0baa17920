//! What saves code in a handler: a deadline of each connection, input shown when there is enough of
//! it, settings of a connection's own, the last word before a shutdown.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use unbroken::{Bytes, CloseReason, Config, Net, Sent, Timeout, Turn};

use crate::probe::{millis, reactor, reports, turn_for, turn_until, Log, Probe, Seen};
use crate::util::pattern;

fn count(log: &Log, wanted: impl Fn(&Seen) -> bool) -> usize {
    log.borrow().iter().filter(|seen| wanted(seen)).count()
}

fn deadlines(log: &Log) -> usize {
    count(log, |seen| matches!(seen, Seen::Deadline(_)))
}

#[test]
fn a_deadline_comes_once_and_closes_unless_the_program_says_otherwise() {
    let (mut r, addr) = reactor(Config::default());
    let set_at = Rc::new(Cell::new(Instant::now()));
    let at = set_at.clone();
    let mut h = Probe {
        open: Some(Box::new(move |net, conn| {
            at.set(Instant::now());
            net.set_deadline(conn, millis(100));
        })),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut client = TcpStream::connect(addr).unwrap();
    assert!(turn_until(&mut r, &mut h, |log| log.iter().any(|seen| matches!(seen, Seen::Deadline(_)))));
    let took = set_at.get().elapsed();
    assert!(took >= millis(100) && took < millis(2000), "{took:?}");
    turn_for(&mut r, &mut h, millis(50));
    assert_eq!(deadlines(&log), 1);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed in good order");
    drop(client);
    assert!(turn_until(&mut r, &mut h, |log| log.iter().any(|seen| matches!(seen, Seen::Close(..)))));
    assert_eq!(reports(&log)[0].reason, CloseReason::Finished);
}

#[test]
fn a_deadline_that_is_moved_or_cleared_or_whose_connection_ends_does_not_come() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe {
        open: Some(Box::new(|net, conn| net.set_deadline(conn, millis(80)))),
        data: Some(Box::new(|net, conn, data: &[u8]| {
            match data[0] {
                b'm' => net.set_deadline(conn, millis(80)),
                b'c' => net.clear_deadline(conn),
                _ => net.close(conn),
            }
            data.len()
        })),
        deadline: Some(Box::new(|_, _| {})),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut moved = TcpStream::connect(addr).unwrap();
    let mut others = [b"c", b"x"].map(|_| TcpStream::connect(addr).unwrap());
    turn_until(&mut r, &mut h, |log| log.len() == 3);
    others[0].write_all(b"c").unwrap();
    others[1].write_all(b"x").unwrap();
    for _ in 0..8 {
        moved.write_all(b"m").unwrap();
        turn_for(&mut r, &mut h, millis(30));
        assert_eq!(deadlines(&log), 0);
    }
    turn_for(&mut r, &mut h, millis(200));
    assert_eq!(deadlines(&log), 1, "of the one that was only moved, when nothing moved it any more");
}

// The reactor was busy when the deadline passed; what was in time is heard first.
#[test]
fn input_that_came_in_time_is_delivered_before_the_deadline() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe {
        open: Some(Box::new(|net, conn| net.set_deadline(conn, millis(100)))),
        data: Some(Box::new(|net, conn, data: &[u8]| {
            net.set_deadline(conn, millis(5000));
            data.len()
        })),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    turn_until(&mut r, &mut h, |log| log.len() == 20);
    for client in &mut clients {
        client.write_all(b"in time").unwrap();
    }
    std::thread::sleep(millis(150));
    turn_for(&mut r, &mut h, millis(100));
    assert_eq!(deadlines(&log), 0);
}

#[test]
fn what_a_deadline_sends_saves_its_connection_from_being_idle() {
    let mut config = Config::default();
    config.idle_timeout = Some(millis(200));
    let (mut r, addr) = reactor(config);
    let mut h = Probe {
        open: Some(Box::new(|net, conn| net.set_deadline(conn, millis(200)))),
        deadline: Some(Box::new(|net, conn| {
            net.send(conn, b"ping").unwrap();
            net.set_deadline(conn, millis(200));
        })),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut client = TcpStream::connect(addr).unwrap();
    turn_for(&mut r, &mut h, millis(700));
    assert!(deadlines(&log) >= 2 && reports(&log).is_empty(), "{:?}", log.borrow());
    let mut got = [0; 8];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"pingping");
}

fn shown(log: &Log) -> Vec<Vec<u8>> {
    let data = |seen: &Seen| match seen {
        Seen::Data(_, data) => Some(data.clone()),
        _ => None,
    };
    log.borrow().iter().filter_map(data).collect()
}

/// Uses frames of a length in one byte; of one that is incomplete it says how much there must be.
fn frames(net: &mut Net, conn: unbroken::ConnId, data: &[u8]) -> usize {
    let mut used = 0;
    while let Some(&length) = data.get(used) {
        let whole = 1 + usize::from(length);
        if data.len() - used < whole {
            net.want(conn, whole).unwrap();
            break;
        }
        used += whole;
    }
    used
}

#[test]
fn who_wants_more_is_shown_nothing_before_it_is_there() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe { data: Some(Box::new(frames)), ..Probe::default() };
    let log = h.log.clone();
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_nodelay(true).unwrap();
    for piece in [&b"\x0ahel"[..], b"lo", b"wor", b"ld\x02x", b"y\x01"] {
        client.write_all(piece).unwrap();
        turn_for(&mut r, &mut h, millis(20));
    }
    let expected: [&[u8]; 3] = [b"\x0ahel", b"\x0ahelloworld\x02x", b"\x02xy\x01"];
    assert_eq!(shown(&log), expected);
    assert_eq!(r.net().stats().unused, 1, "the length of the next");
    // The end comes: what is there is shown, for there will be no more.
    client.shutdown(Shutdown::Write).unwrap();
    assert!(turn_until(&mut r, &mut h, |log| log.iter().any(|seen| matches!(seen, Seen::Eof(_)))));
    assert_eq!(shown(&log).last().unwrap(), b"\x01");
    let order: Vec<_> = log.borrow().iter().rev().take(2).cloned().collect();
    assert!(matches!(&order[..], [Seen::Eof(_) | Seen::Close(..), ..]), "{order:?}");
}

#[test]
fn a_pause_does_not_show_less_than_was_wanted_either() {
    let (mut r, addr) = reactor(Config::default());
    let conn = Rc::new(RefCell::new(None));
    let c = conn.clone();
    let mut h = Probe {
        data: Some(Box::new(move |net, id, data: &[u8]| {
            *c.borrow_mut() = Some(id);
            if data.len() < 4 {
                net.want(id, 4).unwrap();
                return 0;
            }
            data.len()
        })),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"ab").unwrap();
    turn_until(&mut r, &mut h, |log| log.len() == 2);
    let id = conn.borrow().unwrap();
    r.net().pause_reading(id);
    r.net().resume_reading(id);
    turn_for(&mut r, &mut h, millis(30));
    assert_eq!(shown(&log), [b"ab"], "two are not four, whatever was paused");
    client.write_all(b"cd").unwrap();
    turn_for(&mut r, &mut h, millis(30));
    assert_eq!(shown(&log), [&b"ab"[..], b"abcd"]);
    client.write_all(b"e").unwrap();
    turn_for(&mut r, &mut h, millis(30));
    assert_eq!(shown(&log).last().unwrap(), b"e", "it held for one on_data");
}

#[test]
fn more_than_can_be_kept_is_not_to_be_wanted() {
    let (mut r, addr) = reactor(Config::default());
    let asked = Rc::new(RefCell::new(Vec::new()));
    let a = asked.clone();
    let mut h = Probe {
        open: Some(Box::new(move |net, conn| {
            let most = net.config().max_read_buffer;
            for bytes in [most, most + 1, usize::MAX] {
                a.borrow_mut().push(net.want(conn, bytes).map_err(|error| error.to_string()));
            }
        })),
        ..Probe::default()
    };
    let _client = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |log| log.len() == 1);
    let asked = asked.borrow();
    assert!(asked[0].is_ok());
    assert!(asked[1..].iter().all(|answer| answer.as_ref().unwrap_err().contains("max_read_buffer")));
}

#[test]
fn a_connection_may_have_settings_of_its_own() {
    let mut config = Config::default();
    config.idle_timeout = Some(millis(150));
    let (mut r, addr) = reactor(config);
    let first = Rc::new(Cell::new(true));
    let mut h = Probe {
        open: Some(Box::new(move |net, conn| {
            if first.replace(false) {
                let mut settings = net.config().settings();
                (settings.idle_timeout, settings.high_water, settings.low_water) = (None, 1000, 100);
                net.set_settings(conn, settings).unwrap();
                assert_eq!(net.settings(conn).unwrap().high_water, 1000);
            }
        })),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut patient = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |log| log.len() == 1);
    let _idle = TcpStream::connect(addr).unwrap();
    turn_for(&mut r, &mut h, millis(500));
    let reports = reports(&log);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].reason, CloseReason::TimedOut(Timeout::Idle));
    let conn = r.net().connections().next().unwrap();
    assert_eq!(r.net().send(conn, &pattern(999)), Ok(Sent::Queued));
    assert_eq!(r.net().send(conn, b"x"), Ok(Sent::Congested));
    assert!(turn_until(&mut r, &mut h, |log| log.contains(&Seen::Drain(conn))));
    patient.read_exact(&mut [0; 1000]).unwrap();
    // What cannot work is refused, and nothing changes.
    let mut settings = r.net().settings(conn).unwrap().clone();
    settings.low_water = settings.high_water;
    assert!(r.net().set_settings(conn, settings).unwrap_err().to_string().starts_with("low_water"));
    assert_eq!(r.net().settings(conn).unwrap().low_water, 100);
    assert_eq!(r.net().config().settings().high_water, 64 << 10, "the others keep what they have");
}

#[test]
fn the_last_word_of_a_protocol_reaches_everybody() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe {
        shutdown: Some(Box::new(|net| {
            let all: Vec<_> = net.connections().collect();
            net.broadcast(all, Bytes::from_static(b"goodbye"));
        })),
        ..Probe::default()
    };
    let log = h.log.clone();
    let mut clients: Vec<_> = (0..5).map(|_| TcpStream::connect(addr).unwrap()).collect();
    turn_until(&mut r, &mut h, |log| log.len() == 5);
    r.net().shutdown(Duration::ZERO);
    while r.turn(&mut h, Some(millis(100))).unwrap() == Turn::Running {}
    for client in &mut clients {
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "goodbye");
    }
    assert_eq!(count(&log, |seen| *seen == Seen::Shutdown), 1);
}

#[test]
fn what_a_listener_brings_has_the_settings_that_were_asked_for_it() {
    let (mut r, addr) = reactor(Config::default());
    let mut options = unbroken::ListenOptions::default();
    let mut settings = r.net().config().settings();
    settings.idle_timeout = Some(millis(100));
    options.settings = Some(settings.clone());
    let brisk = r.net().listen_with("127.0.0.1:0", &options).unwrap();
    let brisk = r.net().local_addr(brisk).unwrap().as_tcp().unwrap();
    let mut h = Probe::default();
    let log = h.log.clone();
    let _clients = [addr, brisk].map(|addr| TcpStream::connect(addr).unwrap());
    assert!(turn_until(&mut r, &mut h, |log| log.iter().any(|seen| matches!(seen, Seen::Close(..)))));
    turn_for(&mut r, &mut h, millis(200));
    assert_eq!(reports(&log).len(), 1, "the other listener's stays");
    assert_eq!(reports(&log)[0].reason, CloseReason::TimedOut(Timeout::Idle));
    settings.high_water = 0;
    options.settings = Some(settings);
    let refused = r.net().listen_with("127.0.0.1:0", &options).unwrap_err();
    assert!(refused.to_string().starts_with("high_water"), "{refused}");
}
