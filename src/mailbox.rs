//! The queue that other threads put their commands in.
//!
//! One lock holds the queue, the flag that a wake-up is under way and the roll of connections that
//! are alive. So a command is either refused, and given back, or certain to be seen by the reactor
//! before the connection it is for is reported closed. Nobody holds the lock for longer than it takes
//! to move a pointer, whatever waits: a thread that posts is never held up by the reactor's work.

#[cfg(all(test, shuttle))]
mod model;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
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
    /// For the handler, from a reactor of the same group or from outside.
    Message(Option<usize>, Bytes),
    /// As `Run`, never refused for want of room: there are no more of them than there are things to tell of.
    Tell(T),
    Shutdown(Duration),
    /// The addresses of the host that a connection was asked for, or why there are none. There are no
    /// more of them than lookups, which are bounded: none is refused.
    Resolved(ConnId, io::Result<Vec<SocketAddr>>),
}

impl<T> Command<T> {
    /// The connection it is for, which must be alive.
    fn target(&self) -> Option<ConnId> {
        match self {
            Self::Send(conn, _) | Self::Close(conn) | Self::Abort(conn) => Some(*conn),
            Self::Run(_) | Self::Message(..) | Self::Tell(_) | Self::Shutdown(_) | Self::Resolved(..) => None,
        }
    }

    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Send(_, data) | Self::Message(_, data) => data.len(),
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

/// Who lives in a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Tenant {
    /// 0 for nobody.
    generation: u32,
    /// How many sends were taken for it.
    sends: u32,
}

#[derive(Debug)]
struct Inner<T> {
    commands: VecDeque<Command<T>>,
    /// Commands taken and not carried out yet, those that the reactor has collected included, and
    /// bytes in the sends among them.
    count: usize,
    bytes: usize,
    /// By slot.
    tenants: Vec<Tenant>,
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
                count: 0,
                bytes: 0,
                tenants: Vec::new(),
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
        let crowded = inner.count >= self.max_commands
            || (inner.bytes > 0 && inner.bytes.saturating_add(command.weight()) > self.max_bytes);
        let always = matches!(command, Command::Shutdown(_) | Command::Resolved(..) | Command::Tell(_));
        if crowded && !always {
            return Err((Refusal::Full, command));
        }
        inner.count += 1;
        inner.bytes += command.weight();
        if let Command::Send(conn, _) = &command {
            if let Some(tenant) = inner.tenants.get_mut(conn.slot()) {
                tenant.sends = tenant.sends.wrapping_add(1);
            }
        }
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

    /// Moves all commands to `into`, which is empty. They count as waiting until they are
    /// [carried out](Self::carried_out). Returns whether `on_wake` was asked for.
    pub(crate) fn collect(&self, into: &mut VecDeque<Command<T>>) -> bool {
        debug_assert!(into.is_empty(), "what was collected before comes first");
        let mut inner = self.lock();
        inner.woken = false;
        std::mem::swap(&mut inner.commands, into);
        std::mem::take(&mut inner.wake_asked)
    }

    /// So many of the commands that were collected have been carried out, with so many bytes.
    pub(crate) fn carried_out(&self, commands: usize, bytes: usize) {
        let mut inner = self.lock();
        inner.count -= commands;
        inner.bytes -= bytes;
    }

    /// From here on commands for this connection are taken.
    pub(crate) fn set_live(&self, conn: ConnId) {
        let mut inner = self.lock();
        if inner.tenants.len() <= conn.slot() {
            inner.tenants.resize(conn.slot() + 1, Tenant::default());
        }
        if let Some(tenant) = inner.tenants.get_mut(conn.slot()) {
            *tenant = Tenant { generation: conn.0.generation().get(), sends: 0 };
        }
    }

    /// The roll of those who are alive, to strike some off.
    pub(crate) fn roll(&self) -> Roll<'_, T> {
        Roll(self.lock())
    }

    /// From here on every command is refused. Returns those that waited.
    pub(crate) fn stop(&self) -> VecDeque<Command<T>> {
        let mut inner = self.lock();
        inner.stopped = true;
        std::mem::take(&mut inner.commands)
    }
}

impl<T> Inner<T> {
    fn is_live(&self, conn: ConnId) -> bool {
        let tenant = self.tenants.get(conn.slot());
        tenant.is_some_and(|tenant| tenant.generation == conn.0.generation().get())
    }
}

/// Who is alive, for as long as the lock is held.
pub(crate) struct Roll<'a, T>(MutexGuard<'a, Inner<T>>);

impl<T> Roll<'_, T> {
    /// From here on commands for this connection are refused. Returns how many sends were taken for
    /// it in all.
    pub(crate) fn strike_off(&mut self, conn: ConnId) -> u32 {
        match self.0.tenants.get_mut(conn.slot()) {
            Some(tenant) => {
                tenant.generation = 0;
                tenant.sends
            }
            None => 0,
        }
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
        ConnId(Key::new(slot, generation))
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

    fn collected(mailbox: &Mailbox<()>) -> Vec<Command<()>> {
        let mut commands = VecDeque::new();
        mailbox.collect(&mut commands);
        commands.into()
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
        assert!(mailbox.collect(&mut commands));
        assert_eq!(commands.len(), 10);
        commands.clear();
        assert!(!mailbox.collect(&mut commands));
        mailbox.post(Command::Run(())).unwrap();
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    // X2
    #[test]
    fn who_is_struck_off_is_sent_nothing_more_and_what_was_taken_is_counted() {
        let (mailbox, _) = mailbox(100, 100);
        assert!(matches!(mailbox.post(send(conn(0, 1), 1)), Err((Refusal::Closed, Command::Send(..)))));
        mailbox.set_live(conn(0, 1));
        mailbox.post(send(conn(0, 1), 1)).unwrap();
        assert!(mailbox.post(send(conn(0, 2), 1)).is_err());
        mailbox.post(Command::Close(conn(0, 1))).unwrap();
        assert_eq!(mailbox.roll().strike_off(conn(0, 1)), 1);
        assert_eq!(mailbox.roll().strike_off(conn(9, 1)), 0);
        assert!(mailbox.post(send(conn(0, 1), 1)).is_err());
        assert_eq!(mailbox.roll().strike_off(conn(0, 1)), 1, "asked again it says the same");
        assert_eq!(collected(&mailbox).len(), 2, "what was taken is still to be answered");
        mailbox.set_live(conn(0, 2));
        mailbox.post(send(conn(0, 2), 1)).unwrap();
        assert_eq!(mailbox.roll().strike_off(conn(0, 2)), 1);
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
        assert_eq!(collected(&mailbox).len(), 4);
        // Collected is not carried out: the reactor may be slow.
        assert!(matches!(mailbox.post(Command::Run(())), Err((Refusal::Full, _))));
        mailbox.carried_out(2, 10);
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
