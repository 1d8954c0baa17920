//! Simulated pipes: what is said of real ones holds of them, in every world.

use std::time::Duration;

use unbroken::sim::{End, Faults, Reading, Script, Sim};
use unbroken::{CloseReason, Config, ConnId, Handler, Net, Via};

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Echoes, and ends when the peer has ended.
struct Echo;

impl Handler for Echo {
    fn on_open(&mut self, _: &mut Net, _: ConnId, via: Via) {
        assert_eq!(via, Via::Pipe);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        net.close(conn);
    }
}

fn echo(seed: u64) -> Sim<Echo> {
    let faults = if seed == 0 { Faults::none() } else { Faults::from_seed(seed) };
    Sim::with_faults(seed, faults, Config::default(), Echo).expect("a world")
}

#[test]
fn what_is_written_comes_back_and_the_end_behind_it() {
    for seed in 0..50 {
        let mut sim = echo(seed);
        sim.buffers(500, 4_000);
        let text: Vec<u8> = (0..20_000_u32).map(|place| (place % 251) as u8).collect();
        let (conn, peer) =
            sim.pipe(Script::new().send(text.clone()).half_close().await_end()).expect("a pipe");
        sim.run().unwrap_or_else(|what| panic!("{what:?}"));
        assert_eq!((sim.received(peer), sim.end(peer)), (text, Some(End::Eof)), "seed {seed}");
        let (id, report) = sim.reports().first().expect("it has ended").clone();
        assert_eq!((id, report.reason, report.unacked), (conn, CloseReason::PeerClosed, Some(0)), "{report}");
        sim.finish().unwrap_or_else(|what| panic!("{what:?}"));
    }
}

#[test]
fn a_reader_that_goes_leaves_an_exact_account() {
    for seed in 0..50 {
        let mut sim = echo(seed);
        sim.buffers(500, 4_000);
        let script = Script::new().read(Reading::Slow { bytes: 100, every: millis(1) });
        let (_, peer) = sim.pipe(script.send(vec![7; 3_000]).wait(millis(10)).close()).expect("a pipe");
        sim.run().unwrap_or_else(|what| panic!("{what:?}"));
        let (_, report) = sim.reports().first().expect("it has ended").clone();
        let taken = sim.received(peer).len() as u64;
        assert_eq!(report.reason, CloseReason::BrokenPipe, "seed {seed}: {report}");
        assert_eq!(report.unacked, Some(report.handed - taken), "seed {seed}: {report}");
    }
}

#[test]
fn whatever_happens_at_the_other_ends_the_promises_hold() {
    for seed in 0..300 {
        let mut sim = echo(seed);
        for place in 0..3 {
            sim.pipe(Script::random(seed * 3 + place)).expect("a pipe");
        }
        sim.run().and_then(|()| sim.finish()).unwrap_or_else(|what| panic!("{what:?}"));
    }
}
