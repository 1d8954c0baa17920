//! What the reactors post to each other: whole batches, and one wake-up for all that wait.

use std::sync::{Arc, Mutex, PoisonError};

use unbroken::{Bytes, ConnId, Handle};

use crate::between::{Heard, Told};
use crate::clients::ClientId;
use crate::metrics::Figures;

/// From so many letters on they wait in a crowd.
const CROWD: usize = 4096;

/// From a reactor to the state.
pub enum Report {
    /// What came from a client, in its order.
    Heard(ClientId, Vec<Heard<'static>>),
    /// A client that had enough has taken it.
    Hungry(ClientId),
    /// What it was asked for by this number.
    Counted(u64, Box<Figures>),
}

/// From the state to a reactor.
pub enum Order {
    Tell(ConnId, Told),
    /// News for many, but for two at most.
    NewsFor(Arc<[ConnId]>, [Option<ConnId>; 2], Bytes),
    /// It is to count, under this number.
    Count(u64),
}

/// Letters that wait for a reactor.
pub struct Letterbox<T>(Mutex<Waiting<T>>);

struct Waiting<T> {
    letters: Vec<T>,
    /// There were very many when somebody last put one in.
    crowded: bool,
}

impl<T> Letterbox<T> {
    fn new() -> Self {
        Self(Mutex::new(Waiting { letters: Vec::new(), crowded: false }))
    }

    /// Empties the batch into it, for the reactor that the handle reaches. Returns whether there is a crowd now.
    pub fn put(&self, batch: &mut Vec<T>, reactor: Option<&Handle>) -> bool {
        if batch.is_empty() {
            return false;
        }
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.letters.append(batch);
        waiting.crowded = waiting.letters.len() >= CROWD;
        let crowded = waiting.crowded;
        drop(waiting);
        if reactor.is_some_and(|reactor| reactor.wake().is_ok()) {
            return crowded;
        }
        // It has shut down: nobody will take them.
        self.take();
        false
    }

    /// All that wait, and whether they were a crowd.
    pub fn take(&self) -> (Vec<T>, bool) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut waiting.letters), std::mem::take(&mut waiting.crowded))
    }

    pub fn is_crowded(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).crowded
    }
}

/// The letterboxes of all.
pub struct Mail {
    pub reports: Letterbox<Report>,
    /// By reactor; the state's own stays empty.
    pub orders: Vec<Letterbox<Order>>,
}

impl Mail {
    pub fn new(reactors: usize) -> Self {
        Self { reports: Letterbox::new(), orders: (0..reactors).map(|_| Letterbox::new()).collect() }
    }
}
