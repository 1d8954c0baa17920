//! The queue of bytes that the kernel has not taken yet.
//!
//! Small pieces are copied together into a tail chunk, because gathering many of them costs more
//! than copying; large ones are kept as they came, because copying them would.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// What a chunk that collects small pieces grows to. One page: what a congested connection costs
/// beyond its queued bytes.
const CHUNK: usize = 4096;

/// What it begins with.
const SMALLEST: usize = 64;

/// From this length on, [`Bytes`] are queued by reference. Below it a copy is cheaper than the
/// reference, and a queue of tiny slices cannot keep large buffers alive.
pub(crate) const BY_REFERENCE: usize = 512;

/// Slices that one system call gathers at most (the system's own limit is 1024).
pub(crate) const GATHER: usize = 64;

#[derive(Debug)]
enum Chunk {
    /// Pieces that were copied together.
    Copied(Vec<u8>),
    /// Somebody else's buffer, shared with other queues perhaps.
    Shared(Bytes),
}

impl Chunk {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A queue of chunks. Most queues are one tail or one shared buffer, and no more is done for them.
///
/// Invariants: no chunk is empty; `head` is less than the length of the front, which is the first of
/// `first`, `chunks` and `tail` that there is, and 0 when nothing is queued; `len` is the sum of all
/// lengths less `head`.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    /// A shared buffer that found the queue empty.
    first: Option<Bytes>,
    /// What stands before the tail: shared, or full.
    chunks: VecDeque<Chunk>,
    /// The end of the queue: small pieces, copied together. Empty, it keeps its memory, so that
    /// the steady state allocates nothing.
    tail: Vec<u8>,
    /// Bytes of the front that have been taken already.
    head: usize,
    len: usize,
    /// In the pool: the one below it, and what it weighs there.
    below: Option<Box<WriteBuffer>>,
    weighed: usize,
}

impl WriteBuffer {
    /// Bytes queued.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues a copy of `data`.
    #[inline]
    pub(crate) fn push_copy(&mut self, data: &[u8]) {
        self.len += data.len();
        let room = self.tail.capacity() - self.tail.len();
        let rest = if data.len() > room { self.make_room(data) } else { data };
        self.tail.extend_from_slice(rest);
    }

    /// Has the tail grow or, when it is as large as it gets, fills it with the front of `data` and
    /// begins another. Returns what is left, for which there is room.
    #[cold]
    fn make_room<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let wanted = self.tail.len() + data.len();
        if self.tail.is_empty() {
            self.tail = Vec::with_capacity(wanted.next_power_of_two().clamp(SMALLEST, CHUNK).max(wanted));
            return data;
        }
        if wanted <= CHUNK {
            self.tail.reserve_exact(wanted.next_power_of_two() - self.tail.len());
            return data;
        }
        let room = self.tail.capacity().max(CHUNK) - self.tail.len();
        let (fits, spills) = data.split_at(room);
        self.tail.reserve_exact(fits.len());
        self.tail.extend_from_slice(fits);
        self.end_tail();
        self.tail = Vec::with_capacity(spills.len().max(CHUNK));
        spills
    }

    /// Nothing more is copied behind what has been.
    #[inline]
    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(Chunk::Copied(std::mem::take(&mut self.tail)));
        }
    }

    /// Queues `data` by reference, or a copy of it when it is so small that the copy is cheaper.
    #[inline]
    pub(crate) fn push_shared(&mut self, data: Bytes) {
        if data.len() < BY_REFERENCE {
            return self.push_copy(&data);
        }
        let was_empty = self.len == 0;
        self.len += data.len();
        if was_empty {
            self.first = Some(data);
        } else {
            self.end_tail();
            self.chunks.push_back(Chunk::Shared(data));
        }
    }

    /// All pieces, oldest first, with what was taken of the front.
    fn all(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.first.iter().map(|bytes| &bytes[..]);
        first.chain(self.chunks.iter().map(Chunk::as_slice)).chain([self.tail.as_slice()])
    }

    /// Fills `slices` with the front of the queue, at most `limit` bytes of it, and returns how
    /// many were filled.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; GATHER], limit: usize) -> usize {
        let mut left = limit;
        let mut skip = self.head;
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(self.all()) {
            let bytes = bytes.get(skip..).unwrap_or_default();
            let bytes = bytes.get(..left).unwrap_or(bytes);
            if bytes.is_empty() {
                break;
            }
            *slice = IoSlice::new(bytes);
            left -= bytes.len();
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// A copy of the first `limit` bytes of what is queued, in one piece.
    pub(crate) fn front(&self, limit: usize) -> Vec<u8> {
        self.all().flatten().skip(self.head).take(limit).copied().collect()
    }

    /// The whole queue, when it is one piece: the usual case, which needs no gathering.
    #[inline]
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        let front = match (&self.first, self.chunks.front()) {
            (None, None) => &self.tail[..],
            (Some(bytes), None) if self.tail.is_empty() => bytes,
            (None, Some(chunk)) if self.chunks.len() == 1 && self.tail.is_empty() => chunk.as_slice(),
            _ => return None,
        };
        front.get(self.head..)
    }

    /// The same, at most `limit` bytes of it.
    #[inline]
    pub(crate) fn only_slice(&self, limit: usize) -> Option<&[u8]> {
        self.whole().map(|whole| whole.get(..limit).unwrap_or(whole))
    }

    /// Drops the first `count` bytes: the kernel took them.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len, "the kernel took more than there was");
        if count < self.len {
            return self.advance_partly(count);
        }
        self.empty();
    }

    /// Drops everything: the kernel took it.
    #[inline]
    pub(crate) fn empty(&mut self) {
        self.first = None;
        if !self.chunks.is_empty() || self.tail.capacity() > CHUNK {
            self.drop_chunks();
        }
        (self.len, self.head) = (0, 0);
        self.tail.clear();
    }

    /// Everything was taken: one emptied buffer is kept for the next piece, unless it is an outsized one.
    fn drop_chunks(&mut self) {
        while let Some(chunk) = self.chunks.pop_front() {
            self.keep(chunk);
        }
        if self.tail.capacity() > CHUNK {
            self.tail = Vec::new();
        }
    }

    fn advance_partly(&mut self, count: usize) {
        self.len -= count;
        self.head += count;
        if let Some(first) = self.first.take_if(|first| first.len() <= self.head) {
            self.head -= first.len();
        }
        while self.first.is_none() {
            let taken = self.chunks.front().map(|chunk| chunk.as_slice().len());
            let Some(len) = taken.filter(|len| *len <= self.head) else { break };
            self.head -= len;
            if let Some(chunk) = self.chunks.pop_front() {
                self.keep(chunk);
            }
        }
    }

    /// Keeps an emptied chunk for the next piece, unless it is an outsized one.
    #[inline]
    fn keep(&mut self, chunk: Chunk) {
        if let Chunk::Copied(mut chunk) = chunk {
            if chunk.capacity() <= CHUNK && self.tail.capacity() == 0 {
                chunk.clear();
                self.tail = chunk;
            }
        }
    }

    /// What it weighs besides the bytes that are queued by reference.
    #[inline]
    fn weight(&self) -> usize {
        size_of::<Self>() + self.chunks.capacity() * size_of::<Chunk>() + self.tail.capacity()
    }

    /// Drops all but the first `kept` bytes and returns how many that was.
    #[cold]
    pub(crate) fn truncate(&mut self, kept: usize) -> usize {
        let dropped = self.len.saturating_sub(kept);
        let front = self.front(kept);
        self.clear();
        self.push_copy(&front);
        dropped
    }

    /// Takes everything out, shared buffers as they are.
    pub(crate) fn take_all(&mut self) -> Vec<Bytes> {
        let tail = std::mem::take(&mut self.tail);
        let first = self.first.take().map(Chunk::Shared);
        let chunks = std::mem::take(&mut self.chunks).into_iter().chain([Chunk::Copied(tail)]);
        let chunks = first.into_iter().chain(chunks);
        let mut skip = std::mem::take(&mut self.head);
        self.len = 0;
        let all = chunks.map(|chunk| {
            let mut bytes = match chunk {
                Chunk::Copied(bytes) => Bytes::from(bytes),
                Chunk::Shared(bytes) => bytes,
            };
            let _ = bytes.split_to(std::mem::take(&mut skip).min(bytes.len()));
            bytes
        });
        all.filter(|bytes| !bytes.is_empty()).collect()
    }

    /// Drops everything and returns how many bytes that was.
    pub(crate) fn clear(&mut self) -> usize {
        let dropped = self.len;
        self.empty();
        dropped
    }
}

/// Emptied write buffers, so that a connection has one only while bytes are queued and taking
/// one costs no allocation in the steady state.
///
/// They lie one on the other, each holding the next: what is taken is what was given last.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    top: Option<Box<WriteBuffer>>,
    weight: usize,
}

/// What all kept buffers together may weigh, in bytes: hundreds that sent short messages or shared
/// ones, some dozens that grew.
const POOLED: usize = 128 << 10;

impl BufferPool {
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Box<WriteBuffer> {
        match self.top.take() {
            Some(mut buffer) => {
                self.top = buffer.below.take();
                self.weight -= buffer.weighed;
                buffer
            }
            None => Box::default(),
        }
    }

    /// Takes back one that is empty.
    #[inline(always)]
    pub(crate) fn give(&mut self, mut buffer: Box<WriteBuffer>) {
        debug_assert!(buffer.is_empty());
        let weight = buffer.weight();
        if self.weight + weight <= POOLED {
            self.weight += weight;
            buffer.weighed = weight;
            // Nothing is below one that is not in the pool: nothing is to be dropped.
            debug_assert!(buffer.below.is_none());
            std::mem::swap(&mut buffer.below, &mut self.top);
            std::mem::forget(self.top.replace(buffer));
        }
    }
}

impl Drop for BufferPool {
    /// One after the other: each would drop the next inside its own drop.
    fn drop(&mut self) {
        let mut top = self.top.take();
        while let Some(mut buffer) = top {
            top = buffer.below.take();
        }
    }
}

#[cfg(test)]
mod tests;
