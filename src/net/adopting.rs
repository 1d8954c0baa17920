//! Connections that were made elsewhere and are taken in, and such as are given away.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;

use super::Net;
use crate::addr::Addr;
use crate::connection::{Connection, Luggage, State, Via};
use crate::id::ConnId;
use crate::socket::{Candidate, Stream};

/// A connected stream on its way into a reactor: a descriptor, or what [`Net::detach`] took out of another
/// reactor.
///
/// Whatever becomes an `OwnedFd` becomes one of these: a `TcpStream`, a `UnixStream`, a descriptor that came
/// with a message. All but the descriptor may be put together by hand as well, such as input that was read
/// to find out what protocol is spoken.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached {
    /// The socket.
    pub fd: OwnedFd,
    /// The peer's address, where it is known.
    pub peer: Option<Addr>,
    /// Input that was received and not used: it is shown before what is read next.
    pub unread: Vec<u8>,
    /// Output that was taken and not handed to the kernel, in its order.
    pub unsent: Vec<Bytes>,
    /// Our stream is to end behind `unsent`: [`Net::close_write`] was called.
    pub write_closed: bool,
    /// Bytes that were received, `unread` among them. For information: a connection that goes on elsewhere
    /// begins to count anew.
    pub received: u64,
    /// Bytes that the kernel accepted for sending. For information.
    pub handed: u64,
}

impl<T: Into<OwnedFd>> From<T> for Detached {
    fn from(fd: T) -> Self {
        Self {
            fd: fd.into(),
            peer: None,
            unread: Vec::new(),
            unsent: Vec::new(),
            write_closed: false,
            received: 0,
            handed: 0,
        }
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why [`Net::adopt`] did not take something in; it is given back, as it was.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotAdopted {
    /// What was wrong.
    pub error: io::Error,
    /// What was not taken.
    pub stream: Detached,
}

impl fmt::Display for NotAdopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for NotAdopted {}

impl From<NotAdopted> for io::Error {
    fn from(refused: NotAdopted) -> Self {
        refused.error
    }
}

/// A stream that was looked at and found fit to be a connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    candidate: Candidate,
    peer: Option<Addr>,
    pub(super) via: Via,
    luggage: Luggage,
}

impl Arrival {
    /// Makes sure that it is fit. Nothing is done to the descriptor.
    pub(crate) fn new(stream: Detached) -> Result<Self, NotAdopted> {
        let Detached { fd, peer, unread, unsent, write_closed, received, handed } = stream;
        let luggage = Luggage { unread, unsent, write_closed, received, handed };
        match Candidate::check(fd) {
            Ok((candidate, found)) => {
                Ok(Self { candidate, peer: found.or(peer), via: Via::Adopted, luggage })
            }
            Err((error, fd)) => Err(NotAdopted { error, stream: repack(fd, peer, luggage) }),
        }
    }

    /// Nobody will look at it: the peer must not take its stream for a whole one.
    pub(crate) fn reset(&self) {
        self.candidate.reset();
    }

    /// The descriptor again; `None` when it has none that anybody could have.
    pub(crate) fn give_back(self) -> Option<Detached> {
        Some(repack(self.candidate.into_fd()?, self.peer, self.luggage))
    }
}

fn repack(fd: OwnedFd, peer: Option<Addr>, luggage: Luggage) -> Detached {
    let Luggage { unread, unsent, write_closed, received, handed } = luggage;
    Detached { fd, peer, unread, unsent, write_closed, received, handed }
}

impl Net {
    /// Takes in a connected stream that was made elsewhere: a socket that another process handed over, one end
    /// of a socketpair, what [`detach`](Self::detach) took out of another reactor. From here on it is a
    /// connection like any other. Its options become those of the configuration, non-blocking and
    /// close-on-exec among them; nobody else should go on using the same socket.
    ///
    /// `on_open` comes for it in a later callback, with [`Via::Adopted`], and `on_close` for certain. A socket
    /// that was reset before is found out then: what came before is still delivered. One that is still
    /// connecting is waited for. `max_connections` does not count here: only accepting heeds it.
    ///
    /// # Errors
    ///
    /// Gives the descriptor back untouched. `InvalidInput`, and which it is, for what is no socket, no stream
    /// (datagrams, `SOCK_SEQPACKET`), neither TCP nor Unix-domain, listening or not connected;
    /// `ConnectionAborted` during a shutdown; errors of the system's calls.
    pub fn adopt(&mut self, stream: impl Into<Detached>) -> Result<ConnId, NotAdopted> {
        let stream = stream.into();
        let allowed = self.refuse_while_stopping().and_then(|()| self.system.takes_descriptors());
        if let Err(error) = allowed {
            return Err(NotAdopted { error, stream });
        }
        Ok(self.take_in(Arrival::new(stream)?))
    }

    /// Takes in what is fit, whatever state the reactor is in.
    pub(crate) fn take_in(&mut self, arrival: Arrival) -> ConnId {
        let Arrival { candidate, peer, via, luggage } = arrival;
        let now = self.tick();
        let conn = Connection::new(State::Connecting, via, peer, now);
        let id = self.add(conn, Stream::None);
        self.stats.adopted += 1;
        let stream = candidate.prepare(&self.config).and_then(|mut stream| {
            stream.register(&self.system.registry, id.token())?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                if let Some(entry) = self.conns.get_mut(id) {
                    entry.stream = stream;
                }
                self.touch(id, |conn, stream, cx| conn.unpack(luggage, stream, cx));
            }
            Err(error) => {
                self.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
            }
        }
        self.list_ready(id);
        id
    }

    /// Gives a connection away, for another reactor, thread or process to go on with: its descriptor, its
    /// peer, the input that was not used and the output that was not sent. Nothing is lost and nothing
    /// repeated when [`adopt`](Self::adopt) takes it in elsewhere. Here `on_close` comes with the reason
    /// [`Detached`](crate::CloseReason::Detached); the unsent bytes of its report are those that left with it.
    ///
    /// Within `on_data` the handler has all input in its hands already, so that [`Detached::unread`] is empty:
    /// what the other side is to see of `data` is to be put there. What `on_data` then returns does not matter.
    ///
    /// `None` when there is nothing to give away, and then nothing has happened: the connection is gone,
    /// closing, broken, not established yet, made of something else than a socket, or has a TLS session, which
    /// no other process could go on with.
    pub fn detach(&mut self, conn: ConnId) -> Option<Detached> {
        let entry = self.conns.get_mut(conn)?;
        if !entry.conn.may_leave() || !entry.stream.has_socket() {
            return None;
        }
        entry.stream.deregister(&self.system.registry);
        self.tick();
        let luggage = self.touch(conn, |conn, stream, cx| conn.leave(stream, cx))?;
        let entry = self.conns.get_mut(conn)?;
        let fd = std::mem::replace(&mut entry.stream, Stream::None).into_fd()?;
        Some(repack(fd, entry.conn.peer(), luggage))
    }
}
