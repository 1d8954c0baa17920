//! The public simulation, used as the author of a handler would: in each test something breaks the
//! pipe, on purpose.

use std::time::Duration;

use unbroken::sim::{End, Faults, Reading, Remote, Script, Sim};
use unbroken::{CloseReason, Config, ConnId, Handler, Keepalive, Net, Timeout, Via};

const ADDR: &str = "10.0.0.1:7";

/// Sends back what it gets.
struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }
}

/// Answers the first byte with a large page and closes.
struct Page;

const PAGE: usize = 300_000;

impl Handler for Page {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, &vec![b'x'; PAGE]);
        net.close(conn);
        data.len()
    }
}

fn sim<H: Handler>(config: Config, handler: H) -> Sim<H> {
    let mut sim = Sim::new(1, config, handler).unwrap();
    sim.net().listen(ADDR).unwrap();
    sim
}

#[test]
fn bytes_sent_one_at_a_time_come_back_in_order() {
    let mut sim = sim(Config::default(), Echo);
    let script = Script::new().send_slowly("every single byte", 1, Duration::from_millis(3)).half_close();
    let peer = sim.client(ADDR, script);
    sim.run().unwrap();
    assert_eq!(sim.received(peer), b"every single byte");
    assert_eq!(sim.end(peer), Some(End::Eof));
    assert!(sim.now() >= Duration::from_millis(48), "time passes, though nobody slept");
    sim.finish().unwrap();
}

#[test]
fn a_page_reaches_a_slow_reader_whole_although_its_upload_is_not_read() {
    let mut sim = sim(Config::default(), Page);
    let script = Script::new()
        .read(Reading::Slow { bytes: 5_000, every: Duration::from_millis(10) })
        .send(vec![b'?'; 200_000]);
    let peer = sim.client(ADDR, script);
    sim.run().unwrap();
    assert_eq!(sim.received(peer).len(), PAGE);
    assert_eq!(sim.report_of(peer).unwrap().reason, CloseReason::Finished);
}

#[test]
fn a_peer_that_never_reads_costs_its_own_connection_and_no_other() {
    let config = Config::default();
    let stall = config.write_stall.unwrap();
    let mut sim = sim(config, Echo);
    let bad = sim.client(ADDR, Script::new().read(Reading::Never).send(vec![1; 2 << 20]));
    let good = sim.client(ADDR, Script::new().send("still here?").await_bytes(11).half_close());
    sim.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(sim.received(good), b"still here?");
    assert!(sim.net().stats().queued <= 64 * 1024 + 128 * 1024, "{:?}", sim.net().stats());
    sim.run_for(stall * 2).unwrap();
    let report = sim.report_of(bad).unwrap();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(report.unsent > 0 && report.unacked.is_some_and(|bytes| bytes < report.handed));
}

#[test]
fn a_peer_that_vanishes_is_given_up_by_keepalive() {
    let mut config = Config::default();
    config.keepalive =
        Some(Keepalive { idle: Duration::from_secs(5), interval: Duration::from_secs(1), count: 5 });
    let mut sim = sim(config, Echo);
    let peer = sim.client(ADDR, Script::new().send("hello").await_bytes(5).vanish());
    sim.run_for(Duration::from_secs(9)).unwrap();
    assert!(sim.report_of(peer).is_none());
    sim.run_for(Duration::from_secs(3)).unwrap();
    assert_eq!(sim.report_of(peer).unwrap().reason, CloseReason::TimedOut(Timeout::Kernel));
}

#[test]
fn an_outage_that_heals_loses_nothing() {
    let mut sim = sim(Config::default(), Echo);
    let script = Script::new()
        .send(vec![5; 5_000])
        .vanish()
        .send(vec![5; 5_000])
        .wait(Duration::from_secs(20))
        .come_back()
        .await_bytes(10_000)
        .half_close();
    let peer = sim.client(ADDR, script);
    sim.run().unwrap();
    assert_eq!(sim.received(peer), [5; 10_000]);
    assert!(sim.report_of(peer).unwrap().reason.is_clean());
}

#[test]
fn a_peer_that_comes_back_without_its_memory_resets() {
    let mut sim = sim(Config::default(), Echo);
    let script = Script::new().send("hello").await_bytes(5).vanish().wait(Duration::from_secs(3)).reboot();
    let peer = sim.client(ADDR, script);
    sim.run().unwrap();
    assert_eq!(sim.report_of(peer).unwrap().reason, CloseReason::Reset);
}

/// Connects to each of these in turn, as the one before ends.
struct Caller(Vec<&'static str>);

impl Caller {
    fn next(&mut self, net: &mut Net) {
        if let Some(addr) = self.0.pop() {
            net.connect(addr).unwrap();
        }
    }
}

impl Handler for Caller {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        assert_eq!(via, Via::Connect);
        let _ = net.send(conn, b"hello");
        net.close_write(conn);
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        assert_eq!(data, b"welcome");
        data.len()
    }

    fn on_close(&mut self, net: &mut Net, _: ConnId, _: &unbroken::CloseReport) {
        self.next(net);
    }
}

#[test]
fn a_client_meets_servers_that_answer_refuse_and_keep_silent() {
    let addrs = vec!["10.0.2.1:1", "10.0.2.2:2", "10.0.2.3:3"];
    let mut sim = Sim::new(9, Config::default(), Caller(addrs)).unwrap();
    sim.remote("10.0.2.1:1", Remote::Serves(Script::new().await_bytes(5).send("welcome").half_close()));
    sim.remote("10.0.2.2:2", Remote::Silent);
    sim.net().connect("10.0.2.9:9").unwrap();
    sim.run().unwrap();
    let reasons: Vec<_> = sim.reports().iter().map(|(_, report)| report.reason.name()).collect();
    assert_eq!(reasons, ["connect_failed", "connect_failed", "connect_timeout", "finished"]);
    let server = sim.peers()[0];
    assert_eq!((sim.received(server), sim.sent(server)), (b"hello".to_vec(), b"welcome".to_vec()));
    sim.finish().unwrap();
}

#[test]
fn clients_that_waited_while_the_process_was_frozen_are_all_served() {
    let mut sim = sim(Config::default(), Echo);
    let script = Script::new().send("hello").half_close();
    let peers: Vec<_> = (0..200).map(|_| sim.client(ADDR, script.clone())).collect();
    sim.freeze(Duration::from_secs(1));
    assert_eq!(sim.reports().len(), 0);
    sim.run().unwrap();
    assert!(peers.iter().all(|peer| sim.received(*peer) == b"hello"));
}

#[test]
fn a_client_that_comes_again_and_again_and_floods_is_one_among_others() {
    let mut sim = sim(Config::default(), Echo);
    let polite = sim.client(
        ADDR,
        Script::new()
            .send("ping")
            .await_bytes(4)
            .wait(Duration::from_secs(2))
            .send("pong")
            .await_bytes(8)
            .half_close(),
    );
    for _ in 0..50 {
        sim.client(ADDR, Script::new().send(vec![0; 100_000]).reset());
        sim.run_for(Duration::from_millis(20)).unwrap();
    }
    sim.run().unwrap();
    assert_eq!(sim.received(polite), b"pingpong");
}

#[test]
fn what_a_peer_may_still_do_can_be_added_while_it_runs() {
    let mut sim = sim(Config::default(), Echo);
    let peer = sim.client(ADDR, Script::new().send("one ").await_bytes(4));
    sim.run_for(Duration::from_millis(100)).unwrap();
    sim.perform(peer, Script::new().send("two").await_bytes(7).close());
    sim.run().unwrap();
    assert_eq!(sim.received(peer), b"one two");
}

#[test]
fn the_trace_tells_what_happened_in_plain_words() {
    let mut sim = sim(Config::default(), Echo);
    sim.record();
    sim.client(ADDR, Script::new().send("hello").reset());
    sim.run().unwrap();
    let trace = sim.trace().join("\n");
    for line in
        ["peer 0: connects", "on_open of 0v1, peer 0", "peer 0: resets the connection", "on_close of 0v1"]
    {
        assert!(trace.contains(line), "{line:?} is not in\n{trace}");
    }
}

#[test]
fn faults_can_be_chosen_one_by_one() {
    let mut faults = Faults::none();
    faults.short_write = 1000;
    faults.interrupt = 300;
    let mut sim = Sim::with_faults(3, faults, Config::default(), Page).unwrap();
    sim.net().listen(ADDR).unwrap();
    let peer = sim.client(ADDR, Script::new().send("?"));
    sim.run().unwrap();
    assert_eq!(sim.received(peer).len(), PAGE);
    assert!(sim.net().stats().partial_writes > 100);
}

#[test]
fn what_is_not_simulated_is_refused() {
    let mut sim = sim(Config::default(), Echo);
    let refused = sim.net().listen("unix:/tmp/x.sock").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
    let real = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = sim.net().listen_from(real).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn a_connection_knows_the_addresses_of_both_its_ends() {
    let mut sim = sim(Config::default(), Echo);
    sim.remote("10.0.0.9:9", Remote::Serves(Script::new()));
    sim.client(ADDR, Script::new().send("x").await_bytes(1));
    let out = sim.net().connect("10.0.0.9:9").unwrap();
    sim.run_for(Duration::from_secs(1)).unwrap();
    let net = sim.net();
    let accepted = net.connections().find(|conn| *conn != out).unwrap();
    assert_eq!(net.local_addr_of(accepted).unwrap().to_string(), ADDR);
    assert_eq!(net.peer_addr(out).unwrap().to_string(), "10.0.0.9:9");
    let local = net.local_addr_of(out).and_then(|addr| addr.as_tcp()).unwrap();
    assert!(local.port() != 0 && local.ip().to_string() == "10.0.0.1", "{local}");
    assert_eq!(net.peer_credentials(out), None);
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
    let handler = Scripted {
        data: Box::new(|net, conn, data| {
            // Held back by a full queue at first, then used.
            let _ = net.send(conn, &[7; 100_000]);
            net.close_write(conn);
            match net.queued(conn) {
                0 => data.len(),
                _ => 0,
            }
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
    assert_eq!(sim.received(peer).len(), 100_000);
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
