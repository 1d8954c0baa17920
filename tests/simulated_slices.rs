//! A turn is bounded by time: whatever kind of callback takes long, the others get their turn. In
//! virtual time, so that a slow machine proves nothing.

use std::time::Duration;

use unbroken::sim::{Clock, Script, Sim};
use unbroken::{Bytes, CloseReport, Config, ConnId, Handler, Net, TimerId, Via};

const ADDR: &str = "10.0.0.1:7";
const MANY: usize = 40;
const NAP: Duration = Duration::from_millis(3);

/// Takes its time, whatever it is called for, once it has its clock.
#[derive(Default)]
struct Slow {
    clock: Option<Clock>,
    open: Vec<ConnId>,
    called: usize,
}

impl Slow {
    fn nap(&mut self) {
        if let Some(clock) = &self.clock {
            clock.advance(NAP);
            self.called += 1;
        }
    }
}

impl Handler for Slow {
    fn on_open(&mut self, _: &mut Net, conn: ConnId, _: Via) {
        self.open.push(conn);
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        self.nap();
        data.len()
    }

    fn on_timer(&mut self, _: &mut Net, _: TimerId) {
        self.nap();
    }

    fn on_deadline(&mut self, _: &mut Net, _: ConnId) {
        self.nap();
    }

    fn on_refused(&mut self, _: &mut Net, _: ConnId, _: Bytes) {
        self.nap();
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, _: &CloseReport) {
        self.nap();
    }
}

/// How long the longest turn was, of those that many slow callbacks took.
fn longest_turn(clients: usize, script: Script, many: impl FnOnce(&mut Sim<Slow>, &[ConnId])) -> Duration {
    let mut config = Config::default();
    config.read_size = 16;
    let mut sim = Sim::new(1, config, Slow::default()).unwrap();
    sim.net().listen(ADDR).unwrap();
    for _ in 0..clients {
        sim.client(ADDR, script.clone());
    }
    sim.run_for(Duration::from_millis(100)).unwrap();
    let open = sim.handler().open.clone();
    sim.handler().clock = Some(sim.clock());
    many(&mut sim, &open);
    sim.run_for(Duration::from_secs(1)).unwrap();
    assert!(sim.handler().called >= MANY, "{}", sim.handler().called);
    sim.net().stats().longest_turn
}

/// A slice is 10 ms, and what is begun within it is brought to its end.
const BOUND: Duration = Duration::from_millis(17);

#[test]
fn the_input_of_one_connection_does_not_keep_a_turn_going() {
    let talk = Script::new().wait(Duration::from_millis(200)).send(vec![b'.'; 16 * MANY]);
    assert!(longest_turn(1, talk, |_, _| {}) < BOUND);
}

#[test]
fn timers_that_are_due_at_once_do_not_keep_a_turn_going() {
    let longest = longest_turn(0, Script::new(), |sim, _| {
        for _ in 0..MANY {
            sim.net().set_timer(NAP);
        }
    });
    assert!(longest < BOUND, "{longest:?}");
}

#[test]
fn deadlines_of_connections_that_are_due_at_once_do_not_keep_a_turn_going() {
    let longest = longest_turn(MANY, Script::new(), |sim, open| {
        for conn in open {
            sim.net().set_deadline(*conn, NAP);
        }
    });
    assert!(longest < BOUND, "{longest:?}");
}

#[test]
fn commands_of_other_threads_do_not_keep_a_turn_going() {
    let longest = longest_turn(1, Script::new(), |sim, open| {
        let (handle, clock, conn) = (sim.net().handle(), sim.clock(), open[0]);
        for _ in 0..MANY {
            let clock = clock.clone();
            assert!(handle.run(move |_| clock.advance(NAP)).is_ok());
        }
        sim.handler().called += MANY;
        sim.net().close(conn);
    });
    assert!(longest < BOUND, "{longest:?}");
}

#[test]
fn sends_that_are_given_back_do_not_keep_a_turn_going() {
    let longest = longest_turn(1, Script::new(), |sim, open| {
        let handle = sim.net().handle();
        for _ in 0..MANY {
            assert!(handle.send(open[0], "too late").is_ok());
        }
        sim.net().abort(open[0]);
    });
    assert!(longest < BOUND, "{longest:?}");
}

#[test]
fn connections_that_end_at_once_do_not_keep_a_turn_going() {
    let longest = longest_turn(MANY, Script::new(), |sim, open| {
        for conn in open {
            sim.net().abort(*conn);
        }
    });
    assert!(longest < BOUND, "{longest:?}");
}
