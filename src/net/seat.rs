//! A reactor's seat in a group: whom it hands clients to, what it counts, what it tells the others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Errand, Net, Stopping};
use crate::addr::Addr;
use crate::id::ListenerId;
use crate::loads::Loads;
use crate::mailbox::{Command, Mailbox, Refusal};
use crate::socket::Stream;
use crate::transport::Transport;

/// A client that another reactor accepted.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) listener: ListenerId,
    pub(crate) stream: Stream,
    pub(crate) peer: Option<Addr>,
}

impl Client {
    /// Nobody will serve it.
    pub(crate) fn reset(&mut self) {
        self.stream.reset_on_close();
    }
}

/// What has been counted of the connection that is added next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Nothing,
    /// Its place among all.
    Place,
    /// That, and its place here.
    Everything,
}

pub(crate) struct Seat {
    index: usize,
    loads: Arc<Loads>,
    mailboxes: Arc<[Arc<Mailbox<Errand>>]>,
    /// Which of several with the fewest comes first next time.
    start: usize,
    /// Those that have stopped.
    gone: Vec<usize>,
    counted: Counted,
    has_told_shutdown: bool,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("index", &self.index).field("loads", &self.loads).finish_non_exhaustive()
    }
}

impl Seat {
    pub(crate) fn new(index: usize, loads: Arc<Loads>, mailboxes: Arc<[Arc<Mailbox<Errand>>]>) -> Self {
        Self {
            index,
            loads,
            mailboxes,
            start: 0,
            gone: Vec::new(),
            counted: Counted::Nothing,
            has_told_shutdown: false,
        }
    }

    /// Those of the others.
    fn others(&self) -> impl Iterator<Item = &Arc<Mailbox<Errand>>> {
        let all = self.mailboxes.iter().enumerate();
        all.filter(|(index, _)| *index != self.index).map(|(_, mailbox)| mailbox)
    }

    /// A place or a descriptor is free, for which another may wait.
    fn tell_freed(&self) {
        if self.loads.has_waiting() {
            for mailbox in self.others() {
                // One that has stopped waits for nothing.
                let _ = mailbox.post(Command::Tell(Errand::Freed));
            }
        }
    }
}

impl Net {
    /// A connection is added.
    pub(super) fn count_in(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        let counted = std::mem::replace(&mut seat.counted, Counted::Nothing);
        if counted == Counted::Nothing {
            seat.loads.enter();
        }
        if counted != Counted::Everything {
            seat.loads.assign(seat.index);
        }
    }

    /// A connection has ended.
    pub(super) fn count_out(&mut self) {
        if let Some(seat) = &self.seat {
            seat.loads.unassign(seat.index);
            seat.loads.leave();
        }
    }

    /// What a connection held is free.
    pub(super) fn tell_freed(&self) {
        if let Some(seat) = &self.seat {
            seat.tell_freed();
        }
    }

    /// Takes a place for a client that is about to be accepted. False when there is none.
    pub(crate) fn reserve_place(&mut self) -> bool {
        match &mut self.seat {
            None => !self.is_full(),
            Some(seat) => {
                let reserved = seat.loads.reserve();
                if reserved {
                    seat.counted = Counted::Place;
                }
                reserved
            }
        }
    }

    /// Nobody was accepted after all.
    pub(crate) fn give_place_back(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        if std::mem::replace(&mut seat.counted, Counted::Nothing) != Counted::Nothing {
            seat.loads.leave();
            seat.tell_freed();
        }
    }

    /// A listener cannot accept before something is free, here or with one of the others. Returns whether a
    /// place has become free meanwhile, and takes it.
    pub(crate) fn await_place(&mut self, for_place: bool) -> bool {
        let Some(seat) = &self.seat else { return false };
        seat.loads.wait();
        for_place && self.reserve_place()
    }

    /// Hands a client to the reactor that has the fewest, unless that is this one. Gives it back when it is to
    /// be served here, also when nobody else can take it.
    pub(crate) fn hand_out(&mut self, client: Client) -> Option<Client> {
        let Some(seat) = &mut self.seat else { return Some(client) };
        let mut command = Command::Run(Errand::Client(Box::new(client)));
        let mut full: Vec<usize> = Vec::new();
        loop {
            let may = |reactor| !seat.gone.contains(&reactor) && !full.contains(&reactor);
            let chosen = seat.loads.fewest(seat.start, may).filter(|reactor| *reactor != seat.index);
            let Some(reactor) = chosen else { break };
            let Some(mailbox) = seat.mailboxes.get(reactor) else { break };
            seat.loads.assign(reactor);
            seat.start = reactor + 1;
            match mailbox.post(command) {
                Ok(()) => {
                    seat.counted = Counted::Nothing;
                    self.stats.handed_out += 1;
                    return None;
                }
                Err((refusal, refused)) => {
                    seat.loads.unassign(reactor);
                    match refusal {
                        Refusal::Stopped => seat.gone.push(reactor),
                        _ => full.push(reactor),
                    }
                    command = refused;
                }
            }
        }
        seat.start = seat.index + 1;
        match command {
            Command::Run(Errand::Client(client)) => Some(*client),
            _ => None,
        }
    }

    /// A client that another reactor accepted, and counted, is about to be added.
    pub(crate) fn expect_counted(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.counted = Counted::Everything;
        }
    }

    /// The reactor that accepts for a group has closed its listeners, in a shutdown: all who came are handed
    /// out, and now the others are told. Their mailboxes keep the order.
    pub(crate) fn pass_shutdown_on(&mut self) {
        if self.stopping != Stopping::Draining || !self.listeners.is_empty() {
            return;
        }
        let now = self.now;
        let left = self.stop_at().since(now);
        let Some(seat) = &mut self.seat else { return };
        if seat.index == 0 && !std::mem::replace(&mut seat.has_told_shutdown, true) {
            for mailbox in seat.others() {
                let _ = mailbox.post(Command::Shutdown(left.max(Duration::from_millis(1))));
            }
        }
    }
}
