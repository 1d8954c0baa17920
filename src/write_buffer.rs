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

/// A queue of chunks. Most queues are one tail, and no more is done for them.
///
/// Invariants: no chunk is empty; `head` is less than the length of the front, which is the first
/// chunk or, without one, the tail, and 0 when nothing is queued; `len` is the sum of all lengths
/// less `head`.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    /// What stands before the tail: shared, or full.
    chunks: VecDeque<Chunk>,
    /// The end of the queue: small pieces, copied together. Empty, it keeps its memory, so that
    /// the steady state allocates nothing.
    tail: Vec<u8>,
    /// Bytes of the front that have been taken already.
    head: usize,
    len: usize,
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
        self.end_tail();
        self.len += data.len();
        self.chunks.push_back(Chunk::Shared(data));
    }

    /// Fills `slices` with the front of the queue, at most `limit` bytes of it, and returns how
    /// many were filled.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; GATHER], limit: usize) -> usize {
        let mut left = limit;
        let mut skip = self.head;
        let mut filled = 0;
        let all = self.chunks.iter().map(Chunk::as_slice).chain([self.tail.as_slice()]);
        for (slice, bytes) in slices.iter_mut().zip(all) {
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

    /// All that is queued, in one piece.
    #[cfg(feature = "sim")]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let all = self.chunks.iter().map(Chunk::as_slice).chain([self.tail.as_slice()]);
        all.flatten().skip(self.head).copied().collect()
    }

    /// The front of the queue when it is all there is, at most `limit` bytes of it: the usual case,
    /// which needs no gathering.
    #[inline]
    pub(crate) fn only_slice(&self, limit: usize) -> Option<&[u8]> {
        let bytes = match self.chunks.front() {
            None => self.tail.get(self.head..)?,
            Some(chunk) if self.chunks.len() == 1 && self.tail.is_empty() => {
                chunk.as_slice().get(self.head..)?
            }
            Some(_) => return None,
        };
        Some(bytes.get(..limit).unwrap_or(bytes))
    }

    /// Drops the first `count` bytes: the kernel took them.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len, "the kernel took more than there was");
        if count < self.len {
            return self.advance_partly(count);
        }
        (self.len, self.head) = (0, 0);
        while let Some(chunk) = self.chunks.pop_front() {
            self.keep(chunk);
        }
        self.tail.clear();
        if self.tail.capacity() > CHUNK {
            self.tail = Vec::new();
        }
    }

    fn advance_partly(&mut self, count: usize) {
        self.len -= count;
        let mut count = count;
        while let Some(first) = self.chunks.front() {
            let rest = first.as_slice().len() - self.head;
            if count < rest {
                break;
            }
            count -= rest;
            self.head = 0;
            if let Some(chunk) = self.chunks.pop_front() {
                self.keep(chunk);
            }
        }
        self.head += count;
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

    /// Drops everything and returns how many bytes that was.
    pub(crate) fn clear(&mut self) -> usize {
        let dropped = self.len;
        self.advance(dropped);
        dropped
    }
}

/// Emptied write buffers, so that a connection has one only while bytes are queued and taking
/// one costs no allocation in the steady state.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    // Boxed already: what moves in and out of a connection is the pointer.
    #[allow(clippy::vec_box)]
    free: Vec<Box<WriteBuffer>>,
    weight: usize,
}

/// What all kept buffers together may weigh, in bytes: hundreds that sent short messages or shared
/// ones, some dozens that grew.
const POOLED: usize = 128 << 10;

impl BufferPool {
    #[inline]
    pub(crate) fn take(&mut self) -> Box<WriteBuffer> {
        match self.free.pop() {
            Some(buffer) => {
                self.weight -= buffer.weight();
                buffer
            }
            None => Box::default(),
        }
    }

    #[inline]
    pub(crate) fn give(&mut self, mut buffer: Box<WriteBuffer>) {
        if !buffer.is_empty() {
            buffer.clear();
        }
        let weight = buffer.weight();
        if self.weight + weight <= POOLED {
            self.weight += weight;
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl WriteBuffer {
        fn check(&self) {
            let total: usize = self.chunks.iter().map(|c| c.as_slice().len()).sum();
            assert_eq!(total + self.tail.len() - self.head, self.len);
            assert!(self.chunks.iter().all(|c| !c.as_slice().is_empty()));
            match self.chunks.front().map_or(self.tail.len(), |first| first.as_slice().len()) {
                0 => assert_eq!(self.head, 0),
                front => assert!(self.head < front),
            }
        }

        fn pieces(&self) -> usize {
            self.gather(&mut [IoSlice::new(&[]); GATHER], usize::MAX)
        }

        fn front(&self, limit: usize) -> Vec<u8> {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let filled = self.gather(&mut slices, limit);
            if let Some(only) = self.only_slice(limit) {
                assert!(filled <= 1 && *only == *slices[0]);
            }
            slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
        }

        fn drain_by(&mut self, step: usize) -> Vec<u8> {
            let mut out = Vec::new();
            while !self.is_empty() {
                let front = self.front(step);
                assert!(!front.is_empty() && front.len() <= step);
                self.advance(front.len());
                self.check();
                out.extend(front);
            }
            out
        }
    }

    fn bytes(from: usize, len: usize) -> Vec<u8> {
        (from..from + len).map(|i| (i % 251) as u8).collect()
    }

    // P4: every queue of up to four chunks of up to four bytes, or one large enough to be shared,
    // taken with every short count at every point.
    #[test]
    fn small_pieces_fill_a_chunk_before_the_next_is_begun() {
        let mut out = WriteBuffer::default();
        out.push_copy(&[1; 10]);
        assert_eq!(out.only_slice(usize::MAX), Some(&[1; 10][..]));
        assert_eq!(out.only_slice(4), Some(&[1; 4][..]));
        out.push_copy(&vec![2; CHUNK - 10]);
        assert_eq!(out.pieces(), 1, "it just fits");
        out.push_copy(&[3]);
        assert_eq!((out.pieces(), out.only_slice(usize::MAX)), (2, None));
        out.push_copy(&vec![4; 3 * CHUNK]);
        assert_eq!(out.pieces(), 3, "what is larger than a chunk gets one of its own size");
        let chunks: Vec<usize> = out.chunks.iter().map(|chunk| chunk.as_slice().len()).collect();
        assert_eq!((chunks, out.tail.len()), (vec![CHUNK, CHUNK], 2 * CHUNK + 1));
    }

    #[test]
    fn a_chunk_grows_with_what_is_put_into_it() {
        let mut out = WriteBuffer::default();
        let mut capacities = Vec::new();
        for _ in 0..CHUNK / 32 {
            out.push_copy(&[1; 32]);
            capacities.push(out.tail.capacity());
        }
        capacities.dedup();
        assert_eq!(capacities, [64, 128, 256, 512, 1024, 2048, CHUNK]);
        assert_eq!(out.pieces(), 1);
    }

    #[test]
    fn the_pool_keeps_what_weighs_so_much_and_knows_how_much_it_keeps() {
        let full = || {
            let mut buffer = Box::<WriteBuffer>::default();
            buffer.push_copy(&[1; CHUNK]);
            buffer
        };
        let mut pool = BufferPool::default();
        for _ in 0..2 * POOLED / CHUNK {
            pool.give(full());
        }
        let each = CHUNK + size_of::<WriteBuffer>();
        assert_eq!(pool.free.len(), POOLED / each);
        assert_eq!(pool.weight, POOLED / each * each);
        while !pool.free.is_empty() {
            assert!(pool.take().is_empty());
        }
        assert_eq!(pool.weight, 0);
        let mut grown = Box::<WriteBuffer>::default();
        for _ in 0..POOLED / size_of::<Chunk>() {
            grown.push_shared(Bytes::from(vec![0; BY_REFERENCE]));
        }
        pool.give(grown);
        assert_eq!((pool.free.len(), pool.weight), (0, 0), "one that has grown is not kept");
    }

    #[test]
    fn one_emptied_chunk_is_used_again_and_outsized_ones_are_not() {
        let mut out = WriteBuffer::default();
        out.push_copy(&[1; 10]);
        let first = out.tail.as_ptr();
        out.advance(10);
        out.push_copy(&[2; 10]);
        assert_eq!(out.tail, [2; 10], "nothing of its former life is left");
        assert_eq!(out.tail.as_ptr(), first);
        out.advance(10);
        let mut out = WriteBuffer::default();
        out.push_copy(&vec![3; 4 * CHUNK]);
        out.advance(4 * CHUNK);
        assert_eq!(out.tail.capacity(), 0);
        out.push_copy(&vec![4; CHUNK]);
        out.push_copy(&[5; 10]);
        let last = out.tail.as_ptr();
        out.clear();
        assert_eq!((out.tail.capacity(), out.tail.as_ptr()), (CHUNK, last), "one is enough");
    }

    #[test]
    fn a_piece_between_two_shared_ones_costs_no_page() {
        let mut out = WriteBuffer::default();
        for _ in 0..8 {
            out.push_copy(&[1; 10]);
            out.push_shared(Bytes::from(vec![2; BY_REFERENCE]));
        }
        let copied = out.chunks.iter().map(|chunk| match chunk {
            Chunk::Copied(bytes) => bytes.capacity(),
            Chunk::Shared(_) => 0,
        });
        assert_eq!(copied.collect::<Vec<_>>(), [SMALLEST, 0].repeat(8));
    }

    #[test]
    fn no_short_count_skips_or_repeats_a_byte() {
        let lengths = [0, 1, 2, 3, BY_REFERENCE];
        let kinds = lengths.len() * 2;
        for shape in 0..kinds.pow(4) {
            let pieces: Vec<(usize, bool)> = (0..4)
                .map(|place| shape / kinds.pow(place) % kinds)
                .map(|kind| (lengths[kind / 2], kind % 2 == 1))
                .collect();
            let build = || {
                let mut queue = WriteBuffer::default();
                let mut whole = Vec::new();
                for (len, shared) in &pieces {
                    let piece = bytes(whole.len(), *len);
                    match shared {
                        true => queue.push_shared(Bytes::from(piece.clone())),
                        false => queue.push_copy(&piece),
                    }
                    whole.extend(piece);
                    queue.check();
                }
                (queue, whole)
            };
            let (queue, whole) = build();
            assert_eq!(queue.len(), whole.len());
            let cuts: Vec<usize> = match whole.len() {
                short @ 0..=12 => (0..=short).collect(),
                long => {
                    vec![0, 1, 2, 3, 4, 5, BY_REFERENCE - 1, BY_REFERENCE, BY_REFERENCE + 1, long - 1, long]
                }
            };
            for first in cuts.iter().copied().filter(|cut| *cut <= whole.len()) {
                let (mut queue, whole) = build();
                queue.advance(first);
                queue.check();
                for step in [1, 2, 3, 700, usize::MAX] {
                    if step == 1 && whole.len() > 12 {
                        continue;
                    }
                    let (mut again, _) = build();
                    again.advance(first);
                    assert_eq!(again.drain_by(step), whole[first..], "{pieces:?} {first} {step}");
                }
                assert_eq!(queue.clear(), whole.len() - first);
                queue.check();
            }
        }
    }

    #[test]
    fn small_pieces_are_copied_together() {
        let mut queue = WriteBuffer::default();
        for _ in 0..16 {
            queue.push_copy(&[7; 64]);
        }
        let mut slices = [IoSlice::new(&[]); GATHER];
        assert_eq!(queue.gather(&mut slices, usize::MAX), 1);
        assert_eq!(slices[0].len(), 1024);
    }

    #[test]
    fn large_bytes_are_shared_and_not_copied() {
        let data = Bytes::from(vec![1; BY_REFERENCE]);
        let mut queues = [WriteBuffer::default(), WriteBuffer::default()];
        for queue in &mut queues {
            queue.push_shared(data.clone());
            let mut slices = [IoSlice::new(&[]); GATHER];
            assert_eq!(queue.gather(&mut slices, usize::MAX), 1);
            assert_eq!(slices[0].as_ptr(), data.as_ptr());
        }
        assert!(!data.is_unique());
        queues.iter_mut().for_each(|queue| queue.advance(BY_REFERENCE));
        assert!(data.is_unique());
    }

    #[test]
    fn the_steady_state_keeps_its_chunk() {
        let mut queue = WriteBuffer::default();
        queue.push_copy(b"one");
        let at = queue.tail.as_ptr();
        queue.advance(3);
        queue.push_copy(b"two");
        assert_eq!(queue.tail.as_ptr(), at);
    }

    #[test]
    fn a_pooled_buffer_comes_back_empty() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take();
        buffer.push_copy(b"left over");
        pool.give(buffer);
        assert_eq!(pool.free.len(), 1);
        assert!(pool.take().is_empty());
        assert!(pool.free.is_empty());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in proptest::collection::vec((0usize..3, 0usize..9000), 1..60)
        ) {
            let mut queue = WriteBuffer::default();
            let (mut pushed, mut taken) = (0, Vec::new());
            for (kind, n) in steps {
                match kind {
                    0 => queue.push_copy(&bytes(pushed, n)),
                    1 => queue.push_shared(Bytes::from(bytes(pushed, n))),
                    _ => {
                        let front = queue.front(n);
                        queue.advance(front.len());
                        taken.extend(front);
                    }
                }
                pushed += if kind < 2 { n } else { 0 };
                queue.check();
                prop_assert_eq!(queue.len() + taken.len(), pushed);
            }
            taken.extend(queue.drain_by(usize::MAX));
            prop_assert_eq!(taken, bytes(0, pushed));
        }
    }
}
