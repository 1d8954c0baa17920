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

/// While descriptors are short each one that is freed takes a client in, and the next one in the queue
/// begins a pause. Each of these used to wake the reactor when it would have been over.
#[test]
fn pauses_of_a_listener_that_were_cut_short_wake_nobody_later() {
    for seed in 0..60 {
        let mut faults = Faults::none();
        faults.exhaustion = 300;
        let mut sim = Sim::with_faults(seed, faults, Config::default(), Echo).unwrap();
        sim.net().listen(ADDR).unwrap();
        for _ in 0..50 {
            sim.client(ADDR, Script::new().send("hello").half_close());
        }
        // It refuses a reactor that turns again and again with nothing to do.
        sim.run().unwrap();
        assert!(sim.net().stats().accept_pauses > 0);
        sim.finish().unwrap();
    }
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
}

/// Lowers its high water below what it has just queued.
struct Lower;

impl Handler for Lower {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        net.send(conn, &vec![1; 40_000]).unwrap();
        let mut own = net.settings(conn).unwrap().clone();
        (own.high_water, own.low_water) = (8 << 10, 4 << 10);
        net.set_settings(conn, own).unwrap();
        data.len()
    }
}

#[test]
fn lowering_high_water_below_what_is_queued_is_no_violation() {
    let mut sim = sim(Config::default(), Lower);
    sim.buffers(1000, 1000);
    let slow = Reading::Slow { bytes: 1000, every: Duration::from_millis(1) };
    sim.client(ADDR, Script::new().read(slow).send("x").wait(Duration::from_secs(1)).half_close());
    sim.run().unwrap();
}
