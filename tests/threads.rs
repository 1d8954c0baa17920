//! The reactor from other threads: order kept, nothing lost, wake-ups coalesced.

mod util;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use unbroken::{Bytes, CloseReason, Config, HandleError, Net, Overflow, Reactor};
use util::{serve, Custom, Echo, Event, Sink};

const THREADS: u32 = 8;
const SENDS: u32 = 100_000;

// X1
#[test]
fn eight_threads_keep_their_order_and_lose_nothing() {
    let server = serve(Config::default(), Sink);
    let mut client = server.client();
    let conn = server.opened();
    let reader = std::thread::spawn(move || {
        let mut next = [0u32; THREADS as usize];
        let mut message = [0; 8];
        let mut buffered = std::io::BufReader::with_capacity(1 << 20, &mut client);
        for _ in 0..THREADS * SENDS {
            buffered.read_exact(&mut message).unwrap();
            let [a, b, c, d, e, f, g, h] = message;
            let (thread, count) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            assert_eq!(next[thread as usize], count, "thread {thread}");
            next[thread as usize] += 1;
        }
    });
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let handle = server.handle.clone();
            scope.spawn(move || {
                for count in 0..SENDS {
                    let mut message = Bytes::from([thread.to_le_bytes(), count.to_le_bytes()].concat());
                    loop {
                        match handle.send(conn, message) {
                            Ok(()) => break,
                            Err(HandleError::Full(back)) => {
                                message = back;
                                std::thread::yield_now();
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
        }
    });
    reader.join().unwrap();
    let stats = server.stats();
    assert!(stats.commands >= u64::from(THREADS * SENDS));
    assert!(stats.turns < u64::from(THREADS * SENDS) / 10, "{} turns", stats.turns);
    assert!(stats.writes < u64::from(THREADS * SENDS) / 10, "{} writes", stats.writes);
}

// X2
#[test]
fn a_send_to_a_connection_that_is_gone_gives_the_message_back() {
    let server = serve(Config::default(), Sink);
    let client = server.client();
    let conn = server.opened();
    drop(client);
    server.closed();
    let message = Bytes::from_static(b"too late");
    assert_eq!(server.handle.send(conn, message.clone()), Err(HandleError::Closed(message)));
    assert_eq!(server.handle.close(conn), Err(HandleError::Closed(())));
    assert_eq!(server.handle.abort(conn), Err(HandleError::Closed(())));
}

// X2: taken, and then the connection ended before the reactor came to it.
#[test]
fn a_send_that_meets_the_end_of_its_connection_is_given_to_the_handler() {
    let server = serve(Config::default(), Sink);
    let _client = server.client();
    let conn = server.opened();
    let handle = server.handle.clone();
    server.ask(move |net| {
        net.abort(conn);
        // On the reactor's thread, before the report: it is still taken.
        handle.send(conn, "first").unwrap();
        handle.send(conn, "second").unwrap();
    });
    let refused = |text: &'static str| Event::Refused(conn, Bytes::from_static(text.as_bytes()));
    assert_eq!(server.event(), refused("first"));
    assert_eq!(server.event(), refused("second"));
    let Event::Close(closed, report) = server.event() else { panic!("not closed") };
    assert_eq!((closed, report.reason, report.unsent), (conn, CloseReason::Aborted, 0));
}

#[test]
fn a_send_that_meets_a_cap_is_given_to_the_handler() {
    let mut config = Config::default();
    config.max_write_buffer = 100_000;
    config.overflow = Overflow::Refuse;
    let server = serve(config, Sink);
    let _client = server.client();
    let conn = server.opened();
    let large = Bytes::from(vec![0; 100_001]);
    server.handle.send(conn, large.clone()).unwrap();
    assert_eq!(server.event(), Event::Refused(conn, large));
    assert_eq!(server.stats().connections, 1);
}

// X3
#[test]
fn a_handle_outlives_its_reactor_and_says_so() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let handle = reactor.net().handle();
    let conn = reactor.net().connect("127.0.0.1:1").unwrap();
    drop(reactor);
    assert_eq!(handle.send(conn, "x"), Err(HandleError::Stopped(Bytes::from_static(b"x"))));
    assert_eq!(handle.wake(), Err(HandleError::Stopped(())));
    assert_eq!(handle.shutdown(Duration::ZERO), Err(HandleError::Stopped(())));
    let (ran, runs) = mpsc::channel();
    let back = handle.run(move |_| ran.send(()).unwrap());
    let Err(HandleError::Stopped(task)) = back else { panic!("taken") };
    // What is given back can still be run.
    let mut other = Reactor::new(Config::default()).unwrap();
    task(other.net());
    assert_eq!(runs.try_recv(), Ok(()));
}

// X4
#[test]
fn a_full_queue_gives_the_message_back_and_takes_it_later() {
    let mut config = Config::default();
    config.max_commands = 3;
    let server = serve(config, Sink);
    let mut client = server.client();
    let conn = server.opened();
    let (go, gone) = mpsc::channel::<()>();
    let (asleep, is_asleep) = mpsc::channel();
    server
        .handle
        .run(move |_| {
            asleep.send(()).unwrap();
            let _ = gone.recv();
        })
        .unwrap();
    is_asleep.recv().unwrap();
    for _ in 0..3 {
        server.handle.send(conn, "abc").unwrap();
    }
    let full = server.handle.send(conn, "def").unwrap_err();
    assert!(matches!(&full, HandleError::Full(data) if data == "def"));
    assert_eq!(full.to_string(), "the reactor's command queue is full");
    go.send(()).unwrap();
    let mut got = [0; 9];
    client.read_exact(&mut got).unwrap();
    server.handle.send(conn, full.into_inner()).unwrap();
    client.read_exact(&mut got[..3]).unwrap();
    assert_eq!(&got[..3], b"def");
}

// X5
#[test]
fn a_storm_of_wake_ups_does_not_starve_the_sockets() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = wakes.clone();
    let wake = move |_: &mut Net| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, data);
        data.len()
    };
    let handler = Custom { wake: Some(Box::new(wake)), data: Some(Box::new(data)), ..Custom::default() };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    let handle = server.handle.clone();
    let storm = std::thread::spawn(move || {
        let mut asked = 0;
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            handle.wake().unwrap();
            asked += 1;
        }
        asked
    });
    let mut slowest = Duration::ZERO;
    while !storm.is_finished() {
        let begin = Instant::now();
        client.write_all(b"ping").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        slowest = slowest.max(begin.elapsed());
    }
    let asked = storm.join().unwrap();
    let woken = wakes.load(Ordering::Relaxed);
    assert!(woken > 0 && woken <= asked);
    assert!(slowest < Duration::from_millis(300), "{slowest:?}");
}

#[test]
fn close_and_abort_from_another_thread_end_the_connection() {
    let server = serve(Config::default(), Echo);
    for (abort, expected) in [(false, CloseReason::Finished), (true, CloseReason::Aborted)] {
        let mut client = server.client();
        let conn = server.opened();
        match abort {
            true => server.handle.abort(conn).unwrap(),
            false => server.handle.close(conn).unwrap(),
        }
        util::read_all(&mut client);
        drop(client);
        assert_eq!(server.closed().1.reason, expected);
    }
}
