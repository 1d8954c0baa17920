//! The stretches of time in which the reactor served nobody: a callback took long, the process was
//! stopped, an outer loop was busy elsewhere.
//!
//! A deadline that measures how a peer uses its time must not count them: the peer could not have
//! used them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::timers::Time;

/// So many are remembered. What is older is forgotten, and no longer excuses anybody.
const KEPT: usize = 64;

/// From this length on it is a lapse, as far as it is longer: twice what a turn takes that keeps to its slice.
pub(crate) const LAPSE: Duration = Duration::from_millis(20);

/// The latest lapses, oldest first; they do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Lapses {
    recent: VecDeque<(Time, Time)>,
}

impl Lapses {
    /// Notes that nobody was served from `begin` to `end`, unless that was too short to matter.
    #[inline]
    pub(crate) fn note(&mut self, begin: Time, end: Time) {
        if end >= begin.plus(LAPSE) {
            self.add(begin, end);
        }
    }

    #[cold]
    fn add(&mut self, begin: Time, end: Time) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((begin, end));
    }

    /// When the latest of them ended: the beginning, if there was none.
    pub(crate) fn last_end(&self) -> Time {
        self.recent.back().map_or(Time::default(), |(_, end)| *end)
    }

    /// When something happened that is stamped with `moment`, at the latest. A stamp is the clock as it
    /// was last read: if that was within a lapse, it may have happened at the lapse's end.
    #[inline]
    pub(crate) fn happened(&self, moment: Time) -> Time {
        match self.recent.back() {
            Some((_, last)) if *last > moment => self.end_after(moment),
            _ => moment,
        }
    }

    #[cold]
    fn end_after(&self, moment: Time) -> Time {
        let behind = self.recent.partition_point(|(begin, _)| *begin <= moment);
        let within = behind.checked_sub(1).and_then(|place| self.recent.get(place));
        within.map_or(moment, |(_, end)| (*end).max(moment))
    }

    /// When `limit` is over for somebody whose time runs from `since`: the lapses on the way do not
    /// count, but for the first moments of each. Between two of them everybody was served, so that a
    /// reactor which is always late still comes to an end with everybody.
    #[inline]
    pub(crate) fn end_of(&self, since: Time, limit: Duration) -> Time {
        let since = self.happened(since);
        let end = since.plus(limit);
        match self.recent.back() {
            Some((_, last)) if *last > since && end != Time::NEVER => end.plus(self.between(since, end)),
            _ => end,
        }
    }

    /// The time lost from `since` to `end`, which moves away by each lapse before it.
    fn between(&self, since: Time, end: Time) -> Duration {
        let mut lost = Duration::ZERO;
        for (begin, over) in &self.recent {
            if *begin >= end.plus(lost) {
                break;
            }
            lost += over.since((*begin).max(since)).saturating_sub(LAPSE);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_duration(Duration::from_millis(millis))
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn time_in_which_nobody_was_served_does_not_count() {
        let mut lapses = Lapses::default();
        assert_eq!(lapses.end_of(at(100), ms(300)), at(400));
        lapses.note(at(50), at(150));
        assert_eq!(lapses.end_of(at(100), ms(300)), at(450), "only what comes after the beginning");
        lapses.note(at(200), at(300));
        assert_eq!(lapses.end_of(at(100), ms(300)), at(530));
        assert_eq!(lapses.end_of(at(300), ms(300)), at(600), "nothing has been lost since");
    }

    #[test]
    fn what_was_stamped_within_a_lapse_may_have_happened_at_its_end() {
        let mut lapses = Lapses::default();
        lapses.note(at(100), at(200));
        lapses.note(at(200), at(300));
        lapses.note(at(500), at(600));
        for (stamp, moment) in [(99, 99), (100, 200), (101, 200), (200, 300), (300, 300), (500, 600)] {
            assert_eq!(lapses.happened(at(stamp)), at(moment));
        }
        assert_eq!(lapses.happened(Time::NEVER), Time::NEVER);
        assert_eq!(lapses.end_of(at(500), ms(50)), at(650), "and its time runs from there");
    }

    #[test]
    fn a_lapse_behind_the_end_excuses_nobody() {
        let mut lapses = Lapses::default();
        lapses.note(at(500), at(620));
        assert_eq!(lapses.end_of(at(100), ms(300)), at(400));
        // One that begins before the end, moved by those before it, does.
        lapses.note(at(700), at(820));
        assert_eq!(lapses.end_of(at(290), ms(300)), at(690));
        assert_eq!(lapses.end_of(at(320), ms(300)), at(820));
    }

    #[test]
    fn what_is_short_is_no_lapse() {
        let mut lapses = Lapses::default();
        lapses.note(at(100), at(119));
        assert_eq!(lapses.end_of(at(100), ms(300)), at(400));
    }

    #[test]
    fn one_lapse_is_excused_however_long() {
        let mut lapses = Lapses::default();
        lapses.note(at(200), at(3_600_200));
        assert_eq!(lapses.end_of(at(100), ms(300)), at(3_600_380));
    }

    #[test]
    fn a_reactor_that_is_always_late_comes_to_an_end_all_the_same() {
        let mut lapses = Lapses::default();
        let mut now = 0;
        while lapses.end_of(at(100), ms(300)) > at(now) {
            lapses.note(at(now), at(now + 100));
            now += 100;
        }
        assert_eq!(now, 1700, "when everybody was served fifteen times in between");
        // However long it may take: the oldest lapses are forgotten.
        while lapses.end_of(at(100), ms(60_000)) > at(now) {
            lapses.note(at(now), at(now + 10_000));
            now += 10_000;
        }
        assert!(now < 800_000, "{now}");
        assert_eq!(lapses.recent.len(), KEPT);
    }

    #[test]
    fn without_a_limit_nothing_ends() {
        let mut lapses = Lapses::default();
        lapses.note(at(0), at(5000));
        assert_eq!(lapses.end_of(at(0), Duration::MAX), Time::NEVER);
    }
}
