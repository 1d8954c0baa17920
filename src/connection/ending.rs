//! How a connection ends: half-closes, the lingering close, deadlines, and the verdict.
//!
//! A close in good order is flush, end our stream, read until the peer ends its own, wait for the
//! last acknowledgement. Closing a socket with input unread makes the kernel send a reset, which
//! destroys what the peer has not received yet: so the input is read and thrown away first, within
//! caps, for a peer may go on sending for ever.

use std::time::Duration;

use super::{Connection, Context, State};
use crate::close::{reason_for, Circumstances, CloseReason, Timeout};
use crate::config::Config;
use crate::read_buffer::ReadBuffer;
use crate::timers::Time;
use crate::transport::Transport;

/// Nothing tells when the peer acknowledges, so it is looked at from time to time: so many times
/// in the span of a timeout, at moments that all connections share.
const SAMPLES: u32 = 8;

/// How often the last acknowledgement of a finished connection is asked for. The kernel's events
/// come first as a rule.
const ACK_POLL: Duration = Duration::from_millis(10);

impl Connection {
    /// `close`: the handler wants no more input, what is queued goes out, then all ends.
    pub(crate) fn close<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        match self.state {
            State::Flushing | State::Lingering | State::Dead => {}
            State::Connecting if self.queued() == 0 => self.die(CloseReason::Aborted, socket, cx),
            State::Connecting => {
                self.close_wanted = true;
                self.fin_wanted = true;
            }
            _ => self.begin_close(cx),
        }
    }

    /// `close_write`: our stream ends behind what is queued, the peer's goes on.
    pub(crate) fn close_write(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::Connecting => self.fin_wanted = true,
            State::Open => {
                self.fin_wanted = true;
                self.ended_first = true;
                self.activity = cx.now;
                self.state = State::HalfClosedLocal;
            }
            State::HalfClosedRemote => self.begin_close(cx),
            _ => {}
        }
    }

    pub(super) fn begin_close(&mut self, cx: &Context<'_>) {
        self.ended_first |= !self.saw_fin;
        self.fin_wanted = true;
        self.state = State::Flushing;
        self.closing_since = cx.now;
        self.progress = cx.now;
        self.congested = false;
        self.drain_due = false;
        self.show_again = false;
        self.soft_since = Time::NEVER;
        self.input = ReadBuffer::default();
    }

    /// Takes whatever step towards the end is due: the end of our stream behind the last byte,
    /// the end of everything once both streams have ended or an error has been read up to.
    #[inline]
    pub(crate) fn advance<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        // As most connections are most of the time: open, whole, and with no end in sight.
        if self.state != State::Open || self.fin_wanted || self.is_broken() {
            self.advance_to_end(socket, cx);
        }
    }

    fn advance_to_end<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        if matches!(self.state, State::Connecting | State::Dead) {
            return;
        }
        if self.is_broken() {
            if self.saw_fin || !self.readable {
                self.die(CloseReason::Io, socket, cx);
            }
            return;
        }
        if self.saw_fin && self.fin_wanted && !self.is_closing() {
            self.begin_close(cx);
        }
        if self.fin_wanted && !self.fin_sent && self.queued() == 0 {
            self.end_stream(socket, cx);
        }
        if self.state == State::Flushing && self.fin_sent {
            self.state = State::Lingering;
        }
        if self.state == State::Lingering && self.saw_fin {
            if self.error_hint {
                self.ask_for_error(socket);
            }
            let unacked = self.unacked_now(socket);
            if self.is_broken() || unacked.is_none_or(|bytes| bytes == 0) {
                self.unacked = unacked;
                self.die(self.clean_reason(), socket, cx);
            }
        }
    }

    fn end_stream<T: Transport>(&mut self, socket: &mut T, cx: &Context<'_>) {
        self.fin_sent = true;
        match socket.shutdown_write() {
            Ok(()) => self.fin_counted = true,
            // ENOTCONN: a reset came first. The next read, or the next question, tells which.
            Err(_) => {
                self.readable |= !self.saw_fin;
                self.more_hint = true;
                self.error_hint = true;
            }
        }
        if self.is_closing() && !self.saw_fin {
            self.progress = cx.now;
            self.acknowledged = self.acknowledged_now(socket);
        }
    }

    /// `finished` when our stream was the first to end, `peer_closed` when it was the peer's.
    fn clean_reason(&self) -> CloseReason {
        match self.ended_first {
            true => CloseReason::Finished,
            false => CloseReason::PeerClosed,
        }
    }

    /// Bytes of ours that the peer's kernel has not acknowledged, our end of stream not counted.
    fn unacked_now<T: Transport>(&self, socket: &T) -> Option<u64> {
        if self.handed == 0 {
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

    /// Looks whether the peer has taken bytes since the last look. What our kernel accepted is no
    /// sign of it: its buffer grows by itself.
    fn sample<T: Transport>(&mut self, socket: &T, now: Time) {
        let acknowledged = self.acknowledged_now(socket);
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.progress = now;
        }
    }

    /// When this connection wants to be looked at, if nothing happens before.
    #[inline]
    pub(crate) fn deadline(&self, now: Time, config: &Config) -> Time {
        let sampled = |timeout: Duration| now.next_on_grid(timeout / SAMPLES);
        match self.state {
            State::Dead => Time::NEVER,
            State::Connecting => self.since.plus(config.connect_timeout),
            State::Flushing | State::Lingering => {
                let mut deadline = self.linger_ends(config);
                if self.state == State::Lingering && self.saw_fin {
                    deadline = deadline.min(now.next_on_grid(ACK_POLL));
                } else if self.acknowledged < self.handed || self.queued() > 0 {
                    deadline = deadline.min(sampled(config.linger_idle));
                }
                deadline
            }
            State::Open | State::HalfClosedRemote | State::HalfClosedLocal => {
                let mut deadline = self.activity.plus_option(self.quiet_limit(config));
                if let (true, Some(stall)) = (self.waiting, config.write_stall) {
                    deadline = deadline.min(self.progress.plus(stall)).min(sampled(stall));
                }
                if let Some(soft) = config.soft_limit {
                    deadline = deadline.min(self.soft_since.plus(soft.duration));
                }
                deadline
            }
        }
    }

    /// When a close is cut, unless it gets on before.
    fn linger_ends(&self, config: &Config) -> Time {
        let total = self.closing_since.plus(config.linger_total);
        self.progress.plus(config.linger_idle).min(total)
    }

    /// How long this connection may go without a byte in either direction.
    #[inline]
    fn quiet_limit(&self, config: &Config) -> Option<Duration> {
        let half =
            (self.state != State::Open || self.is_broken()).then_some(config.half_close_timeout).flatten();
        match (config.idle_timeout, half) {
            (Some(idle), Some(half)) => Some(idle.min(half)),
            (idle, half) => idle.or(half),
        }
    }

    /// Ends the connection if a deadline has passed.
    pub(crate) fn expire<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        let now = cx.now;
        match self.state {
            State::Dead => {}
            State::Connecting => {
                if now >= self.since.plus(cx.config.connect_timeout) {
                    self.die(CloseReason::TimedOut(Timeout::Connect), socket, cx);
                }
            }
            State::Flushing | State::Lingering => {
                self.advance(socket, cx);
                if self.is_dead() {
                    return;
                }
                self.sample(socket, now);
                if now >= self.linger_ends(cx.config) {
                    self.die(CloseReason::TimedOut(Timeout::Linger), socket, cx);
                }
            }
            State::Open | State::HalfClosedRemote | State::HalfClosedLocal => {
                if self.waiting {
                    self.sample(socket, now);
                    if now >= self.progress.plus_option(cx.config.write_stall) {
                        return self.die(CloseReason::TimedOut(Timeout::WriteStall), socket, cx);
                    }
                }
                if cx.config.soft_limit.is_some_and(|soft| now >= self.soft_since.plus(soft.duration)) {
                    return self.die(CloseReason::SlowConsumer, socket, cx);
                }
                if now >= self.activity.plus_option(self.quiet_limit(cx.config)) && !self.is_broken() {
                    // Bytes that leave the kernel's buffer are no silence either.
                    let before = self.acknowledged;
                    self.sample(socket, now);
                    if self.acknowledged > before {
                        self.activity = now;
                    }
                }
                if now >= self.activity.plus_option(self.quiet_limit(cx.config)) {
                    self.die(CloseReason::TimedOut(Timeout::Idle), socket, cx);
                }
            }
        }
    }

    /// Ends the connection now. `reason` holds unless an error came first: the first error is
    /// what ended it, except that a panic of the handler is always told.
    pub(crate) fn die<T: Transport>(&mut self, reason: CloseReason, socket: &mut T, cx: &mut Context<'_>) {
        if self.is_dead() {
            return;
        }
        #[cfg(feature = "sim")]
        {
            self.occasion = Some(reason);
        }
        let connecting = self.state == State::Connecting;
        self.drop_queue(cx);
        self.congested = false;
        self.input = ReadBuffer::default();
        if !reason.is_clean() {
            self.unacked = self.unacked_now(socket);
        }
        let lost = self.unsent > 0 || self.unacked.is_some_and(|bytes| bytes > 0);
        let reason = match reason {
            CloseReason::HandlerPanic => reason,
            _ if self.errno != 0 => {
                let lost = lost || self.write_failed;
                reason_for(self.errno, Circumstances { connecting, saw_fin: self.saw_fin, lost })
            }
            _ if self.write_failed => CloseReason::Io,
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
