//! Sockets: this file and those below it are the only ones that call the operating system's socket
//! functions.

mod acceptor;
mod address;
mod adopted;
mod affinity;
mod asking;
mod calls;
mod child;
mod clock;
mod credentials;
mod descriptor;
mod nosignal;
mod options;
mod pipe;
mod telling;
mod transport;
mod unix_path;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{SockAddr, SockRef, Socket, Type};

use crate::addr::Addr;
use crate::config::Config;
#[cfg(feature = "sim")]
use crate::simnet::SimStream;
#[cfg(feature = "tls")]
use crate::tls::{Secured, Session};
use crate::transport::Transport;

use self::address::{addr_of, sock_addr};
use self::options::{apply_options, bind_to_connect};

pub(crate) use acceptor::{Accept, Acceptor, Held, Reserve, Shed};
pub(crate) use adopted::Candidate;
pub(crate) use affinity::pin_to_core;
#[cfg(test)]
pub(crate) use child::tests::PRETEND_NONE as PRETEND_NO_PIDFD;
pub(crate) use child::{pidfd, wait_for_end};
pub(crate) use clock::Clock;
pub use credentials::Credentials;
pub(crate) use pipe::Pipe;

/// Every send carries it: without it a write to a broken connection kills a host process that
/// has left SIGPIPE alone. Apple's systems have a socket option instead, which mio sets.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: i32 = 0;

/// What a connection is registered for, once and for life. Urgent data is among it where the
/// kernel tells of it, because a read stops short at the urgent mark.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn stream_interest() -> Interest {
    Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY
}
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn stream_interest() -> Interest {
    Interest::READABLE | Interest::WRITABLE
}

/// A connected or connecting stream socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(OwnedFd),
    Unix(OwnedFd),
    /// A Unix-domain socket whose listener's backlog is full: to be tried again.
    Dialing(Box<Dialing>),
    /// A TLS session above one of the others.
    #[cfg(feature = "tls")]
    Tls(Box<Secured<Stream>>),
    Pipe(Box<Pipe>),
    /// No socket: it could not be made, or is closed.
    None,
    #[cfg(feature = "sim")]
    Sim(Box<SimStream>),
}

#[derive(Debug)]
pub(crate) struct Dialing {
    socket: Socket,
    addr: SockAddr,
}

/// What came of a try to connect.
#[derive(Debug)]
pub(crate) enum Connect {
    /// Under way, or done: an event will tell.
    Started(Stream),
    /// The backlog of a Unix-domain socket is full, and no event will tell when it is not.
    TryAgain(Stream),
}

impl Stream {
    /// Begins to connect.
    pub(crate) fn connect(addr: &Addr, from: Option<SocketAddr>, config: &Config) -> io::Result<Connect> {
        let name = sock_addr(addr)?;
        let socket = Socket::new(name.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let tcp = addr.as_tcp().is_some();
        apply_options(&socket, config, tcp)?;
        if !tcp {
            return Self::Dialing(Box::new(Dialing { socket, addr: name })).redial();
        }
        if let Some(from) = from {
            bind_to_connect(&socket, from)?;
        }
        match socket.connect(&name) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Connect::Started(Self::Tcp(socket.into())))
    }

    /// Tries again to connect a Unix-domain socket whose listener was too busy.
    pub(crate) fn redial(self) -> io::Result<Connect> {
        let Self::Dialing(dialing) = self else {
            return Ok(Connect::Started(self));
        };
        match dialing.socket.connect(&dialing.addr) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Connect::TryAgain(Self::Dialing(dialing)));
            }
            Err(error) => return Err(error),
        }
        Ok(Connect::Started(Self::Unix(dialing.socket.into())))
    }

    pub(crate) fn is_dialing(&self) -> bool {
        matches!(self, Self::Dialing(_))
    }

    /// Whether a connection under way is established. The pending error comes first: asking for
    /// the peer's name proves nothing while one is pending.
    pub(crate) fn finish_connect(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        let peer = match self {
            Self::Tcp(fd) => match SockRef::from(&*fd).peer_addr() {
                // An ephemeral port that happens to be the one asked for: the socket has
                // connected to itself, and would hear its own echo.
                Ok(peer) if SockRef::from(&*fd).local_addr().is_ok_and(|local| local == peer) => {
                    // Closed in good order it would keep its port for a minute (TIME-WAIT) from the
                    // very server that is awaited there.
                    self.reset_on_close();
                    return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
                }
                peer => peer.map(drop),
            },
            Self::Unix(fd) => SockRef::from(&*fd).peer_addr().map(drop),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => return Ok(stream.is_connected()),
            #[cfg(feature = "tls")]
            Self::Tls(_) => return Ok(true),
            Self::Pipe(_) => return Ok(true),
            Self::Dialing(_) | Self::None => return Ok(false),
        };
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The address of our end.
    pub(crate) fn local_addr(&self) -> Option<Addr> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self.bottom() {
            return Some(Addr::Tcp(stream.local_addr()));
        }
        addr_of(&self.socket()?.local_addr().ok()?)
    }

    /// Who is at the other end of a Unix-domain connection.
    pub(crate) fn peer_credentials(&self) -> Option<Credentials> {
        match self.bottom() {
            Self::Unix(fd) => credentials::of_peer(fd.as_fd()),
            _ => None,
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self.bottom_mut() {
            stream.register(token);
        }
        self.with_source(|source| registry.register(source, Token(token), stream_interest()))
    }

    /// Has the poll tell of it under another token: what is ready already is told once more.
    pub(crate) fn reregister(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self.bottom_mut() {
            stream.register(token);
        }
        self.with_source(|source| registry.reregister(source, Token(token), stream_interest()))
    }

    /// Takes the socket out of the poll before it is closed: a duplicate of its descriptor, in
    /// this process or a child, would keep its events coming.
    pub(crate) fn deregister(&mut self, registry: &Registry) {
        if let Err(error) = self.with_source(|source| registry.deregister(source)) {
            log::debug!("deregister: {error}");
        }
    }

    /// The socket itself, without a session above it.
    pub(crate) fn bottom(&self) -> &Self {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.below().bottom(),
            bottom => bottom,
        }
    }

    #[cfg(feature = "sim")]
    fn bottom_mut(&mut self) -> &mut Self {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.below_mut().bottom_mut(),
            bottom => bottom,
        }
    }

    /// Has what the poll knows it by dealt with, if there is any.
    fn with_source(&mut self, deal: impl FnOnce(&mut dyn Source) -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Tcp(fd) | Self::Unix(fd) => deal(&mut SourceFd(&fd.as_raw_fd())),
            Self::Pipe(pipe) => deal(&mut **pipe),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.below_mut().with_source(deal),
            Self::Dialing(_) | Self::None => Ok(()),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        }
    }

    pub(crate) fn has_socket(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// The descriptor of a socket that has been taken out of the poll.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        match self {
            Self::Tcp(fd) | Self::Unix(fd) => Some(fd),
            _ => None,
        }
    }

    fn socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(fd) | Self::Unix(fd) => Some(SockRef::from(fd)),
            Self::Pipe(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.below().socket(),
            Self::Dialing(_) | Self::None => None,
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }
}

#[cfg(feature = "tls")]
impl Stream {
    /// Puts a session above it. So many bytes of the queue are older than that.
    pub(crate) fn secure(&mut self, session: Box<dyn Session>, clear: usize, allow_truncation: bool) {
        let mut below = std::mem::replace(self, Self::None);
        if let Self::Pipe(pipe) = &mut below {
            pipe.read_until_empty();
        }
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = &below {
            stream.seal(clear, session.is_toy(), allow_truncation);
        }
        *self = Self::Tls(Box::new(Secured::new(below, session, clear, allow_truncation)));
    }

    pub(crate) fn session(&self) -> Option<&Secured<Self>> {
        match self {
            Self::Tls(secured) => Some(secured),
            _ => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Secured<Self>> {
        match self {
            Self::Tls(secured) => Some(secured),
            _ => None,
        }
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use socket2::SockAddr;
    use std::net;

    #[test]
    fn a_connection_to_itself_is_refused_and_leaves_its_port_to_the_server_that_is_awaited_there() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let anywhere = SockAddr::from(ip.parse::<net::SocketAddr>().unwrap());
            let socket = Socket::new(anywhere.domain(), Type::STREAM, None).unwrap();
            if socket.bind(&anywhere).is_err() {
                continue; // No IPv6 here.
            }
            let addr = socket.local_addr().unwrap();
            socket.connect(&addr).expect("Linux lets it");
            let mut stream = Stream::Tcp(socket.into());
            let error = stream.finish_connect().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
            drop(stream);
            net::TcpListener::bind(addr.as_socket().unwrap()).expect("nothing waits on the port");
        }
    }

    #[test]
    fn what_is_no_socket_has_nothing_to_ask_for() {
        assert_eq!(Stream::None.unacknowledged(), None);
        assert_eq!((Stream::None.last_heard(), Stream::None.unread()), (None, None));
    }
}
