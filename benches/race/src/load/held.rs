//! A load that leaves nothing to chance: the server is stopped while the clients send, so that it finds
//! all of it at once, every time. What is counted then is the same from run to run.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

use super::line::Line;
use super::{pattern, wrong};
use crate::process::Server;

const FRAME: usize = 64;
/// How long a server may take that runs under an observer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Held {
    /// Each sends `message`, and each of `receivers` gets the same; those of an echo do both.
    senders: Vec<Line>,
    receivers: Vec<Line>,
    message: Vec<u8>,
    /// Units of a round.
    units: u64,
}

impl Held {
    /// Clients that get back what they send, which counts as so many messages.
    pub fn echo(addr: SocketAddr, connections: usize, length: usize, messages: u64) -> io::Result<Self> {
        let senders =
            (0..connections).map(|n| Line::open(addr, n, None, &None)).collect::<io::Result<_>>()?;
        let message = pattern(length)[..length].to_vec();
        Self::ready(Self { senders, receivers: Vec::new(), message, units: connections as u64 * messages })
    }

    /// Subscribers, all of which get what one client publishes.
    pub fn fanout(addr: SocketAddr, subscribers: usize, in_flight: usize) -> io::Result<Self> {
        let mut receivers = Vec::new();
        for n in 0..subscribers {
            let mut line = Line::open(addr, n, None, &None)?;
            line.ask(&[b'S'; FRAME])?;
            receivers.push(line);
        }
        Self::ready(Self {
            senders: vec![Line::open(addr, subscribers, None, &None)?],
            receivers,
            message: vec![b'M'; FRAME * in_flight],
            units: (subscribers * in_flight) as u64,
        })
    }

    fn ready(self) -> io::Result<Self> {
        for line in self.senders.iter().chain(&self.receivers) {
            line.stream().set_nonblocking(false)?;
            line.stream().set_read_timeout(Some(PATIENCE))?;
        }
        Ok(self)
    }

    /// Plays so many rounds, and returns the units.
    pub fn play(&mut self, server: &Server, rounds: u64) -> io::Result<u64> {
        let mut answer = vec![0; self.message.len()];
        for _ in 0..rounds {
            await_state(server, "S")?;
            signal(server, Signal::STOP)?;
            await_state(server, "Tt")?;
            for line in &self.senders {
                line.stream().write_all(&self.message)?;
            }
            signal(server, Signal::CONT)?;
            let receivers = if self.receivers.is_empty() { &self.senders } else { &self.receivers };
            for line in receivers {
                line.stream().read_exact(&mut answer)?;
                if answer != self.message {
                    return Err(wrong("a client got something else than was sent"));
                }
            }
        }
        await_state(server, "S")?;
        Ok(self.units * rounds)
    }
}

fn signal(server: &Server, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(server.pid() as i32).ok_or(ErrorKind::NotFound)?;
    Ok(kill_process(pid, signal)?)
}

/// Waits until the server is in one of these states of `/proc/PID/stat`: `S` asleep, `T` stopped.
fn await_state(server: &Server, states: &str) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(format!("/proc/{}/stat", server.pid()))?;
        let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if state.is_some_and(|state| states.contains(state)) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::new(ErrorKind::TimedOut, "the server does not come to rest"));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}
