//! What is so of few connections at a time: a flag each, all in one word, so that one look tells
//! whether any of it is so.

use super::Connection;

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u32);

impl Marks {
    /// Those in the way of a send.
    pub(super) const IN_THE_WAY: Self =
        Self(bit::FIN_WANTED | bit::CLOSE_WANTED | bit::WRITE_FAILED | bit::CONGESTED);

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
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
    ($($(#[$doc:meta])* $name:ident, $set:ident: $bit:ident = $place:literal;)*) => {
        mod bit {
            $(pub(super) const $bit: u32 = 1 << $place;)*
        }

        impl Connection {
            $(
                $(#[$doc])*
                #[inline]
                pub(super) fn $name(&self) -> bool {
                    self.marks.0 & bit::$bit != 0
                }

                #[inline]
                pub(super) fn $set(&mut self, up: bool) {
                    self.marks.put(bit::$bit, up);
                }
            )*
        }
    };
}

marks! {
    /// The kernel hinted at an error.
    error_hint, set_error_hint: ERROR_HINT = 0;
    /// The queue passed high water and has not fallen to low water since.
    congested, set_congested: CONGESTED = 1;
    /// What the handler left unused is to be shown again without new input.
    show_again, set_show_again: SHOW_AGAIN = 2;
    /// The queue fell to low water and the handler has not been told.
    drain_due, set_drain_due: DRAIN_DUE = 3;
    /// The peer's end of stream was read and the handler has not been told.
    eof_due, set_eof_due: EOF_DUE = 4;
    /// The peer's end of stream was read.
    saw_fin, set_saw_fin: SAW_FIN = 5;
    /// `close` was called.
    close_wanted, set_close_wanted: CLOSE_WANTED = 6;
    /// Our stream is to end behind what is queued.
    fin_wanted, set_fin_wanted: FIN_WANTED = 7;
    /// The write half is dead.
    write_failed, set_write_failed: WRITE_FAILED = 8;
    /// The kernel's buffer was full when it was last tried.
    put_off, set_put_off: PUT_OFF = 9;
    /// There is a TLS session, or will be once the connection is established.
    secured, set_secured: SECURED = 10;
    /// The session has bytes of its own to send.
    own, set_own: OWN = 11;
    /// What is queued has to wait until the handshake is done.
    held_back, set_held_back: HELD_BACK = 12;
}
