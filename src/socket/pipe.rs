//! Pipes, terminals and files as the two directions of a connection.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::asking::input_queue;
use super::descriptor::{is_hung_up, kind_of, reopen, set_nonblocking, Kind};
use super::{nosignal, telling, SEND_FLAGS};
use crate::connection::{Halves, Input, Telling};
use crate::transport::{LastHeard, Transport};

/// One direction.
#[derive(Debug)]
struct Half {
    file: File,
    kind: Kind,
    /// The poll tells when it is ready. Otherwise it always is.
    watched: bool,
    /// The open file is somebody else's as well, perhaps: what was done to it is undone in the end, and its
    /// events are not ended by closing this descriptor.
    shared: bool,
    /// It was blocking before.
    was_blocking: bool,
    /// Of a shared one, where it is registered.
    registry: Option<Registry>,
}

impl Half {
    fn new(fd: OwnedFd, write: bool) -> io::Result<Self> {
        let file = File::from(fd);
        let kind = kind_of(&file)?;
        if kind == Kind::Directory {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a directory has no bytes to read or write"));
        }
        let own = match kind {
            Kind::Fifo | Kind::Device => reopen(&file, write).ok(),
            _ => None,
        };
        let shared = own.is_none();
        let file = own.unwrap_or(file);
        let was_blocking = shared && !set_nonblocking(file.as_fd(), true)?;
        Ok(Self { file, kind, watched: false, shared, was_blocking, registry: None })
    }

    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match registry.register(&mut SourceFd(&self.file.as_raw_fd()), token, interest) {
            Ok(()) => self.watched = true,
            // What epoll does not watch never makes anybody wait.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
            Err(error) => return Err(error),
        }
        if self.shared {
            self.registry = Some(registry.try_clone()?);
        }
        Ok(())
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match std::mem::take(&mut self.watched) {
            true => registry.deregister(&mut SourceFd(&self.file.as_raw_fd())),
            false => Ok(()),
        }
    }

    /// Bytes written that nobody has read.
    fn unread(&self) -> u64 {
        match self.kind {
            Kind::Fifo => input_queue(self.file.as_fd()).unwrap_or(0) as u64,
            _ => 0,
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.take() {
            if let Err(error) = self.deregister(&registry) {
                log::debug!("deregister: {error}");
            }
        }
        if self.was_blocking {
            if let Err(error) = set_nonblocking(self.file.as_fd(), false) {
                log::warn!("could not put O_NONBLOCK back as it was: {error}");
            }
        }
    }
}

/// Up to two descriptors. What is closed is gone.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: Option<Half>,
    write: Option<Half>,
    halves: Halves,
    /// What was written and not read can be counted.
    exact: bool,
    /// Nobody has to read until nothing is left: the poll is asked to tell again.
    retold: bool,
}

impl Pipe {
    /// Takes the descriptors. They are put back as they were when it is dropped.
    pub(crate) fn new(read: Option<OwnedFd>, write: Option<OwnedFd>) -> io::Result<Self> {
        let halves = match (&read, &write) {
            (Some(_), Some(_)) => Halves::Both,
            (Some(_), None) => Halves::ReadOnly,
            (None, Some(_)) => Halves::WriteOnly,
            (None, None) => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "a pipe without any descriptor"));
            }
        };
        let read = read.map(|fd| Half::new(fd, false)).transpose()?;
        let write = write.map(|fd| Half::new(fd, true)).transpose()?;
        let exact = write.as_ref().is_none_or(|half| half.kind == Kind::Fifo);
        let retold = telling::IS_THERE && read.as_ref().is_some_and(|half| half.kind == Kind::Fifo);
        Ok(Self { read, write, halves, exact, retold })
    }

    pub(crate) fn halves(&self) -> Halves {
        self.halves
    }

    /// How the poll tells of input once it is registered.
    pub(crate) fn input(&self) -> Input {
        match &self.read {
            Some(half) if !half.watched => Input::Unwatched,
            Some(_) if self.retold => Input::Retold,
            _ => Input::Watched,
        }
    }

    /// Has the poll tell of input otherwise.
    pub(crate) fn tell_of_input(
        &mut self,
        registry: &Registry,
        token: Token,
        telling: Telling,
    ) -> io::Result<()> {
        match (&mut self.read, telling) {
            (None, _) => Ok(()),
            (Some(half), Telling::Never) => half.deregister(registry),
            (Some(half), _) => telling::tell(registry, half.file.as_fd(), token, telling == Telling::Always),
        }
    }

    /// Short reads prove nothing from here on: the poll is not asked again.
    #[cfg(feature = "tls")]
    pub(crate) fn read_until_empty(&mut self) {
        self.retold = false;
    }

    /// Nobody reads what is still in the pipe.
    fn is_broken(&self) -> bool {
        self.write.as_ref().is_some_and(|half| half.unread() > 0 && is_hung_up(half.file.as_fd()))
    }
}

impl Source for Pipe {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        if let Some(half) = &mut self.read {
            half.register(registry, token, Interest::READABLE)?;
        }
        if let Some(half) = &mut self.write {
            half.register(registry, token, Interest::WRITABLE)?;
        }
        Ok(())
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.deregister(registry)?;
        Source::register(self, registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let halves = [&mut self.read, &mut self.write].into_iter().flatten();
        halves.map(|half| half.deregister(registry)).fold(Ok(()), Result::and)
    }
}

fn broken<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EPIPE))
}

impl Transport for Pipe {
    /// Where there is nothing to be read, the end of the reader is the end of the stream: an error when it has
    /// left something behind.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match (&mut self.read, &self.write) {
            (Some(half), _) => match half.file.read(buf) {
                // The other end of a terminal has gone.
                Err(error) if error.raw_os_error() == Some(libc::EIO) && half.kind == Kind::Device => Ok(0),
                result => result,
            },
            (None, Some(half)) if !is_hung_up(half.file.as_fd()) => Err(ErrorKind::WouldBlock.into()),
            (None, Some(half)) if half.unread() > 0 => broken(),
            (None, _) => Ok(0),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.write {
            Some(half) if half.kind == Kind::Socket => {
                SockRef::from(&half.file).send_vectored_with_flags(slices, SEND_FLAGS)
            }
            Some(half) => nosignal::write(half.file.as_fd(), slices),
            None => broken(),
        }
    }

    /// Closing is the only end that a pipe has, and behind it nobody can ask what has become of the bytes. So
    /// it waits until the reader has taken them all, which it has to do anyway before it sees the end.
    fn shutdown_write(&mut self) -> io::Result<()> {
        if self.is_broken() {
            return broken();
        }
        if self.write.as_ref().is_some_and(|half| half.unread() > 0) {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.write = None;
        Ok(())
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(self.is_broken().then(|| io::Error::from_raw_os_error(libc::EPIPE)))
    }

    fn unacknowledged(&self) -> Option<u64> {
        self.exact.then(|| self.write.as_ref().map_or(0, Half::unread))
    }

    fn last_heard(&self) -> Option<LastHeard> {
        None
    }

    fn unread(&self) -> Option<usize> {
        input_queue(self.read.as_ref()?.file.as_fd())
    }

    fn short_read_empties(&self) -> bool {
        // They do not: a pipe in packet mode (O_DIRECT) stops at each packet. But what is left is told of.
        self.retold
    }

    fn reset_on_close(&mut self) {}
}
