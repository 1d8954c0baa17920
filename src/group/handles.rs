//! What reaches the reactors of a group: from each other, and from outside.

use std::io::{self, ErrorKind};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;

use crate::handle::{Handle, HandleError};
use crate::loads::Loads;
use crate::net::{Detached, Net};
use crate::stats::Stats;

/// How a reactor's thread stands.
#[derive(Clone, Debug, Default)]
enum Thread {
    #[default]
    NotStarted,
    /// Its reactor is about to be run: what is asked of it meanwhile waits in its mailbox.
    Starts,
    Runs(ThreadId),
    Panicked,
    /// With the counters as they were in the end.
    Ended(Box<Stats>),
}

/// What all who have to do with a group share.
#[derive(Debug)]
pub(super) struct Shared {
    handles: Box<[Handle]>,
    loads: Arc<Loads>,
    threads: Mutex<Vec<Thread>>,
}

impl Shared {
    pub(super) fn new(handles: Box<[Handle]>, loads: Arc<Loads>) -> Self {
        let threads = vec![Thread::NotStarted; handles.len()];
        Self { handles, loads, threads: Mutex::new(threads) }
    }

    fn note(&self, reactor: usize, thread: Thread) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = threads.get_mut(reactor) {
            *place = thread;
        }
    }

    pub(super) fn start(&self) {
        (0..self.handles.len()).for_each(|reactor| self.note(reactor, Thread::Starts));
    }

    pub(super) fn has_started(&self, reactor: usize) {
        self.note(reactor, Thread::Runs(thread::current().id()));
    }

    pub(super) fn has_ended(&self, reactor: usize, stats: Stats) {
        self.note(reactor, Thread::Ended(Box::new(stats)));
    }

    /// Has all but one shut down, whatever the first does.
    pub(super) fn stop_others(&self, but: usize, deadline: Duration) {
        for (index, handle) in self.handles.iter().enumerate() {
            if index != but {
                // One that has stopped already need not be told.
                let _ = handle.shutdown(deadline);
            }
        }
    }
}

/// The counters of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// All together. Of the longest turns it is the longest; the peak of what was queued is the sum of the
    /// peaks, which need not have been at one moment. A client that was handed out was accepted by one reactor
    /// and opened by another.
    pub total: Stats,
    /// Each reactor's own.
    pub each: Vec<Stats>,
}

/// Reaches a group from other threads. Clones are cheap.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    shared: Arc<Shared>,
}

impl GroupHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How many reactors there are.
    #[allow(clippy::len_without_is_empty)] // There is always one.
    pub fn len(&self) -> usize {
        self.shared.handles.len()
    }

    /// The handle of one reactor; `None` when there is no such.
    pub fn handle(&self, reactor: usize) -> Option<&Handle> {
        self.shared.handles.get(reactor)
    }

    /// Runs `task` on one reactor's thread, as [`Handle::run`] does.
    ///
    /// # Errors
    ///
    /// Gives the task back when the reactor is gone, or there is no such, or too much waits already.
    #[allow(clippy::type_complexity)]
    pub fn run_on<F>(
        &self,
        reactor: usize,
        task: F,
    ) -> Result<(), HandleError<Box<dyn FnOnce(&mut Net) + Send>>>
    where
        F: FnOnce(&mut Net) + Send + 'static,
    {
        match self.handle(reactor) {
            Some(handle) => handle.run(task),
            None => Err(HandleError::Stopped(Box::new(task))),
        }
    }

    /// Sends a message to the handlers of all reactors: [`Handler::on_message`](crate::Handler::on_message) comes
    /// with `from` being `None`. It is one command for each reactor, however many connections the handlers then
    /// send it to. Returns how many reactors took it: those that have stopped do not, nor those in whose
    /// mailbox too much waits already.
    pub fn broadcast(&self, message: impl Into<Bytes>) -> usize {
        let message = message.into();
        let taken = self.shared.handles.iter().filter(|handle| handle.message(None, message.clone()).is_ok());
        taken.count()
    }

    /// Takes in a connected stream, as [`Handle::adopt`] does, with the reactor that has the fewest
    /// connections.
    ///
    /// # Errors
    ///
    /// As [`Handle::adopt`], when no reactor takes it.
    pub fn adopt(&self, stream: impl Into<Detached>) -> Result<(), HandleError<Detached>> {
        let mut refused = HandleError::Stopped(stream.into());
        let mut tried = Vec::new();
        while let Some(reactor) = self.shared.loads.fewest(0, |reactor| !tried.contains(&reactor)) {
            tried.push(reactor);
            let Some(handle) = self.handle(reactor) else { break };
            match handle.adopt(refused.into_inner()) {
                Ok(()) => return Ok(()),
                Err(unfit @ HandleError::Unfit(_)) => return Err(unfit),
                Err(again) => refused = again,
            }
        }
        Err(refused)
    }

    /// Shuts the group down, the last thing that is done with it: no more clients are accepted, those who wait
    /// are taken in and handed out, then everybody closes in good order, as [`Net::shutdown`] has it, and
    /// what is not done `deadline` after this call is cut off. Then [`Group::run`](crate::Group::run) returns.
    ///
    /// # Errors
    ///
    /// When all reactors are gone or have shut down.
    pub fn shutdown(&self, deadline: Duration) -> Result<(), HandleError<()>> {
        // The first one tells the others, once it has handed out all who came.
        let mut handles = self.shared.handles.iter();
        let first = handles.next().map_or(Err(HandleError::Stopped(())), |handle| handle.shutdown(deadline));
        match first {
            Ok(()) => Ok(()),
            // It is gone. A shutdown that it passed on may be brought forward.
            Err(_) => handles
                .map(|handle| handle.shutdown(deadline))
                .fold(Err(HandleError::Stopped(())), Result::or),
        }
    }

    /// Connections of each reactor at this moment, those included that are being handed to it.
    pub fn connections(&self) -> Vec<usize> {
        self.shared.loads.snapshot()
    }

    /// The counters, each reactor's as they stood at one moment between two of its commands; of one that has
    /// stopped as they were in the end. It waits until all have answered, which a callback that takes long
    /// delays.
    ///
    /// # Errors
    ///
    /// `NotConnected` before the group runs, and for a reactor that panicked; `Deadlock` in a callback of the group itself,
    /// which would wait for its own end: there the reactor's own [`Net::stats`] can be had, and those of the
    /// others by a task; `WouldBlock` when too much waits in a mailbox already.
    pub fn stats(&self) -> io::Result<GroupStats> {
        let threads = self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let us = thread::current().id();
        if threads.iter().any(|thread| matches!(thread, Thread::Runs(id) if *id == us)) {
            return Err(io::Error::new(ErrorKind::Deadlock, "a callback cannot wait for its own reactor"));
        }
        // All are asked before anybody is waited for.
        let asked: Vec<_> = self.shared.handles.iter().zip(threads).enumerate().collect();
        let asked = asked.into_iter().map(|(index, (handle, thread))| match thread {
            Thread::NotStarted => Err(io::Error::new(ErrorKind::NotConnected, "the group does not run")),
            Thread::Ended(stats) => Ok((index, None, *stats)),
            Thread::Panicked => Err(panicked()),
            Thread::Starts | Thread::Runs(_) => {
                let (answer, answered) = channel();
                let asked = handle.run(move |net| {
                    let _ = answer.send(net.stats().clone());
                });
                match asked {
                    Ok(()) | Err(HandleError::Stopped(_)) => Ok((index, Some(answered), Stats::default())),
                    Err(_) => Err(io::Error::new(ErrorKind::WouldBlock, "a reactor's mailbox is full")),
                }
            }
        });
        let mut stats = GroupStats::default();
        for asked in asked.collect::<io::Result<Vec<_>>>()? {
            let each = match asked {
                (_, None, stats) => stats,
                (index, Some(answered), _) => self.answer(index, &answered)?,
            };
            stats.total.add(&each);
            stats.each.push(each);
        }
        Ok(stats)
    }

    fn answer(&self, reactor: usize, answered: &std::sync::mpsc::Receiver<Stats>) -> io::Result<Stats> {
        loop {
            match answered.recv_timeout(Duration::from_millis(10)) {
                Ok(stats) => return Ok(stats),
                Err(RecvTimeoutError::Timeout) => {}
                // It stopped before it came to it, or is about to.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(1)),
            }
            let threads = self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner);
            match threads.get(reactor) {
                Some(Thread::Ended(stats)) => return Ok((**stats).clone()),
                Some(Thread::Panicked) | None => return Err(panicked()),
                Some(_) => {}
            }
        }
    }

    pub(super) fn has_panicked(&self, reactor: usize) {
        self.shared.note(reactor, Thread::Panicked);
    }
}

fn panicked() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "a reactor has panicked")
}

/// A reactor of a group and the others, as its handler sees them.
#[derive(Clone, Debug)]
pub struct Peers {
    index: usize,
    group: GroupHandle,
}

impl Peers {
    pub(super) fn new(index: usize, group: GroupHandle) -> Self {
        Self { index, group }
    }

    /// Which of the group's reactors this is, from 0 on.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many there are, this one included.
    #[allow(clippy::len_without_is_empty)] // There is always one.
    pub fn len(&self) -> usize {
        self.group.len()
    }

    /// The handle of one reactor, this one's included; `None` when there is no such.
    pub fn handle(&self, reactor: usize) -> Option<&Handle> {
        self.group.handle(reactor)
    }

    /// The group's handle, to shut it down for one.
    pub fn group(&self) -> &GroupHandle {
        &self.group
    }

    /// Sends a message to the handler of one reactor: [`Handler::on_message`](crate::Handler::on_message) comes
    /// there in a later callback, with our index.
    ///
    /// # Errors
    ///
    /// Gives it back when that reactor is gone, or there is no such, or too much waits already.
    pub fn send(&self, reactor: usize, message: impl Into<Bytes>) -> Result<(), HandleError<Bytes>> {
        match self.handle(reactor) {
            Some(handle) => handle.message(Some(self.index), message.into()),
            None => Err(HandleError::Stopped(message.into())),
        }
    }

    /// Sends a message to the handlers of all other reactors, one command each. Returns how many took it, as
    /// [`GroupHandle::broadcast`] does.
    pub fn broadcast(&self, message: impl Into<Bytes>) -> usize {
        let message = message.into();
        let others = (0..self.len()).filter(|reactor| *reactor != self.index);
        others.filter(|reactor| self.send(*reactor, message.clone()).is_ok()).count()
    }
}
