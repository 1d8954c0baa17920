//! What a turn does with what the poll brought.
//!
//! Every list that is worked on here belongs to the reactor and outlives the turn, and an entry is
//! taken off before its callback runs: a callback that panics costs its own connection only.

use super::serving::{finish, finish_fully, BATCH};
use super::Reactor;
use crate::close::CloseReason;
use crate::handler::Handler;
use crate::id::ConnId;
use crate::mailbox::Command;
use crate::net::{Deadline, Entry, Errand, Net, Stopping};
use crate::timers::Time;

/// Up to where in its slice a turn goes on with each phase, in tenths. What a phase does not need
/// is left to those behind it; one step of each is made in any case.
pub(super) mod share {
    pub(in crate::reactor) const COMMANDS: u32 = 2;
    pub(in crate::reactor) const CONNECTIONS: u32 = 6;
    pub(in crate::reactor) const TIMERS: u32 = 7;
    pub(in crate::reactor) const ACCEPTS: u32 = 8;
    pub(in crate::reactor) const HANDSHAKES: u32 = 9;
    pub(in crate::reactor) const FLUSHES: u32 = 9;
    pub(in crate::reactor) const ENDS: u32 = 10;
}

/// Runs a callback of a connection, so that a panic can be laid at its door. The clock is read
/// behind it, for it may have taken long.
#[inline]
pub(super) fn call<R>(net: &mut Net, conn: ConnId, callback: impl FnOnce(&mut Net) -> R) -> R {
    net.calling = Some(conn);
    let result = callback(net);
    net.calling = None;
    net.tick_over_if_moved();
    result
}

impl Reactor {
    /// The phases of a turn from the next one on. One that panics is over.
    pub(super) fn phases<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        macro_rules! phase {
            ($number:literal, $of:ident($($with:expr),*)) => {
                if self.phase < $number {
                    self.phase = $number;
                    self.$of($($with),*);
                }
            };
        }
        phase!(1, carry_out_commands(handler));
        phase!(2, take_deadlines());
        phase!(3, tell_of_others(handler));
        phase!(4, serve_ready(handler));
        phase!(5, fire_timers(handler));
        phase!(6, shut_down(handler));
        phase!(7, accept(handler));
        phase!(8, shake_hands(handler, share::HANDSHAKES));
        phase!(9, flush_dirty(handler));
        phase!(10, judge(handler));
        phase!(11, reap(handler));
        // Again, if it was a command of the last that panicked.
        self.end(handler);
    }

    /// When this turn has used up its slice so far.
    #[inline]
    pub(super) fn spent_at(&self, tenths: u32) -> Time {
        self.began.plus_nanos(self.tenth_of_slice * u64::from(tenths))
    }

    #[inline]
    pub(super) fn is_spent(&self, tenths: u32) -> bool {
        self.net.now >= self.spent_at(tenths)
    }

    /// Commands from other threads, a bounded number.
    fn carry_out_commands<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let net = &mut self.net;
        // Those of a turn that a panic cut short.
        net.make_room_for_commands();
        if std::mem::take(&mut self.woken) {
            // What was collected before comes first: the mailbox is looked into again after it.
            if !net.inbox.is_empty() {
                self.woken = true;
            } else if net.mailbox.collect(&mut net.inbox) {
                handler.on_wake(net);
                net.tick_over();
            }
        }
        for _ in 0..self.net.config.commands_per_turn {
            let Some(command) = self.net.inbox.pop_front() else { break };
            self.carry_out(handler, command);
            if self.is_spent(share::COMMANDS) {
                break;
            }
        }
        self.net.make_room_for_commands();
        self.give_back(handler, share::COMMANDS);
    }

    fn carry_out<H: Handler + ?Sized>(&mut self, handler: &mut H, command: Command<Errand>) {
        let net = &mut self.net;
        net.stats.commands += 1;
        // Before it runs: a task that panics has been carried out as well.
        net.carried_out.0 += 1;
        net.carried_out.1 += command.weight();
        match command {
            Command::Send(conn, data) => {
                let queued = net.send_bytes(conn, data.clone()).is_ok();
                if !queued {
                    net.undelivered.push_back((conn, data));
                }
                #[cfg(feature = "sim")]
                net.note_carried(conn, queued);
                net.count_carried(conn);
            }
            Command::Close(conn) => net.close(conn),
            Command::Abort(conn) => net.abort(conn),
            Command::Run(errand) | Command::Tell(errand) => self.run_errand(handler, errand),
            Command::Message(from, message) => handler.on_message(net, from, message),
            Command::Shutdown(deadline) => net.shutdown(deadline),
            Command::Resolved(conn, addrs) => net.resolved(conn, addrs),
        }
        self.net.tick_over();
    }

    /// Sends from other threads that could not be queued. Returns whether all have been given back.
    fn give_back<H: Handler + ?Sized>(&mut self, handler: &mut H, share: u32) -> bool {
        while let Some((conn, data)) = self.net.undelivered.pop_front() {
            call(&mut self.net, conn, |net| handler.on_refused(net, conn, data));
            if self.is_spent(share) {
                break;
            }
        }
        self.net.undelivered.is_empty()
    }

    /// Deadlines that have come up. Nobody is judged here: a connection is read from and flushed
    /// first, with all others that are ready.
    fn take_deadlines(&mut self) {
        let net = &mut self.net;
        let (now, batch) = (net.now, net.deadlines.batch());
        while let Some((at, deadline)) = net.deadlines.pop_due(now, batch) {
            match deadline {
                Deadline::Conn(id) => {
                    let Some(Entry { conn, .. }) = net.conns.get_mut(id) else { continue };
                    if conn.armed != at {
                        continue;
                    }
                    conn.armed = Time::NEVER;
                    if !conn.is_dead() {
                        conn.look_again();
                        net.list_ready(id);
                    }
                }
                Deadline::Listener(id) => {
                    if let Some(listener) = net.listeners.get_mut(id) {
                        listener.expire(now);
                    }
                }
                Deadline::Shutdown => {
                    // Later than it was armed, if nobody could be served meanwhile.
                    if now < net.stop_at() {
                        net.deadlines.arm_single(net.stop_at(), Deadline::Shutdown);
                    }
                }
            }
        }
    }

    /// Timers due, once whatever had come by their moment has been delivered. Those they set come in
    /// a later turn.
    fn fire_timers<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if self.horizons.is_empty() {
            return;
        }
        self.move_horizon();
        let (heard, batch) = (self.heard, self.net.alarms.batch());
        while let Some((_, timer)) = self.net.alarms.pop_due(heard, batch) {
            self.net.user_timers.remove(timer);
            handler.on_timer(&mut self.net, timer);
            self.net.tick_over();
            if self.is_spent(share::TIMERS) {
                break;
            }
        }
    }

    /// Up to which moment everybody has been heard. Who cannot be heard within a slice is not waited
    /// for: a reactor that has more to do than it can must keep its timers all the same.
    fn move_horizon(&mut self) {
        let served = self.net.readied - self.net.ready.len() as u64;
        let (now, lapse_over) = (self.net.now, self.net.lapses.last_end());
        while let Some(horizon) = self.horizons.front_mut() {
            if lapse_over > horizon.from && !horizon.is_moved {
                (horizon.from, horizon.is_moved) = (lapse_over, true);
            }
            if served < horizon.readied && now < horizon.from.plus(self.net.config.turn_slice) {
                return;
            }
            self.heard = horizon.moment;
            self.horizons.pop_front();
        }
    }

    /// A shutdown was asked for: after the handler's last words everybody is told to close, and the
    /// accept queues are looked into, for those who came since the poll have brought no event yet.
    fn shut_down<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if self.net.stopping != Stopping::Asked {
            return;
        }
        if !std::mem::replace(&mut self.net.told_shutdown, true) {
            handler.on_shutdown(&mut self.net);
            self.net.tick_over();
        }
        self.net.stopping = Stopping::Draining;
        self.net.flushed_since_stop = false;
        for id in self.net.listeners.ids().collect::<Vec<_>>() {
            if let Some(listener) = self.net.listeners.get_mut(id) {
                listener.on_readable();
            }
        }
        for conn in self.net.conns.ids().collect::<Vec<_>>() {
            // Who has just been taken in is told of first, and closed then.
            if !self.net.conns.get(conn).is_some_and(|entry| entry.conn.is_arriving()) {
                self.net.close(conn);
            }
        }
    }

    /// Cuts off whoever is left when the shutdown's deadline has passed, everybody was flushed once
    /// since it was asked for, and whoever could be taken in was.
    fn cut_off_if_due(&mut self) {
        let net = &mut self.net;
        if net.now < net.stop_at() {
            return;
        }
        let waiting = net.listeners.iter().any(|(_, listener)| listener.is_ready());
        if waiting || !net.flushed_since_stop {
            return;
        }
        for conn in net.conns.ids().collect::<Vec<_>>() {
            net.kill(conn, CloseReason::Shutdown);
        }
        net.children.leave_alone();
        for listener in net.listeners.ids().collect::<Vec<_>>() {
            net.drop_listener(listener);
        }
    }

    /// The verdicts on those whose deadline came up, now that they were read from and flushed. The
    /// handler's own deadline comes first: what it sends may still be in time.
    fn judge<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        // Before those on single connections: at a tie it is the shutdown that cuts them off.
        if self.net.stopping == Stopping::Draining {
            self.cut_off_if_due();
        }
        let began = self.net.now;
        for judged in 1..=self.net.judged.len() {
            let Some((id, basis)) = self.net.judged.pop_front() else { break };
            let net = &mut self.net;
            if net.conns.get_mut(id).is_some_and(|entry| entry.conn.take_alarm(basis, &net.defaults)) {
                call(net, id, |net| handler.on_deadline(net, id));
                finish_fully(net, handler, id);
            }
            net.judge(id, basis);
            if judged % BATCH == 0 {
                self.net.tick_over();
            }
            // The clock moves on with each callback as well.
            if self.net.now > began && self.is_spent(share::ENDS) {
                break;
            }
        }
    }

    /// Each connection that was written to or meddled with by other callbacks than its own, once.
    fn flush_dirty<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        // Those whose batch was cut short.
        self.flush_served(handler);
        let began = self.net.now;
        for flushed in 1..=self.net.dirty.len() {
            // Those that are added on the way come behind, and in the next turn.
            let Some(id) = self.net.dirty.pop_front() else { break };
            finish(&mut self.net, handler, id);
            if flushed % BATCH == 0 {
                self.net.tick_over();
            }
            // The clock moves on with each callback as well.
            if self.net.now > began && self.is_spent(share::FLUSHES) {
                return;
            }
        }
        self.net.flushed_since_stop = self.net.served.is_empty();
    }

    /// Reports those that have ended, and frees what they held. A freed descriptor is what a
    /// listener that ran out of them waits for, and the kernel will not say that it is there.
    fn reap<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if self.net.dead.is_empty() && self.net.awaited.is_empty() {
            return;
        }
        self.net.await_commands();
        if !self.give_back(handler, share::ENDS) {
            return;
        }
        // Those that a callback ends on the way are reported in the next turn: a handler that
        // connects anew in `on_close`, and fails at once, must not keep this one going.
        for _ in 0..self.net.dead.len() {
            self.report_first(handler);
            if self.is_spent(share::ENDS) {
                break;
            }
        }
        for id in self.net.listeners.ids().collect::<Vec<_>>() {
            // In a shutdown they are all looked into together, in the next turn.
            if self.net.listener_may_go_on(id) && self.net.stopping != Stopping::Draining {
                self.accept_from(handler, id);
            }
        }
    }

    /// The last phase. After a shutdown no command is taken any more, and those that were are carried
    /// out.
    fn end<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        self.net.limit_closing();
        self.net.pass_shutdown_on();
        if !self.net.has_stopped() {
            return;
        }
        let waiting = self.net.mailbox.stop();
        self.net.inbox.extend(waiting);
        while let Some(command) = self.net.inbox.pop_front() {
            self.carry_out(handler, command);
        }
        while !self.give_back(handler, share::ENDS) {}
    }

    /// Reports the first of the dead. It leaves the list last of all, so that a panic in its
    /// callback does not keep its slot and its socket for ever.
    fn report_first<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let net = &mut self.net;
        let Some(&id) = net.dead.front() else { return };
        let now = net.now;
        net.gather_attempts(id);
        if let Some(Entry { conn, .. }) = net.conns.get_mut(id) {
            if !std::mem::replace(&mut conn.reported, true) {
                let report = conn.report(now);
                net.stats.count_close(report.reason);
                log::log!(report.reason.log_level(), "{id}: {report}");
                call(net, id, |net| handler.on_close(net, id, &report));
            }
        }
        net.remove(id);
        net.dead.pop_front();
    }
}
