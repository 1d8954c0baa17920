//! The peer: an echo server written straight on mio by somebody who knows it well.
//!
//! A slab of connections, one read buffer for all of them, answers written at once, what the
//! kernel does not take kept in the connection's own buffer until it is writable, and no read
//! while that is so. It registers once and makes no system call that the job does not need.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use socket2::{Domain, Socket, Type};

/// When a connection counts as read empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A read said so: what mio's documentation asks for, portable, one system call more.
    UntilWouldBlock,
    /// A read did not fill the buffer: true of TCP on Linux.
    UntilShort,
}

const LISTENER: Token = Token(usize::MAX);
const READ_SIZE: usize = 64 << 10;

struct Conn {
    stream: TcpStream,
    /// Bytes that the kernel has not taken.
    out: Vec<u8>,
    /// How many bytes of `out` it has.
    taken: usize,
    readable: bool,
    /// The peer ended its stream: no short read is the last one.
    ending: bool,
}

enum Fate {
    Lives,
    Ends,
}

pub fn serve(reading: Reading, announce: impl Fn(SocketAddr) -> io::Result<()>) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = listen()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    announce(listener.local_addr()?)?;
    let mut conns: Slab<Conn> = Slab::new();
    let mut scratch = vec![0; READ_SIZE];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &mut conns, poll.registry())?;
                continue;
            }
            let slot = event.token().0;
            let Some(conn) = conns.get_mut(slot) else { continue };
            conn.readable |= event.is_readable();
            conn.ending |= event.is_read_closed();
            if let Fate::Ends = drive(conn, reading, &mut scratch) {
                let mut conn = conns.remove(slot);
                poll.registry().deregister(&mut conn.stream)?;
            }
        }
    }
}

/// mio's own `bind` has a backlog of 128.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(1024)?;
    // Inherited by what it accepts.
    socket.set_tcp_nodelay(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn accept(listener: &TcpListener, conns: &mut Slab<Conn>, registry: &Registry) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let entry = conns.vacant_entry();
                let interest = Interest::READABLE | Interest::WRITABLE;
                registry.register(&mut stream, Token(entry.key()), interest)?;
                entry.insert(Conn { stream, out: Vec::new(), taken: 0, readable: false, ending: false });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes what is left over, then reads and answers for as long as all answers are taken.
fn drive(conn: &mut Conn, reading: Reading, scratch: &mut [u8]) -> Fate {
    while conn.taken < conn.out.len() {
        match conn.stream.write(&conn.out[conn.taken..]) {
            Ok(0) => return Fate::Ends,
            Ok(count) => conn.taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Fate::Lives,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Fate::Ends,
        }
    }
    conn.out = Vec::new();
    conn.taken = 0;
    while conn.readable {
        match conn.stream.read(scratch) {
            Ok(0) => return Fate::Ends,
            Ok(count) => {
                conn.readable = count == scratch.len() || conn.ending || reading == Reading::UntilWouldBlock;
                match answer(conn, &scratch[..count]) {
                    Ok(true) => {}
                    Ok(false) => return Fate::Lives,
                    Err(_) => return Fate::Ends,
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => conn.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Fate::Ends,
        }
    }
    Fate::Lives
}

/// Writes `data`, and keeps what the kernel does not take. Returns whether it took all.
fn answer(conn: &mut Conn, mut data: &[u8]) -> io::Result<bool> {
    while !data.is_empty() {
        match conn.stream.write(data) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => data = &data[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                conn.out = data.to_vec();
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
