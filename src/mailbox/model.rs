//! The mailbox under every schedule that a model checker finds: threads post, a reactor sleeps until
//! it is woken. A wake-up that got lost would leave it asleep for ever, which the checker reports.

use std::num::NonZeroU32;
use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::*;
use crate::id::Key;

const SCHEDULES: usize = 20_000;

fn conn(slot: u32) -> ConnId {
    ConnId(Key::new(slot, NonZeroU32::MIN))
}

/// What an eventfd is to a poll: a count of wake-ups that nobody has seen yet.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    ringing: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.ringing.notify_one();
    }

    fn wait(&self) -> usize {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.ringing.wait(rung).unwrap();
        }
        std::mem::take(&mut *rung)
    }
}

fn mailbox(max_commands: usize) -> (Arc<Mailbox<(usize, usize)>>, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let ring = bell.clone();
    let wake = Box::new(move || {
        ring.ring();
        Ok(())
    });
    (Arc::new(Mailbox::new(max_commands, usize::MAX, wake)), bell)
}

/// Schedules drawn at random, then those in which threads are seldom and cruelly interrupted.
fn check(model: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_random(model, SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, 3);
}

#[test]
fn no_command_is_lost_no_order_broken_and_no_wake_up_missed() {
    check(|| {
        const THREADS: usize = 3;
        const EACH: usize = 4;
        let (mailbox, bell) = mailbox(usize::MAX);
        let posters: Vec<_> = (0..THREADS)
            .map(|who| {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    for number in 0..EACH {
                        assert!(mailbox.post(Command::Run((who, number))).is_ok());
                    }
                })
            })
            .collect();
        let (mut next, mut seen, mut taken) = ([0; THREADS], 0, VecDeque::new());
        while seen < THREADS * EACH {
            assert_eq!(bell.wait(), 1, "one wake-up serves all that is posted before the look");
            mailbox.collect(&mut taken);
            for command in taken.drain(..) {
                let Command::Run((who, number)) = command else { panic!("nobody posted that") };
                assert_eq!(number, next[who], "in the order of its thread");
                next[who] += 1;
                seen += 1;
            }
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
    });
}

#[test]
fn a_send_is_refused_or_counted_before_its_connection_is_gone() {
    check(|| {
        const SENDS: usize = 3;
        let (mailbox, _) = mailbox(usize::MAX);
        mailbox.set_live(conn(1));
        mailbox.set_live(conn(2));
        let sender = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let send = |slot| Command::Send(conn(slot), Bytes::from_static(b"x"));
                let posted = (0..SENDS).filter(|_| mailbox.post(send(1)).is_ok()).count();
                assert!(mailbox.post(send(2)).is_ok(), "of the other nothing is refused");
                posted
            })
        };
        let mut taken = VecDeque::new();
        mailbox.collect(&mut taken);
        let counted = mailbox.roll().strike_off(conn(1)) as usize;
        assert_eq!(counted, sender.join().unwrap(), "the reactor knows what is still to be answered");
        let mut rest = VecDeque::new();
        mailbox.collect(&mut rest);
        let to = |commands: &VecDeque<Command<_>>, slot| {
            commands.iter().filter(|command| command.target() == Some(conn(slot))).count()
        };
        assert_eq!(to(&taken, 1) + to(&rest, 1), counted);
        assert_eq!(to(&taken, 2) + to(&rest, 2), 1);
    });
}

#[test]
fn after_the_stop_everything_is_refused_and_what_waited_comes_back() {
    check(|| {
        let (mailbox, _) = mailbox(usize::MAX);
        let poster = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let mut taken = 0;
                let mut stopped = false;
                for number in 0..4 {
                    match mailbox.post(Command::Run((0, number))) {
                        Ok(()) => {
                            assert!(!stopped, "taken after a refusal");
                            taken += 1;
                        }
                        Err((refusal, _)) => {
                            assert_eq!(refusal, Refusal::Stopped);
                            stopped = true;
                        }
                    }
                }
                taken
            })
        };
        let mut collected = VecDeque::new();
        mailbox.collect(&mut collected);
        let waited = mailbox.stop().len();
        assert_eq!(collected.len() + waited, poster.join().unwrap());
        assert!(mailbox.ask_wake().is_err());
    });
}

#[test]
fn the_cap_holds_whoever_posts() {
    check(|| {
        const CAP: usize = 2;
        let (mailbox, _) = mailbox(CAP);
        let posters: Vec<_> = (0..3)
            .map(|who| {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    (0..2).filter(|n| mailbox.post(Command::Run((who, *n))).is_ok()).count()
                })
            })
            .collect();
        let mut taken = VecDeque::new();
        mailbox.collect(&mut taken);
        assert!(taken.len() <= CAP);
        let done = taken.len();
        mailbox.carried_out(done, 0);
        let posted: usize = posters.into_iter().map(|poster| poster.join().unwrap()).sum();
        let mut rest = VecDeque::new();
        mailbox.collect(&mut rest);
        assert!(rest.len() <= CAP);
        assert_eq!(taken.len() + rest.len(), posted);
    });
}
