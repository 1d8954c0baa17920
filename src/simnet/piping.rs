//! Pipes: what differs from a socket. Nobody acknowledges, but what the reader has not taken can be counted;
//! no end of it can be a reset; a reader that has gone breaks every write, and tells no read.

use super::peer::{PeerState, Script};
use super::socket::{Phase, Side, Sock, SockId};
use super::world::World;

/// Of an end of two pipes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pipe {
    /// Whoever held the other end has closed it.
    pub(crate) is_deserted: bool,
    /// Bytes written here that the reader has taken.
    pub(crate) taken: u64,
}

impl Sock {
    /// Nobody will read what is written.
    pub(crate) fn is_deserted(&self) -> bool {
        self.pipe.is_some_and(|pipe| pipe.is_deserted)
    }

    /// Bytes of the pipe that nobody has read; nobody can ask once it is closed.
    pub(crate) fn untaken(&self) -> Option<u64> {
        let pipe = self.pipe?;
        Some(if self.shut { 0 } else { self.written - pipe.taken })
    }
}

impl World {
    pub(crate) fn is_pipe(&self, id: SockId) -> bool {
        self.socks.get(&id).is_some_and(|sock| sock.pipe.is_some())
    }

    /// Two pipes, one each way, between the engine and a peer that does what `script` says.
    pub(crate) fn add_pipe(&mut self, script: Script) -> (SockId, usize) {
        let peer = self.peers.len();
        let (ours, theirs) =
            (self.add_sock(Side::Engine, Phase::Open), self.add_sock(Side::Peer(peer), Phase::Open));
        for (id, other) in [(ours, theirs), (theirs, ours)] {
            if let Some(sock) = self.socks.get_mut(&id) {
                (sock.other, sock.pipe) = (Some(other), Some(Pipe::default()));
            }
        }
        if let Some(sock) = self.socks.get_mut(&ours) {
            sock.peer = Some(peer);
        }
        let mut state = PeerState::new(([10, 3, 0, 1], 1).into(), None, script);
        state.sock = Some(theirs);
        self.peers.push(state);
        self.descriptors += 1;
        self.schedule_peer(peer, self.now);
        self.note(|_| format!("peer {peer}: is at the other end of two pipes"));
        (ours, peer)
    }

    /// The holder of one end closes both of its descriptors.
    pub(super) fn close_pipe(&mut self, id: SockId) {
        let Some(sock) = self.socks.get_mut(&id) else { return };
        (sock.orphan, sock.shut) = (true, true);
        let other = sock.other;
        if let Some(other) = other.and_then(|other| self.socks.get_mut(&other)) {
            if let Some(pipe) = &mut other.pipe {
                pipe.is_deserted = true;
            }
            other.times.failed = self.now;
        }
        self.pump(id);
        if let Some(other) = other {
            self.wake(other);
        }
        self.free_if_done(id);
    }

    /// The reader of a pipe has taken what it has read.
    pub(super) fn note_taken(&mut self, id: SockId) {
        let Some((other, read)) = self.socks.get(&id).and_then(|sock| Some((sock.other?, sock.read))) else {
            return;
        };
        let now = self.now;
        if let Some(other) = self.socks.get_mut(&other) {
            if let Some(pipe) = &mut other.pipe {
                pipe.taken = read;
                other.times.taken = now;
            }
        }
    }
}
