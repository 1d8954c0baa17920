//! How a connection ends: half-closes, the lingering close, deadlines, and the verdict.
//!
//! A close in good order is flush, end our stream, read until the peer ends its own, wait for the
//! last acknowledgement. Closing a socket with input unread makes the kernel send a reset, which
//! destroys what the peer has not received yet: so the input is read and thrown away first, within
//! caps, for a peer may go on sending for ever.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::{Connection, Context, Halves, State, Terms, UNKNOWN};
use crate::close::{reason_for, Circumstances, CloseReason, Timeout};
use crate::lapses::Lapses;
use crate::read_buffer::ReadBuffer;
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
    /// `close`: the handler wants no more input, what is queued goes out, then all ends.
    pub(crate) fn close<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        match self.state {
            State::Flushing | State::Lingering | State::Dead => {}
            // One that was taken in is established, and merely has not been told of yet.
            State::Connecting if self.queued() == 0 && !self.is_arriving() => {
                self.die(CloseReason::Aborted, socket, cx)
            }
            State::Connecting => {
                self.set_close_wanted(true);
                self.set_fin_wanted(true);
            }
            State::Handshaking if self.queued() > 0 => {
                self.set_close_wanted(true);
                self.set_fin_wanted(true);
            }
            _ => self.begin_close(cx),
        }
    }

    /// `close_write`: our stream ends behind what is queued, the peer's goes on.
    pub(crate) fn close_write(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::Connecting | State::Handshaking => self.set_fin_wanted(true),
            // A pipe that cannot be sent to.
            State::Open if self.fin_wanted() => {}
            State::Open => {
                self.set_fin_wanted(true);
                self.ended_first = true;
                self.activity = cx.now;
                self.begin_to_await_reader(cx.now);
                self.state = State::HalfClosedLocal;
            }
            // The handler has yet to use what came before the peer's end, and to hear of that.
            State::HalfClosedRemote if !self.end_is_told() => self.set_fin_wanted(true),
            State::HalfClosedRemote => self.begin_close(cx),
            _ => {}
        }
    }

    pub(super) fn begin_close(&mut self, cx: &mut Context<'_>) {
        self.leave_handshake(cx);
        self.ended_first |= !self.saw_fin();
        self.set_fin_wanted(true);
        self.state = State::Flushing;
        if !self.waiting {
            self.progress = cx.now;
        }
        self.discarded = 0;
        self.set_eof_due(false);
        self.set_congested(false);
        self.set_drain_due(false);
        self.set_show_again(false);
        self.standing_since = Time::NEVER;
        self.input = ReadBuffer::default();
    }

    /// Takes whatever step towards the end is due: the end of our stream behind the last byte,
    /// the end of everything once both streams have ended or an error has been read up to.
    #[inline]
    pub(crate) fn advance<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        // As most connections are most of the time: open, whole, and with no end in sight.
        if self.state != State::Open || self.fin_wanted() || self.is_broken() {
            self.advance_to_end(socket, cx);
        }
    }

    fn advance_to_end<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        if matches!(self.state, State::Connecting | State::Dead) {
            return;
        }
        if self.is_broken() {
            if self.goes_on_reading() {
                return;
            }
            if self.saw_fin() || !self.readable {
                self.die(CloseReason::Io, socket, cx);
            }
            return;
        }
        if self.state == State::Handshaking {
            return;
        }
        if self.end_is_told() && self.fin_wanted() && !self.is_closing() {
            self.begin_close(cx);
        }
        if self.fin_wanted() && !self.fin_sent && self.queued() == 0 {
            if let Err(error) = self.end_stream(socket, cx.now) {
                return self.fail_own(&error, socket, cx);
            }
        }
        if self.state == State::Flushing && self.fin_sent {
            self.state = State::Lingering;
        }
        if self.secured() && self.state == State::Lingering && self.is_settled() {
            return self.end_settled(socket, cx);
        }
        let has_ended = self.halves() == Some(Halves::ReadOnly) || self.saw_fin() && !self.ends().tail;
        if self.state != State::Lingering || (self.is_lingering() && !has_ended) {
            return;
        }
        if has_ended && self.error_hint() {
            self.ask_for_error(socket);
        }
        let unacked = self.unacked_now(socket);
        let delivered = unacked.is_none_or(|bytes| bytes == 0);
        if has_ended && (self.is_broken() || delivered) {
            self.unacked = unacked.unwrap_or(UNKNOWN);
            return self.die(self.clean_reason(), socket, cx);
        }
        if delivered {
            // From here on only the peer's end is awaited, and that within the caps.
            self.standing_since = cx.now;
            self.progress = cx.now;
            self.discarded = 0;
        }
    }

    /// Closing, and the peer has all of our bytes: it only owes its end.
    #[inline]
    pub(crate) fn is_lingering(&self) -> bool {
        self.state == State::Lingering && self.standing_since != Time::NEVER
    }

    /// An error is one of the end of a session: it is told once, to whoever asks first.
    fn end_stream<T: Transport>(&mut self, socket: &mut T, now: Time) -> io::Result<()> {
        self.fin_sent = true;
        if self.secured() {
            let all_taken = self.unacked_now(socket) == Some(0);
            self.ends_mut().all_taken |= all_taken;
        }
        match socket.shutdown_write() {
            Ok(()) if self.halves().is_some() => self.pipe_has_ended(),
            Ok(()) => self.fin_counted = true,
            // The end of a session comes first, and the kernel took it in part or not at all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.fin_sent = false;
                self.writable = false;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fin_sent = false,
            Err(error) if self.secured() && error.raw_os_error() != Some(libc::ENOTCONN) => {
                return Err(error)
            }
            // ENOTCONN: a reset came first. The next read, or the next question, tells which.
            Err(_) => {
                self.readable |= !self.saw_fin();
                self.more_hint = true;
                self.set_error_hint(true);
            }
        }
        if self.secured() {
            self.after_session_step(socket, now);
        }
        Ok(())
    }

    /// `finished` when our stream was the first to end, `peer_closed` when it was the peer's.
    pub(super) fn clean_reason(&self) -> CloseReason {
        match self.ended_first {
            _ if self.ends().truncated => CloseReason::Truncated,
            true => CloseReason::Finished,
            false => CloseReason::PeerClosed,
        }
    }

    /// Bytes of ours that the peer's kernel has not acknowledged, our end of stream not counted.
    pub(super) fn unacked_now<T: Transport>(&self, socket: &T) -> Option<u64> {
        if self.handed == 0 || self.ends().all_taken {
            // The SYN of a refused connection counts as well, and nobody handed it over.
            return socket.unacknowledged().map(|_| 0);
        }
        let pending = socket.unacknowledged()?;
        // One acknowledgement covers all that is before it: while anything is unacknowledged,
        // so is the end of the stream.
        let fin = u64::from(self.fin_counted && pending > 0);
        Some((pending - fin).min(self.handed))
    }

    /// Bytes of ours that count as taken by the peer: acknowledged, or where the system cannot
    /// tell, accepted by the kernel.
    pub(super) fn acknowledged_now<T: Transport>(&self, socket: &T) -> u64 {
        self.handed - self.unacked_now(socket).unwrap_or(0)
    }

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
        self.listed.due = true;
        self.readable |= !self.saw_fin() || self.ends().tail;
        self.writable = true;
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
        if waits && (self.paused || socket.last_heard().is_none()) {
            self.activity = now;
        }
    }

    /// The peer owes its end for too long. One that ended its session owes it only to the kernel.
    pub(super) fn end_lingering<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        let reason = match self.saw_fin() {
            true => self.clean_reason(),
            false => CloseReason::TimedOut(Timeout::Linger),
        };
        self.unacked = self.unacked_now(socket).unwrap_or(UNKNOWN);
        self.die(reason, socket, cx);
    }

    /// Ends the connection now. `reason` holds unless an error came first: the first error is
    /// what ended it, except that a panic of the handler is always told.
    pub(crate) fn die<T: Transport>(&mut self, reason: CloseReason, socket: &mut T, cx: &mut Context<'_>) {
        if self.is_dead() {
            return;
        }
        #[cfg(feature = "sim")]
        {
            let last = super::Last {
                occasion: reason,
                state: self.state,
                queued: self.queued(),
                unused: self.unused(),
                is_holder: self.is_holder(cx.terms.defaults),
                congested: self.is_congested(),
            };
            self.extra.get_or_insert_default().last = Some(last);
        }
        let connecting = self.state == State::Connecting;
        self.leave_handshake(cx);
        self.drop_queue(cx);
        self.set_congested(false);
        self.input = ReadBuffer::default();
        if !reason.is_clean() {
            self.unacked = self.unacked_now(socket).unwrap_or(UNKNOWN);
        }
        let lost = self.unsent > 0 || !matches!(self.unacked, 0 | UNKNOWN);
        let reason = match reason {
            CloseReason::HandlerPanic => reason,
            _ if self.ends().failed => CloseReason::Tls,
            _ if self.errno != 0 => {
                let lost = lost || self.write_failed();
                let saw_fin = self.saw_fin() && !self.ends().truncated;
                reason_for(self.errno, Circumstances { connecting, saw_fin, lost })
            }
            _ if self.write_failed() => CloseReason::Io,
            _ => reason,
        };
        // A slow consumer has missed at least the send that was refused.
        let reset = match reason {
            CloseReason::Aborted
            | CloseReason::HandlerPanic
            | CloseReason::Refused
            | CloseReason::SlowConsumer => true,
            _ => lost,
        };
        if reset {
            socket.reset_on_close();
        }
        self.state = State::Dead;
        self.reason = Some(reason);
    }
}
