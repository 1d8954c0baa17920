//! How many connections each reactor of a group has, counted by all of them and read by the one that hands
//! clients out.
//!
//! A client counts from the moment it is handed out, not from when its reactor gets round to it: else all of a
//! burst would go to the one that had the fewest before (seastar#3578).

#[cfg(all(test, shuttle))]
mod model;

#[cfg(not(all(test, shuttle)))]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(all(test, shuttle))]
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A count on cache lines of its own: its neighbours are written to on other cores, with every client. Two
/// lines, because processors fetch them in pairs.
#[repr(align(128))]
#[derive(Debug)]
struct Count(AtomicUsize);

/// Shared by the reactors of a group.
#[derive(Debug)]
pub(crate) struct Loads {
    /// Connections of each, those on their way to it included.
    each: Box<[Count]>,
    /// Connections of all together. Not counted without a limit: it is the one thing that all of them would
    /// write to.
    total: Count,
    /// How many there may be, before no more clients are accepted.
    limit: Option<usize>,
    /// Somebody would accept if there were room, or a descriptor.
    waiting: AtomicBool,
}

impl Loads {
    pub(crate) fn new(reactors: usize, limit: Option<usize>) -> Self {
        Self {
            each: (0..reactors).map(|_| Count(AtomicUsize::new(0))).collect(),
            total: Count(AtomicUsize::new(0)),
            limit,
            waiting: AtomicBool::new(false),
        }
    }

    /// Takes a place among all, unless there is none left.
    pub(crate) fn reserve(&self) -> bool {
        let Some(limit) = self.limit else { return true };
        let one_more = |total| (total < limit).then_some(total + 1);
        self.total.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// Takes a place among all in any case: the limit is for clients that are accepted.
    pub(crate) fn enter(&self) {
        if self.limit.is_some() {
            self.total.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Gives a place among all back.
    pub(crate) fn leave(&self) {
        if self.limit.is_some() {
            self.total.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// One of them is, or will be, with this reactor.
    pub(crate) fn assign(&self, reactor: usize) {
        if let Some(count) = self.each.get(reactor) {
            count.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// It is not, or not any more.
    pub(crate) fn unassign(&self, reactor: usize) {
        if let Some(count) = self.each.get(reactor) {
            count.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Has somebody told when a place or a descriptor is free. Who found no place asks again after this: it
    /// may have become free in between.
    pub(crate) fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// A place or a descriptor is free. Returns whether somebody is to be told.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) && self.waiting.swap(false, Ordering::SeqCst)
    }

    /// The reactor with the fewest, among those that `may` be chosen; of equals the first from `start` on, which
    /// is to be another each time: else the first of all would get every odd one (seastar#290).
    pub(crate) fn fewest(&self, start: usize, may: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.each.len();
        let load = |reactor: &usize| {
            self.each.get(*reactor).map_or(usize::MAX, |load| load.0.load(Ordering::SeqCst))
        };
        (0..count).map(|step| (start + step) % count).filter(|reactor| may(*reactor)).min_by_key(load)
    }

    /// Connections of each reactor as they stand.
    pub(crate) fn snapshot(&self) -> Vec<usize> {
        self.each.iter().map(|load| load.0.load(Ordering::SeqCst)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equals_take_turns() {
        let loads = Loads::new(3, None);
        let mut start = 0;
        let mut order = Vec::new();
        for _ in 0..6 {
            let reactor = loads.fewest(start, |_| true).unwrap();
            start = reactor + 1;
            loads.assign(reactor);
            order.push(reactor);
        }
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
        // One that comes and goes at once does not always meet the same.
        let met: Vec<_> = (0..3).filter_map(|start| loads.fewest(start, |_| true)).collect();
        assert_eq!(met, [0, 1, 2]);
        loads.assign(2);
        assert_eq!(loads.fewest(1, |reactor| reactor != 1), Some(0));
        assert_eq!(loads.fewest(1, |_| false), None);
    }

    #[test]
    fn no_more_places_are_given_than_there_are() {
        let loads = Loads::new(2, Some(2));
        assert!(loads.reserve() && loads.reserve() && !loads.reserve());
        loads.enter();
        loads.leave();
        assert!(!loads.reserve() && !loads.has_waiting());
        loads.wait();
        loads.leave();
        assert!(loads.has_waiting() && !loads.has_waiting());
        assert!(loads.reserve());
    }

    proptest! {
        // As a chat has them: clients come, and any of those who are there leaves.
        #[test]
        fn hand_outs_keep_the_balance_whoever_leaves(seed in any::<u64>(), reactors in 2usize..9) {
            let loads = Loads::new(reactors, None);
            let (mut random, mut start, mut all) = (seed, 0, Vec::new());
            for _ in 0..2000 {
                let reactor = loads.fewest(start, |_| true).unwrap();
                start = reactor + 1;
                loads.assign(reactor);
                all.push(reactor);
                let counts = loads.snapshot();
                let least = counts.iter().min().copied().unwrap_or(0);
                prop_assert!(counts[reactor] <= least + 1, "{counts:?}");
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if all.len() > 200 {
                    let leaver = all.swap_remove((random >> 33) as usize % all.len());
                    loads.unassign(leaver);
                }
            }
        }
    }
}
