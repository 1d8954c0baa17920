//! What a handler may do: listen, connect, send, close, set timers.
//!
//! No call here calls back into the handler. What follows from a call is listed, and the reactor
//! sees to it in the later phases of its turn.

mod adopting;
mod books;
mod children;
mod dialing;
mod listening;
#[cfg(feature = "sim")]
mod observed;
mod outgoing;
mod piping;
mod seat;
#[cfg(feature = "tls")]
mod securing;
mod stopping;
mod timing;
mod watching;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::addr::Addr;
use crate::close::CloseReason;
use crate::config::Config;
use crate::connection::{Connection, State, Via};
use crate::fifo::Fifo;
use crate::id::{AttemptId, ChildId, ConnId, ListenerId, TimerId};
use crate::lapses::Lapses;
use crate::listener::Listener;
use crate::mailbox::{Command, Mailbox};
use crate::names::Resolve;
use crate::per_conn::PerConn;
use crate::settings::{ConfigError, Settings};
use crate::socket::{Reserve, Stream};
use crate::stats::Stats;
use crate::system::System;
use crate::table::Table;
use crate::timers::{Armed, Time, Timers};
use crate::write_buffer::BufferPool;

pub(crate) use adopting::Arrival;
pub use adopting::{Detached, NotAdopted};
use children::Children;
pub(crate) use dialing::{why_all_failed, Called};
use dialing::{Call, Try};
pub(crate) use seat::{Client, Seat};
pub(crate) use stopping::Stopping;
use watching::Watches;
pub use watching::{Interest, Ready};

/// A closure from another thread.
pub(crate) type Task = Box<dyn FnOnce(&mut Net) + Send>;

/// What other threads ask of the reactor as a whole.
pub(crate) enum Errand {
    Task(Task),
    /// Somebody is to be taken in.
    Arrival(Box<Arrival>),
    /// Another reactor of the group accepted it.
    Client(Box<Client>),
    /// Another reactor of the group has freed what a listener here may wait for.
    Freed,
    /// A child has ended.
    Exited(ChildId),
}

/// How often a Unix-domain socket whose listener's backlog is full is tried again: no event tells
/// when there is room.
pub(crate) const REDIAL: Duration = Duration::from_millis(20);

/// How many holders of memory are looked at in a turn, to find out who gets on, at most: some
/// milliseconds' worth.
pub(crate) const LOOKS: u32 = 4096;

/// A connection and its socket.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) conn: Connection,
    pub(crate) stream: Stream,
}

/// Whose deadline an entry of the timers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    Shutdown,
    Listener(ListenerId),
    Conn(ConnId),
}

/// A reactor's connections, listeners and timers, and all that can be done with them.
///
/// A handler gets it with every callback; [`Reactor::net`](crate::Reactor::net) hands it out
/// before the loop. A call with the identifier of something that is gone does nothing, or says so.
pub struct Net {
    pub(crate) system: System,
    pub(crate) config: Config,
    /// What the configuration says of those connections that have no settings of their own.
    pub(crate) defaults: Settings,
    /// Some connection may have a soft limit.
    has_soft_limits: bool,
    /// The clock as it was last read: after each callback that may have taken long, and by each call
    /// that sets a span.
    pub(crate) now: Time,
    /// When somebody was served last: what has passed since went to a callback, or to something outside.
    pub(crate) last_served: Time,
    /// When the kernel was last asked for events.
    pub(crate) asked: Time,
    /// When nobody was served lately.
    pub(crate) lapses: Lapses,

    pub(crate) conns: Table<ConnId, Entry>,
    pub(crate) listeners: Table<ListenerId, Listener>,
    /// Connections whose host is being looked up or dialed.
    calls: PerConn<Box<Call>>,
    /// Sessions of those that are not established yet.
    #[cfg(feature = "tls")]
    sessions: PerConn<securing::Pending>,
    /// The attempts under way for them.
    pub(crate) attempts: Table<AttemptId, Try>,
    pub(crate) children: Children,
    pub(crate) watches: Watches,
    /// Made when the first name is to be looked up.
    pub(crate) resolver: Option<Box<dyn Resolve>>,
    pub(crate) user_timers: Table<TimerId, Armed>,
    /// The timers of the program.
    pub(crate) alarms: Timers<TimerId>,
    /// The deadlines of the engine.
    pub(crate) deadlines: Timers<Deadline>,

    /// Connections that have something to do in the next turn.
    pub(crate) ready: Fifo<ConnId>,
    /// How many were ever put into `ready`.
    pub(crate) readied: u64,
    /// Connections that were written to, closed, or otherwise meddled with since they were last seen to.
    pub(crate) dirty: Fifo<ConnId>,
    /// Connections that were read from and are about to be flushed.
    pub(crate) served: Fifo<ConnId>,
    /// Connections whose handshake can go on.
    pub(crate) greeting: VecDeque<ConnId>,
    /// Connections whose deadline came up, since when they were read from and flushed: the verdict
    /// is due, on what was so at that moment.
    pub(crate) judged: VecDeque<(ConnId, Time)>,
    /// Connections that have ended and wait for their report.
    pub(crate) dead: VecDeque<ConnId>,
    /// Connections closing, oldest first, among others that have ended since.
    closing: VecDeque<ConnId>,
    /// Those of them that only owe their end, likewise.
    owing: VecDeque<ConnId>,
    /// Clients whose handshake is under way, oldest first, among others that are through.
    greeters: VecDeque<ConnId>,
    /// Who holds memory without getting rid of it, by when it was last seen to get on. An entry is
    /// never later than that.
    holders: BTreeSet<(Time, ConnId)>,
    /// How many of them may still be looked at in this turn.
    pub(crate) looks: u32,

    pub(crate) mailbox: Arc<Mailbox<Errand>>,
    /// Commands taken from the mailbox and not carried out yet.
    pub(crate) inbox: VecDeque<Command<Errand>>,
    /// How many of them were carried out that the mailbox does not know of, and their bytes.
    pub(crate) carried_out: (usize, usize),
    /// Sends from other threads that came too late or met a cap, to be given back.
    pub(crate) undelivered: VecDeque<(ConnId, Bytes)>,
    /// Whether there is a handle that wants to know who is alive.
    pub(crate) tracked: bool,
    /// Of those that have ended: who waits until the commands that were taken for it are answered.
    pub(crate) awaited: VecDeque<ConnId>,
    /// How many sends from other threads were carried out for the tenant of each slot.
    carried: Vec<u32>,

    /// Of a reactor that belongs to a group.
    pub(crate) seat: Option<Seat>,
    pub(crate) reserve: Option<Reserve>,
    pub(crate) pool: BufferPool,
    pub(crate) stats: Stats,
    pub(crate) stopping: Stopping,
    /// From when on and how long a shutdown waits before it cuts off what is left.
    pub(crate) stop: Option<(Time, Duration)>,
    /// The handler has been told of it.
    pub(crate) told_shutdown: bool,
    /// Everybody has been flushed since then.
    pub(crate) flushed_since_stop: bool,
    /// The connection whose callback is running.
    pub(crate) calling: Option<ConnId>,
    /// The connection that is being served: it is flushed and settled after its callbacks anyway.
    pub(crate) serving: Option<ConnId>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("connections", &self.conns.len())
            .field("listeners", &self.listeners.len())
            .field("stopping", &self.stopping)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Net {
    pub(crate) fn new(config: Config, system: System, mailbox: Mailbox<Errand>) -> io::Result<Self> {
        let reserve = match config.shed_when_exhausted {
            true => Some(system.reserve()?),
            false => None,
        };
        Ok(Self {
            system,
            defaults: config.settings(),
            has_soft_limits: config.soft_limit.is_some(),
            config,
            now: Time::default(),
            last_served: Time::default(),
            asked: Time::default(),
            lapses: Lapses::default(),
            conns: Table::new(),
            listeners: Table::new(),
            calls: PerConn::new(),
            #[cfg(feature = "tls")]
            sessions: PerConn::new(),
            greeters: VecDeque::new(),
            attempts: Table::new(),
            children: Children::default(),
            watches: Watches::default(),
            resolver: None,
            user_timers: Table::new(),
            alarms: Timers::new(),
            deadlines: Timers::new(),
            ready: Fifo::new(),
            readied: 0,
            dirty: Fifo::new(),
            served: Fifo::new(),
            greeting: VecDeque::new(),
            judged: VecDeque::new(),
            dead: VecDeque::new(),
            closing: VecDeque::new(),
            owing: VecDeque::new(),
            holders: BTreeSet::new(),
            looks: LOOKS,
            mailbox: Arc::new(mailbox),
            inbox: VecDeque::new(),
            carried_out: (0, 0),
            undelivered: VecDeque::new(),
            tracked: false,
            awaited: VecDeque::new(),
            carried: Vec::new(),
            seat: None,
            reserve,
            pool: BufferPool::default(),
            stats: Stats::default(),
            stopping: Stopping::No,
            stop: None,
            told_shutdown: false,
            flushed_since_stop: false,
            calling: None,
            serving: None,
        })
    }

    pub(crate) fn clock(&self) -> Time {
        self.system.clock()
    }

    /// Reads the clock.
    #[inline]
    pub(crate) fn tick(&mut self) -> Time {
        self.now = self.clock();
        self.now
    }

    /// The same, after a callback: nobody was served while it ran.
    #[inline]
    pub(crate) fn tick_over(&mut self) -> Time {
        let now = self.tick();
        self.lapses.note(self.last_served, now);
        self.last_served = now;
        now
    }

    /// The same, where that is done often: what took no time is left to the next batch's look.
    #[inline]
    pub(crate) fn tick_over_if_moved(&mut self) {
        if self.system.has_time_moved() {
            self.tick_over();
        }
    }

    fn refuse_while_stopping(&self) -> io::Result<()> {
        match self.stopping {
            Stopping::No => Ok(()),
            _ => Err(io::Error::new(ErrorKind::ConnectionAborted, "the reactor is shutting down")),
        }
    }

    /// Gives a new connection its identifier.
    pub(crate) fn add(&mut self, conn: Connection, stream: Stream) -> ConnId {
        let id = self.conns.insert_with(|_| Entry { conn, stream });
        self.count_added(id);
        id
    }

    /// The same, of a client whose socket the poll is to tell of.
    #[inline]
    pub(crate) fn add_client(&mut self, conn: Connection, mut stream: Stream) -> (ConnId, io::Result<()>) {
        let (registry, mut registered) = (&self.system.registry, Ok(()));
        let id = self.conns.insert_with(|id| {
            registered = stream.register(registry, id.token());
            Entry { conn, stream }
        });
        self.count_added(id);
        (id, registered)
    }

    fn count_added(&mut self, id: ConnId) {
        self.stats.connections = self.conns.len();
        self.count_in();
        if self.tracked {
            if let Some(count) = self.carried.get_mut(id.slot()) {
                *count = 0;
            }
            self.mailbox.set_live(id);
        }
    }

    /// Stops reading from a connection: `on_data` and `on_eof` rest until
    /// [`resume_reading`](Self::resume_reading), and the peer is held up once the kernel's buffer
    /// is full. Neither the end of the peer's stream nor a failed write is told of meanwhile, because what
    /// came before it is still to be read: `on_close` follows once reading is resumed, or when
    /// `half_close_timeout` (after a failed write) or another deadline has passed.
    pub fn pause_reading(&mut self, conn: ConnId) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.conn.pause_reading();
            #[cfg(feature = "sim")]
            self.note_pause(conn, true);
        }
    }

    /// Reads from a connection again. Input that the handler left unused is shown again first,
    /// even when nothing new has come.
    pub fn resume_reading(&mut self, conn: ConnId) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.conn.resume_reading();
            #[cfg(feature = "sim")]
            self.note_pause(conn, false);
            // What waits is to be read before a timer that is due by then: it is listed at once.
            if self.serving != Some(conn) {
                self.settle(conn);
            }
        }
    }

    /// Closes a connection in good order: what is queued is sent, then the end of our stream;
    /// input is discarded until the peer ends its own; the last acknowledgement is awaited. Up to that the
    /// `write_stall` setting caps it, then the `linger_*` ones. No `on_data`, `on_eof` or `on_drain` comes any more.
    ///
    /// While connecting, what is queued is sent once the connection is established; with nothing
    /// queued the attempt is given up.
    pub fn close(&mut self, conn: ConnId) {
        self.tick();
        self.touch(conn, |conn, stream, cx| conn.close(stream, cx));
        self.mark_dirty(conn);
    }

    /// Ends our stream behind what is queued and goes on receiving. When the peer's stream has
    /// ended already this is [`close`](Self::close).
    pub fn close_write(&mut self, conn: ConnId) {
        self.tick();
        self.touch(conn, |conn, _, cx| conn.close_write(cx));
        #[cfg(feature = "sim")]
        self.note_ended(conn);
        self.mark_dirty(conn);
    }

    /// Ends a connection at once with a reset. What is queued is dropped, and counted. (A
    /// Unix-domain socket knows no reset: its peer reads what was handed over, then an end.)
    pub fn abort(&mut self, conn: ConnId) {
        self.abort_as(conn, CloseReason::Aborted);
    }

    /// Ends a connection at once for a reason of the handler's own, as when one of its limits is
    /// passed: [`InputOverflow`](CloseReason::InputOverflow) for a frame too long,
    /// [`TimedOut(Idle)`](crate::Timeout::Idle) for a heartbeat missed. A connection that loses bytes of ours by it is
    /// reset, as every time. An error that was met before stays the reason; a clean reason, which
    /// only a close in good order can earn, counts as [`Aborted`](CloseReason::Aborted), and so does
    /// [`Detached`](CloseReason::Detached).
    pub fn abort_as(&mut self, conn: ConnId, reason: CloseReason) {
        #[cfg(feature = "sim")]
        self.note_by_hand(true);
        let is_earned = reason.is_clean() || reason == CloseReason::Detached;
        self.kill(conn, if is_earned { CloseReason::Aborted } else { reason });
        #[cfg(feature = "sim")]
        self.note_by_hand(false);
    }

    pub(crate) fn kill(&mut self, id: ConnId, reason: CloseReason) {
        self.touch(id, |conn, stream, cx| conn.die(reason, stream, cx));
    }

    /// Shows the handler nothing of this connection before `bytes` are there, those counted that it left
    /// unused, or its peer's stream ends: for a protocol that knows how long the next frame is. It holds
    /// for the next [`on_data`](crate::Handler::on_data) only.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for more than [`max_read_buffer`](crate::Config::max_read_buffer): so many can
    /// never be kept.
    pub fn want(&mut self, conn: ConnId, bytes: usize) -> io::Result<()> {
        let Some(entry) = self.conns.get_mut(conn) else { return Ok(()) };
        let most = entry.conn.settings(&self.defaults).max_read_buffer;
        let wanted = u32::try_from(bytes).ok().filter(|_| bytes <= most);
        let Some(wanted) = wanted else {
            let message = format!("{bytes} bytes are more than max_read_buffer ({most}) keeps");
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        };
        entry.conn.want(wanted);
        #[cfg(feature = "sim")]
        self.note_want(conn, wanted);
        // It may want less than is owed to it.
        if self.serving != Some(conn) {
            self.settle(conn);
        }
        Ok(())
    }

    /// The input of a connection that [`on_data`](crate::Handler::on_data) left unused: in
    /// [`on_eof`](crate::Handler::on_eof) what its peer did not complete. Empty within `on_data` itself,
    /// which has it in its hands.
    pub fn unused(&self, conn: ConnId) -> &[u8] {
        self.conns.get(conn).map_or(&[], |entry| entry.conn.unused_input())
    }

    /// The settings of a connection; `None` when it is gone.
    pub fn settings(&self, conn: ConnId) -> Option<&Settings> {
        Some(self.conns.get(conn)?.conn.settings(&self.defaults))
    }

    /// Gives a connection settings of its own. What has been queued or kept already stays; a time-out
    /// runs from when its span began, under the new length.
    ///
    /// # Errors
    ///
    /// Names the first setting that cannot be met and says why; nothing is changed.
    pub fn set_settings(&mut self, conn: ConnId, settings: Settings) -> Result<(), ConfigError> {
        settings.validate(self.config.total_write_buffer)?;
        self.has_soft_limits |= settings.soft_limit.is_some();
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.conn.set_settings(Arc::new(settings));
            self.mark_dirty(conn);
        }
        Ok(())
    }

    /// Bytes queued for a connection and not handed to the kernel; 0 when it is gone.
    pub fn queued(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |entry| entry.conn.queued())
    }

    /// The peer's address: known from the accept or the call of `connect`, so that it stays the same
    /// and can still be asked in `on_close`. `None` for a connection that is gone, and where the system gave none.
    pub fn peer_addr(&self, conn: ConnId) -> Option<Addr> {
        self.conns.get(conn)?.conn.peer()
    }

    /// Where a connection stands; `None` once it is gone.
    pub fn state(&self, conn: ConnId) -> Option<State> {
        Some(self.conns.get(conn)?.conn.state())
    }

    /// How a connection came about; `None` once it is gone.
    pub fn via(&self, conn: ConnId) -> Option<Via> {
        Some(self.conns.get(conn)?.conn.via())
    }

    /// The connections alive, those connecting and closing included, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.ids()
    }

    /// The counters as they stand.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // An idle connection is its entry and nothing else.
    #[test]
    fn an_idle_connection_costs_less_than_256_bytes() {
        let generation = std::mem::size_of::<u32>();
        let slot = std::mem::size_of::<(usize, Option<Entry>)>();
        assert!(slot + generation <= 256, "{slot} + {generation}");
    }
}
