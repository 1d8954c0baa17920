//! A server by hand, as small as it can be and still be right: a slab of connections, one read
//! buffer for all, answers written at once, what the kernel does not take kept until it does, and
//! no read while that is so. The reference of the race, over [`epoll`](super::epoll); over
//! [`mio`](super::mio) it is the peer "raw mio".

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

use slab::Slab;

use super::frames::{runs, Rest, Run};
use super::{Role, SUBSCRIBER_CAP};

/// What the kernel tells of a socket.
pub struct Ready {
    pub token: usize,
    pub readable: bool,
    pub writable: bool,
    /// The peer has ended its stream, or the connection is broken.
    pub closed: bool,
}

/// Edge-triggered readiness.
pub trait Poller: Sized {
    /// Whether a read that does not fill the buffer counts as the last: true of TCP on Linux, and
    /// not what mio promises.
    const SHORT_READ_IS_LAST: bool;

    fn new() -> io::Result<Self>;
    /// Watches for everything, once and for all.
    fn add(&mut self, fd: RawFd, token: usize) -> io::Result<()>;
    /// Waits, and returns how many events there are.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;
    fn event(&self, n: usize) -> Option<Ready>;
}

const LISTENER: usize = usize::MAX;
const READ_SIZE: usize = 64 << 10;
/// How long after the descriptors ran out a client that waits is looked for again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

struct Conn {
    stream: TcpStream,
    /// Bytes that the kernel has not taken, and how many of them it has since.
    out: Vec<u8>,
    taken: usize,
    readable: bool,
    closed: bool,
    /// Proxy: the other side.
    partner: Option<usize>,
    /// Our end is to be closed once all is written.
    ends: bool,
    frame: Rest,
}

struct Server<P> {
    poll: P,
    listener: TcpListener,
    role: Role,
    conns: Slab<Conn>,
    subscribers: HashSet<usize>,
    scratch: Vec<u8>,
    joined: Vec<u8>,
    /// Clients may be waiting that could not be accepted.
    starved: bool,
}

pub fn serve<P: Poller>(role: Role) -> io::Result<()> {
    let listener = super::listen()?;
    super::announce(listener.local_addr()?)?;
    serve_from::<P>(role, listener)
}

pub fn serve_from<P: Poller>(role: Role, listener: TcpListener) -> io::Result<()> {
    let mut poll = P::new()?;
    poll.add(listener.as_raw_fd(), LISTENER)?;
    let mut server = Server {
        poll,
        listener,
        role,
        conns: Slab::new(),
        subscribers: HashSet::new(),
        scratch: vec![0; READ_SIZE],
        joined: Vec::new(),
        starved: false,
    };
    loop {
        match server.poll.wait(server.starved.then_some(ACCEPT_AGAIN)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        if server.starved {
            server.accept()?;
        }
        let mut n = 0;
        while let Some(ready) = server.poll.event(n) {
            n += 1;
            if ready.token == LISTENER {
                server.accept()?;
            } else {
                server.serve(&ready)?;
            }
        }
    }
}

impl<P: Poller> Server<P> {
    fn accept(&mut self) -> io::Result<()> {
        self.starved = false;
        loop {
            match accept(&self.listener) {
                Ok(stream) => {
                    let slot = self.add(stream)?;
                    if let Role::Proxy(upstream) = self.role {
                        // On the loopback a connect is done at once.
                        let stream = TcpStream::connect(upstream)?;
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let partner = self.add(stream)?;
                        self.conns[slot].partner = Some(partner);
                        self.conns[partner].partner = Some(slot);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        self.starved = true;
                        return Ok(());
                    }
                    Some(libc::EINTR | libc::ECONNABORTED) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn add(&mut self, stream: TcpStream) -> io::Result<usize> {
        let entry = self.conns.vacant_entry();
        let slot = entry.key();
        self.poll.add(stream.as_raw_fd(), slot)?;
        entry.insert(Conn {
            stream,
            out: Vec::new(),
            taken: 0,
            readable: false,
            closed: false,
            partner: None,
            ends: false,
            frame: Rest::default(),
        });
        Ok(slot)
    }

    fn serve(&mut self, ready: &Ready) -> io::Result<()> {
        let slot = ready.token;
        let Some(conn) = self.conns.get_mut(slot) else { return Ok(()) };
        conn.readable |= ready.readable;
        conn.closed |= ready.closed;
        if ready.writable && !conn.out.is_empty() {
            if conn.flush().is_err() {
                self.remove(slot);
                return Ok(());
            }
            if let (true, Some(partner)) = (conn.out.is_empty(), conn.partner) {
                self.read(partner);
            }
        }
        self.read(slot);
        Ok(())
    }

    /// Reads for as long as there is something, and what was answered has left.
    fn read(&mut self, slot: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(conn) = self.conns.get_mut(slot) {
            let sink = if let Role::Proxy(_) = self.role { conn.partner } else { Some(slot) };
            let Some(sink) = sink else { break };
            if !self.conns.get(sink).is_some_and(|conn| conn.out.is_empty()) {
                break;
            }
            let conn = &mut self.conns[slot];
            if !conn.readable {
                break;
            }
            match conn.stream.read(&mut scratch) {
                Ok(0) => {
                    conn.readable = false;
                    self.end(slot);
                }
                Ok(count) => {
                    conn.readable = conn.closed || !P::SHORT_READ_IS_LAST || count == scratch.len();
                    self.take(slot, sink, &scratch[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => conn.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.remove(slot),
            }
        }
        self.scratch = scratch;
    }

    /// What came from `slot`.
    fn take(&mut self, slot: usize, sink: usize, data: &[u8]) {
        match self.role {
            Role::Echo | Role::Proxy(_) => {
                if self.conns[sink].send(data).is_err() {
                    self.remove(sink);
                }
            }
            Role::Fanout => {
                let mut joined = std::mem::take(&mut self.joined);
                for run in runs(self.conns[slot].frame.complete(data, &mut joined)) {
                    match run {
                        Run::Subscribe(frame) => {
                            if let Some(conn) = self.conns.get_mut(slot) {
                                self.subscribers.insert(slot);
                                let _ = conn.send(frame);
                            }
                        }
                        Run::Publish(frames) => self.publish(frames),
                    }
                }
                self.joined = joined;
            }
        }
    }

    fn publish(&mut self, frames: &[u8]) {
        let mut lost = Vec::new();
        for slot in &self.subscribers {
            let conn = &mut self.conns[*slot];
            if conn.send(frames).is_err() || conn.out.len() - conn.taken > SUBSCRIBER_CAP {
                lost.push(*slot);
            }
        }
        lost.into_iter().for_each(|slot| self.remove(slot));
    }

    /// The stream of `slot` has ended.
    fn end(&mut self, slot: usize) {
        let Some(partner) = self.conns[slot].partner else { return self.remove(slot) };
        let ours = self.conns[slot].ends;
        let Some(other) = self.conns.get_mut(partner) else { return self.remove(slot) };
        other.ends = true;
        if other.flush().is_err() || ours {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: usize) {
        if let Some(conn) = self.conns.try_remove(slot) {
            self.subscribers.remove(&slot);
            if let Some(partner) = conn.partner {
                self.conns.try_remove(partner);
            }
        }
    }
}

impl Conn {
    fn send(&mut self, mut data: &[u8]) -> io::Result<()> {
        if self.out.is_empty() {
            while !data.is_empty() {
                match self.stream.write(data) {
                    Ok(count) => data = &data[count..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.out.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.taken < self.out.len() {
            match self.stream.write(&self.out[self.taken..]) {
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The memory goes back: most connections never need it again.
        self.out = Vec::new();
        self.taken = 0;
        if self.ends {
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }
}

/// Accepts a client and makes it non-blocking in one call.
#[cfg(target_os = "linux")]
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel may leave out the address, and the descriptor it returns is ours alone.
    unsafe {
        match libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(TcpStream::from_raw_fd(fd)),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
