//! The queue against a plain vector of bytes.

use super::*;
use proptest::prelude::*;

impl WriteBuffer {
    fn check(&self) {
        let total: usize = self.all().map(<[u8]>::len).sum();
        assert_eq!(total - self.head, self.len);
        assert!(self.chunks.iter().all(|c| !c.as_slice().is_empty()));
        assert!(self.first.as_ref().is_none_or(|first| !first.is_empty()));
        match self.all().find(|piece| !piece.is_empty()).map_or(0, <[u8]>::len) {
            0 => assert_eq!(self.head, 0),
            front => assert!(self.head < front),
        }
    }

    fn pieces(&self) -> usize {
        self.gather(&mut [IoSlice::new(&[]); GATHER], usize::MAX)
    }

    fn gathered(&self, limit: usize) -> Vec<u8> {
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
            let front = self.gathered(step);
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

impl BufferPool {
    fn kept(&self) -> usize {
        std::iter::successors(self.top.as_ref(), |buffer| buffer.below.as_ref()).count()
    }
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
        let mut buffer = full();
        buffer.clear();
        pool.give(buffer);
    }
    let each = CHUNK + size_of::<WriteBuffer>();
    assert_eq!(pool.kept(), POOLED / each);
    assert_eq!(pool.weight, POOLED / each * each);
    while pool.kept() > 0 {
        assert!(pool.take().is_empty());
    }
    assert_eq!(pool.weight, 0);
    let mut grown = Box::<WriteBuffer>::default();
    for _ in 0..POOLED / size_of::<Chunk>() {
        grown.push_shared(Bytes::from(vec![0; BY_REFERENCE]));
    }
    grown.clear();
    pool.give(grown);
    assert_eq!((pool.kept(), pool.weight), (0, 0), "one that has grown is not kept");
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
    buffer.clear();
    pool.give(buffer);
    assert_eq!(pool.kept(), 1);
    assert!(pool.take().is_empty());
    assert_eq!((pool.kept(), pool.weight), (0, 0));
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
                    let front = queue.gathered(n);
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

#[test]
fn what_is_cut_off_at_the_end_leaves_the_front_as_it_was() {
    for taken in [0, 3, 300] {
        for kept in [0, 1, 600, 900, 1000, 2000] {
            let mut out = WriteBuffer::default();
            out.push_copy(&bytes(0, 10));
            out.push_shared(Bytes::from(bytes(10, 2 * BY_REFERENCE)));
            out.push_copy(&bytes(10 + 2 * BY_REFERENCE, 10));
            out.advance(taken);
            let before = out.front(usize::MAX);
            let dropped = out.truncate(kept);
            out.check();
            assert_eq!(out.len() + dropped, before.len());
            assert_eq!(out.len(), kept.min(before.len()));
            assert_eq!(out.front(usize::MAX), before[..out.len()]);
        }
    }
}

#[test]
fn all_that_is_queued_can_be_taken_out_in_its_order_and_shared_buffers_stay_shared() {
    let mut buffer = WriteBuffer::default();
    let shared = Bytes::from(vec![b's'; 2 * BY_REFERENCE]);
    buffer.push_copy(b"first");
    buffer.push_shared(shared.clone());
    buffer.push_copy(b"last");
    buffer.advance(7);
    let taken = buffer.take_all();
    assert_eq!(taken.concat(), [&shared[2..], b"last"].concat());
    assert_eq!(taken[0].as_ptr(), shared[2..].as_ptr());
    assert!(buffer.is_empty() && buffer.take_all().is_empty());
    buffer.push_copy(b"usable");
    assert_eq!(buffer.take_all(), [&b"usable"[..]]);
}
