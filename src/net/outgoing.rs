//! Sending: the caps, and what happens at them.

use std::io;

use bytes::Bytes;

use super::{Entry, Net};
use crate::close::CloseReason;
use crate::connection::{Flushed, WRITE_THROUGH};
use crate::id::ConnId;
use crate::send::{Broadcast, Data, SendError, Sent};
use crate::settings::Overflow;
use crate::timers::Time;
use crate::write_buffer::BY_REFERENCE;

impl Net {
    /// Queues a copy of `data`: all of it or, with an error, nothing. It never blocks.
    ///
    /// What is queued in one callback leaves in one system call when it fits; a large slice that
    /// finds the queue empty may leave at once, without the copy. What could not be delivered in
    /// the end stands in the close report.
    ///
    /// # Errors
    ///
    /// [`Closed`](SendError::Closed) when the connection is gone, closing or broken,
    /// [`WriteClosed`](SendError::WriteClosed) after `close_write`, and
    /// [`Full`](SendError::Full) when a cap would be passed, whereupon
    /// [`Config::overflow`](crate::Config::overflow) decides what else happens. A message that is
    /// larger than [`max_write_buffer`](crate::Config::max_write_buffer) is refused and nobody is
    /// ended: no connection could hold it.
    #[inline]
    pub fn send(&mut self, conn: ConnId, data: &[u8]) -> Result<Sent, SendError> {
        self.send_data(conn, Data::Slice(data))
    }

    /// Queues `data` by reference, however large and for however many connections. (A few hundred
    /// bytes are copied all the same: that is cheaper than the reference.)
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_bytes(&mut self, conn: ConnId, data: Bytes) -> Result<Sent, SendError> {
        self.send_data(conn, Data::Shared(data))
    }

    /// Queues the same bytes for many connections: one buffer, shared by all.
    pub fn broadcast(&mut self, conns: impl IntoIterator<Item = ConnId>, data: Bytes) -> Broadcast {
        let mut outcome = Broadcast::default();
        // What is copied anyway needs no reference counted up and down for each receiver.
        let copied = data.len() < BY_REFERENCE;
        for conn in conns {
            let data = if copied { Data::Slice(&data) } else { Data::Shared(data.clone()) };
            match self.send_data(conn, data) {
                Ok(sent) => {
                    outcome.queued += 1;
                    outcome.congested += usize::from(sent == Sent::Congested);
                }
                Err(_) => outcome.failed += 1,
            }
        }
        outcome
    }

    /// Inlined, so that each of its callers has the code for its kind of data alone.
    #[inline(always)]
    fn send_data(&mut self, id: ConnId, data: Data<'_>) -> Result<Sent, SendError> {
        let len = data.len();
        let fits = self.held().saturating_add(len) <= self.config.total_write_buffer;
        match self.conns.get_mut(id) {
            // The usual case: nothing but the queue changes, and nobody's limit is near.
            Some(Entry { conn, .. })
                if fits && !self.has_soft_limits && conn.takes_calmly(len, &self.defaults) =>
            {
                #[cfg(feature = "sim")]
                let promised = data.as_slice().to_vec();
                conn.push_calmly(data, &mut self.pool);
                self.stats.queued += len;
                self.stats.queued_peak = self.stats.queued_peak.max(self.stats.queued);
                if !std::mem::replace(&mut conn.listed.dirty, true) {
                    self.dirty.push_back(id);
                }
                #[cfg(feature = "sim")]
                self.note_sent(id, &promised);
                return Ok(Sent::Queued);
            }
            _ => {}
        }
        self.send_fully(id, data)
    }

    /// All cases of a send.
    #[inline(never)]
    fn send_fully(&mut self, id: ConnId, data: Data<'_>) -> Result<Sent, SendError> {
        let len = data.len();
        self.try_reserve(id, len)?;
        // A span may begin with it, or what is written straight away is stamped.
        if len >= WRITE_THROUGH || self.has_soft_limits {
            self.tick();
        }
        #[cfg(feature = "sim")]
        let congested = self.note_sent(id, data.as_slice());
        let pushed = self.touch(id, |conn, stream, cx| {
            let sent = conn.push(data, stream, cx);
            (sent, !std::mem::replace(&mut conn.listed.dirty, true))
        });
        let Some((sent, newly_dirty)) = pushed else { return Err(SendError::Closed) };
        if newly_dirty {
            self.dirty.push_back(id);
        }
        #[cfg(feature = "sim")]
        if sent == Sent::Congested && !congested {
            self.note_crossing(id);
        }
        Ok(sent)
    }

    /// The usual case of a flush: the queue is one slice, and the kernel takes it. Returns whether the
    /// connection is at rest now, or was seen to meanwhile; if not, its other steps are due.
    #[inline(always)]
    pub(crate) fn flush_calmly(&mut self, id: ConnId) -> bool {
        let Some(Entry { conn, stream }) = self.conns.get_mut(id) else { return true };
        if !conn.listed.dirty {
            return true;
        }
        let (budget, defaults) = (self.config.write_budget, &self.defaults);
        match conn.flush_calmly(stream, budget, self.now, defaults, &mut self.pool, &mut self.stats) {
            Flushed::Whole(count, at_rest) => {
                self.stats.queued -= count;
                conn.listed.dirty = false;
                at_rest
            }
            Flushed::No => false,
            Flushed::Otherwise(outcome, offered) => {
                self.wrote_front(id, outcome, offered);
                false
            }
        }
    }

    /// Deals with what a write of the front of a queue has come to.
    #[inline(never)]
    fn wrote_front(&mut self, id: ConnId, outcome: io::Result<usize>, offered: usize) {
        self.touch(id, |conn, _, cx| conn.wrote_front(outcome, offered, cx));
    }

    /// Asks whether a send of `len` bytes would be taken, before they are made. A refusal has the
    /// consequences that the send would have had.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    #[inline]
    pub fn try_reserve(&mut self, conn: ConnId, len: usize) -> Result<(), SendError> {
        let entry = self.conns.get(conn).ok_or(SendError::Closed);
        let room = entry.and_then(|Entry { conn, .. }| {
            let cap = conn.settings(&self.defaults).max_write_buffer;
            conn.check_sendable().map(|()| cap.saturating_sub(conn.queued()))
        });
        match room {
            Ok(room) if len <= room && self.held().saturating_add(len) <= self.config.total_write_buffer => {
                Ok(())
            }
            Ok(room) => self.make_room(conn, room, len),
            Err(error) => {
                self.stats.stale_sends += 1;
                Err(error)
            }
        }
    }

    /// Bytes held for all connections together.
    #[inline]
    fn held(&self) -> usize {
        self.stats.queued + self.stats.unused
    }

    /// A cap would be passed: somebody has to go, or the send is refused.
    #[cold]
    fn make_room(&mut self, conn: ConnId, room: usize, len: usize) -> Result<(), SendError> {
        if len == 0 {
            return Ok(());
        }
        #[cfg(feature = "sim")]
        self.note_attempt(conn, len);
        let result = self.end_who_must(conn, room, len);
        #[cfg(feature = "sim")]
        self.note_outcome(result.is_err());
        result
    }

    fn end_who_must(&mut self, conn: ConnId, room: usize, len: usize) -> Result<(), SendError> {
        let Some(Entry { conn: state, .. }) = self.conns.get(conn) else { return Err(SendError::Closed) };
        let settings = state.settings(&self.defaults);
        let closes = settings.overflow == Overflow::Close;
        // What no connection could hold, however fast it reads, is the sender's mistake.
        let possible = len <= settings.max_write_buffer.min(self.config.total_write_buffer);
        if len > room {
            self.stats.overflows += 1;
            if closes && possible {
                self.kill(conn, CloseReason::SlowConsumer);
            }
            return Err(SendError::Full);
        }
        while self.held().saturating_add(len) > self.config.total_write_buffer {
            self.stats.overflows += 1;
            if !(closes && possible && self.make_way()) {
                return Err(SendError::Full);
            }
        }
        // It may have been the one to go, or its pipe was found to be broken.
        match self.conns.get(conn) {
            Some(Entry { conn, .. }) if !conn.is_dead() => conn.check_sendable(),
            _ => Err(SendError::Full),
        }
    }

    /// Sees to the connection that has held memory for longest without getting on: offers it what is
    /// queued for it once more and, if it takes nothing, ends it. False when everybody who holds some
    /// gets on.
    fn make_way(&mut self) -> bool {
        let Some(id) = self.idlest_holder() else { return false };
        if !self.takes_more(id) {
            self.end_holder(id);
        }
        true
    }

    /// Whether a holder takes any of what is queued for it, for that the kernel has room again may not
    /// have been told yet; or a broken pipe has made room.
    fn takes_more(&mut self, id: ConnId) -> bool {
        let before = self.queued(id);
        let asked = self.asked;
        let step = self.touch(id, |conn, stream, cx| {
            let took = conn.may_have_room(stream, cx.now, asked) && conn.offer(stream, cx);
            (took, conn.is_holder(cx.terms.defaults))
        });
        let made_room = self.queued(id) < before;
        if made_room {
            self.mark_dirty(id);
        }
        match step {
            Some((true, true)) => self.rank_as_of(id, self.now),
            Some((_, false)) => self.rank_as_of(id, Time::NEVER),
            _ => {}
        }
        // What was queued only now waits from now on.
        made_room || self.has_moved_on(id)
    }

    fn end_holder(&mut self, id: ConnId) {
        let Some(Entry { conn, .. }) = self.conns.get(id) else { return };
        let reason = match conn.holds_output(&self.defaults) {
            true => CloseReason::SlowConsumer,
            false => CloseReason::InputOverflow,
        };
        self.kill(id, reason);
    }

    /// A handler has left input unused. When all together hold too much somebody has to go, for
    /// input that has been read cannot be refused: who has not got on for longest or, when everybody
    /// gets on, whoever would hold more.
    pub(crate) fn keep_within_budget(&mut self, conn: ConnId) {
        if self.held() <= self.config.total_write_buffer {
            return;
        }
        // It is among them from here on.
        self.settle(conn);
        #[cfg(feature = "sim")]
        self.note_attempt(conn, 0);
        while self.held() > self.config.total_write_buffer {
            self.stats.overflows += 1;
            if !self.make_way() {
                self.kill(conn, CloseReason::InputOverflow);
                break;
            }
        }
        #[cfg(feature = "sim")]
        self.note_outcome(false);
    }
}
