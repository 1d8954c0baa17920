//! What a send is given, and what it says.

use std::error::Error;
use std::fmt;

use bytes::Bytes;

/// What a send did with the bytes it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken. It does not mean delivered: what became of it stands in the close report.
    Queued,
    /// Taken, and the queue is now at or above high water: best send no more before `on_drain`.
    Congested,
}

/// Why a send took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is gone, closing, or its write half is broken.
    Closed,
    /// `close_write` was called: our stream has ended.
    WriteClosed,
    /// A cap of the write buffers would be passed. Under [`Overflow::Refuse`](crate::Overflow::Refuse)
    /// nothing happened; under [`Overflow::Close`](crate::Overflow::Close) the connection has
    /// ended as a slow consumer.
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is closed",
            Self::WriteClosed => "our end of the connection is closed",
            Self::Full => "the write buffer is full",
        })
    }
}

impl Error for SendError {}

/// What became of a broadcast, counted in connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcast {
    /// Took the message.
    pub queued: usize,
    /// Those of them that are now at or above high water.
    pub congested: usize,
    /// Took nothing: gone, closing, or at a cap.
    pub failed: usize,
}

/// Bytes to be queued, by copy or by reference.
#[derive(Debug)]
pub(crate) enum Data<'a> {
    Slice(&'a [u8]),
    Shared(Bytes),
}

impl Data<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice,
            Self::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
