//! The lab as a child process: its lines are read and kept, its clients are plain sockets, and at
//! its end every promise about the lines as a whole is checked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::util::{narrow_client, patient, SOON};

/// One line of the lab, and when it came.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    pub value: Value,
    pub at: Instant,
}

impl Line {
    pub fn event(&self) -> &str {
        self.str("event").unwrap_or_default()
    }

    pub fn conn(&self) -> &str {
        self.str("conn").unwrap_or_default()
    }

    pub fn queued(&self) -> usize {
        self.value["queued"].as_u64().unwrap_or_else(|| panic!("no queued: {}", self.text)) as usize
    }

    fn str(&self, key: &str) -> Option<&str> {
        self.value.get(key)?.as_str()
    }
}

/// A close line.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    pub reason: String,
    pub errno: Option<u64>,
    pub saw_fin: bool,
    pub received: u64,
    pub handed: u64,
    pub unsent: u64,
    pub unacked: Option<u64>,
    pub duration: Duration,
    pub at: Instant,
}

impl Closed {
    fn new(line: &Line) -> Self {
        let number = |key: &str| match &line.value[key] {
            Value::Null => None,
            value => Some(value.as_u64().unwrap_or_else(|| panic!("{key} in {}", line.text))),
        };
        let needed = |key: &str| number(key).unwrap_or_else(|| panic!("no {key} in {}", line.text));
        Self {
            reason: line.str("reason").expect("a reason").to_owned(),
            errno: number("errno"),
            saw_fin: line.value["saw_fin"].as_bool().expect("saw_fin"),
            received: needed("received"),
            handed: needed("handed"),
            unsent: needed("unsent"),
            unacked: number("unacked"),
            duration: Duration::from_millis(needed("duration_ms")),
            at: line.at,
        }
    }

    /// The reason, and what was received, handed over, and lost.
    pub fn account(&self) -> (&str, u64, u64, u64) {
        (&self.reason, self.received, self.handed, self.unsent + self.unacked.unwrap_or(0))
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

/// A running lab. Dropping it shuts it down and checks all that it said.
pub struct Lab {
    pub child: Child,
    log: Arc<Log>,
    /// As its first lines tell.
    pub addrs: Vec<String>,
    reader: Option<JoinHandle<()>>,
    errors: Option<JoinHandle<String>>,
    may_panic: bool,
}

/// A client of the lab, which its close line is found by.
pub struct Client {
    stream: TcpStream,
    peer: String,
}

impl Deref for Client {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        let peer = stream.local_addr().expect("an address").to_string();
        Self { stream, peer }
    }

    /// Closes the socket, and keeps what is needed to look the connection up.
    pub fn gone(self) -> Gone {
        Gone(self.peer)
    }

    /// Closes with a reset.
    pub fn reset(self) -> Gone {
        crate::util::reset(self.stream);
        Gone(self.peer)
    }

    /// Ends this side's stream.
    pub fn end(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    }

    pub fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.stream.read_exact(&mut data).expect("so many bytes");
        data
    }

    /// Reads to the end of the stream, which must be a clean one.
    pub fn read_to_eof(&mut self) -> Vec<u8> {
        let (data, error) = crate::util::read_all(&mut self.stream);
        assert!(error.is_none(), "{error:?} after {} bytes", data.len());
        data
    }

    /// Reads to the reset that must end the stream.
    pub fn read_to_reset(&mut self) -> Vec<u8> {
        let (data, error) = crate::util::read_all(&mut self.stream);
        let errno = error.as_ref().and_then(|error| error.raw_os_error());
        assert_eq!(errno, Some(libc::ECONNRESET), "{error:?} after {} bytes", data.len());
        data
    }
}

/// The address of a client, its socket perhaps closed.
pub struct Gone(String);

pub trait Who {
    fn peer(&self) -> &str;
}

impl Who for Client {
    fn peer(&self) -> &str {
        &self.peer
    }
}

impl Who for Gone {
    fn peer(&self) -> &str {
        &self.0
    }
}

impl Lab {
    /// Starts a lab and waits for its first lines.
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(crate::util::example("lab"));
        command.args(args);
        let listeners = args.iter().filter(|arg| arg.starts_with("--listen")).count().max(1);
        Self::run(command, listeners)
    }

    pub fn run(mut command: Command, listeners: usize) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
        let mut child = command.spawn().expect("the lab starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Log::default());
        let written = log.clone();
        let reader = std::thread::spawn(move || {
            for text in stdout.lines() {
                let text = text.expect("a line");
                let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
                written.lines.lock().expect("lock").push(Line { text, value, at: Instant::now() });
                written.more.notify_all();
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut lab = Self {
            child,
            log,
            addrs: Vec::new(),
            reader: Some(reader),
            errors: Some(errors),
            may_panic: false,
        };
        for place in 0..listeners {
            let line = lab.wait_for_line(SOON, |lines| lines.get(place).cloned());
            assert_eq!(line.event(), "listening", "{}", line.text);
            let addr = line.str("addr").expect("an address").to_owned();
            assert_eq!(line.text, format!(r#"{{"event":"listening","addr":"{addr}"}}"#));
            lab.addrs.push(addr);
        }
        lab
    }

    /// A panic of its handler is what this test is about.
    pub fn may_panic(&mut self) {
        self.may_panic = true;
    }

    pub fn addr(&self) -> SocketAddr {
        self.addrs[0].parse().expect("a TCP address")
    }

    /// A client that has said `text`.
    pub fn client(&self, text: impl AsRef<[u8]>) -> Client {
        let stream = TcpStream::connect(self.addr()).expect("connect");
        patient(&stream);
        let mut client = Client::new(stream);
        client.write_all(text.as_ref()).expect("send");
        client
    }

    /// The same, with a receive buffer that fills at once.
    pub fn narrow(&self, text: impl AsRef<[u8]>) -> Client {
        let mut client = Client::new(narrow_client(self.addr()));
        client.write_all(text.as_ref()).expect("send");
        client
    }

    fn wait_for_line<R>(&self, time: Duration, mut find: impl FnMut(&[Line]) -> Option<R>) -> R {
        let deadline = Instant::now() + time;
        let mut lines = self.log.lines.lock().expect("lock");
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last: Vec<_> = lines.iter().rev().take(10).rev().map(|line| &line.text).collect();
                panic!("what was waited for did not come within {time:?}; last: {last:#?}");
            }
            lines = self.log.more.wait_timeout(lines, left).expect("lock").0;
        }
    }

    /// The first line, of all that came or will come, that `wanted` says yes to.
    pub fn wait(&self, wanted: impl Fn(&Line) -> bool) -> Line {
        self.wait_for_line(SOON, |lines| lines.iter().find(|line| wanted(line)).cloned())
    }

    /// The identifier of a client's connection, from its open line.
    pub fn conn(&self, who: &impl Who) -> String {
        let open = self.wait(|line| line.event() == "open" && line.value["peer"] == who.peer());
        let conn = open.conn().to_owned();
        assert_eq!(open.text, format!(r#"{{"event":"open","conn":"{conn}","peer":"{}"}}"#, who.peer()));
        conn
    }

    /// Waits for a line about a client's connection.
    pub fn told(&self, who: &impl Who, event: &str) -> Line {
        let conn = self.conn(who);
        self.wait(|line| line.event() == event && line.conn() == conn)
    }

    /// Waits for the end of a client's connection.
    pub fn closed(&self, who: &impl Who) -> Closed {
        Closed::new(&self.told(who, "close"))
    }

    /// The lines about one connection that came so far.
    pub fn lines_of(&self, conn: &str) -> Vec<Line> {
        let lines = self.log.lines.lock().expect("lock");
        lines.iter().filter(|line| line.conn() == conn).cloned().collect()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("kill");
    }

    /// Waits for the process to end.
    pub fn exit(&mut self) -> ExitStatus {
        exit_of(&mut self.child)
    }

    /// What it wrote to standard error, once it has ended.
    pub fn errors(&mut self) -> String {
        self.errors.take().map_or(String::new(), |thread| thread.join().expect("stderr"))
    }

    /// Shuts it down, and checks what it said from beginning to end. A second signal ends the
    /// drain at once.
    fn finish(&mut self) {
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "the lab does not end");
            self.signal(Signal::TERM);
            std::thread::sleep(Duration::from_millis(10));
        };
        let errors = self.errors();
        assert_eq!(status.code(), Some(0), "{errors}");
        assert!(self.may_panic || !errors.contains("panicked"), "{errors}");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("every line is JSON");
        }
        check(&self.log.lines.lock().expect("lock"), self.addrs.len());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else {
            self.finish();
        }
    }
}

/// Waits for a process to end, for a while; then it is killed and the test fails.
pub fn exit_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the lab does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What holds for the lines of every run: the listeners first; each connection opens once, before
/// anything else is told of it, and closes once, last; `congested` and `drain` take turns.
fn check(lines: &[Line], listeners: usize) {
    #[derive(Default)]
    struct Seen {
        closed: bool,
        congested: bool,
    }
    let mut conns: HashMap<&str, Seen> = HashMap::new();
    for (place, line) in lines.iter().enumerate() {
        let text = &line.text;
        if place < listeners {
            assert_eq!(line.event(), "listening", "{text}");
            continue;
        }
        if line.event() == "open" {
            assert!(conns.insert(line.conn(), Seen::default()).is_none(), "opened twice: {text}");
            continue;
        }
        let seen = conns.get_mut(line.conn()).unwrap_or_else(|| panic!("not open: {text}"));
        assert!(!seen.closed, "after its end: {text}");
        match line.event() {
            "eof" => {}
            "congested" => assert!(!std::mem::replace(&mut seen.congested, true), "no drain: {text}"),
            "drain" => assert!(std::mem::take(&mut seen.congested), "not congested: {text}"),
            "close" => {
                seen.closed = true;
                let closed = Closed::new(line);
                if matches!(closed.reason.as_str(), "finished" | "peer_closed") {
                    assert_eq!((closed.unsent, closed.unacked.unwrap_or(0)), (0, 0), "{text}");
                }
            }
            other => panic!("{other} is no event: {text}"),
        }
    }
    assert!(conns.values().all(|seen| seen.closed), "not all connections were reported");
}
