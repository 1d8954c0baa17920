//! Sockets with a session above them: the books of what is in its records, for those of a toy.

use std::fmt;

use super::socket::Sock;
#[cfg(feature = "tls")]
use crate::tls::Records;

/// The records that go out and come in.
#[cfg(feature = "tls")]
pub(crate) struct Toyed {
    out: Records,
    into: Records,
    /// The peer may end its stream without ending its session.
    is_lenient: bool,
}

/// Nobody speaks it.
#[cfg(not(feature = "tls"))]
pub(crate) enum Toyed {}

impl fmt::Debug for Toyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toyed").finish_non_exhaustive()
    }
}

#[cfg(feature = "tls")]
impl Toyed {
    fn handed(&self, written: u64) -> u64 {
        self.out.whole(written)
    }

    fn came(&self, read: u64) -> u64 {
        self.into.whole(read)
    }

    fn has_ended(&self, read: u64) -> bool {
        self.into.has_ended(read)
    }

    fn is_lenient(&self) -> bool {
        self.is_lenient
    }

    fn note_input(&mut self, data: &[u8]) {
        self.into.feed(data.iter().copied());
    }

    fn note_output(&mut self, data: impl Iterator<Item = u8>) -> (usize, Vec<u8>) {
        let before = self.out.plain() as usize;
        (before, self.out.feed(data))
    }
}

#[cfg(not(feature = "tls"))]
impl Toyed {
    fn handed(&self, _: u64) -> u64 {
        match *self {}
    }

    fn came(&self, _: u64) -> u64 {
        match *self {}
    }

    fn has_ended(&self, _: u64) -> bool {
        match *self {}
    }

    fn is_lenient(&self) -> bool {
        match *self {}
    }

    fn note_input(&mut self, _: &[u8]) {
        match *self {}
    }

    fn note_output(&mut self, _: impl Iterator<Item = u8>) -> (usize, Vec<u8>) {
        match *self {}
    }
}

impl Sock {
    /// A session stands above it from here on.
    #[cfg(feature = "tls")]
    pub(crate) fn seal(&mut self, clear: usize, is_toy: bool, is_lenient: bool) {
        if !is_toy {
            self.sealed = true;
            return;
        }
        let mut into = Records::new(self.read, 0);
        into.feed(self.input.iter().copied());
        let out = Records::new(self.written, clear as u64);
        self.toy = Some(Box::new(Toyed { out, into, is_lenient }));
    }

    /// Bytes of what was promised that the kernel has taken: of records, those in whole ones.
    pub(crate) fn handed(&self) -> u64 {
        self.toy.as_ref().map_or(self.written, |toy| toy.handed(self.written))
    }

    /// Those of them that the peer's kernel has.
    pub(crate) fn arrived(&self) -> u64 {
        if let Some(pipe) = self.pipe {
            return pipe.taken;
        }
        self.toy.as_ref().map_or(self.acked, |toy| toy.handed(self.acked))
    }

    /// Bytes that were read and can be shown.
    pub(crate) fn came(&self) -> u64 {
        self.toy.as_ref().map_or(self.read, |toy| toy.came(self.read))
    }

    /// Bytes that have arrived and can be shown.
    pub(crate) fn came_in_all(&self) -> u64 {
        self.toy.as_ref().map_or(u64::MAX, |toy| toy.came(u64::MAX))
    }

    /// Bytes that may have been read before they can be shown: a record's.
    pub(crate) fn kept_at_most(&self) -> u64 {
        if self.toy.is_some() {
            16 << 10
        } else {
            0
        }
    }

    /// Whether the peer's end was read: that of its session, where there is one.
    pub(crate) fn is_ended(&self) -> bool {
        self.end_read || self.toy.as_ref().is_some_and(|toy| toy.has_ended(self.read))
    }

    /// Whether that end has arrived, as an end in good order.
    pub(crate) fn came_to_end(&self) -> bool {
        match &self.toy {
            Some(toy) => {
                toy.has_ended(self.read + self.input.len() as u64) || (toy.is_lenient() && self.fin_in)
            }
            None => self.fin_in,
        }
    }

    /// Whether the peer's end may be told: it has come, in good order or not, and all before it was read.
    pub(crate) fn is_through(&self) -> bool {
        let session = self.toy.as_ref().is_some_and(|toy| toy.has_ended(self.read));
        session || (self.fin_in && self.input.is_empty())
    }

    /// Data arrives.
    pub(super) fn note_input(&mut self, data: &[u8]) {
        if let Some(toy) = &mut self.toy {
            toy.note_input(data);
        }
    }

    /// So many bytes at the end of what is to be sent were just written. Returns whether they are the
    /// ones that were promised.
    pub(super) fn note_output(&mut self, taken: usize) -> bool {
        let fresh = self.output.range(self.output.len() - taken..);
        if self.sealed {
            // What a session makes of what was promised only the peer can tell.
            self.promised.extend(fresh);
            return true;
        }
        let Some(toy) = &mut self.toy else {
            let end = self.written as usize;
            return self.promised.get(end - taken..end).is_some_and(|right| right.iter().eq(fresh));
        };
        let (before, plain) = toy.note_output(fresh.copied());
        self.promised.get(before..before + plain.len()) == Some(plain.as_slice())
    }
}
