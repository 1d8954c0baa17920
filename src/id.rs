//! Identifiers: a slot and the generation of what lives in it.
//!
//! A slot is used again, a generation never is: an identifier that outlived its connection can
//! be told from the one that took its place, whatever the handler kept it for.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// Bits of a token that name the slot. The three lowest of the rest name the kind, what remains
/// holds as much of the generation as fits.
const SLOT_BITS: u32 = if usize::BITS >= 64 { 32 } else { 20 };
const KIND_BITS: u32 = 3;
const GENERATION_BITS: u32 = usize::BITS - SLOT_BITS - KIND_BITS;
const SLOT_MASK: usize = (1 << SLOT_BITS) - 1;
const KIND_MASK: usize = (1 << KIND_BITS) - 1;
const GENERATION_MASK: usize = (1 << GENERATION_BITS) - 1;

/// Where something lives, and which of the slot's tenants it is: one word, for it is copied, kept and
/// compared with every event and every message. The slot is the upper half of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(NonZeroU64);

impl Key {
    #[inline]
    pub(crate) const fn new(slot: u32, generation: NonZeroU32) -> Self {
        match NonZeroU64::new((slot as u64) << 32 | generation.get() as u64) {
            Some(key) => Self(key),
            // There is none: the lower half is never 0.
            None => Self(NonZeroU64::MIN),
        }
    }

    #[inline]
    pub(crate) const fn slot(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    #[inline]
    pub(crate) const fn generation(self) -> NonZeroU32 {
        match NonZeroU32::new(self.0.get() as u32) {
            Some(generation) => generation,
            None => NonZeroU32::MIN,
        }
    }

    /// Whether a token's shortened generation is this one's.
    fn matches(self, generation: usize) -> bool {
        self.generation().get() as usize & GENERATION_MASK == generation
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.slot(), self.generation())
    }
}

macro_rules! identifiers {
    ($($(#[$doc:meta])* $vis:vis $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis struct $name(pub(crate) Key);

        impl From<Key> for $name {
            fn from(key: Key) -> Self {
                Self(key)
            }
        }

        impl From<$name> for Key {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl $name {
            /// The slot: a small number, unique among what is open now and used again later.
            /// Good as an index into a table of one's own that is checked against the whole id.
            #[allow(dead_code)] // Nobody asks it of an attempt.
            $vis fn slot(self) -> usize {
                self.0.slot() as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}

identifiers! {
    /// Names one connection, and never any other.
    ///
    /// It stays safe to use after the connection is gone: calls with it do nothing or return
    /// [`SendError::Closed`](crate::SendError::Closed). It prints as `7v2`: slot 7, its second tenant.
    pub ConnId
    /// Names one listener, and never any other.
    pub ListenerId
    /// Names one timer, and never any other: cancelling one that fired already does nothing.
    pub TimerId
    /// Names one child process, and never any other.
    pub ChildId
    /// Names one descriptor that is watched, and never any other.
    pub WatchId
    /// Names one try to reach one of a host's addresses.
    pub(crate) AttemptId
}

/// Whose readiness a token of the poll tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Waker,
    Listener { slot: u32, generation: usize },
    Connection { slot: u32, generation: usize },
    Attempt { slot: u32, generation: usize },
    Child { slot: u32, generation: usize },
    Watch { slot: u32, generation: usize },
}

impl Source {
    /// Reads a token made by one of the functions below.
    pub(crate) fn from_token(token: usize) -> Option<Self> {
        let slot = slot_of(token);
        let rest = token >> SLOT_BITS;
        let generation = rest >> KIND_BITS;
        match rest & KIND_MASK {
            0 => Some(Self::Waker),
            1 => Some(Self::Listener { slot, generation }),
            2 => Some(Self::Connection { slot, generation }),
            3 => Some(Self::Attempt { slot, generation }),
            4 => Some(Self::Child { slot, generation }),
            5 => Some(Self::Watch { slot, generation }),
            _ => None,
        }
    }
}

/// The slot that a token names, whatever it was made for.
#[inline]
pub(crate) fn slot_of(token: usize) -> u32 {
    (token & SLOT_MASK) as u32
}

/// The token of the waker.
pub(crate) const WAKER_TOKEN: usize = 0;

impl ListenerId {
    pub(crate) fn token(self) -> usize {
        pack(1, self.0)
    }
}

impl ConnId {
    pub(crate) fn token(self) -> usize {
        pack(2, self.0)
    }
}

impl AttemptId {
    pub(crate) fn token(self) -> usize {
        pack(3, self.0)
    }
}

impl ChildId {
    pub(crate) fn token(self) -> usize {
        pack(4, self.0)
    }
}

impl WatchId {
    pub(crate) fn token(self) -> usize {
        pack(5, self.0)
    }
}

#[inline]
fn pack(kind: usize, key: Key) -> usize {
    let generation = key.0.get() as u32 as usize & GENERATION_MASK;
    (((generation << KIND_BITS) | kind) << SLOT_BITS) | (key.slot() as usize & SLOT_MASK)
}

/// Whether `key` is the one a token's slot and shortened generation were made from.
pub(crate) fn token_matches(key: Key, slot: u32, generation: usize) -> bool {
    key.slot() == slot && key.matches(generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32, generation: u32) -> Key {
        Key::new(slot, NonZeroU32::new(generation).unwrap())
    }

    #[test]
    fn a_token_leads_back_to_its_slot_and_generation() {
        for slot in [0, 1, 77, (SLOT_MASK as u32).min(u32::MAX - 1)] {
            for generation in [1, 2, 1 << 20, u32::MAX] {
                let key = key(slot, generation);
                match Source::from_token(ConnId(key).token()) {
                    Some(Source::Connection { slot, generation }) => {
                        assert!(token_matches(key, slot, generation));
                    }
                    other => panic!("{other:?}"),
                }
                match Source::from_token(AttemptId(key).token()) {
                    Some(Source::Attempt { slot, generation }) => {
                        assert!(token_matches(key, slot, generation));
                    }
                    other => panic!("{other:?}"),
                }
                match Source::from_token(ListenerId(key).token()) {
                    Some(Source::Listener { slot, generation }) => {
                        assert!(token_matches(key, slot, generation));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_token_has_room_for_every_slot_and_for_generations_enough() {
        assert_eq!((SLOT_BITS, KIND_BITS, GENERATION_BITS), (32, 3, 29));
        assert_eq!((SLOT_MASK, KIND_MASK, GENERATION_MASK), (0xFFFF_FFFF, 7, 0x1FFF_FFFF));
    }

    #[test]
    fn a_token_of_an_earlier_tenant_does_not_match() {
        let token = ConnId(key(5, 8)).token();
        let Some(Source::Connection { slot, generation }) = Source::from_token(token) else {
            panic!("not a connection");
        };
        assert!(!token_matches(key(5, 9), slot, generation));
        assert!(!token_matches(key(6, 8), slot, generation));
    }

    #[test]
    fn the_waker_is_nobody_else() {
        assert_eq!(Source::from_token(WAKER_TOKEN), Some(Source::Waker));
        assert_ne!(ConnId(key(0, 1)).token(), WAKER_TOKEN);
        assert_ne!(ListenerId(key(0, 1)).token(), WAKER_TOKEN);
    }

    #[test]
    fn an_id_prints_as_slot_and_generation() {
        assert_eq!(ConnId(key(7, 2)).to_string(), "7v2");
        assert_eq!(format!("{:?}", TimerId(key(1, 3))), "TimerId(1v3)");
        assert_eq!(ConnId(key(7, 2)).slot(), 7);
    }
}
