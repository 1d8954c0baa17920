//! How a group ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self};
use std::time::{Duration, Instant};

use crate::util::{patient, read_all};
use unbroken::{CloseReason, Config, Group, ListenOptions};

use crate::stage::*;

#[test]
fn a_shutdown_under_a_storm_of_connects_answers_or_ends_everybody_and_loses_nobody() {
    for round in 0..5 {
        let group = plain(3);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (stop, addr) = (stop.clone(), group.addr);
                thread::spawn(move || {
                    let (mut answered, mut ended) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(mut stream) = TcpStream::connect(addr) else { break };
                        patient(&stream);
                        let _ = stream.write_all(b"who?");
                        let mut byte = [0];
                        match stream.read(&mut byte) {
                            Ok(1) => answered += 1,
                            Ok(_) => ended += 1,
                            // A reset is an end as well; a time-out is not.
                            Err(error) => {
                                assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "{error}");
                                ended += 1;
                            }
                        }
                    }
                    (answered, ended)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(30 + 7 * round));
        let began = Instant::now();
        group.handle.shutdown(Duration::from_secs(5)).unwrap();
        let book = group.book.clone();
        let handle = group.handle.clone();
        group.join().unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        stop.store(true, Ordering::Relaxed);
        let outcomes: Vec<(usize, usize)> =
            clients.into_iter().map(|client| client.join().unwrap()).collect();
        let answered: usize = outcomes.iter().map(|(answered, _)| answered).sum();
        assert!(answered > 10, "{outcomes:?}");
        let stats = handle.stats().unwrap().total;
        assert_eq!(stats.accepted, stats.closed);
        assert_eq!(stats.closed as usize, book.reports.lock().unwrap().len());
        assert_eq!(stats.opened as usize, book.opened.load(Ordering::SeqCst));
        assert_eq!(handle.connections(), [0, 0, 0]);
    }
}

#[test]
fn who_waits_in_the_backlog_when_a_shutdown_comes_is_taken_in() {
    let mut group = Group::new(Config::default(), 2).unwrap();
    let listener = group.listen("127.0.0.1:0").unwrap();
    let addr = group.local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    group.handle().shutdown(Duration::from_secs(5)).unwrap();
    let running = start(group, addr);
    let book = running.book.clone();
    for client in &mut clients {
        patient(client);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "an end, and no reset");
    }
    drop(clients);
    running.join().unwrap().unwrap();
    let reports = book.reports.lock().unwrap();
    assert_eq!((book.opened.load(Ordering::SeqCst), reports.len()), (20, 20));
    assert!(reports.iter().all(|(_, report)| report.reason == CloseReason::Finished));
}

#[test]
fn a_panic_stops_the_group_and_comes_out_of_run() {
    let group = plain(3);
    let mut clients: Vec<_> = (0..6).map(|_| group.client()).collect();
    let served: Vec<_> = clients.iter_mut().map(who).collect();
    let place = served.iter().position(|reactor| *reactor == 1).unwrap();
    clients[place].write_all(b"panic").unwrap();
    let panic = {
        // Those of the others end in good order, the one that panicked takes its own with it.
        for (client, reactor) in clients.iter_mut().zip(&served) {
            let (_, error) = read_all(client);
            assert!(*reactor == 1 || error.is_none(), "{error:?}");
        }
        drop(clients);
        group.join().unwrap_err()
    };
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as it was told"));
}

#[test]
fn a_panic_that_is_caught_ends_its_connection_alone() {
    let mut config = Config::default();
    config.catch_panics = true;
    let group = run(config, 2, &ListenOptions::default());
    let (mut one, mut two) = (group.client(), group.client());
    who(&mut two);
    one.write_all(b"panic").unwrap();
    assert!(read_all(&mut one).1.is_some());
    who(&mut two);
    let reports = group.book.reports.lock().unwrap();
    assert_eq!(
        reports.iter().map(|(_, report)| report.reason).collect::<Vec<_>>(),
        [CloseReason::HandlerPanic]
    );
}

#[test]
fn a_shutdown_of_the_one_that_accepts_is_one_of_the_group() {
    let group = plain(3);
    let mut clients: Vec<_> = (0..3).map(|_| group.client()).collect();
    let place = clients.iter_mut().position(|client| who(client) == 0).unwrap();
    clients[place].write_all(b"stop").unwrap();
    for client in &mut clients {
        assert!(read_all(client).1.is_none());
    }
    drop(clients);
    group.join().unwrap().unwrap();
}
