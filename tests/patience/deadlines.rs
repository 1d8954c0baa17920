//! A deadline counts from what really happened last, and judges only who has been heard.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use unbroken::{CloseReason, Config, Reactor, Timeout};

use crate::stage::{
    client_with_room, end, enter, full_backlog, in_parallel, is_close, millis, reactor, reports,
};
use crate::stage::{small_send_buffer, story, turn_for, until, Log, Probe, TOLERANCE};
use crate::util::SOON;

pub const T: Duration = Duration::from_millis(400);

pub fn idle() -> Config {
    let mut config = Config::default();
    config.idle_timeout = Some(T);
    config
}

pub fn reasons(log: &Log) -> Vec<CloseReason> {
    reports(log).iter().map(|report| report.reason).collect()
}

/// The silence after which the only connection ended.
fn assert_ended_as_idle(h: &Probe, silence: Duration) {
    assert_eq!(reasons(&h.log), [CloseReason::TimedOut(Timeout::Idle)]);
    let lived = reports(&h.log)[0].duration;
    assert!(lived >= T, "after {lived:?} already");
    assert!(silence <= T + T / 8 + TOLERANCE, "only after {silence:?}");
}

// B1
#[test]
fn bytes_that_were_acknowledged_long_ago_are_no_sign_of_life() {
    // The last byte is ours, or the answer to a question, or to one whose stream has ended since.
    in_parallel(["greeting", "answer", "half-closed"], |how| {
        let mut config = idle();
        if how == "half-closed" {
            (config.idle_timeout, config.half_close_timeout) = (None, Some(T));
        }
        let (mut r, addr) = reactor(config);
        let mut h = Probe::default();
        h.open = Some(Box::new(move |net, conn| {
            if how == "greeting" {
                net.send(conn, b"hello").unwrap();
            }
        }));
        h.data = Some(Box::new(|net, conn, data| {
            net.send(conn, data).unwrap();
            data.len()
        }));
        h.eof = Some(Box::new(|_, _| {}));
        let (mut client, _) = enter(&mut r, &mut h, addr);
        if how != "greeting" {
            turn_for(&mut r, &mut h, millis(150));
            client.write_all(b"hello").unwrap();
        }
        if how == "half-closed" {
            end(&client);
        }
        let quiet = Instant::now();
        until(&mut r, &mut h, 3 * T, |log| log.iter().any(is_close));
        assert_ended_as_idle(&h, quiet.elapsed());
        client.read_exact(&mut [0; 5]).unwrap();
    });
}

// B1
#[test]
fn a_slow_reader_is_idle_only_when_so_long_has_passed_since_its_last_acknowledgement() {
    let mut config = idle();
    // The kernel takes it all at once, and nothing but acknowledgements happens from there on.
    config.send_buffer = Some(2 << 20);
    let (mut r, addr) = reactor(config);
    let mut h = Probe::default();
    h.open = Some(Box::new(|net, conn| {
        net.send(conn, &[7; 800_000]).unwrap();
    }));
    let client = std::thread::spawn(move || {
        let mut client = client_with_room(addr, 48 << 10);
        let mut last = (Instant::now(), Instant::now());
        for _ in 0..3 {
            std::thread::sleep(millis(250));
            let before = Instant::now();
            if client.read_exact(&mut [0; 100_000]).is_err() {
                break;
            }
            last = (before, Instant::now());
        }
        (last, client)
    });
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    let ended = Instant::now();
    let ((before, after), _client) = client.join().unwrap();
    assert_eq!(reasons(&h.log), [CloseReason::TimedOut(Timeout::Idle)]);
    let report = reports(&h.log).remove(0);
    assert!(ended + millis(5) >= before + T, "{:?} after its last read", ended.duration_since(before));
    // The client's kernel may put an acknowledgement off for 40 ms.
    let most = T + T / 8 + millis(40) + TOLERANCE;
    assert!(ended <= after + most, "{:?} after its last read: {report}", ended.duration_since(after));
    assert!(report.unsent == 0 && report.unacked.is_some_and(|unacked| unacked > 0), "{report}");
}

// B4
#[test]
fn what_was_sent_before_the_idle_deadline_is_delivered_and_counts() {
    in_parallel(["net", "handle", "timer"], |how| {
        let (mut r, addr) = reactor(idle());
        let handle = r.net().handle();
        let mut h = Probe::default();
        let who = Rc::new(Cell::new(None));
        let tell = who.clone();
        h.open = Some(Box::new(move |net, conn| {
            tell.set(Some(conn));
            if how == "timer" {
                net.set_timer(T);
            }
        }));
        h.timer = Some(Box::new(move |net, _| {
            net.send(who.get().unwrap(), b"PING\n").unwrap();
        }));
        let (mut client, conn) = enter(&mut r, &mut h, addr);
        std::thread::sleep(T - millis(60));
        match how {
            "net" => {
                r.net().send(conn, b"PING\n").unwrap();
            }
            "handle" => handle.send(conn, "PING\n").unwrap(),
            _ => {}
        }
        // The outer loop takes its time. (The heartbeat's timer and the deadline come up together.)
        std::thread::sleep(millis(120));
        let late = Instant::now();
        turn_for(&mut r, &mut h, T / 4);
        assert_eq!(story(&h.log), ["open"], "{how}: {:?}", reports(&h.log));
        client.read_exact(&mut [0; 5]).unwrap();
        until(&mut r, &mut h, 3 * T, |log| log.iter().any(is_close));
        assert_eq!(reasons(&h.log), [CloseReason::TimedOut(Timeout::Idle)], "{how}");
        assert!(late.elapsed() <= T + T / 8 + TOLERANCE, "{how}: {:?}", late.elapsed());
    });
}

// B4
#[test]
fn a_close_before_the_idle_deadline_is_a_close() {
    let (mut r, addr) = reactor(idle());
    let mut h = Probe::default();
    let (mut client, conn) = enter(&mut r, &mut h, addr);
    std::thread::sleep(T - millis(60));
    r.net().close(conn);
    std::thread::sleep(millis(120));
    turn_for(&mut r, &mut h, millis(20));
    assert_eq!(story(&h.log), ["open"], "{:?}", reports(&h.log));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    assert_eq!(reasons(&h.log), [CloseReason::Finished]);
}

/// Has the client write a byte every 40 ms for so long, while the engine turns.
fn goes_on_sending(r: &mut Reactor, h: &mut Probe, client: &mut TcpStream, time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let _ = client.write_all(b"x");
        turn_for(r, h, millis(40));
    }
}

// B6
#[test]
fn a_peer_that_goes_on_sending_is_not_idle_although_nobody_reads_from_it() {
    in_parallel(["paused", "congested", "echo"], |how| {
        let mut config = idle();
        small_send_buffer(&mut config);
        let (mut r, addr) = reactor(config);
        let mut h = Probe { quiet: true, ..Probe::default() };
        h.open = Some(Box::new(move |net, conn| match how {
            "paused" => net.pause_reading(conn),
            _ => {
                net.send(conn, &[7; 4 << 20]).unwrap();
            }
        }));
        h.data = Some(Box::new(move |net, conn, data| {
            if how == "echo" {
                // Its own queue grows by what it sends, so that it is not read from for ever.
                net.send(conn, data).unwrap();
            }
            data.len()
        }));
        let mut client = client_with_room(addr, 4096);
        turn_for(&mut r, &mut h, millis(20));
        goes_on_sending(&mut r, &mut h, &mut client, 3 * T);
        assert_eq!(reports(&h.log), [], "{how}");
    });
}

// B6
#[test]
fn a_paused_connection_whose_peer_is_silent_is_idle() {
    let (mut r, addr) = reactor(idle());
    let mut h = Probe { open: Some(Box::new(|net, conn| net.pause_reading(conn))), ..Probe::default() };
    let (_client, _) = enter(&mut r, &mut h, addr);
    let quiet = Instant::now();
    until(&mut r, &mut h, 3 * T, |log| log.iter().any(is_close));
    assert_ended_as_idle(&h, quiet.elapsed());
}

// B2, B7
#[test]
fn a_connect_that_nobody_answers_is_given_up_in_time_and_not_before() {
    let mut config = Config::default();
    config.connect_timeout = millis(200);
    let mut r = Reactor::new(config).unwrap();
    let mut h = Probe::default();
    let (nowhere, _listener, _fillers) = full_backlog();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = Instant::now();
    r.net().connect(nowhere).unwrap();
    r.net().connect(there.local_addr().unwrap()).unwrap();
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    assert!(asked.elapsed() >= millis(199), "{:?}", asked.elapsed());
    assert!(asked.elapsed() <= millis(200) + TOLERANCE, "{:?}", asked.elapsed());
    assert_eq!(story(&h.log), ["open", "close connect_timeout"]);
    assert_eq!(r.net().connections().count(), 1);
}
