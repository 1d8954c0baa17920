//! What is so of few connections at a time: a flag each, all in one word, so that one look tells
//! whether any of it is so.

use super::Connection;
use crate::transport::Hints;

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u32);

impl Marks {
    /// Those in the way of a send.
    pub(super) const IN_THE_WAY: Self =
        Self(bit::FIN_WANTED | bit::CLOSE_WANTED | bit::WRITE_FAILED | bit::CONGESTED);

    /// Those that are work, or the end of all.
    pub(super) const UNREST: Self = Self(
        bit::READABLE
            | bit::TOLD_ONCE
            | bit::DUE
            | bit::ERROR_HINT
            | bit::SHOW_AGAIN
            | bit::DRAIN_DUE
            | bit::EOF_DUE
            | bit::OWN
            | bit::WRITE_FAILED,
    );

    /// What the kernel last said, which alone makes nobody a special case.
    const HINTS: Self = Self(bit::READABLE | bit::WRITABLE | bit::MORE_HINT | bit::TOLD_ONCE);

    /// All but those of the kernel and the handler's pause.
    const UNCALM: Self = Self(!(Self::HINTS.0 | bit::PAUSED));

    /// Those of a new connection. A new socket has room: if not, the first write finds out.
    pub(super) const NEW: Self = Self(bit::WRITABLE);

    /// Whether input has come, none is refused, and nothing else is so.
    #[inline]
    pub(super) fn are_to_read(self) -> bool {
        self.0 & (Self::UNCALM.0 | bit::READABLE | bit::PAUSED) == bit::READABLE
    }

    /// Whether there is room to write, and nothing else is so.
    #[inline]
    pub(super) fn are_to_write(self) -> bool {
        self.0 & (Self::UNCALM.0 | bit::WRITABLE) == bit::WRITABLE
    }

    /// Adds what the kernel says.
    #[inline]
    pub(super) fn add(&mut self, hints: Hints) {
        let bit = |is: bool, bit: u32| if is { bit } else { 0 };
        self.0 |= bit(hints.readable, bit::READABLE) | bit(hints.writable, bit::WRITABLE);
        if hints.more | hints.error {
            self.add_rare(hints);
        }
    }

    #[cold]
    fn add_rare(&mut self, hints: Hints) {
        self.0 |= bit::MORE_HINT;
        if hints.error {
            self.0 |= bit::READABLE | bit::WRITABLE | bit::ERROR_HINT;
        }
    }

    /// Whether any of `others` is up.
    #[inline]
    pub(super) fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    #[inline]
    fn put(&mut self, bit: u32, up: bool) {
        self.0 = if up { self.0 | bit } else { self.0 & !bit };
    }
}

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident, $set:ident: $bit:ident;)*) => {
        mod bit {
            /// Their order gives each a place of its own.
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            enum Place {
                $($bit,)*
            }

            $(pub(super) const $bit: u32 = 1 << Place::$bit as u32;)*
        }

        impl Connection {
            $(
                $(#[$doc])*
                #[inline]
                pub(crate) fn $name(&self) -> bool {
                    self.marks.0 & bit::$bit != 0
                }

                #[inline]
                pub(crate) fn $set(&mut self, up: bool) {
                    self.marks.put(bit::$bit, up);
                }
            )*
        }
    };
}

marks! {
    /// The kernel may have input, as far as it told.
    is_readable, set_readable: READABLE;
    /// The kernel may have room.
    is_writable, set_writable: WRITABLE;
    /// A short read does not prove that the socket is empty.
    more_hint, set_more_hint: MORE_HINT;
    /// The poll can tell of its input again and again, and has been asked to tell once.
    told_once, set_told_once: TOLD_ONCE;
    /// The handler asked for no input.
    is_paused, set_paused: PAUSED;
    /// Its deadline came up; the verdict falls after it was read from and flushed.
    is_due, set_due: DUE;
    /// The kernel hinted at an error.
    error_hint, set_error_hint: ERROR_HINT;
    /// The queue passed high water and has not fallen to low water since.
    is_congested, set_congested: CONGESTED;
    /// What the handler left unused is to be shown again without new input.
    show_again, set_show_again: SHOW_AGAIN;
    /// The queue fell to low water and the handler has not been told.
    drain_due, set_drain_due: DRAIN_DUE;
    /// The peer's end of stream was read and the handler has not been told.
    eof_due, set_eof_due: EOF_DUE;
    /// The peer's end of stream was read.
    saw_fin, set_saw_fin: SAW_FIN;
    /// `close` was called.
    close_wanted, set_close_wanted: CLOSE_WANTED;
    /// Our stream is to end behind what is queued.
    fin_wanted, set_fin_wanted: FIN_WANTED;
    /// The write half is dead.
    write_failed, set_write_failed: WRITE_FAILED;
    /// The kernel's buffer was full when it was last tried.
    put_off, set_put_off: PUT_OFF;
    /// There is a TLS session, or will be once the connection is established.
    secured, set_secured: SECURED;
    /// The session has bytes of its own to send.
    own, set_own: OWN;
    /// What is queued has to wait until the handshake is done.
    held_back, set_held_back: HELD_BACK;
}
