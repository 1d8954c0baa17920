//! Shared by the tests: a server on a thread of its own whose callbacks are recorded, clients that
//! misbehave, and conditions that are waited for with a deadline.
//!
//! Clients are plain sockets, never the engine itself.
#![allow(dead_code)]

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;
use unbroken::{
    Bytes, CloseReport, Config, ConnId, Handle, Handler, ListenerId, Net, Reactor, Stats, TimerId, Via,
};

/// How long anything may take that is expected to happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// What a handler was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Open(ConnId, Via),
    /// How many bytes it was shown and how many it used.
    Data(ConnId, usize, usize),
    Eof(ConnId),
    Drain(ConnId, usize),
    Refused(ConnId, Bytes),
    ListenerError(ListenerId, io::ErrorKind),
    Close(ConnId, CloseReport),
}

/// Passes every callback on and records it.
struct Recorder<H> {
    inner: H,
    events: Sender<Event>,
}

impl<H> Recorder<H> {
    fn record(&self, event: Event) {
        // The test may have seen enough and be gone.
        let _ = self.events.send(event);
    }
}

impl<H: Handler> Handler for Recorder<H> {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        self.record(Event::Open(conn, via));
        self.inner.on_open(net, conn, via);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let used = self.inner.on_data(net, conn, data);
        self.record(Event::Data(conn, data.len(), used.min(data.len())));
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.record(Event::Eof(conn));
        self.inner.on_eof(net, conn);
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.record(Event::Drain(conn, net.queued(conn)));
        self.inner.on_drain(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        self.inner.on_timer(net, timer);
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.inner.on_wake(net);
    }

    fn on_refused(&mut self, net: &mut Net, conn: ConnId, data: Bytes) {
        self.record(Event::Refused(conn, data.clone()));
        self.inner.on_refused(net, conn, data);
    }

    fn on_listener_error(&mut self, net: &mut Net, listener: ListenerId, error: &io::Error) {
        self.record(Event::ListenerError(listener, error.kind()));
        self.inner.on_listener_error(net, listener, error);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        self.inner.on_close(net, conn, report);
        self.record(Event::Close(conn, report.clone()));
    }
}

/// A reactor on a thread of its own. Dropping it ends the thread.
pub struct Server {
    pub addr: SocketAddr,
    pub handle: Handle,
    events: Receiver<Event>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Serves `handler` on a free port of the loopback interface.
pub fn serve<H: Handler + Send + 'static>(config: Config, handler: H) -> Server {
    serve_with(config, handler, |_| {})
}

/// The same, with `set_up` run before the loop.
pub fn serve_with<H: Handler + Send + 'static>(
    config: Config,
    handler: H,
    set_up: impl FnOnce(&mut Net) + Send + 'static,
) -> Server {
    let (events, received) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut reactor = Reactor::new(config)?;
        let listener = reactor.net().listen("127.0.0.1:0")?;
        let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp());
        let handle = reactor.net().handle();
        set_up(reactor.net());
        ready.send((addr.expect("a TCP address"), handle)).expect("the test waits");
        reactor.run(&mut Recorder { inner: handler, events })
    });
    match is_ready.recv() {
        Ok((addr, handle)) => Server { addr, handle, events: received, thread: Some(thread) },
        Err(_) => panic!("the server did not start: {:?}", thread.join()),
    }
}

impl Server {
    /// A client of this server. Its reads and writes give up after a while.
    pub fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("connect");
        patient(&stream);
        stream
    }

    /// The next event, whatever it is; panics when none comes in time.
    pub fn event(&self) -> Event {
        self.event_within(SOON).expect("an event")
    }

    pub fn event_within(&self, time: Duration) -> Option<Event> {
        match self.events.recv_timeout(time) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Skips events until `wanted` says yes; panics when none comes in time.
    pub fn wait_for(&self, time: Duration, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.event_within(left) {
                Some(event) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("what was waited for did not come within {time:?}"),
            }
        }
    }

    /// The next connection that opens.
    pub fn opened(&self) -> ConnId {
        match self.wait_for(SOON, |event| matches!(event, Event::Open(..))) {
            Event::Open(conn, _) => conn,
            _ => unreachable!(),
        }
    }

    /// The next report.
    pub fn closed(&self) -> (ConnId, CloseReport) {
        self.closed_within(SOON)
    }

    pub fn closed_within(&self, time: Duration) -> (ConnId, CloseReport) {
        match self.wait_for(time, |event| matches!(event, Event::Close(..))) {
            Event::Close(conn, report) => (conn, report),
            _ => unreachable!(),
        }
    }

    /// The events that have come so far.
    pub fn events_so_far(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Runs something on the reactor's thread and waits for what it returns.
    pub fn ask<R: Send + 'static>(&self, question: impl FnOnce(&mut Net) -> R + Send + 'static) -> R {
        let (answer, answered) = mpsc::channel();
        self.handle
            .run(move |net| {
                let _ = answer.send(question(net));
            })
            .expect("the reactor runs");
        answered.recv_timeout(SOON).expect("the reactor answers")
    }

    pub fn stats(&self) -> Stats {
        self.ask(|net| net.stats().clone())
    }

    /// Asks again and again until the counters are as wanted.
    pub fn wait_stats(&self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let deadline = Instant::now() + SOON;
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "not in time: {stats:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for `run` to return after a shutdown that somebody else asked for.
    pub fn join(mut self) -> io::Result<()> {
        self.thread.take().expect("not joined yet").join().expect("no panic")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.handle.shutdown(Duration::ZERO);
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("no panic").expect("no error");
            }
        }
    }
}

/// Reads and writes of a test that goes wrong end by themselves.
pub fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(SOON)).expect("timeout");
    stream.set_write_timeout(Some(SOON)).expect("timeout");
}

/// The byte at offset `i` of every test stream is `i % 251`.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
}

/// A client whose receive buffer is as small as the system allows, so that it fills at once.
pub fn narrow_client(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(1).expect("SO_RCVBUF");
    socket.connect(&addr.into()).expect("connect");
    let stream = TcpStream::from(socket);
    patient(&stream);
    stream
}

/// Reads to the end of the stream; the error, if one ends it, comes with what was read before.
pub fn read_all(stream: &mut impl Read) -> (Vec<u8>, Option<io::Error>) {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => (all, None),
        Err(error) => (all, Some(error)),
    }
}

/// Makes the kernel drop every segment that comes in for this socket, as if its host had
/// vanished. False, with a line that says so, where that needs a privilege we lack.
pub fn blackhole(stream: &TcpStream) -> bool {
    // One BPF instruction: return 0, keep nothing.
    let drop_all = [socket2::SockFilter::new(0x06, 0, 0, 0)];
    match SockRef::from(stream).attach_filter(&drop_all) {
        Ok(()) => true,
        Err(error) => {
            skip("root", &format!("SO_ATTACH_FILTER: {error}"));
            false
        }
    }
}

/// Undoes [`blackhole`].
pub fn heal(stream: &TcpStream) {
    SockRef::from(stream).detach_filter().expect("SO_DETACH_FILTER");
}

/// The one line that a test which cannot run here prints, past the test runner's capture.
pub fn skip(missing: &str, detail: &str) {
    let _ = writeln!(io::stderr(), "skipped: needs {missing} ({detail})");
}

/// Whether a program is installed; a line says so when it is not.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        skip(program, "not installed");
    }
    found
}

/// Waits until a condition holds; panics when it does not in time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Open file descriptors of this process.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// Resident memory of this process, in bytes.
pub fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: usize = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

/// CPU time (user and system) that this thread has used.
pub fn thread_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Sends back what it receives.
pub struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }
}

/// Throws away what it receives.
pub struct Sink;

impl Handler for Sink {
    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }
}

/// A handler put together from closures, for what the ready-made ones do not do.
#[derive(Default)]
#[allow(clippy::type_complexity)]
pub struct Custom {
    pub open: Option<Box<dyn FnMut(&mut Net, ConnId, Via) + Send>>,
    pub data: Option<Box<dyn FnMut(&mut Net, ConnId, &[u8]) -> usize + Send>>,
    pub eof: Option<Box<dyn FnMut(&mut Net, ConnId) + Send>>,
    pub drain: Option<Box<dyn FnMut(&mut Net, ConnId) + Send>>,
    pub timer: Option<Box<dyn FnMut(&mut Net, TimerId) + Send>>,
    pub wake: Option<Box<dyn FnMut(&mut Net) + Send>>,
    pub close: Option<Box<dyn FnMut(&mut Net, ConnId, &CloseReport) + Send>>,
}

impl Handler for Custom {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        if let Some(open) = &mut self.open {
            open(net, conn, via);
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        match &mut self.data {
            Some(on_data) => on_data(net, conn, data),
            None => data.len(),
        }
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        match &mut self.eof {
            Some(eof) => eof(net, conn),
            None => net.close(conn),
        }
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        if let Some(drain) = &mut self.drain {
            drain(net, conn);
        }
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        if let Some(on_timer) = &mut self.timer {
            on_timer(net, timer);
        }
    }

    fn on_wake(&mut self, net: &mut Net) {
        if let Some(wake) = &mut self.wake {
            wake(net);
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if let Some(close) = &mut self.close {
            close(net, conn, report);
        }
    }
}

const ROLE: &str = "UNBROKEN_TEST_ROLE";

/// This test program once more, to run `test` alone in a process of its own: for what concerns a
/// whole process. [`role`] tells it what it is there for. Its output comes with a failure.
pub fn again(test: &str, role: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("our own path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// What this process was started for by [`again`]; `None` in the test runner's own.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// In a process made by [`serving_child`]: serves until the parent closes our input, or goes.
pub fn serve_as_child(config: Config, mut handler: impl Handler) -> Stats {
    let mut reactor = Reactor::new(config).expect("a reactor");
    let listener = reactor.net().listen("127.0.0.1:0").expect("a free port");
    println!("{}", reactor.net().local_addr(listener).expect("an address"));
    let handle = reactor.net().handle();
    std::thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        let _ = handle.shutdown(Duration::ZERO);
    });
    reactor.run(&mut handler).expect("no error");
    reactor.net().stats().clone()
}

/// A server in a process of its own, so that what it costs can be told from what its clients cost.
pub struct ServingChild {
    pub addr: SocketAddr,
    process: std::process::Child,
    output: io::BufReader<std::process::ChildStdout>,
}

/// Starts this test program once more; there, `test` is to call [`serve_as_child`].
pub fn serving_child(test: &str, role: &str) -> ServingChild {
    use std::process::Stdio;
    let mut process =
        again(test, role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again");
    let mut output = io::BufReader::new(process.stdout.take().expect("piped"));
    // The test runner says a few things first, on the same line perhaps.
    let addr = loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).expect("output") > 0, "the child ended early");
        if let Ok(addr) = line.split_whitespace().last().unwrap_or_default().parse() {
            break addr;
        }
    };
    ServingChild { addr, process, output }
}

impl ServingChild {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Has it end, and returns what it still said.
    pub fn finish(mut self) -> String {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("output");
        assert!(self.process.wait().expect("it ends").success());
        rest
    }
}

impl Drop for ServingChild {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lets this process have so many file descriptors, if it had fewer. No test needs fewer.
pub fn allow_descriptors(count: u64) {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let wanted = Rlimit { current: Some(count), maximum: limit.maximum };
        setrlimit(Resource::Nofile, wanted).expect("the hard limit allows it");
    }
}

/// An example's binary, which `cargo test` builds along with the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    let example = profile.join("examples").join(name);
    assert!(example.is_file(), "{} is missing: run `cargo build --examples` first", example.display());
    example
}
