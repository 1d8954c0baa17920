//! Sockets that somebody else has made, listening or connected: what they must be, and what is left of
//! their past.

use std::io::{self, ErrorKind};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
use socket2::Protocol;
use socket2::{SockRef, Socket, Type};

use super::address::addr_of;
use super::{apply_options, Stream};
use crate::addr::Addr;
use crate::config::Config;

/// Makes sure that a descriptor is a listening stream socket of a kind that connections can be made
/// of, and makes it as one of our own would be. Returns also whether it is TCP.
pub(super) fn listener(fd: OwnedFd, config: &Config) -> io::Result<(Socket, bool)> {
    let socket = Socket::from(fd);
    // First of all: whatever becomes of it, a child that is started meanwhile is not to hold it.
    socket.set_cloexec(true)?;
    is_stream(&SockRef::from(&socket))?;
    let tcp = is_tcp(&SockRef::from(&socket))?;
    listens(&socket)?;
    socket.set_nonblocking(true)?;
    apply_options(&socket, config, tcp)?;
    if tcp {
        forget_the_past(&socket)?;
    }
    Ok((socket, tcp))
}

/// Connections inherit them. The one has a close block the loop, the other holds bytes back.
fn forget_the_past(socket: &Socket) -> io::Result<()> {
    socket.set_linger(None)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_cork(false)?;
    Ok(())
}

/// A connected stream that has been looked at, and to which nothing has been done yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    fd: OwnedFd,
    tcp: bool,
}

impl Candidate {
    /// Makes sure that a descriptor is a stream socket of a kind that connections are made of, and connected,
    /// or was. Gives it back otherwise. Returns also the peer's address, where the system still knows it.
    pub(crate) fn check(fd: OwnedFd) -> Result<(Self, Option<Addr>), (io::Error, OwnedFd)> {
        let socket = SockRef::from(&fd);
        let checked = is_stream(&socket).and_then(|()| is_tcp(&socket)).and_then(|tcp| {
            let peer = peer(&socket, tcp)?;
            Ok((tcp, peer))
        });
        match checked {
            Ok((tcp, peer)) => Ok((Self { fd, tcp }, peer)),
            Err(error) => Err((error, fd)),
        }
    }

    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        Some(self.fd)
    }

    /// Has the close be a reset.
    pub(crate) fn reset(&self) {
        if let Err(error) = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO)) {
            log::debug!("SO_LINGER: {error}");
        }
    }

    /// Makes it as one of our own would be.
    pub(crate) fn prepare(self, config: &Config) -> io::Result<Stream> {
        let socket = Socket::from(self.fd);
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        let options = apply_options(&socket, config, self.tcp).and_then(|()| forget_the_past(&socket));
        if let Err(error) = options {
            // A connection that was reset may refuse them: its first read will tell.
            log::debug!("options of an adopted socket: {error}");
        }
        Ok(match self.tcp {
            true => Stream::Tcp(socket.into()),
            false => Stream::Unix(socket.into()),
        })
    }
}

/// Whom a socket is connected to. One that was reset has nobody any more, and neither has one that is still
/// connecting: both are told from one that nobody ever connected by the port that they have.
fn peer(socket: &SockRef<'_>, tcp: bool) -> io::Result<Option<Addr>> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if socket.is_listener()? {
        return refuse("the socket is listening, and no connection");
    }
    match socket.peer_addr() {
        Ok(peer) => Ok(addr_of(&peer).filter(|_| !peer.is_unnamed())),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let was_connected = tcp && socket.local_addr()?.as_socket().is_some_and(|addr| addr.port() != 0);
            match was_connected {
                true => Ok(None),
                false => refuse("the socket is not connected"),
            }
        }
        Err(error) => Err(error),
    }
}

impl Stream {
    /// Whether an adopted socket is still connecting.
    pub(crate) fn is_connecting(&self) -> bool {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Self::Tcp(stream) = self {
            return super::asking::tcp_is_connecting(stream.as_fd());
        }
        false
    }
}

fn refuse<T>(reason: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::InvalidInput, reason))
}

fn is_stream(socket: &SockRef<'_>) -> io::Result<()> {
    match socket.r#type() {
        Ok(Type::STREAM) => Ok(()),
        Ok(Type::DGRAM) => refuse("a datagram socket has no connections: a stream socket is wanted"),
        Ok(Type::SEQPACKET) => refuse(
            "a SOCK_SEQPACKET socket keeps its packets apart, and as a stream they would be cut and joined: \
             a SOCK_STREAM socket is wanted",
        ),
        Ok(other) => refuse(&format!("a socket of type {other:?} is no stream socket")),
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => refuse("the descriptor is no socket"),
        Err(error) => Err(error),
    }
}

/// TCP, or else a Unix-domain socket.
fn is_tcp(socket: &SockRef<'_>) -> io::Result<bool> {
    let name = socket.local_addr()?;
    if name.is_unix() {
        return Ok(false);
    }
    // MPTCP and SCTP have the addresses of TCP, and options of their own.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let other = socket.protocol()?.is_some_and(|protocol| protocol != Protocol::TCP);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let other = false;
    match name.as_socket() {
        Some(_) if !other => Ok(true),
        _ => refuse("the stream socket is neither TCP nor a Unix-domain socket"),
    }
}

/// Where the system does not tell, at least a connection can be told.
fn listens(socket: &Socket) -> io::Result<()> {
    if let Ok(peer) = socket.peer_addr() {
        let peer = match addr_of(&peer) {
            Some(Addr::Unix(path)) if path.as_os_str().is_empty() => String::new(),
            peer => peer.map(|peer| format!(" with {peer}")).unwrap_or_default(),
        };
        return refuse(&format!("the socket is a connection{peer}, and does not listen"));
    }
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if !socket.is_listener()? {
        return refuse("the socket is not listening: listen(2) has not been called on it");
    }
    Ok(())
}
