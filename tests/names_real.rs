//! Host names on the real network: the system's resolver, both families, addresses that swallow every
//! packet, and lookups that hang.

mod util;

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use unbroken::{
    Answer, CloseReason, CloseReport, Config, ConnId, ConnectOptions, Handler, Net, Reactor, Resolve,
    Timeout, Turn, Via,
};
use util::{have, skip, SOON};

#[derive(Default)]
struct Log {
    opened: Vec<(Duration, SocketAddr)>,
    closed: Vec<CloseReport>,
    began: Option<Instant>,
}

impl Handler for Log {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        if via == Via::Connect {
            let took = self.began.map_or(Duration::ZERO, |began| began.elapsed());
            self.opened.push((took, net.peer_addr(conn).unwrap().as_tcp().unwrap()));
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.closed.push(report.clone());
    }
}

fn turn_until(reactor: &mut Reactor, log: &mut Log, mut done: impl FnMut(&Log) -> bool) {
    let deadline = Instant::now() + SOON;
    while !done(log) {
        assert!(Instant::now() < deadline, "not in time: {:?} {:?}", log.opened, log.closed);
        reactor.turn(log, Some(Duration::from_millis(20))).unwrap();
    }
}

#[test]
fn localhost_is_reached_over_whichever_family_listens() {
    let mut families = 0;
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut reactor = Reactor::new(Config::default()).unwrap();
        let Ok(listener) = reactor.net().listen(listen) else { continue };
        let addr = reactor.net().local_addr(listener).unwrap().as_tcp().unwrap();
        // Not every machine's localhost has both.
        if !("localhost", 0).to_socket_addrs().unwrap().any(|known| known.ip() == addr.ip()) {
            continue;
        }
        families += 1;
        let conn = reactor.net().connect(&format!("localhost:{}", addr.port())).unwrap();
        reactor.net().send(conn, b"hello").unwrap();
        reactor.net().close_write(conn);
        let mut log = Log::default();
        // The server's end sends back what it got, and both end.
        turn_until(&mut reactor, &mut log, |log| log.closed.len() == 2);
        assert_eq!(log.opened[0].1, addr);
        assert!(log.closed.iter().all(|report| report.received == 5), "{:?}", log.closed);
    }
    assert!(families > 0);
}

#[test]
fn a_name_that_does_not_exist_is_reported_in_the_systems_words() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    reactor.net().connect("no-such-host.invalid:80").unwrap();
    let mut log = Log::default();
    turn_until(&mut reactor, &mut log, |log| log.closed.len() == 1);
    let report = &log.closed[0];
    assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, None));
    assert!(!report.lookup_error.as_deref().unwrap_or_default().is_empty(), "{report}");
}

/// A resolver that knows one host.
struct Only(Vec<IpAddr>);

impl Resolve for Only {
    fn resolve(&self, _: &str, port: u16, answer: Answer) {
        answer.send(Ok(self.0.iter().map(|ip| SocketAddr::new(*ip, port)).collect()));
    }
}

/// A resolver that keeps every question and answers none.
#[derive(Clone, Default)]
struct Hangs(Arc<Mutex<Vec<Answer>>>);

impl Resolve for Hangs {
    fn resolve(&self, _: &str, _: u16, answer: Answer) {
        let mut kept = self.0.lock().unwrap();
        kept.push(answer);
        if kept.len() % 1000 == 0 {
            kept.retain(Answer::is_wanted);
        }
    }
}

#[test]
fn ten_thousand_lookups_that_hang_hold_up_no_turn_and_keep_nothing() {
    let mut config = Config::default();
    config.connect_timeout = Duration::from_millis(300);
    let mut reactor = Reactor::new(config).unwrap();
    let hangs = Hangs::default();
    reactor.set_resolver(Box::new(hangs.clone()));
    let mut log = Log::default();
    let mut longest = Duration::ZERO;
    for round in 0..100 {
        for number in 0..100 {
            reactor.net().connect(&format!("host-{round}-{number}.example:80")).unwrap();
        }
        let begin = util::thread_cpu();
        reactor.turn(&mut log, Some(Duration::from_millis(5))).unwrap();
        longest = longest.max(util::thread_cpu() - begin);
    }
    turn_until(&mut reactor, &mut log, |log| log.closed.len() == 10_000);
    assert!(log.closed.iter().all(|report| report.reason == CloseReason::TimedOut(Timeout::Connect)));
    // By this thread's own processor time: the machine may be busy.
    assert!(longest < Duration::from_millis(20), "{longest:?}");
    hangs.0.lock().unwrap().retain(Answer::is_wanted);
    assert_eq!(hangs.0.lock().unwrap().len(), 0, "nobody waits any more");
    reactor.net().shutdown(Duration::ZERO);
    assert_eq!(reactor.turn(&mut log, Some(SOON)).unwrap(), Turn::Stopped);
}

#[test]
fn the_systems_resolver_may_hang_and_the_reactor_is_dropped_at_once() {
    // A name server that never answers: the lookups are under way, or wait for those.
    let mut reactor = Reactor::new(Config::default()).unwrap();
    for number in 0..2000 {
        reactor.net().connect(&format!("hangs-{number}.invalid:80")).unwrap();
    }
    let mut log = Log::default();
    reactor.turn(&mut log, Some(Duration::ZERO)).unwrap();
    // Beyond the 1,024 that may wait each fails at once and in words.
    turn_until(&mut reactor, &mut log, |log| !log.closed.is_empty());
    assert!(log.closed[0].lookup_error.is_some(), "{}", log.closed[0]);
    let begin = Instant::now();
    drop(reactor);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn a_connection_comes_from_the_address_that_was_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let mut options = ConnectOptions::default();
    options.local_addr = Some("127.0.0.77:0".parse().unwrap());
    let addr = listener.local_addr().unwrap();
    let _ = reactor.net().connect_with(addr, &options).unwrap();
    let _ = reactor.net().connect_with(&format!("localhost:{}", addr.port()), &options).unwrap();
    let mut log = Log::default();
    turn_until(&mut reactor, &mut log, |log| log.opened.len() == 2);
    for _ in 0..2 {
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 77]));
    }
    // One that this machine does not have.
    options.local_addr = Some("192.0.2.1:0".parse().unwrap());
    reactor.net().connect_with(addr, &options).unwrap();
    let unavailable = |report: &CloseReport| report.errno == Some(libc::EADDRNOTAVAIL);
    turn_until(&mut reactor, &mut log, |log| log.closed.iter().any(unavailable));
}

const SWALLOWED: &str = "an_address_that_swallows_every_packet_costs_a_quarter_of_a_second_whichever_family";

/// In a network namespace of its own: one of two addresses drops whatever comes to it.
fn in_the_namespace(dropped: &str) {
    let sh = |line: &str| {
        let status = Command::new("sh").args(["-c", line]).status().unwrap();
        assert!(status.success(), "{line}");
    };
    sh("ip link set lo up && ip addr add 10.9.9.2/32 dev lo && ip -6 addr add fd00::2/128 dev lo nodad");
    let tool = if dropped == "v6" { "ip6tables" } else { "iptables" };
    sh(&format!("{tool} -A INPUT -p tcp --dport 7777 -j DROP"));
    let (v4, v6) = (IpAddr::from([10, 9, 9, 2]), "fd00::2".parse::<IpAddr>().unwrap());
    let (silent, answers) = if dropped == "v6" { (v6, v4) } else { (v4, v6) };
    let _listener = TcpListener::bind((answers, 7777)).unwrap();
    for order in [[silent, answers], [answers, silent]] {
        let mut reactor = Reactor::new(Config::default()).unwrap();
        reactor.set_resolver(Box::new(Only(order.to_vec())));
        let mut log = Log { began: Some(Instant::now()), ..Log::default() };
        reactor.net().connect("host:7777").unwrap();
        turn_until(&mut reactor, &mut log, |log| log.opened.len() == 1);
        let (took, peer) = log.opened[0];
        assert_eq!(peer.ip(), answers);
        let most = if order[0] == silent { 250 } else { 0 };
        println!("connected after {took:?} by {order:?}");
        assert!(took >= Duration::from_millis(most), "{took:?}");
        assert!(took < Duration::from_millis(most + 200), "{took:?}");
    }
}

#[test]
fn an_address_that_swallows_every_packet_costs_a_quarter_of_a_second_whichever_family() {
    if let Some(dropped) = util::role() {
        return in_the_namespace(&dropped);
    }
    if !["unshare", "ip", "iptables", "ip6tables"].iter().all(|program| have(program)) {
        return;
    }
    if !Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        return skip("root", "unshare -n");
    }
    for dropped in ["v6", "v4"] {
        let child = util::again(SWALLOWED, dropped);
        let mut command = Command::new("unshare");
        command.arg("-n").arg(child.get_program()).args(child.get_args());
        for (name, value) in child.get_envs() {
            command.env(name, value.unwrap());
        }
        let output = command.output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if said.contains("Permission denied") || said.contains("can't initialize") {
            return skip("a packet filter", &said);
        }
        assert!(output.status.success(), "{dropped}: {said}");
    }
}
