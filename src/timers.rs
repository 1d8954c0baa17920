//! Deadlines, kept in a heap and re-armed lazily.
//!
//! `now` is always a parameter. An entry is never moved: whoever armed it decides, when it comes
//! up, whether it still means anything. Entries that do not are swept out before they outnumber
//! the rest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A moment: nanoseconds since the reactor was made, by a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(u64);

impl Time {
    /// Later than every other moment.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn from_duration(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX - 1))
    }

    /// The moment `after` this one; too far away is never.
    pub(crate) fn plus(self, after: Duration) -> Self {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// The moment `after` this one, or never without one.
    pub(crate) fn plus_option(self, after: Option<Duration>) -> Self {
        after.map_or(Self::NEVER, |after| self.plus(after))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The next moment on a grid of `step`: things that need no precision share their wake-ups.
    pub(crate) fn next_on_grid(self, step: Duration) -> Self {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self((self.0 / step).saturating_add(1).saturating_mul(step))
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<K> {
    at: Time,
    /// Entries of one moment come up in the order they were armed.
    sequence: u64,
    key: K,
}

/// A heap of deadlines.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<Entry<K>>>,
    sequence: u64,
    /// Entries known to mean nothing any more.
    stale: usize,
}

/// Below this many entries nothing is swept out: it would not pay.
const SWEEP_FROM: usize = 64;

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, stale: 0 }
    }

    pub(crate) fn arm(&mut self, at: Time, key: K) {
        if at == Time::NEVER {
            return;
        }
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at, sequence: self.sequence, key }));
    }

    /// The earliest entry's moment.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Marks the end of a batch: what is armed from here on waits for the next one, so that a
    /// deadline in the past cannot keep a turn going for ever.
    pub(crate) fn batch(&self) -> u64 {
        self.sequence
    }

    /// The next entry of `batch` that is due.
    pub(crate) fn pop_due(&mut self, now: Time, batch: u64) -> Option<(Time, K)> {
        let Reverse(first) = self.heap.peek()?;
        if first.at > now || first.sequence > batch {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.at, entry.key))
    }

    /// Notes that one entry of the heap means nothing any more.
    pub(crate) fn forget_one(&mut self) {
        self.stale += 1;
    }

    /// Notes that a stale entry came up by itself.
    pub(crate) fn stale_popped(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    /// Whether the stale entries outnumber the others.
    pub(crate) fn wants_sweep(&self) -> bool {
        self.heap.len() >= SWEEP_FROM && self.stale > self.heap.len() / 2
    }

    /// Keeps only the entries that `alive` says still mean something.
    pub(crate) fn sweep(&mut self, mut alive: impl FnMut(Time, K) -> bool) {
        self.heap.retain(|Reverse(entry)| alive(entry.at, entry.key));
        if self.heap.capacity() > 4 * self.heap.len().max(SWEEP_FROM) {
            self.heap.shrink_to(2 * self.heap.len());
        }
        self.stale = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(nanos: u64) -> Time {
        Time::from_duration(Duration::from_nanos(nanos))
    }

    #[test]
    fn deadlines_come_up_in_order_and_equal_ones_as_armed() {
        let mut timers = Timers::new();
        for (when, key) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b')] {
            timers.arm(at(when), key);
        }
        assert_eq!(timers.next(), Some(at(3)));
        let batch = timers.batch();
        let mut due = String::new();
        while let Some((_, key)) = timers.pop_due(at(5), batch) {
            due.push(key);
        }
        assert_eq!(due, "abcd");
        assert_eq!(timers.next(), None);
    }

    // M3
    #[test]
    fn a_deadline_in_the_past_waits_for_the_next_batch() {
        let mut timers = Timers::new();
        timers.arm(at(1), 'a');
        let batch = timers.batch();
        assert_eq!(timers.pop_due(at(9), batch), Some((at(1), 'a')));
        timers.arm(at(0), 'b');
        assert_eq!(timers.pop_due(at(9), batch), None);
        assert_eq!(timers.pop_due(at(9), timers.batch()), Some((at(0), 'b')));
    }

    #[test]
    fn never_is_not_armed() {
        let mut timers = Timers::new();
        timers.arm(at(1).plus_option(None), 'a');
        timers.arm(at(1).plus(Duration::MAX), 'b');
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn stale_entries_never_outnumber_the_rest_for_long() {
        let mut timers = Timers::new();
        let mut most = 0;
        for n in 0..10_000u64 {
            timers.arm(at(1_000_000 + n), n);
            timers.forget_one();
            if timers.wants_sweep() {
                timers.sweep(|_, key| key > n);
            }
            most = most.max(timers.heap.len());
        }
        assert!(most <= SWEEP_FROM, "{most}");
    }

    #[test]
    fn a_sweep_pays_from_so_many_on_and_when_more_than_half_is_stale() {
        let mut timers = Timers::new();
        for n in 0..SWEEP_FROM as u64 - 1 {
            timers.arm(at(n), n);
            timers.forget_one();
        }
        assert!(!timers.wants_sweep(), "too few");
        timers.arm(at(99), 99);
        assert!(timers.wants_sweep());
        for _ in 0..SWEEP_FROM / 2 - 1 {
            timers.stale_popped();
        }
        assert!(!timers.wants_sweep(), "exactly half");
        timers.forget_one();
        assert!(timers.wants_sweep(), "one more than half");
        timers.sweep(|_, key| key % 2 == 0);
        assert!(!timers.wants_sweep());
        assert_eq!(timers.heap.len(), SWEEP_FROM / 2);
        for _ in 0..SWEEP_FROM {
            timers.stale_popped();
        }
    }

    #[test]
    fn a_sweep_gives_back_memory_when_hardly_anything_is_left() {
        let mut timers = Timers::new();
        for n in 0..100_000 {
            timers.arm(at(n), n);
        }
        timers.sweep(|_, key| key < 50_000);
        assert!(timers.heap.capacity() >= 100_000, "half of it may be needed again");
        timers.sweep(|_, key| key < 1_000);
        let left = timers.heap.capacity();
        assert!((2_000..3_000).contains(&left), "{left}");
        timers.sweep(|_, key| key < 1);
        assert!((2..2 * SWEEP_FROM).contains(&timers.heap.capacity()), "{}", timers.heap.capacity());
    }

    #[test]
    fn a_time_too_far_away_is_later_than_all_others_but_never() {
        let far = Time::from_duration(Duration::MAX);
        assert!(far > at(1) && far < Time::NEVER);
    }

    #[test]
    fn the_grid_brings_neighbours_together() {
        let step = Duration::from_nanos(100);
        assert_eq!(at(101).next_on_grid(step), at(200));
        assert_eq!(at(199).next_on_grid(step), at(200));
        assert_eq!(at(200).next_on_grid(step), at(300));
        assert_eq!(at(7).next_on_grid(Duration::ZERO), at(8));
        assert_eq!(at(300).since(at(100)), Duration::from_nanos(200));
        assert_eq!(at(100).since(at(300)), Duration::ZERO);
    }

    proptest! {
        // M1
        #[test]
        fn everything_due_comes_up_once_and_nothing_else(
            entries in proptest::collection::vec(0u64..1000, 0..300), now in 0u64..1000
        ) {
            let mut timers = Timers::new();
            for (key, when) in entries.iter().enumerate() {
                timers.arm(at(*when), key);
            }
            let mut expected: Vec<_> = entries.iter().enumerate()
                .filter(|(_, when)| **when <= now).map(|(key, when)| (at(*when), key)).collect();
            expected.sort();
            let mut seen = Vec::new();
            while let Some(entry) = timers.pop_due(at(now), timers.batch()) {
                seen.push(entry);
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
