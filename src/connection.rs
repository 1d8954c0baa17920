//! The state machine of one connection.
//!
//! It knows neither clock nor socket: `now` comes with the [`Context`], the socket is whatever
//! [`Transport`] is passed in. Readiness is two sets of bits: what the kernel last said
//! (`readable`, `writable`) and what we want (`paused`, `congested`). Both are hints about when to
//! try; only the result of a read, a write or `take_error` changes the state.
//!
//! The kernel tells an error once, to whoever asks first, and answers everybody else with an end
//! of stream. So the first error is kept here, and an end of stream behind it is not believed.

mod calm;
mod deadlines;
mod ending;
mod leaving;
mod marks;
mod origin;
mod outcome;
mod piping;
mod receiving;
mod securing;
mod sending;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::addr::{Addr, Peer};
use crate::close::{Alert, Attempt, CloseReason};
use crate::config::Config;
use crate::lapses::Lapses;
use crate::read_buffer::ReadBuffer;
use crate::settings::{Overflow, Settings};
use crate::stats::Stats;
use crate::timers::Time;
use crate::transport::{Hints, Transport};
use crate::write_buffer::{BufferPool, WriteBuffer};

pub(crate) use calm::Flushed;
pub(crate) use deadlines::HEALTHY;
pub(crate) use leaving::Luggage;
use marks::Marks;
pub(crate) use origin::Halves;
use origin::Origin;
pub use origin::Via;
pub(crate) use piping::{Input, Telling};
pub(crate) use receiving::Received;
pub(crate) use securing::Greeting;
pub(crate) use sending::WRITE_THROUGH;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Asked for with `connect`, not established yet. Sends are queued.
    Connecting,
    /// Established, and the TLS handshake is under way. Sends are queued.
    Handshaking,
    /// Both directions are open.
    Open,
    /// The peer ended its stream; ours goes on.
    HalfClosedRemote,
    /// `close_write` was called; the peer's stream goes on.
    HalfClosedLocal,
    /// `close` was called and bytes are still queued; input is discarded.
    Flushing,
    /// All was handed to the kernel and our end of stream sent; the peer's end and its last
    /// acknowledgement are awaited, input is discarded.
    Lingering,
    /// It has ended; `on_close` is due or under way.
    Dead,
}

/// What holds for all connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) config: &'a Config,
    /// The settings of those that have none of their own.
    pub(crate) defaults: &'a Settings,
    /// When nobody was served lately.
    pub(crate) lapses: &'a Lapses,
    /// A shutdown is under way: its deadline bounds the closes.
    pub(crate) draining: bool,
}

/// What every step needs besides the socket.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) terms: Terms<'a>,
    pub(crate) pool: &'a mut BufferPool,
    pub(crate) stats: &'a mut Stats,
}

/// In which of the reactor's lists a connection stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) ready: bool,
    pub(crate) dirty: bool,
    pub(crate) dead: bool,
    /// Among those that have all their bytes and only owe their end.
    pub(crate) owing: bool,
    /// Among those whose handshake can go on.
    pub(crate) greeting: bool,
}

/// How a connection stood when it ended.
#[cfg(feature = "sim")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    /// What called for the end, before an earlier error was found to be the reason.
    pub(crate) occasion: CloseReason,
    pub(crate) state: State,
    pub(crate) queued: usize,
    pub(crate) unused: usize,
    pub(crate) is_holder: bool,
    pub(crate) congested: bool,
}

/// How many bytes stay unacknowledged has not been asked, or cannot be.
const UNKNOWN: u64 = u64::MAX;

/// What few connections have.
#[derive(Debug, Default)]
struct Extra {
    settings: Option<Arc<Settings>>,
    connect_timeout: Option<Duration>,
    /// Addresses that were tried in vain.
    attempts: Vec<Attempt>,
    lookup_error: Option<Box<str>>,
    #[cfg(feature = "sim")]
    last: Option<Last>,
    handshake: Option<Handshake>,
    alert: Option<Alert>,
    tls_error: Option<Box<str>>,
    ends: Ends,
}

impl Extra {
    /// Whether a connection without it would be the same: a session that has got through its handshake
    /// without an incident leaves nothing here.
    fn is_idle(&self) -> bool {
        self.settings.is_none()
            && self.connect_timeout.is_none()
            && self.attempts.is_empty()
            && self.lookup_error.is_none()
            && self.handshake.is_none()
            && self.alert.is_none()
            && self.tls_error.is_none()
            && self.ends == Ends::default()
    }
}

/// How a session stands, and what its end has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ends {
    /// It failed.
    failed: bool,
    /// The stream ended without it having been ended.
    truncated: bool,
    /// The peer ended it: the end of the stream is still to come.
    tail: bool,
    /// Nothing but the end of ours was left for the peer to take when that was sent.
    all_taken: bool,
}

/// A handshake under way.
#[derive(Clone, Copy, Debug)]
struct Handshake {
    since: Time,
    /// The handler knows of the connection: it was open before.
    is_known: bool,
}

/// One connection, its socket excepted.
#[derive(Debug)]
pub(crate) struct Connection {
    state: State,
    origin: Origin,
    pub(crate) listed: Listed,
    /// `on_close` has been called.
    pub(crate) reported: bool,

    marks: Marks,
    /// The poll can tell of its input again and again.
    retold: bool,
    /// One read is granted, congested or not.
    may_read_once: bool,
    /// Bytes were queued since the last read: while congested, the next one has to wait for a drain.
    grew: bool,

    /// Our stream ended, or was asked to, before the peer's end was seen.
    ended_first: bool,
    fin_sent: bool,
    /// Our end of stream is counted among the unacknowledged bytes.
    fin_counted: bool,
    /// The queue could not be emptied when it was last tried.
    waiting: bool,
    /// The first error; 0 for none.
    errno: i32,
    /// The handler is shown nothing before so many bytes are there, or the end; 0 when it has not asked.
    want: u32,

    out: Option<Box<WriteBuffer>>,
    input: ReadBuffer,
    peer: Peer,
    extra: Option<Box<Extra>>,

    received: u64,
    handed: u64,
    unsent: u64,
    reason: Option<CloseReason>,
    /// Bytes unacknowledged at the end, or `UNKNOWN`.
    unacked: u64,

    /// When the handler is to be told that its own deadline has passed.
    alarm: Time,
    /// When it was accepted or asked for.
    since: Time,
    /// When the last byte came or went.
    activity: Time,
    /// When the peer was last seen to take bytes of ours; once it has taken all, when it was last heard.
    progress: Time,
    /// Bytes known to be acknowledged when it was last looked at.
    acknowledged: u64,
    /// Since when the queue has been at the soft limit; in a close, since when the peer has had all of our
    /// bytes and only its end is awaited.
    standing_since: Time,
    /// Input read since then, or after the write half broke; as much as can be counted.
    discarded: u32,
    /// The moment of this connection's entry among the deadlines.
    pub(crate) armed: Time,
    /// The moment of its entry among those who hold memory.
    pub(crate) ranked: Time,
}

impl Connection {
    pub(crate) fn new(state: State, via: Via, peer: Option<Addr>, now: Time) -> Self {
        Self {
            state,
            origin: Origin::of(via),
            listed: Listed::default(),
            reported: false,
            marks: Marks::NEW,
            retold: false,
            may_read_once: false,
            grew: false,
            ended_first: false,
            fin_sent: false,
            fin_counted: false,
            waiting: false,
            errno: 0,
            want: 0,
            out: None,
            input: ReadBuffer::default(),
            peer: peer.into(),
            extra: None,
            received: 0,
            handed: 0,
            unsent: 0,
            reason: None,
            unacked: UNKNOWN,
            alarm: Time::NEVER,
            since: now,
            activity: now,
            progress: now,
            acknowledged: 0,
            standing_since: Time::NEVER,
            discarded: 0,
            armed: Time::NEVER,
            ranked: Time::NEVER,
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The settings of its own, or else those of all.
    #[inline]
    pub(crate) fn settings<'a>(&'a self, defaults: &'a Settings) -> &'a Settings {
        match &self.extra {
            None => defaults,
            Some(extra) => extra.settings.as_deref().unwrap_or(defaults),
        }
    }

    pub(crate) fn set_settings(&mut self, settings: Arc<Settings>) {
        self.extra.get_or_insert_default().settings = Some(settings);
    }

    pub(crate) fn set_connect_timeout(&mut self, timeout: Duration) {
        self.extra.get_or_insert_default().connect_timeout = Some(timeout);
    }

    /// For the report: addresses that were tried in vain.
    pub(crate) fn note_attempts(&mut self, attempts: Vec<Attempt>) {
        if !attempts.is_empty() {
            self.extra.get_or_insert_default().attempts.extend(attempts);
        }
    }

    pub(crate) fn via(&self) -> Via {
        self.origin.via()
    }

    pub(crate) fn peer(&self) -> Option<Addr> {
        self.peer.addr()
    }

    /// Bytes queued and not yet handed to the kernel.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }

    /// Whether it holds memory that it did not get rid of when it had the chance: bytes that the
    /// kernel would not take, or that the handler left unused. Where sends are refused nobody pays for
    /// the former.
    #[inline]
    pub(crate) fn is_holder(&self, defaults: &Settings) -> bool {
        !self.is_dead() && (!self.input.is_empty() || self.is_queuing(defaults))
    }

    #[inline]
    fn is_queuing(&self, defaults: &Settings) -> bool {
        let waits = self.waiting || self.held_back() || self.state == State::Connecting;
        waits && self.out.is_some() && self.settings(defaults).overflow == Overflow::Close
    }

    /// Whether it is for what is queued that a holder pays, more than for what it left unused.
    pub(crate) fn holds_output(&self, defaults: &Settings) -> bool {
        self.is_queuing(defaults) && self.queued() >= self.unused()
    }

    /// When a holder was last seen to get on: to take what is queued for it or, where nothing waits, to
    /// send or to take anything.
    pub(crate) fn last_progress(&self, defaults: &Settings) -> Time {
        match self.is_queuing(defaults) {
            true if self.state == State::Connecting => self.since,
            true if self.held_back() => self.handshake_since(),
            true => self.progress,
            false => self.activity,
        }
    }

    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// All that is queued.
    #[cfg(feature = "sim")]
    pub(crate) fn queue(&self) -> Vec<u8> {
        self.out.as_ref().map_or(Vec::new(), |out| out.front(usize::MAX))
    }

    /// How it stood when it ended.
    #[cfg(feature = "sim")]
    pub(crate) fn last(&self) -> Option<Last> {
        self.extra.as_ref()?.last
    }

    #[cfg(feature = "sim")]
    pub(crate) fn has_own_settings(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.settings.is_some())
    }

    #[cfg(feature = "sim")]
    pub(crate) fn own_connect_timeout(&self) -> Option<Duration> {
        self.extra.as_ref()?.connect_timeout
    }

    /// Closing, or ended.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        self.is_closing() || self.is_dead()
    }

    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, State::Flushing | State::Lingering)
    }

    /// Established, and not closed by us: the handler hears of it.
    #[inline]
    pub(crate) fn is_delivering(&self) -> bool {
        matches!(self.state, State::Open | State::HalfClosedRemote | State::HalfClosedLocal)
    }

    /// Whether an error has been met, so that only what the peer sent before it is still of use.
    #[inline]
    fn is_broken(&self) -> bool {
        self.errno != 0 || self.write_failed()
    }

    #[inline]
    pub(crate) fn on_readiness(&mut self, hints: Hints) {
        self.marks.add(hints);
    }

    /// Whether the next turn has something to do here without any new event.
    #[inline]
    pub(crate) fn has_work(&self, defaults: &Settings) -> bool {
        self.may_read(defaults)
            || self.may_flush()
            || self.is_to_be_told()
            || (self.drain_due() && self.is_delivering())
            || self.error_is_due()
    }

    /// Whether the handler is still to be shown input that has been read, or told of the end.
    #[inline]
    fn is_to_be_told(&self) -> bool {
        (self.show_again() && self.may_show_again()) || self.eof_is_due()
    }

    /// Open, with nothing queued, unread, unused or untold: there is no work in it, and no deadline
    /// but that of the idle, which is not earlier than the one among the timers.
    #[inline]
    pub(crate) fn is_at_rest(&self, defaults: &Settings) -> bool {
        !self.marks.any_of(Marks::UNREST)
            && self.is_whole()
            && self.out.is_none()
            && self.ranked == Time::NEVER
            && self.is_within_its_time(defaults)
    }

    /// Open, with no error met and nothing left unused.
    #[inline]
    fn is_whole(&self) -> bool {
        self.state == State::Open && self.errno == 0 && self.input.is_empty()
    }

    /// Of a connection with nothing queued: whether it has no deadline but that of the idle, which is not
    /// earlier than the one among the timers.
    #[inline(always)]
    fn is_within_its_time(&self, defaults: &Settings) -> bool {
        let idle_timeout = self.settings(defaults).idle_timeout;
        self.armed <= self.alarm
            && (idle_timeout.is_none()
                || (self.armed <= self.activity.plus_option(idle_timeout) && self.all_acknowledged()))
    }

    /// Whether anything else is to be done before new input is read: a broken or waiting queue,
    /// an error to be asked for, input to be shown again.
    #[inline]
    pub(crate) fn has_old_business(&self) -> bool {
        self.out.is_some() || self.own() || self.show_again() || self.error_hint()
    }

    /// The connection is established. Returns whether the handler is to be told.
    pub(crate) fn opened<T: Transport>(
        &mut self,
        socket: &mut T,
        peer: Option<Addr>,
        cx: &mut Context<'_>,
    ) -> bool {
        self.peer = peer.into();
        if self.secured() {
            self.begin_handshake(false, socket, cx);
            return false;
        }
        self.enter(socket, cx)
    }

    /// Application data can be sent and received from here on.
    fn enter<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) -> bool {
        // What cannot be sent to is not half of something whole.
        let half = self.fin_wanted() && self.halves() != Some(Halves::ReadOnly);
        self.state = if half { State::HalfClosedLocal } else { State::Open };
        self.ended_first |= half;
        if self.standing_since != Time::NEVER {
            self.standing_since = cx.now;
        }
        self.activity = cx.now;
        if self.close_wanted() {
            self.begin_close(cx);
            self.advance(socket, cx);
            return false;
        }
        true
    }
}
