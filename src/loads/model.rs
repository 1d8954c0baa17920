//! Places under every schedule that a model checker finds: an acceptor that finds none waits to be told, and
//! is told, however its asking and somebody's leaving fall together.

use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::*;

const SCHEDULES: usize = 20_000;

#[test]
fn who_waits_for_a_place_is_told_when_one_is_free() {
    let model = || {
        let loads = Arc::new(Loads::new(2, Some(1)));
        let bell = Arc::new((Mutex::new(0usize), Condvar::new()));
        assert!(loads.reserve());
        loads.assign(1);
        let leaver = {
            let (loads, bell) = (loads.clone(), bell.clone());
            thread::spawn(move || {
                loads.unassign(1);
                loads.leave();
                if loads.has_waiting() {
                    *bell.0.lock().unwrap() += 1;
                    bell.1.notify_one();
                }
            })
        };
        // As a listener does: asks, says that it waits, asks again, and then sleeps.
        while !loads.reserve() {
            loads.wait();
            if loads.reserve() {
                break;
            }
            let mut rung = bell.0.lock().unwrap();
            while *rung == 0 {
                rung = bell.1.wait(rung).unwrap();
            }
            *rung = 0;
        }
        leaver.join().unwrap();
        assert!(!loads.reserve());
    };
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, 3);
}

#[test]
fn acceptors_that_ask_at_once_get_no_more_places_than_there_are() {
    let model = || {
        let loads = Arc::new(Loads::new(3, Some(2)));
        let asking: Vec<_> = (0..3)
            .map(|_| {
                let loads = loads.clone();
                thread::spawn(move || loads.reserve())
            })
            .collect();
        let given = asking.into_iter().map(|thread| thread.join().unwrap());
        assert_eq!(given.filter(|given| *given).count(), 2);
    };
    shuttle::check_random(model, SCHEDULES);
}
