//! What a connection needs of the thing below it.
//!
//! The seam between the state machine and the world: a socket stands below it in a server, a
//! script in its tests; a TLS session would be one more layer here, between the socket and the
//! two buffers.

use std::error::Error;
use std::fmt;
use std::io::{self, IoSlice};
use std::time::Duration;

use crate::close::Alert;

/// What the kernel says of a socket, to be taken as a hint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// An error is pending, or was.
    pub(crate) error: bool,
    /// The end of the peer's stream, or urgent data, stands behind what can be read: a short
    /// read proves nothing.
    pub(crate) more: bool,
}

/// What the kernel knows of a peer that we have not looked after: how long ago something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastHeard {
    /// Since data arrived, whether it has been read or not.
    pub(crate) data: Duration,
    /// Since an acknowledgement arrived. One that acknowledges nothing new counts as well, such as the
    /// answer to a keepalive probe.
    pub(crate) ack: Duration,
    /// The time to the peer and back, smoothed.
    pub(crate) round_trip: Duration,
}

/// Why a session above the socket is of no use any more, with the alert that was sent or received. It
/// comes as the source of an `io::Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionError {
    pub(crate) alert: Option<Alert>,
    pub(crate) text: Box<str>,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for SessionError {}

/// A non-blocking byte stream with a write half that can be ended alone.
pub(crate) trait Transport {
    /// Reads what is there. `Ok(0)` is the end of the stream: `buf` is never empty.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes the front of `slices`, all in one system call that raises no SIGPIPE.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the write half: the peer sees an end of stream behind what was written. A session that has
    /// to say so first, and cannot, says `WouldBlock`: it is to be asked again.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// The pending error, which asking takes away.
    fn take_error(&mut self) -> io::Result<Option<io::Error>>;

    /// Bytes written that the peer's kernel has not acknowledged, an unacknowledged end of stream
    /// counted as one more; `None` where the system cannot tell.
    fn unacknowledged(&self) -> Option<u64>;

    /// How long ago the peer was heard of; `None` where the system cannot tell.
    fn last_heard(&self) -> Option<LastHeard>;

    /// Bytes that wait in the kernel to be read; `None` where the system cannot tell.
    fn unread(&self) -> Option<usize>;

    /// Whether a read that fills only part of the buffer proves that nothing is left, or an event tells of what is.
    fn short_read_empties(&self) -> bool;

    /// Makes the coming close a reset, so that the peer cannot take a cut stream for a whole one.
    fn reset_on_close(&mut self);

    /// Whether bytes of a session's own wait to be sent: a part of a handshake, an alert, its end. They
    /// are in nobody's account.
    fn has_own(&self) -> bool {
        false
    }

    /// Sends them. `WouldBlock` when some are left.
    fn send_own(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Makes one read, and has a session go on with its handshake by it. Returns whether that is done;
    /// `UnexpectedEof` when the stream ended first.
    fn shake_hands(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let _ = buf;
        Ok(true)
    }

    /// Data that came with the end of a handshake, and is in the session already: nothing is asked for it
    /// below. `None` when there is none.
    fn read_kept(&mut self, buf: &mut [u8]) -> Option<usize> {
        let _ = buf;
        None
    }

    /// Whether what is queued may be written by now.
    fn takes_data(&self) -> bool {
        true
    }

    /// How many bytes at the front of what is queued cannot be taken back, because a part of what was
    /// made of them may be on its way.
    fn committed(&self) -> usize {
        0
    }

    /// Whether the peer has taken bytes of what a session made since this was asked last, be they a whole
    /// record or not, as [`unacknowledged`](Self::unacknowledged) last found.
    fn has_taken_below(&self) -> bool {
        false
    }

    /// Whether bytes have come or gone below a session since this was asked last.
    fn has_moved_below(&self) -> bool {
        false
    }

    /// After the end of the stream: whether a session should have been ended first, and was not.
    fn is_truncated(&self) -> bool {
        false
    }

    /// After the end of the stream: whether the socket's own end has yet to come. Reading on discards
    /// what is before it.
    fn has_tail(&self) -> bool {
        false
    }
}
