//! Connecting to a host by its name, in virtual time: the lookup, the attempts, and every way in which
//! they can end. What the system's own resolver and a real network make of it is in `names_real.rs`.

mod util;

use std::time::Duration;

use unbroken::sim::{Remote, Script, Sim};
use unbroken::{
    Addr, Attempt, CloseReason, CloseReport, Config, ConnId, ConnectOptions, Family, Handler, Net, SendError,
    State, Timeout, Via,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Writes down what comes, and closes at the end of the stream.
#[derive(Default)]
struct Log {
    opened: Vec<(ConnId, Option<Addr>)>,
    got: Vec<u8>,
    closed: Vec<CloseReport>,
}

impl Handler for Log {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        assert_eq!(via, Via::Connect);
        self.opened.push((conn, net.peer_addr(conn)));
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        self.got.extend_from_slice(data);
        data.len()
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.closed.push(report.clone());
    }
}

fn sim() -> Sim<Log> {
    Sim::new(7, Config::default(), Log::default()).unwrap()
}

fn serves(sim: &mut Sim<Log>, addr: &str) {
    sim.remote(addr, Remote::Serves(Script::new().send(addr.to_owned()).half_close()));
}

fn only_report(sim: &mut Sim<Log>) -> CloseReport {
    let closed = &sim.handler().closed;
    assert_eq!(closed.len(), 1, "{closed:?}");
    closed[0].clone()
}

fn errnos(report: &CloseReport) -> Vec<(String, i32)> {
    report.attempts.iter().map(|Attempt { addr, errno, .. }| (addr.to_string(), *errno)).collect()
}

#[test]
fn a_name_is_looked_up_and_what_was_sent_meanwhile_arrives() {
    let mut sim = sim();
    sim.name("db", ["10.0.1.9"], ms(30));
    sim.remote("10.0.1.9:5432", Remote::Serves(Script::new().await_bytes(5).send("there").half_close()));
    let conn = sim.net().connect("db:5432").unwrap();
    assert_eq!(sim.net().state(conn), Some(State::Connecting));
    assert_eq!(sim.net().peer_addr(conn).map(|addr| addr.to_string()).as_deref(), Some("db:5432"));
    sim.net().send(conn, b"hello").unwrap();
    sim.run_for(ms(29)).unwrap();
    assert!(sim.handler().opened.is_empty());
    sim.run_for(ms(20)).unwrap();
    let peer = Some(Addr::Tcp("10.0.1.9:5432".parse().unwrap()));
    assert_eq!(sim.handler().opened, [(conn, peer)]);
    assert_eq!(sim.received(sim.peers()[0]), b"hello");
    sim.run().unwrap();
    assert_eq!(sim.handler().got, b"there");
    let report = only_report(&mut sim);
    assert!(report.reason.is_clean() && report.attempts.is_empty() && report.lookup_error.is_none());
    sim.finish().unwrap();
}

// A delay starts the next attempt and never ends one (node#54359).
#[test]
fn a_silent_address_costs_a_quarter_of_a_second_and_not_the_connection() {
    let mut sim = sim();
    sim.name("host", ["fd00::1", "10.0.1.9"], ms(1));
    sim.remote("[fd00::1]:80", Remote::Silent);
    serves(&mut sim, "10.0.1.9:80");
    sim.net().connect("host:80").unwrap();
    sim.run_for(ms(250)).unwrap();
    assert!(sim.handler().opened.is_empty());
    sim.run_for(ms(10)).unwrap();
    assert_eq!(sim.handler().opened.len(), 1);
    sim.run().unwrap();
    assert_eq!(sim.handler().got, b"10.0.1.9:80");
    assert!(only_report(&mut sim).attempts.is_empty(), "who was slower has not failed");
    sim.finish().unwrap();
}

#[test]
fn a_failure_has_the_next_address_tried_at_once() {
    let mut sim = sim();
    sim.name("host", ["10.0.1.1", "10.0.1.2", "10.0.1.3"], ms(1));
    serves(&mut sim, "10.0.1.3:80");
    sim.net().connect("host:80").unwrap();
    sim.run_for(ms(20)).unwrap();
    assert_eq!(sim.handler().opened.len(), 1);
    sim.run().unwrap();
    let report = only_report(&mut sim);
    assert!(report.reason.is_clean());
    let refused = |addr: &str| (addr.to_owned(), libc::ECONNREFUSED);
    assert_eq!(errnos(&report), [refused("10.0.1.1:80"), refused("10.0.1.2:80")]);
    sim.finish().unwrap();
}

#[test]
fn when_nobody_answers_every_address_stands_in_the_report_with_its_error() {
    let mut config = Config::default();
    config.connect_timeout = ms(700);
    let mut sim = Sim::new(7, config, Log::default()).unwrap();
    sim.name("host", ["10.0.1.1", "10.0.1.2", "fd00::1"], ms(1));
    sim.remote("10.0.1.2:80", Remote::Silent);
    sim.remote("[fd00::1]:80", Remote::Silent);
    let conn = sim.net().connect("host:80").unwrap();
    sim.net().send(conn, b"lost").unwrap();
    sim.run().unwrap();
    let report = only_report(&mut sim);
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Connect));
    assert!(report.duration >= ms(700) && report.duration < ms(760), "{report}");
    let expected = [
        ("10.0.1.1:80".to_owned(), libc::ECONNREFUSED),
        ("[fd00::1]:80".to_owned(), libc::ETIMEDOUT),
        ("10.0.1.2:80".to_owned(), libc::ETIMEDOUT),
    ];
    assert_eq!(errnos(&report), expected);
    assert_eq!((report.handed, report.unsent), (0, 4));
    assert!(report.to_string().contains("tried 10.0.1.1:80: Connection refused"), "{report}");
    sim.finish().unwrap();
}

#[test]
fn the_most_telling_error_is_the_reports() {
    let mut sim = sim();
    sim.name("host", ["fd00::1", "10.0.1.1"], ms(1));
    sim.net().connect("host:80").unwrap();
    sim.run().unwrap();
    let report = only_report(&mut sim);
    assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, Some(libc::ECONNREFUSED)));
    assert_eq!(report.attempts.len(), 2);
    sim.finish().unwrap();
}

#[test]
fn an_address_that_was_given_as_such_is_reported_as_tried_too() {
    let mut sim = sim();
    sim.net().connect("10.0.1.1:80").unwrap();
    sim.run().unwrap();
    assert_eq!(errnos(&only_report(&mut sim)), [("10.0.1.1:80".to_owned(), libc::ECONNREFUSED)]);
    sim.finish().unwrap();
}

#[test]
fn a_lookup_that_fails_ends_the_connection_with_the_resolvers_words() {
    let mut sim = sim();
    sim.no_name("later", "Temporary failure in name resolution", ms(5));
    sim.name("empty", [], ms(5));
    for name in ["later:80", "unknown:80", "empty:80"] {
        sim.net().connect(name).unwrap();
    }
    sim.run().unwrap();
    let mut told = Vec::new();
    for report in &sim.handler().closed {
        assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, None));
        assert!(report.attempts.is_empty());
        told.push(report.lookup_error.clone().unwrap().to_string());
    }
    told.sort();
    let words =
        ["Name or service not known", "Temporary failure in name resolution", "the lookup gave no address"];
    assert_eq!(told, words);
    sim.finish().unwrap();
}

#[test]
fn the_time_for_connecting_covers_the_lookup() {
    let mut config = Config::default();
    config.connect_timeout = ms(400);
    let mut sim = Sim::new(7, config, Log::default()).unwrap();
    sim.silent_name("hangs");
    sim.name("late", ["10.0.1.9"], ms(5000));
    serves(&mut sim, "10.0.1.9:80");
    sim.net().connect("hangs:80").unwrap();
    sim.net().connect("late:80").unwrap();
    sim.run_for(ms(399)).unwrap();
    assert!(sim.handler().closed.is_empty());
    // An answer after that finds nobody.
    sim.run().unwrap();
    let closed = sim.handler().closed.clone();
    assert_eq!(closed.len(), 2);
    for report in closed {
        assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Connect));
        assert!(report.duration < ms(450) && report.attempts.is_empty(), "{report}");
    }
    assert!(sim.handler().opened.is_empty());
    sim.finish().unwrap();
}

// Each of them at each moment: before the answer, before the first address, before the second.
#[test]
fn a_connection_may_be_ended_at_any_moment_of_it() {
    type End = fn(&mut Sim<Log>, ConnId);
    let ends: [(&str, End, CloseReason); 4] = [
        ("abort", |sim, conn| sim.net().abort(conn), CloseReason::Aborted),
        ("close", |sim, conn| sim.net().close(conn), CloseReason::Aborted),
        ("shutdown", |sim, _| sim.net().shutdown(ms(100)), CloseReason::Aborted),
        (
            "close with bytes queued",
            |sim, conn| {
                sim.net().send(conn, b"x").unwrap();
                sim.net().close(conn);
            },
            CloseReason::TimedOut(Timeout::Connect),
        ),
    ];
    for (what, end, reason) in ends {
        for at in [1, 40, 200] {
            let mut sim = sim();
            sim.name("host", ["10.0.1.1", "10.0.1.2"], ms(20));
            sim.remote("10.0.1.1:80", Remote::Silent);
            sim.remote("10.0.1.2:80", Remote::Silent);
            let conn = sim.net().connect("host:80").unwrap();
            sim.run_for(ms(at)).unwrap();
            end(&mut sim, conn);
            if what != "shutdown" {
                assert_eq!(sim.net().send(conn, b"y"), Err(SendError::Closed), "{what} at {at}");
            }
            sim.run().unwrap();
            let report = only_report(&mut sim);
            assert_eq!(report.reason, reason, "{what} at {at}: {report}");
            let under_way = report.attempts.iter().filter(|it| it.errno == libc::EINPROGRESS).count();
            let timed_out = report.attempts.iter().filter(|it| it.errno == libc::ETIMEDOUT).count();
            match reason {
                CloseReason::Aborted => assert_eq!(under_way, usize::from(at > 20), "{what} at {at}"),
                _ => assert_eq!((under_way, timed_out), (0, 2), "{what} at {at}"),
            }
            assert!(sim.handler().opened.is_empty());
            sim.finish().unwrap();
        }
    }
}

#[test]
fn what_is_queued_before_a_close_is_delivered_once_the_host_is_found() {
    let mut sim = sim();
    sim.name("host", ["10.0.1.9"], ms(50));
    sim.remote("10.0.1.9:80", Remote::Serves(Script::new()));
    let conn = sim.net().connect("host:80").unwrap();
    sim.net().send(conn, b"last words").unwrap();
    sim.net().close(conn);
    sim.run().unwrap();
    assert_eq!(sim.received(sim.peers()[0]), b"last words");
    assert!(only_report(&mut sim).reason.is_clean());
    sim.finish().unwrap();
}

// Several are established in one turn: the reactor was away. A server that speaks first was heard by
// nobody on the connections that lost.
#[test]
fn of_several_that_are_established_one_wins_and_nothing_of_the_others_is_delivered() {
    for seed in 0..50 {
        let mut config = Config::default();
        config.attempt_delay = ms(10);
        let mut sim = Sim::new(seed, config, Log::default()).unwrap();
        let addrs = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"];
        sim.name("host", addrs, ms(1));
        for addr in addrs {
            serves(&mut sim, &format!("{addr}:80"));
        }
        sim.net().connect("host:80").unwrap();
        // Answers come while it is away; further attempts are due when it is back.
        for _ in 0..5 {
            sim.freeze(ms(15));
            sim.turn(Duration::ZERO).unwrap();
        }
        sim.run().unwrap();
        assert_eq!(sim.handler().opened.len(), 1);
        let got = String::from_utf8(sim.handler().got.clone()).unwrap();
        let peer = sim.handler().opened[0].1.clone().unwrap();
        assert_eq!(got, peer.to_string(), "seed {seed}");
        assert!(only_report(&mut sim).reason.is_clean());
        sim.finish().unwrap();
    }
}

#[test]
fn only_addresses_of_the_family_that_is_asked_for_are_tried() {
    for (family, local, expected) in [
        (Some(Family::V4), None, "10.0.1.9:80"),
        (Some(Family::V6), None, "[fd00::1]:80"),
        (None, Some("10.0.0.7:0"), "10.0.1.9:80"),
        (None, Some("[fd00::7]:0"), "[fd00::1]:80"),
    ] {
        let mut sim = sim();
        sim.name("host", ["10.0.1.9", "fd00::1"], ms(1));
        let mut options = ConnectOptions::default();
        options.family = family;
        options.local_addr = local.map(|addr| addr.parse().unwrap());
        sim.net().connect_with("host:80", &options).unwrap();
        sim.run().unwrap();
        assert_eq!(errnos(&only_report(&mut sim)), [(expected.to_owned(), libc::ECONNREFUSED)]);
        sim.finish().unwrap();
    }
    let mut sim = sim();
    sim.name("host", ["10.0.1.9"], ms(1));
    let mut options = ConnectOptions::default();
    options.family = Some(Family::V6);
    sim.net().connect_with("host:80", &options).unwrap();
    sim.run().unwrap();
    assert!(only_report(&mut sim).lookup_error.unwrap().contains("none of the 1 addresses is IPv6"));
}

#[test]
fn options_that_cannot_be_met_are_refused_before_anything_happens() {
    let mut sim = sim();
    let refused = |sim: &mut Sim<Log>, addr: &str, change: fn(&mut ConnectOptions)| {
        let mut options = ConnectOptions::default();
        change(&mut options);
        let error = sim.net().connect_with(addr, &options).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        error.to_string()
    };
    let local = |options: &mut ConnectOptions| options.local_addr = Some("[::1]:0".parse().unwrap());
    assert!(refused(&mut sim, "10.0.1.9:80", local).contains("another family"));
    assert!(refused(&mut sim, "unix:/x", local).contains("TCP only"));
    assert!(refused(&mut sim, "host:80", |o| o.connect_timeout = Some(Duration::ZERO)).contains("1 ms"));
    let settings = |options: &mut ConnectOptions| {
        let mut settings = Config::default().settings();
        settings.high_water = 0;
        options.settings = Some(settings);
    };
    assert!(refused(&mut sim, "host:80", settings).starts_with("high_water"));
    assert_eq!(sim.net().stats().connects, 0);
}

#[test]
fn a_connection_has_the_time_and_the_settings_that_were_asked_for_it() {
    let mut sim = sim();
    sim.silent_name("hangs");
    let mut options = ConnectOptions::default();
    options.connect_timeout = Some(ms(50));
    let mut settings = Config::default().settings();
    settings.high_water = 1000;
    settings.low_water = 10;
    options.settings = Some(settings);
    let conn = sim.net().connect_with("hangs:80", &options).unwrap();
    assert_eq!(sim.net().settings(conn).unwrap().high_water, 1000);
    sim.run().unwrap();
    let report = only_report(&mut sim);
    assert!(report.duration >= ms(50) && report.duration < ms(60), "{report}");
    sim.finish().unwrap();
}

#[test]
fn what_no_name_can_be_is_refused_at_once_with_what_to_write() {
    let mut sim = sim();
    for text in ["", "host", "host:", "host:0", "host:99999", "ho st:80", "http://host:80", "::1:80", ":80"] {
        let error = sim.net().connect(text).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{text:?}");
    }
    assert_eq!(sim.net().stats().connects, 0);
}
