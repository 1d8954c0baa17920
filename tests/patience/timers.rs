//! However many timers are set, due or cancelled, no call and no turn takes long.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use unbroken::Config;

use crate::stage::{alone, at_best, connect, crowd, is_open, millis, reactor, until, Probe};
use crate::util::{self, SOON};

// D3
#[test]
fn a_crowd_of_timers_that_are_due_does_not_fire_in_one_turn() {
    const TIMERS: usize = 200_000;
    let _alone = alone();
    let (mut r, addr) = reactor(Config::default());
    let fired = Arc::new(AtomicUsize::new(0));
    let (count, at) = (fired.clone(), Arc::new(AtomicUsize::new(0)));
    let (see, note) = (fired.clone(), at.clone());
    let mut h = Probe { quiet: false, ..Probe::default() };
    h.timer = Some(Box::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        // A microsecond's work.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(1) {}
    }));
    h.data = Some(Box::new(move |_, _, data| {
        note.store(see.load(Ordering::Relaxed), Ordering::Relaxed);
        data.len()
    }));
    let mut client = connect(addr);
    assert!(until(&mut r, &mut h, SOON, |log| log.iter().any(is_open)));
    for _ in 0..TIMERS {
        r.net().set_timer(Duration::ZERO);
    }
    let mut costs = Vec::new();
    let begin = Instant::now();
    while fired.load(Ordering::Relaxed) < TIMERS {
        assert!(begin.elapsed() < SOON);
        let cost = util::thread_cpu();
        r.turn(&mut h, Some(Duration::ZERO)).unwrap();
        costs.push(util::thread_cpu() - cost);
        if costs.len() == 1 {
            client.write_all(b"x").unwrap();
        }
    }
    let most = costs.iter().max().unwrap();
    assert!(*most < millis(40), "a turn of {most:?}, of {} turns in all", costs.len());
    let heard = at.load(Ordering::Relaxed);
    assert!((1..TIMERS).contains(&heard), "a client was heard after {heard} of {TIMERS} timers");
}

// D3
#[test]
fn no_single_cancel_among_half_a_million_timers_takes_long() {
    const TIMERS: usize = 500_000;
    let _alone = alone();
    at_best(3, millis(2), "the longest of all cancels", || {
        let (mut r, _) = reactor(Config::default());
        let timers: Vec<_> = (0..TIMERS).map(|_| r.net().set_timer(SOON)).collect();
        let mut longest = Duration::ZERO;
        for group in timers.chunks(16) {
            // The clock of the processor time costs more than a cancel: it is asked for some at a time.
            let begin = util::thread_cpu();
            for timer in group {
                assert!(r.net().cancel_timer(*timer));
            }
            longest = longest.max(util::thread_cpu() - begin);
        }
        longest
    });
}

// D3: nor does what was put off come up at once.
#[test]
fn no_turn_after_many_cancels_takes_long() {
    let _alone = alone();
    at_best(3, millis(15), "the longest turn", || {
        let (mut r, addr) = reactor(Config::default());
        let mut h = Probe { quiet: true, ..Probe::default() };
        let _clients = crowd(&mut r, &mut h, addr, 3);
        let timers: Vec<_> = (0..300_000).map(|_| r.net().set_timer(SOON)).collect();
        let mut longest = Duration::ZERO;
        for group in timers.chunks(1000) {
            for timer in group {
                r.net().cancel_timer(*timer);
            }
            let begin = util::thread_cpu();
            r.turn(&mut h, Some(Duration::ZERO)).unwrap();
            longest = longest.max(util::thread_cpu() - begin);
        }
        longest
    });
}
