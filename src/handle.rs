//! The reactor from other threads.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::id::ConnId;
use crate::mailbox::{Command, Mailbox, Refusal};
use crate::net::{Arrival, Detached, Errand, Net};

/// Why a [`Handle`] did not take something; it is given back.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError<T> {
    /// The connection is gone.
    Closed(T),
    /// The reactor is gone, or has shut down.
    Stopped(T),
    /// Too much waits already (`max_commands`, `max_command_bytes`): try again later.
    Full(T),
    /// It is nothing that could be a connection: no stream, not connected, or listening.
    Unfit(T),
}

impl<T> HandleError<T> {
    /// What was not taken.
    pub fn into_inner(self) -> T {
        match self {
            Self::Closed(it) | Self::Stopped(it) | Self::Full(it) | Self::Unfit(it) => it,
        }
    }

    fn new(refusal: Refusal, it: T) -> Self {
        match refusal {
            Refusal::Closed => Self::Closed(it),
            Refusal::Stopped => Self::Stopped(it),
            Refusal::Full => Self::Full(it),
        }
    }
}

impl<T> fmt::Display for HandleError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => "the connection is closed",
            Self::Stopped(_) => "the reactor has stopped",
            Self::Full(_) => "the reactor's command queue is full",
            Self::Unfit(_) => "the descriptor is no connected stream",
        })
    }
}

impl<T> fmt::Debug for HandleError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => "Closed(..)",
            Self::Stopped(_) => "Stopped(..)",
            Self::Full(_) => "Full(..)",
            Self::Unfit(_) => "Unfit(..)",
        })
    }
}

impl<T> Error for HandleError<T> {}

/// Reaches a reactor from other threads. Clones are cheap and reach the same one.
///
/// What one thread asks for is carried out in that order. Any number of calls before the reactor
/// looks cost one wake-up. Nothing taken is lost: a send that meets the end of its connection, or
/// a cap, on its way is given to [`Handler::on_refused`](crate::Handler::on_refused).
#[derive(Clone, Debug)]
pub struct Handle {
    mailbox: Arc<Mailbox<Errand>>,
    #[cfg(feature = "sim")]
    sim: Option<crate::simnet::Kernel>,
}

impl Handle {
    /// Queues `data` for a connection, as [`Net::send_bytes`] does.
    ///
    /// # Errors
    ///
    /// Gives `data` back when the connection or the reactor is gone, or too much waits already.
    pub fn send(&self, conn: ConnId, data: impl Into<Bytes>) -> Result<(), HandleError<Bytes>> {
        match self.mailbox.post(Command::Send(conn, data.into())) {
            Ok(()) => {
                self.note_taken(Some(conn));
                Ok(())
            }
            Err((refusal, Command::Send(_, data))) => Err(HandleError::new(refusal, data)),
            Err((refusal, _)) => Err(HandleError::new(refusal, Bytes::new())),
        }
    }

    /// Closes a connection in good order, as [`Net::close`] does.
    ///
    /// # Errors
    ///
    /// When the connection or the reactor is gone, or too much waits already.
    pub fn close(&self, conn: ConnId) -> Result<(), HandleError<()>> {
        self.post(Command::Close(conn))
    }

    /// Ends a connection at once, as [`Net::abort`] does.
    ///
    /// # Errors
    ///
    /// When the connection or the reactor is gone, or too much waits already.
    pub fn abort(&self, conn: ConnId) -> Result<(), HandleError<()>> {
        self.post(Command::Abort(conn))
    }

    /// Has [`Handler::on_wake`](crate::Handler::on_wake) called. Several calls may become one.
    ///
    /// # Errors
    ///
    /// When the reactor is gone or has shut down.
    pub fn wake(&self) -> Result<(), HandleError<()>> {
        self.mailbox.ask_wake().map_err(|refusal| HandleError::new(refusal, ()))
    }

    /// Runs `task` on the reactor's thread.
    ///
    /// # Errors
    ///
    /// Gives the task back when the reactor is gone, or too much waits already.
    #[allow(clippy::type_complexity)]
    pub fn run<F>(&self, task: F) -> Result<(), HandleError<Box<dyn FnOnce(&mut Net) + Send>>>
    where
        F: FnOnce(&mut Net) + Send + 'static,
    {
        match self.mailbox.post(Command::Run(Errand::Task(Box::new(task)))) {
            Ok(()) => {
                self.note_taken(None);
                Ok(())
            }
            Err((refusal, Command::Run(Errand::Task(task)))) => Err(HandleError::new(refusal, task)),
            Err((refusal, _)) => Err(HandleError::new(refusal, Box::new(|_| {}))),
        }
    }

    /// For the handler, from a reactor of the same group or from outside.
    pub(crate) fn message(&self, from: Option<usize>, message: Bytes) -> Result<(), HandleError<Bytes>> {
        match self.mailbox.post(Command::Message(from, message)) {
            Ok(()) => {
                self.note_taken(None);
                Ok(())
            }
            Err((refusal, Command::Message(_, message))) => Err(HandleError::new(refusal, message)),
            Err((refusal, _)) => Err(HandleError::new(refusal, Bytes::new())),
        }
    }

    /// Has the reactor take in a connected stream that was made elsewhere, or another reactor gave away, as
    /// [`Net::adopt`] does. What was taken becomes a connection for certain: it has its `on_close`, and its
    /// `on_open` before that, unless it turns out to be of no use. Only a reactor that is dropped without
    /// having been shut down resets what it had not looked at.
    ///
    /// # Errors
    ///
    /// Gives the descriptor back, as it was: `Unfit` when it is no connected stream, otherwise when the reactor
    /// is gone or has shut down, or too much waits already.
    pub fn adopt(&self, stream: impl Into<Detached>) -> Result<(), HandleError<Detached>> {
        let arrival = match Arrival::new(stream.into()) {
            Ok(arrival) => Box::new(arrival),
            Err(refused) => return Err(HandleError::Unfit(refused.stream)),
        };
        match self.mailbox.post(Command::Run(Errand::Arrival(arrival))) {
            Ok(()) => {
                self.note_taken(None);
                Ok(())
            }
            Err((refusal, Command::Run(Errand::Arrival(arrival)))) => match arrival.give_back() {
                Some(stream) => Err(HandleError::new(refusal, stream)),
                None => Ok(()),
            },
            Err(_) => Ok(()),
        }
    }

    /// Shuts the reactor down, as [`Net::shutdown`] does. It is never refused for want of room.
    ///
    /// # Errors
    ///
    /// When the reactor is gone or has shut down.
    pub fn shutdown(&self, deadline: Duration) -> Result<(), HandleError<()>> {
        self.post(Command::Shutdown(deadline))
    }

    fn post(&self, command: Command<Errand>) -> Result<(), HandleError<()>> {
        self.mailbox.post(command).map_err(|(refusal, _)| HandleError::new(refusal, ()))?;
        self.note_taken(None);
        Ok(())
    }

    /// A simulation holds the engine to what it took.
    #[inline]
    fn note_taken(&self, _send_to: Option<ConnId>) {
        #[cfg(feature = "sim")]
        if let Some(kernel) = &self.sim {
            kernel.world().witness.took(_send_to);
        }
    }
}

impl Net {
    /// A handle to this reactor for other threads.
    pub fn handle(&mut self) -> Handle {
        if !self.tracked {
            self.tracked = true;
            for (id, _) in self.conns.iter().filter(|(_, entry)| !entry.conn.is_dead()) {
                self.mailbox.set_live(id);
            }
        }
        Handle {
            mailbox: self.mailbox.clone(),
            #[cfg(feature = "sim")]
            sim: self.system.sim.clone(),
        }
    }
}
