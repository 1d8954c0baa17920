//! Serving connections: each that is ready is read from, its handler is called, and a batch of them is
//! flushed together.

use std::io;
use std::time::Duration;

use super::connecting::{finish_connect, go_on_calling, redial};
use super::phases::{call, share};
use super::Reactor;
use crate::connection::{Received, State};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::net::{Entry, Net};
use crate::read_buffer::ReadBuffer;
use crate::timers::Time;
use crate::transport::Transport;

/// Connections that are read from before they are all written to. Reading many and then writing
/// many costs less processor time than turning from one to the other; a larger batch brings nothing
/// more, and holds more memory meanwhile (`benches/NOTES.md`).
pub(super) const BATCH: usize = 32;

/// A batch ends after this time as well: those who were served first have waited long enough.
const LONGEST_BATCH: Duration = Duration::from_millis(1);

impl Reactor {
    /// Each connection that was ready when the phase began, once. What is left of it goes behind
    /// the others, for the next turn.
    pub(super) fn serve_ready<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let mut batch_ends = self.net.now.plus(LONGEST_BATCH);
        let spent = self.spent_at(share::CONNECTIONS);
        for _ in 0..self.net.ready.len() {
            let Some(id) = self.net.ready.pop_front() else { break };
            if !self.serve_calmly(handler, id, spent) {
                self.serve(handler, id, None);
            }
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
    pub(super) fn flush_served<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        let began = self.net.now;
        while let Some(id) = self.net.served.pop_front() {
            finish(&mut self.net, handler, id);
            if self.net.now > began && self.is_spent(share::FLUSHES) {
                break;
            }
        }
    }

    /// The usual case: new input is all there is to see to, and one read brings all of it. False when the
    /// connection is still to be served.
    #[inline(always)]
    fn serve_calmly<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId, spent: Time) -> bool {
        let net = &mut self.net;
        let Some(Entry { conn, stream }) = net.conns.get_mut(id) else { return true };
        conn.listed.ready = false;
        if !conn.only_reads() {
            return false;
        }
        let room = self.scratch.len();
        let count = match stream.read(&mut self.scratch) {
            Ok(count @ 1..) => count,
            outcome => {
                self.serve(handler, id, Some(outcome));
                return true;
            }
        };
        conn.note_read(count, net.now, &mut net.stats);
        let more = count == room || conn.more_hint() || !stream.short_read_empties();
        conn.set_readable(more);
        // Its turn to be flushed is that of its batch, whatever it sends meanwhile.
        conn.listed.dirty = true;
        net.served.push_back(id);
        net.serving = Some(id);
        // No read brings more than there is room for.
        deliver_directly(net, handler, id, self.scratch.get(..count).unwrap_or_default());
        if more && net.now < spent {
            self.read(handler, id, self.net.config.read_budget.saturating_sub(count), None);
        }
        self.net.serving = None;
        true
    }

    /// All steps of a connection but its flush. The result of a first read may be there already: then there is
    /// nothing else to see to.
    #[inline(never)]
    fn serve<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId, ahead: Option<io::Result<usize>>) {
        if ahead.is_none() && !self.see_to_old_business(handler, id) {
            return;
        }
        self.net.mark_served(id);
        self.net.serving = Some(id);
        self.read(handler, id, self.net.config.read_budget, ahead);
        self.net.serving = None;
    }

    /// What is to be done before new input is read. Returns whether it is to be.
    fn see_to_old_business<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId) -> bool {
        let net = &mut self.net;
        let Some(Entry { conn, stream }) = net.conns.get_mut(id) else { return false };
        // Who is still shaking hands is heard in a later phase.
        if conn.is_due() && !conn.may_greet() {
            // All that comes up to here is about to be read.
            let basis = net.now;
            net.judged.push_back((id, basis));
        }
        let mut old_business = conn.has_old_business();
        if conn.state() == State::Connecting {
            if stream.is_dialing() {
                redial(net, id);
                return false;
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
        true
    }

    /// Reads until nothing is left or wanted, or the budget of this turn is spent. The result of the first
    /// read may be there already.
    pub(super) fn read<H: Handler + ?Sized>(
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
pub(super) fn finish<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
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
