//! The pool under every schedule that a model checker finds. A wake-up that got lost, an answer
//! that nobody sends, a thread that does not end after the pool: each would leave somebody asleep
//! for ever, which the checker reports.

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::*;

const SCHEDULES: usize = 10_000;

/// Schedules drawn at random, then those in which threads are seldom and cruelly interrupted.
fn check(model: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, 3);
}

/// What was answered: the number of the question, and the number of the call that answered it, or
/// none for a refusal.
#[derive(Default)]
struct Board {
    told: Mutex<Vec<(usize, Option<u16>)>>,
    changed: Condvar,
}

impl Board {
    fn answer(self: &Arc<Self>, number: usize) -> Reply {
        let board = self.clone();
        Box::new(move |result| {
            let call = result.ok().map(|addrs| match addrs[0].ip() {
                std::net::IpAddr::V4(ip) => u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]),
                std::net::IpAddr::V6(ip) => panic!("nobody found {ip}"),
            });
            board.told.lock().unwrap().push((number, call));
            board.changed.notify_all();
        })
    }

    fn wait_for(&self, count: usize) -> Vec<(usize, Option<u16>)> {
        let mut told = self.told.lock().unwrap();
        while told.len() < count {
            told = self.changed.wait(told).unwrap();
        }
        let mut told = told.clone();
        told.sort_unstable();
        told
    }

    fn knows(&self, number: usize) -> bool {
        self.told.lock().unwrap().iter().any(|(who, _)| *who == number)
    }
}

/// What the calls did, in order.
#[derive(Default)]
struct Calls {
    begun: Vec<String>,
    under_way: Vec<String>,
    most: usize,
}

/// A pool whose calls are numbered, and each found address tells the number of its call.
fn pool(threads: usize, waiting: usize) -> (Arc<Pool>, Arc<Mutex<Calls>>) {
    let calls = Arc::new(Mutex::new(Calls::default()));
    let log = calls.clone();
    let call = move |name: &str| {
        let number = {
            let mut calls = log.lock().unwrap();
            assert!(!calls.under_way.iter().any(|other| other == name), "one call for equal names");
            calls.begun.push(name.to_owned());
            calls.under_way.push(name.to_owned());
            calls.most = calls.most.max(calls.under_way.len());
            calls.begun.len() as u16
        };
        thread::yield_now();
        let mut calls = log.lock().unwrap();
        calls.under_way.retain(|other| other != name);
        let [high, low] = number.to_be_bytes();
        Ok(vec![SocketAddr::from(([10, 0, high, low], 0))])
    };
    (Arc::new(Pool::new(Box::new(call), Limits { threads, waiting })), calls)
}

#[test]
fn everybody_is_answered_once_and_not_by_a_call_that_was_over_when_they_asked() {
    check(|| {
        const ASKERS: usize = 3;
        const EACH: usize = 2;
        let (pool, calls) = pool(2, usize::MAX);
        let board = Arc::new(Board::default());
        let askers: Vec<_> = (0..ASKERS)
            .map(|who| {
                let (pool, board) = (pool.clone(), board.clone());
                thread::spawn(move || {
                    let ask = |number: usize| {
                        let (answer, waits) = Answer::awaited(board.answer(number));
                        let known = board.told.lock().unwrap().clone();
                        // Two askers share a name.
                        pool.resolve(["a", "b", "a"][who], 80, answer);
                        (waits, number, known)
                    };
                    [ask(who * EACH), ask(who * EACH + 1)]
                })
            })
            .collect();
        let asked: Vec<_> = askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect();
        let told = board.wait_for(ASKERS * EACH);
        assert!(told.iter().map(|(number, _)| *number).eq(0..ASKERS * EACH), "once each: {told:?}");
        for (_, number, known) in &asked {
            let call = told[*number].1;
            assert!(call.is_some() && known.iter().all(|(_, other)| *other != call), "an old answer");
        }
        assert!(calls.lock().unwrap().most <= 2, "no more threads than allowed");
    });
}

#[test]
fn who_gives_up_leaves_the_others_their_answer_and_the_pool_its_count() {
    check(|| {
        let (pool, _) = pool(1, 2);
        let board = Arc::new(Board::default());
        let (first, waits) = Answer::awaited(board.answer(0));
        pool.resolve("a", 80, first);
        let quitter = thread::spawn(move || drop(waits));
        let (second, _waits) = Answer::awaited(board.answer(1));
        pool.resolve("b", 80, second);
        // There is room for it if the first was answered or has given up by now.
        let (third, _waits) = Answer::awaited(board.answer(2));
        pool.resolve("a", 80, third);
        quitter.join().unwrap();
        while !board.knows(1) || !board.knows(2) {
            thread::yield_now();
        }
        let told = board.wait_for(2);
        let of = |number| told.iter().filter(|(who, _)| *who == number).count();
        assert!(of(0) <= 1 && of(1) == 1 && of(2) == 1, "{told:?}");
        assert!(
            told.iter().any(|(who, call)| *who == 1 && call.is_some()),
            "there was room for it: {told:?}"
        );
    });
}

#[test]
fn no_more_wait_than_allowed_and_who_is_refused_is_told() {
    check(|| {
        const ROOM: usize = 2;
        let (pool, _) = pool(1, ROOM);
        let board = Arc::new(Board::default());
        let askers: Vec<_> = (0..3)
            .map(|who| {
                let (pool, board) = (pool.clone(), board.clone());
                thread::spawn(move || {
                    let (answer, waits) = Answer::awaited(board.answer(who));
                    pool.resolve(["a", "b", "a"][who], 80, answer);
                    assert!(pool.counts().2 <= ROOM);
                    waits
                })
            })
            .collect();
        let _waiting: Vec<_> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        let told = board.wait_for(3);
        assert!(told.iter().filter(|(_, call)| call.is_some()).count() >= ROOM, "{told:?}");
    });
}

#[test]
fn a_pool_that_is_dropped_answers_who_still_waits_and_its_threads_end() {
    check(|| {
        let (pool, _) = pool(2, usize::MAX);
        let board = Arc::new(Board::default());
        let waiting: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .enumerate()
            .map(|(number, name)| {
                let (answer, waits) = Answer::awaited(board.answer(number));
                pool.resolve(name, 80, answer);
                waits
            })
            .collect();
        let dropper = thread::spawn(move || drop(pool));
        assert!(board.wait_for(3).iter().all(|(_, call)| call.is_some()));
        dropper.join().unwrap();
        drop(waiting);
    });
}
