//! What the two kernels of a connection make of its packets: data and acknowledgements, ends and
//! resets, and how long they wait for somebody who is gone.

use super::peer::PeerState;
use super::socket::{Phase, Side, SockId};
use super::world::{Packet, What, World, MILLI};

impl World {
    fn is_dark(&self, id: SockId) -> bool {
        let side = |id: &SockId| self.socks.get(id).map(|sock| sock.side);
        let dark = |side| match side {
            Some(Side::Peer(peer)) => self.peers.get(peer).is_some_and(|peer: &PeerState| peer.dark),
            _ => false,
        };
        let other = self.socks.get(&id).and_then(|sock| sock.other);
        dark(side(&id)) || dark(other.as_ref().and_then(side))
    }

    pub(super) fn arrive(&mut self, from: SockId, id: SockId, packet: Packet) {
        if self.is_dark(id) || self.is_dark(from) {
            self.held.push((from, id, packet));
            return;
        }
        let now = self.now;
        let Some(sock) = self.socks.get_mut(&id) else {
            // Nobody there knows of the connection.
            if matches!(packet, Packet::Data(_) | Packet::Fin) {
                let at = now + self.latency();
                self.schedule(at, What::Packet(id, from, Packet::Reset));
            }
            return;
        };
        sock.heard = now;
        match packet {
            Packet::Data(data) => {
                sock.inbound -= data.len();
                if sock.phase == Phase::Closed {
                    return;
                }
                if sock.orphan && sock.pipe.is_some() {
                    return;
                }
                if sock.orphan {
                    // Nobody will read it: the sender is told so, and our own tail goes with it.
                    self.note(|world| {
                        format!("{}: data for a closed socket is answered with a reset", world.name(id))
                    });
                    return self.reset_and_free(id);
                }
                sock.receive(&data, now);
                self.transmit(id, Packet::Ack(data.len()));
                self.wake(id);
            }
            Packet::Fin => {
                if sock.phase == Phase::Closed {
                    return;
                }
                sock.fin_in = true;
                sock.times.fin = now;
                self.transmit(id, Packet::FinAck);
                self.wake(id);
                self.free_if_done(id);
            }
            Packet::Ack(count) => {
                if sock.phase == Phase::Closed {
                    return;
                }
                sock.acknowledge(count, now);
                if sock.no_space && sock.is_writable() {
                    sock.no_space = false;
                    sock.times.room = now;
                    self.wake(id);
                }
            }
            Packet::FinAck => {
                if sock.phase == Phase::Closed {
                    return;
                }
                sock.fin_acked = true;
                self.wake(id);
                self.free_if_done(id);
            }
            Packet::Window => self.pump(id),
            Packet::Reset => {
                if sock.phase == Phase::Closed {
                    return;
                }
                sock.fail(sock.reset_errno(), now);
                self.note(|world| format!("{}: a reset arrives", world.name(id)));
                self.wake(id);
                self.free_if_done(id);
            }
            Packet::Established => {
                sock.phase = Phase::Open;
                (sock.times.opened, sock.times.data, sock.times.ack, sock.times.taken) = (now, now, now, now);
                self.wake(id);
                self.pump(id);
            }
        }
    }

    pub(super) fn free_if_done(&mut self, id: SockId) {
        if self.socks.get(&id).is_some_and(|sock| sock.orphan && sock.is_done()) {
            self.free(id);
        }
    }

    /// Takes a socket out of the world. Packets still on their way to it find nobody.
    fn free(&mut self, id: SockId) {
        self.socks.remove(&id);
    }

    /// Resets the connection and forgets this end of it.
    pub(crate) fn reset_and_free(&mut self, id: SockId) {
        if self.is_pipe(id) {
            return self.close_pipe(id);
        }
        if self.socks.get(&id).is_some_and(|sock| sock.phase != Phase::Closed) {
            self.transmit(id, Packet::Reset);
        }
        self.free(id);
    }

    /// What `close` does. With input unread, or with `SO_LINGER` zero, it is a reset, which
    /// destroys what the other end has not been sent; otherwise the kernel finishes the stream.
    pub(crate) fn close(&mut self, id: SockId) {
        let Some(sock) = self.socks.get_mut(&id) else { return };
        sock.token = None;
        if sock.pipe.is_some() {
            return self.close_pipe(id);
        }
        let unread = !sock.input.is_empty();
        if sock.linger_zero || unread || sock.phase != Phase::Open {
            return self.reset_and_free(id);
        }
        sock.orphan = true;
        sock.shut = true;
        self.pump(id);
        self.free_if_done(id);
    }

    /// Somebody on the way, or an administrator, resets both ends.
    pub(crate) fn cut(&mut self, id: SockId) {
        let now = self.now;
        let Some(sock) = self.socks.get(&id) else { return };
        if sock.phase == Phase::Open {
            let errno = sock.reset_errno();
            self.note(|world| format!("{}: the connection is cut on the way", world.name(id)));
            self.transmit(id, Packet::Reset);
            if let Some(sock) = self.socks.get_mut(&id) {
                sock.fail(errno, now);
            }
            self.wake(id);
        }
    }

    /// Room was made: the other end may send on.
    pub(crate) fn after_read(&mut self, id: SockId) {
        self.note_taken(id);
        let waits = self.socks.get(&id).and_then(|sock| self.socks.get(&sock.other?));
        if waits.is_some_and(|other| !other.output.is_empty()) {
            self.transmit(id, Packet::Window);
        }
    }

    /// Begins to look whether the other end still takes and acknowledges anything.
    pub(crate) fn start_watch(&mut self, id: SockId) {
        let Some(sock) = self.socks.get_mut(&id) else { return };
        let has_timeouts = sock.keepalive.is_some() || sock.user_timeout.is_some();
        if has_timeouts && !std::mem::replace(&mut sock.watched, true) {
            self.schedule(self.now + 500 * MILLI, What::Watch(id));
        }
    }

    /// Keepalive tells of a dead peer while nothing is unacknowledged, `TCP_USER_TIMEOUT` while
    /// something is; the latter also of a live one that takes nothing.
    pub(super) fn watch(&mut self, id: SockId) {
        let (dark, now) = (self.is_dark(id), self.now);
        let Some(sock) = self.socks.get_mut(&id) else { return };
        sock.watched = false;
        if sock.phase != Phase::Open {
            return;
        }
        let pending = sock.flight > 0 || !sock.output.is_empty();
        let limit = match pending {
            true => sock.user_timeout.map(|timeout| sock.progress + timeout),
            false if dark => sock.keepalive.map(|time| sock.heard + time),
            false => None,
        };
        if limit.is_some_and(|at| now >= at) {
            sock.fail(libc::ETIMEDOUT, now);
            self.note(|world| format!("{}: the kernel gives the peer up", world.name(id)));
            self.wake(id);
            self.free_if_done(id);
        } else if limit.is_some() {
            self.start_watch(id);
        }
    }

    /// A peer drops off the network, or is back: with or without its memory.
    pub(crate) fn set_dark(&mut self, peer: usize, dark: bool, forget: bool) {
        let id = self.peers.get(peer).and_then(|state| state.sock);
        // Nothing is between the ends of a pipe.
        if let Some(id) = id.filter(|id| self.is_pipe(*id)) {
            if forget {
                self.close_pipe(id);
            }
            return;
        }
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.dark = dark;
        let Some(id) = id else { return };
        if dark {
            if let Some(other) = self.socks.get(&id).and_then(|sock| sock.other) {
                self.start_watch(other);
            }
            return;
        }
        if forget {
            // The next packet from the other end finds nobody who knows of it.
            state.sock = None;
            self.forget(id);
        }
        for (from, to, packet) in std::mem::take(&mut self.held) {
            self.arrive(from, to, packet);
        }
    }

    /// A machine that came back without its memory answers whatever it is sent with a reset, and
    /// the other end's kernel sends something sooner or later.
    fn forget(&mut self, id: SockId) {
        let Some(sock) = self.socks.get(&id) else { return };
        let other = sock.other.and_then(|other| self.socks.get(&other));
        let speaks = other.is_some_and(|other| other.flight > 0 || !other.output.is_empty() || other.shut);
        if speaks || other.is_some_and(|other| other.keepalive.is_some()) {
            self.reset_and_free(id);
        } else {
            self.free(id);
        }
    }
}
