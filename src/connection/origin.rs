//! Where a connection comes from, in eight bytes: there may be very many of them.

use std::fmt;
use std::num::NonZeroU32;

use crate::id::{Key, ListenerId};

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// A client came in through this listener.
    Listener(ListenerId),
    /// We asked for it with `connect`.
    Connect,
    /// It was made elsewhere, and taken in with [`Net::adopt`](crate::Net::adopt) or
    /// [`Handle::adopt`](crate::Handle::adopt).
    Adopted,
    /// It is a pipe, a terminal or the like, from [`Net::pipe`](crate::Net::pipe).
    Pipe,
    /// It is the standard input and output of a child, from [`Net::spawn`](crate::Net::spawn).
    Child,
}

/// What moves the bytes of a connection that is no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halves {
    /// Two descriptors, one for each direction: one may break while the other goes on.
    Both,
    /// Nothing can be sent.
    ReadOnly,
    /// Nothing can be received.
    WriteOnly,
}

/// How a connection came about: a listener's key, or one that no listener has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin(Key);

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.via().fmt(f)
    }
}

/// No table has so many slots.
const NO_SLOT: u32 = u32::MAX;

const fn nobody(number: u32) -> Origin {
    match NonZeroU32::new(number) {
        Some(generation) => Origin(Key::new(NO_SLOT, generation)),
        None => Origin(Key::new(NO_SLOT, NonZeroU32::MAX)),
    }
}

impl Origin {
    const CONNECT: Self = nobody(1);
    const ADOPTED: Self = nobody(2);
    const CHILD: Self = nobody(3);
    const BOTH: Self = nobody(4);
    const READ_ONLY: Self = nobody(5);
    const WRITE_ONLY: Self = nobody(6);

    pub(super) fn of(via: Via) -> Self {
        match via {
            Via::Listener(listener) => Self(listener.0),
            Via::Connect => Self::CONNECT,
            Via::Adopted => Self::ADOPTED,
            Via::Child => Self::CHILD,
            Via::Pipe => Self::BOTH,
        }
    }

    pub(super) fn pipe(halves: Halves) -> Self {
        match halves {
            Halves::Both => Self::BOTH,
            Halves::ReadOnly => Self::READ_ONLY,
            Halves::WriteOnly => Self::WRITE_ONLY,
        }
    }

    pub(super) fn via(self) -> Via {
        match self {
            Self::CONNECT => Via::Connect,
            Self::ADOPTED => Via::Adopted,
            Self::CHILD => Via::Child,
            _ if self.halves().is_some() => Via::Pipe,
            Self(key) => Via::Listener(ListenerId(key)),
        }
    }

    /// Of a pipe, which directions it has.
    pub(super) fn halves(self) -> Option<Halves> {
        match self {
            Self::BOTH => Some(Halves::Both),
            Self::READ_ONLY => Some(Halves::ReadOnly),
            Self::WRITE_ONLY => Some(Halves::WriteOnly),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_told_again_as_it_was_given() {
        let listener = ListenerId(Key::new(7, NonZeroU32::new(4).unwrap()));
        for via in [Via::Listener(listener), Via::Connect, Via::Adopted, Via::Child, Via::Pipe] {
            assert_eq!(Origin::of(via).via(), via);
        }
        for halves in [Halves::Both, Halves::ReadOnly, Halves::WriteOnly] {
            assert_eq!(
                (Origin::pipe(halves).via(), Origin::pipe(halves).halves()),
                (Via::Pipe, Some(halves))
            );
        }
        assert_eq!(size_of::<Origin>(), 8);
    }
}
