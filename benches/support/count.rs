//! Counts a process's system calls with the tools that the machine has.
//!
//! `perf stat` counts in the kernel and slows nobody down, but needs tracepoints; `strace -c`
//! stops the process at each call, which needs less, but makes a busy server a slow one, that
//! finds more to do each time it polls.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

/// The calls that are told apart; the others are counted together.
const CALLS: &[&str] =
    &["epoll_wait", "epoll_ctl", "recvfrom", "read", "sendmsg", "sendto", "writev", "write"];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Perf,
    Strace,
}

impl Tool {
    pub fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf stat",
            Self::Strace => "strace -c",
        }
    }
}

/// What was counted.
pub struct Counts {
    pub tool: Tool,
    pub total: u64,
    calls: BTreeMap<String, u64>,
}

impl Counts {
    pub fn of(&self, call: &str) -> u64 {
        self.calls.get(call).copied().unwrap_or(0)
    }

    /// The calls that send.
    pub fn sends(&self) -> u64 {
        ["sendmsg", "sendto", "writev", "write"].iter().map(|call| self.of(call)).sum()
    }

    /// The calls that receive.
    pub fn receives(&self) -> u64 {
        self.of("recvfrom") + self.of("read")
    }

    /// Each call's number for one of `messages`.
    pub fn per(&self, messages: u64) -> String {
        let mut parts = Vec::new();
        let mut others = self.total;
        for call in CALLS {
            let count = self.of(call);
            others = others.saturating_sub(count);
            if count > 0 {
                parts.push(format!("{call} {:.3}", count as f64 / messages as f64));
            }
        }
        parts.push(format!("others {:.3}", others as f64 / messages as f64));
        parts.join(", ")
    }
}

/// Counts the calls of process `pid` while `work` goes on, with the first of `tools` that can.
/// `None` when none can; `work` has then not been done.
pub fn during<R>(
    pid: u32,
    tools: &[Tool],
    work: impl FnOnce() -> io::Result<R>,
) -> io::Result<Option<(R, Counts)>> {
    for tool in tools {
        if let Some(counter) = Counter::attach(*tool, pid) {
            let result = work()?;
            return Ok(Some((result, counter.finish()?)));
        }
    }
    Ok(None)
}

struct Counter {
    tool: Tool,
    child: Child,
    output: PathBuf,
}

impl Counter {
    /// `None` when the tool is missing or not allowed to.
    fn attach(tool: Tool, pid: u32) -> Option<Self> {
        let output = std::env::temp_dir().join(format!("unbroken-figures-{}-{pid}", std::process::id()));
        let _ = fs::remove_file(&output);
        let mut command = match tool {
            Tool::Perf => {
                let mut command = Command::new("perf");
                let events: Vec<String> =
                    CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}")).collect();
                command.args([
                    "stat",
                    "-x",
                    ";",
                    "-e",
                    &format!("raw_syscalls:sys_enter,{}", events.join(",")),
                ]);
                command
            }
            Tool::Strace => {
                let mut command = Command::new("strace");
                command.args(["-f", "-c"]);
                command
            }
        };
        command.arg("-o").arg(&output).arg("-p").arg(pid.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut counter = Self { tool, child: command.spawn().ok()?, output };
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(counter.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return None;
            }
            if counter.is_attached(pid) {
                // It has its descriptors, or the process; now it has to begin.
                std::thread::sleep(Duration::from_millis(200));
                return Some(counter);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn is_attached(&self, pid: u32) -> bool {
        match self.tool {
            Tool::Perf => {
                let Ok(dir) = fs::read_dir(format!("/proc/{}/fd", self.child.id())) else { return false };
                let events = dir.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
                events.filter(|link| link.to_string_lossy().contains("perf_event")).count() > CALLS.len()
            }
            Tool::Strace => fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|text| text.contains(&format!("TracerPid:\t{}\n", self.child.id()))),
        }
    }

    fn finish(mut self) -> io::Result<Counts> {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            kill_process(pid, Signal::INT)?;
        }
        self.child.wait()?;
        let text = fs::read_to_string(&self.output)?;
        let calls = match self.tool {
            Tool::Perf => parse_perf(&text),
            Tool::Strace => parse_strace(&text),
        };
        let total = calls.get("total").copied();
        let total = total.ok_or_else(|| io::Error::other(format!("{} counted nothing", self.tool.name())))?;
        Ok(Counts { tool: self.tool, total, calls })
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.output);
    }
}

/// Lines such as `123;;syscalls:sys_enter_sendmsg;…`.
fn parse_perf(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split(';');
        let count = fields.next()?.parse().ok()?;
        let event = fields.nth(1)?;
        let name = event.strip_prefix("syscalls:sys_enter_").unwrap_or("total");
        Some((name.to_owned(), count))
    });
    lines.collect()
}

/// A table of `% time, seconds, usecs/call, calls, [errors,] syscall`.
fn parse_strace(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (calls, name) = (fields.get(3)?.parse().ok()?, *fields.last()?);
        Some((name.to_owned(), calls))
    });
    lines.collect()
}
