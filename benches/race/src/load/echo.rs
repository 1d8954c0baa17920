//! Messages that come back: closed loop, where each client sends its next message when the answer
//! to the last has come, and open loop, where messages become due at a fixed rate whatever the
//! server does. There the latency counts from the moment a message was due, so that a server
//! which stops is not let off the messages that nobody sent meanwhile (coordinated omission).

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::line::scratch;
use super::{pattern, reset, wrong, Game, Latencies, Line, Poll, Tls, PERIOD};

/// When clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    Closed,
    /// So many messages in a second, from all clients together.
    Open(u64),
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub connections: usize,
    /// Bytes sent at once.
    pub length: usize,
    /// How many messages these are.
    pub messages: u64,
    pub arrivals: Arrivals,
}

struct Client {
    line: Line,
    /// Where in the pattern the present message begins.
    phase: usize,
    sent: usize,
    /// Bytes of the answer that have come; all of them when the client is at rest.
    got: usize,
    begun: Instant,
    /// Messages that became due while one was on its way.
    due: VecDeque<Instant>,
}

pub struct Echo {
    shape: Shape,
    poll: Poll,
    clients: Vec<Client>,
    pattern: Vec<u8>,
    scratch: Vec<u8>,
    ready: Vec<usize>,
    /// The client with which the next are chosen that play while others rest.
    first: usize,
}

impl Echo {
    pub fn open(addr: SocketAddr, shape: Shape, tls: &Tls) -> io::Result<Self> {
        let (poll, clients, pattern) = (Poll::new()?, Vec::new(), pattern(shape.length + PERIOD));
        let mut echo =
            Self { shape, poll, clients, pattern, scratch: scratch(), ready: Vec::new(), first: 0 };
        echo.grow(addr, shape.connections, tls)?;
        Ok(echo)
    }

    /// Connects clients until there are so many.
    pub fn grow(&mut self, addr: SocketAddr, connections: usize, tls: &Tls) -> io::Result<()> {
        let shape = self.shape;
        for n in self.clients.len()..connections {
            let line = Line::open(addr, n, None, tls)?;
            // A short message always fits: nobody has to be told that there is room again.
            let flags = if shape.length > 4096 { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            self.poll.add(&line, n, flags)?;
            self.clients.push(Client {
                line,
                phase: n % PERIOD,
                sent: shape.length,
                got: shape.length,
                begun: Instant::now(),
                due: VecDeque::new(),
            });
        }
        Ok(())
    }

    /// A closed loop of `count` clients, spread over all and others each time.
    pub fn play_some(&mut self, count: usize, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        let all = self.clients.len();
        let slots: Vec<usize> = (0..count).map(|n| (self.first + n * all / count) % all).collect();
        self.first = (self.first + 1) % all;
        self.poll.begin();
        self.closed(&slots, time, latencies)
    }

    /// Messages that become due so long after the beginning, in turn for every client, whatever the
    /// server does. Latencies count from then.
    pub fn play_schedule(&mut self, schedule: &[Duration], latencies: &mut Latencies) -> io::Result<u64> {
        self.poll.begin();
        self.open_loop(schedule, latencies)
    }

    /// Waits, and sends and receives what can be. Returns which clients have their answer.
    fn turn(&mut self, timeout: Duration, done: &mut Vec<usize>) -> io::Result<()> {
        done.clear();
        self.poll.wait(timeout, &mut self.ready)?;
        for slot in &self.ready {
            let Some(client) = self.clients.get_mut(*slot) else { continue };
            if client.got == self.shape.length {
                // Told once more that there is room.
                continue;
            }
            client.line.flush()?;
            if client.sent < self.shape.length {
                client.push(&self.pattern, self.shape.length)?;
            }
            if client.receive(&self.pattern, self.shape.length, &mut self.scratch)? {
                done.push(*slot);
            }
        }
        Ok(())
    }

    fn closed(&mut self, slots: &[usize], time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        let end = Instant::now() + time;
        for slot in slots {
            let client = &mut self.clients[*slot];
            client.send(&self.pattern, self.shape.length, Instant::now())?;
        }
        let (mut outstanding, mut answers, mut done) = (slots.len(), 0, Vec::new());
        while outstanding > 0 {
            self.turn(Duration::from_millis(20), &mut done)?;
            let now = Instant::now();
            for slot in &done {
                let client = &mut self.clients[*slot];
                latencies.saturating_record((now - client.begun).as_nanos() as u64);
                answers += 1;
                if now < end {
                    client.send(&self.pattern, self.shape.length, now)?;
                } else {
                    outstanding -= 1;
                }
            }
        }
        Ok(answers * self.shape.messages)
    }

    fn open_loop(&mut self, schedule: &[Duration], latencies: &mut Latencies) -> io::Result<u64> {
        let begun = Instant::now();
        let total = schedule.len();
        let (mut issued, mut answers, mut done) = (0, 0, Vec::new());
        while answers < total {
            // Whatever has become due, in turn for every client.
            while issued < total {
                let due = begun + schedule[issued];
                if due > Instant::now() {
                    break;
                }
                let slot = issued % self.clients.len();
                let client = &mut self.clients[slot];
                if client.got == self.shape.length && client.due.is_empty() {
                    client.send(&self.pattern, self.shape.length, due)?;
                } else {
                    client.due.push_back(due);
                }
                issued += 1;
            }
            self.turn(Duration::ZERO, &mut done)?;
            let now = Instant::now();
            for slot in &done {
                let client = &mut self.clients[*slot];
                latencies.saturating_record((now - client.begun).as_nanos() as u64);
                answers += 1;
                if let Some(due) = client.due.pop_front() {
                    client.send(&self.pattern, self.shape.length, due)?;
                }
            }
        }
        Ok(answers as u64 * self.shape.messages)
    }
}

impl Game for Echo {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        self.poll.begin();
        match self.shape.arrivals {
            Arrivals::Closed => {
                let slots: Vec<usize> = (0..self.clients.len()).collect();
                self.closed(&slots, time, latencies)
            }
            Arrivals::Open(rate) => {
                let total = (time.as_secs_f64() * rate as f64) as u64;
                let due = |n| Duration::from_nanos(n * 1_000_000_000 / rate);
                let schedule: Vec<Duration> = (0..total).map(due).collect();
                self.open_loop(&schedule, latencies)
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.clients.iter().for_each(|client| reset(client.line.stream()));
    }
}

impl Client {
    /// Begins the next message, which was due at `due`.
    fn send(&mut self, pattern: &[u8], length: usize, due: Instant) -> io::Result<()> {
        self.phase = (self.phase + length) % PERIOD;
        (self.sent, self.got, self.begun) = (0, 0, due);
        self.push(pattern, length)
    }

    fn push(&mut self, pattern: &[u8], length: usize) -> io::Result<()> {
        while self.sent < length {
            match self.line.write(&pattern[self.phase + self.sent..self.phase + length]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns whether the answer is complete.
    fn receive(&mut self, pattern: &[u8], length: usize, scratch: &mut [u8]) -> io::Result<bool> {
        while self.got < length {
            let Some(count) = self.line.read(scratch)? else { break };
            let expected = pattern[self.phase..self.phase + length].get(self.got..self.got + count);
            if expected != Some(&scratch[..count]) {
                return Err(wrong("an answer differs from what was sent"));
            }
            self.got += count;
            if count < scratch.len() && self.line.is_plain() {
                break;
            }
        }
        Ok(self.got == length)
    }
}
