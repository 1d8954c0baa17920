//! Congestion holds up nobody but whoever makes it: a connection is read from as long as its own queue
//! does not grow by it, and a producer is told in time, whatever the marks are.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use unbroken::{Bytes, Config, ConnId, Net, Overflow, SendError, Sent, Via};

use crate::stage::{client_with_room, connect, end, enter, is_close, millis, reactor};
use crate::stage::{reports, small_send_buffer, story, turn_for, turn_while, until, Probe};
use crate::util::{read_all, serve, serve_with, Custom, Event, Sink, SOON};

const LONG: usize = 4 << 20;

/// Sends `LONG` bytes when it opens, counts what comes, and closes when it has as many.
fn sends_first() -> Custom {
    let mut got = HashMap::new();
    Custom {
        open: Some(Box::new(|net: &mut Net, conn, _: Via| {
            net.send(conn, &[7; LONG]).unwrap();
        })),
        data: Some(Box::new(move |net, conn, data| {
            let got: &mut usize = got.entry(conn).or_default();
            *got += data.len();
            if *got == LONG {
                net.close(conn);
            }
            data.len()
        })),
        ..Custom::default()
    }
}

fn impatient() -> Config {
    let mut config = Config::default();
    // Who waits for ever is found out soon.
    config.write_stall = Some(millis(600));
    small_send_buffer(&mut config);
    config.recv_buffer = Some(32 << 10);
    config
}

// C2
#[test]
fn two_engines_that_both_send_before_they_read_both_finish() {
    let first = serve(impatient(), sends_first());
    let addr = first.addr;
    let second = serve_with(impatient(), sends_first(), move |net| {
        net.connect(addr).unwrap();
    });
    for engine in [&first, &second] {
        let (_, report) = engine.closed();
        assert!(report.reason.is_clean(), "{report}");
        assert_eq!((report.received, report.handed), (LONG as u64, LONG as u64), "{report}");
    }
}

// C2
#[test]
fn two_connections_of_one_reactor_that_both_send_before_they_read_both_finish() {
    let (mut r, addr) = reactor(impatient());
    r.net().connect(addr).unwrap();
    let mut h = sends_first();
    let (tell, told) = mpsc::channel();
    h.close = Some(Box::new(move |_, _, report| tell.send(report.clone()).unwrap()));
    let mut reports = Vec::new();
    turn_while(&mut r, &mut h, SOON, || {
        reports.extend(told.try_iter());
        reports.len() < 2
    });
    assert_eq!(reports.len(), 2);
    for report in reports {
        assert!(report.reason.is_clean() && report.received == LONG as u64, "{report}");
    }
}

// C2: the lab's SEND, then SINK.
#[test]
fn a_congested_connection_whose_input_makes_nothing_grow_is_read_to_its_end() {
    const UPLOAD: usize = 1 << 20;
    let mut config = Config::default();
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let received = Rc::new(Cell::new(0));
    let sum = received.clone();
    let mut h = Probe { quiet: true, ..Probe::default() };
    let ended = Rc::new(Cell::new(false));
    let tell = ended.clone();
    h.open = Some(Box::new(|net, conn| assert_eq!(net.send(conn, &[7; LONG]), Ok(Sent::Congested))));
    h.data = Some(Box::new(move |_, _, data| {
        sum.set(sum.get() + data.len());
        data.len()
    }));
    h.eof = Some(Box::new(move |net, conn| {
        tell.set(true);
        net.close(conn);
    }));
    // It reads nothing before it has been heard to the end.
    let (go_on, heard_to_the_end) = mpsc::channel();
    let client = std::thread::spawn(move || {
        let mut client = client_with_room(addr, 32 << 10);
        let written = client.write_all(&vec![1; UPLOAD]);
        end(&client);
        let _ = heard_to_the_end.recv();
        (written.is_ok(), read_all(&mut client).0.len())
    });
    let heard = ended.clone();
    turn_while(&mut r, &mut h, millis(1500), || !heard.get());
    assert_eq!((received.get(), ended.get()), (UPLOAD, true));
    go_on.send(()).unwrap();
    until(&mut r, &mut h, SOON, |log| log.iter().any(is_close));
    assert_eq!(client.join().unwrap(), (true, LONG));
}

// C2
#[test]
fn clients_that_send_and_never_read_cost_high_water_and_two_reads_each() {
    const CLIENTS: usize = 20;
    let mut config = Config::default();
    small_send_buffer(&mut config);
    let most_each = config.high_water + 2 * config.read_size + (4 << 10);
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.data = Some(Box::new(|net, conn, data| {
        let _ = net.send(conn, data);
        data.len()
    }));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client_with_room(addr, 32 << 10)).collect();
    for client in &clients {
        client.set_nonblocking(true).unwrap();
    }
    let most = Cell::new(0);
    let mut quiet = 0;
    let begin = Instant::now();
    while quiet < 10 {
        assert!(begin.elapsed() < SOON, "they are read from for ever");
        let took = clients.iter_mut().filter(|client| (&**client).write(&[9; 64 << 10]).is_ok()).count();
        turn_for(&mut r, &mut h, millis(3));
        quiet = if took == 0 { quiet + 1 } else { 0 };
        let each: Vec<_> = r.net().connections().collect();
        most.set(each.into_iter().map(|conn| r.net().queued(conn)).max().unwrap_or(0).max(most.get()));
    }
    assert!(most.get() <= most_each, "{} queued for one", most.get());
    let stats = r.net().stats();
    assert_eq!((stats.connections, stats.congested), (CLIENTS, CLIENTS));
    // It costs no turns either.
    let turns = stats.turns;
    turn_for(&mut r, &mut h, millis(100));
    let turns = r.net().stats().turns - turns;
    assert!(turns <= 20, "{turns}");
}

// C2
#[test]
fn after_every_drain_a_connection_is_read_from_whatever_was_queued_in_it() {
    let mut config = Config::default();
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let heard = Rc::new(Cell::new(0));
    let sum = heard.clone();
    let fill = |net: &mut Net, conn| while net.send(conn, &[4; 16 << 10]) == Ok(Sent::Queued) {};
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.open = Some(Box::new(fill));
    h.drain = Some(Box::new(fill));
    // What it says makes its own queue grow: only the drains get it a hearing.
    h.data = Some(Box::new(move |net, conn, data| {
        sum.set(sum.get() + data.len());
        net.send(conn, &[5; 1000]).unwrap();
        data.len()
    }));
    let client = std::thread::spawn(move || {
        let mut client = client_with_room(addr, 32 << 10);
        for _ in 0..20 {
            client.write_all(b"x").unwrap();
            client.read_exact(&mut vec![0; 150 << 10]).unwrap();
        }
        client
    });
    let listen = heard.clone();
    turn_while(&mut r, &mut h, SOON, || listen.get() < 20);
    assert_eq!(heard.get(), 20);
    turn_while(&mut r, &mut h, SOON, || !client.is_finished());
    drop(client.join().unwrap());
}

// C2: a crowd that talks to each other hears its members, and holds up those who make it grow.
#[test]
fn one_that_never_reads_holds_up_nobody_it_shares_a_room_with() {
    let mut config = Config::default();
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.data = Some(Box::new(|net, conn, data| {
        let others: Vec<_> = net.connections().filter(|other| *other != conn).collect();
        net.broadcast(others, Bytes::copy_from_slice(data));
        data.len()
    }));
    let mut deaf = client_with_room(addr, 4096);
    let mut speaker = connect(addr);
    let mut listener = connect(addr);
    turn_for(&mut r, &mut h, millis(20));
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; LONG / 4];
        let read = listener.read_exact(&mut got).map_err(|error| error.to_string());
        (listener, read)
    });
    let speaking = std::thread::spawn(move || {
        let spoke = speaker.write_all(&vec![1; LONG / 4]).map_err(|error| error.to_string());
        (speaker, spoke)
    });
    // The deaf one speaks too, and is heard.
    deaf.write_all(b"hello").unwrap();
    turn_while(&mut r, &mut h, SOON / 2, || !(speaking.is_finished() && reading.is_finished()));
    let (spoke, read) = (speaking.join().unwrap(), reading.join().unwrap());
    assert_eq!((spoke.1, read.1), (Ok(()), Ok(())));
    assert_eq!(reports(&h.log), []);
}

// C5
#[test]
fn a_message_that_no_connection_could_hold_is_refused_and_ends_nobody() {
    for overflow in [Overflow::Close, Overflow::Refuse] {
        let mut config = Config::default();
        config.max_write_buffer = 1 << 20;
        config.overflow = overflow;
        let server = serve(config, Sink);
        let mut clients: Vec<TcpStream> = (0..3).map(|_| server.client()).collect();
        let conns: Vec<ConnId> = clients.iter().map(|_| server.opened()).collect();
        let first = conns[0];
        let large = Bytes::from(vec![0; (1 << 20) + 1]);
        let message = large.clone();
        server.ask(move |net| {
            net.send(conns[0], b"before").unwrap();
            assert_eq!(net.send(conns[0], &message), Err(SendError::Full));
            assert_eq!(net.send_bytes(conns[1], message.clone()), Err(SendError::Full));
            assert_eq!(net.try_reserve(conns[2], message.len()), Err(SendError::Full));
            assert_eq!(net.try_reserve(conns[2], usize::MAX), Err(SendError::Full));
            let outcome = net.broadcast(conns.clone(), message.clone());
            assert_eq!((outcome.queued, outcome.congested, outcome.failed), (0, 0, 3));
            let queued: Vec<_> = conns.iter().map(|conn| net.queued(*conn)).collect();
            assert_eq!(queued, [6, 0, 0]);
            net.broadcast(conns, Bytes::from_static(b" and after"));
        });
        server.handle.send(first, large.clone()).unwrap();
        let refused = server.wait_for(SOON, |event| matches!(event, Event::Refused(..) | Event::Close(..)));
        assert_eq!(refused, Event::Refused(first, large));
        let mut got = [0; 16];
        clients[0].read_exact(&mut got).unwrap();
        assert_eq!(&got, b"before and after");
        clients[1].read_exact(&mut [0; 10]).unwrap();
        assert_eq!(server.stats().connections, 3);
    }
}

// C5: at the cap itself it fits.
#[test]
fn a_message_as_large_as_the_cap_is_taken_by_an_empty_queue() {
    let mut config = Config::default();
    config.max_write_buffer = 1 << 20;
    let server = serve(config, Sink);
    let mut client = server.client();
    let conn = server.opened();
    let sent = server.ask(move |net| net.send_bytes(conn, Bytes::from(vec![3; 1 << 20])));
    assert_eq!(sent, Ok(Sent::Congested));
    client.read_exact(&mut vec![0; 1 << 20]).unwrap();
}

// C5
#[test]
fn a_high_water_that_is_not_below_the_cap_is_refused() {
    for over in [0, 1, 1 << 20] {
        let mut config = Config::default();
        config.max_write_buffer = config.high_water;
        config.high_water += over;
        let refused = config.validate().expect_err("nobody would be told in time").to_string();
        assert!(refused.contains("high_water"), "{refused}");
    }
    let mut config = Config::default();
    config.max_write_buffer = config.high_water + 1;
    assert_eq!(config.validate(), Ok(()));
}

/// A producer of equal messages (one of which fits when the queue is at low water) that stops when it is told, and goes on after a drain. Gives what
/// its peer got, and what the engine told.
fn producer(high: usize, max: usize, len: usize) -> (usize, usize, Vec<String>) {
    const ROUNDS: usize = 3;
    let mut config = Config::default();
    config.high_water = high;
    config.low_water = high / 4;
    config.max_write_buffer = max;
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let sent = Rc::new(Cell::new(0));
    let refusals = Rc::new(RefCell::new(Vec::new()));
    let (sum, note) = (sent.clone(), refusals.clone());
    let rounds = Rc::new(Cell::new(0));
    let round = rounds.clone();
    let produce = Rc::new(move |net: &mut Net, conn| {
        if round.replace(round.get() + 1) == ROUNDS {
            return net.close(conn);
        }
        loop {
            match net.send(conn, &vec![6; len]) {
                Ok(said) => {
                    sum.set(sum.get() + len);
                    if said == Sent::Congested {
                        return;
                    }
                }
                Err(error) => return note.borrow_mut().push(error.to_string()),
            }
        }
    });
    let again = produce.clone();
    let mut h = Probe { quiet: true, ..Probe::default() };
    h.open = Some(Box::new(move |net, conn| produce(net, conn)));
    h.drain = Some(Box::new(move |net, conn| again(net, conn)));
    let mut client = client_with_room(addr, 32 << 10);
    let reader = std::thread::spawn(move || read_all(&mut client).0.len());
    until(&mut r, &mut h, SOON / 5, |log| log.iter().any(is_close));
    let closed = reports(&h.log);
    let mut told = refusals.borrow().clone();
    told.extend(closed.iter().map(|report| report.reason.name().to_owned()));
    drop(r);
    (sent.get(), reader.join().unwrap(), told)
}

// C5
#[test]
fn a_producer_of_equal_messages_is_told_before_one_would_be_refused() {
    for high in [1000, 64 << 10] {
        for max in [high + 1, high + 500, 2 * high] {
            for len in [1, 300, 700, max / 2 + 1, max - high / 4] {
                let (sent, got, told) = producer(high, max, len);
                assert_eq!(told, ["finished"], "high {high}, cap {max}, messages of {len}: {sent} sent");
                assert_eq!(got, sent);
            }
        }
    }
}

// C2: whoever is being drained is told of it, and once.
#[test]
fn a_drain_follows_every_congestion_that_was_told_below_high_water() {
    let mut config = Config::default();
    config.high_water = 10_000;
    config.low_water = 100;
    config.max_write_buffer = 10_001;
    let (mut r, addr) = reactor(config);
    let mut h = Probe::default();
    let (mut client, conn) = enter(&mut r, &mut h, addr);
    let sends: Vec<_> = (0..3).map(|_| r.net().send(conn, &[1; 3333])).collect();
    // A fourth one would pass the cap.
    assert_eq!(sends, [Ok(Sent::Queued), Ok(Sent::Queued), Ok(Sent::Congested)]);
    turn_for(&mut r, &mut h, millis(20));
    client.read_exact(&mut [0; 9999]).unwrap();
    turn_for(&mut r, &mut h, millis(20));
    assert_eq!(story(&h.log), ["open", "drain"]);
    // The next crossing is told anew.
    for expected in [Ok(Sent::Queued), Ok(Sent::Queued), Ok(Sent::Congested)] {
        assert_eq!(r.net().send(conn, &[1; 3333]), expected);
    }
    turn_for(&mut r, &mut h, millis(20));
    assert_eq!(story(&h.log), ["open", "drain", "drain"]);
}
