//! What a turn does with what the poll brought.
//!
//! Every list that is worked on here belongs to the reactor and outlives the turn, and an entry is
//! taken off before its callback runs: a callback that panics costs its own connection only.

use std::time::Duration;

use super::Reactor;
use crate::addr::Addr;
use crate::close::CloseReason;
use crate::config::AtLimit;
use crate::connection::{Connection, Received, State, Via};
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId};
use crate::listener::Step;
use crate::mailbox::Command;
use crate::net::{why_all_failed, Called, Client, Deadline, Entry, Errand, Net, Stopping};
use crate::read_buffer::ReadBuffer;
use crate::socket::Stream;
use crate::timers::Time;

/// Clients taken from one backlog at most when a shutdown empties it: as many as a backlog holds
/// under the usual limit of the system.
const LAST_ACCEPTS: u32 = 4096;

/// Connections that are read from before they are all written to. Reading many and then writing
/// many costs less processor time than turning from one to the other; a larger batch brings nothing
/// more, and holds more memory meanwhile (`benches/NOTES.md`).
const BATCH: usize = 32;

/// A batch ends after this time as well: those who were served first have waited long enough.
const LONGEST_BATCH: Duration = Duration::from_millis(1);

/// Up to where in its slice a turn goes on with each phase, in tenths. What a phase does not need
/// is left to those behind it; one step of each is made in any case.
mod share {
    pub(super) const COMMANDS: u32 = 2;
    pub(super) const CONNECTIONS: u32 = 6;
    pub(super) const TIMERS: u32 = 7;
    pub(super) const ACCEPTS: u32 = 8;
    pub(super) const HANDSHAKES: u32 = 9;
    pub(super) const FLUSHES: u32 = 9;
    pub(super) const ENDS: u32 = 10;
}

/// Runs a callback of a connection, so that a panic can be laid at its door. The clock is read
/// behind it, for it may have taken long.
#[inline]
pub(super) fn call<R>(net: &mut Net, conn: ConnId, callback: impl FnOnce(&mut Net) -> R) -> R {
    net.calling = Some(conn);
    let result = callback(net);
    net.calling = None;
    net.tick_over();
    result
}

impl Reactor {
    /// The phases of a turn from the next one on. One that panics is over.
    pub(super) fn phases<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        loop {
            self.phase += 1;
            match self.phase {
                1 => self.carry_out_commands(handler),
                2 => self.take_deadlines(),
                3 => self.tell_of_others(handler),
                4 => self.serve_ready(handler),
                5 => self.fire_timers(handler),
                6 => self.shut_down(handler),
                7 => self.accept(handler),
                8 => self.shake_hands(handler, share::HANDSHAKES),
                9 => self.flush_dirty(handler),
                10 => self.judge(handler),
                11 => self.reap(handler),
                // Again, if it was a command of the last that panicked.
                _ => return self.end(handler),
            }
        }
    }

    /// When this turn has used up its slice so far.
    #[inline]
    fn spent_at(&self, tenths: u32) -> Time {
        self.began.plus(self.net.config.turn_slice / 10 * tenths)
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
        let mut batch_began = self.net.now;
        for _ in 0..self.net.ready.len() {
            let Some(id) = self.net.ready.pop_front() else { break };
            self.serve(handler, id);
            let full = self.net.served.len() >= BATCH;
            if full || self.net.now.since(batch_began) >= LONGEST_BATCH {
                self.flush_served(handler);
                batch_began = self.net.tick_over();
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
        self.read(handler, id);
        self.net.serving = None;
        self.net.mark_served(id);
    }

    /// Reads until nothing is left or wanted, or the budget of this turn is spent.
    fn read<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId) {
        let spent = self.spent_at(share::CONNECTIONS);
        let (net, scratch) = (&mut self.net, &mut self.scratch);
        let mut budget = net.config.read_budget;
        let mut more = true;
        while more && budget > 0 {
            let step = net.touch(id, |conn, stream, cx| {
                let wanted = conn.may_read(cx.terms.defaults);
                wanted.then(|| (conn.receive(stream, scratch, cx), conn.is_readable(), conn.shows_directly()))
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

    /// New clients, after those who are in.
    fn accept<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let listeners = self.net.listeners.iter();
        let mut ready: Vec<_> = listeners.filter(|(_, l)| l.is_ready()).map(|(id, _)| id).collect();
        if ready.is_empty() {
            return;
        }
        if self.net.stopping == Stopping::Draining {
            return self.accept_last(handler, &ready);
        }
        // Whose turn comes last in a turn that is cut short comes first in the next.
        let first = self.first_listener % ready.len();
        ready.rotate_left(first);
        for id in ready {
            self.accept_from(handler, id);
            if self.is_spent(share::ACCEPTS) {
                self.first_listener = self.first_listener.wrapping_add(1);
                break;
            }
        }
    }

    fn accept_from<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ListenerId) {
        for _ in 0..self.net.config.accepts_per_turn {
            if !self.accept_one(handler, id) || self.is_spent(share::ACCEPTS) {
                return;
            }
        }
    }

    /// A shutdown takes in whoever waits, for closing a listener resets them. A pass that finds
    /// nobody at any of them closes them all: no callback comes between, in which others could come.
    fn accept_last<H: Handler + ?Sized>(&mut self, handler: &mut H, ready: &[ListenerId]) {
        loop {
            let mut accepted = false;
            for id in ready {
                accepted |= self.accept_one(handler, *id);
            }
            let listeners = ready.iter().filter_map(|id| Some((*id, self.net.listeners.get(*id)?)));
            let empty: Vec<_> = listeners.filter(|(_, l)| l.is_empty()).map(|(id, _)| id).collect();
            if !accepted {
                return empty.into_iter().for_each(|id| self.net.drop_listener(id));
            }
            // They are asked once more, in this turn or in the next.
            for id in empty {
                if let Some(listener) = self.net.listeners.get_mut(id) {
                    listener.on_readable();
                }
            }
            if self.is_spent(share::ACCEPTS) {
                return;
            }
        }
    }

    /// Accepts one client. Returns whether it is worth trying for another.
    fn accept_one<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ListenerId) -> bool {
        let net = &mut self.net;
        if !net.listeners.get(id).is_some_and(|listener| listener.is_ready()) {
            return false;
        }
        let mut full = !net.reserve_place();
        let draining = net.stopping == Stopping::Draining;
        let stalled = net.stalled_handshake();
        let stalls_at = net.handshake_stalls_at();
        let waits = stalled.is_none() && net.config.at_limit == AtLimit::Wait;
        full = full && !(waits && net.await_place(true));
        let Some(listener) = net.listeners.get_mut(id) else { return false };
        if full && waits {
            listener.hold_at_limit(stalls_at);
            if stalls_at != Time::NEVER {
                net.deadlines.arm_single(stalls_at, Deadline::Listener(id));
            }
            return false;
        }
        // Who waits is turned away only when nobody is in who could go instead.
        let reserve = if stalled.is_none() { net.reserve.as_mut() } else { None };
        match listener.accept(net.now, reserve, &mut net.stats) {
            Step::Accepted(stream, peer) => {
                listener.acceptor.finish_accept(&stream, &net.config);
                let last = draining && listener.accepted_last() >= LAST_ACCEPTS;
                let hands_out = listener.hands_out;
                if full {
                    net.shed_handshake();
                    full = !net.reserve_place();
                }
                let client = Client { listener: id, stream, peer };
                let kept = if hands_out && !full { net.hand_out(client) } else { Some(client) };
                if let Some(Client { stream, peer, .. }) = kept {
                    let conn = admit(net, handler, id, stream, peer, full);
                    if draining {
                        net.close(conn);
                    }
                }
                if last {
                    net.drop_listener(id);
                }
                true
            }
            Step::GoOn => {
                net.give_place_back();
                true
            }
            Step::Empty => {
                net.give_place_back();
                false
            }
            Step::Pause(until) => {
                net.give_place_back();
                net.await_place(false);
                net.shed_handshake();
                net.deadlines.arm_single(until, Deadline::Listener(id));
                false
            }
            Step::Broken(error) => {
                log::error!("listener {id}: {error}");
                net.give_place_back();
                net.drop_listener(id);
                handler.on_listener_error(net, id, &error);
                net.tick_over();
                false
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
        if net.stopping != Stopping::Draining || net.now < net.stop_at() {
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
        self.cut_off_if_due();
        let began = self.net.now;
        for judged in 1..=self.net.judged.len() {
            let Some((id, basis)) = self.net.judged.pop_front() else { break };
            let net = &mut self.net;
            if net.conns.get_mut(id).is_some_and(|entry| entry.conn.take_alarm(basis, &net.defaults)) {
                call(net, id, |net| handler.on_deadline(net, id));
                finish(net, handler, id);
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
            let still = self.net.conns.get(id).is_some_and(|entry| entry.conn.listed.dirty);
            if still {
                finish(&mut self.net, handler, id);
            }
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

/// Looks whether a connection under way is established. Readiness is a hint here as well.
fn finish_connect<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
    let Some(entry) = net.conns.get_mut(id) else { return };
    let outcome = entry.stream.finish_connect();
    #[cfg(feature = "tls")]
    // A reset came after the connection was established.
    if matches!(outcome, Ok(true)) || outcome.as_ref().is_err_and(was_established) {
        net.secure(id);
    }
    let told = net.touch(id, |conn, stream, cx| match outcome {
        Err(error) if was_established(&error) => {
            let peer = conn.peer();
            let told = conn.opened(stream, peer, cx);
            conn.broken_at_birth(&error);
            told
        }
        // The peer stays the address that was asked for: what the system calls it may be less.
        Ok(true) => {
            let peer = conn.peer();
            conn.opened(stream, peer, cx)
        }
        Ok(false) => {
            // One that was taken in, was reset, and had its error asked for by somebody else: there will
            // be no event.
            if conn.is_arriving() && !stream.is_connecting() {
                conn.fail(&std::io::Error::from_raw_os_error(libc::ENOTCONN), stream, cx);
            }
            false
        }
        Err(error) => {
            conn.fail(&error, stream, cx);
            false
        }
    });
    let Some(via) = net.via(id) else { return };
    if told == Some(true) {
        net.stats.opened += 1;
        call(net, id, |net| handler.on_open(net, id, via));
    }
    if told.is_some() && via != Via::Connect && net.stopping == Stopping::Draining {
        net.close(id);
    }
}

/// Only an established connection is reset, a pending one is refused (tcp_reset in Linux).
fn was_established(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE))
}

/// Looks what has become of the attempts to reach a host.
fn go_on_calling<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
    match net.go_on_calling(id) {
        Called::Waits => {}
        Called::Failed => {
            let attempts = net.end_call(id, false);
            let error = why_all_failed(&attempts);
            net.touch(id, |conn, stream, cx| {
                conn.note_attempts(attempts);
                conn.fail(&error, stream, cx);
            });
        }
        Called::Won(stream, peer, pending) => {
            let mut attempts = net.end_call(id, false);
            // Those who were still under way have not failed, they have lost.
            attempts.retain(|attempt| attempt.errno != libc::EINPROGRESS);
            let registered = net.take_winner(id, stream);
            #[cfg(feature = "tls")]
            net.secure(id);
            let told = net.touch(id, |conn, stream, cx| {
                conn.note_attempts(attempts);
                if let Err(error) = registered {
                    conn.fail(&error, stream, cx);
                    return false;
                }
                let told = conn.opened(stream, Some(peer), cx);
                if let Some(error) = pending {
                    conn.broken_at_birth(&error);
                }
                told
            });
            if told == Some(true) {
                net.stats.opened += 1;
                call(net, id, |net| handler.on_open(net, id, Via::Connect));
            }
        }
    }
}

/// Takes in a client, or turns it away.
pub(super) fn admit<H: Handler + ?Sized>(
    net: &mut Net,
    handler: &mut H,
    listener: ListenerId,
    mut stream: Stream,
    peer: Option<Addr>,
    refuse: bool,
) -> ConnId {
    let via = Via::Listener(listener);
    let mut conn = Connection::new(State::Open, via, peer, net.now);
    if let Some(settings) = net.listeners.get(listener).and_then(|listener| listener.settings.clone()) {
        conn.set_settings(settings);
    }
    if refuse {
        let id = net.add(conn, stream);
        net.kill(id, CloseReason::Refused);
        return id;
    }
    let id = net.add(conn, Stream::None);
    let registered = stream.register(&net.system.registry, id.token());
    if let Some(entry) = net.conns.get_mut(id) {
        entry.stream = stream;
    }
    if let Err(error) = registered {
        net.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
        return id;
    }
    #[cfg(feature = "tls")]
    if net.secure_client(id, listener) {
        net.settle(id);
        return id;
    }
    net.stats.opened += 1;
    call(net, id, |net| handler.on_open(net, id, via));
    net.settle(id);
    id
}

/// Tries once more to connect to a Unix-domain socket whose backlog was full.
fn redial(net: &mut Net, id: ConnId) {
    let Some(Entry { stream, .. }) = net.conns.get_mut(id) else { return };
    let connect = std::mem::replace(stream, Stream::None).redial();
    net.connecting(id, connect);
    net.settle(id);
}

/// Hands new input to the handler: as it came when nothing older is unused, else behind that.
#[inline]
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
    let used = call(net, id, |net| handler.on_data(net, id, data));
    if let Some(rest @ [_, ..]) = data.get(used..) {
        let mut input = ReadBuffer::default();
        input.append(rest);
        keep(net, id, input);
    }
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

/// Flushes a connection, and lists what is left to do.
pub(super) fn finish<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
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
