//! What holds for all reactors together.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::util;
use crate::util::{patient, read_all};
use unbroken::{AtLimit, CloseReason, Config, Group, ListenOptions};

use crate::stage::*;

#[test]
fn the_limit_of_connections_is_one_of_all_together() {
    let mut config = Config::default();
    config.max_connections = Some(6);
    let group = run(config.clone(), 3, &ListenOptions::default());
    let mut clients: Vec<_> = (0..6).map(|_| group.client()).collect();
    let counts = clients.iter_mut().map(who).fold([0; 3], |mut counts, reactor| {
        counts[reactor] += 1;
        counts
    });
    assert_eq!(counts, [2, 2, 2]);
    // More wait, and get in one by one, whichever reactor has a place.
    for _ in 0..12 {
        let mut next = group.client();
        next.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        next.write_all(b"who?").unwrap();
        assert!(next.read(&mut [0]).is_err(), "there is no place yet");
        patient(&next);
        drop(clients.remove(0));
        assert_eq!(next.read(&mut [0]).unwrap(), 1);
        clients.push(next);
    }
    drop(group);

    config.at_limit = AtLimit::Refuse;
    let group = run(config, 3, &ListenOptions::default());
    let mut clients: Vec<_> = (0..6).map(|_| group.client()).collect();
    clients.iter_mut().for_each(|client| {
        who(client);
    });
    let (_, error) = read_all(&mut group.client());
    assert_eq!(error.and_then(|error| error.raw_os_error()), Some(libc::ECONNRESET));
    util::eventually("its report", || group.reports() == 1);
    assert_eq!(group.book.reports.lock().unwrap()[0].1.reason, CloseReason::Refused);
    drop(clients.pop());
    util::eventually("a place", || group.handle.connections().iter().sum::<usize>() == 5);
    who(&mut group.client());
}

#[test]
fn every_reactor_that_listens_for_itself_keeps_to_the_limit_of_all() {
    let mut config = Config::default();
    config.max_connections = Some(5);
    let mut options = ListenOptions::default();
    options.reuse_port = true;
    let group = run(config, 4, &options);
    let mut served: Vec<TcpStream> = Vec::new();
    let mut waiting: Vec<_> = (0..40).map(|_| group.client()).collect();
    waiting.iter_mut().for_each(|client| client.write_all(b"who?").unwrap());
    let mut total = 0;
    while !waiting.is_empty() {
        assert!(group.handle.connections().iter().sum::<usize>() <= 5);
        served.clear();
        waiting.retain(|client| {
            client.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            match (&mut &*client).read(&mut [0]) {
                Ok(1) => {
                    served.push(client.try_clone().unwrap());
                    total += 1;
                    false
                }
                _ => true,
            }
        });
    }
    assert_eq!(total, 40);
}

#[test]
fn descriptors_that_run_out_are_waited_for_wherever_they_become_free() {
    const NAME: &str = "limits::descriptors_that_run_out_are_waited_for_wherever_they_become_free";
    if util::role().is_none() {
        let output = util::again(NAME, "short").output().unwrap();
        return assert!(output.status.success(), "{output:#?}");
    }
    let group = plain(3);
    let mut first: Vec<_> = (0..30).map(|_| group.client()).collect();
    first.iter_mut().for_each(|client| {
        who(client);
    });
    // The clients need some as well: those that wait are made before there are none left.
    let late: Vec<_> =
        (0..10).map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)).collect();
    util::allow_descriptors(util::open_fds() as u64);
    let mut late: Vec<_> = late
        .into_iter()
        .map(|socket| {
            let socket = socket.unwrap();
            socket.connect(&group.addr.into()).unwrap();
            let stream = TcpStream::from(socket);
            patient(&stream);
            stream
        })
        .collect();
    let began = Instant::now();
    // The clients' own ends stay: each that leaves frees one here, and one with the reactor that served it.
    for mut next in late.drain(..) {
        drop(first.pop());
        who(&mut next);
        first.insert(0, next);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_group_has_one_reactor_at_least_and_refuses_what_cannot_work() {
    for reactors in [0, 100_000] {
        assert!(Group::new(Config::default(), reactors).is_err());
    }
    let mut config = Config::default();
    config.total_write_buffer = 128 << 10;
    // Each would have less than high water.
    assert!(Group::new(config, 4).unwrap_err().to_string().contains("total_write_buffer"));
    let mut group = Group::new(Config::default(), 2).unwrap();
    group.net(1).unwrap().listen("127.0.0.1:0").unwrap();
    assert!(group.listen("127.0.0.1:0").unwrap_err().to_string().contains("listen with the group first"));
    assert!(group.net(2).is_none());
}
