//! What a turn does with what the poll brought.
//!
//! Every list that is worked on here belongs to the reactor and outlives the turn, and an entry is
//! taken off before its callback runs: a callback that panics costs its own connection only.

use super::Reactor;
use crate::addr::Addr;
use crate::close::CloseReason;
use crate::config::AtLimit;
use crate::connection::{Connection, Received, State, Via};
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId};
use crate::listener::Step;
use crate::mailbox::Command;
use crate::net::{Deadline, Entry, Net, Stopping};
use crate::read_buffer::ReadBuffer;
use crate::socket::Stream;
use crate::timers::Time;

/// Clients taken from one backlog at most when a shutdown empties it: as many as a backlog holds
/// under the usual limit of the system.
const LAST_ACCEPTS: usize = 4096;

/// Connections that are read from before they are all written to. Reading many and then writing
/// many costs less processor time than turning from one to the other; a larger batch brings nothing
/// more, and holds more memory meanwhile (`benches/NOTES.md`).
const BATCH: usize = 32;

/// Runs a callback of a connection, so that a panic can be laid at its door.
fn call<R>(net: &mut Net, conn: ConnId, callback: impl FnOnce(&mut Net) -> R) -> R {
    net.calling = Some(conn);
    let result = callback(net);
    net.calling = None;
    result
}

impl Reactor {
    /// The phases of a turn from the next one on. One that panics is over.
    pub(super) fn phases<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        loop {
            self.phase += 1;
            match self.phase {
                1 => self.carry_out_commands(handler),
                2 => {
                    // Before the deadlines of single connections: at a tie it is the shutdown that cuts them off.
                    self.cut_off_if_due();
                    self.fire_timers(handler);
                }
                3 => self.serve_ready(handler),
                4 => self.accept(handler),
                5 => self.shut_down(handler),
                6 => self.flush_dirty(handler),
                7 => self.reap(handler),
                _ => return,
            }
        }
    }

    /// Commands from other threads, a bounded number.
    fn carry_out_commands<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let net = &mut self.net;
        // Only when all that was taken before is done: what waits stays bounded by the mailbox.
        if self.woken && net.inbox.is_empty() {
            let collected = net.mailbox.collect(&mut net.inbox, net.config.commands_per_turn);
            self.woken = collected.more;
            if collected.wake {
                handler.on_wake(net);
            }
        }
        while let Some(command) = net.inbox.pop_front() {
            net.stats.commands += 1;
            match command {
                Command::Send(conn, data) => {
                    if net.send_bytes(conn, data.clone()).is_err() {
                        net.undelivered.push_back((conn, data));
                    }
                }
                Command::Close(conn) => net.close(conn),
                Command::Abort(conn) => net.abort(conn),
                Command::Run(task) => task(net),
                Command::Shutdown(deadline) => net.shutdown(deadline),
            }
        }
        self.give_back(handler);
    }

    /// Sends from other threads that could not be queued.
    fn give_back<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        while let Some((conn, data)) = self.net.undelivered.pop_front() {
            call(&mut self.net, conn, |net| handler.on_refused(net, conn, data));
        }
    }

    /// Timers due at this turn's `now`. Those they set come in a later turn.
    fn fire_timers<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let net = &mut self.net;
        let (now, batch) = (net.now, net.timers.batch());
        while let Some((at, deadline)) = net.timers.pop_due(now, batch) {
            match deadline {
                Deadline::Timer(timer) => match net.user_timers.remove(timer) {
                    Some(()) => handler.on_timer(net, timer),
                    None => net.timers.stale_popped(),
                },
                Deadline::Conn(conn) => expire(net, conn, at),
                Deadline::Listener(id) => {
                    if let Some(listener) = net.listeners.get_mut(id) {
                        listener.expire(now);
                    }
                }
                // `shut_down` looks at the clock itself.
                Deadline::Shutdown => {}
            }
        }
    }

    /// Each connection that was ready when the phase began, once. What is left of it goes behind
    /// the others, for the next turn.
    fn serve_ready<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        for _ in 0..self.net.ready.len() {
            let Some(id) = self.net.ready.pop_front() else { break };
            self.serve(handler, id);
            if self.net.served.len() >= BATCH {
                self.flush_served(handler);
            }
        }
        self.flush_served(handler);
    }

    /// Those that were read from, in their order.
    fn flush_served<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        for _ in 0..self.net.served.len() {
            let Some(id) = self.net.served.pop_front() else { break };
            finish(&mut self.net, handler, id);
        }
    }

    fn serve<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId) {
        let net = &mut self.net;
        let Some(Entry { conn, stream }) = net.conns.get_mut(id) else { return };
        conn.listed.ready = false;
        let mut old_business = conn.has_old_business();
        if conn.state() == State::Connecting {
            if stream.is_dialing() {
                return net.settle(id);
            }
            finish_connect(net, handler, id);
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
        let (net, scratch) = (&mut self.net, &mut self.scratch);
        let mut budget = net.config.read_budget;
        let mut more = true;
        while more && budget > 0 {
            let step = net.touch(id, |conn, stream, cx| {
                let wanted = conn.may_read(cx.config);
                wanted
                    .then(|| (conn.receive(stream, scratch, cx), conn.is_readable(), conn.has_unused_input()))
            });
            let Some((received, readable, unused)) = step.flatten() else { break };
            more = readable;
            // Whatever a read brings, it costs: an interrupted one must not be tried for ever.
            let count = match received {
                Received::Data(count) => {
                    deliver(net, handler, id, scratch.get(..count).unwrap_or_default(), unused);
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
        }
    }

    /// New clients, after those who are in.
    fn accept<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if self.net.stopping == Stopping::No {
            let budget = self.net.config.accepts_per_turn;
            self.accept_from_all(handler, budget);
        }
    }

    fn accept_from_all<H: Handler + ?Sized>(&mut self, handler: &mut H, budget: usize) {
        let listeners = self.net.listeners.iter();
        let ready: Vec<_> = listeners.filter(|(_, l)| l.is_ready()).map(|(id, _)| id).collect();
        for id in ready {
            self.accept_from(handler, id, budget);
        }
    }

    fn accept_from<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ListenerId, budget: usize) {
        let net = &mut self.net;
        for _ in 0..budget {
            let full =
                net.config.max_connections.is_some_and(|most| net.conns.len() - net.dead.len() >= most);
            let Some(listener) = net.listeners.get_mut(id) else { return };
            if !listener.is_ready() {
                return;
            }
            if full && net.config.at_limit == AtLimit::Wait {
                return listener.hold_at_limit();
            }
            match listener.accept(net.now, net.reserve.as_mut(), &mut net.stats) {
                Step::Accepted(stream, peer) => {
                    listener.acceptor.finish_accept(&stream, &net.config);
                    admit(net, handler, id, stream, peer, full);
                }
                Step::GoOn => {}
                Step::Stop => {
                    let retry = listener.retry_at();
                    return net.timers.arm(retry, Deadline::Listener(id));
                }
                Step::Broken(error) => {
                    log::error!("listener {id}: {error}");
                    net.close_listener(id);
                    return handler.on_listener_error(net, id, &error);
                }
            }
        }
    }

    /// The steps of a shutdown: first the clients that wait are taken in, for closing a listener
    /// resets them; then everybody is told to close; at the deadline whoever is left is cut off.
    fn shut_down<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if self.net.stopping == Stopping::Asked {
            // Those who came since the poll have brought no event yet.
            for id in self.net.listeners.ids().collect::<Vec<_>>() {
                if let Some(listener) = self.net.listeners.get_mut(id) {
                    listener.on_readable();
                }
            }
            self.accept_from_all(handler, LAST_ACCEPTS);
            for listener in self.net.listeners.ids().collect::<Vec<_>>() {
                self.net.close_listener(listener);
            }
            self.net.stopping = Stopping::Draining;
            for conn in self.net.conns.ids().collect::<Vec<_>>() {
                self.net.close(conn);
            }
        }
        self.cut_off_if_due();
    }

    /// Cuts off whoever is left when the shutdown's deadline has passed.
    fn cut_off_if_due(&mut self) {
        if self.net.now >= self.net.stop_at {
            for conn in self.net.conns.ids().collect::<Vec<_>>() {
                self.net.kill(conn, CloseReason::Shutdown);
            }
        }
    }

    /// Each connection that was written to or meddled with by other callbacks than its own, once.
    fn flush_dirty<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        // Those whose batch was cut short by a panic.
        self.flush_served(handler);
        for _ in 0..self.net.dirty.len() {
            // Those that are added on the way come behind, and in the next turn.
            let Some(id) = self.net.dirty.pop_front() else { break };
            let still = self.net.conns.get(id).is_some_and(|entry| entry.conn.listed.dirty);
            if still {
                finish(&mut self.net, handler, id);
            }
        }
    }

    /// Reports those that have ended, and frees what they held. A freed descriptor is what a
    /// listener that ran out of them waits for, and the kernel will not say that it is there.
    fn reap<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if self.net.dead.is_empty() {
            return;
        }
        // Those that `on_refused` ends on the way have not been gathered for.
        let count = self.net.dead.len();
        self.net.gather_undelivered();
        self.give_back(handler);
        // Those that a callback ends on the way are reported in the next turn: a handler that
        // connects anew in `on_close`, and fails at once, must not keep this one going.
        for _ in 0..count {
            self.report_first(handler);
        }
        let mut owed = Vec::new();
        for id in self.net.listeners.ids().collect::<Vec<_>>() {
            if self.net.listeners.get_mut(id).is_some_and(|listener| listener.on_freed()) {
                owed.push(id);
            }
        }
        for id in owed {
            self.accept_from(handler, id, self.net.config.accepts_per_turn);
        }
    }

    /// Reports the first of the dead. It leaves the list last of all, so that a panic in its
    /// callback does not keep its slot and its socket for ever.
    fn report_first<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let net = &mut self.net;
        let Some(&id) = net.dead.front() else { return };
        let now = net.now;
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
    let told = net.touch(id, |conn, stream, cx| match stream.finish_connect() {
        // Only an established connection is reset, a pending one is refused (tcp_reset in Linux).
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)) => {
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
        Ok(false) => false,
        Err(error) => {
            conn.fail(&error, stream, cx);
            false
        }
    });
    if told == Some(true) {
        net.stats.opened += 1;
        call(net, id, |net| handler.on_open(net, id, Via::Connect));
    }
}

/// Takes in a client, or turns it away.
fn admit<H: Handler + ?Sized>(
    net: &mut Net,
    handler: &mut H,
    listener: ListenerId,
    mut stream: Stream,
    peer: Option<Addr>,
    refuse: bool,
) {
    let via = Via::Listener(listener);
    let conn = Connection::new(State::Open, via, peer, net.now);
    if refuse {
        let id = net.add(conn, stream);
        return net.kill(id, CloseReason::Refused);
    }
    let id = net.add(conn, Stream::None);
    let registered = stream.register(&net.system.registry, id.token());
    if let Some(entry) = net.conns.get_mut(id) {
        entry.stream = stream;
    }
    if let Err(error) = registered {
        net.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
        return;
    }
    net.stats.opened += 1;
    call(net, id, |net| handler.on_open(net, id, via));
    net.settle(id);
}

/// A deadline of a connection came up. An entry that is not the connection's own any more is left
/// over from an earlier deadline.
fn expire(net: &mut Net, id: ConnId, at: Time) {
    let Some(Entry { conn, stream }) = net.conns.get_mut(id) else {
        return net.timers.stale_popped();
    };
    if conn.armed != at {
        return net.timers.stale_popped();
    }
    conn.armed = Time::NEVER;
    // What came meanwhile may make it untrue: it is served first, and settled after that.
    if conn.listed.ready && !conn.is_dead() {
        return;
    }
    if stream.is_dialing() && !conn.is_dead() {
        let connect = std::mem::replace(stream, Stream::None).redial();
        net.connecting(id, connect);
    }
    net.touch(id, |conn, stream, cx| conn.expire(stream, cx));
    net.settle(id);
}

/// Hands new input to the handler: as it came when nothing older is unused, else behind that.
#[inline]
fn deliver<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId, data: &[u8], unused: bool) {
    if unused {
        let Some(Entry { conn, .. }) = net.conns.get_mut(id) else { return };
        let input = conn.take_input_with(data);
        return show(net, handler, id, input);
    }
    let used = call(net, id, |net| handler.on_data(net, id, data));
    if let Some(rest @ [_, ..]) = data.get(used..) {
        let mut input = ReadBuffer::default();
        input.append(rest);
        net.touch(id, |conn, stream, cx| conn.keep_input(input, stream, cx));
    }
}

/// Hands the handler what it left unused before, perhaps with new input behind it.
fn show<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId, mut input: ReadBuffer) {
    let used = call(net, id, |net| handler.on_data(net, id, input.view()));
    input.consume(used);
    if !input.is_empty() {
        net.touch(id, |conn, stream, cx| conn.keep_input(input, stream, cx));
    }
}

/// Flushes a connection, and lists what is left to do.
fn finish<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
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
        (conn.take_drain(), conn.is_at_rest(cx.config))
    });
    let Some((drained, at_rest)) = flushed else { return true };
    if drained {
        call(net, id, |net| handler.on_drain(net, id));
        return false;
    }
    at_rest
}
