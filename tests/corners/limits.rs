//! Limits hold whatever the handler does, and count what they say.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use unbroken::{Bytes, CloseReason, Config, Reactor};

use crate::probe::{millis, reactor, reports, turn_for, turn_until, Log, Probe};
use crate::util::{self};

/// Whether this process runs nothing but this test, as one must that measures memory. If not,
/// another one is started that does, and has to pass.
fn alone(test: &str) -> bool {
    if util::role().is_some() {
        return true;
    }
    let output = util::again(test, "alone").output().expect("this program starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:#?}");
    false
}

// max_read_buffer holds with read_while_congested as well.
#[test]
fn unused_input_is_capped_when_reading_while_congested() {
    let mut config = Config::default();
    config.read_while_congested = true;
    let (mut r, addr) = reactor(config);
    let most = Rc::new(RefCell::new(0));
    let m = most.clone();
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        quiet: true,
        open: Some(Box::new(|net, c| {
            let _ = net.send(c, &vec![0; 12 << 20]);
        })),
        data: Some(Box::new(move |_, _, d| {
            let mut m = m.borrow_mut();
            *m = d.len().max(*m);
            0
        })),
        ..Probe::default()
    };
    let client = TcpStream::connect(addr).unwrap();
    let writer = std::thread::spawn(move || {
        let mut client = client;
        client.set_write_timeout(Some(millis(3000))).unwrap();
        let _ = client.write_all(&vec![1; 8 << 20]);
        std::thread::sleep(millis(500));
    });
    turn_for(&mut r, &mut h, millis(2000));
    writer.join().unwrap();
    let most = *most.borrow();
    assert!(most <= (128 << 10), "{most} bytes unused; reports {:?}", reports(&log));
}

// The same when each drain grants a read: the excess is not "one read at most".
#[test]
fn unused_input_is_capped_whatever_is_drained() {
    let (mut r, addr) = reactor(Config::default());
    let most = Rc::new(RefCell::new(0));
    let m = most.clone();
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        quiet: true,
        open: Some(Box::new(|net, c| {
            let _ = net.send_bytes(c, Bytes::from(vec![0; 100_000]));
        })),
        drain: Some(Box::new(|net, c| {
            // A producer that always has more.
            let _ = net.send_bytes(c, Bytes::from(vec![0; 4_000_000]));
        })),
        data: Some(Box::new(move |_, _, d| {
            let mut m = m.borrow_mut();
            *m = d.len().max(*m);
            0
        })),
        ..Probe::default()
    };
    let client = TcpStream::connect(addr).unwrap();
    let mut reading = client.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 20];
        while reading.read(&mut buf).is_ok_and(|n| n > 0) {}
    });
    std::thread::spawn(move || {
        let mut client = client;
        let _ = client.write_all(&vec![1; 64 << 20]);
        std::thread::sleep(millis(500));
    });
    turn_for(&mut r, &mut h, millis(2000));
    let most = *most.borrow();
    assert!(most <= (192 << 10), "{most} bytes unused; reports {:?}", reports(&log));
}

// The limit counts open connections: one that has ended is not.
#[test]
fn who_has_ended_does_not_count_at_the_limit() {
    let mut config = Config::default();
    config.max_connections = Some(1);
    config.at_limit = unbroken::AtLimit::Refuse;
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe { log: log.clone(), ..Probe::default() };
    let first = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |l| !l.is_empty());
    drop(first);
    std::thread::sleep(millis(50));
    let _second = TcpStream::connect(addr).unwrap();
    turn_for(&mut r, &mut h, millis(200));
    let reasons: Vec<_> = reports(&log).iter().map(|r| r.reason).collect();
    assert_eq!(reasons, [CloseReason::PeerClosed], "{:?}", log.borrow());
}

#[test]
fn no_more_commands_wait_than_the_cap() {
    let mut config = Config::default();
    config.max_commands = 4;
    config.commands_per_turn = 1;
    let (mut r, _) = reactor(config);
    let handle = r.net().handle();
    let mut h = Probe::default();
    let mut taken = 0;
    while handle.run(|_| ()).is_ok() {
        taken += 1;
    }
    r.turn(&mut h, Some(millis(20))).unwrap();
    let done = r.net().stats().commands;
    while handle.run(|_| ()).is_ok() {
        taken += 1;
    }
    assert!(taken - done <= 4, "{} wait", taken - done);
}

#[test]
fn a_valid_configuration_can_listen() {
    let mut config = Config::default();
    let long = Duration::from_secs(32_767);
    config.keepalive = Some(unbroken::Keepalive { idle: long, interval: long, count: 127 });
    let refused = config.validate().unwrap_err().to_string();
    assert!(refused.starts_with("user_timeout"), "{refused}");
    // The longest user timeout that a kernel takes, and one that follows from the keepalive of few probes.
    for (idle, count) in [(2_114_713, 1), (1, 1)] {
        let idle = Duration::from_secs(idle).min(long);
        let interval = Duration::from_secs(1);
        config.keepalive = Some(unbroken::Keepalive { idle, interval, count });
        let mut r = Reactor::new(config.clone()).unwrap();
        r.net().listen("127.0.0.1:0").unwrap();
    }
}

// The cap of the write buffers is a cap of memory, within a small factor.
#[test]
fn queued_bytes_cost_what_they_count() {
    if !alone("limits::queued_bytes_cost_what_they_count") {
        return;
    }
    let (mut r, addr) = reactor(Config::default());
    let log = Log::default();
    let cost = Rc::new(RefCell::new((0usize, 0usize)));
    let k = cost.clone();
    let mut h = Probe {
        log: log.clone(),
        open: Some(Box::new(move |net, c| {
            let before = util::rss();
            // A header by copy, a payload by reference: an everyday way to frame messages.
            while net.queued(c) < (15 << 20) {
                net.send(c, &[1, 2, 3, 4]).unwrap();
                net.send_bytes(c, Bytes::from(vec![9; 512])).unwrap();
            }
            *k.borrow_mut() = (net.queued(c), util::rss() - before);
        })),
        ..Probe::default()
    };
    let _client = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |l| !l.is_empty());
    let (queued, rss) = *cost.borrow();
    assert!(
        rss < 2 * queued,
        "{queued} bytes queued cost {rss} of memory: {:.1} times",
        rss as f64 / queued as f64
    );
}

// N4: what is left of a big input does not keep the big buffer.
#[test]
fn a_byte_left_of_a_big_input_costs_little() {
    if !alone("limits::a_byte_left_of_a_big_input_costs_little") {
        return;
    }
    let mut config = Config::default();
    config.max_read_buffer = 1 << 20;
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        quiet: true,
        // A record of 1,000,000 bytes, of which the first byte of the next one is already there.
        data: Some(Box::new(|_, _, d| if d.len() > 1_000_000 { 1_000_000 } else { 0 })),
        ..Probe::default()
    };
    let mut clients = Vec::new();
    let before = util::rss();
    for _ in 0..60 {
        let mut c = TcpStream::connect(addr).unwrap();
        clients.push(std::thread::spawn(move || {
            c.write_all(&vec![1; 1_000_001]).unwrap();
            c
        }));
        turn_for(&mut r, &mut h, millis(25));
    }
    let clients: Vec<_> = clients.into_iter().map(|t| t.join().unwrap()).collect();
    turn_for(&mut r, &mut h, millis(100));
    let grown = util::rss() - before;
    assert_eq!(r.net().stats().bytes_in, 60 * 1_000_001);
    assert!(grown < 20 << 20, "60 unused bytes cost {grown}");
    drop(clients);
}
