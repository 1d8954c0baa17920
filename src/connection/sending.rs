//! How a connection sends: the queue, the flush, and what a failed write leaves of it.
//!
//! A short count advances the queue and the loop goes on; only an empty queue, a full kernel
//! buffer or the budget of the turn ends it. A write that fails kills the write half and nothing
//! else.

use std::io::{self, ErrorKind, IoSlice};

use super::deadlines::HEARD_UNIT;
use super::{Connection, Context, State};
use crate::send::{Data, SendError, Sent};
use crate::stats::Stats;
use crate::timers::Time;
use crate::transport::Transport;
use crate::write_buffer::{BufferPool, GATHER};

/// From this length on a slice that finds the queue empty is written straight away: below it one
/// gathered write at the end of the turn is cheaper, above it the copy is what costs.
pub(crate) const WRITE_THROUGH: usize = 16 << 10;

impl Connection {
    /// Whether bytes can still be sent.
    #[inline]
    pub(crate) fn check_sendable(&self) -> Result<(), SendError> {
        if self.close_wanted() || self.is_broken() || self.is_ending() {
            return Err(SendError::Closed);
        }
        match self.fin_wanted() {
            true => Err(SendError::WriteClosed),
            false => Ok(()),
        }
    }

    /// Whether bytes are queued that the kernel may take now.
    #[inline]
    pub(crate) fn may_flush(&self) -> bool {
        let any = self.own() || (self.out.is_some() && !self.held_back());
        self.is_writable() && any && !matches!(self.state, State::Connecting | State::Dead)
    }

    /// Queues bytes whose room has been checked.
    #[inline(always)]
    pub(crate) fn push<T: Transport>(
        &mut self,
        data: Data<'_>,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) -> Sent {
        let whole = data.len();
        let data = match data {
            Data::Slice(slice) if slice.len() >= WRITE_THROUGH && self.out.is_none() => {
                let taken = self.write_through(slice, socket, cx);
                Data::Slice(slice.get(taken..).unwrap_or_default())
            }
            other => other,
        };
        if self.write_failed() {
            // The write above broke the pipe. The rest was taken all the same, and is accounted for.
            self.unsent += data.len() as u64;
            return Sent::Queued;
        }
        if !data.is_empty() {
            self.append(data, cx.pool);
        }
        let queued = self.queued();
        let settings = self.settings(cx.terms.defaults);
        let (high_water, cap) = (settings.high_water, settings.max_write_buffer);
        if settings.soft_limit.is_some_and(|soft| queued >= soft.bytes) && self.standing_since == Time::NEVER
        {
            self.standing_since = cx.now;
        }
        self.grew |= whole > 0;
        // At high water, or where another message like this one would not fit: who stops at
        // `Congested` must not meet the cap.
        if queued >= high_water || queued + whole > cap {
            self.cross();
            return Sent::Congested;
        }
        Sent::Queued
    }

    /// Puts bytes behind what is queued.
    #[inline(always)]
    pub(super) fn append(&mut self, data: Data<'_>, pool: &mut BufferPool) {
        let out = self.out.get_or_insert_with(|| pool.take());
        match data {
            Data::Slice(slice) => out.push_copy(slice),
            Data::Shared(bytes) => out.push_shared(bytes),
        }
    }

    /// The queue is at high water. The peer is heard once more: two ends that both send before they
    /// read must not hold each other up.
    #[inline]
    fn cross(&mut self) {
        if !self.is_congested() {
            self.set_congested(true);
            self.may_read_once = true;
        }
    }

    /// Writes the front of a large slice without copying it, when nothing waits before it.
    fn write_through<T: Transport>(&mut self, slice: &[u8], socket: &mut T, cx: &mut Context<'_>) -> usize {
        let mut taken = 0;
        if self.held_back() || self.state == State::Connecting {
            return 0;
        }
        while self.is_writable() && !self.write_failed() && taken < slice.len() {
            if taken >= cx.terms.config.write_budget {
                break;
            }
            let rest = slice.get(taken..).unwrap_or_default();
            taken += self.write_once(&[IoSlice::new(rest)], rest.len(), socket, cx);
        }
        if self.secured() {
            self.after_session_step(socket, cx.now);
        }
        taken
    }

    /// Hands queued bytes to the kernel until none are left, it takes no more, or the budget of
    /// this turn is spent.
    #[inline]
    pub(crate) fn flush<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        let mut budget = cx.terms.config.write_budget;
        while budget > 0 && self.may_flush() && !self.held_back() {
            let Some(mut out) = self.out.take() else { break };
            // A record that has been begun is offered whole: it counts as a whole.
            let limit = if self.secured() { budget.max(socket.committed()) } else { budget };
            let taken = match out.only_slice(limit) {
                Some(slice) => self.write_once(&[IoSlice::new(slice)], slice.len(), socket, cx),
                None => {
                    let mut slices = [IoSlice::new(&[]); GATHER];
                    let filled = out.gather(&mut slices, limit);
                    let gathered = slices.get(..filled).unwrap_or_default();
                    let offered = gathered.iter().map(|slice| slice.len()).sum();
                    self.write_once(gathered, offered, socket, cx)
                }
            };
            out.advance(taken);
            budget = budget.saturating_sub(taken);
            if self.write_failed() {
                self.unsent += out.clear() as u64;
            }
            if out.is_empty() {
                cx.pool.give(out);
            } else {
                self.out = Some(out);
            }
            if self.secured() {
                self.after_session_step(socket, cx.now);
            }
        }
        if self.own() {
            self.flush_own(socket, cx);
        }
        self.after_flush(socket, cx);
    }

    /// A write of the front of the queue has come to this.
    pub(crate) fn wrote_front(&mut self, outcome: io::Result<usize>, offered: usize, cx: &mut Context<'_>) {
        let taken = self.wrote(outcome, offered, cx);
        if let Some(mut out) = self.out.take() {
            out.advance(taken);
            match out.is_empty() {
                true => cx.pool.give(out),
                false => self.out = Some(out),
            }
        }
    }

    /// Whether the kernel may have room for what is queued without having told yet: acknowledgements have
    /// come since it was last asked for events, or all of them. Without any, room is made by nothing.
    pub(crate) fn may_have_room<T: Transport>(&self, socket: &T, now: Time, asked: Time) -> bool {
        let heard = socket.last_heard();
        let has_all = || socket.unacknowledged() == Some(0);
        let since = || heard.is_none_or(|heard| now.minus(heard.ack).plus(HEARD_UNIT) >= asked);
        !self.held_back() && (self.may_flush() || has_all() || since())
    }

    /// Tries to hand over what is queued, whatever the kernel last said. Returns whether the kernel took
    /// so much that it must have had room for long: a third of its buffer, from where on it calls a
    /// socket writable. A little room is left in the buffer of somebody who takes nothing as well.
    pub(crate) fn offer<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) -> bool {
        let before = self.handed;
        self.set_writable(true);
        self.flush(socket, cx);
        let taken = self.handed - before;
        taken > 0 && socket.unacknowledged().is_none_or(|unacked| taken * 3 >= unacked)
    }

    #[inline]
    fn after_flush<T: Transport>(&mut self, socket: &T, cx: &mut Context<'_>) {
        if self.held_back() || matches!(self.state, State::Connecting | State::Lingering) {
            return;
        }
        let queued = self.queued();
        if queued == 0 {
            self.waiting = false;
        } else if !self.waiting {
            self.waiting = true;
            self.progress = cx.now;
            self.acknowledged = self.acknowledged_now(socket);
            if self.secured() {
                self.took_part(socket);
            }
        }
        let settings = self.settings(cx.terms.defaults);
        let low_water = settings.low_water;
        if settings.soft_limit.is_none_or(|soft| queued < soft.bytes) {
            self.standing_since = Time::NEVER;
        }
        if self.is_congested() && queued <= low_water {
            self.set_congested(false);
            let is_open = self.is_delivering() || self.state == State::Handshaking;
            self.set_drain_due(is_open && !self.is_broken());
        }
    }

    /// One system call, or none when it was interrupted and has to be made again. Returns how
    /// many bytes the kernel took.
    #[inline]
    fn write_once<T: Transport>(
        &mut self,
        slices: &[IoSlice<'_>],
        offered: usize,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) -> usize {
        let outcome = socket.write(slices);
        self.wrote(outcome, offered, cx)
    }

    /// What one write has come to. Returns how many bytes the kernel took.
    #[inline]
    fn wrote(&mut self, outcome: io::Result<usize>, offered: usize, cx: &mut Context<'_>) -> usize {
        match outcome {
            // Nobody wrote nothing: a zero would have us try for ever.
            Ok(0) => self.break_write_half(None, cx),
            Ok(taken) => {
                let taken = taken.min(offered);
                self.note_written(taken, cx.now, cx.stats);
                cx.stats.partial_writes += u64::from(taken < offered);
                if self.put_off() {
                    self.set_put_off(false);
                    cx.stats.resumed_writes += 1;
                }
                return taken;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.set_writable(false);
                self.set_put_off(true);
                cx.stats.write_eagains += 1;
            }
            Err(error) => self.break_write_half(Some(&error), cx),
        }
        0
    }

    /// The kernel took so many bytes.
    #[inline]
    pub(super) fn note_written(&mut self, taken: usize, now: Time, stats: &mut Stats) {
        self.handed += taken as u64;
        self.activity = now;
        stats.writes += 1;
        stats.bytes_out += taken as u64;
    }

    /// The write half is dead, and only that: what the peer sent before is still read.
    pub(super) fn break_write_half(&mut self, error: Option<&io::Error>, cx: &mut Context<'_>) {
        if let Some(error) = error {
            self.record(error);
            self.note_session_error(error);
        }
        self.set_write_failed(true);
        self.activity = cx.now;
        self.set_congested(false);
        self.set_drain_due(false);
        self.drop_queue(cx);
        // Whatever the kernel last said: read on until it says that nothing is left.
        self.set_readable(true);
        self.set_more_hint(true);
    }

    pub(super) fn drop_queue(&mut self, cx: &mut Context<'_>) {
        if let Some(mut out) = self.out.take() {
            self.unsent += out.clear() as u64;
            cx.pool.give(out);
        }
        self.waiting = false;
        self.standing_since = Time::NEVER;
    }

    /// Whether the handler is to be told that the queue fell to low water. A drain grants the
    /// peer one read, whatever the handler then queues, and shows unused input again.
    #[inline]
    pub(crate) fn take_drain(&mut self) -> bool {
        let due = self.drain_due() && self.is_delivering();
        if due {
            self.set_drain_due(false);
            self.may_read_once = true;
            self.set_show_again(true);
        }
        due
    }
}
