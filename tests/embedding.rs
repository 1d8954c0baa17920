//! A reactor inside another event loop: its descriptor tells when there is something to do.

mod util;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use unbroken::{Bytes, Config, Reactor, Turn};
use util::{Custom, Echo};

fn is_readable(reactor: &Reactor, timeout: Duration) -> bool {
    assert_eq!(reactor.as_fd().as_raw_fd(), reactor.as_raw_fd());
    let timeout = Timespec::try_from(timeout).unwrap();
    poll(&mut [PollFd::from_borrowed_fd(reactor.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

fn listening(config: Config) -> (Reactor, std::net::SocketAddr) {
    let mut reactor = Reactor::new(config).unwrap();
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    (reactor, addr)
}

const NOW: Option<Duration> = Some(Duration::ZERO);

#[test]
fn the_descriptor_is_readable_when_there_is_something_to_do_and_only_then() {
    let (mut reactor, addr) = listening(Config::default());
    reactor.turn(&mut Echo, NOW).unwrap();
    assert!(!is_readable(&reactor, Duration::from_millis(50)));
    let mut client = TcpStream::connect(addr).unwrap();
    assert!(is_readable(&reactor, util::SOON));
    while is_readable(&reactor, Duration::from_millis(20)) {
        reactor.turn(&mut Echo, NOW).unwrap();
    }
    client.write_all(b"ping").unwrap();
    assert!(is_readable(&reactor, util::SOON));
    while is_readable(&reactor, Duration::from_millis(20)) {
        reactor.turn(&mut Echo, NOW).unwrap();
    }
    client.read_exact(&mut [0; 4]).unwrap();
    let handle = reactor.net().handle();
    handle.wake().unwrap();
    assert!(is_readable(&reactor, util::SOON));
}

#[test]
fn a_turn_that_leaves_work_behind_leaves_the_descriptor_readable() {
    let mut config = Config::default();
    config.read_budget = 1;
    config.read_size = 1000;
    let (mut reactor, addr) = listening(config);
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(&[7; 50_000]).unwrap();
    let mut got = 0;
    let begin = Instant::now();
    while got < 50_000 {
        assert!(begin.elapsed() < util::SOON);
        // No timeout and no second event: each turn must make the next one happen.
        assert!(is_readable(&reactor, util::SOON), "after {got} bytes");
        reactor.turn(&mut Echo, NOW).unwrap();
        got = reactor.net().stats().bytes_in;
    }
    assert!(reactor.net().stats().turns >= 50);
}

#[test]
fn what_is_sent_between_turns_leaves_in_the_next_one() {
    let (mut reactor, addr) = listening(Config::default());
    let mut client = TcpStream::connect(addr).unwrap();
    while reactor.net().stats().opened == 0 {
        reactor.turn(&mut Echo, Some(Duration::from_millis(10))).unwrap();
    }
    while is_readable(&reactor, Duration::from_millis(20)) {
        reactor.turn(&mut Echo, NOW).unwrap();
    }
    assert_eq!(reactor.next_timeout(), None);
    let everybody: Vec<_> = reactor.net().connections().collect();
    let outcome = reactor.net().broadcast(everybody, Bytes::from_static(b"news"));
    assert_eq!(outcome.queued, 1);
    assert_eq!(reactor.next_timeout(), NOW);
    reactor.turn(&mut Echo, NOW).unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn a_turn_with_a_timeout_of_zero_never_waits_and_a_longer_one_waits_no_longer() {
    let (mut reactor, _) = listening(Config::default());
    reactor.turn(&mut Echo, NOW).unwrap();
    let begin = Instant::now();
    for _ in 0..1000 {
        reactor.turn(&mut Echo, NOW).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let begin = Instant::now();
    reactor.turn(&mut Echo, Some(Duration::from_millis(60))).unwrap();
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(55) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn deadlines_are_told_for_the_other_loop_to_keep() {
    let (mut reactor, _) = listening(Config::default());
    let mut handler = Custom::default();
    reactor.turn(&mut handler, NOW).unwrap();
    reactor.net().set_timer(Duration::from_millis(80));
    let told = reactor.next_timeout().unwrap();
    assert!(told > Duration::from_millis(40) && told <= Duration::from_millis(80), "{told:?}");
    std::thread::sleep(Duration::from_millis(90));
    assert_eq!(reactor.next_timeout(), NOW);
}

#[test]
fn a_shutdown_between_turns_is_carried_out_by_the_next_ones() {
    let (mut reactor, addr) = listening(Config::default());
    let client = TcpStream::connect(addr).unwrap();
    while reactor.net().stats().opened == 0 {
        reactor.turn(&mut Echo, Some(Duration::from_millis(10))).unwrap();
    }
    reactor.net().shutdown(Duration::from_secs(5));
    drop(client);
    let begin = Instant::now();
    while reactor.turn(&mut Echo, Some(Duration::from_millis(10))).unwrap() == Turn::Running {
        assert!(begin.elapsed() < util::SOON);
    }
    assert_eq!(reactor.turn(&mut Echo, None).unwrap(), Turn::Stopped);
    assert_eq!(reactor.next_timeout(), NOW);
}
