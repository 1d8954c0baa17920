//! A shutdown says goodbye to everybody: to those who come late, to those who are owed a last word, and
//! to those whose command was taken.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use unbroken::{Bytes, Config, HandleError, ListenerId, Net, Reactor, Turn, Via};

use crate::stage::{connect, count, crowd, is_open, millis, reactor, turn_for, until, Probe, Roll};
use crate::util::{self, read_all, Custom, SOON};

/// Turns until a shutdown has been carried out, for a while.
fn run_to_the_end(r: &mut Reactor, h: &mut impl unbroken::Handler) {
    let deadline = std::time::Instant::now() + SOON;
    while r.turn(h, Some(millis(20))).unwrap() == Turn::Running {
        assert!(std::time::Instant::now() < deadline, "the shutdown does not end");
    }
}

// C6
#[test]
fn clients_that_come_during_the_callbacks_of_a_shutdown_are_not_reset() {
    let mut came = 0;
    for (from, listeners) in [(0, 1), (0, 2), (1, 2), (2, 3)] {
        let mut r = Reactor::new(Config::default()).unwrap();
        let ids: Vec<ListenerId> = (0..listeners).map(|_| r.net().listen("127.0.0.1:0").unwrap()).collect();
        let addr = |net: &mut Net, place: usize| -> SocketAddr {
            net.local_addr(ids[place]).unwrap().as_tcp().unwrap()
        };
        let addrs: Vec<SocketAddr> = (0..listeners).map(|place| addr(r.net(), place)).collect();
        let late = Rc::new(RefCell::new(Vec::new()));
        let (keep, others) = (late.clone(), addrs.clone());
        // Whoever is greeted has a friend who comes by the next door meanwhile.
        let (doors, mut friends) = (ids.clone(), 0);
        let mut h = Greeter(move |via| {
            let Via::Listener(door) = via else { return };
            let place = doors.iter().position(|id| *id == door).unwrap();
            if friends < 6 {
                friends += 1;
                // A door that is closed already turns away whoever comes: that is no reset.
                keep.borrow_mut().extend(TcpStream::connect(others[(place + 1) % others.len()]));
            }
        });
        r.turn(&mut h, Some(Duration::ZERO)).unwrap();
        late.borrow_mut().push(connect(addrs[from]));
        r.net().shutdown(Duration::from_secs(2));
        let clients = late.clone();
        let deadline = std::time::Instant::now() + SOON;
        let mut heard = Vec::new();
        while r.turn(&mut h, Some(millis(10))).unwrap() == Turn::Running {
            assert!(std::time::Instant::now() < deadline, "the shutdown does not end");
            // They end when they see our end.
            clients.borrow_mut().retain_mut(|client| {
                client.set_read_timeout(Some(millis(5))).unwrap();
                match client.read(&mut [0]).map_err(|error| error.kind()) {
                    Err(ErrorKind::WouldBlock) => return true,
                    end => heard.push(end),
                }
                false
            });
        }
        assert!(heard.iter().all(|end| *end == Ok(0)), "{from} of {listeners}: {heard:?}");
        came += heard.len() - 1;
    }
    assert!(came > 0, "every door was closed");
}

struct Greeter<F>(F);

impl<F: FnMut(Via)> unbroken::Handler for Greeter<F> {
    fn on_open(&mut self, _: &mut Net, _: unbroken::ConnId, via: Via) {
        self.0(via);
    }

    fn on_data(&mut self, _: &mut Net, _: unbroken::ConnId, data: &[u8]) -> usize {
        data.len()
    }
}

// C6
#[test]
fn a_last_word_to_everybody_reaches_everybody_although_the_deadline_is_zero() {
    for by_handle in [false, true] {
        let (mut r, addr) = reactor(Config::default());
        let mut h = Probe { quiet: true, ..Probe::default() };
        h.data = Some(Box::new(|net, _, data| {
            let all: Vec<_> = net.connections().collect();
            let said = net.broadcast(all, Bytes::from_static(b"BYE\n"));
            assert_eq!(said.failed, 0);
            net.shutdown(Duration::ZERO);
            data.len()
        }));
        let mut clients = crowd(&mut r, &mut h, addr, 50);
        match by_handle {
            false => clients[7].write_all(b"stop").unwrap(),
            true => {
                let handle = r.net().handle();
                let say = |net: &mut Net| {
                    let all: Vec<_> = net.connections().collect();
                    net.broadcast(all, Bytes::from_static(b"BYE\n"));
                };
                handle.run(say).unwrap();
                handle.shutdown(Duration::ZERO).unwrap();
            }
        }
        run_to_the_end(&mut r, &mut h);
        let mut unheard = Vec::new();
        for (place, client) in clients.iter_mut().enumerate() {
            util::patient(client);
            let (got, _) = read_all(client);
            if got != b"BYE\n" {
                unheard.push((place, got));
            }
        }
        assert!(unheard.is_empty(), "by a handle: {by_handle}: {} heard nothing: {unheard:?}", unheard.len());
    }
}

// C6: the same when it is said between two turns, or by a timer.
#[test]
fn a_last_word_before_a_shutdown_between_turns_or_in_a_timer_is_delivered() {
    for in_a_timer in [false, true] {
        let (mut r, addr) = reactor(Config::default());
        let mut h = Probe { quiet: true, ..Probe::default() };
        let say = |net: &mut Net| {
            for conn in net.connections().collect::<Vec<_>>() {
                net.send(conn, b"BYE\n").unwrap();
            }
            net.shutdown(Duration::ZERO);
        };
        h.timer = Some(Box::new(move |net, _| say(net)));
        let mut clients = crowd(&mut r, &mut h, addr, 5);
        match in_a_timer {
            true => {
                r.net().set_timer(Duration::ZERO);
            }
            false => say(r.net()),
        }
        run_to_the_end(&mut r, &mut h);
        for client in &mut clients {
            util::patient(client);
            assert_eq!(read_all(client).0, b"BYE\n", "in a timer: {in_a_timer}");
        }
    }
}

// C6
#[test]
fn a_task_that_was_taken_runs_although_the_reactor_is_stopping() {
    for commands in [1, 2, 1024] {
        let mut config = Config::default();
        config.commands_per_turn = commands;
        let (mut r, _) = reactor(config);
        let handle = r.net().handle();
        let ran = Arc::new(AtomicUsize::new(0));
        let task = |ran: &Arc<AtomicUsize>| {
            let ran = ran.clone();
            move |_: &mut Net| _ = ran.fetch_add(1, Ordering::SeqCst)
        };
        let mut taken = usize::from(handle.run(task(&ran)).is_ok());
        handle.shutdown(Duration::ZERO).unwrap();
        for _ in 0..20 {
            taken += usize::from(handle.run(task(&ran)).is_ok());
        }
        run_to_the_end(&mut r, &mut Probe::default());
        assert!(matches!(handle.run(task(&ran)), Err(HandleError::Stopped(_))));
        assert_eq!(ran.load(Ordering::SeqCst), taken, "{commands} commands a turn");
    }
}

// C6
#[test]
fn a_task_that_is_taken_in_the_very_last_callback_runs() {
    let (mut r, addr) = reactor(Config::default());
    let handle = r.net().handle();
    let counts = Rc::new(RefCell::new((0, Arc::new(AtomicUsize::new(0)))));
    let count_in = counts.clone();
    let mut h = Probe::default();
    h.close = Some(Box::new(move |_, _| {
        let mut counts = count_in.borrow_mut();
        let ran = counts.1.clone();
        let again = handle.clone();
        // It posts one of its own, if that is still taken.
        let task = move |_: &mut Net| {
            ran.fetch_add(1, Ordering::SeqCst);
            let more = ran.clone();
            if again.run(move |_| _ = more.fetch_add(100, Ordering::SeqCst)).is_ok() {
                ran.fetch_add(10_000, Ordering::SeqCst);
            }
        };
        counts.0 += usize::from(handle.run(task).is_ok());
    }));
    let clients = crowd(&mut r, &mut h, addr, 3);
    r.net().shutdown(Duration::ZERO);
    run_to_the_end(&mut r, &mut h);
    let counts = counts.borrow();
    let ran = counts.1.load(Ordering::SeqCst);
    assert_eq!(ran % 100, counts.0, "of so many that were taken");
    assert_eq!(ran / 100 % 100, ran / 10_000, "of so many that they posted");
    drop(clients);
}

// C6
#[test]
fn whatever_threads_post_while_the_reactor_stops_is_carried_out_once_or_given_back() {
    for round in 0..6 {
        let mut config = Config::default();
        config.commands_per_turn = [1024, 16][round % 2];
        let server = util::serve(config, Custom::default());
        let ran = Arc::new(AtomicUsize::new(0));
        let posters: Vec<_> = (0..2)
            .map(|_| {
                let (handle, ran) = (server.handle.clone(), ran.clone());
                std::thread::spawn(move || {
                    let mut taken = 0;
                    loop {
                        let ran = ran.clone();
                        match handle.run(move |_| _ = ran.fetch_add(1, Ordering::SeqCst)) {
                            Ok(()) => taken += 1,
                            Err(HandleError::Full(_)) => std::thread::yield_now(),
                            Err(_) => return taken,
                        }
                    }
                })
            })
            .collect();
        util::eventually("they are under way", || ran.load(Ordering::SeqCst) > 100);
        server.handle.shutdown(Duration::ZERO).unwrap();
        let taken: usize = posters.into_iter().map(|poster| poster.join().unwrap()).sum();
        server.join().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), taken, "round {round}");
    }
}

/// Notes every message that comes back.
struct Returned(mpsc::Sender<u64>);

fn number(message: &[u8]) -> u64 {
    u64::from_be_bytes(message.try_into().unwrap())
}

impl unbroken::Handler for Returned {
    fn on_data(&mut self, _: &mut Net, _: unbroken::ConnId, data: &[u8]) -> usize {
        data.len()
    }

    fn on_refused(&mut self, _: &mut Net, _: unbroken::ConnId, data: Bytes) {
        let _ = self.0.send(number(&data));
    }
}

// C6
#[test]
fn every_message_that_a_stopping_reactor_took_is_delivered_or_comes_back() {
    for commands in [1024, 7] {
        let mut config = Config::default();
        config.commands_per_turn = commands;
        let (back, returned) = mpsc::channel();
        let server = util::serve(config, Returned(back));
        let mut client = server.client();
        let conn = server.opened();
        let reader = std::thread::spawn(move || read_all(&mut client).0);
        let handle = server.handle.clone();
        let poster = std::thread::spawn(move || {
            let mut taken = 0u64;
            loop {
                match handle.send(conn, Bytes::copy_from_slice(&taken.to_be_bytes())) {
                    Ok(()) => taken += 1,
                    Err(HandleError::Full(_)) => std::thread::yield_now(),
                    Err(_) => return taken,
                }
            }
        });
        std::thread::sleep(millis(20));
        server.handle.shutdown(SOON).unwrap();
        let (taken, delivered) = (poster.join().unwrap(), reader.join().unwrap());
        server.join().unwrap();
        let mut fates: HashMap<u64, u32> = HashMap::new();
        for message in delivered.chunks(8).map(number).chain(returned.try_iter()) {
            *fates.entry(message).or_default() += 1;
        }
        assert!(fates.values().all(|times| *times == 1));
        assert_eq!(fates.len() as u64, taken, "{commands} commands a turn");
    }
}

// C6
#[test]
fn who_is_closed_by_a_shutdown_still_gets_what_was_sent_in_the_same_callback() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Roll::default();
    let mut clients: Vec<TcpStream> = crowd(&mut r, &mut h, addr, 4);
    for conn in h.0.clone() {
        r.net().send(conn, &[5; 100_000]).unwrap();
    }
    r.net().shutdown(SOON);
    let readers: Vec<_> = clients
        .drain(..)
        .map(|mut client| {
            util::patient(&client);
            std::thread::spawn(move || read_all(&mut client).0.len())
        })
        .collect();
    run_to_the_end(&mut r, &mut h);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 100_000);
    }
}

// C6: a shutdown takes in who waits, and says goodbye to them as well.
#[test]
fn who_waits_in_the_backlog_is_greeted_and_gets_the_greeting() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe::default();
    h.open = Some(Box::new(|net, conn| {
        net.send(conn, b"welcome, we close").unwrap();
    }));
    turn_for(&mut r, &mut h, millis(5));
    let mut clients: Vec<_> = (0..100).map(|_| connect(addr)).collect();
    r.net().shutdown(Duration::ZERO);
    until(&mut r, &mut h, millis(1), |_| false);
    run_to_the_end(&mut r, &mut h);
    assert_eq!(count(&h.log.borrow(), is_open), 100);
    for client in &mut clients {
        assert_eq!(read_all(client).0, b"welcome, we close");
    }
}
