//! Time, patience and edges in the simulation: what the engine promises about deadlines, closes,
//! congestion and budgets, each in a world of its own.

use std::time::Duration;

use unbroken::sim::{End, Reading, Remote, Script, Sim};
use unbroken::{CloseReason, Config, ConnId, Handler, Net, Timeout, Via};

const ADDR: &str = "10.0.0.1:7";

fn sim<H: Handler>(config: Config, handler: H) -> Sim<H> {
    let mut sim = Sim::new(1, config, handler).unwrap();
    sim.net().listen(ADDR).unwrap();
    sim
}

/// Does with the net what it is told, in each of its callbacks.
type Deed = Box<dyn FnMut(&mut Net, ConnId, &[u8]) -> usize>;

/// A handler made of what a test needs.
struct Scripted {
    open: Deed,
    data: Deed,
    timer: Box<dyn FnMut(&mut Net)>,
    ended: Vec<ConnId>,
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            open: Box::new(|_, _, _| 0),
            data: Box::new(|_, _, data| data.len()),
            timer: Box::new(|_| {}),
            ended: Vec::new(),
        }
    }
}

impl Handler for Scripted {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        (self.open)(net, conn, &[]);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        (self.data)(net, conn, data)
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.ended.push(conn);
        net.close(conn);
    }

    fn on_timer(&mut self, net: &mut Net, _: unbroken::TimerId) {
        (self.timer)(net);
    }
}

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn the_end_of_a_stream_is_told_although_its_last_input_paused_and_resumed() {
    for used in [0, 5] {
        let handler = Scripted {
            data: Box::new(move |net, conn, _| {
                net.pause_reading(conn);
                net.resume_reading(conn);
                used
            }),
            ..Scripted::default()
        };
        let mut sim = sim(Config::default(), handler);
        let peer = sim.client(ADDR, Script::new().send("hello").half_close());
        sim.run_for(Duration::from_secs(1)).unwrap();
        assert_eq!(sim.handler().ended.len(), 1, "{used} used");
        assert!(sim.report_of(peer).unwrap().reason.is_clean());
    }
}

#[test]
fn what_is_unused_and_the_end_behind_it_survive_close_write() {
    let shown = std::rc::Rc::new(std::cell::Cell::new(0));
    let counts = shown.clone();
    let handler = Scripted {
        data: Box::new(move |net, conn, data| {
            // Held back by a full queue at first, then used.
            let _ = net.send(conn, &[7; 400_000]);
            net.close_write(conn);
            counts.set(counts.get() + 1);
            data.len() * (counts.get() - 1)
        }),
        ..Scripted::default()
    };
    let mut config = Config::default();
    config.read_while_congested = true;
    let mut sim = sim(config, handler);
    let script = Script::new().read(Reading::Never).send("hello").half_close();
    let peer = sim.client(ADDR, script.wait(Duration::from_secs(2)).read(Reading::Eager));
    sim.run().unwrap();
    assert_eq!(sim.handler().ended.len(), 1);
    assert_eq!((sim.received(peer).len(), shown.get()), (400_000, 2));
}

#[test]
fn two_ends_that_both_send_before_they_read_do_not_hold_each_other_up() {
    const MUCH: usize = 4 << 20;
    let handler = Scripted {
        open: Box::new(|net, conn, _| net.send_bytes(conn, vec![1; MUCH].into()).map_or(0, |_| 1)),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    let script = Script::new().read(Reading::Never).send(vec![2; MUCH]).read(Reading::Eager).half_close();
    let peer = sim.client(ADDR, script);
    sim.run().unwrap();
    let report = sim.report_of(peer).unwrap();
    assert_eq!((report.received, sim.received(peer).len()), (MUCH as u64, MUCH));
    assert!(report.reason.is_clean(), "{report}");
}

#[test]
fn a_send_of_nothing_does_not_hold_up_what_a_congested_peer_says() {
    let handler = Scripted {
        open: Box::new(|net, conn, _| net.send(conn, &[1; 500_000]).map_or(0, |_| 1)),
        data: Box::new(|net, conn, data| {
            let _ = net.send(conn, b"");
            data.len()
        }),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    let script = Script::new().read(Reading::Never).send(vec![2; 300_000]);
    let peer = sim.client(ADDR, script);
    sim.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(sim.sent(peer).len(), 300_000, "it is heard to the end");
}

#[test]
fn a_stopped_process_finds_nobody_idle_who_spoke_meanwhile() {
    let mut config = Config::default();
    config.idle_timeout = Some(Duration::from_secs(1));
    config.events_per_turn = 2;
    let mut sim = sim(config, Scripted::default());
    let beats = Script::new().send_slowly(vec![b'.'; 40], 1, 300 * MILLI);
    let peers: Vec<_> = (0..20).map(|_| sim.client(ADDR, beats.clone())).collect();
    sim.run_for(500 * MILLI).unwrap();
    for _ in 0..3 {
        sim.freeze(Duration::from_secs(2));
        sim.run_for(100 * MILLI).unwrap();
    }
    assert!(peers.iter().all(|peer| sim.report_of(*peer).is_none()), "{:?}", sim.reports());
}

#[test]
fn who_is_resumed_when_its_time_is_up_is_heard_before_it_is_judged() {
    let mut config = Config::default();
    config.idle_timeout = Some(Duration::from_secs(1));
    let paused = std::rc::Rc::new(std::cell::Cell::new(None));
    let (pause, resume) = (paused.clone(), paused);
    let handler = Scripted {
        data: Box::new(move |net, conn, data| {
            if pause.replace(Some(conn)).is_none() {
                net.pause_reading(conn);
                net.set_timer(1500 * MILLI);
            }
            data.len()
        }),
        timer: Box::new(move |net| net.resume_reading(resume.get().unwrap())),
        ..Scripted::default()
    };
    let mut sim = sim(config, handler);
    let script = Script::new().send("one").wait(1400 * MILLI).send("two").await_end();
    let peer = sim.client(ADDR, script);
    sim.run_for(500 * MILLI).unwrap();
    // Both its deadline and the timer come up when the process is back.
    sim.freeze(1600 * MILLI);
    sim.run_for(300 * MILLI).unwrap();
    assert!(sim.report_of(peer).is_none(), "{:?}", sim.reports());
}

#[test]
fn a_heartbeat_that_waits_in_the_kernel_is_seen_before_it_is_missed() {
    let last = std::rc::Rc::new(std::cell::Cell::new(Duration::ZERO));
    let missed = std::rc::Rc::new(std::cell::Cell::new(0));
    let clock: std::rc::Rc<std::cell::OnceCell<unbroken::sim::Clock>> = Default::default();
    let (heard, seen, counts) = (last.clone(), last, missed.clone());
    let (one, other) = (clock.clone(), clock.clone());
    let handler = Scripted {
        data: Box::new(move |_, _, data| {
            heard.set(one.get().unwrap().now());
            data.len()
        }),
        timer: Box::new(move |net| {
            let silence = other.get().unwrap().now() - seen.get();
            counts.set(counts.get() + usize::from(silence > 900 * MILLI));
            net.set_timer(500 * MILLI);
        }),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    clock.set(sim.clock()).unwrap();
    sim.client(ADDR, Script::new().send_slowly(vec![b'.'; 60], 1, 200 * MILLI));
    sim.net().set_timer(500 * MILLI);
    for _ in 0..4 {
        sim.run_for(700 * MILLI).unwrap();
        sim.freeze(1300 * MILLI);
    }
    assert_eq!(missed.get(), 0);
}

#[test]
fn spans_that_a_long_callback_sets_run_from_their_calls() {
    let clock: std::rc::Rc<std::cell::OnceCell<unbroken::sim::Clock>> = Default::default();
    let (time, fired) = (clock.clone(), std::rc::Rc::new(std::cell::Cell::new(Duration::ZERO)));
    let (tells, at) = (fired.clone(), clock.clone());
    let handler = Scripted {
        data: Box::new(move |net, _, data| {
            time.get().unwrap().advance(Duration::from_secs(3));
            net.set_timer(Duration::from_secs(1));
            net.connect("10.0.2.3:3").unwrap();
            data.len()
        }),
        timer: Box::new(move |_| tells.set(at.get().unwrap().now())),
        ..Scripted::default()
    };
    let mut config = Config::default();
    config.connect_timeout = Duration::from_secs(2);
    let mut sim = sim(config, handler);
    sim.remote("10.0.2.3:3", Remote::Silent);
    clock.set(sim.clock()).unwrap();
    sim.client(ADDR, Script::new().send("?"));
    sim.run_for(Duration::from_secs(10)).unwrap();
    assert!((4000 * MILLI..4010 * MILLI).contains(&fired.get()), "{:?}", fired.get());
    let (_, report) = &sim.reports()[0];
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Connect));
    assert!(report.duration >= Duration::from_secs(2), "{report}");
}

#[test]
fn a_shutdown_does_not_count_time_in_which_the_process_was_stopped() {
    let handler = Scripted {
        open: Box::new(|net, conn, _| net.send(conn, &[1; 400_000]).map_or(0, |_| 1)),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    let script = Script::new().read(Reading::Never).wait(Duration::from_secs(1)).read(Reading::Eager);
    let peer = sim.client(ADDR, script.await_end());
    sim.run_for(500 * MILLI).unwrap();
    sim.net().shutdown(Duration::from_secs(1));
    sim.run_for(100 * MILLI).unwrap();
    // The peer reads, and there is nobody who would send on.
    sim.freeze(1400 * MILLI);
    sim.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(sim.received(peer).len(), 400_000);
    assert_eq!(sim.report_of(peer).unwrap().reason, CloseReason::Finished);
}

#[test]
fn clients_that_come_while_others_are_told_of_a_shutdown_are_taken_in() {
    struct Slow(Option<unbroken::sim::Clock>);
    impl Handler for Slow {
        fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
            data.len()
        }
        fn on_open(&mut self, _: &mut Net, _: ConnId, _: Via) {
            if let Some(clock) = &self.0 {
                clock.advance(MILLI);
            }
        }
    }
    let mut sim = sim(Config::default(), Slow(None));
    sim.net().listen("10.0.0.1:8").unwrap();
    sim.handler().0 = Some(sim.clock());
    let came: Vec<_> = (0..40)
        .map(|n| sim.client_after(n * MILLI / 4, [ADDR, "10.0.0.1:8"][n as usize % 2], Script::new()))
        .collect();
    sim.run_for(2 * MILLI).unwrap();
    sim.net().shutdown(Duration::from_secs(5));
    sim.run_for(Duration::from_secs(6)).unwrap();
    let ends: Vec<_> = came.iter().map(|peer| sim.end(*peer)).collect();
    // Whoever was not refused was served to the end.
    assert!(ends.iter().all(|end| *end != Some(End::Error(104))), "{ends:?}");
    assert!(ends.iter().filter(|end| **end == Some(End::Eof)).count() > 10, "{ends:?}");
}

#[test]
fn closers_that_neither_acknowledge_nor_end_cost_next_to_nothing() {
    let mut config = Config::default();
    config.keepalive = None;
    let handler = Scripted {
        open: Box::new(|net, _, _| {
            net.set_timer(20 * MILLI);
            0
        }),
        timer: Box::new(|net| {
            for conn in net.connections().collect::<Vec<_>>() {
                let _ = net.send(conn, b"goodbye");
                net.close(conn);
            }
        }),
        ..Scripted::default()
    };
    let mut sim = sim(config, handler);
    let script = Script::new().wait(5 * MILLI).vanish();
    for _ in 0..50 {
        sim.client(ADDR, script.clone());
    }
    sim.run_for(Duration::from_secs(1)).unwrap();
    let before = sim.net().stats().turns;
    sim.run_for(Duration::from_secs(50)).unwrap();
    let turns = sim.net().stats().turns - before;
    assert!(turns < 50 * 20, "{turns} turns in 50 s");
    assert_eq!(sim.net().stats().closing, 50);
}

#[test]
fn where_sends_are_refused_no_queue_pays_for_unused_input() {
    use unbroken::Overflow;
    let mut config = Config::default();
    (config.overflow, config.total_write_buffer) = (Overflow::Refuse, 100_000);
    config.max_read_buffer = 1 << 20;
    let handler = Scripted {
        data: Box::new(|net, conn, data| match data.first() {
            // Asks for much, and does not read it.
            Some(b'?') => net.send(conn, &[1; 90_000]).map_or(0, |_| data.len()),
            _ => 0,
        }),
        ..Scripted::default()
    };
    let mut sim = sim(config, handler);
    sim.buffers(1_000, 1_000);
    let reader = sim.client(ADDR, Script::new().read(Reading::Never).send("?"));
    sim.run_for(Duration::from_secs(1)).unwrap();
    let writer = sim.client(ADDR, Script::new().send(vec![b'.'; 200_000]));
    sim.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(sim.report_of(writer).unwrap().reason, CloseReason::InputOverflow);
    assert!(sim.report_of(reader).is_none(), "its sends were taken");
}

#[test]
fn the_end_of_a_stream_is_told_although_more_was_wanted_when_it_had_come() {
    let paused = std::rc::Rc::new(std::cell::Cell::new(None));
    let (pause, resume) = (paused.clone(), paused);
    let handler = Scripted {
        data: Box::new(move |net, conn, data| match pause.replace(Some(conn)) {
            Some(_) => data.len(),
            None => {
                // Both wait until the queue has drained.
                net.send(conn, &[1; 400_000]).unwrap();
                net.set_timer(500 * MILLI);
                0
            }
        }),
        timer: Box::new(move |net| net.want(resume.get().unwrap(), 100).unwrap()),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    let script = Script::new().read(Reading::Never).send("hello").half_close();
    let peer = sim.client(ADDR, script.wait(Duration::from_secs(1)).read(Reading::Eager));
    sim.run_for(Duration::from_secs(9)).unwrap();
    assert_eq!(sim.handler().ended.len(), 1);
    assert!(sim.report_of(peer).unwrap().reason.is_clean());
}

#[test]
fn what_is_owed_to_a_handler_is_shown_when_it_wants_less_again() {
    let conn_of = std::rc::Rc::new(std::cell::Cell::new(None));
    let shown = std::rc::Rc::new(std::cell::Cell::new(0));
    let (pause, resume, counts) = (conn_of.clone(), conn_of, shown.clone());
    let handler = Scripted {
        data: Box::new(move |net, conn, data| {
            counts.set(data.len());
            if pause.replace(Some(conn)).is_some() {
                return data.len();
            }
            net.pause_reading(conn);
            net.set_timer(100 * MILLI);
            net.set_timer(700 * MILLI);
            0
        }),
        timer: Box::new(move |net| {
            let conn = resume.get().unwrap();
            match net.unused(conn).len() {
                5 => {
                    net.want(conn, 100).unwrap();
                    net.resume_reading(conn);
                }
                _ => net.want(conn, 2).unwrap(),
            }
        }),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    sim.client(ADDR, Script::new().send("hello").wait(400 * MILLI).send("again").await_end());
    sim.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(shown.get(), 10);
}

#[test]
fn who_is_resumed_when_its_time_is_up_is_told_of_the_end_before_it_is_judged() {
    let mut config = Config::default();
    config.half_close_timeout = Some(Duration::from_secs(1));
    let paused = std::rc::Rc::new(std::cell::Cell::new(None));
    let (pause, resume) = (paused.clone(), paused);
    let handler = Scripted {
        open: Box::new(|net, conn, _| net.want(conn, 100).map_or(0, |()| 1)),
        data: Box::new(move |net, conn, data| {
            // It is shown because the end has come, which is told behind it.
            pause.set(Some(conn));
            net.pause_reading(conn);
            net.set_timer(1500 * MILLI);
            data.len()
        }),
        timer: Box::new(move |net| net.resume_reading(resume.get().unwrap())),
        ..Scripted::default()
    };
    let mut sim = sim(config, handler);
    let peer = sim.client(ADDR, Script::new().send("hello").half_close());
    sim.run_for(500 * MILLI).unwrap();
    // Both its deadline and the timer come up when the process is back.
    sim.freeze(1600 * MILLI);
    sim.run_for(300 * MILLI).unwrap();
    assert_eq!(sim.handler().ended.len(), 1);
    assert!(sim.report_of(peer).unwrap().reason.is_clean());
}

#[test]
fn close_write_behind_the_read_end_swallows_neither_that_nor_what_came_before_it() {
    let shown = std::rc::Rc::new(std::cell::Cell::new(0));
    let counts = shown.clone();
    let handler = Scripted {
        // It is shown when its end has been read.
        open: Box::new(|net, conn, _| net.want(conn, 100).map_or(0, |()| 1)),
        data: Box::new(move |net, conn, data| {
            counts.set(counts.get() + 1);
            net.pause_reading(conn);
            net.close_write(conn);
            net.resume_reading(conn);
            data.len() * (counts.get() - 1)
        }),
        ..Scripted::default()
    };
    let mut sim = sim(Config::default(), handler);
    let peer = sim.client(ADDR, Script::new().send("hello").half_close());
    sim.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!((sim.handler().ended.len(), shown.get()), (1, 1));
    assert!(sim.report_of(peer).unwrap().reason.is_clean());
}
