//! Handshakes of TLS: a bounded number of steps in a turn, after those who are in have been served.
//!
//! The first data of a client, if it has come with the end of its handshake, is read in the same step.
//!
//! A signature costs as much as a hundred echoes. Whoever can go on waits in a list of its own, not in
//! that of the connections that are ready, so that the ones who wait cost the others nothing.

use super::phases::call;
use super::serving::finish_fully;
use super::Reactor;
use crate::connection::Greeting;
use crate::handler::Handler;
use crate::id::ConnId;
use crate::net::Net;
use crate::transport::Transport;

impl Reactor {
    /// Steps of handshakes, as many as the configuration allows, until `is_spent` says that the turn is.
    pub(super) fn shake_hands<H: Handler + ?Sized>(&mut self, handler: &mut H, tenths: u32) {
        if self.net.has_no_greeters() {
            return;
        }
        self.net.forget_greeters();
        let mut left = self.net.config.handshakes_per_turn;
        for _ in 0..self.net.greeting.len() {
            let Some(id) = self.net.greeting.pop_front() else { break };
            let basis = self.net.now;
            let step = shake_hands(&mut self.net, &mut self.scratch, handler, id);
            if matches!(step, Greeting::Done { .. }) {
                self.read_kept(handler, id);
            }
            let Some(entry) = self.net.conns.get(id) else { continue };
            // It has been heard: the verdict can fall.
            if entry.conn.is_due() {
                self.net.judged.push_back((id, basis));
            }
            finish_fully(&mut self.net, handler, id);
            if step == Greeting::Idle {
                continue;
            }
            left -= 1;
            self.net.tick_over();
            if left == 0 || self.is_spent(tenths) {
                return;
            }
        }
    }

    /// Most clients send their first data with the end of the handshake. It need not wait for the next turn,
    /// and where the last read is known to have emptied the socket, no other has to find that out. What is
    /// queued goes out first, in its turn: it would be in the way of the answer.
    fn read_kept<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ConnId) {
        let scratch = &mut self.scratch;
        let kept = self.net.touch(id, |conn, stream, cx| {
            let wanted = conn.queued() == 0 && conn.may_read(cx.terms.defaults);
            wanted.then(|| stream.read_kept(scratch)).flatten()
        });
        if let Some(count) = kept.flatten() {
            // It is flushed at once.
            if let Some(entry) = self.net.conns.get_mut(id) {
                entry.conn.listed.dirty = true;
            }
            self.net.serving = Some(id);
            // One read is all that may go on here: the next is one of its turn.
            self.read(handler, id, 1, Some(Ok(count)));
            self.net.serving = None;
        }
    }
}

/// One step of one handshake.
fn shake_hands<H: Handler + ?Sized>(
    net: &mut Net,
    scratch: &mut [u8],
    handler: &mut H,
    id: ConnId,
) -> Greeting {
    let step = net.touch(id, |conn, stream, cx| {
        conn.listed.greeting = false;
        (conn.greet(stream, scratch, cx), conn.via())
    });
    let Some((step, via)) = step else { return Greeting::Idle };
    if matches!(step, Greeting::Done { .. }) {
        net.forget_deadline(id);
    }
    if step == (Greeting::Done { tell: true }) {
        net.stats.opened += 1;
        call(net, id, |net| handler.on_open(net, id, via));
    }
    step
}
