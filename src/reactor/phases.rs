//! What a turn does with what the poll brought.
//!
//! Every list that is worked on here belongs to the reactor and outlives the turn, and an entry is
//! taken off before its callback runs: a callback that panics costs its own connection only.

use std::io;
use std::time::Duration;

use super::connecting::{finish_connect, go_on_calling, redial};
use super::Reactor;
use crate::close::CloseReason;
use crate::connection::{Received, State};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::mailbox::Command;
use crate::net::{Deadline, Entry, Errand, Net, Stopping};
use crate::read_buffer::ReadBuffer;
use crate::timers::Time;
use crate::transport::Transport;

/// Connections that are read from before they are all written to. Reading many and then writing
/// many costs less processor time than turning from one to the other; a larger batch brings nothing
/// more, and holds more memory meanwhile (`benches/NOTES.md`).
const BATCH: usize = 32;

/// A batch ends after this time as well: those who were served first have waited long enough.
const LONGEST_BATCH: Duration = Duration::from_millis(1);

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
    fn spent_at(&self, tenths: u32) -> Time {
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

    /// Each connection that was ready when the phase began, once. What is left of it goes behind
    /// the others, for the next turn.
    fn serve_ready<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let mut batch_ends = self.net.now.plus(LONGEST_BATCH);
        for _ in 0..self.net.ready.len() {
            let Some(id) = self.net.ready.pop_front() else { break };
            self.serve(handler, id);
            let full = self.net.served.len() >= BATCH;
            if full || self.net.now >= batch_ends {
                self.flush_served(handler);
                batch_ends = self.net.tick_over().plus(LONGEST_BATCH);
                if self.is_spent(share::CONNECTIONS) {
                    break;
                }
            }
        }
        self.flush_served(handler);
    }

    /// Those that were read from, in their order; unless a callback takes long.
    fn flush_served<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let began = self.net.now;
        for _ in 0..self.net.served.len() {
            let Some(id) = self.net.served.pop_front() else { break };
            finish(&mut self.net, handler, id);
            if self.net.now > began && self.is_spent(share::FLUSHES) {
                break;
            }
        }
    }

    fn serve<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId) {
        let net = &mut self.net;
        let Some(Entry { conn, stream }) = net.conns.get_mut(id) else { return };
        conn.listed.ready = false;
        let budget = net.config.read_budget;
        if conn.only_reads() {
            let outcome = stream.read(&mut self.scratch);
            let Ok(count @ 1..) = outcome else {
                self.net.serving = Some(id);
                self.read(handler, id, budget, Some(outcome));
                return self.end_serving(id);
            };
            let room = self.scratch.len();
            let count = count.min(room);
            conn.note_read(count, room, stream.short_read_empties(), net.now, &mut net.stats);
            net.serving = Some(id);
            deliver_directly(net, handler, id, self.scratch.get(..count).unwrap_or_default());
            net.serving = None;
            if self.net.mark_served(id) && !self.is_spent(share::CONNECTIONS) {
                self.net.serving = Some(id);
                self.read(handler, id, budget.saturating_sub(count), None);
                self.net.serving = None;
            }
            return;
        }
        // Who is still shaking hands is heard in a later phase.
        if conn.listed.due && !conn.may_greet() {
            // All that comes up to here is about to be read.
            let basis = net.now;
            net.judged.push_back((id, basis));
        }
        let mut old_business = conn.has_old_business();
        if conn.state() == State::Connecting {
            if stream.is_dialing() {
                return redial(net, id);
            }
            match net.is_calling(id) {
                true => go_on_calling(net, handler, id),
                false => finish_connect(net, handler, id),
            }
            old_business = net.conns.get(id).is_some_and(|entry| entry.conn.has_old_business());
        }
        if old_business {
            net.touch(id, |conn, stream, cx| conn.check_error(stream, cx));
            flush(net, handler, id);
            if let Some(input) = net.touch(id, |conn, _, _| conn.take_shown_again()).flatten() {
                show(net, handler, id, input);
            }
        }
        self.net.serving = Some(id);
        self.read(handler, id, budget, None);
        self.end_serving(id);
    }

    fn end_serving(&mut self, id: ConnId) {
        self.net.serving = None;
        self.net.mark_served(id);
    }

    /// Reads until nothing is left or wanted, or the budget of this turn is spent. The result of the first
    /// read may be there already.
    fn read<H: Handler + ?Sized>(
        &mut self,
        handler: &mut H,
        id: ConnId,
        mut budget: usize,
        mut ahead: Option<io::Result<usize>>,
    ) {
        let spent = self.spent_at(share::CONNECTIONS);
        let (net, scratch) = (&mut self.net, &mut self.scratch);
        let mut more = true;
        while more && budget > 0 {
            let step = net.touch(id, |conn, stream, cx| {
                let received = match ahead.take() {
                    Some(outcome) => conn.received(outcome, scratch.len(), stream, cx),
                    None if conn.may_read(cx.terms.defaults) => conn.receive(stream, scratch, cx),
                    None => return None,
                };
                Some((received, conn.is_readable(), conn.shows_directly()))
            });
            let Some((received, readable, directly)) = step.flatten() else { break };
            more = readable;
            // Whatever a read brings, it costs: an interrupted one must not be tried for ever.
            let count = match received {
                Received::Data(count) => {
                    deliver(net, handler, id, scratch.get(..count).unwrap_or_default(), directly);
                    if net.now >= spent {
                        break;
                    }
                    count
                }
                Received::Eof => {
                    if let Some(entry) = net.conns.get_mut(id) {
                        entry.conn.postpone_eof();
                    }
                    break;
                }
                Received::Nothing(count) => count,
            };
            budget = budget.saturating_sub(count.max(1));
        }
        if net.conns.get_mut(id).is_some_and(|entry| entry.conn.take_eof()) {
            call(net, id, |net| handler.on_eof(net, id));
            if net.conns.get(id).is_some_and(|entry| entry.conn.unused() > 0) {
                net.touch(id, |conn, _, _| conn.forget_input());
            }
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

/// Hands new input to the handler: as it came when nothing older is unused, else behind that.
fn deliver<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId, data: &[u8], directly: bool) {
    if !directly {
        let Some(entry) = net.conns.get_mut(id) else { return };
        if entry.conn.wants_more_than(data.len()) {
            net.touch(id, |conn, _, _| conn.hold_input(data));
            return net.keep_within_budget(id);
        }
        entry.conn.want(0);
        let Some(input) = net.touch(id, |conn, _, _| conn.take_input_with(data)) else { return };
        return show(net, handler, id, input);
    }
    deliver_directly(net, handler, id, data);
}

/// Hands new input to the handler as it came.
#[inline(always)]
fn deliver_directly<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId, data: &[u8]) {
    let used = call(net, id, |net| handler.on_data(net, id, data));
    if used < data.len() {
        keep_rest(net, id, data.get(used..).unwrap_or_default());
    }
}

/// Keeps what the handler left of new input.
#[cold]
fn keep_rest(net: &mut Net, id: ConnId, rest: &[u8]) {
    let mut input = ReadBuffer::default();
    input.append(rest);
    keep(net, id, input);
}

/// Keeps what the handler left unused.
fn keep(net: &mut Net, id: ConnId, input: ReadBuffer) {
    #[cfg(feature = "tls")]
    if net.state(id) == Some(State::Handshaking) {
        // The handler has gone over to TLS, and this is the peer's part of it.
        return net.feed_session(id, input.view());
    }
    net.touch(id, |conn, stream, cx| conn.keep_input(input, stream, cx));
    net.keep_within_budget(id);
}

/// Hands the handler what it left unused before, perhaps with new input behind it.
fn show<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId, mut input: ReadBuffer) {
    let used = call(net, id, |net| handler.on_data(net, id, input.view()));
    input.consume(used);
    if !input.is_empty() {
        keep(net, id, input);
    }
}

/// Flushes a connection that is still to be flushed, and lists what is left to do.
#[inline(always)]
fn finish<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
    if !net.flush_calmly(id) {
        finish_fully(net, handler, id);
    }
}

/// Flushes a connection, and lists what is left to do.
#[inline(never)]
pub(super) fn finish_fully<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
    if !flush(net, handler, id) {
        net.settle(id);
    }
}

/// Flushes a connection, takes whatever step towards its end is due, and tells of a drain. Returns
/// whether it is at rest.
#[inline]
fn flush<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) -> bool {
    let flushed = net.touch(id, |conn, stream, cx| {
        conn.listed.dirty = false;
        conn.flush(stream, cx);
        conn.advance(stream, cx);
        (conn.take_drain(), conn.is_at_rest(cx.terms.defaults))
    });
    let Some((drained, at_rest)) = flushed else { return true };
    if drained {
        call(net, id, |net| handler.on_drain(net, id));
        return false;
    }
    at_rest
}
