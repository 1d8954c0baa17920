//! What several of these tests need: turns until something is so, crowds of clients, peers that
//! hang, and measures that a busy machine does not spoil.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unbroken::{Config, ConnId, Handler, Net, Reactor};

pub use crate::probe::{millis, reactor, reports, turn_for, Log, Probe, Seen};
use crate::util;

/// What a busy machine may add to any time that is measured by the clock.
pub const TOLERANCE: Duration = Duration::from_millis(200);

/// Turns until `done` says yes of what was seen, for `time` at most. Returns whether it did.
pub fn until(r: &mut Reactor, h: &mut Probe, time: Duration, done: impl Fn(&[Seen]) -> bool) -> bool {
    let log = h.log.clone();
    turn_while(r, h, time, || !done(&log.borrow()))
}

/// Turns as long as `wanted` says yes, for `time` at most. Returns whether it ended before.
pub fn turn_while(
    r: &mut Reactor,
    h: &mut impl Handler,
    time: Duration,
    mut wanted: impl FnMut() -> bool,
) -> bool {
    let end = Instant::now() + time;
    while wanted() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        r.turn(h, Some(left.min(millis(10)))).unwrap();
    }
    true
}

/// What was seen so far, without the identifiers: `open`, `data 5`, `eof`, `close peer_closed`.
pub fn story(log: &Log) -> Vec<String> {
    let tell = |seen: &Seen| match seen {
        Seen::Data(_, data) => format!("data {}", data.len()),
        Seen::Close(_, report) => format!("close {}", report.reason.name()),
        // The name alone.
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_lowercase(),
    };
    log.borrow().iter().map(tell).collect()
}

pub fn count(log: &[Seen], wanted: impl Fn(&Seen) -> bool) -> usize {
    log.iter().filter(|seen| wanted(seen)).count()
}

pub fn is_open(seen: &Seen) -> bool {
    matches!(seen, Seen::Open(_))
}

pub fn is_close(seen: &Seen) -> bool {
    matches!(seen, Seen::Close(..))
}

/// A client whose reads and writes give up after a while.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connect");
    util::patient(&stream);
    stream
}

pub fn end(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("shutdown");
}

/// A client that is in, and its identifier.
pub fn enter(r: &mut Reactor, h: &mut Probe, addr: SocketAddr) -> (TcpStream, ConnId) {
    let before = h.log.borrow().len();
    let stream = connect(addr);
    assert!(until(r, h, util::SOON, |log| log[before..].iter().any(is_open)), "nobody came in");
    // What the kernel says of every new socket has been heard as well.
    turn_for(r, h, millis(4));
    let opened = h.log.borrow()[before..].iter().find_map(|seen| match seen {
        Seen::Open(conn) => Some(*conn),
        _ => None,
    });
    (stream, opened.expect("just seen"))
}

/// As many clients, all in.
pub fn crowd(r: &mut Reactor, h: &mut impl Handler, addr: SocketAddr, size: usize) -> Vec<TcpStream> {
    let before = r.net().stats().opened;
    let mut clients = Vec::with_capacity(size);
    for place in 0..size {
        clients.push(TcpStream::connect(addr).expect("connect"));
        if place % 50 == 0 {
            r.turn(h, Some(Duration::ZERO)).unwrap();
        }
    }
    let deadline = Instant::now() + util::SOON;
    while r.net().stats().opened < before + size as u64 {
        assert!(Instant::now() < deadline, "they do not all come in");
        r.turn(h, Some(millis(5))).unwrap();
    }
    clients
}

/// What has to be made within so much time, so that no deadline passes meanwhile. (On a busy machine a
/// connect may lose its SYN, and waits a second for the next one.)
pub fn made_within<R>(limit: Duration, mut make: impl FnMut() -> R) -> R {
    for _ in 0..5 {
        let begin = Instant::now();
        let made = make();
        if begin.elapsed() < limit {
            return made;
        }
    }
    panic!("it takes longer than {limit:?} each time");
}

/// A receive buffer of this size from the beginning, so that the window never is larger.
pub fn client_with_room(addr: SocketAddr, room: usize) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(room).expect("SO_RCVBUF");
    socket.connect(&addr.into()).expect("connect");
    let stream = TcpStream::from(socket);
    util::patient(&stream);
    stream
}

/// An address at which every further connect hangs: a backlog that is full. It does so as long as
/// what is returned lives.
pub fn full_backlog() -> (SocketAddr, socket2::Socket, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    let listener = new();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    listener.listen(0).expect("listen");
    let addr = listener.local_addr().expect("an address").as_socket().expect("an IP address");
    let fillers: Vec<_> = (0..4).map(|_| new()).collect();
    for filler in &fillers {
        filler.set_nonblocking(true).expect("O_NONBLOCK");
        let _ = filler.connect(&addr.into());
    }
    (addr, listener, fillers)
}

/// The send buffer is small, so that what the peer does not take stays in the queue.
pub fn small_send_buffer(config: &mut Config) {
    config.send_buffer = Some(32 << 10);
}

/// Thousands of sockets at once, or all of a processor: one such test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    util::allow_descriptors(16_000);
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures a time that other programs of this machine can only lengthen: what is within the limit
/// once is within it. An engine that breaks the promise does so every time.
pub fn at_best(rounds: usize, limit: Duration, what: &str, mut measure: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let time = measure();
        if time <= limit {
            return;
        }
        times.push(time);
    }
    panic!("{what}: {times:?}, more than {limit:?}");
}

/// The same test of several cases, which wait most of the time: at once, so that it takes no longer.
pub fn in_parallel<C: Send>(cases: impl IntoIterator<Item = C>, test: impl Fn(C) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}

/// Something done over and over on a thread of its own, until this is dropped.
pub struct Meanwhile {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub fn meanwhile(mut step: impl FnMut() + Send + 'static) -> Meanwhile {
    let over = Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    let thread = std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            step();
        }
    });
    Meanwhile { over, thread: Some(thread) }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let result = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            result.expect("joined once").expect("no panic");
        }
    }
}

/// Drops every segment that comes in for these sockets, and says so when that is not permitted.
pub fn blackhole_all(clients: &[TcpStream]) -> bool {
    clients.iter().all(util::blackhole)
}

/// A handler whose only doings are these, for the tests that need the identifiers outside.
#[derive(Default)]
pub struct Roll(pub Vec<ConnId>);

impl Handler for Roll {
    fn on_open(&mut self, _: &mut Net, conn: ConnId, _: unbroken::Via) {
        self.0.push(conn);
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }
}
