//! Pipes: what differs from a socket. Nobody acknowledges, but what the reader has not taken can be counted;
//! no end of it can be a reset; a reader that has gone breaks every write, and tells no read.

use super::peer::{PeerState, Script};
use super::socket::{Bits, Phase, Side, Sock, SockId};
use super::world::{Ready, World};
use crate::connection::Telling;

/// Who is told so often of input in a row, and never tries to read it, spins.
const MOST_TOLD: u32 = 100;

/// Of an end of two pipes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pipe {
    /// Whoever held the other end has closed it.
    pub(crate) is_deserted: bool,
    /// Bytes written here that the reader has taken.
    pub(crate) taken: u64,
    /// The poll tells of input again and again, as long as any is there.
    pub(super) always: bool,
    /// That stands on its list.
    pub(super) listed: bool,
    /// How often it was told of since a read was last tried.
    pub(super) told: u32,
}

impl Sock {
    /// Nobody will read what is written.
    pub(crate) fn is_deserted(&self) -> bool {
        self.pipe.is_some_and(|pipe| pipe.is_deserted)
    }

    /// The poll is to tell of input once more.
    pub(crate) fn is_told_again(&self) -> bool {
        let waits = !self.input.is_empty() || self.fin_in || self.phase == Phase::Closed;
        waits && self.token.is_some() && self.pipe.is_some_and(|pipe| pipe.always)
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

    /// The engine has the poll tell of input otherwise: what is there is an event in either case.
    pub(super) fn sys_tell_of_input(&mut self, id: SockId, telling: Telling) {
        self.call();
        self.note(|world| format!("{}: input is told of: {telling:?}", world.name(id)));
        let Some(sock) = self.socks.get_mut(&id) else { return };
        let Some(pipe) = &mut sock.pipe else { return };
        (pipe.always, pipe.told) = (telling == Telling::Always, 0);
        match telling {
            Telling::Always => self.list_again(id),
            Telling::Once if sock.level().input => self.list(Ready::Sock(id)),
            Telling::Once | Telling::Never => {}
        }
    }

    /// Puts what is to be told of again on the poll's list, once.
    pub(super) fn list_again(&mut self, id: SockId) {
        let Some(sock) = self.socks.get_mut(&id).filter(|sock| sock.is_told_again()) else { return };
        let listed = sock.pipe.as_mut().map(|pipe| std::mem::replace(&mut pipe.listed, true));
        if listed == Some(false) {
            self.ready.push_back(Ready::Again(id));
        }
    }

    /// What the poll says of a pipe whose input it told of before: of its input only.
    pub(super) fn event_again(&mut self, id: SockId) -> Option<(usize, Bits)> {
        let sock = self.socks.get_mut(&id)?;
        let again = sock.is_told_again();
        let pipe = sock.pipe.as_mut()?;
        (pipe.listed, pipe.told) = (false, pipe.told + u32::from(again));
        let spins = pipe.told > MOST_TOLD;
        let bits = Bits { input: true, read_hang_up: sock.fin_in, ..Bits::default() };
        let event = again.then_some((sock.token?, bits));
        self.list_again(id);
        if spins {
            let name = self.name(id);
            self.accuse(|| format!("{name}: the reactor spins: it is told of input and does not read it"));
        }
        event
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
