//! The queue that other threads put their commands in.
//!
//! One lock holds the queue, the flag that a wake-up is under way and the set of connections that
//! are alive. So a command is either refused, and given back, or certain to be seen by the reactor
//! before the connection it is for is reported closed.

#[cfg(all(test, shuttle))]
mod model;

use std::collections::VecDeque;
use std::io;
use std::sync::PoisonError;
#[cfg(not(all(test, shuttle)))]
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
#[cfg(all(test, shuttle))]
use shuttle::sync::{Mutex, MutexGuard};

use crate::id::ConnId;

/// What another thread asks for. `T` is a task to be run on the reactor's thread.
#[derive(Debug)]
pub(crate) enum Command<T> {
    Send(ConnId, Bytes),
    Close(ConnId),
    Abort(ConnId),
    Run(T),
    Shutdown(Duration),
}

impl<T> Command<T> {
    /// The connection it is for, which must be alive.
    fn target(&self) -> Option<ConnId> {
        match self {
            Self::Send(conn, _) | Self::Close(conn) | Self::Abort(conn) => Some(*conn),
            Self::Run(_) | Self::Shutdown(_) => None,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Send(_, data) => data.len(),
            _ => 0,
        }
    }
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The connection it is for is gone or closing.
    Closed,
    /// The reactor is gone or has shut down.
    Stopped,
    /// Too many commands wait already, or too many bytes in them.
    Full,
}

/// What a look into the mailbox told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Collected {
    /// `Handler::on_wake` was asked for.
    pub(crate) wake: bool,
    /// Commands are left: look again in the next turn.
    pub(crate) more: bool,
}

#[derive(Debug)]
struct Inner<T> {
    commands: VecDeque<Command<T>>,
    /// Bytes in the sends among them.
    bytes: usize,
    /// The generation that lives in each slot; 0 for none.
    live: Vec<u32>,
    /// A wake-up was sent and the reactor has not looked since.
    woken: bool,
    /// `Handler::on_wake` was asked for.
    wake_asked: bool,
    stopped: bool,
}

/// Shared between a reactor and its handles.
pub(crate) struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
    wake: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    max_commands: usize,
    max_bytes: usize,
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        f.debug_struct("Mailbox")
            .field("commands", &inner.commands.len())
            .field("stopped", &inner.stopped)
            .finish_non_exhaustive()
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn new(
        max_commands: usize,
        max_bytes: usize,
        wake: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    ) -> Self {
        Self {
            inner: Mutex::new(Inner {
                commands: VecDeque::new(),
                bytes: 0,
                live: Vec::new(),
                woken: false,
                wake_asked: false,
                stopped: false,
            }),
            wake,
            max_commands,
            max_bytes,
        }
    }

    /// Nothing panics while the lock is held, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command, or gives it back with the reason.
    pub(crate) fn post(&self, command: Command<T>) -> Result<(), (Refusal, Command<T>)> {
        let mut inner = self.lock();
        if inner.stopped {
            return Err((Refusal::Stopped, command));
        }
        if command.target().is_some_and(|conn| !inner.is_live(conn)) {
            return Err((Refusal::Closed, command));
        }
        // A shutdown is never refused; and one message larger than all may go alone.
        let crowded = inner.commands.len() >= self.max_commands
            || (inner.bytes > 0 && inner.bytes.saturating_add(command.weight()) > self.max_bytes);
        if crowded && !matches!(command, Command::Shutdown(_)) {
            return Err((Refusal::Full, command));
        }
        inner.bytes += command.weight();
        inner.commands.push_back(command);
        self.wake(inner);
        Ok(())
    }

    /// Asks for `on_wake`.
    pub(crate) fn ask_wake(&self) -> Result<(), Refusal> {
        let mut inner = self.lock();
        if inner.stopped {
            return Err(Refusal::Stopped);
        }
        inner.wake_asked = true;
        self.wake(inner);
        Ok(())
    }

    /// One wake-up serves all that is posted before the reactor looks.
    fn wake(&self, mut inner: MutexGuard<'_, Inner<T>>) {
        if std::mem::replace(&mut inner.woken, true) {
            return;
        }
        drop(inner);
        if !self.nudge() {
            // The next command tries again.
            self.lock().woken = false;
        }
    }

    /// Wakes the reactor without asking it for anything. Returns whether that worked.
    pub(crate) fn nudge(&self) -> bool {
        let woken = (self.wake)();
        if let Err(error) = &woken {
            log::error!("could not wake the reactor: {error}");
        }
        woken.is_ok()
    }

    /// Moves commands to `into`, which is empty: `most` at most, so that what waits is all here.
    pub(crate) fn collect(&self, into: &mut VecDeque<Command<T>>, most: usize) -> Collected {
        debug_assert!(into.is_empty(), "what was collected before comes first");
        let mut inner = self.lock();
        if inner.commands.len() <= most {
            inner.bytes = 0;
            std::mem::swap(&mut inner.commands, into);
        } else {
            into.extend(inner.commands.drain(..most));
            inner.bytes -= into.iter().map(Command::weight).sum::<usize>();
        }
        let more = !inner.commands.is_empty();
        // With more to come the reactor looks again by itself.
        inner.woken = more;
        Collected { wake: std::mem::take(&mut inner.wake_asked), more }
    }

    /// From here on commands for this connection are taken.
    pub(crate) fn set_live(&self, conn: ConnId) {
        let mut inner = self.lock();
        if inner.live.len() <= conn.slot() {
            inner.live.resize(conn.slot() + 1, 0);
        }
        if let Some(live) = inner.live.get_mut(conn.slot()) {
            *live = conn.0.generation.get();
        }
    }

    /// From here on commands for these connections are refused. The sends that were taken for
    /// them before are moved to `undelivered`.
    pub(crate) fn set_gone(
        &self,
        conns: impl Iterator<Item = ConnId>,
        undelivered: &mut VecDeque<(ConnId, Bytes)>,
    ) {
        let mut inner = self.lock();
        for conn in conns {
            if inner.is_live(conn) {
                if let Some(live) = inner.live.get_mut(conn.slot()) {
                    *live = 0;
                }
            }
        }
        if inner.commands.is_empty() {
            return;
        }
        for command in std::mem::take(&mut inner.commands) {
            match command {
                Command::Send(conn, data) if !inner.is_live(conn) => {
                    inner.bytes -= data.len();
                    undelivered.push_back((conn, data));
                }
                other => inner.commands.push_back(other),
            }
        }
    }

    /// From here on every command is refused. Returns those that waited.
    pub(crate) fn stop(&self) -> VecDeque<Command<T>> {
        let mut inner = self.lock();
        inner.stopped = true;
        inner.bytes = 0;
        std::mem::take(&mut inner.commands)
    }
}

impl<T> Inner<T> {
    fn is_live(&self, conn: ConnId) -> bool {
        self.live.get(conn.slot()) == Some(&conn.0.generation.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    fn conn(slot: u32, generation: u32) -> ConnId {
        let generation = NonZeroU32::new(generation).unwrap();
        ConnId(Key { slot, generation })
    }

    fn mailbox(max_commands: usize, max_bytes: usize) -> (Mailbox<()>, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let wake = move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        (Mailbox::new(max_commands, max_bytes, Box::new(wake)), wakes)
    }

    fn send(to: ConnId, len: usize) -> Command<()> {
        Command::Send(to, Bytes::from(vec![0; len]))
    }

    #[test]
    fn wake_ups_are_coalesced() {
        let (mailbox, wakes) = mailbox(100, 100);
        for _ in 0..10 {
            mailbox.post(Command::Run(())).unwrap();
            mailbox.ask_wake().unwrap();
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        let mut commands = VecDeque::new();
        assert!(mailbox.collect(&mut commands, usize::MAX).wake);
        assert_eq!(commands.len(), 10);
        commands.clear();
        assert!(!mailbox.collect(&mut commands, usize::MAX).wake);
        mailbox.post(Command::Run(())).unwrap();
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    // X2
    #[test]
    fn a_send_to_who_is_gone_comes_back() {
        let (mailbox, _) = mailbox(100, 100);
        assert!(matches!(mailbox.post(send(conn(0, 1), 1)), Err((Refusal::Closed, Command::Send(..)))));
        mailbox.set_live(conn(0, 1));
        mailbox.post(send(conn(0, 1), 1)).unwrap();
        assert!(mailbox.post(send(conn(0, 2), 1)).is_err());
        let mut taken = VecDeque::new();
        mailbox.post(Command::Run(())).unwrap();
        mailbox.set_gone([conn(0, 1)].into_iter(), &mut taken);
        assert_eq!(taken, [(conn(0, 1), Bytes::from_static(&[0]))]);
        let mut rest = VecDeque::new();
        mailbox.collect(&mut rest, usize::MAX);
        assert!(matches!(rest.make_contiguous(), [Command::Run(())]));
        assert!(mailbox.post(send(conn(0, 1), 1)).is_err());
        mailbox.set_live(conn(0, 2));
        mailbox.set_gone([conn(0, 1)].into_iter(), &mut taken);
        mailbox.post(send(conn(0, 2), 1)).unwrap();
    }

    // X4
    #[test]
    fn a_full_mailbox_gives_the_command_back() {
        let (mailbox, _) = mailbox(3, 10);
        mailbox.set_live(conn(0, 1));
        mailbox.post(send(conn(0, 1), 8)).unwrap();
        assert!(matches!(mailbox.post(send(conn(0, 1), 3)), Err((Refusal::Full, _))));
        mailbox.post(send(conn(0, 1), 2)).unwrap();
        mailbox.post(Command::Run(())).unwrap();
        assert!(matches!(mailbox.post(Command::Run(())), Err((Refusal::Full, _))));
        mailbox.post(Command::Shutdown(Duration::ZERO)).unwrap();
        mailbox.collect(&mut VecDeque::new(), usize::MAX);
        mailbox.post(send(conn(0, 1), 11)).unwrap();
        assert!(mailbox.post(send(conn(0, 1), 1)).is_err());
    }

    // X3
    #[test]
    fn a_stopped_mailbox_gives_everything_back() {
        let (mailbox, _) = mailbox(3, 10);
        mailbox.post(Command::Run(())).unwrap();
        assert_eq!(mailbox.stop().len(), 1);
        assert!(matches!(mailbox.post(Command::Run(())), Err((Refusal::Stopped, _))));
        assert_eq!(mailbox.ask_wake(), Err(Refusal::Stopped));
    }
}
