//! A running chat server, a plain socket that speaks IRC, and programs that do: shared by the tests
//! of the chat.
#![allow(dead_code)]

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::util::{self, eventually, patient, read_all, SOON};

thread_local! {
    static THREADS: Cell<usize> = const { Cell::new(1) };
}

/// Has a test that is for one reactor start its servers with two.
pub fn on_two_reactors(test: fn()) {
    THREADS.set(2);
    test();
    THREADS.set(1);
}

/// A running chat server. Dropping it kills it.
pub struct Chat {
    child: Child,
    pub irc: SocketAddr,
    /// With TLS, where that is on.
    pub ircs: Option<SocketAddr>,
    pub web: SocketAddr,
}

impl Chat {
    /// Starts it on free ports, with more flags perhaps.
    pub fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(util::example("chat"));
        command.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"]).args(flags).stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts it by a command that somebody prepared, with as many threads as the environment asks for:
    /// `UNBROKEN_THREADS=2 cargo test --test chat_irc`.
    pub fn spawn(mut command: Command) -> Self {
        match std::env::var_os("UNBROKEN_THREADS") {
            _ if command.get_args().any(|arg| arg == "--threads") => &mut command,
            _ if THREADS.get() > 1 => command.args(["--threads", &THREADS.get().to_string()]),
            Some(threads) => command.arg("--threads").arg(threads),
            None => &mut command,
        };
        for variable in ["RUST_LOG", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            if !command.get_envs().any(|(key, _)| key == variable) {
                command.env_remove(variable);
            }
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the chat starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (mut irc, mut ircs) = (None, None);
        let web = loop {
            let line = lines.next().expect("a line").expect("UTF-8");
            let (_, url) = line.split_once(char::is_whitespace).unwrap_or_else(|| panic!("{line:?}"));
            let (scheme, address) = url.trim().split_once("://").unwrap_or_else(|| panic!("{line:?}"));
            let address = address.trim_end_matches('/').parse().expect("an address");
            match scheme {
                "irc" => irc = Some(address),
                "ircs" => ircs = Some(address),
                "http" | "https" => break address,
                _ => panic!("{line:?}"),
            }
        };
        Self { child, irc: irc.expect("an address for IRC"), ircs, web }
    }

    /// A registered client.
    pub fn client(&self, nick: &str) -> Irc {
        Irc::register(connect(self.irc), nick)
    }

    /// A registered client in a channel.
    pub fn member(&self, nick: &str, channel: &str) -> Irc {
        let mut client = self.client(nick);
        client.join(channel);
        client
    }

    /// What a GET on the web port answers: head and body.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = connect(self.web);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.web);
        stream.write_all(request.as_bytes()).expect("write");
        let (answer, error) = read_all(&mut stream);
        assert!(error.is_none(), "{error:?}");
        let answer = String::from_utf8(answer).expect("UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an end of the head");
        (head.to_owned(), body.to_owned())
    }

    /// One sample of `/metrics`.
    pub fn metric(&self, sample: &str) -> f64 {
        let (_, metrics) = self.get("/metrics");
        let value = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {sample} in {metrics}")).parse().expect("a number")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("kill");
    }

    /// How it ended, by itself, and how long that took from now on.
    pub fn ended(&mut self) -> (Option<i32>, Duration) {
        let begin = Instant::now();
        let status = wait(&mut self.child);
        (status.code(), begin.elapsed())
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("its end", || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    status.expect("just set")
}

/// A connection whose reads and writes give up after a while.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connect");
    patient(&stream);
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Somebody with a plain socket.
pub struct Irc {
    reader: BufReader<TcpStream>,
    pub nick: String,
}

impl Irc {
    /// A connection that has said nothing yet.
    pub fn new(stream: TcpStream, nick: &str) -> Self {
        Self { reader: BufReader::new(stream), nick: nick.to_owned() }
    }

    pub fn register(stream: TcpStream, nick: &str) -> Self {
        let mut irc = Self::new(stream, nick);
        irc.say(&format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}"));
        irc.hear(&format!(" 001 {nick} "));
        irc.hear(" 376 ");
        irc
    }

    pub fn join(&mut self, channel: &str) {
        self.say(&format!("JOIN {channel}"));
        self.hear(&format!(" 366 {} {channel} ", self.nick));
    }

    pub fn say(&mut self, line: &str) {
        self.write(format!("{line}\r\n").as_bytes());
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("write");
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn into_stream(self) -> TcpStream {
        self.reader.into_inner()
    }

    /// The next line that is not a question for a sign of life.
    pub fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.reader.read_line(&mut line).expect("a line in time") > 0,
                "{} was closed",
                self.nick
            );
            match line.strip_prefix("PING ") {
                Some(token) => self.say(&format!("PONG {}", token.trim_end())),
                None => return line.strip_suffix("\r\n").expect("CR LF").to_owned(),
            }
        }
    }

    /// Reads up to a line that contains this.
    pub fn hear(&mut self, what: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let line = self.line();
            if line.contains(what) {
                return line;
            }
            assert!(Instant::now() < deadline, "{} did not hear {what:?} in time", self.nick);
        }
    }

    /// How somebody's departure looks: the words behind `QUIT :`.
    pub fn departure_of(&mut self, nick: &str) -> String {
        let line = self.hear(&format!(":{nick}!~"));
        let (_, words) = line.split_once(" QUIT :").unwrap_or_else(|| panic!("not a departure: {line}"));
        words.to_owned()
    }

    /// Everything up to the end of the stream, which must be a FIN and is answered with one, as by
    /// every client that is told of an end.
    pub fn rest(&mut self) -> Vec<String> {
        let (mut rest, begin) = (String::new(), Instant::now());
        let ended = self.reader.read_to_string(&mut rest);
        assert!(ended.is_ok(), "{}: {ended:?} after {:?}, {rest:?}", self.nick, begin.elapsed());
        let _ = self.reader.get_ref().shutdown(std::net::Shutdown::Write);
        rest.lines().map(str::to_owned).collect()
    }

    /// Reads to its last word and the end of the stream.
    pub fn is_told(&mut self, why: &str) {
        let rest = self.rest();
        let last = rest.last().map_or("", String::as_str);
        assert!(last.starts_with("ERROR :") && last.contains(why), "{}: {last:?}", self.nick);
    }
}

/// A program that talks through its standard streams. Dropping it kills it.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let (send, output) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let _ = send.send(String::from_utf8_lossy(&std::mem::take(&mut line)).trim_end().to_owned());
            }
        });
        let input = child.stdin.take();
        Self { child, input, output }
    }

    pub fn say(&mut self, text: &str) {
        let input = self.input.as_mut().expect("not finished");
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).expect("write");
    }

    pub fn finish_input(&mut self) {
        self.input = None;
    }

    /// Reads its output up to a line that contains this.
    pub fn hear(&mut self, what: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.output.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("{what:?} did not come: {error}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    /// The rest of its output, once it has ended by itself, and how it did.
    pub fn ended(&mut self) -> (ExitStatus, Vec<String>) {
        let status = wait(&mut self.child);
        let mut rest = Vec::new();
        while let Ok(line) = self.output.recv_timeout(SOON) {
            rest.push(line);
        }
        (status, rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program answers to one input, with its status.
pub fn answer(command: &mut Command, input: &str) -> (ExitStatus, String) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write");
    let status = wait(&mut child);
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("output");
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("errors");
    (status, text)
}

/// A directory of its own, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("unbroken-{name}-{}-{count}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
