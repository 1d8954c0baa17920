//! An identifier, a token or a descriptor never reaches who came after.

mod util;

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::mpsc;
use std::time::Duration;

use unbroken::{CloseReason, Config, ConnId, Net, SendError, Via};
use util::{serve, Custom, Echo, Event};

/// Two clients whose bytes the reactor finds in one poll: it is kept busy while both write.
fn ready_in_one_batch(server: &util::Server, clients: &mut [std::net::TcpStream]) {
    let (go, gone) = mpsc::channel::<()>();
    let wait = move |_: &mut Net| {
        let _ = gone.recv();
    };
    server.handle.run(wait).unwrap();
    for client in clients {
        client.write_all(b"x").unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
    go.send(()).unwrap();
}

// T1, T2
#[test]
fn who_was_ended_by_another_in_the_same_batch_hears_nothing_more() {
    for reuse in [false, true] {
        let data = move |net: &mut Net, conn: ConnId, data: &[u8]| {
            let others: Vec<_> = net.connections().filter(|other| *other != conn).collect();
            for other in others {
                net.abort(other);
                if reuse {
                    // Whoever comes next must not get what was meant for the one before.
                    let addr = net.peer_addr(conn).and_then(|addr| addr.as_tcp()).unwrap();
                    net.connect((addr.ip(), 1)).unwrap();
                }
            }
            data.len()
        };
        let server = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
        let mut clients = [server.client(), server.client()];
        let _ = (server.opened(), server.opened());
        ready_in_one_batch(&server, &mut clients);
        let mut served = 0;
        let mut aborted = 0;
        let mut failed = 0;
        while aborted + failed < if reuse { 2 } else { 1 } {
            match server.event() {
                Event::Data(..) => served += 1,
                Event::Close(_, report) if report.reason == CloseReason::Aborted => aborted += 1,
                Event::Close(_, report) if report.reason == CloseReason::ConnectFailed => failed += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(served, 1, "reuse: {reuse}");
    }
}

// T3
#[test]
fn half_a_million_calls_with_stale_ids_reach_nobody() {
    let server = serve(Config::default(), Echo);
    let mut stale = Vec::new();
    for _ in 0..50 {
        let client = server.client();
        stale.push(server.opened());
        drop(client);
        server.closed();
    }
    let mut alive: Vec<_> = (0..20).map(|_| server.client()).collect();
    let ids: Vec<_> = alive.iter().map(|_| server.opened()).collect();
    assert!(ids.iter().any(|id| stale.iter().any(|old| old.slot() == id.slot())));
    server.ask(move |net| {
        for round in 0..500_000 {
            let id = stale[round % stale.len()];
            match round % 5 {
                0 => assert_eq!(net.send(id, b"foreign"), Err(SendError::Closed)),
                1 => net.close(id),
                2 => net.abort(id),
                3 => net.resume_reading(id),
                _ => assert!(net.peer_addr(id).is_none() && net.queued(id) == 0),
            }
        }
    });
    for client in &mut alive {
        client.write_all(b"own").unwrap();
        let mut got = [0; 3];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"own");
    }
    assert_eq!(server.stats().connections, 20);
}

/// The descriptors of this process that are connected to `port`.
fn sockets_to(port: u16) -> Vec<BorrowedFd<'static>> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = fds.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    #[allow(unsafe_code)]
    let borrowed = numbers.map(|fd: i32| unsafe {
        // SAFETY: only looked at at once; one that was closed meanwhile answers with an error.
        BorrowedFd::borrow_raw(fd)
    });
    borrowed
        .filter(|fd| {
            let peer = socket2::SockRef::from(fd).peer_addr().ok();
            peer.and_then(|addr| addr.as_socket()).is_some_and(|addr| addr.port() == port)
        })
        .collect()
}

// T6, T7
#[test]
fn a_duplicate_of_a_closed_descriptor_brings_no_events_and_its_number_no_bytes() {
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, &vec![b'q'; 100_000]);
        net.abort(conn);
        data.len()
    };
    let server = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = server.client();
    server.opened();
    let port = client.local_addr().unwrap().port();
    let ours = sockets_to(port);
    assert_eq!(ours.len(), 1);
    let number = ours[0].as_raw_fd();
    let duplicate = ours[0].try_clone_to_owned().unwrap();
    client.write_all(b"go").unwrap();
    server.closed();
    // The number is free again; whatever gets it stays untouched by what was queued.
    let path = std::env::temp_dir().join(format!("unbroken-fd-{}", std::process::id()));
    let mut files: Vec<_> = (0..8)
        .map(|_| std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path))
        .collect::<Result<_, _>>()
        .unwrap();
    let _reused = files.iter().any(|file| file.as_raw_fd() == number);
    let turns = server.stats().turns;
    // Through the duplicate the socket is alive: it would bring events if it were still polled.
    let _ = client.write_all(&[b'e'; 10_000]);
    std::thread::sleep(Duration::from_millis(100));
    let stats = server.stats();
    assert_eq!(stats.stale_events, 0);
    assert!(stats.turns <= turns + 3, "{} turns", stats.turns - turns);
    let mut content = Vec::new();
    files[0].read_to_end(&mut content).unwrap();
    assert_eq!(content, b"");
    std::fs::remove_file(&path).unwrap();
    drop(duplicate);
}

#[test]
fn a_new_connection_in_a_used_slot_begins_from_nothing() {
    let open = |net: &mut Net, conn: ConnId, _: Via| net.pause_reading(conn);
    let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut first = util::narrow_client(server.addr);
    let old = server.opened();
    server.ask(move |net| {
        let _ = net.send(old, &vec![1; 1 << 20]);
    });
    first.write_all(b"unread").unwrap();
    server.ask(move |net| net.abort(old));
    server.closed();
    let mut second = server.client();
    let new = server.opened();
    assert_eq!(old.slot(), new.slot());
    assert_eq!(server.ask(move |net| net.queued(new)), 0);
    server.ask(move |net| {
        let _ = net.send(new, b"clean");
        net.close(new);
    });
    assert_eq!(util::read_all(&mut second).0, b"clean");
    assert_eq!(server.stats().queued, 0);
}
