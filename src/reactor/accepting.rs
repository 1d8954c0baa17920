//! New clients: how many of them a turn takes in, and from whom first.

use super::phases::{call, share};
use super::Reactor;
use crate::addr::Addr;
use crate::close::CloseReason;
use crate::config::AtLimit;
use crate::connection::{Connection, State, Via};
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId};
use crate::listener::Step;
use crate::net::{Client, Deadline, Net, Stopping};
use crate::socket::Stream;
use crate::timers::Time;

/// Clients taken from one backlog at most when a shutdown empties it: as many as a backlog holds
/// under the usual limit of the system.
const LAST_ACCEPTS: u32 = 4096;

impl Reactor {
    /// New clients, after those who are in.
    pub(super) fn accept<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        if !self.net.listeners.iter().any(|(_, listener)| listener.is_ready()) {
            return;
        }
        let listeners = self.net.listeners.iter();
        let mut ready: Vec<_> = listeners.filter(|(_, l)| l.is_ready()).map(|(id, _)| id).collect();
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

    pub(super) fn accept_from<H: Handler + ?Sized>(&mut self, handler: &mut H, id: ListenerId) {
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
}

/// Takes in a client, or turns it away.
pub(super) fn admit<H: Handler + ?Sized>(
    net: &mut Net,
    handler: &mut H,
    listener: ListenerId,
    stream: Stream,
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
    let (id, registered) = net.add_client(conn, stream);
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
