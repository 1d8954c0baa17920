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

    /// Those that are work, or the end of all.
    pub(super) const UNREST: Self = Self(
        bit::ERROR_HINT | bit::SHOW_AGAIN | bit::DRAIN_DUE | bit::EOF_DUE | bit::OWN | bit::WRITE_FAILED,
    );

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
                pub(super) fn $set(&mut self, up: bool) {
                    self.marks.put(bit::$bit, up);
                }
            )*
        }
    };
}

marks! {
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
