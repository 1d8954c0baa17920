//! The clients of the other reactors, as the state sees them. A reactor posts what came from a client in one
//! piece, and hears no more of that client until it has been carried out: so much waits at most. What clients
//! are to be told is collected, and posted in one batch for each reactor at the end of a callback.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use unbroken::{Bytes, ConnId, Net, Peers};

use crate::between::{Heard, Told};
use crate::clients::{ClientId, STATE};
use crate::mail::{Mail, Order, Report};
use crate::metrics::Figures;
use crate::ports::show_again;
use crate::server::Chat;

/// Bytes of lines, and reports, that are carried out at most before our own clients are served again, and
/// before what that comes to is written.
const MOST_BYTES: usize = 32 << 10;
const MOST_REPORTS: usize = 64;

/// Figures that are being gathered.
struct Poll {
    number: u64,
    asker: ClientId,
    /// Those that have come.
    figures: Vec<Figures>,
}

/// What is under way between the state and the others. Empty, and without cost, while there are none.
#[derive(Default)]
pub struct Far {
    others: Option<(Peers, Arc<Mail>)>,
    /// By reactor.
    out: RefCell<Vec<Vec<Order>>>,
    inbox: VecDeque<Report>,
    /// Who is attended to, and bytes of answers to it so far.
    attended: Cell<Option<ClientId>>,
    answered: Cell<usize>,
    /// What clients said who have not taken the answers to what they said before.
    late: HashMap<ClientId, VecDeque<Heard<'static>>>,
    /// A reactor does not keep up. Until it does we do not read from these.
    crowded: bool,
    paused: Vec<ConnId>,
    polls: Vec<Poll>,
    polled: u64,
}

impl Far {
    /// How many there are, the state's own included.
    fn reactors(&self) -> usize {
        self.others.as_ref().map_or(1, |(peers, _)| peers.len())
    }

    /// Puts an order into the next batch for a reactor.
    pub fn post(&self, reactor: usize, order: Order) {
        if let Some(batch) = self.out.borrow_mut().get_mut(reactor) {
            batch.push(order);
        }
    }

    pub fn tell(&self, client: ClientId, told: Told) {
        self.post(client.reactor, Order::Tell(client.conn, told));
    }

    pub fn answer(&self, client: ClientId, bytes: Bytes) {
        if self.attended.get() == Some(client) {
            self.answered.set(self.answered.get() + bytes.len());
        }
        self.tell(client, Told::Answer(bytes));
    }
}

impl Chat {
    /// There are others.
    pub fn join_reactors(&mut self, peers: Peers, mail: Arc<Mail>) {
        self.far.out.borrow_mut().resize_with(peers.len(), Vec::new);
        self.far.others = Some((peers, mail));
    }

    /// Posts what was collected.
    pub fn post(&mut self) {
        let Some((peers, mail)) = &self.far.others else { return };
        for (reactor, batch) in self.far.out.borrow_mut().iter_mut().enumerate() {
            self.far.crowded |= mail.orders[reactor].put(batch, peers.handle(reactor));
        }
    }

    /// Whether what came from a connection has to wait, because a reactor does not keep up with what it is told.
    pub fn must_wait(&mut self, net: &mut Net, conn: ConnId) -> bool {
        if self.far.crowded {
            net.pause_reading(conn);
            self.far.paused.push(conn);
        }
        self.far.crowded
    }

    /// Carries out what the others report, as far as they keep up with what comes of it.
    pub fn hear_others(&mut self, net: &mut Net) {
        let Some((peers, mail)) = self.far.others.clone() else { return };
        if self.far.crowded {
            if mail.orders.iter().any(|orders| orders.is_crowded()) {
                return;
            }
            self.far.crowded = false;
            self.far.paused.drain(..).for_each(|conn| show_again(net, conn));
        }
        let mut bytes = 0;
        for _ in 0..MOST_REPORTS {
            if bytes > MOST_BYTES {
                break;
            }
            // What came while older reports waited was told of by this same wake-up.
            if self.far.inbox.is_empty() {
                self.far.inbox = mail.reports.take().0.into();
            }
            let Some(report) = self.far.inbox.pop_front() else { return };
            bytes += self.report(net, report);
        }
        // The rest follows when the others have had their turn.
        let _ = peers.handle(STATE).map(|handle| handle.wake());
    }

    /// Carries out a report. Returns how many bytes of lines were in it.
    fn report(&mut self, net: &mut Net, report: Report) -> usize {
        match report {
            Report::Heard(client, heard) => {
                let bytes =
                    heard.iter().map(|heard| if let Heard::Line(line) = heard { line.len() } else { 0 });
                let bytes = bytes.sum();
                match self.far.late.remove(&client) {
                    Some(mut late) => {
                        late.extend(heard);
                        // It waits behind the rest, unless that is of no use any more.
                        if skip_to_urgent(&mut late) {
                            self.attend(net, client, late);
                        } else {
                            self.far.late.insert(client, late);
                        }
                    }
                    None => self.attend(net, client, heard.into()),
                }
                return bytes;
            }
            Report::Hungry(client) => {
                if let Some(late) = self.far.late.remove(&client) {
                    self.attend(net, client, late);
                }
            }
            Report::Counted(number, figures) => self.counted(net, number, *figures),
        }
        0
    }

    /// Carries out what came from a client, until it has been sent more than it should have waiting.
    fn attend(&mut self, net: &mut Net, client: ClientId, mut heard: VecDeque<Heard<'static>>) {
        self.far.attended.set(Some(client));
        self.far.answered.set(0);
        while let Some(next) = heard.pop_front() {
            self.hear(net, client, next);
            let enough = self.far.answered.get() > self.options.high_water() && !heard.is_empty();
            if enough && !skip_to_urgent(&mut heard) {
                self.far.late.insert(client, heard);
                self.tell(net, client, Told::Enough);
                break;
            }
        }
        self.far.attended.set(None);
    }

    /// A client asks for the figures of all reactors.
    pub fn figures_wanted(&mut self, net: &mut Net, asker: ClientId) {
        self.far.polled += 1;
        let number = self.far.polled;
        self.far.polls.push(Poll { number, asker, figures: Vec::new() });
        for reactor in STATE + 1..self.far.reactors() {
            self.far.post(reactor, Order::Count(number));
        }
        self.counted(net, number, self.ports.count(net));
    }

    /// One of them has counted.
    fn counted(&mut self, net: &mut Net, number: u64, figures: Figures) {
        let Some(at) = self.far.polls.iter().position(|poll| poll.number == number) else { return };
        self.far.polls[at].figures.push(figures);
        if self.far.polls[at].figures.len() == self.far.reactors() {
            let Poll { asker, figures, .. } = self.far.polls.swap_remove(at);
            let text = self.metrics(&figures);
            self.tell(net, asker, Told::Metrics(text));
        }
    }
}

/// Drops what something urgent makes pointless. Returns whether there is such.
fn skip_to_urgent(heard: &mut VecDeque<Heard<'static>>) -> bool {
    let urgent = heard.iter().position(Heard::is_urgent);
    urgent.is_some_and(|urgent| {
        heard.drain(..urgent);
        true
    })
}
