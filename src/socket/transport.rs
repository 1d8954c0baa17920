//! Every kind of stream as a transport: which call of the operating system each step is.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::SockRef;

use super::asking::input_queue;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::asking::{send_queue, tcp_info};
use super::{calls, Stream, SEND_FLAGS};
use crate::transport::{LastHeard, Transport};

fn not_connected<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::ENOTCONN))
}

impl Stream {
    /// Reads from what is no TCP socket.
    #[inline(never)]
    fn read_other(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(fd) | Self::Unix(fd) => calls::recv(fd.as_fd(), buf),
            Self::Pipe(pipe) => pipe.read(buf),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.read(buf),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.read(buf),
            Self::Dialing(_) | Self::None => not_connected(),
        }
    }

    /// Writes more than one slice, or to what is no TCP socket.
    #[inline(never)]
    fn write_other(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let send = |socket: BorrowedFd<'_>| match slices {
            [one] => calls::send(socket, one),
            _ => SockRef::from(&socket).send_vectored_with_flags(slices, SEND_FLAGS),
        };
        match self {
            Self::Tcp(fd) | Self::Unix(fd) => send(fd.as_fd()),
            Self::Pipe(pipe) => pipe.write(slices),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.write(slices),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.write(slices),
            Self::Dialing(_) | Self::None => not_connected(),
        }
    }
}

impl Transport for Stream {
    #[inline(always)]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(fd) => calls::recv(fd.as_fd(), buf),
            other => other.read_other(buf),
        }
    }

    #[inline(always)]
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (Self::Tcp(fd), [one]) => calls::send(fd.as_fd(), one),
            (other, _) => other.write_other(slices),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.shutdown_write();
        }
        #[cfg(feature = "tls")]
        if let Self::Tls(secured) = self {
            return secured.shutdown_write();
        }
        if let Self::Pipe(pipe) = self {
            return pipe.shutdown_write();
        }
        match self.socket() {
            Some(socket) => socket.shutdown(std::net::Shutdown::Write),
            None => not_connected(),
        }
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.take_error();
        }
        #[cfg(feature = "tls")]
        if let Self::Tls(secured) = self {
            return secured.take_error();
        }
        if let Self::Pipe(pipe) = self {
            return pipe.take_error();
        }
        self.socket().map_or(Ok(None), |socket| socket.take_error())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn unacknowledged(&self) -> Option<u64> {
        match self {
            Self::Tcp(fd) => send_queue(fd.as_fd()),
            Self::Pipe(pipe) => pipe.unacknowledged(),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.unacknowledged(),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.unacknowledged(),
            _ => None,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn unacknowledged(&self) -> Option<u64> {
        None
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn last_heard(&self) -> Option<LastHeard> {
        match self {
            Self::Tcp(fd) => tcp_info(fd.as_fd()),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.last_heard(),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.last_heard(),
            _ => None,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn last_heard(&self) -> Option<LastHeard> {
        None
    }

    fn unread(&self) -> Option<usize> {
        match self {
            Self::Tcp(fd) | Self::Unix(fd) => input_queue(fd.as_fd()),
            Self::Pipe(pipe) => pipe.unread(),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.unread(),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.unread(),
            Self::Dialing(_) | Self::None => None,
        }
    }

    /// On Linux a TCP socket that filled only part of the buffer was empty at that moment, and
    /// what comes later brings an event. A Unix-domain socket also stops at a message that
    /// carries file descriptors; elsewhere nothing is promised.
    #[inline]
    fn short_read_empties(&self) -> bool {
        if let Self::Tcp(_) = self {
            return cfg!(target_os = "linux");
        }
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.short_read_empties();
        }
        #[cfg(feature = "tls")]
        if let Self::Tls(secured) = self {
            return secured.short_read_empties();
        }
        match self {
            Self::Pipe(pipe) => pipe.short_read_empties(),
            _ => false,
        }
    }

    /// `SO_LINGER` with a time of zero: close sends a reset. Any other time would block the loop.
    fn reset_on_close(&mut self) {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.reset_on_close();
        }
        #[cfg(feature = "tls")]
        if let Self::Tls(secured) = self {
            return secured.reset_on_close();
        }
        if let Some(socket) = self.socket() {
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                log::debug!("SO_LINGER: {error}");
            }
        }
    }

    #[cfg(feature = "tls")]
    fn has_own(&self) -> bool {
        self.session().is_some_and(Transport::has_own)
    }

    #[cfg(feature = "tls")]
    fn send_own(&mut self) -> io::Result<()> {
        self.session_mut().map_or(Ok(()), Transport::send_own)
    }

    #[cfg(feature = "tls")]
    fn shake_hands(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        // Without a session there is no handshake that could be done.
        self.session_mut().map_or_else(not_connected, |secured| secured.shake_hands(buf))
    }

    #[cfg(feature = "tls")]
    fn takes_data(&self) -> bool {
        self.session().is_none_or(Transport::takes_data)
    }

    #[cfg(feature = "tls")]
    fn committed(&self) -> usize {
        self.session().map_or(0, Transport::committed)
    }

    #[cfg(feature = "tls")]
    fn has_taken_below(&self) -> bool {
        self.session().is_some_and(Transport::has_taken_below)
    }

    #[cfg(feature = "tls")]
    fn has_moved_below(&self) -> bool {
        self.session().is_some_and(Transport::has_moved_below)
    }

    #[cfg(feature = "tls")]
    fn is_truncated(&self) -> bool {
        self.session().is_some_and(Transport::is_truncated)
    }

    #[cfg(feature = "tls")]
    fn read_kept(&mut self, buf: &mut [u8]) -> Option<usize> {
        self.session_mut().and_then(|secured| secured.read_kept(buf))
    }

    #[cfg(feature = "tls")]
    fn has_tail(&self) -> bool {
        self.session().is_some_and(Transport::has_tail)
    }
}
