//! A turn that meets a panic, a refusal or an exhausted table leaves everybody else as they were.

use std::cell::RefCell;
use std::io::Write;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use unbroken::{Bytes, CloseReport, Config, ConnId, Handler, Net, TimerId, Via};

use crate::probe::{millis, reactor, turn_for, turn_until, Log, Probe, Seen};
use crate::util::{self, reset};

// Rule 2: nothing after on_close; on_refused "comes before the connection's on_close".
#[test]
fn no_on_refused_comes_after_on_close() {
    let (mut r, addr) = reactor(Config::default());
    let handle = r.net().handle();
    let log = Log::default();
    let conns = Rc::new(RefCell::new(Vec::new()));
    let (c1, c2) = (conns.clone(), conns.clone());
    let mut h = Probe {
        log: log.clone(),
        open: Some(Box::new(move |_, c| c1.borrow_mut().push(c))),
        timer: Some(Box::new(move |net, _| {
            let (a, b) = (c2.borrow()[0], c2.borrow()[1]);
            handle.send(a, "for a").unwrap();
            handle.send(b, "for b").unwrap();
            net.abort(a);
        })),
        refused: Some(Box::new({
            let c = conns.clone();
            move |net, _| net.abort(c.borrow()[1])
        })),
        ..Probe::default()
    };
    let _a = TcpStream::connect(addr).unwrap();
    let _b = TcpStream::connect(addr).unwrap();
    turn_until(&mut r, &mut h, |l| l.iter().filter(|e| matches!(e, Seen::Open(_))).count() == 2);
    r.net().set_timer(Duration::ZERO);
    turn_for(&mut r, &mut h, millis(200));
    let b = conns.borrow()[1];
    let log = log.borrow();
    let closed = log.iter().position(|e| matches!(e, Seen::Close(c, _) if *c == b)).unwrap();
    let refused = log.iter().position(|e| matches!(e, Seen::Refused(c) if *c == b));
    assert!(refused.is_none_or(|at| at < closed), "{log:#?}");
}

// The first handle made in on_close must not take that connection for alive.
#[test]
fn the_first_handle_knows_who_is_dead() {
    let (mut r, addr) = reactor(Config::default());
    let log = Log::default();
    let taken = Rc::new(RefCell::new(None));
    let t = taken.clone();
    let mut h = Probe {
        log: log.clone(),
        close: Some(Box::new(move |net, c| {
            if t.borrow().is_none() {
                *t.borrow_mut() = Some(net.handle().send(c, "too late").is_ok());
            }
        })),
        ..Probe::default()
    };
    drop(TcpStream::connect(addr).unwrap());
    turn_until(&mut r, &mut h, |l| l.iter().any(|e| matches!(e, Seen::Close(..))));
    turn_for(&mut r, &mut h, millis(100));
    let last = log.borrow().last().cloned();
    assert!(matches!(last, Some(Seen::Close(..))), "after on_close: {last:?}, taken {:?}", taken.borrow());
}

// One log line per episode of exhaustion.
#[test]
fn clients_that_come_and_go_do_not_fill_the_log() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static WARNINGS: AtomicUsize = AtomicUsize::new(0);
    struct L;
    impl log::Log for L {
        fn enabled(&self, _: &log::Metadata) -> bool {
            true
        }
        fn log(&self, r: &log::Record) {
            if r.level() == log::Level::Warn && r.args().to_string().starts_with("accept") {
                WARNINGS.fetch_add(1, Ordering::Relaxed);
            }
        }
        fn flush(&self) {}
    }
    match util::role().as_deref() {
        None => {
            let test = "clients_that_come_and_go_do_not_fill_the_log";
            let out = util::again(test, "child").output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        Some(_) => {
            log::set_logger(&L).unwrap();
            log::set_max_level(log::LevelFilter::Warn);
            let (mut r, addr) = reactor(Config::default());
            let log = Log::default();
            let mut h = Probe { log: log.clone(), ..Probe::default() };
            // 40 clients wait, all made before descriptors are short.
            let mut clients: std::collections::VecDeque<_> =
                (0..40).map(|_| TcpStream::connect(addr).unwrap()).collect();
            let used = util::open_fds() as u64 + 2;
            rustix::process::setrlimit(
                rustix::process::Resource::Nofile,
                rustix::process::Rlimit { current: Some(used), maximum: Some(used) },
            )
            .unwrap();
            turn_for(&mut r, &mut h, millis(50));
            let pairs: Vec<_> = log
                .borrow()
                .iter()
                .filter_map(|e| match e {
                    Seen::Open(c) => Some(*c),
                    _ => None,
                })
                .collect();
            assert!(!pairs.is_empty() && pairs.len() < 10);
            for _ in 0..20 {
                // The oldest that is in goes, the next of those who wait comes in.
                let open: Vec<_> = r.net().connections().collect();
                r.net().abort(open[0]);
                turn_for(&mut r, &mut h, millis(5));
            }
            clients.clear();
            let n = WARNINGS.load(Ordering::Relaxed);
            assert!(n <= 2, "{n} warnings in one episode");
        }
    }
}

// "When it leaves work behind, the file descriptor is readable again at once", also by a panic.
#[test]
fn a_turn_that_ends_in_a_panic_leaves_the_descriptor_readable() {
    use std::os::fd::AsFd;
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe { data: Some(Box::new(|_, _, _| panic!("on purpose"))), ..Probe::default() };
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"x").unwrap();
    let mut panicked = false;
    for _ in 0..10 {
        let turn =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| r.turn(&mut h, Some(millis(20)))));
        if turn.is_err() {
            panicked = true;
            break;
        }
    }
    assert!(panicked);
    let fd = r.as_fd();
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let n = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))
        .unwrap();
    assert_eq!(n, 1, "a report is due, next_timeout {:?}", r.next_timeout());
}

// Rule 6: a panic costs the rest of its turn; one in every turn must not cost everything.
#[test]
fn a_timer_that_panics_each_time_starves_nobody() {
    let mut config = Config::default();
    config.catch_panics = true;
    let (mut r, addr) = reactor(config);
    let log = Log::default();
    let mut h = Probe {
        log: log.clone(),
        timer: Some(Box::new(|net, _| {
            net.set_timer(Duration::ZERO);
            panic!("on purpose");
        })),
        ..Probe::default()
    };
    std::panic::set_hook(Box::new(|_| ()));
    r.net().set_timer(Duration::ZERO);
    let _client = TcpStream::connect(addr).unwrap();
    turn_for(&mut r, &mut h, millis(300));
    let _ = std::panic::take_hook();
    assert!(!log.borrow().is_empty(), "no client accepted in {} turns", r.net().stats().turns);
}

// Random panics in every callback: one on_close each, books that balance.
#[test]
fn panics_everywhere() {
    use std::collections::HashMap;
    struct P {
        seed: u64,
        opened: HashMap<ConnId, u32>,
        closed: HashMap<ConnId, u32>,
        after: Vec<String>,
    }
    impl P {
        fn maybe(&mut self) {
            self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if (self.seed >> 33) % 12 == 0 {
                panic!("random")
            }
        }
        fn alive(&mut self, c: ConnId, what: &str) {
            if self.closed.contains_key(&c) {
                self.after.push(format!("{what} {c}"))
            }
        }
    }
    impl Handler for P {
        fn on_open(&mut self, net: &mut Net, c: ConnId, _: Via) {
            self.alive(c, "open");
            *self.opened.entry(c).or_default() += 1;
            let _ = net.send(c, &vec![0; 200_000]);
            self.maybe();
        }
        fn on_data(&mut self, net: &mut Net, c: ConnId, d: &[u8]) -> usize {
            self.alive(c, "data");
            let all: Vec<_> = net.connections().collect();
            net.broadcast(all.iter().copied().take(5), Bytes::from(vec![1; 5000]));
            self.maybe();
            if self.seed & 64 == 0 {
                net.pause_reading(c);
                net.set_timer(millis(1));
            }
            if self.seed & 1024 == 0 {
                if let Some(o) = all.get(3) {
                    net.abort(*o)
                }
            }
            d.len() / 2
        }
        fn on_eof(&mut self, net: &mut Net, c: ConnId) {
            self.alive(c, "eof");
            self.maybe();
            net.close(c);
            self.maybe();
        }
        fn on_drain(&mut self, _: &mut Net, c: ConnId) {
            self.alive(c, "drain");
            self.maybe();
        }
        fn on_timer(&mut self, net: &mut Net, _: TimerId) {
            let all: Vec<_> = net.connections().collect();
            for c in all {
                net.resume_reading(c)
            }
            self.maybe();
        }
        fn on_close(&mut self, _: &mut Net, c: ConnId, _: &CloseReport) {
            *self.closed.entry(c).or_default() += 1;
            self.maybe();
        }
    }
    std::panic::set_hook(Box::new(|_| ()));
    for catch in [true, false] {
        let mut config = Config::default();
        config.catch_panics = catch;
        config.total_write_buffer = 2 << 20;
        let (mut r, addr) = reactor(config);
        let mut h = P { seed: 7, opened: HashMap::new(), closed: HashMap::new(), after: Vec::new() };
        let t = std::thread::spawn(move || {
            let mut keep = Vec::new();
            for n in 0..600usize {
                if let Ok(mut c) = TcpStream::connect(addr) {
                    let _ = c.set_write_timeout(Some(millis(100)));
                    let _ = c.write_all(&vec![1; n * 37 % 5000 + 1]);
                    match n % 4 {
                        0 => drop(c),
                        1 => reset(c),
                        2 => {
                            let _ = c.shutdown(std::net::Shutdown::Write);
                            keep.push(c)
                        }
                        _ => keep.push(c),
                    }
                }
                if keep.len() > 40 {
                    keep.remove(0);
                }
            }
        });
        let end = Instant::now() + Duration::from_secs(20);
        while !(t.is_finished() && r.net().stats().connections == 0 && r.net().stats().accepted >= 590)
            && Instant::now() < end
        {
            r.net().set_timer(millis(5));
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| r.turn(&mut h, Some(millis(10)))));
        }
        let s = r.net().stats().clone();
        let _ = std::panic::take_hook();
        assert!(t.is_finished() && s.connections == 0, "{s:#?}");
        assert!(h.after.is_empty(), "{:?}", h.after);
        assert!(h.closed.values().all(|n| *n == 1));
        assert!(h.opened.keys().all(|c| h.closed.contains_key(c)));
        assert_eq!((s.queued, s.closing, s.congested), (0, 0, 0));
        std::panic::set_hook(Box::new(|_| ()));
    }
    let _ = std::panic::take_hook();
}
