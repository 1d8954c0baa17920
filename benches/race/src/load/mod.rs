//! The load: plain non-blocking sockets over raw epoll, in another process than the server and on
//! another processor. There is nothing of the engine, of mio or of any peer in it. It checks every
//! byte that comes back: a wrong one fails the run.

mod audience;
mod broadcast;
pub mod chat;
mod churn;
mod echo;
mod fanout;
mod held;
mod line;
mod proxy;

pub use self::broadcast::Broadcast;
pub use self::churn::Churn;
pub use self::echo::{Arrivals, Echo, Shape};
pub use self::fanout::Fanout;
pub use self::held::Held;
pub use self::line::{Line, Tls};
pub use self::proxy::Proxy;

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{epoll, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

/// Latencies in nanoseconds, two significant digits and more.
pub type Latencies = Histogram<u64>;

pub fn latencies() -> Latencies {
    // 1 µs to 60 s; three digits take little memory.
    Histogram::new_with_bounds(100, 60_000_000_000, 3).unwrap_or_else(|_| unreachable!("valid bounds"))
}

/// Something that clients do to a server, again and again.
pub trait Game {
    /// Goes on for about `time`, and until all that is on its way has come. Returns how many
    /// units were done: messages, deliveries, connections, blocks.
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64>;
}

/// The byte at offset `i` of every stream of ours is `i % PERIOD`, from some phase on: no two
/// messages in a row are alike, and an answer to another connection or of another moment is found.
const PERIOD: usize = 251;

/// Room for what is read at once.
const BLOCK: usize = 256 << 10;

fn pattern(len: usize) -> Vec<u8> {
    (0..len + PERIOD).map(|i| (i % PERIOD) as u8).collect()
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// A wait for many sockets at once.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    heard: Instant,
    patience: Duration,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        Self::taking(1024)
    }

    /// One that tells of so many at once.
    pub fn taking(events: usize) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(events),
            heard: Instant::now(),
            patience: Duration::from_secs(4),
        })
    }

    /// Edge-triggered: who is told reads or writes as far as it goes.
    pub fn add(&self, socket: impl AsFd, token: usize, flags: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, flags | epoll::EventFlags::ET)?)
    }

    /// The tokens that are ready. Fails when nothing has come for too long.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.as_nanos().min(999_999_999) as i64 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !self.events.is_empty() {
            self.heard = Instant::now();
        } else if self.heard.elapsed() > self.patience {
            return Err(io::Error::new(ErrorKind::TimedOut, "the server has stopped answering"));
        }
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }

    /// Nothing was expected until now.
    fn begin(&mut self) {
        self.heard = Instant::now();
    }
}

/// Reads what there is. `None` when there is nothing; an end is an error.
fn read_some(mut stream: &TcpStream, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(scratch) {
        Ok(0) => Err(wrong("the server closed a connection")),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Connects client number `n`. Each thousand of them has an address of its own, so that ports do
/// not run short. With `receive_buffer` little is taken by a client that does not read.
pub fn connect(addr: SocketAddr, n: usize, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket = client_socket(n)?;
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    socket.connect(&addr.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn client_socket(n: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    let host = 2 + (n / 1000) % 200;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host as u8), 0)).into())?;
    Ok(socket)
}

/// Resets instead of closing: thousands of ports in TIME-WAIT would be missing in the next round.
pub fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Clients that are connected and do nothing.
pub struct Idle(Vec<Line>);

impl Idle {
    pub fn open(addr: SocketAddr, count: usize, tls: &Tls) -> io::Result<Self> {
        let mut idle = Self(Vec::with_capacity(count));
        for n in 0..count {
            idle.0.push(Line::open(addr, n, None, tls)?);
        }
        Ok(idle)
    }

    /// Each sends a message and gets it back.
    pub fn use_each(&mut self) -> io::Result<()> {
        let message = pattern(64);
        self.0.iter_mut().try_for_each(|line| line.ask(&message[..64]))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.iter().map(Line::stream).for_each(reset);
    }
}

/// Clients that send and never read.
pub struct Greedy(Vec<TcpStream>);

impl Greedy {
    /// Each sends up to `limit` bytes, until nothing has moved for a while.
    pub fn open(addr: SocketAddr, count: usize, limit: usize) -> io::Result<Self> {
        let mut greedy = Self(Vec::new());
        for n in 0..count {
            greedy.0.push(connect(addr, n, Some(16 << 10))?);
        }
        let block = pattern(64 << 10);
        let mut left = vec![limit; count];
        let mut moved = Instant::now();
        while moved.elapsed() < Duration::from_millis(300) {
            for (mut stream, left) in greedy.0.iter().zip(&mut left) {
                let part = block.len().min(*left);
                match io::Write::write(&mut stream, &block[..part]) {
                    Ok(count) if count > 0 => {
                        *left -= count;
                        moved = Instant::now();
                    }
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(greedy)
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.0.iter().for_each(reset);
    }
}
