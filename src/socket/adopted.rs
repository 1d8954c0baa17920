//! Listening sockets that somebody else has made: what they must be, and what is left of their past.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
use socket2::Protocol;
use socket2::{Socket, Type};

use super::address::addr_of;
use super::apply_options;
use crate::addr::Addr;
use crate::config::Config;

/// Makes sure that a descriptor is a listening stream socket of a kind that connections can be made
/// of, and makes it as one of our own would be. Returns also whether it is TCP.
pub(super) fn listener(fd: OwnedFd, config: &Config) -> io::Result<(Socket, bool)> {
    let socket = Socket::from(fd);
    // First of all: whatever becomes of it, a child that is started meanwhile is not to hold it.
    socket.set_cloexec(true)?;
    is_stream(&socket)?;
    let tcp = is_tcp(&socket)?;
    listens(&socket)?;
    socket.set_nonblocking(true)?;
    apply_options(&socket, config, tcp)?;
    if tcp {
        // Connections inherit them. The one has a close block the loop, the other holds bytes back.
        socket.set_linger(None)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_cork(false)?;
    }
    Ok((socket, tcp))
}

fn refuse<T>(reason: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::InvalidInput, reason))
}

fn is_stream(socket: &Socket) -> io::Result<()> {
    match socket.r#type() {
        Ok(Type::STREAM) => Ok(()),
        Ok(Type::DGRAM) => {
            refuse("a datagram socket has no connections to accept: a stream socket is wanted")
        }
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
fn is_tcp(socket: &Socket) -> io::Result<bool> {
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
