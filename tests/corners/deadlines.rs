//! Deadlines run from what really happened last, not from when the engine looked.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use unbroken::{CloseReason, Config, Reactor, SoftLimit};

use crate::probe::{millis, reactor, reports, turn_for, turn_until, Log, Probe, Seen};
use crate::util::{pattern, reset};

// A peer that was quiet for longer than half_close_timeout (idle_timeout is off) and then ends
// its request must have half_close_timeout from there on, as close_write gives.
#[test]
fn half_close_timeout_runs_from_the_half_close() {
    let mut config = Config::default();
    config.half_close_timeout = Some(millis(600));
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let who = Rc::new(RefCell::new(None));
    let w = who.clone();
    let mut h = Probe {
        log: log.clone(),
        eof: Some(Box::new(move |net, c| {
            *w.borrow_mut() = Some(c);
            net.set_timer(millis(100));
        })),
        timer: Some(Box::new(move |net, _| {
            let c = who.borrow().unwrap();
            let _ = net.send(c, b"answer");
            net.close(c);
        })),
        ..Probe::default()
    };
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"request").unwrap();
    turn_for(&mut r, &mut h, millis(1000));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(turn_until(&mut r, &mut h, |l| l.iter().any(|e| matches!(e, Seen::Close(..)))));
    let report = reports(&log).remove(0);
    assert_eq!(report.reason, CloseReason::PeerClosed, "{report}");
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
}

// A callback that took long is not the peers' fault: what they sent meanwhile counts.
#[test]
fn a_long_callback_makes_nobody_idle() {
    let mut config = Config::default();
    config.idle_timeout = Some(millis(500));
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        timer: Some(Box::new(|_, _| std::thread::sleep(millis(700)))),
        ..Probe::default()
    };
    let mut client = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |l| !l.is_empty());
    r.net().set_timer(millis(50));
    let writer = std::thread::spawn(move || {
        for _ in 0..30 {
            if client.write_all(b"x").is_err() {
                return;
            }
            std::thread::sleep(millis(50));
        }
        std::thread::sleep(millis(100));
    });
    turn_for(&mut r, &mut h, millis(1200));
    let reports = reports(&log);
    writer.join().unwrap();
    assert!(reports.is_empty(), "{}", reports[0]);
}

// The same for a connect that succeeded in time.
#[test]
fn a_long_callback_fails_no_connect() {
    let mut config = Config::default();
    config.connect_timeout = millis(300);
    let mut r = Reactor::new(config).unwrap();
    let log = Log::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut h = Probe {
        log: log.clone(),
        timer: Some(Box::new(move |net, _| {
            net.connect(addr).unwrap();
            std::thread::sleep(millis(500));
        })),
        ..Probe::default()
    };
    r.net().set_timer(Duration::ZERO);
    turn_until(&mut r, &mut h, |l| !l.is_empty());
    assert!(matches!(log.borrow()[0], Seen::Open(_)), "{:?}", log.borrow());
}

// A limit on how long bytes may be queued counts from when they could leave.
#[test]
fn the_soft_limit_does_not_count_the_time_of_connecting() {
    let path = std::env::temp_dir().join(format!("review-soft-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let listener: UnixListener = socket.into();
    let _first = UnixStream::connect(&path).unwrap();
    let mut config = Config::default();
    config.soft_limit = Some(SoftLimit { bytes: 100_000, duration: millis(300) });
    let mut r = Reactor::new(config).unwrap();
    let log = Log::default();
    let mut h = Probe { log: log.clone(), ..Probe::default() };
    let c = r.net().connect(path.clone()).unwrap();
    r.net().send(c, &pattern(2_000_000)).unwrap();
    let t = std::thread::spawn(move || {
        std::thread::sleep(millis(600));
        let _first = listener.accept().unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut n = 0;
        let mut buf = vec![0; 65536];
        while n < 2_000_000 {
            match peer.read(&mut buf) {
                Ok(0) | Err(_) => break,
                Ok(k) => n += k,
            }
        }
        n
    });
    turn_for(&mut r, &mut h, millis(1500));
    let got = t.join().unwrap();
    let _ = std::fs::remove_file(&path);
    assert_eq!(got, 2_000_000, "{:?}", reports(&log));
}

// Bytes that flow to the peer out of the kernel's buffer are bytes in that direction.
#[test]
fn a_download_under_way_is_not_idle() {
    let mut config = Config::default();
    config.idle_timeout = Some(millis(500));
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        data: Some(Box::new(|net, c, d| {
            let _ = net.send(c, &vec![5; 2_000_000]);
            d.len()
        })),
        ..Probe::default()
    };
    let client = std::thread::spawn(move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.connect(&addr.into()).unwrap();
        let mut c = TcpStream::from(socket);
        c.write_all(b"get").unwrap();
        let (mut got, mut buf) = (0, vec![0; 30_000]);
        while got < 2_000_000 {
            match c.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) => return (got, e.to_string()),
            }
            std::thread::sleep(millis(20));
        }
        (got, String::new())
    });
    turn_until(&mut r, &mut h, |l| l.iter().any(|e| matches!(e, Seen::Close(..))));
    let got = client.join().unwrap();
    assert_eq!(got, (2_000_000, String::new()), "{}", reports(&log).remove(0));
}

// "A failed write is still noticed" while reading is paused.
#[test]
fn a_broken_write_half_of_a_paused_connection_is_noticed() {
    let mut config = Config::default();
    config.write_stall = Some(millis(300));
    config.half_close_timeout = Some(millis(300));
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        open: Some(Box::new(|net, c| {
            net.pause_reading(c);
            let _ = net.send(c, &vec![0; 8 << 20]);
        })),
        ..Probe::default()
    };
    let client = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |l| !l.is_empty());
    reset(client);
    turn_for(&mut r, &mut h, millis(1500));
    assert_eq!(reports(&log).len(), 1, "nothing told: {:?}; {:?}", log.borrow(), r.net().stats().queued);
}
