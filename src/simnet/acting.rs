//! What the peers do when it is their turn: connecting, reading, and the steps of their scripts.

use bytes::Bytes;

use super::peer::{End, PeerState, Reading, Remote, Script, Step};
use super::socket::{Phase, Side, SockId};
use super::world::{Knock, Packet, Ready, World, MICRO, MILLI};

/// A SYN is sent again after a second.
const SYN_RETRY: u64 = 1_000 * MILLI;

/// What came of a step.
enum Outcome {
    Done,
    /// Something must happen first.
    Blocked,
    /// The socket is gone.
    Ended,
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

impl World {
    /// A peer's turn: it reads what it wants to, then goes on with its script.
    pub(crate) fn act(&mut self, peer: usize) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.scheduled = false;
        let Some(id) = state.sock else { return };
        if self.socks.get(&id).is_none_or(|sock| sock.phase == Phase::Connecting) {
            return;
        }
        if !self.begins_session(peer) {
            self.peer_reads(peer, id);
        }
        if let Err(errno) = self.flush_session(peer, id) {
            self.peer_cannot_send(peer, errno);
        }
        loop {
            let Some(step) = self.peers.get(peer).and_then(|state| state.script.steps.front().cloned())
            else {
                break;
            };
            match self.step(peer, id, step) {
                Outcome::Done => {
                    if let Some(state) = self.peers.get_mut(peer) {
                        state.script.steps.pop_front();
                        (state.offset, state.until) = (0, None);
                    }
                }
                Outcome::Blocked => return,
                Outcome::Ended => return self.peer_leaves(peer),
            }
        }
        if self.peers.get(peer).is_some_and(|state| state.end.is_some()) && self.ends_session(peer, id) {
            self.close(id);
            self.peer_leaves(peer);
        }
    }

    /// What is there belongs to the session that a peer is about to begin.
    fn begins_session(&self, peer: usize) -> bool {
        #[cfg(feature = "tls")]
        let begins = |state: &PeerState| matches!(state.script.steps.front(), Some(Step::Secure { .. }));
        #[cfg(not(feature = "tls"))]
        let begins = |_: &PeerState| false;
        self.peers.get(peer).is_some_and(begins)
    }

    /// Ends the session of a peer that is about to end its stream. Returns whether that has been sent, or
    /// cannot be.
    fn ends_session(&mut self, peer: usize, id: SockId) -> bool {
        if let Some(state) = self.peers.get_mut(peer) {
            state.end_session();
        }
        self.flush_session(peer, id).unwrap_or(true)
    }

    fn peer_leaves(&mut self, peer: usize) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.sock = None;
            state.script.steps.clear();
        }
    }

    fn peer_reads(&mut self, peer: usize, id: SockId) {
        let now = self.now;
        let Some(state) = self.peers.get_mut(peer) else { return };
        let Some(sock) = self.socks.get_mut(&id) else { return };
        if state.end.is_some() {
            return;
        }
        let most = match state.reading {
            _ if state.is_handshaking() => usize::MAX,
            Reading::Eager => usize::MAX,
            Reading::Never => return,
            Reading::Slow { .. } if now < state.next_read => return self.read_later(peer, id),
            Reading::Slow { bytes, .. } => bytes.max(1),
        };
        let mut buf = vec![0; most.min(sock.input.len()).max(1)];
        match sock.read(&mut buf) {
            Ok(0) => {
                state.end = Some(state.write_error.map_or(End::Eof, End::Error));
                state.was_cut = state.is_cut();
            }
            Ok(count) => {
                if let Err(what) = state.open(buf.get(..count).unwrap_or_default()) {
                    self.accuse(|| format!("peer {peer} cannot read its session: {what}"));
                }
            }
            Err(libc::EAGAIN) => return,
            Err(errno) => state.end = Some(End::Error(errno)),
        }
        let Some(state) = self.peers.get_mut(peer) else { return };
        if let Some(end) = state.end {
            return self.note(|_| format!("peer {peer}: reads the end of the stream: {end:?}"));
        }
        if let Reading::Slow { every, .. } = state.reading {
            state.next_read = now + nanos(every).max(10 * MICRO);
        }
        self.after_read(id);
        self.read_later(peer, id);
    }

    /// Comes back for what is left to be read. A reader that has read all is woken by what comes:
    /// a quiet world stays quiet.
    fn read_later(&mut self, peer: usize, id: SockId) {
        let (Some(state), Some(sock)) = (self.peers.get_mut(peer), self.socks.get(&id)) else { return };
        let more =
            !sock.input.is_empty() || sock.fin_in || sock.error.is_some() || sock.phase == Phase::Closed;
        let at = state.next_read.max(self.now + MICRO);
        // One return at a time is enough.
        if more && state.returns_at <= self.now {
            state.returns_at = at;
            self.schedule_peer(peer, at);
        }
    }

    fn step(&mut self, peer: usize, id: SockId, step: Step) -> Outcome {
        let now = self.now;
        let Some(state) = self.peers.get_mut(peer) else { return Outcome::Ended };
        match step {
            Step::Send(data) => self.peer_sends(peer, id, &data, usize::MAX),
            Step::SendSlowly { data, piece, every } => {
                if state.until.is_some_and(|until| now < until) {
                    return Outcome::Blocked;
                }
                let end = data.len().min(state.offset + piece);
                match self.peer_sends(peer, id, &data.slice(..end), piece) {
                    Outcome::Done if end < data.len() => {
                        if let Some(state) = self.peers.get_mut(peer) {
                            state.until = Some(now + nanos(every));
                        }
                        self.schedule_peer(peer, now + nanos(every).max(2 * MICRO));
                        Outcome::Blocked
                    }
                    outcome => outcome,
                }
            }
            Step::Wait(time) => {
                let until = *state.until.get_or_insert(now + nanos(time));
                if now >= until {
                    return Outcome::Done;
                }
                self.schedule_peer(peer, until);
                Outcome::Blocked
            }
            Step::AwaitBytes(count) if state.received.len() < count && state.end.is_none() => {
                Outcome::Blocked
            }
            Step::AwaitEnd if state.end.is_none() => Outcome::Blocked,
            Step::AwaitBytes(_) | Step::AwaitEnd => Outcome::Done,
            Step::Read(reading) => {
                state.reading = reading;
                state.next_read = now;
                self.note(|_| format!("peer {peer}: reads {reading:?} from here on"));
                self.peer_reads(peer, id);
                Outcome::Done
            }
            Step::HalfClose => {
                if !self.ends_session(peer, id) {
                    return Outcome::Blocked;
                }
                self.note(|_| format!("peer {peer}: ends its stream"));
                if let Some(sock) = self.socks.get_mut(&id) {
                    sock.shut = true;
                }
                self.pump(id);
                Outcome::Done
            }
            Step::Close => {
                // It does not wait for room, as programs that end do not.
                self.ends_session(peer, id);
                self.note(|_| format!("peer {peer}: closes"));
                self.close(id);
                Outcome::Ended
            }
            Step::Reset => {
                self.note(|_| format!("peer {peer}: resets the connection"));
                self.reset_and_free(id);
                Outcome::Ended
            }
            Step::Vanish => {
                self.note(|_| format!("peer {peer}: drops off the network"));
                self.set_dark(peer, true, false);
                Outcome::Done
            }
            Step::Return => {
                self.note(|_| format!("peer {peer}: is back on the network"));
                self.set_dark(peer, false, false);
                Outcome::Done
            }
            #[cfg(feature = "tls")]
            Step::Secure { is_polite } => {
                state.secure(is_polite);
                self.note(|_| format!("peer {peer}: begins a session"));
                self.peer_reads(peer, id);
                if let Err(errno) = self.flush_session(peer, id) {
                    self.peer_cannot_send(peer, errno);
                }
                Outcome::Done
            }
            Step::Reboot => {
                self.note(|_| format!("peer {peer}: is back and remembers nothing"));
                self.set_dark(peer, false, true);
                Outcome::Ended
            }
        }
    }

    fn peer_sends(&mut self, peer: usize, id: SockId, data: &Bytes, most: usize) -> Outcome {
        let (Some(state), Some(sock)) = (self.peers.get_mut(peer), self.socks.get_mut(&id)) else {
            return Outcome::Ended;
        };
        let rest = data.get(state.offset..).unwrap_or_default();
        let sent = match state.is_secured() {
            true => self.peer_seals(peer, id, rest, most),
            false => sock.write(rest.iter(), rest.len(), most),
        };
        let Some(state) = self.peers.get_mut(peer) else { return Outcome::Ended };
        match sent {
            Ok(taken) => {
                state.sent.extend(rest.iter().take(taken));
                state.offset += taken;
                let done = state.offset >= data.len();
                self.note(|_| format!("peer {peer}: sends {taken} bytes"));
                self.pump(id);
                if done {
                    Outcome::Done
                } else {
                    Outcome::Blocked
                }
            }
            Err(libc::EAGAIN) => Outcome::Blocked,
            Err(errno) => {
                self.peer_cannot_send(peer, errno);
                Outcome::Blocked
            }
        }
    }

    /// A program that catches the error, sends no more and reads what there is. The error will not be told
    /// again: it remembers it.
    fn peer_cannot_send(&mut self, peer: usize, errno: i32) {
        self.note(|_| format!("peer {peer}: cannot send: errno {errno}"));
        if let Some(state) = self.peers.get_mut(peer) {
            state
                .script
                .steps
                .retain(|step| !matches!(step, Step::Send(_) | Step::SendSlowly { .. } | Step::HalfClose));
            (state.offset, state.until) = (0, None);
            if errno != libc::EPIPE {
                state.write_error = Some(errno);
            }
        }
        self.schedule_peer(peer, self.now + MICRO);
    }

    /// A connect reaches the other side.
    pub(crate) fn knock(&mut self, knock: Knock) {
        match knock {
            Knock::Peer(peer) => self.peer_knocks(peer),
            Knock::Engine(id, addr) => {
                let (now, remote) = (self.now, self.remotes.get(&addr).cloned());
                match remote {
                    Some(Remote::Serves(script)) => self.remote_answers(id, addr, script),
                    Some(Remote::Silent) => {}
                    Some(Remote::Refuses) | None => {
                        if let Some(sock) = self.socks.get_mut(&id) {
                            // The SYN stays counted as unacknowledged.
                            sock.shut = true;
                            sock.fail(libc::ECONNREFUSED, now);
                            self.note(|_| format!("{addr}: refuses the connection"));
                            self.wake(id);
                        }
                    }
                }
            }
        }
    }

    fn remote_answers(&mut self, id: SockId, addr: std::net::SocketAddr, script: Script) {
        if !self.socks.contains_key(&id) {
            return;
        }
        let peer = self.peers.len();
        let mut state = PeerState::new(addr, None, script);
        let there = self.add_sock(Side::Peer(peer), Phase::Open);
        state.sock = Some(there);
        self.peers.push(state);
        if let Some(sock) = self.socks.get_mut(&there) {
            sock.other = Some(id);
        }
        if let Some(sock) = self.socks.get_mut(&id) {
            (sock.other, sock.peer) = (Some(there), Some(peer));
        }
        self.note(|_| format!("peer {peer}: accepts the connection to {addr}"));
        self.transmit(there, Packet::Established);
        self.schedule_peer(peer, self.now);
    }

    /// A client's SYN: taken while the accept queue has room, sent again while not.
    fn peer_knocks(&mut self, peer: usize) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let Some(server) = state.server else { return };
        state.tries += 1;
        let tries = state.tries;
        let found = self.listeners.iter_mut().find(|(_, listener)| listener.addr == server);
        let Some((&listener, place)) = found else {
            if let Some(state) = self.peers.get_mut(peer) {
                state.end = Some(End::Error(libc::ECONNREFUSED));
                state.script.steps.clear();
            }
            return self.note(|_| format!("peer {peer}: connection refused"));
        };
        if place.queue.len() > place.backlog {
            self.note(|_| format!("peer {peer}: the accept queue is full"));
            if tries < 6 {
                self.schedule_knock(Knock::Peer(peer), self.now + SYN_RETRY);
            }
            return;
        }
        let theirs = self.add_sock(Side::Peer(peer), Phase::Connecting);
        let ours = self.add_sock(Side::Engine, Phase::Open);
        for (id, other) in [(theirs, ours), (ours, theirs)] {
            if let Some(sock) = self.socks.get_mut(&id) {
                sock.other = Some(other);
            }
        }
        if let Some(state) = self.peers.get_mut(peer) {
            state.sock = Some(theirs);
        }
        if let (Some(place), Some(sock)) = (self.listeners.get_mut(&listener), self.socks.get_mut(&ours)) {
            (sock.keepalive, sock.user_timeout) = (place.keepalive, place.user_timeout);
            sock.peer = Some(peer);
            place.queue.push_back(ours);
        }
        self.note(|_| format!("peer {peer}: connects"));
        self.transmit(ours, Packet::Established);
        self.list(Ready::Listener(listener));
    }
}

/// Nobody has a session.
#[cfg(not(feature = "tls"))]
impl World {
    fn flush_session(&mut self, _: usize, _: SockId) -> Result<bool, i32> {
        Ok(true)
    }

    fn peer_seals(&mut self, _: usize, _: SockId, _: &[u8], _: usize) -> Result<usize, i32> {
        Err(libc::EPIPE)
    }
}
