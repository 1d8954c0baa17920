//! Clients come in under pressure: bursts, floods, limits, and no file descriptors left.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, setrlimit, Resource};
use unbroken::{AtLimit, CloseReason, Config};
use util::{read_all, serve, Custom, Echo, Event, ServingChild, Sink};

/// In the child: serves echo with few descriptors, and prints what it cost.
fn starved_child(shed: bool) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(64);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut config = Config::default();
    config.shed_when_exhausted = shed;
    let stats = util::serve_as_child(config, Echo);
    println!("{} {} {}", stats.accept_pauses, stats.shed, util::thread_cpu().as_millis());
}

/// Accept pauses, clients shed, and milliseconds of CPU that the child counted.
fn cost_of(child: ServingChild) -> (u64, u64, u64) {
    let rest = child.finish();
    let numbers: Vec<u64> =
        rest.lines().next().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2])
}

fn is_served(stream: &mut TcpStream) -> bool {
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut [0; 4]).is_ok()
}

// A1
#[test]
fn clients_that_found_no_descriptor_are_served_as_soon_as_one_is_free() {
    if util::role().is_some() {
        return starved_child(false);
    }
    let child =
        util::serving_child("clients_that_found_no_descriptor_are_served_as_soon_as_one_is_free", "starved");
    let mut clients: Vec<_> = (0..200).map(|_| TcpStream::connect(child.addr).unwrap()).collect();
    for client in &mut clients {
        client.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        client.write_all(b"x").unwrap();
    }
    // Some are in; the rest wait in the backlog, and the loop does not spin meanwhile.
    std::thread::sleep(Duration::from_millis(700));
    let (mut inside, waiting): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|mut client| client.read(&mut [0]).is_ok());
    assert!(inside.len() >= 40 && waiting.len() >= 100, "{} and {}", inside.len(), waiting.len());
    inside.truncate(5);
    let begin = Instant::now();
    let mut served = 0;
    for mut client in waiting.into_iter().take(30) {
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        served += usize::from(client.read(&mut [0]).is_ok());
    }
    assert_eq!(served, 30, "within {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(inside.iter_mut().all(is_served));
    let (pauses, shed, cpu) = cost_of(child);
    assert!(pauses > 0 && shed == 0);
    assert!(cpu < 400, "{cpu} ms of CPU: it was spinning");
}

// A2
#[test]
fn with_a_descriptor_in_reserve_clients_in_excess_are_turned_away_at_once() {
    if util::role().is_some() {
        return starved_child(true);
    }
    let child =
        util::serving_child("with_a_descriptor_in_reserve_clients_in_excess_are_turned_away_at_once", "shed");
    let begin = Instant::now();
    let mut clients: Vec<_> = (0..150).map(|_| TcpStream::connect(child.addr).unwrap()).collect();
    let mut served = 0;
    for client in &mut clients {
        util::patient(client);
        served += usize::from(is_served(client));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!((40..64).contains(&served), "{served}");
    let (_, shed, _) = cost_of(child);
    assert_eq!(shed as usize, 150 - served);
}

// A3
#[test]
fn at_the_limit_clients_wait_until_somebody_leaves() {
    let mut config = Config::default();
    config.max_connections = Some(3);
    let server = serve(config, Echo);
    let mut inside: Vec<_> = (0..3).map(|_| server.client()).collect();
    assert!(inside.iter_mut().all(is_served));
    let mut next = server.client();
    next.write_all(b"wait").unwrap();
    next.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(next.read(&mut [0; 4]).is_err());
    assert_eq!(server.stats().accepted, 3);
    drop(inside.pop());
    util::patient(&next);
    next.read_exact(&mut [0; 4]).unwrap();
}

// A3
#[test]
fn at_the_limit_clients_are_refused_and_reported() {
    let mut config = Config::default();
    config.max_connections = Some(3);
    config.at_limit = AtLimit::Refuse;
    let server = serve(config, Echo);
    let mut inside: Vec<_> = (0..3).map(|_| server.client()).collect();
    assert!(inside.iter_mut().all(is_served));
    server.events_so_far();
    let mut refused = server.client();
    let kind = read_all(&mut refused).1.map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::ConnectionReset));
    let Event::Close(_, report) = server.event() else { panic!("it was opened") };
    assert_eq!(report.reason, CloseReason::Refused);
    assert!(inside.iter_mut().all(is_served));
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.opened, stats.closed_by(CloseReason::Refused)), (4, 3, 1));
}

// A5: a SYN that finds the queue full is sent again after a second.
#[test]
fn a_burst_of_a_thousand_clients_waits_for_no_retransmission() {
    let server = serve(Config::default(), Sink);
    let mut slowest = Duration::ZERO;
    let clients: Vec<_> = (0..1000)
        .map(|_| {
            let begin = Instant::now();
            let client = server.client();
            slowest = slowest.max(begin.elapsed());
            client
        })
        .collect();
    assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    server.wait_stats(|stats| stats.accepted == 1000);
    drop(clients);
}

#[test]
fn a_backlog_holds_a_burst_while_the_reactor_is_busy() {
    let wake = |_: &mut unbroken::Net| std::thread::sleep(Duration::from_millis(500));
    let server = serve(Config::default(), Custom { wake: Some(Box::new(wake)), ..Custom::default() });
    server.handle.wake().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    let clients: Vec<_> = (0..900).map(|_| server.client()).collect();
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    server.wait_stats(|stats| stats.accepted == 900);
    drop(clients);
}

// A6, E5
#[test]
fn a_flood_of_clients_does_not_starve_those_who_are_in() {
    let server = serve(Config::default(), Echo);
    let mut inside: Vec<_> = (0..10).map(|_| server.client()).collect();
    let addr = server.addr;
    let flood = std::thread::spawn(move || {
        for _ in 0..5000 {
            util::reset(TcpStream::connect(addr).unwrap());
        }
    });
    let mut times = Vec::new();
    while !flood.is_finished() {
        for client in &mut inside {
            let begin = Instant::now();
            assert!(is_served(client));
            times.push(begin.elapsed());
        }
    }
    flood.join().unwrap();
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(50), "{p99:?}");
    server.wait_stats(|stats| stats.connections == 10 && stats.accepted == 5010);
}

// A7
#[test]
fn a_listener_that_fails_is_reported_and_harms_nobody() {
    let server = serve(Config::default(), Echo);
    let mut client = server.client();
    assert!(is_served(&mut client));
    let addr = server.addr;
    server.ask(move |net| {
        let other = net.listen("127.0.0.1:0").unwrap();
        // A duplicate of the descriptor shuts the socket down behind the engine's back.
        let socket = TcpListener::from(net.listener_fd(other).unwrap().try_clone_to_owned().unwrap());
        rustix::net::shutdown(socket.as_fd(), rustix::net::Shutdown::Both).unwrap();
    });
    let event = server.wait_for(util::SOON, |event| matches!(event, Event::ListenerError(..)));
    assert!(matches!(event, Event::ListenerError(_, ErrorKind::InvalidInput)), "{event:?}");
    assert!(is_served(&mut client));
    assert!(is_served(&mut TcpStream::connect(addr).unwrap()));
}

#[test]
fn a_closed_listener_takes_nobody_in_and_keeps_its_connections() {
    let server = serve(Config::default(), Echo);
    let mut client = server.client();
    assert!(is_served(&mut client));
    server.ask(|net| {
        let all: Vec<_> = net.connections().filter_map(|conn| net.via(conn)).collect();
        for via in all {
            if let unbroken::Via::Listener(listener) = via {
                net.close_listener(listener);
                assert!(net.local_addr(listener).is_none());
            }
        }
    });
    assert!(TcpStream::connect(server.addr).is_err());
    assert!(is_served(&mut client));
}
