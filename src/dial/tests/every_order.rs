//! Every order in which things can happen, for few addresses; orders drawn at random, for many.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A dial and all that is demanded of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Watched {
    dial: Dial,
    delay: Duration,
    now: Time,
    last_start: Time,
    won: Option<usize>,
}

/// What can happen to a dial.
#[derive(Clone, Copy, Debug)]
enum Event {
    Failed(usize, i32),
    Established(usize),
    Deadline,
    Pass(Duration),
}

impl Watched {
    fn new(answer: Vec<SocketAddr>, delay: Duration) -> Self {
        let dial = Dial::new(answer, Family::Both, delay).unwrap();
        Self { dial, delay, now: at(1000), last_start: at(1000), won: None }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Failed(attempt, errno) => self.dial.failed(attempt, errno),
            Event::Established(attempt) => {
                let pending = self.dial.outcomes.get(attempt) == Some(&Outcome::InFlight);
                if pending && self.won.is_none() {
                    self.won = Some(attempt);
                }
                assert_eq!(
                    self.dial.established(attempt),
                    self.won == Some(attempt),
                    "one winner, the first"
                );
            }
            Event::Deadline => self.dial.time_out(),
            Event::Pass(time) => self.now = self.now.plus(time),
        }
    }

    /// Asks what to do and checks the answer against the rules, in other words than the code's.
    fn asked(&mut self) -> Step {
        let before = self.dial.clone();
        let step = self.dial.step(self.now);
        let (started, all) = (before.outcomes.len(), before.addrs.len());
        let under_way = before.outcomes.iter().filter(|outcome| **outcome == Outcome::InFlight).count();
        let newest_failed = matches!(before.outcomes.last(), Some(Outcome::Failed(_)));
        let waited = self.now.since(self.last_start) >= self.delay;
        if let Step::Start(attempt, addr) = step {
            assert_eq!((attempt, Some(&addr)), (started, before.addrs.get(started)), "in order, each once");
            assert!(self.won.is_none(), "no attempt after the win");
            assert!(under_way < MAX_IN_FLIGHT);
            assert!(started == 0 || newest_failed || waited, "too early");
            assert_eq!(self.dial.outcomes.len(), started + 1);
            self.last_start = self.now;
        } else {
            assert_eq!(self.dial.outcomes.len(), started);
        }
        assert_eq!(self.dial.outcomes[..started], before.outcomes[..], "to ask ends no attempt");
        match step {
            Step::Start(..) => {}
            Step::Won(winner) => assert_eq!(Some(winner), self.won),
            Step::Failed => {
                assert_eq!((started, under_way, self.won), (all, 0, None), "all were tried and failed");
            }
            Step::Wait(until) => {
                assert!(self.won.is_none() && until > self.now && under_way > 0);
                let may_start = started < all && under_way < MAX_IN_FLIGHT;
                let due = if may_start { self.last_start.plus(self.delay) } else { Time::NEVER };
                assert_eq!(until, due, "a wake-up too many or too few");
                assert!(!may_start || !newest_failed, "nothing is waited for");
            }
        }
        step
    }

    fn is_over(&self) -> bool {
        self.won.is_some() && self.dial.in_flight().next().is_none()
    }

    /// Each event that can come now.
    fn possible(&self, errnos: &[i32]) -> Vec<Event> {
        let mut events = vec![Event::Deadline, Event::Pass(TICK)];
        for attempt in self.dial.in_flight() {
            events.push(Event::Established(attempt));
            events.extend(errnos.iter().map(|errno| Event::Failed(attempt, *errno)));
        }
        events
    }
}

/// The clock of the walk below goes in ticks, a few of which are a delay: so it stands before,
/// at and behind every moment that matters.
const TICK: Duration = Duration::from_nanos(1);
const TICKS: u32 = 3;

/// What a dial's future depends on: two that have just waited long are the same.
fn key(state: &Watched) -> (Vec<Outcome>, usize, Option<usize>, Duration, bool) {
    let Watched { dial, now, last_start, won, .. } = state;
    let age = now.since(*last_start).min(TICKS * TICK);
    (dial.outcomes.clone(), dial.addrs.len(), *won, age, dial.next_at <= *now)
}

/// Walks through every order of events, those included that are told in one turn, before it is
/// asked again. Returns how many states there were.
fn explore(answer: Vec<SocketAddr>, errnos: &[i32]) -> usize {
    let mut seen = HashSet::new();
    let mut to_visit = vec![Watched::new(answer, TICKS * TICK)];
    let (mut wins, mut failures) = (0, 0);
    while let Some(state) = to_visit.pop() {
        if !seen.insert(key(&state)) {
            continue;
        }
        let mut next = state.clone();
        let step = next.asked();
        wins += usize::from(matches!(step, Step::Won(_)));
        failures += usize::from(step == Step::Failed);
        to_visit.push(next);
        if step == Step::Failed || state.is_over() {
            continue;
        }
        for event in state.possible(errnos) {
            let mut next = state.clone();
            next.happens(event);
            to_visit.push(next);
        }
    }
    assert!(wins > 0 && failures > 0);
    seen.len()
}

#[test]
fn every_order_of_events_keeps_the_rules_for_up_to_four_addresses() {
    for count in 1..=4 {
        let states = explore((1..=count).map(v4).collect(), &[libc::ECONNREFUSED, libc::ETIMEDOUT]);
        assert!(states > 3usize.pow(u32::from(count)), "{states} states of {count} addresses");
    }
}

#[test]
fn every_order_of_events_keeps_the_rules_where_the_limit_of_six_is_felt() {
    let states = explore((1..=8).map(v4).collect(), &[libc::ECONNREFUSED]);
    assert!(states > 3usize.pow(8), "{states} states");
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (0u8..40).prop_map(v4),
        (0u16..40).prop_map(|n| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 80))),
    ]
}

proptest! {
    #[test]
    fn the_order_is_the_answer_by_turns_and_nothing_else(
        answer in proptest::collection::vec(any_addr(), 1..=64)
    ) {
        let dial = Dial::new(answer.clone(), Family::Both, DELAY).unwrap();
        let family = |wanted: bool, from: &[SocketAddr]| -> Vec<SocketAddr> {
            let mut seen = HashSet::new();
            from.iter().copied().filter(|addr| addr.is_ipv4() == wanted && seen.insert(*addr)).collect()
        };
        for wanted in [false, true] {
            // Each family keeps its order.
            prop_assert_eq!(family(wanted, &dial.addrs), family(wanted, &answer));
        }
        prop_assert_eq!(dial.addrs[0], answer[0]);
        let shorter = family(true, &answer).len().min(family(false, &answer).len());
        for pair in dial.addrs[..2 * shorter].windows(2) {
            prop_assert_ne!(pair[0].is_ipv4(), pair[1].is_ipv4());
        }
    }

    #[test]
    fn long_lists_keep_the_rules_and_end(
        answer in proptest::collection::vec(any_addr(), 1..=40),
        draws in proptest::collection::vec((0u8..10, any::<proptest::sample::Index>(), 0u64..600), 0..300),
    ) {
        let mut watched = Watched::new(answer.clone(), DELAY);
        for (kind, which, millis) in draws {
            while let Step::Start(..) = watched.asked() {}
            let under_way: Vec<_> = watched.dial.in_flight().collect();
            if under_way.is_empty() {
                break;
            }
            let attempt = *which.get(&under_way);
            watched.happens(match kind {
                0 => Event::Established(attempt),
                1..=5 => Event::Failed(attempt, libc::ECONNREFUSED),
                _ => Event::Pass(Duration::from_millis(millis)),
            });
        }
        // Whatever came, it ends once all that is under way has failed.
        for _ in 0..=answer.len() {
            while let Step::Start(..) = watched.asked() {}
            for attempt in watched.dial.in_flight().collect::<Vec<_>>() {
                watched.happens(Event::Failed(attempt, libc::ETIMEDOUT));
            }
        }
        match watched.asked() {
            Step::Won(_) => {}
            Step::Failed => {
                let tried: HashSet<_> = watched.dial.failures().into_iter().map(|(addr, _)| addr).collect();
                prop_assert_eq!(tried, answer.into_iter().collect::<HashSet<_>>(), "every address was tried");
            }
            step => prop_assert!(false, "not over: {:?}", step),
        }
    }
}
