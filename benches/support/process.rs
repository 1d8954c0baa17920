//! Servers as processes of their own, and what `/proc` tells of them.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, set_parent_process_death_signal, setrlimit, Resource, Rlimit, Signal};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// Who runs where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Server,
    Load,
}

/// Pins this process: servers to the first processor there is, the load to the second, so that
/// neither is measured waiting for the other's. With one processor they share it.
pub fn pin(side: Side) -> io::Result<()> {
    let allowed = match std::env::var(ALLOWED) {
        Ok(list) => list.split(',').filter_map(|n| n.parse().ok()).collect(),
        Err(_) => allowed()?,
    };
    let Some(&core) = allowed.get(usize::from(side == Side::Load)).or(allowed.first()) else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)?;
    if side == Side::Load {
        let list: Vec<String> = allowed.iter().map(usize::to_string).collect();
        // The servers inherit our one processor, and have to know which others there are.
        std::env::set_var(ALLOWED, list.join(","));
    }
    Ok(())
}

/// Lets this process, and those it starts, run on every processor that the program was allowed.
pub fn unpin() -> io::Result<()> {
    let Ok(list) = std::env::var(ALLOWED) else { return Ok(()) };
    let mut set = CpuSet::new();
    list.split(',').filter_map(|n| n.parse().ok()).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// The processors that the program was allowed at its start.
const ALLOWED: &str = "UNBROKEN_FIGURES_CORES";

fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Allows this process, and those it starts, as many descriptors as the system lets it.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// How many descriptors this process may have.
pub fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize)
}

/// Has this process killed when the one that started it ends.
pub fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// What a server does first: it goes to its processor, and dies with the program that measures it.
pub fn begin_server() -> io::Result<()> {
    die_with_parent()?;
    pin(Side::Server)
}

/// What a server prints once it listens, before the address.
pub const LISTENING: &str = "listening on ";

/// A server under test.
pub struct Server {
    pub addr: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts this program again as `role`.
    pub fn start(role: &str) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.args(["--role", role]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        Self::announced(child, LISTENING)
            .map_err(|error| io::Error::new(error.kind(), format!("{role}: {error}")))
    }

    /// One that has been started, and says where it listens in the first line of its output, behind
    /// `prefix`.
    pub fn announced(mut child: Child, prefix: &str) -> io::Result<Self> {
        let mut line = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim().strip_prefix(prefix).and_then(|addr| addr.parse().ok()) {
            Some(addr) => Ok(Self { addr, child }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::other(format!("the server did not start: {line:?}")))
            }
        }
    }

    /// One that was started in another way.
    pub fn running(addr: SocketAddr, child: Child) -> Self {
        Self { addr, child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended, of its own will or by a signal, but not for ever. Returns whether
    /// it did.
    pub fn wait(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn proc(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid()))
    }

    /// Processor time used so far, once the server has gone to sleep: only then has the scheduler
    /// counted all of it. Where it does not count exactly there are ticks.
    pub fn cpu(&self) -> io::Result<Duration> {
        let deadline = Instant::now() + Duration::from_millis(100);
        while !self.is_asleep()? && Instant::now() < deadline {
            std::thread::yield_now();
        }
        if let Some(nanos) = self.scheduled() {
            return Ok(Duration::from_nanos(nanos));
        }
        let (user, system) = self.ticks()?;
        Ok(Duration::from_millis(10 * (user + system)))
    }

    /// Nanoseconds that all threads have run.
    fn scheduled(&self) -> Option<u64> {
        let mut total = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?.flatten() {
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            total += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(total)
    }

    /// The fields of `/proc/PID/stat` from the third on: the second, in parentheses, may hold blanks.
    fn stat(&self) -> io::Result<Vec<String>> {
        let text = self.proc("stat")?;
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        Ok(fields.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether all threads are.
    fn is_asleep(&self) -> io::Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))?.flatten() {
            let Ok(text) = fs::read_to_string(thread.path().join("stat")) else { continue };
            if !text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// User and system time in ticks of 10 ms.
    pub fn ticks(&self) -> io::Result<(u64, u64)> {
        let fields = self.stat()?;
        let field = |n: usize| fields.get(n).and_then(|text| text.parse().ok());
        field(11).zip(field(12)).ok_or_else(|| io::Error::other("/proc/PID/stat has another form"))
    }

    /// A number from a file of lines such as `VmRSS:  1234 kB`.
    fn field(&self, file: &str, name: &str) -> io::Result<u64> {
        let text = self.proc(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("/proc/PID/{file} has no {name}")))
    }

    /// Resident memory in bytes. `smaps_rollup` counts pages; the number in `status` may lag
    /// behind by some dozens of them for each processor.
    pub fn resident(&self) -> io::Result<u64> {
        let kib = self.field("smaps_rollup", "Rss").or_else(|_| self.field("status", "VmRSS"))?;
        Ok(kib * 1024)
    }

    /// The most resident memory there has been, in bytes.
    pub fn peak(&self) -> io::Result<u64> {
        Ok(self.field("status", "VmHWM")? * 1024)
    }

    /// How often the process has gone to sleep of its own will: one for each wake-up.
    pub fn sleeps(&self) -> io::Result<u64> {
        self.field("status", "voluntary_ctxt_switches")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line below the table: what the figures were taken on.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).map_or("?".to_owned(), |text| text.trim().to_owned());
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::env::var(ALLOWED).map_or(1, |list| list.split(',').count());
    format!(
        "Linux {} on {} × {}; congestion control {}; load average {}",
        read("/proc/sys/kernel/osrelease"),
        cores,
        model.map_or("an unknown processor", |(_, name)| name.trim()),
        read("/proc/sys/net/ipv4/tcp_congestion_control"),
        read("/proc/loadavg").split_whitespace().take(2).collect::<Vec<_>>().join(" "),
    )
}
