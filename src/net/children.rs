//! Child processes: their standard input and output are a connection, their end is told.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use mio::unix::SourceFd;
use mio::{Registry, Token};

use super::{Errand, Net};
use crate::connection::Via;
use crate::id::{ChildId, ConnId};
use crate::mailbox;
use crate::net::{Arrival, Detached};
use crate::socket::{pidfd, wait_for_end};
use crate::table::Table;

#[derive(Debug)]
struct Offspring {
    child: Child,
    /// Ready to be read when the child has ended. Without one a thread waits.
    pidfd: Option<OwnedFd>,
}

/// The children that have not been waited for.
#[derive(Debug)]
pub(crate) struct Children {
    table: Table<ChildId, Offspring>,
    ended: VecDeque<ChildId>,
}

impl Default for Children {
    fn default() -> Self {
        Self { table: Table::new(), ended: VecDeque::new() }
    }
}

impl Children {
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_due(&self) -> bool {
        !self.ended.is_empty()
    }

    pub(crate) fn due(&self) -> usize {
        self.ended.len()
    }

    /// An event came. False when its child is gone.
    pub(crate) fn on_event(&mut self, slot: u32, generation: usize) -> bool {
        let found = self.table.find(slot, generation).map(|(id, _)| id);
        self.ended.extend(found);
        found.is_some()
    }

    pub(crate) fn has_ended(&mut self, child: ChildId) {
        self.ended.push_back(child);
    }

    /// The next one that has ended, waited for.
    pub(crate) fn next(&mut self, registry: &Registry) -> Option<(ChildId, ExitStatus)> {
        loop {
            let id = self.ended.pop_front()?;
            let Some(offspring) = self.table.get_mut(id) else { continue };
            let status = match offspring.child.try_wait() {
                Ok(Some(status)) => status,
                Ok(None) => continue,
                Err(error) => {
                    // Somebody else has waited for it.
                    log::warn!("child {}: {error}", offspring.child.id());
                    ExitStatus::default()
                }
            };
            if let Some(fd) = self.table.remove(id).and_then(|offspring| offspring.pidfd) {
                if let Err(error) = registry.deregister(&mut SourceFd(&fd.as_raw_fd())) {
                    log::debug!("deregister: {error}");
                }
            }
            return Some((id, status));
        }
    }

    /// A shutdown does not wait for them any more.
    pub(crate) fn leave_alone(&mut self) {
        if !self.table.is_empty() {
            log::info!("{} children outlive the reactor", self.table.len());
            *self = Self::default();
        }
    }
}

impl Net {
    /// Starts a child whose standard input and output are a connection: what is sent to it is its input, what
    /// it writes is shown by `on_data`. They are two ends of one socketpair, which breaks, half-closes and
    /// reports like every socket, and raises no SIGPIPE. `close_write` ends the child's input; the end of its
    /// output, which comes when it and all who inherited it have closed it, is `on_eof`. `on_open` comes in a
    /// later callback, with [`Via::Child`]. The error output goes where `command` says.
    ///
    /// [`on_exit`](crate::Handler::on_exit) comes when the child has ended, once, and independent of the
    /// connection. Closing or losing the connection does not kill the child, which as a rule ends when its
    /// input does: [`child`](Self::child) gives it, to be killed. A shutdown waits for children until its
    /// deadline, and leaves those that are still there alone.
    ///
    /// A child that opens `/dev/stdin` or `/dev/stdout` again finds that a socket cannot be opened (ENXIO):
    /// give such a one real pipes, and [`pipe`](Self::pipe) their other ends.
    ///
    /// # Errors
    ///
    /// Those of starting it: `NotFound` when there is no such program. `ConnectionAborted` during a shutdown;
    /// `Unsupported` in a simulation; none left of descriptors or processes.
    pub fn spawn(&mut self, command: &mut Command) -> io::Result<(ConnId, ChildId)> {
        self.refuse_while_stopping()?;
        self.system.takes_descriptors()?;
        let (ours, theirs) = UnixStream::pair()?;
        let output = theirs.try_clone()?;
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(OwnedFd::from(output)));
        let child = command.spawn();
        // The command keeps what it was given: the child's end would never close.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = child?;
        let mut arrival = Arrival::new(Detached::from(ours))?;
        arrival.via = Via::Child;
        let child = self.mind(child);
        Ok((self.take_in(arrival), child))
    }

    /// Has the end of a child told.
    fn mind(&mut self, child: Child) -> ChildId {
        let pid = child.id();
        let registry = &self.system.registry;
        let table = &mut self.children.table;
        let id = table.insert_with(|id: ChildId| {
            let watched = pidfd(&child).and_then(|fd| {
                let interest = mio::Interest::READABLE;
                registry.register(&mut SourceFd(&fd.as_raw_fd()), Token(id.token()), interest)?;
                Ok(fd)
            });
            if let Err(error) = &watched {
                log::debug!("no pidfd of child {pid}, a thread waits for it: {error}");
            }
            Offspring { child, pidfd: watched.ok() }
        });
        if table.get(id).is_some_and(|offspring| offspring.pidfd.is_none()) {
            let mailbox = self.mailbox.clone();
            let wait = move || {
                wait_for_end(pid);
                let _ = mailbox.post(mailbox::Command::Tell(Errand::Exited(id)));
            };
            if let Err(error) = std::thread::Builder::new().name(format!("wait-{pid}")).spawn(wait) {
                log::warn!("nobody waits for child {pid}: {error}");
            }
        }
        id
    }

    /// A child, to be asked for its process id or killed; `None` once it has ended and `on_exit` has come, or
    /// is about to. Waiting for it here would take its status from `on_exit`.
    pub fn child(&mut self, child: ChildId) -> Option<&mut Child> {
        Some(&mut self.children.table.get_mut(child)?.child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::PRETEND_NO_PIDFD;
    use crate::{Config, Handler, Reactor};
    use std::time::Duration;

    #[derive(Default)]
    struct Parent(Vec<(ChildId, Option<i32>)>, Vec<u8>);

    impl Handler for Parent {
        fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
            self.1.extend(data);
            data.len()
        }

        fn on_exit(&mut self, net: &mut Net, child: ChildId, status: ExitStatus) {
            self.0.push((child, status.code()));
            assert!(net.child(child).is_none());
            net.shutdown(Duration::from_secs(5));
        }
    }

    #[test]
    fn the_end_of_a_child_is_told_with_a_pidfd_and_without() {
        for pretend_none in [false, true] {
            PRETEND_NO_PIDFD.set(pretend_none);
            let mut reactor = Reactor::new(Config::default()).unwrap();
            let mut command = Command::new("sh");
            let (_, child) = reactor.net().spawn(command.args(["-c", "echo hello; exit 3"])).unwrap();
            let mut parent = Parent::default();
            reactor.run(&mut parent).unwrap();
            assert_eq!((parent.0, parent.1.as_slice()), (vec![(child, Some(3))], &b"hello\n"[..]));
            PRETEND_NO_PIDFD.set(false);
        }
    }
}
