//! The threads that make blocking calls, and who waits for which.
//!
//! One lock holds everything. It is never held during a call or while anybody is answered. A name
//! is in the table of lookups from the first who asks until its call returns: whoever asks for it
//! meanwhile joins. A thread that is stuck in a call holds nothing but the name: who waits for it
//! stands in the table, and can leave.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
#[cfg(not(all(test, shuttle)))]
use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

#[cfg(all(test, shuttle))]
use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

use super::{Answer, Resolve};
use crate::dial::distinct;

/// Finds the addresses of a name, and blocks as long as it likes. The ports mean nothing.
pub(super) type Call = Box<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Threads at most. 4: two names whose servers are silent leave two for all others.
    pub(super) threads: usize,
    /// Answers waited for at most, those included whose call is under way. 1,024.
    pub(super) waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { threads: 4, waiting: 1024 }
    }
}

/// Makes blocking calls on threads of its own. When it is dropped, what was asked for and is still
/// wanted is answered, then the threads end; nobody waits for them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// There is a name to be looked up, or nothing will come any more.
    work: Condvar,
    call: Call,
    limits: Limits,
}

#[derive(Default)]
struct Inner {
    lookups: HashMap<Arc<str>, Lookup>,
    /// Names whose call has not begun. Each is in `lookups`.
    queue: VecDeque<Arc<str>>,
    /// Waiters in all lookups.
    waiting: usize,
    threads: usize,
    /// Threads with nothing to do.
    idle: usize,
    /// The pool was dropped.
    closed: bool,
    /// Lookups to be refused before those who gave up are looked for again.
    refusals_until_look: usize,
}

/// To look at a thousand waiters takes the reactor's thread tens of microseconds. When all of them
/// still wait, it is not done again for each of the next lookups that find no room.
const LOOK_AFTER: usize = 32;

/// One name and all who wait for its addresses.
#[derive(Default)]
struct Lookup {
    waiters: Vec<Waiter>,
    called: bool,
}

struct Waiter {
    port: u16,
    answer: Answer,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared.lock();
        f.debug_struct("Pool")
            .field("threads", &inner.threads)
            .field("waiting", &inner.waiting)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(call: Call, limits: Limits) -> Self {
        let (inner, work) = (Mutex::new(Inner::default()), Condvar::new());
        Self { shared: Arc::new(Shared { inner, work, call, limits }) }
    }
}

/// What its tests look at, and what they make up.
#[cfg(test)]
impl Pool {
    /// Threads, the idle ones among them, and answers waited for.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let inner = self.shared.lock();
        let waiters = inner.lookups.values().map(|lookup| lookup.waiters.len()).sum::<usize>();
        assert_eq!(inner.waiting, waiters);
        let not_called = inner.lookups.values().filter(|lookup| !lookup.called);
        assert_eq!(inner.queue.len(), not_called.clone().count());
        assert!(not_called.into_iter().all(|lookup| !lookup.waiters.is_empty()));
        assert!(inner.queue.iter().all(|name| inner.lookups.get(name).is_some_and(|lookup| !lookup.called)));
        (inner.threads, inner.idle, inner.waiting)
    }

    pub(super) fn pretend_a_thread(&self) {
        self.shared.lock().threads += 1;
    }

    pub(super) fn pretend_it_failed(&self, error: &io::Error) {
        self.shared.thread_is_missing(error);
    }
}

impl Resolve for Pool {
    fn resolve(&self, name: &str, port: u16, answer: Answer) {
        let shared = &self.shared;
        let mut inner = shared.lock();
        let gone = inner.make_room(shared.limits);
        if inner.waiting >= shared.limits.waiting {
            drop(inner);
            drop(gone);
            let limit = shared.limits.waiting;
            return answer.send(Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{limit} lookups of host names are waiting already"),
            )));
        }
        let is_new = inner.add(name, Waiter { port, answer });
        let thread = if is_new { inner.count_thread(shared.limits) } else { None };
        drop(inner);
        drop(gone);
        if is_new {
            shared.work.notify_one();
        }
        if let Some(number) = thread {
            shared.start_thread(number);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.closed = true;
        let gone = inner.remove_unwanted();
        drop(inner);
        drop(gone);
        self.shared.work.notify_all();
    }
}

impl Inner {
    /// Enters one who waits. Returns whether the name is one to be looked up.
    fn add(&mut self, name: &str, waiter: Waiter) -> bool {
        self.waiting += 1;
        if let Some(lookup) = self.lookups.get_mut(name) {
            lookup.waiters.push(waiter);
            return false;
        }
        let name: Arc<str> = name.into();
        self.lookups.insert(name.clone(), Lookup { waiters: vec![waiter], called: false });
        self.queue.push_back(name);
        true
    }

    /// Counts a thread to be started, and gives it a number, when there are more names to be
    /// looked up than threads with nothing to do.
    fn count_thread(&mut self, limits: Limits) -> Option<usize> {
        let needed = self.queue.len() > self.idle && self.threads < limits.threads;
        self.threads += usize::from(needed);
        needed.then_some(self.threads)
    }

    /// Looks for those who have given up, when there is no room for another.
    fn make_room(&mut self, limits: Limits) -> Vec<Waiter> {
        if self.waiting < limits.waiting {
            self.refusals_until_look = 0;
            return Vec::new();
        }
        if self.refusals_until_look > 0 {
            self.refusals_until_look -= 1;
            return Vec::new();
        }
        let gone = self.remove_unwanted();
        self.refusals_until_look = if gone.is_empty() { LOOK_AFTER } else { 0 };
        gone
    }

    /// Takes out those who have given up, and the lookups that nobody waits for and nobody has
    /// begun. They are to be dropped without the lock.
    fn remove_unwanted(&mut self) -> Vec<Waiter> {
        let mut gone = Vec::new();
        for lookup in self.lookups.values_mut() {
            gone.append(&mut lookup.take_unwanted());
        }
        self.waiting -= gone.len();
        self.lookups.retain(|_, lookup| lookup.called || !lookup.waiters.is_empty());
        self.queue.retain(|name| self.lookups.contains_key(name));
        gone
    }

    /// Begins the lookup of a name, if anybody still wants it; and takes out those who do not.
    fn begin(&mut self, name: &str) -> (bool, Vec<Waiter>) {
        let Some(lookup) = self.lookups.get_mut(name) else { return (false, Vec::new()) };
        let gone = lookup.take_unwanted();
        let wanted = !lookup.waiters.is_empty();
        lookup.called = wanted;
        if !wanted {
            self.lookups.remove(name);
        }
        self.waiting -= gone.len();
        (wanted, gone)
    }

    /// Takes out all who wait for a name.
    fn finish(&mut self, name: &str) -> Vec<Waiter> {
        let waiters = self.lookups.remove(name).unwrap_or_default().waiters;
        self.waiting -= waiters.len();
        waiters
    }
}

impl Lookup {
    fn take_unwanted(&mut self) -> Vec<Waiter> {
        if self.waiters.iter().all(|waiter| waiter.answer.is_wanted()) {
            return Vec::new();
        }
        let (wanted, unwanted) =
            std::mem::take(&mut self.waiters).into_iter().partition(|waiter| waiter.answer.is_wanted());
        self.waiters = wanted;
        unwanted
    }
}

impl Shared {
    /// Nothing panics while the lock is held, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that is counted already. It is never joined.
    fn start_thread(self: &Arc<Self>, number: usize) {
        let shared = self.clone();
        // Linux keeps 15 characters.
        let thread = thread::Builder::new().name(format!("unbroken-name-{number}"));
        if let Err(error) = thread.spawn(move || shared.serve()) {
            log::error!("no thread could be started to look up host names: {error}");
            self.thread_is_missing(&error);
        }
    }

    /// Where there are other threads they do the work. Where there is none nobody would.
    fn thread_is_missing(&self, error: &io::Error) {
        let mut inner = self.lock();
        inner.threads -= 1;
        let mut stranded = Vec::new();
        while inner.threads == 0 {
            let Some(name) = inner.queue.pop_front() else { break };
            stranded.append(&mut inner.finish(&name));
        }
        drop(inner);
        tell(stranded, Err(error));
    }

    /// What a thread does.
    fn serve(&self) {
        while let Some(name) = self.next_name() {
            // A call that panics costs those who wait for that name their answer, and nobody else.
            let result = catch_unwind(AssertUnwindSafe(|| (self.call)(&name)));
            let waiters = self.lock().finish(&name);
            match result {
                Ok(Ok(addresses)) => tell(waiters, Ok(&distinct(addresses))),
                Ok(Err(error)) => tell(waiters, Err(&error)),
                Err(_) => {
                    log::error!("the lookup of {name:?} panicked");
                    tell(waiters, Err(&io::Error::other("the lookup panicked")));
                }
            }
        }
    }

    /// The next name that somebody wants; none when the pool was dropped and nothing is left.
    fn next_name(&self) -> Option<Arc<str>> {
        loop {
            let mut inner = self.lock();
            let name = loop {
                if let Some(name) = inner.queue.pop_front() {
                    break name;
                }
                if inner.closed {
                    inner.threads -= 1;
                    return None;
                }
                inner.idle += 1;
                inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
                inner.idle -= 1;
            };
            let (wanted, gone) = inner.begin(&name);
            drop(inner);
            drop(gone);
            if wanted {
                return Some(name);
            }
        }
    }
}

/// Answers all who waited for a name, each with its own port.
fn tell(waiters: Vec<Waiter>, result: Result<&[SocketAddr], &io::Error>) {
    for Waiter { port, answer } in waiters {
        let addresses = match result {
            Ok(addresses) => Ok(addresses.iter().map(|addr| with_port(*addr, port)).collect()),
            Err(error) => Err(copy(error)),
        };
        // A program's own reply that panics must not cost the others theirs.
        if catch_unwind(AssertUnwindSafe(|| answer.send(addresses))).is_err() {
            log::error!("a reply to the lookup of a host name panicked");
        }
    }
}

/// The scope of a link-local address stays.
fn with_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    addr.set_port(port);
    addr
}

/// An error cannot be cloned; what it says can.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
