//! Listening sockets, and the file descriptor held in reserve for them.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Socket, Type};

use super::address::{addr_of, sock_addr};
use super::unix_path::OwnedPath;
use super::{adopted, apply_options, Stream};
use crate::addr::{not_an_address, Addr};
use crate::config::Config;
use crate::listen_options::ListenOptions;
#[cfg(feature = "sim")]
use crate::simnet::{SimDescriptor, SimListener};
use crate::transport::Transport;

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix {
        /// What it bound, if it did. Before the socket, and so gone before it: a path whose socket
        /// does not listen any more is anybody's.
        path: Option<OwnedPath>,
        listener: UnixListener,
    },
    /// Another reactor of the group accepts, and hands out.
    Elsewhere(Addr),
    #[cfg(feature = "sim")]
    Sim(SimListener),
}

/// What can be accepted from: a listening socket, or a script in a test.
pub(crate) trait Accept {
    /// The next connection that waits, with its address when the system gave one.
    fn accept(&mut self) -> io::Result<(Stream, Option<Addr>)>;
}

impl Acceptor {
    pub(crate) fn bind(addr: &Addr, options: &ListenOptions, config: &Config) -> io::Result<Self> {
        let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
        let name = sock_addr(addr)?;
        let socket = Socket::new(name.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        apply_options(&socket, config, addr.as_tcp().is_some())?;
        let bind_and_listen = || {
            socket.bind(&name)?;
            socket.listen(backlog)
        };
        let path = match addr {
            Addr::Tcp(_) => {
                socket.set_reuse_address(true)?;
                if options.reuse_port {
                    socket.set_reuse_port(true)?;
                }
                if let Some(only_v6) = options.only_v6 {
                    socket.set_only_v6(only_v6)?;
                }
                bind_and_listen()?;
                return Ok(Self::Tcp(TcpListener::from_std(socket.into())));
            }
            Addr::Unix(path) => Some(OwnedPath::listen(&socket, path, &name, options.mode, backlog)?),
            Addr::Abstract(_) => {
                bind_and_listen()?;
                None
            }
            Addr::Host(host) => return Err(not_an_address(host)),
        };
        Ok(Self::Unix { path, listener: UnixListener::from_std(socket.into()) })
    }

    /// Takes over a listening socket: inherited, or handed over by another process.
    pub(crate) fn from_fd(fd: OwnedFd, config: &Config) -> io::Result<Self> {
        let (socket, tcp) = adopted::listener(fd, config)?;
        Ok(match tcp {
            true => Self::Tcp(TcpListener::from_std(socket.into())),
            false => Self::Unix { path: None, listener: UnixListener::from_std(socket.into()) },
        })
    }

    /// The file descriptor, where there is one, to be shared with another process: the path of a
    /// Unix-domain socket belongs to that one from here on.
    pub(crate) fn share_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(listener) => Some(listener.as_fd()),
            Self::Unix { path, listener } => {
                if let Some(path) = path {
                    path.share();
                }
                Some(listener.as_fd())
            }
            Self::Elsewhere(_) => None,
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Addr::Tcp),
            Self::Unix { listener, .. } => {
                let name = SockRef::from(listener).local_addr()?;
                addr_of(&name).ok_or_else(|| ErrorKind::Unsupported.into())
            }
            Self::Elsewhere(addr) => Ok(addr.clone()),
            #[cfg(feature = "sim")]
            Self::Sim(listener) => listener.local_addr().map(Addr::Tcp),
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        let token = Token(token);
        match self {
            Self::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Self::Unix { listener, .. } => registry.register(listener, token, Interest::READABLE),
            Self::Elsewhere(_) => Ok(()),
            #[cfg(feature = "sim")]
            Self::Sim(listener) => {
                listener.register(token.0);
                Ok(())
            }
        }
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        let result = match self {
            Self::Tcp(listener) => registry.deregister(listener),
            Self::Unix { listener, .. } => registry.deregister(listener),
            Self::Elsewhere(_) => Ok(()),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        };
        if let Err(error) = result {
            log::debug!("deregister: {error}");
        }
    }

    /// Sets on an accepted socket what it did not inherit: on Linux nothing with TCP, all of it with
    /// Unix-domain sockets. A connection that was reset while it waited may refuse options: its first
    /// read will tell.
    pub(crate) fn finish_accept(&self, stream: &Stream, config: &Config) {
        let tcp = matches!(self, Self::Tcp(_));
        if tcp && cfg!(target_os = "linux") {
            return;
        }
        if let Some(Err(error)) = stream.socket().map(|socket| apply_options(&socket, config, tcp)) {
            log::debug!("options of an accepted socket: {error}");
        }
    }
}

impl Accept for Acceptor {
    fn accept(&mut self) -> io::Result<(Stream, Option<Addr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Tcp(TcpStream::from(stream).into()), Some(Addr::Tcp(peer))))
            }
            Self::Unix { listener, .. } => {
                let (stream, peer) = accept_unix(listener)?;
                Ok((Stream::Unix(stream), peer))
            }
            Self::Elsewhere(_) => Err(ErrorKind::WouldBlock.into()),
            #[cfg(feature = "sim")]
            Self::Sim(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Sim(Box::new(stream)), Some(Addr::Tcp(peer))))
            }
        }
    }
}

/// mio's own accept panics at a client whose path is as long as can be: its address is a byte longer
/// than the structure for it (unix(7), BUGS). Nor does it know abstract names.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_unix(listener: &UnixListener) -> io::Result<(OwnedFd, Option<Addr>)> {
    let (socket, peer) = SockRef::from(listener).accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)?;
    let named = addr_of(&peer).filter(|_| !peer.is_unnamed());
    Ok((socket.into(), named))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn accept_unix(listener: &UnixListener) -> io::Result<(OwnedFd, Option<Addr>)> {
    let (stream, peer) = listener.accept()?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    Ok((stream.into(), peer.as_pathname().map(|path| Addr::Unix(path.to_owned()))))
}

/// A file descriptor that is held for its own sake.
#[derive(Debug)]
pub(crate) enum Held {
    File(#[allow(dead_code)] File),
    #[cfg(feature = "sim")]
    Sim(#[allow(dead_code)] SimDescriptor),
}

/// What came of a try to turn a client away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    One,
    /// Nobody waits.
    Nobody,
    /// The reserve is gone, or of no use.
    Failed,
}

/// A file descriptor held back, so that there is one left to turn clients away with when there
/// are no others.
pub(crate) struct Reserve {
    held: Option<Held>,
    take: Box<dyn Fn() -> io::Result<Held> + Send>,
}

impl Reserve {
    pub(crate) fn new(take: Box<dyn Fn() -> io::Result<Held> + Send>) -> io::Result<Self> {
        Ok(Self { held: Some(take()?), take })
    }

    /// Accepts one waiting client with the reserved descriptor and resets it.
    pub(crate) fn shed_one(&mut self, acceptor: &mut impl Accept) -> Shed {
        if self.held.take().is_none() {
            self.refill();
            return Shed::Failed;
        }
        let shed = match acceptor.accept() {
            Ok((mut stream, _)) => {
                // Reset rather than closed: what it sent will not be read.
                stream.reset_on_close();
                Shed::One
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Shed::Nobody,
            Err(_) => Shed::Failed,
        };
        self.refill();
        shed
    }

    fn refill(&mut self) {
        self.held = (self.take)().ok();
    }
}
