//! However close together an end, a reset and a call come, nothing is lost and the cause is true.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use unbroken::{Addr, CloseReason, Config, IntoAddr, Reactor};

use crate::probe::{millis, reactor, reports, turn_for, turn_until, Log, Probe, Seen};
use crate::util::reset;

// A handler that stops halfway because it is congested "goes on there" after the drain: the end
// of the stream must not overtake what it left.
#[test]
fn the_end_of_the_stream_does_not_overtake_unused_input() {
    let (mut r, addr) = reactor(Config::default());
    let log = Log::default();
    let answered = Rc::new(RefCell::new(0usize));
    let a = answered.clone();
    let mut h = Probe {
        log: log.clone(),
        quiet: true,
        // One byte is one request; its answer is 1 MB. Stops when congested.
        data: Some(Box::new(move |net, c, d| {
            for n in 0..d.len() {
                *a.borrow_mut() += 1;
                match net.send(c, &vec![7; 1_000_000]) {
                    Ok(unbroken::Sent::Queued) => {}
                    _ => return n + 1,
                }
            }
            d.len()
        })),
        ..Probe::default()
    };
    let mut client = TcpStream::connect(addr).unwrap();
    let reader = std::thread::spawn(move || {
        client.write_all(&[1; 60]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        std::thread::sleep(millis(300));
        let mut got = Vec::new();
        let result = client.read_to_end(&mut got);
        (got.len(), result.map_err(|e| e.to_string()))
    });
    turn_until(&mut r, &mut h, |l| l.iter().any(|e| matches!(e, Seen::Close(..))));
    let got = reader.join().unwrap();
    assert_eq!(
        (*answered.borrow(), got.0),
        (60, 60_000_000),
        "{:?}; report {}",
        got.1,
        reports(&log).remove(0)
    );
}

// What the peer sent before its reset is delivered, also when it came before the connect was seen.
#[test]
fn what_came_before_a_reset_is_delivered_to_an_outbound_connection() {
    let mut r = Reactor::new(Config::default()).unwrap();
    let log = Log::default();
    let mut h = Probe { log: log.clone(), ..Probe::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    r.net().connect(listener.local_addr().unwrap()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"503 busy").unwrap();
    reset(peer);
    turn_until(&mut r, &mut h, |l| l.iter().any(|e| matches!(e, Seen::Close(..))));
    let report = reports(&log).remove(0);
    assert_eq!((report.reason, report.received), (CloseReason::Reset, 8), "{report}; {:?}", log.borrow());
}

#[test]
fn close_write_while_connecting_ends_as_finished() {
    let mut r = Reactor::new(Config::default()).unwrap();
    let log = Log::default();
    let mut h = Probe { log: log.clone(), ..Probe::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let c = r.net().connect(listener.local_addr().unwrap()).unwrap();
    r.net().send(c, b"request").unwrap();
    r.net().close_write(c);
    let t = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        peer.write_all(b"answer").unwrap();
        all
    });
    turn_until(&mut r, &mut h, |l| l.iter().any(|e| matches!(e, Seen::Close(..))));
    assert_eq!(t.join().unwrap(), b"request");
    let report = reports(&log).remove(0);
    assert_eq!(report.reason, CloseReason::Finished, "we ended first: {report}");
}

/// A program's own kind of address, which nobody has looked at.
struct Unseen(Addr);

impl IntoAddr for Unseen {
    fn into_addr(self) -> std::io::Result<Addr> {
        Ok(self.0)
    }
}

#[test]
fn the_errno_is_one_that_the_system_reported() {
    let mut r = Reactor::new(Config::default()).unwrap();
    let log = Log::default();
    let mut h = Probe { log: log.clone(), ..Probe::default() };
    let long = Addr::Unix("x".repeat(300).into());
    assert!(r.net().connect(&long).is_err());
    r.net().connect(Unseen(long)).unwrap();
    turn_until(&mut r, &mut h, |l| !l.is_empty());
    let report = reports(&log).remove(0);
    assert_ne!(report.errno, Some(5), "no system call was made: {report}");
}

// A Unix-domain listener handed over keeps its path when this process lets go of it.
#[test]
fn a_handed_over_unix_listener_keeps_its_path() {
    let path = std::env::temp_dir().join(format!("review-{}", std::process::id()));
    let mut old = Reactor::new(Config::default()).unwrap();
    let l = old.net().listen(path.clone()).unwrap();
    let fd = old.net().listener_fd(l).unwrap().try_clone_to_owned().unwrap();
    let mut new = Reactor::new(Config::default()).unwrap();
    new.net().listen_from(fd).unwrap();
    old.net().close_listener(l);
    UnixStream::connect(&path).expect("the new process serves the path");
}

// G3: "clients that wait in the backlog are taken in".
#[test]
fn clients_that_came_during_the_turn_are_taken_in_by_a_shutdown() {
    let (mut r, addr) = reactor(Config::default());
    let clients = Rc::new(RefCell::new(Vec::new()));
    let keep = clients.clone();
    let mut h = Probe {
        timer: Some(Box::new(move |net, _| {
            for _ in 0..5 {
                keep.borrow_mut().push(TcpStream::connect(addr).unwrap());
            }
            net.shutdown(Duration::from_secs(2));
        })),
        ..Probe::default()
    };
    turn_for(&mut r, &mut h, millis(50)); // The listener has met EAGAIN.
    r.net().set_timer(millis(1));
    let t = std::thread::spawn(|| ());
    t.join().unwrap();
    for _ in 0..20 {
        r.turn(&mut h, Some(millis(20))).unwrap();
    }
    let mut errors = Vec::new();
    for client in clients.borrow_mut().iter_mut() {
        client.set_read_timeout(Some(millis(2000))).unwrap();
        if let Err(e) = client.read(&mut [0; 1]) {
            errors.push(e.to_string());
        }
    }
    assert!(errors.is_empty(), "{errors:?}");
}

// "every connection is closed as by close, and what is not done after deadline is cut off as Shutdown"
#[test]
fn a_shutdown_gives_every_connection_its_time() {
    let mut config = Config::default();
    config.max_lingering = 3;
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        open: Some(Box::new(|net, c| {
            let _ = net.send(c, &vec![0; 8 << 20]);
        })),
        ..Probe::default()
    };
    let clients: Vec<_> = (0..6).map(|_| TcpStream::connect(addr).unwrap()).collect();
    turn_until(&mut r, &mut h, |l| l.len() == 6);
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut c| {
            std::thread::spawn(move || {
                std::thread::sleep(millis(300));
                let mut all = Vec::new();
                c.read_to_end(&mut all).map_err(|e| e.to_string())
            })
        })
        .collect();
    r.net().shutdown(Duration::from_secs(4));
    turn_until(&mut r, &mut h, |l| l.iter().filter(|e| matches!(e, Seen::Close(..))).count() == 6);
    let got: Vec<_> = readers.into_iter().map(|t| t.join().unwrap()).collect();
    let reasons: Vec<_> = reports(&log).iter().map(|r| r.reason).collect();
    assert!(got.iter().all(|g| g == &Ok(8 << 20)), "{got:?} {reasons:?}");
}
