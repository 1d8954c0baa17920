//! Descriptors that are no connections, and are watched for the program.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Registry, Token};

use super::Net;
use crate::id::WatchId;
use crate::table::Table;
use crate::transport::Hints;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// There is something to read, or the other end has gone.
    Read,
    /// There is room to write, or the other end has gone.
    Write,
    /// Either.
    Both,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ready {
    /// A read will not wait: there is something, or an end, or an error.
    pub readable: bool,
    /// A write will not wait: there is room, or an error.
    pub writable: bool,
    /// The system says that there is an error.
    pub error: bool,
}

#[derive(Debug)]
struct Watch {
    fd: OwnedFd,
    interest: Interest,
    /// What has come and was not told yet.
    ready: Option<Ready>,
}

/// All that are watched.
#[derive(Debug)]
pub(crate) struct Watches {
    table: Table<WatchId, Watch>,
    ready: VecDeque<WatchId>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { table: Table::new(), ready: VecDeque::new() }
    }
}

impl Watches {
    /// An event came. False when its watch is gone.
    pub(crate) fn on_event(&mut self, slot: u32, generation: usize, hints: Hints) -> bool {
        let Some((id, watch)) = self.table.find(slot, generation) else { return false };
        if watch.ready.is_none() {
            self.ready.push_back(id);
        }
        let ready = watch.ready.get_or_insert_default();
        ready.readable |= hints.readable && watch.interest != Interest::Write;
        ready.writable |= hints.writable && watch.interest != Interest::Read;
        ready.error |= hints.error;
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_due(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn due(&self) -> usize {
        self.ready.len()
    }

    /// The next one that is to be told of. It is armed again first: what is not dealt with then is told of in
    /// the next turn, and a callback that panics costs no event.
    pub(crate) fn next(&mut self, registry: &Registry) -> Option<(WatchId, Ready)> {
        loop {
            let id = self.ready.pop_front()?;
            let Some(watch) = self.table.get_mut(id) else { continue };
            let Some(ready) = watch.ready.take() else { continue };
            let (fd, interest) = (watch.fd.as_raw_fd(), interest(watch.interest));
            if let Err(error) = registry.reregister(&mut SourceFd(&fd), Token(id.token()), interest) {
                log::warn!("descriptor {fd} is watched no more: {error}");
            }
            return Some((id, ready));
        }
    }
}

fn interest(interest: Interest) -> mio::Interest {
    match interest {
        Interest::Read => mio::Interest::READABLE,
        Interest::Write => mio::Interest::WRITABLE,
        Interest::Both => mio::Interest::READABLE | mio::Interest::WRITABLE,
    }
}

impl Net {
    /// Watches a descriptor of any kind: an event counter, a signalfd, a timer, inotify, one that belongs to
    /// another library. [`on_ready`](crate::Handler::on_ready) comes when it is ready, in every turn in which
    /// it still is: so that one read or write a call is enough, and a descriptor that nobody deals with keeps
    /// the reactor busy. Nothing is done to the descriptor, and nothing else read from it or written to it.
    ///
    /// # Errors
    ///
    /// `Unsupported` for what cannot be waited for: files and directories are always ready (epoll says EPERM);
    /// and in a simulation. `AlreadyExists` when the same descriptor is watched already; other errors of the
    /// system's call.
    pub fn watch(&mut self, fd: impl Into<OwnedFd>, interest: Interest) -> io::Result<WatchId> {
        self.system.takes_descriptors()?;
        let fd = fd.into();
        let number = fd.as_raw_fd();
        let id = self.watches.table.insert_with(|_| Watch { fd, interest, ready: None });
        let registry = &self.system.registry;
        match registry.register(&mut SourceFd(&number), Token(id.token()), self::interest(interest)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.watches.table.remove(id);
                Err(match error.raw_os_error() {
                    Some(libc::EPERM) => io::Error::new(
                        ErrorKind::Unsupported,
                        "a file or directory is always ready: there is nothing to wait for",
                    ),
                    _ => error,
                })
            }
        }
    }

    /// Watches a descriptor no more, and gives it back. `None` when there is no such watch.
    pub fn unwatch(&mut self, watch: WatchId) -> Option<OwnedFd> {
        let watch = self.watches.table.remove(watch)?;
        if let Err(error) = self.system.registry.deregister(&mut SourceFd(&watch.fd.as_raw_fd())) {
            log::debug!("deregister: {error}");
        }
        Some(watch.fd)
    }

    /// The descriptor that is watched.
    pub fn watched(&self, watch: WatchId) -> Option<BorrowedFd<'_>> {
        Some(self.watches.table.get(watch)?.fd.as_fd())
    }
}
