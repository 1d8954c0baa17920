//! First in, first out, for lists that run empty again and again.

/// Things in the order in which they came. What has been taken off the front leaves its room when all has
/// been, or when there is no other: no place has to be wrapped round, as in a ring.
///
/// Invariant: `taken` is less than the length of `things`, or both are 0.
#[derive(Debug)]
pub(crate) struct Fifo<T> {
    things: Vec<T>,
    /// So many at the front have been taken off.
    taken: usize,
}

impl<T: Copy> Fifo<T> {
    pub(crate) fn new() -> Self {
        Self { things: Vec::new(), taken: 0 }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.things.len() - self.taken
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    #[inline]
    pub(crate) fn push_back(&mut self, thing: T) {
        if self.things.len() == self.things.capacity() {
            self.make_room();
        }
        self.things.push(thing);
    }

    /// Moves what is left to the front when it is no more than what has been taken, so that each is moved
    /// once at most for one that was pushed; else the list grows.
    #[cold]
    fn make_room(&mut self) {
        if self.taken >= self.len().max(1) {
            self.things.drain(..self.taken);
            self.taken = 0;
        } else {
            self.things.reserve(1);
        }
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let thing = *self.things.get(self.taken)?;
        self.taken += 1;
        if self.taken == self.things.len() {
            self.things.clear();
            self.taken = 0;
        }
        Some(thing)
    }

    /// All that are there, the first first.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.things.iter().skip(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_came_first_goes_first(steps in proptest::collection::vec(any::<bool>(), 1..300)) {
            let (mut fifo, mut model) = (Fifo::new(), VecDeque::new());
            for (number, push) in steps.into_iter().enumerate() {
                if push {
                    fifo.push_back(number);
                    model.push_back(number);
                } else {
                    prop_assert_eq!(fifo.pop_front(), model.pop_front());
                }
                prop_assert!(fifo.iter().eq(&model));
                prop_assert_eq!((fifo.len(), fifo.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }

    #[test]
    fn a_list_that_never_runs_empty_has_room_for_less_than_four_times_what_is_in_it() {
        let mut fifo = Fifo::new();
        (0..100).for_each(|number| fifo.push_back(number));
        for number in 100..100_000 {
            assert_eq!(fifo.pop_front(), Some(number - 100));
            fifo.push_back(number);
        }
        assert!(fifo.things.capacity() < 400, "{}", fifo.things.capacity());
    }
}
