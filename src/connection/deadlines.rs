//! What time does to a connection: when it wants to be looked at, what is found out then, and which of
//! its deadlines has passed.

use std::time::Duration;

use super::{Connection, Context, State, Terms};
use crate::close::{CloseReason, Timeout};
use crate::lapses::Lapses;
use crate::settings::Settings;
use crate::timers::Time;
use crate::transport::Transport;

/// Nothing tells when the peer acknowledges, so it is looked at from time to time: so many times
/// in the span of a timeout, at moments that all connections share.
const SAMPLES: u32 = 8;

/// How soon the last acknowledgement of a closing connection is asked for, and how late. The kernel's
/// events come first as a rule, so that each look waits for several times as long as the last one:
/// thousands of peers that do not acknowledge must cost nothing.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(5);
const SLOWER: u32 = 3;

/// Linux tells in milliseconds when it last heard of a peer.
pub(super) const HEARD_UNIT: Duration = Duration::from_millis(1);

/// Without progress for no longer than this, nobody pays for the memory that others hold.
pub(crate) const HEALTHY: Duration = Duration::from_millis(10);

impl Connection {
    /// Whether everything handed over was acknowledged when it was last looked at.
    #[inline]
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.acknowledged == self.handed
    }

    /// Looks whether the peer has taken bytes since the last look. What our kernel accepted is no
    /// sign of it: its buffer grows by itself. What is known late did not happen late: the kernel is
    /// asked when the acknowledgement came.
    pub(crate) fn sample<T: Transport>(&mut self, socket: &T, now: Time, lapses: &Lapses) {
        let acknowledged = self.acknowledged_now(socket);
        let took_part = self.secured() && self.took_part(socket);
        if acknowledged > self.acknowledged || took_part {
            self.acknowledged = self.acknowledged.max(acknowledged);
            let heard = socket.last_heard();
            let at = heard.map_or(now, |heard| now.minus(heard.ack));
            self.progress = self.progress.max(at);
            // Where nobody acknowledges, the write was the activity.
            if heard.is_some() && at > lapses.happened(self.activity) {
                self.activity = at;
            }
        }
    }

    /// How long a holder of memory may go without progress and is still taken to be healthy: two
    /// round trips, for acknowledgements may come in bursts.
    pub(crate) fn patience<T: Transport>(&self, socket: &T) -> Duration {
        socket.last_heard().map_or(HEALTHY, |heard| (heard.round_trip * 2).max(HEALTHY))
    }

    /// How long a connection with bytes under way may make no progress. A close is as patient as an
    /// open connection; where that is for ever, half a connection's time bounds it.
    fn stall_limit(&self, settings: &Settings) -> Option<Duration> {
        match self.is_closing() {
            true => settings.write_stall.or(settings.half_close_timeout),
            false => settings.write_stall,
        }
    }

    /// When this connection wants to be looked at, if nothing happens before.
    #[inline]
    pub(crate) fn deadline(&self, now: Time, terms: Terms<'_>) -> Time {
        let settings = self.settings(terms.defaults);
        match self.state {
            State::Dead => Time::NEVER,
            State::Connecting => self.connect_ends(terms).min(self.alarm),
            State::Handshaking => self.handshake_ends(terms).min(self.alarm),
            State::Flushing | State::Lingering if self.is_lingering() => {
                let look =
                    if self.saw_fin() && !self.ends().tail { self.next_look(now) } else { Time::NEVER };
                self.linger_ends(terms).min(look)
            }
            State::Flushing | State::Lingering => {
                let look = match (self.state, self.stall_limit(settings)) {
                    (State::Lingering, _) => self.next_look(now),
                    _ if self.awaits_reader() => self.next_look(now),
                    (_, Some(stall)) => now.next_on_grid(stall / SAMPLES),
                    (_, None) => Time::NEVER,
                };
                self.stall_ends(terms).min(look)
            }
            State::Open | State::HalfClosedRemote | State::HalfClosedLocal => {
                let mut deadline = Time::NEVER;
                if let Some(quiet) = self.quiet_limit(settings) {
                    deadline = terms.lapses.happened(self.activity).plus(quiet);
                    if !self.all_acknowledged() {
                        deadline = deadline.min(now.next_on_grid(quiet / SAMPLES));
                    }
                }
                if let (true, Some(stall)) = (self.waiting, settings.write_stall) {
                    let look = now.next_on_grid(stall / SAMPLES);
                    deadline = deadline.min(self.stall_ends(terms)).min(look);
                }
                if self.awaits_reader() {
                    deadline = deadline.min(self.next_look(now));
                }
                deadline.min(self.soft_ends(terms)).min(self.alarm)
            }
        }
    }

    /// When a connection is given up that is not established.
    fn connect_ends(&self, terms: Terms<'_>) -> Time {
        let own = self.extra.as_ref().and_then(|extra| extra.connect_timeout);
        terms.lapses.happened(self.since).plus(own.unwrap_or(terms.config.connect_timeout))
    }

    /// When the last acknowledgement is looked for again: the longer it takes the more rarely.
    fn next_look(&self, now: Time) -> Time {
        let wait = (now.since(self.progress) * SLOWER).clamp(FIRST_LOOK, LAST_LOOK);
        now.plus(wait).minus(FIRST_LOOK).next_on_grid(FIRST_LOOK)
    }

    /// When a peer that takes nothing is given up.
    fn stall_ends(&self, terms: Terms<'_>) -> Time {
        let limit = self.stall_limit(self.settings(terms.defaults));
        limit.map_or(Time::NEVER, |limit| terms.lapses.end_of(self.progress, limit))
    }

    /// When a queue has stood at the soft limit for too long.
    fn soft_ends(&self, terms: Terms<'_>) -> Time {
        let soft = self.settings(terms.defaults).soft_limit;
        soft.map_or(Time::NEVER, |soft| terms.lapses.end_of(self.standing_since, soft.duration))
    }

    /// When the wait for the peer's end is over. In a shutdown its deadline is the only clock.
    fn linger_ends(&self, terms: Terms<'_>) -> Time {
        if terms.draining {
            return Time::NEVER;
        }
        let total = terms.lapses.end_of(self.standing_since, terms.config.linger_total);
        terms.lapses.end_of(self.progress, terms.config.linger_idle).min(total)
    }

    /// How long this connection may go without a byte in either direction.
    #[inline]
    fn quiet_limit(&self, settings: &Settings) -> Option<Duration> {
        let half =
            (self.state != State::Open || self.is_broken()).then_some(settings.half_close_timeout).flatten();
        match (settings.idle_timeout, half) {
            (Some(idle), Some(half)) => Some(idle.min(half)),
            (idle, half) => idle.or(half),
        }
    }

    /// Has the handler told at this moment, or never.
    pub(crate) fn set_alarm(&mut self, at: Time) {
        self.alarm = at;
    }

    /// Whether the handler's own deadline has passed by `now`; it is told once. Who is closing is told of
    /// nothing any more.
    pub(crate) fn take_alarm(&mut self, now: Time, defaults: &Settings) -> bool {
        // Behind an error what came before it is read, and then it ends.
        let ends = self.is_broken() && self.may_read(defaults);
        let is_open = self.is_delivering() || matches!(self.state, State::Connecting | State::Handshaking);
        let due = now >= self.alarm && is_open && !ends;
        if due {
            self.alarm = Time::NEVER;
        }
        due
    }

    /// The reactor is about to read from it and to flush it because its deadline came up: whatever
    /// the kernel last said, it is tried.
    pub(crate) fn look_again(&mut self) {
        self.set_due(true);
        self.set_readable(self.is_readable() | !self.saw_fin() | self.ends().tail);
        self.set_writable(true);
    }

    /// Ends the connection if a deadline has passed. All that came up to `cx.now` has been read, as
    /// far as reading is wanted, and the queue has been flushed since; `clock` is the present, in which the
    /// kernel tells how long ago something came.
    pub(crate) fn expire<T: Transport>(&mut self, socket: &mut T, clock: Time, cx: &mut Context<'_>) {
        let now = cx.now;
        match self.state {
            State::Dead => {}
            State::Connecting => {
                if now >= self.connect_ends(cx.terms) {
                    self.die(CloseReason::TimedOut(Timeout::Connect), socket, cx);
                }
            }
            State::Handshaking => {
                if now >= self.handshake_ends(cx.terms) {
                    self.die(CloseReason::TimedOut(Timeout::Handshake), socket, cx);
                }
            }
            State::Flushing | State::Lingering => {
                self.advance(socket, cx);
                if self.is_dead() {
                } else if self.is_lingering() {
                    self.hear(socket, clock, cx.terms.lapses);
                    if now >= self.linger_ends(cx.terms) {
                        self.end_lingering(socket, cx);
                    }
                } else {
                    self.sample(socket, clock, cx.terms.lapses);
                    if now >= self.stall_ends(cx.terms) {
                        self.die(CloseReason::TimedOut(Timeout::WriteStall), socket, cx);
                    }
                }
            }
            State::Open | State::HalfClosedRemote | State::HalfClosedLocal => {
                self.expire_open(socket, clock, cx)
            }
        }
    }

    fn expire_open<T: Transport>(&mut self, socket: &mut T, clock: Time, cx: &mut Context<'_>) {
        let now = cx.now;
        // What a session sent of its own is in no account, and that the peer has taken it is a sign of life.
        if !self.all_acknowledged() || self.secured() {
            self.sample(socket, clock, cx.terms.lapses);
        }
        if self.waiting && now >= self.stall_ends(cx.terms) {
            return self.die(CloseReason::TimedOut(Timeout::WriteStall), socket, cx);
        }
        if now >= self.soft_ends(cx.terms) {
            return self.die(CloseReason::SlowConsumer, socket, cx);
        }
        let Some(quiet) = self.quiet_limit(self.settings(cx.terms.defaults)) else { return };
        // Reading was not wanted when it was its turn, and is now: it is heard first. So is the handler
        // told first of what waited for it.
        if self.may_read(cx.terms.defaults) || self.is_to_be_told() {
            return;
        }
        if now >= cx.terms.lapses.happened(self.activity).plus(quiet) && !self.is_broken() && !self.saw_fin()
        {
            self.hear(socket, clock, cx.terms.lapses);
            self.hear_unread(socket, clock, cx.terms.defaults);
        }
        if now >= cx.terms.lapses.happened(self.activity).plus(quiet) {
            self.die(CloseReason::TimedOut(Timeout::Idle), socket, cx);
        }
    }

    /// The kernel knows when data came. What was read is stamped with the clock as it was last looked at,
    /// and the process may have been stopped between that and the read.
    fn hear<T: Transport>(&mut self, socket: &T, clock: Time, lapses: &Lapses) {
        let Some(heard) = socket.last_heard() else { return };
        let at = clock.minus(heard.data);
        // It counts in whole units, so that the same moment seems later the later it is asked.
        if at > lapses.happened(self.activity).plus(HEARD_UNIT) {
            self.activity = at;
        }
        if self.is_lingering() && at > lapses.happened(self.progress).plus(HEARD_UNIT) {
            self.progress = at;
        }
    }

    /// While a handler has paused a connection and input waits, the silence is ours, for the peer may be
    /// held up by it.
    fn hear_unread<T: Transport>(&mut self, socket: &T, now: Time, defaults: &Settings) {
        if self.wants_input(defaults) {
            return;
        }
        let waits = socket.unread().is_some_and(|bytes| bytes > 0);
        if waits && (self.is_paused() || socket.last_heard().is_none()) {
            self.activity = now;
        }
    }
}
