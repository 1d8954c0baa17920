//! Deadlines, kept in order.
//!
//! `now` is always a parameter. An entry that has lost its meaning is taken out by whoever armed it,
//! or left to come up: whoever armed it then decides whether it still means anything.

use std::collections::BTreeSet;
use std::time::Duration;

/// A moment: nanoseconds since the reactor was made, by a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(u64);

impl Time {
    /// Later than every other moment.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    #[cfg(test)]
    pub(crate) fn from_duration(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX - 1))
    }

    #[inline]
    pub(crate) fn from_nanos(since_start: u64) -> Self {
        Self(since_start.min(u64::MAX - 1))
    }

    /// The moment `after` this one; too far away is never.
    #[inline]
    pub(crate) fn plus(self, after: Duration) -> Self {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    #[inline]
    pub(crate) fn plus_nanos(self, after: u64) -> Self {
        Self(self.0.saturating_add(after))
    }

    /// The moment `after` this one, or never without one.
    #[inline]
    pub(crate) fn plus_option(self, after: Option<Duration>) -> Self {
        after.map_or(Self::NEVER, |after| self.plus(after))
    }

    /// The moment `before` this one, or the beginning.
    pub(crate) fn minus(self, before: Duration) -> Self {
        let nanos = u64::try_from(before.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// How long after `earlier` this is; zero if it is before.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The next moment on a grid of `step`: things that need no precision share their wake-ups.
    pub(crate) fn next_on_grid(self, step: Duration) -> Self {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self((self.0 / step).saturating_add(1).saturating_mul(step))
    }
}

/// Where an entry stands among the others: what is needed to take it out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Armed {
    at: Time,
    /// Entries of one moment come up in the order they were armed.
    sequence: u64,
}

/// Deadlines in order. Arming and disarming cost O(log n) each, and nothing is left to be swept
/// out later: a heap with dead entries is faster on average, and now and then holds everybody up.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    entries: BTreeSet<(Armed, K)>,
    sequence: u64,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeSet::new(), sequence: 0 }
    }

    /// Arms an entry behind all others of its moment. One that is never due is not kept.
    pub(crate) fn arm(&mut self, at: Time, key: K) -> Armed {
        self.sequence += 1;
        let armed = Armed { at, sequence: self.sequence };
        if at != Time::NEVER {
            self.entries.insert((armed, key));
        }
        armed
    }

    pub(crate) fn disarm(&mut self, armed: Armed, key: K) {
        self.entries.remove(&(armed, key));
    }

    /// Arms an entry of which there is one for each key, so that its moment is enough to find it.
    pub(crate) fn arm_single(&mut self, at: Time, key: K) {
        if at != Time::NEVER {
            self.entries.insert((Armed { at, sequence: 0 }, key));
        }
    }

    /// Takes out what [`arm_single`](Self::arm_single) put in.
    pub(crate) fn disarm_single(&mut self, at: Time, key: K) {
        self.disarm(Armed { at, sequence: 0 }, key);
    }

    /// The earliest entry's moment.
    pub(crate) fn next(&self) -> Option<Time> {
        self.entries.first().map(|(armed, _)| armed.at)
    }

    /// Marks the end of a batch: what is armed from here on waits for the next one, so that a
    /// deadline in the past cannot keep a turn going for ever.
    pub(crate) fn batch(&self) -> u64 {
        self.sequence
    }

    /// The next entry of `batch` that is due.
    pub(crate) fn pop_due(&mut self, now: Time, batch: u64) -> Option<(Time, K)> {
        let (first, _) = self.entries.first()?;
        if first.at > now || first.sequence > batch {
            return None;
        }
        let (armed, key) = self.entries.pop_first()?;
        Some((armed.at, key))
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
        for (when, key) in [(5, 'c'), (3, 'a'), (5, 'b'), (4, 'x')] {
            timers.arm(at(when), key);
        }
        assert_eq!(timers.next(), Some(at(3)));
        let batch = timers.batch();
        let mut due = String::new();
        while let Some((_, key)) = timers.pop_due(at(5), batch) {
            due.push(key);
        }
        assert_eq!(due, "axcb");
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
        timers.arm_single(Time::NEVER, 'c');
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn what_is_disarmed_is_gone_at_once() {
        let mut timers = Timers::new();
        let first = timers.arm(at(1), 'a');
        timers.arm(at(1), 'a');
        timers.arm_single(at(2), 'b');
        timers.disarm(first, 'a');
        assert_eq!(timers.entries.len(), 2);
        timers.disarm(first, 'a');
        timers.disarm_single(at(3), 'b');
        assert_eq!(timers.entries.len(), 2, "what is not there cannot be taken out");
        timers.disarm_single(at(2), 'b');
        assert_eq!(timers.pop_due(at(9), timers.batch()), Some((at(1), 'a')));
        assert_eq!(timers.next(), None);
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
        assert_eq!(at(100).minus(Duration::from_nanos(30)), at(70));
        assert_eq!(at(100).minus(Duration::MAX), at(0));
    }

    proptest! {
        // M1
        #[test]
        fn everything_due_comes_up_once_and_nothing_else(
            entries in proptest::collection::vec((0u64..1000, any::<bool>()), 0..300), now in 0u64..1000
        ) {
            let mut timers = Timers::new();
            let mut expected = Vec::new();
            for (key, (when, disarmed)) in entries.into_iter().enumerate() {
                let armed = timers.arm(at(when), key);
                if disarmed {
                    timers.disarm(armed, key);
                } else if when <= now {
                    expected.push((at(when), key));
                }
            }
            expected.sort();
            let mut seen = Vec::new();
            while let Some(entry) = timers.pop_due(at(now), timers.batch()) {
                seen.push(entry);
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
