//! What the simulated worlds found about sessions, each promise by itself: the simulator's own session over
//! its network.

use std::time::Duration;

use unbroken::sim::{Faults, Reading, Script, Sim};
use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, TimerId, Tls, Via};

const DOOR: &str = "10.0.0.1:443";

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn world<H: Handler>(config: Config, handler: H) -> Sim<H> {
    world_with(Faults::none(), config, handler)
}

fn world_with<H: Handler>(faults: Faults, config: Config, handler: H) -> Sim<H> {
    let mut sim = Sim::with_faults(1, faults, config, handler).expect("a world");
    let listener = sim.net().listen(DOOR).expect("a port");
    sim.secure(listener);
    sim
}

/// Closes when the peer has ended, after a while.
#[derive(Default)]
struct Closer {
    wait: Duration,
    conn: Option<ConnId>,
    shown: Vec<usize>,
}

impl Handler for Closer {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.conn = Some(conn);
        if !self.wait.is_zero() {
            net.set_timer(self.wait);
        }
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        self.shown.push(data.len());
        data.len()
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        if let Some(conn) = self.conn {
            net.close_write(conn);
        }
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        net.close(conn);
    }
}

fn report<H: Handler>(sim: &mut Sim<H>, script: Script) -> CloseReport {
    let peer = sim.client(DOOR, script);
    sim.run().unwrap_or_else(|what| panic!("{what:?}"));
    sim.report_of(peer).expect("it has ended").clone()
}

#[test]
fn whose_session_failed_is_not_read_from_again_and_again() {
    // The violation would be that of a turn with too many calls.
    let mut sim = world(Config::default(), Closer::default());
    let script = Script::new().send("GET / HTTP/1.1\r\n\r\n").wait(millis(2_000));
    let report = report(&mut sim, script);
    assert_eq!(report.reason, CloseReason::Tls);
    let eagains = sim.net().stats().read_eagains;
    assert!(eagains < 20, "{eagains} reads that found nothing");
}

/// Ends its stream at once, and reads later.
struct Hasty(Option<ConnId>);

impl Handler for Hasty {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.0 = Some(conn);
        net.pause_reading(conn);
        net.close_write(conn);
        net.set_timer(millis(3));
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        if let Some(conn) = self.0 {
            net.resume_reading(conn);
        }
    }
}

#[test]
fn a_reset_that_the_end_of_our_session_meets_is_told_as_a_reset() {
    for wait in 1..60 {
        let mut sim = world(Config::default(), Hasty(None));
        let peer = sim.client(DOOR, Script::new().secure().send("unheard").reset());
        sim.run_for(Duration::from_micros(wait * 10)).expect("no violation");
        sim.freeze(millis(10));
        sim.run().unwrap_or_else(|what| panic!("{what:?}"));
        let report = sim.report_of(peer).expect("it has ended");
        assert!(!report.saw_fin && report.reason == CloseReason::Reset, "{report}");
    }
}

#[test]
fn who_ended_its_session_and_its_stream_may_be_gone_when_ours_ends() {
    for wait in 0..200 {
        let mut sim = world(Config::default(), Closer::default());
        let script =
            Script::new().secure().wait(millis(2)).half_close().wait(Duration::from_micros(wait)).reset();
        let report = report(&mut sim, script);
        let well = matches!(report.reason, CloseReason::PeerClosed | CloseReason::ResetAfterFin);
        assert!(well && report.unacked == Some(0), "{report}");
    }
}

/// Sends so much to whoever comes, and aborts after a while, or closes at once.
struct Sender(usize, Option<Duration>);

impl Handler for Sender {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        net.send(conn, &vec![7; self.0]).expect("below the cap");
        match self.1 {
            Some(wait) => net.set_deadline(conn, wait),
            None => net.close(conn),
        }
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        net.abort(conn);
    }
}

#[test]
fn the_end_of_a_session_counts_as_nobodys_bytes() {
    let mut sim = world(Config::default(), Sender(100, None));
    // Its kernel has room for our record, and not for the end behind it.
    sim.buffers(130, 130);
    let report = report(&mut sim, Script::new().secure().read(Reading::Never).wait(millis(100_000)));
    assert_eq!((report.handed, report.unsent, report.unacked), (100, 0, Some(0)), "{report}");
}

#[test]
fn a_record_counts_as_soon_as_all_of_it_is_with_the_kernel() {
    let mut config = Config::default();
    config.write_budget = 2_000;
    let mut sim = world(config, Sender(90_000, Some(millis(10))));
    sim.buffers(40_000, 40_000);
    let script = Script::new().secure().read(Reading::Never).wait(millis(7)).read(Reading::Eager);
    let peer = sim.client(DOOR, script);
    sim.run_for(millis(5)).expect("no violation");
    // There is room when it comes back, and it is about to abort: that much may be written before.
    sim.freeze(millis(20));
    // The audit of the report compares it with what the kernel has taken.
    sim.run().unwrap_or_else(|what| panic!("{what:?}"));
    let report = sim.report_of(peer).expect("it has ended");
    assert_eq!((report.reason, report.handed + report.unsent), (CloseReason::Aborted, 90_000), "{report}");
}

#[test]
fn an_interrupted_end_of_a_session_is_made_good() {
    let mut faults = Faults::none();
    faults.interrupt = 400;
    for _ in 0..20 {
        let mut sim = world_with(faults.clone(), Config::default(), Closer::default());
        let script = Script::new().secure().send("hello").half_close().await_end();
        let report = report(&mut sim, script);
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 5), "{report}");
    }
}

#[test]
fn what_is_wanted_before_a_handshake_is_wanted_behind_it() {
    let mut sim = world(Config::default(), Closer::default());
    let script = Script::new().secure().send_slowly("0123456789", 1, millis(1)).half_close();
    sim.remote("10.0.1.1:443", unbroken::sim::Remote::Serves(script));
    let conn = sim.net().connect("10.0.1.1:443").expect("it begins");
    sim.net().start_tls(conn, Tls::SimClient).expect("it begins");
    sim.net().want(conn, 8).expect("below the cap");
    sim.run().unwrap_or_else(|what| panic!("{what:?}"));
    assert_eq!(sim.handler().shown, [8, 1, 1]);
}

#[test]
fn a_session_that_is_not_ended_is_told_as_cut_short() {
    let mut sim = world(Config::default(), Closer::default());
    let report = report(&mut sim, Script::new().secure_without_end().send("hello").half_close());
    assert_eq!(
        (report.reason, report.received, report.saw_fin),
        (CloseReason::Truncated, 5, false),
        "{report}"
    );
}
