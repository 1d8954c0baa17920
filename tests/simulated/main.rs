//! Thousands of worlds, each drawn from a seed: whatever the peers, the kernel and the handler do,
//! the engine keeps its promises.
//!
//! A failure prints its seed, the command that plays it again, and a trace of the smallest world
//! that still shows it. `UNBROKEN_SEED=N` plays one seed, `UNBROKEN_SEEDS=N` so many; with
//! `UNBROKEN_SURVEY=1` they are all played, and each that fails is told in a line.

mod chaos;
mod dice;
mod scenario;

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Instant;

use scenario::{Outcome, Scenario};
use unbroken::{CloseReason, Timeout};

const SEEDS: u64 = 2_500;

/// Worlds beyond those that once showed something: a mistake of the simulation, or one of the bugs
/// that `.ci/bugs` puts in and that few worlds show.
const KEPT: [u64; 10] = [531, 2_691, 2_985, 3_696, 3_847, 7_298, 11_457, 18_553, 22_139, 29_191];

thread_local! {
    /// Something panicked that should not have: an assertion of the handler, or the engine, which
    /// catches both.
    static ASTRAY: Cell<bool> = const { Cell::new(false) };
}

/// The handler's own panics are part of the game and need no message.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&chaos::PANIC) {
                ASTRAY.set(true);
                default(info);
            }
        }));
    });
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Plays a world. An error says what was wrong with it.
fn attempt(scenario: &Scenario) -> Result<Outcome, String> {
    quiet_panics();
    match std::panic::catch_unwind(AssertUnwindSafe(|| scenario.play(false))) {
        Ok(Err(violation)) => Err(violation.to_string()),
        Ok(Ok(outcome)) if !ASTRAY.take() => Ok(outcome),
        _ => Err(format!("seed {}: a panic in the engine, or an assertion of the handler", scenario.seed)),
    }
}

/// Plays a seed. An error is the whole story, ready to be printed.
fn play(seed: u64) -> Result<Outcome, String> {
    let scenario = Scenario::new(seed);
    let what = match attempt(&scenario) {
        Ok(outcome) => return Ok(outcome),
        Err(what) => what,
    };
    // Before the search for a smaller world, which may not end: the engine is broken.
    eprintln!("{what}");
    let small = scenario.shrink(|smaller| attempt(smaller).err());
    let story = match std::panic::catch_unwind(AssertUnwindSafe(|| small.play(true))) {
        Ok(Err(violation)) => format!("{violation:?}"),
        _ => "(the engine panics: see above)".to_owned(),
    };
    Err(format!(
        "{what}\nplay it again: UNBROKEN_SEED={seed} cargo test --test simulated\n\nthe smallest world that shows it: {}\n{story}",
        small.describe()
    ))
}

#[test]
fn the_engine_keeps_its_promises_in_every_world() {
    if let Some(seed) = number("UNBROKEN_SEED") {
        let outcome = play(seed).unwrap_or_else(|story| panic!("{story}"));
        return println!("seed {seed}: {outcome:?}");
    }
    let seeds = number("UNBROKEN_SEEDS").unwrap_or(SEEDS);
    if number("UNBROKEN_SURVEY").is_some() {
        return (0..seeds).chain(KEPT).for_each(|seed| {
            let _ = attempt(&Scenario::new(seed)).map_err(|what| println!("{what}"));
        });
    }
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let totals = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let kept = place.checked_sub(seeds).map(|beyond| KEPT.get(beyond as usize));
                    let seed = match kept {
                        None => place,
                        Some(Some(kept)) => *kept,
                        Some(None) => return Ok(()),
                    };
                    let outcome = play(seed)?;
                    let mut totals = totals.lock().expect("no panic");
                    totals.connections += outcome.connections;
                    totals.lost += outcome.lost;
                    for (reason, count) in outcome.ends {
                        *totals.ends.entry(reason).or_default() += count;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no panic").unwrap_or_else(|story: String| panic!("{story}"));
        }
    });
    let Outcome { connections, lost, ends } = totals.into_inner().expect("no panic");
    let took = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds in {took:.1} s ({:.0}/s): {connections} connections, {lost} lost bytes and said so; {ends:?}",
        seeds as f64 / took
    );
    // A simulation in which nothing happens proves nothing.
    assert!(connections as u64 > 4 * seeds && lost as u64 > seeds / 4);
    for reason in CloseReason::ALL {
        let often = ends.get(reason.name()).copied().unwrap_or(0) as u64;
        let least = match reason {
            // Nobody uses an administrator's tools here, and no error is unknown.
            CloseReason::KernelAborted | CloseReason::Io => 0,
            // Nor does anybody give a connection away.
            CloseReason::Detached => 0,
            CloseReason::TimedOut(Timeout::Handshake) | CloseReason::Tls => seeds / 400,
            _ => seeds / 100,
        };
        assert!(often >= least, "{reason}: {often} times in {seeds} worlds");
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..20 {
        let trace = || {
            quiet_panics();
            let outcome = Scenario::new(seed).play(true).expect("no violation");
            format!("{outcome:?}")
        };
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}
