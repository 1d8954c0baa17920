//! The server as a child process: how it is started, what it says, what `/proc` says of it, and
//! how it is ended.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, kill_process, prlimit, setrlimit, Pid, Resource, Rlimit, Signal};

/// A line of the server's.
#[derive(Debug)]
pub enum Line {
    Closed(Report),
    Stats(HashMap<String, u64>),
    End(HashMap<String, u64>),
}

/// What the server tells of a connection that has ended: its close report, and its own books.
#[derive(Debug)]
pub struct Report {
    pub peer: SocketAddr,
    pub reason: String,
    pub clean: bool,
    pub errno: i32,
    pub saw_fin: bool,
    pub received: u64,
    pub handed: u64,
    pub unsent: u64,
    pub unacked: u64,
    /// Bytes that sends took for certain.
    pub taken: u64,
    /// Bytes that sends may have taken besides.
    pub others: u64,
}

fn parse(line: &str) -> Option<Line> {
    let (word, rest) = line.split_once(' ')?;
    if word == "closed" {
        let fields: Vec<_> = rest.split(' ').collect();
        let &[peer, reason, clean, errno, saw_fin, received, handed, unsent, unacked, taken, others] =
            fields.as_slice()
        else {
            return None;
        };
        return Some(Line::Closed(Report {
            peer: peer.parse().ok()?,
            reason: reason.to_owned(),
            clean: clean == "1",
            errno: errno.parse().ok()?,
            saw_fin: saw_fin == "1",
            received: received.parse().ok()?,
            handed: handed.parse().ok()?,
            unsent: unsent.parse().ok()?,
            unacked: unacked.parse().ok()?,
            taken: taken.parse().ok()?,
            others: others.parse().ok()?,
        }));
    }
    let field = |field: &str| {
        let (name, value) = field.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let fields = rest.split(' ').map(field).collect::<Option<HashMap<_, _>>>()?;
    match word {
        "stats" => Some(Line::Stats(fields)),
        "end" => Some(Line::End(fields)),
        _ => None,
    }
}

pub struct Server {
    pub addr: SocketAddr,
    /// What it has said and nobody has looked at; an error is a line that makes no sense.
    pub lines: mpsc::Receiver<Result<Line, String>>,
    child: Child,
    pid: Pid,
    nofile: Rlimit,
}

impl Server {
    pub fn start(clients: usize, seed: u64) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", "server", "--clients", &clients.to_string(), "--seed", &seed.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        match Self::listen_to(&mut child) {
            Ok((addr, lines, pid)) => {
                let nofile = getrlimit(Resource::Nofile);
                Ok(Self { addr, lines, child, pid, nofile })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn listen_to(child: &mut Child) -> io::Result<(SocketAddr, mpsc::Receiver<Result<Line, String>>, Pid)> {
        let failed = || io::Error::other("the server did not start");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(failed)?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or_else(failed)?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let addr = line.trim().strip_prefix("listening ").and_then(|addr| addr.parse().ok());
        let (sender, lines) = mpsc::channel();
        // A thread of its own: a server that waits for us to read would not be a server under load.
        thread::spawn(move || read_lines(stdout, &sender));
        Ok((addr.ok_or_else(failed)?, lines, pid))
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(self.proc("fd"))?.count())
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.proc("status"))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        match kib.and_then(|kib| kib.parse::<u64>().ok()) {
            Some(kib) => Ok(kib << 10),
            None => Err(io::Error::other("/proc/PID/status has no VmRSS")),
        }
    }

    /// Leaves the server no descriptor: those that it has stay, and no client gets in.
    pub fn exhaust_descriptors(&self) -> io::Result<()> {
        let less = (self.descriptors()? / 2) as u64;
        prlimit(Some(self.pid), Resource::Nofile, Rlimit { current: Some(less), ..self.nofile })?;
        Ok(())
    }

    pub fn restore_descriptors(&self) -> io::Result<()> {
        prlimit(Some(self.pid), Resource::Nofile, self.nofile)?;
        Ok(())
    }

    /// The status, if the server has ended.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks the server to end. Returns its status, or nothing when it has not ended within `patience`.
    pub fn stop(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        kill_process(self.pid, Signal::TERM)?;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: BufReader<ChildStdout>, lines: &mpsc::Sender<Result<Line, String>>) {
    for line in stdout.lines() {
        let line = match line {
            Ok(line) => parse(&line).ok_or(line),
            Err(error) => Err(error.to_string()),
        };
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// Allows this process, and those it starts, as many descriptors as the system lets it. Returns
/// how many that is.
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.map_or(usize::MAX, |most| most as usize))
}
