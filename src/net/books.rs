//! The books: what a step of one connection means for the counters, the lists and the deadlines
//! that belong to all of them.

use std::time::Duration;

use super::{Deadline, Entry, Net, Stopping, REDIAL};
use crate::close::{CloseReason, Timeout};
use crate::connection::{Connection, Context};
use crate::id::ConnId;
use crate::mailbox::Command;
use crate::socket::Stream;
use crate::table::Table;
use crate::timers::Time;

impl Net {
    /// Runs one step of a connection's state machine and keeps the books that concern more than
    /// this connection.
    #[inline(always)]
    pub(crate) fn touch<R>(
        &mut self,
        id: ConnId,
        step: impl FnOnce(&mut Connection, &mut Stream, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let Entry { conn, stream } = self.conns.get_mut(id)?;
        let (queued, congested, closing) = (conn.queued(), conn.is_congested(), conn.is_closing());
        let mut cx =
            Context { now: self.now, config: &self.config, pool: &mut self.pool, stats: &mut self.stats };
        let result = step(conn, stream, &mut cx);
        let stats = &mut self.stats;
        let left = conn.queued();
        if left != queued {
            stats.queued = stats.queued + left - queued;
            stats.queued_peak = stats.queued_peak.max(stats.queued);
        }
        if conn.is_congested() != congested {
            stats.congested = stats.congested + usize::from(conn.is_congested()) - usize::from(congested);
        }
        // Who is closing stays so until the end.
        if conn.is_ending() {
            self.after_ending_step(id, closing);
        }
        Some(result)
    }

    /// The books of a connection that has begun to close, or has ended.
    #[cold]
    fn after_ending_step(&mut self, id: ConnId, was_closing: bool) {
        let Some(Entry { conn, .. }) = self.conns.get_mut(id) else { return };
        if conn.is_dead() && !conn.listed.dead {
            conn.listed.dead = true;
            self.dead.push_back(id);
        }
        match (was_closing, conn.is_closing()) {
            (false, true) => {
                self.stats.closing += 1;
                self.closing.push_back(id);
                self.limit_closing();
            }
            (true, false) => self.stats.closing -= 1,
            _ => {}
        }
    }

    /// Cuts the oldest of the closing connections when there are too many.
    fn limit_closing(&mut self) {
        let is_closing = |conns: &Table<ConnId, Entry>, id| {
            conns.get(id).is_some_and(|entry: &Entry| entry.conn.is_closing())
        };
        // A shutdown closes everybody at once, and has a deadline of its own.
        while self.stats.closing > self.config.max_lingering && self.stopping != Stopping::Draining {
            let Some(oldest) = self.closing.pop_front() else { return };
            if is_closing(&self.conns, oldest) {
                self.kill(oldest, CloseReason::TimedOut(Timeout::Linger));
            }
        }
        if self.closing.len() > 2 * self.stats.closing + 64 {
            self.closing.retain(|id| is_closing(&self.conns, *id));
        }
    }

    /// All that happened in a turn is stamped with the moment of its beginning. After one that took
    /// long, because a callback did, the stamps are moved to its end: nobody has been idle meanwhile.
    pub(crate) fn make_up_for(&mut self, length: Duration) {
        let (begin, end) = (self.now, self.now.plus(length));
        for id in self.conns.ids().collect::<Vec<_>>() {
            if let Some(Entry { conn, .. }) = self.conns.get_mut(id) {
                conn.restamp(begin, end);
            }
        }
    }

    /// Has a connection that was read from flushed with the others of its batch.
    #[inline]
    pub(crate) fn mark_served(&mut self, id: ConnId) {
        if let Some(entry) = self.conns.get_mut(id) {
            entry.conn.listed.dirty = true;
            self.served.push_back(id);
        }
    }

    /// Has the reactor see to a connection later in this turn, or in the next.
    pub(crate) fn mark_dirty(&mut self, id: ConnId) {
        if self.serving == Some(id) {
            return;
        }
        if let Some(entry) = self.conns.get_mut(id) {
            if !entry.conn.is_dead() && !std::mem::replace(&mut entry.conn.listed.dirty, true) {
                self.dirty.push_back(id);
            }
        }
    }

    /// After all steps of a connection in this turn: lists it if more is left to do, and arms its
    /// deadline. An entry among the timers is never later than the deadline, so that most steps
    /// need not touch them.
    pub(crate) fn settle(&mut self, id: ConnId) {
        let Some(Entry { conn, .. }) = self.conns.get_mut(id) else { return };
        if conn.has_work(&self.config) && !conn.listed.ready {
            conn.listed.ready = true;
            self.ready.push_back(id);
        }
        let mut deadline = conn.deadline(self.now, &self.config);
        if deadline <= self.now {
            // It came up while the connection had events waiting, and those came first.
            self.touch(id, |conn, stream, cx| conn.expire(stream, cx));
            let Some(entry) = self.conns.get(id) else { return };
            deadline = entry.conn.deadline(self.now, &self.config);
        }
        let Some(Entry { conn, stream }) = self.conns.get_mut(id) else { return };
        if stream.is_dialing() {
            deadline = deadline.min(self.now.plus(REDIAL));
        }
        if deadline < conn.armed {
            let rearmed = conn.armed != Time::NEVER;
            conn.armed = deadline;
            self.timers.arm(deadline, Deadline::Conn(id));
            if rearmed {
                self.timers.forget_one();
                self.sweep_timers();
            }
        }
    }

    /// Frees a connection's socket and slot.
    pub(crate) fn remove(&mut self, id: ConnId) {
        let Some(mut entry) = self.conns.remove(id) else { return };
        entry.stream.deregister(&self.system.registry);
        if entry.conn.armed != Time::NEVER {
            self.timers.forget_one();
            self.sweep_timers();
        }
        self.stats.connections = self.conns.len();
    }

    pub(super) fn sweep_timers(&mut self) {
        if !self.timers.wants_sweep() {
            return;
        }
        let (conns, user) = (&self.conns, &self.user_timers);
        self.timers.sweep(|at, key| match key {
            Deadline::Conn(id) => conns.get(id).is_some_and(|entry| entry.conn.armed == at),
            Deadline::Timer(id) => user.get(id).is_some(),
            Deadline::Listener(_) | Deadline::Shutdown => true,
        });
    }

    /// Whether the next turn has something to do without waiting.
    pub(crate) fn owes_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.dirty.is_empty()
            || !self.served.is_empty()
            || !self.dead.is_empty()
            || !self.inbox.is_empty()
            || !self.undelivered.is_empty()
            || self.stopping == Stopping::Asked
            || self.listeners.iter().any(|(_, listener)| listener.is_ready())
    }

    /// Whether a shutdown has been carried out.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopping == Stopping::Draining && self.conns.is_empty() && self.listeners.is_empty()
    }

    /// Before the dead are reported: refuses further commands from other threads for them, and
    /// takes out the sends that came too late, to be given back.
    pub(crate) fn gather_undelivered(&mut self) {
        if !self.tracked {
            return;
        }
        let conns = &self.conns;
        let is_dead = |id| conns.get(id).is_some_and(|entry: &Entry| entry.conn.is_dead());
        if !self.inbox.is_empty() {
            for command in std::mem::take(&mut self.inbox) {
                match command {
                    Command::Send(id, data) if is_dead(id) => self.undelivered.push_back((id, data)),
                    other => self.inbox.push_back(other),
                }
            }
        }
        self.mailbox.set_gone(self.dead.iter().copied(), &mut self.undelivered);
    }
}
