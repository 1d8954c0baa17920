//! Peers that speak the toy session: what they seal and open of what they send and read.

use std::io::{self, IoSlice};

use super::peer::PeerState;
use super::socket::SockId;
use super::world::World;
use crate::tls::{Session, Toy};

/// A peer's end of a session.
#[derive(Debug)]
pub(crate) struct Secured {
    session: Toy,
    /// It ends its session before its stream, as it should.
    is_polite: bool,
    has_ended: bool,
    /// Nothing can be sent any more.
    is_broken: bool,
}

/// What a peer seals at a time.
const PIECE: usize = 5_000;

impl PeerState {
    pub(crate) fn is_secured(&self) -> bool {
        self.secured.is_some()
    }

    pub(super) fn secure(&mut self, is_polite: bool) {
        let session = if self.server.is_some() { Toy::client() } else { Toy::server() };
        self.secured = Some(Box::new(Secured { session, is_polite, has_ended: false, is_broken: false }));
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.session.is_handshaking())
    }

    /// After the end of the stream: whether the session above it should have ended first, and had not.
    pub(super) fn is_cut(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| !secured.session.is_ended())
    }

    /// It is about to end its stream: its session ends before.
    pub(super) fn end_session(&mut self) {
        if let Some(Secured { session, is_polite: true, has_ended, .. }) = self.secured.as_deref_mut() {
            if !session.is_handshaking() && !std::mem::replace(has_ended, true) {
                session.end();
            }
        }
    }

    /// Bytes were read: what is in them. An error says what is wrong with them.
    pub(super) fn open(&mut self, raw: &[u8]) -> Result<(), String> {
        let Some(secured) = self.secured.as_deref_mut() else {
            self.received.extend_from_slice(raw);
            return Ok(());
        };
        let mut rest = raw;
        loop {
            let absorbed = secured.session.absorb(rest);
            let mut plain = vec![0; secured.session.opened()];
            secured.session.open(&mut plain);
            self.received.extend_from_slice(&plain);
            match absorbed {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) => return Err(format!("{error}: {:?}", error.alert)),
            }
            if rest.is_empty() && plain.is_empty() {
                return Ok(());
            }
        }
    }
}

impl World {
    /// Sends what the session of a peer has sealed. Returns whether all of it is with the kernel.
    pub(super) fn flush_session(&mut self, peer: usize, id: SockId) -> Result<bool, i32> {
        let (Some(state), Some(sock)) = (self.peers.get_mut(peer), self.socks.get_mut(&id)) else {
            return Ok(true);
        };
        let Some(secured) = state.secured.as_deref_mut() else { return Ok(true) };
        if secured.session.sealed() == 0 || secured.is_broken {
            return Ok(true);
        }
        let sent = secured.session.transmit(&mut |slices| {
            let offered = slices.iter().map(|slice| slice.len()).sum();
            let bytes = slices.iter().flat_map(|slice| slice.iter());
            sock.write(bytes, offered, usize::MAX).map_err(io::Error::from_raw_os_error)
        });
        let left = secured.session.sealed();
        match sent.map_err(|error| error.raw_os_error()) {
            Ok(count) => {
                self.note(|_| format!("peer {peer}: sends {count} bytes of its session, {left} are left"));
                self.pump(id);
                Ok(left == 0)
            }
            Err(Some(libc::EAGAIN)) => Ok(false),
            Err(errno) => {
                secured.is_broken = true;
                Err(errno.unwrap_or(libc::EIO))
            }
        }
    }

    /// Seals the front of `data`, and sends it. Returns how much.
    pub(super) fn peer_seals(
        &mut self,
        peer: usize,
        id: SockId,
        data: &[u8],
        most: usize,
    ) -> Result<usize, i32> {
        if !self.flush_session(peer, id)? {
            return Err(libc::EAGAIN);
        }
        let secured = self.peers.get_mut(peer).and_then(|state| state.secured.as_deref_mut());
        let Some(Secured { session, is_broken: false, has_ended: false, .. }) = secured else {
            return Err(libc::EPIPE);
        };
        if session.is_handshaking() {
            return Err(libc::EAGAIN);
        }
        let taken = session.seal(&[IoSlice::new(data)], 0, most.min(PIECE));
        self.flush_session(peer, id)?;
        Ok(taken)
    }
}
