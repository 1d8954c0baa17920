//! What a simulation writes down of the program's calls and of the engine's decisions, to hold the
//! engine to. Nothing here changes what happens.

use std::borrow::Cow;
use std::time::Duration;

use super::{Entry, Net, Stopping};
use crate::close::{CloseReason, Timeout};
use crate::config::Config;
use crate::id::{ConnId, TimerId};
use crate::settings::{Overflow, Settings};
use crate::simnet::{Attempt, Death, Other, Sock, SockId, Witness, World};
use crate::socket::Stream;

impl Entry {
    fn sock(&self) -> Option<SockId> {
        match self.stream.bottom() {
            Stream::Sim(stream) => Some(stream.sock),
            _ => None,
        }
    }

    /// How it stands, by the engine's word and by the kernel's books.
    fn look(&self, conn: ConnId, defaults: &Settings, world: &World) -> Other {
        let sock = self.sock().and_then(|sock| world.socks.get(&sock));
        Other {
            conn,
            state: self.conn.state(),
            queued: self.conn.queued(),
            unused: self.conn.unused(),
            is_holder: self.conn.is_holder(defaults),
            is_dirty: self.conn.listed.dirty,
            pays_for_queue: self.conn.settings(defaults).overflow == Overflow::Close,
            sock: sock.map(|sock| sock.view(world.now)),
        }
    }
}

impl Net {
    /// The configuration as it is for this connection, with the settings of its own.
    pub(crate) fn config_of(&self, id: ConnId) -> Cow<'_, Config> {
        let Some(Entry { conn, .. }) = self.conns.get(id) else { return Cow::Borrowed(&self.config) };
        let (own, timeout) = (conn.settings(&self.defaults), conn.own_connect_timeout());
        if own == &self.defaults && timeout.is_none() {
            return Cow::Borrowed(&self.config);
        }
        let mut config = self.config.clone();
        config.connect_timeout = timeout.unwrap_or(config.connect_timeout);
        config.high_water = own.high_water;
        config.low_water = own.low_water;
        config.max_write_buffer = own.max_write_buffer;
        config.overflow = own.overflow;
        config.soft_limit = own.soft_limit;
        config.read_while_congested = own.read_while_congested;
        config.max_read_buffer = own.max_read_buffer;
        config.idle_timeout = own.idle_timeout;
        config.half_close_timeout = own.half_close_timeout;
        config.write_stall = own.write_stall;
        Cow::Owned(config)
    }

    fn witness(&self, write: impl FnOnce(&mut Witness, u64)) {
        if let Some(kernel) = &self.system.sim {
            let world = &mut *kernel.world();
            write(&mut world.witness, world.now);
        }
    }

    /// The program sends `data`. Returns whether the connection is congested before that.
    pub(super) fn note_sent(&self, id: ConnId, data: &[u8]) -> bool {
        let Some(entry) = self.conns.get(id) else { return false };
        if let (Some(kernel), Some(sock)) = (&self.system.sim, entry.sock()) {
            let world = &mut *kernel.world();
            if let Some(sock) = world.socks.get_mut(&sock) {
                sock.soft_bytes = entry.conn.settings(&self.defaults).soft_limit.map(|soft| soft.bytes);
                // What a session makes of it only the peer can tell.
                if !sock.sealed {
                    sock.promise(data, world.now);
                }
            }
        }
        entry.conn.is_congested()
    }

    /// An attempt to reach a host has won, and keeps what was promised before it was known which would.
    pub(super) fn note_winner(&self, id: ConnId) {
        let Some(Entry { conn, .. }) = self.conns.get(id) else { return };
        self.note_sent(id, &conn.queue());
        if conn.is_congested() {
            self.note_crossing(id);
        }
        if conn.is_paused() {
            self.note_pause(id, true);
        }
    }

    /// The answer of a lookup came as a command does.
    pub(super) fn note_answer(&self) {
        self.witness(|witness, _| witness.took(None));
    }

    /// A send said that the queue passed high water.
    pub(super) fn note_crossing(&self, id: ConnId) {
        let Some(entry) = self.conns.get(id) else { return };
        let (Some(kernel), Some(id)) = (&self.system.sim, entry.sock()) else { return };
        let mut world = kernel.world();
        if let Some(sock) = world.socks.get_mut(&id) {
            sock.crossings += 1;
            sock.granted = true;
        }
        if !entry.conn.is_congested() {
            let name = world.name(id);
            world.accuse(|| format!("{name}: a send said congested, the connection does not"));
        }
    }

    /// Writes something down of the socket of a connection.
    fn note_sock(&self, id: ConnId, write: impl FnOnce(&mut Sock, u64)) {
        let sock = self.conns.get(id).and_then(Entry::sock);
        let (Some(kernel), Some(sock)) = (&self.system.sim, sock) else { return };
        let world = &mut *kernel.world();
        if let Some(sock) = world.socks.get_mut(&sock) {
            write(sock, world.now);
        }
    }

    /// The program asks for no input, or for input again.
    pub(super) fn note_pause(&self, id: ConnId, paused: bool) {
        self.note_sock(id, |sock, now| {
            if sock.paused && !paused {
                sock.times.freed = now;
            }
            sock.resumed = !paused && (sock.paused || sock.resumed);
            sock.paused = paused;
        });
    }

    /// The program ends its stream.
    pub(super) fn note_ended(&self, id: ConnId) {
        self.note_sock(id, |sock, now| {
            if sock.times.ended == 0 {
                sock.times.ended = now;
            }
        });
    }

    /// A connection begins to close.
    pub(super) fn note_closing(&self, id: ConnId) {
        self.note_sock(id, |sock, now| {
            sock.times.closing = now;
            sock.read_when_acked = sock.read;
        });
    }

    pub(super) fn note_timer(&self, timer: TimerId, after: Duration) {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.witness(|witness, now| {
            witness.timers.insert(timer, now.saturating_add(after));
        });
    }

    pub(super) fn note_cancel(&self, timer: TimerId) {
        self.witness(|witness, _| {
            witness.timers.remove(&timer);
        });
    }

    /// A connection's own deadline is set, or cleared.
    pub(super) fn note_alarm(&self, conn: ConnId, after: Option<Duration>) {
        let after = after.map(|after| u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
        self.witness(|witness, now| {
            match after {
                Some(after) => witness.alarms.insert(conn, now.saturating_add(after)),
                None => witness.alarms.remove(&conn),
            };
        });
    }

    pub(super) fn note_want(&self, id: ConnId, bytes: u32) {
        self.note_sock(id, |sock, _| {
            sock.want = bytes as usize;
            sock.held |= bytes > 0;
        });
    }

    pub(super) fn note_shutdown(&self, deadline: Duration) {
        let deadline = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        self.witness(|witness, now| witness.shutdowns.push((now, deadline)));
    }

    /// The program ends something itself, or has done so.
    pub(super) fn note_by_hand(&self, by_hand: bool) {
        self.witness(|witness, _| witness.by_hand = by_hand);
    }

    /// A send meets a cap: what follows is its doing.
    pub(super) fn note_attempt(&self, conn: ConnId, len: usize) {
        let queued = self.queued(conn);
        self.witness(|witness, _| witness.attempt = Some(Attempt { conn, len, queued }));
    }

    /// What followed has been done: the send was refused at the common budget, or not.
    pub(super) fn note_outcome(&self, refused: bool) {
        let Some(kernel) = &self.system.sim else { return };
        let world = &mut *kernel.world();
        let attempt = world.witness.attempt.take();
        if let (true, Some(attempt)) = (refused, attempt) {
            let (len, own) = (attempt.len, self.conns.get(attempt.conn));
            let cap = own.map_or(0, |entry| entry.conn.settings(&self.defaults).max_write_buffer);
            let budget = self.config.total_write_buffer;
            let ended = own.is_none_or(|entry| entry.conn.is_dead());
            let for_others = own
                .is_some_and(|entry| entry.conn.settings(&self.defaults).overflow == Overflow::Close)
                && len <= budget;
            if ended || !for_others || attempt.queued + len > cap {
                return;
            }
            let holders = self.others(attempt.conn, world);
            let own = own.map(|entry| entry.look(attempt.conn, &self.defaults, world));
            let holders = holders.into_iter().chain(own).filter(|other| other.is_holder).collect();
            world.witness.refusals.push((world.now, holders));
        }
    }

    fn others(&self, than: ConnId, world: &World) -> Vec<Other> {
        let others = self.conns.iter().filter(|(id, entry)| *id != than && !entry.conn.is_dead());
        others.map(|(id, entry)| entry.look(id, &self.defaults, world)).collect()
    }

    /// A connection has ended: how it stood, and the others where one of several had to go.
    pub(super) fn note_death(&self, id: ConnId) {
        let (Some(kernel), Some(entry)) = (&self.system.sim, self.conns.get(id)) else { return };
        let Some(last) = entry.conn.last() else { return };
        let world = &mut *kernel.world();
        let mut was = entry.look(id, &self.defaults, world);
        (was.state, was.queued, was.unused, was.is_holder) =
            (last.state, last.queued, last.unused, last.is_holder);
        let chosen = matches!(
            last.occasion,
            CloseReason::SlowConsumer | CloseReason::InputOverflow | CloseReason::TimedOut(Timeout::Linger)
        );
        let death = Death {
            at: world.now,
            asked: world.witness.asked,
            occasion: last.occasion,
            was,
            was_congested: last.congested,
            by_hand: world.witness.by_hand,
            held: self.stats.queued + self.stats.unused + was.queued + was.unused,
            closing: self.stats.closing,
            draining: self.stopping == Stopping::Draining,
            attempt: world.witness.attempt,
            others: if chosen { self.others(id, world) } else { Vec::new() },
        };
        world.witness.deaths.insert(id, death);
    }

    /// A send from another thread is carried out: its bytes are queued, or are to be given back.
    pub(crate) fn note_carried(&self, conn: ConnId, queued: bool) {
        self.witness(|witness, _| {
            if queued {
                witness.sends.entry(conn).or_default().queued += 1;
            }
        });
    }
}
