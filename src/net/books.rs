//! The books: what a step of one connection means for the counters, the lists and the deadlines
//! that belong to all of them.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Deadline, Entry, Net, Stopping, REDIAL};
use crate::close::{CloseReason, Timeout};
use crate::connection::{Connection, Context, State, Terms, HEALTHY};
use crate::id::ConnId;
use crate::socket::Stream;
use crate::timers::Time;

/// A handshake that has taken so long gives its place to another client, when there is no other.
const STALLED: Duration = Duration::from_secs(1);

/// So many may shake hands without their lists' being made smaller when they are through.
const FEW: usize = 64;

/// A list so short is not searched for those that have ended since.
const SHORT: usize = 64;

/// How many of those that still receive are asked whether they get on, before one of them is cut.
const ASKED: usize = 16;

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
        let (queued, unused) = (conn.queued(), conn.unused());
        let (congested, closing) = (conn.is_congested(), conn.is_closing());
        let mut cx = Context {
            now: self.now,
            terms: Terms {
                config: &self.config,
                defaults: &self.defaults,
                lapses: &self.lapses,
                draining: self.stopping == Stopping::Draining,
            },
            pool: &mut self.pool,
            stats: &mut self.stats,
        };
        let result = step(conn, stream, &mut cx);
        let stats = &mut self.stats;
        let left = conn.queued();
        if left != queued {
            stats.queued = stats.queued + left - queued;
            stats.queued_peak = stats.queued_peak.max(stats.queued);
        }
        if conn.unused() != unused {
            stats.unused = stats.unused + conn.unused() - unused;
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
            if conn.ranked != Time::NEVER {
                self.rank(id);
            }
            self.count_out();
            #[cfg(feature = "sim")]
            self.note_death(id);
        }
        let Some(Entry { conn, .. }) = self.conns.get_mut(id) else { return };
        match (was_closing, conn.is_closing()) {
            (false, true) => {
                self.stats.closing += 1;
                self.closing.push_back(id);
            }
            (true, false) => self.stats.closing -= 1,
            _ => {}
        }
        if conn.is_lingering() && !std::mem::replace(&mut conn.listed.owing, true) {
            self.owing.push_back(id);
        }
        #[cfg(feature = "sim")]
        if !was_closing && conn.is_closing() {
            self.note_closing(id);
        }
    }

    /// Cuts closing connections when there are too many: first those that have all their bytes and
    /// only owe their end, the oldest of them first; those that still receive last. A shutdown
    /// closes everybody at once, and has a deadline of its own.
    #[inline]
    pub(crate) fn limit_closing(&mut self) {
        let short = self.closing.len().max(self.owing.len()) <= SHORT;
        if !(short && self.stats.closing <= self.config.max_lingering) {
            self.cut_closing();
        }
    }

    fn cut_closing(&mut self) {
        while self.stats.closing > self.config.max_lingering && self.stopping == Stopping::No {
            let Some(id) = self.first_owing().or_else(|| self.first_stuck()) else { return };
            self.kill(id, CloseReason::TimedOut(Timeout::Linger));
        }
        let most = 2 * self.stats.closing + SHORT;
        let is_closing = |id: &ConnId| self.conns.get(*id).is_some_and(|entry| entry.conn.is_closing());
        for list in [&mut self.closing, &mut self.owing] {
            if list.len() > most {
                list.retain(is_closing);
            }
        }
    }

    /// Whether no more connections may be open.
    pub(crate) fn is_full(&self) -> bool {
        let open = self.conns.len() - self.dead.len() - self.awaited.len();
        self.config.max_connections.is_some_and(|most| open >= most)
    }

    /// The client whose handshake has been under way for longest, if that is long enough to take it
    /// for one that gets nowhere.
    pub(crate) fn stalled_handshake(&mut self) -> Option<ConnId> {
        self.forget_greeters();
        let id = *self.greeters.front()?;
        let ends = self.lapses.end_of(self.conns.get(id)?.conn.handshake_since(), STALLED);
        (self.now >= ends).then_some(id)
    }

    /// Whether nobody shakes hands, and no room is left of those who did.
    #[inline]
    pub(crate) fn has_no_greeters(&self) -> bool {
        self.greeters.capacity() | self.greeting.capacity() == 0
    }

    /// Whose handshake is over is of no interest any more, nor is the room that a storm of them took.
    pub(crate) fn forget_greeters(&mut self) {
        let greets =
            |id: &ConnId| self.conns.get(*id).is_some_and(|entry| entry.conn.state() == State::Handshaking);
        while self.greeters.front().is_some_and(|id| !greets(id)) {
            self.greeters.pop_front();
        }
        if self.greeters.is_empty() && self.greeters.capacity() > FEW {
            self.greeters = VecDeque::new();
        }
        if self.greeting.is_empty() && self.greeting.capacity() > FEW {
            self.greeting = VecDeque::new();
        }
    }

    /// When the next handshake is taken to get nowhere, as far as is known after
    /// [`stalled_handshake`](Self::stalled_handshake).
    pub(crate) fn handshake_stalls_at(&self) -> Time {
        let first = self.greeters.front().and_then(|id| self.conns.get(*id));
        first.map_or(Time::NEVER, |entry| self.lapses.end_of(entry.conn.handshake_since(), STALLED))
    }

    /// There is no place for another client: who only holds one goes first.
    pub(crate) fn shed_handshake(&mut self) {
        if let Some(id) = self.stalled_handshake() {
            self.stats.handshakes_shed += 1;
            self.kill(id, CloseReason::TimedOut(Timeout::Handshake));
        }
    }

    fn first_owing(&mut self) -> Option<ConnId> {
        while let Some(id) = self.owing.pop_front() {
            if self.conns.get(id).is_some_and(|entry| entry.conn.is_closing()) {
                return Some(id);
            }
        }
        None
    }

    /// One of those still receiving, when no other is known: who has turned out to have all, else the
    /// first that does not get on, else the last that was asked. Nobody when enough have ended meanwhile.
    fn first_stuck(&mut self) -> Option<ConnId> {
        let (now, mut stuck, mut asked) = (self.tick(), None, 0);
        while asked < ASKED.min(self.stats.closing) {
            let Some(id) = self.closing.pop_front() else { break };
            let took = self.touch(id, |conn, stream, cx| {
                let took = conn.offer(stream, cx);
                conn.advance(stream, cx);
                took
            });
            if self.stats.closing <= self.config.max_lingering {
                return None;
            }
            let Some(Entry { conn, stream }) = self.conns.get_mut(id) else { continue };
            if conn.is_lingering() {
                return Some(id);
            }
            if conn.is_closing() {
                asked += 1;
                let before = conn.last_progress(&self.defaults);
                conn.sample(stream, now, &self.lapses);
                let gets_on = took == Some(true) || conn.last_progress(&self.defaults) > before;
                stuck = stuck.or((!gets_on).then_some(id));
                self.closing.push_back(id);
            }
        }
        stuck.or_else(|| self.closing.back().copied())
    }

    /// Has a connection seen to in the next pass over those that are ready.
    #[inline]
    pub(crate) fn list_ready(&mut self, id: ConnId) {
        if let Some(entry) = self.conns.get_mut(id) {
            if !std::mem::replace(&mut entry.conn.listed.ready, true) {
                self.ready.push_back(id);
                self.readied += 1;
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
        if let Some(entry) = self.conns.get_mut(id) {
            if !entry.conn.is_dead() && !std::mem::replace(&mut entry.conn.listed.dirty, true) {
                self.dirty.push_back(id);
            }
        }
    }

    /// After all steps of a connection in this turn: lists it if more is left to do, and arms its
    /// deadline. An entry among the deadlines is never later than the deadline, so that most steps
    /// need not touch them.
    pub(crate) fn settle(&mut self, id: ConnId) {
        let Some(Entry { conn, stream }) = self.conns.get_mut(id) else { return };
        if conn.has_work(&self.defaults) && !std::mem::replace(&mut conn.listed.ready, true) {
            self.ready.push_back(id);
            self.readied += 1;
        }
        if conn.may_greet() && !std::mem::replace(&mut conn.listed.greeting, true) {
            self.greeting.push_back(id);
        }
        // Its verdict is under way, and settles it again.
        if !conn.is_due() {
            let terms = Terms {
                config: &self.config,
                defaults: &self.defaults,
                lapses: &self.lapses,
                draining: self.stopping == Stopping::Draining,
            };
            let mut deadline = conn.deadline(self.now, terms);
            if stream.is_dialing() {
                deadline = deadline.min(self.now.plus(REDIAL));
            }
            if !self.calls.is_empty() {
                deadline = deadline.min(self.calls.get(id).map_or(Time::NEVER, |call| call.next_at));
            }
            if deadline < conn.armed {
                let before = std::mem::replace(&mut conn.armed, deadline);
                self.deadlines.disarm_single(before, Deadline::Conn(id));
                self.deadlines.arm_single(deadline, Deadline::Conn(id));
            }
        }
        let telling = conn.new_telling(&self.defaults);
        if conn.is_holder(&self.defaults) != (conn.ranked != Time::NEVER) {
            self.rank(id);
        }
        if let Some(telling) = telling {
            self.tell_of_input(id, telling);
        }
    }

    /// Puts a connection that holds memory among the others that do, or takes it out.
    #[cold]
    fn rank(&mut self, id: ConnId) {
        let Some(Entry { conn, .. }) = self.conns.get(id) else { return };
        let defaults = &self.defaults;
        let rank = if conn.is_holder(defaults) { conn.last_progress(defaults) } else { Time::NEVER };
        self.rank_as_of(id, rank);
    }

    /// Whether a holder has got on since it was ranked. It is ranked anew.
    pub(super) fn has_moved_on(&mut self, id: ConnId) -> bool {
        let Some(Entry { conn, .. }) = self.conns.get(id) else { return true };
        let moved = conn.last_progress(&self.defaults) > conn.ranked;
        if moved {
            self.rank(id);
        }
        moved
    }

    /// Takes a holder of memory to have got on at this moment.
    pub(super) fn rank_as_of(&mut self, id: ConnId, rank: Time) {
        let Some(Entry { conn, .. }) = self.conns.get_mut(id) else { return };
        let before = std::mem::replace(&mut conn.ranked, rank);
        self.holders.remove(&(before, id));
        if rank != Time::NEVER {
            self.holders.insert((rank, id));
        }
    }

    /// The holder of memory that has made no progress for longest, unless everybody has lately. It
    /// costs O(log n), for an entry that has become too early is moved to where it belongs, and is not
    /// looked at again before it is the earliest once more; and a bounded number of them is looked at
    /// in a turn.
    pub(super) fn idlest_holder(&mut self) -> Option<ConnId> {
        let now = self.tick();
        while self.looks > 0 {
            let (ranked, id) = self.holders.first().copied()?;
            if now < self.lapses.end_of(ranked, HEALTHY) {
                // Nor has anybody else gone without for longer.
                return None;
            }
            let Some(Entry { conn, stream }) = self.conns.get_mut(id) else {
                self.holders.remove(&(ranked, id));
                continue;
            };
            conn.sample(stream, now, &self.lapses);
            if conn.is_holder(&self.defaults) && conn.last_progress(&self.defaults) <= ranked {
                let patience = conn.patience(stream);
                return (now >= self.lapses.end_of(ranked, patience)).then_some(id);
            }
            self.rank(id);
            self.looks -= 1;
        }
        None
    }

    /// The verdict on a connection whose deadline came up: it has been read from and flushed since
    /// `basis`, so that whatever it had to say up to then is known.
    pub(crate) fn judge(&mut self, id: ConnId, basis: Time) {
        let Some(entry) = self.conns.get_mut(id) else { return };
        entry.conn.set_due(false);
        let clock = self.tick();
        self.now = basis;
        self.touch(id, |conn, stream, cx| conn.expire(stream, clock, cx));
        self.now = clock;
        self.settle(id);
    }

    /// Takes out a connection's entry among the deadlines, which means nothing any more: the next
    /// [`settle`](Self::settle) arms what is due. Left to come up, that of a handshake is memory of each
    /// client that came in lately, and a wake-up for it.
    pub(crate) fn forget_deadline(&mut self, id: ConnId) {
        if let Some(Entry { conn, .. }) = self.conns.get_mut(id) {
            let before = std::mem::replace(&mut conn.armed, Time::NEVER);
            self.deadlines.disarm_single(before, Deadline::Conn(id));
        }
    }

    /// Frees a connection's socket and slot.
    pub(crate) fn remove(&mut self, id: ConnId) {
        let Some(Entry { conn, stream }) = self.conns.get_mut(id) else { return };
        stream.deregister(&self.system.registry);
        let (armed, ranked) = (conn.armed, conn.ranked);
        drop(self.conns.remove(id));
        self.tell_freed();
        self.deadlines.disarm_single(armed, Deadline::Conn(id));
        if ranked != Time::NEVER {
            self.holders.remove(&(ranked, id));
        }
        #[cfg(feature = "tls")]
        self.sessions.remove(id);
        self.stats.connections = self.conns.len();
    }

    /// Whether the next turn has something to do without waiting.
    pub(crate) fn owes_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.dirty.is_empty()
            || !self.served.is_empty()
            || !self.greeting.is_empty()
            || !self.judged.is_empty()
            || !self.dead.is_empty()
            || !self.inbox.is_empty()
            || !self.undelivered.is_empty()
            || self.children.is_due()
            || self.watches.is_due()
            || self.stopping == Stopping::Asked
            || self.listeners.iter().any(|(_, listener)| listener.is_ready())
    }

    /// Whether a shutdown has been carried out.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopping == Stopping::Draining
            && self.conns.is_empty()
            && self.listeners.is_empty()
            && self.children.is_empty()
    }

    /// Before the dead are reported: refuses further commands from other threads for them. For whom
    /// a send was taken that has not been carried out yet has to wait: it is given back first.
    pub(crate) fn await_commands(&mut self) {
        if !self.tracked {
            return;
        }
        let mut roll = self.mailbox.roll();
        for _ in 0..self.awaited.len() {
            self.dead.extend(self.awaited.pop_front());
        }
        for _ in 0..self.dead.len() {
            let Some(id) = self.dead.pop_front() else { return };
            let taken = roll.strike_off(id);
            let carried = self.carried.get(id.slot()).copied().unwrap_or(0);
            let list = if taken == carried { &mut self.dead } else { &mut self.awaited };
            list.push_back(id);
        }
    }

    /// Tells the mailbox how many commands were carried out: so many more may wait.
    #[inline]
    pub(crate) fn make_room_for_commands(&mut self) {
        if self.carried_out.0 > 0 {
            let (commands, bytes) = std::mem::take(&mut self.carried_out);
            self.mailbox.carried_out(commands, bytes);
        }
    }

    /// A send from another thread has been carried out, one way or the other.
    pub(crate) fn count_carried(&mut self, id: ConnId) {
        if self.carried.len() <= id.slot() {
            self.carried.resize(id.slot() + 1, 0);
        }
        if let Some(count) = self.carried.get_mut(id.slot()) {
            *count = count.wrapping_add(1);
        }
    }
}
