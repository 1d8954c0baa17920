//! The load: its own epoll loop over plain non-blocking sockets, in another process than the
//! server and on another processor. It checks every byte that comes back.
//!
//! Healthy clients are a closed loop: each sends a message, waits for its echo, sends the next.
//! Beside them there may be clients that never read, and one that pushes a long stream through.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{epoll, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

/// The length of a message.
pub const MESSAGE: usize = 64;

/// Nothing takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads and writes of the long stream; also the room for an answer to a short message.
const BLOCK: usize = 64 << 10;

/// The byte at offset `i` of every stream of ours is `i % PERIOD`: no two messages in a row are
/// alike, and an answer to another connection or of another moment is found out.
const PERIOD: usize = 251;

/// What one client does.
enum Client {
    Healthy(Healthy),
    Greedy(Greedy),
    Bulk(Bulk),
}

/// Sends a message, waits for the echo, sends the next.
struct Healthy {
    stream: TcpStream,
    /// Where in the pattern the present message begins.
    phase: usize,
    /// Bytes of the answer that have come; all of them when the client is at rest.
    got: usize,
    reply: usize,
    sent_at: Instant,
}

/// Sends as long as the kernel takes it, and never reads.
struct Greedy {
    stream: TcpStream,
    /// What it sends: the pattern, or one byte for ever.
    byte: Option<u8>,
    sent: u64,
    limit: u64,
}

/// Pushes a long stream through and reads its echo.
struct Bulk {
    stream: TcpStream,
    total: u64,
    sent: u64,
    got: u64,
}

/// When a run is over.
pub enum Goal {
    /// So many messages have been answered.
    Messages(u64),
    /// So much time has passed.
    Time(Duration),
    /// The long stream, as long as it is now, has come back.
    Bulk,
    /// The clients that never read have sent nothing for this long: all is full, or sent.
    Stuck(Duration),
}

/// What a run, or several, came to.
#[derive(Default)]
pub struct Run {
    pub messages: u64,
    pub elapsed: Duration,
    /// Nanoseconds from send to complete answer, one for each message.
    pub latencies: Vec<u32>,
}

impl Run {
    /// Takes in another one.
    pub fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.elapsed += other.elapsed;
        self.latencies.extend(other.latencies);
    }

    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that `share` of the messages did not exceed, in microseconds.
    pub fn percentile(&mut self, share: f64) -> f64 {
        self.latencies.sort_unstable();
        let place = (self.latencies.len() as f64 * share) as usize;
        let nanos = self.latencies.get(place).or(self.latencies.last());
        nanos.map_or(f64::NAN, |nanos| f64::from(*nanos) / 1000.0)
    }
}

/// Clients of one server.
pub struct Load {
    epoll: OwnedFd,
    clients: Vec<Client>,
    events: Vec<epoll::Event>,
    pattern: Vec<u8>,
    scratch: Vec<u8>,
    /// Messages on their way.
    outstanding: usize,
    sent_by_greedy: u64,
}

impl Load {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: Vec::new(),
            events: Vec::with_capacity(1024),
            pattern: (0..BLOCK + PERIOD).map(|i| (i % PERIOD) as u8).collect(),
            scratch: vec![0; BLOCK],
            outstanding: 0,
            sent_by_greedy: 0,
        })
    }

    /// Adds `count` clients in a closed loop, each of which is sent `replies` messages for one.
    pub fn add_healthy(&mut self, addr: SocketAddr, count: usize, replies: usize) -> io::Result<()> {
        for n in 0..count {
            let stream = connect(addr, self.clients.len(), None)?;
            let reply = replies * MESSAGE;
            let client = Healthy { stream, phase: n % PERIOD, got: reply, reply, sent_at: Instant::now() };
            self.add(Client::Healthy(client), epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    /// Adds `count` clients that send up to `limit` bytes and never read. With `byte` they send
    /// nothing else, and their kernel buffers are small.
    pub fn add_greedy(
        &mut self,
        addr: SocketAddr,
        count: usize,
        limit: u64,
        byte: Option<u8>,
    ) -> io::Result<()> {
        for _ in 0..count {
            let stream = connect(addr, self.clients.len(), byte.map(|_| 16 << 10))?;
            let client = Greedy { stream, byte, sent: 0, limit };
            self.add(Client::Greedy(client), epoll::EventFlags::OUT)?;
        }
        Ok(())
    }

    /// Adds the client that pushes a long stream through, of no length yet.
    pub fn add_bulk(&mut self, addr: SocketAddr) -> io::Result<()> {
        let stream = connect(addr, self.clients.len(), None)?;
        let client = Bulk { stream, total: 0, sent: 0, got: 0 };
        self.add(Client::Bulk(client), epoll::EventFlags::IN)
    }

    /// Makes the long stream longer.
    pub fn extend_bulk(&mut self, bytes: u64) -> io::Result<()> {
        for (slot, client) in self.clients.iter_mut().enumerate() {
            if let Client::Bulk(bulk) = client {
                bulk.total += bytes;
                let data = epoll::EventData::new_u64(slot as u64);
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                epoll::modify(&self.epoll, &bulk.stream, data, flags)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, client: Client, flags: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, client.stream(), data, flags)?;
        self.clients.push(client);
        Ok(())
    }

    /// Lets the clients work until `goal` is reached, and the last answers have come.
    pub fn run(&mut self, goal: &Goal, record: bool) -> io::Result<Run> {
        let begun = Instant::now();
        let mut run = Run::default();
        let (mut heard, mut greedy_moved, mut greedy_sent) = (begun, begun, self.sent_by_greedy);
        let mut budget = match goal {
            Goal::Messages(count) => *count,
            Goal::Stuck(_) => 0,
            Goal::Time(_) | Goal::Bulk => u64::MAX,
        };
        self.start_all(&mut budget)?;
        loop {
            let now = Instant::now();
            if self.sent_by_greedy > greedy_sent {
                (greedy_sent, greedy_moved) = (self.sent_by_greedy, now);
            }
            let reached = match goal {
                Goal::Messages(_) => budget == 0,
                Goal::Time(time) => now - begun >= *time,
                Goal::Bulk => self.bulk_is_done(),
                Goal::Stuck(time) => now - greedy_moved >= *time,
            };
            if reached {
                budget = 0;
                if self.outstanding == 0 {
                    break;
                }
            }
            if self.turn(&mut budget, &mut run, record)? {
                heard = now;
            } else if now - heard > PATIENCE {
                return Err(io::Error::new(ErrorKind::TimedOut, "the server has stopped answering"));
            }
        }
        run.elapsed = begun.elapsed();
        Ok(run)
    }

    /// Every client in the closed loop sends, for as long as messages are left to be sent.
    fn start_all(&mut self, budget: &mut u64) -> io::Result<()> {
        for client in &mut self.clients {
            if let Client::Healthy(client) = client {
                if *budget == 0 {
                    break;
                }
                *budget -= 1;
                self.outstanding += 1;
                client.send(&self.pattern)?;
            }
        }
        Ok(())
    }

    fn bulk_is_done(&self) -> bool {
        self.clients.iter().rev().all(|client| match client {
            Client::Bulk(bulk) => bulk.got == bulk.total,
            _ => true,
        })
    }

    /// One wait and what it brings. Returns whether anything happened.
    fn turn(&mut self, budget: &mut u64, run: &mut Run, record: bool) -> io::Result<bool> {
        self.events.clear();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut moved = false;
        for event in &self.events {
            let slot = event.data.u64() as usize;
            let Some(client) = self.clients.get_mut(slot) else { continue };
            match client {
                Client::Healthy(client) => {
                    moved = true;
                    if !client.receive(&mut self.scratch, &self.pattern)? {
                        continue;
                    }
                    run.messages += 1;
                    if record {
                        let nanos = client.sent_at.elapsed().as_nanos();
                        run.latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
                    }
                    if *budget > 0 {
                        *budget -= 1;
                        client.send(&self.pattern)?;
                    } else {
                        self.outstanding -= 1;
                    }
                }
                Client::Greedy(client) => {
                    let sent = client.send(&self.pattern, &mut self.scratch)?;
                    moved |= sent > 0;
                    self.sent_by_greedy += sent;
                    if client.sent == client.limit {
                        epoll::delete(&self.epoll, &client.stream)?;
                    }
                }
                Client::Bulk(client) => {
                    moved |= client.push(&self.pattern, &mut self.scratch)?;
                    if client.sent == client.total {
                        let data = epoll::EventData::new_u64(slot as u64);
                        epoll::modify(&self.epoll, &client.stream, data, epoll::EventFlags::IN)?;
                    }
                }
            }
        }
        Ok(moved)
    }

    /// Bytes that the clients which never read have got rid of.
    pub fn sent_by_greedy(&self) -> u64 {
        self.sent_by_greedy
    }

    /// One of the clients that never read changes its mind and reads for a moment, until `enough`
    /// bytes have come.
    pub fn read_from_greedy(&mut self, n: usize, enough: usize) -> io::Result<()> {
        let Some(Client::Greedy(client)) = self.clients.get_mut(n) else { return Ok(()) };
        client.stream.set_nonblocking(false)?;
        client.stream.set_read_timeout(Some(PATIENCE))?;
        let mut got = 0;
        while got < enough {
            match client.stream.read(&mut self.scratch)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => got += count,
            }
        }
        client.stream.set_nonblocking(true)
    }
}

impl Drop for Load {
    /// Resets every connection: thousands of ports in TIME-WAIT would be missing in the next round.
    fn drop(&mut self) {
        for client in &self.clients {
            let _ = SockRef::from(client.stream()).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Connects client number `n`. Each thousand of them has an address of its own, so that ports do
/// not run short.
fn connect(addr: SocketAddr, n: usize, buffers: Option<usize>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(size) = buffers {
        socket.set_send_buffer_size(size)?;
        socket.set_recv_buffer_size(size)?;
    }
    let host = 2 + (n / 1000) % 200;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host as u8), 0)).into())?;
    socket.connect(&addr.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl Client {
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Healthy(client) => &client.stream,
            Self::Greedy(client) => &client.stream,
            Self::Bulk(client) => &client.stream,
        }
    }
}

impl Healthy {
    fn send(&mut self, pattern: &[u8]) -> io::Result<()> {
        self.phase = (self.phase + MESSAGE) % PERIOD;
        self.got = 0;
        self.sent_at = Instant::now();
        // The connection is at rest: the kernel's buffer is empty.
        let sent = self.stream.write(&pattern[self.phase..self.phase + MESSAGE])?;
        if sent < MESSAGE {
            return Err(wrong("the kernel took part of a message"));
        }
        Ok(())
    }

    /// Returns whether the answer is complete.
    fn receive(&mut self, scratch: &mut [u8], pattern: &[u8]) -> io::Result<bool> {
        let count = match self.stream.read(scratch) {
            Ok(0) => return Err(wrong("the server closed a connection")),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut rest = &scratch[..count];
        while !rest.is_empty() {
            let offset = self.got % MESSAGE;
            let part = rest.len().min(MESSAGE - offset);
            let expected = &pattern[self.phase + offset..][..part];
            if self.got + part > self.reply || rest[..part] != *expected {
                return Err(wrong("an answer differs from what was sent"));
            }
            self.got += part;
            rest = &rest[part..];
        }
        Ok(self.got == self.reply)
    }
}

impl Greedy {
    fn send(&mut self, pattern: &[u8], scratch: &mut [u8]) -> io::Result<u64> {
        let length = (self.limit - self.sent).min(BLOCK as u64) as usize;
        let data = match self.byte {
            Some(byte) => {
                scratch[..length].fill(byte);
                &scratch[..length]
            }
            None => &pattern[(self.sent % PERIOD as u64) as usize..][..length],
        };
        match self.stream.write(data) {
            Ok(count) => {
                self.sent += count as u64;
                Ok(count as u64)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

impl Bulk {
    /// One write and one read, as far as they go.
    fn push(&mut self, pattern: &[u8], scratch: &mut [u8]) -> io::Result<bool> {
        let before = (self.sent, self.got);
        let length = (self.total - self.sent).min(BLOCK as u64) as usize;
        let phase = (self.sent % PERIOD as u64) as usize;
        if length > 0 {
            match self.stream.write(&pattern[phase..phase + length]) {
                Ok(count) => self.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        match self.stream.read(scratch) {
            Ok(0) => return Err(wrong("the server closed the long stream")),
            Ok(count) => {
                let phase = (self.got % PERIOD as u64) as usize;
                if scratch[..count] != pattern[phase..phase + count] {
                    return Err(wrong("the echo of the long stream differs from what was sent"));
                }
                self.got += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok((self.sent, self.got) != before)
    }
}
