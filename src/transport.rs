//! What a connection needs of the thing below it.
//!
//! The seam between the state machine and the world: a socket stands below it in a server, a
//! script in its tests; a TLS session would be one more layer here, between the socket and the
//! two buffers.

use std::io::{self, IoSlice};
use std::time::Duration;

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

/// A non-blocking byte stream with a write half that can be ended alone.
pub(crate) trait Transport {
    /// Reads what is there. `Ok(0)` is the end of the stream: `buf` is never empty.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes the front of `slices`, all in one system call that raises no SIGPIPE.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the write half: the peer sees an end of stream behind what was written.
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

    /// Whether a read that fills only part of the buffer proves that nothing is left.
    fn short_read_empties(&self) -> bool;

    /// Makes the coming close a reset, so that the peer cannot take a cut stream for a whole one.
    fn reset_on_close(&mut self);
}
