//! What a peer may try, or happen to do, that a session has to survive.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustls::ContentType;
use unbroken::{AtLimit, CloseReason, Config, Side, Timeout};

use crate::forged::Forger;
use crate::peer::{client_config, configured, name, serve_tls, Client};
use crate::util::{pattern, read_all, reset, serve, Custom, Echo, Event, SOON};

// What was established and reset before anybody looked still has its input: no plaintext of whoever sits
// in between may be taken for what the session brought.
#[test]
fn what_a_server_sent_in_the_clear_before_it_reset_is_shown_to_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let ours = serve(Config::default(), Custom::default());
    ours.ask(move |net| {
        let conn = net.connect_tls(addr, name(), client_config()).expect("connect");
        net.send(conn, b"secret").expect("queued");
        let (mut socket, _) = listener.accept().expect("it connects");
        socket.write_all(b"200 all is well\n").expect("a write");
        reset(socket);
        std::thread::sleep(Duration::from_millis(50));
    });
    match ours.event() {
        Event::Close(_, report) => {
            assert!(matches!(report.reason, CloseReason::Reset | CloseReason::Tls), "{report}");
            assert_eq!((report.received, report.handed, report.unsent), (0, 0, 6));
        }
        event => panic!("{event:?}"),
    }
    assert_eq!(ours.stats().handshakes, 0);
}

#[test]
fn who_waits_at_the_limit_comes_in_when_a_handshake_has_stalled() {
    let config = configured(|config| {
        config.max_connections = Some(2);
        config.at_limit = AtLimit::Wait;
        config.handshake_timeout = Duration::from_secs(60);
    });
    let server = serve_tls(config, Echo);
    let _stalled = [server.client(), server.client()];
    server.wait_stats(|stats| stats.handshaking == 2);
    let began = Instant::now();
    let mut client = Client::ready(&server);
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Handshake));
}

#[test]
fn a_hello_that_comes_behind_our_close_is_thrown_away() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::of(&server);
    server.wait_stats(|stats| stats.handshaking == 1);
    server.ask(|net| {
        for conn in net.connections().collect::<Vec<_>>() {
            net.close(conn);
        }
    });
    let hello = client.sealed();
    client.socket.write_all(&hello).expect("a write");
    let (answer, error) = read_all(&mut client.socket);
    // A warning, `close_notify`, and nothing else.
    assert_eq!((answer, error.map(|error| error.kind())), (vec![21, 3, 3, 0, 2, 1, 0], None));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Finished, None), "{report}");
}

#[test]
fn a_damaged_record_behind_our_close_is_thrown_away() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    server.ask(move |net| {
        net.send(conn, b"bye").expect("queued");
        net.close(conn);
    });
    assert_eq!(client.receive_all(), (b"bye".to_vec(), true));
    let mut damaged = client.seal(b"damaged");
    *damaged.last_mut().expect("a byte") ^= 1;
    client.socket.write_all(&damaged).expect("a write");
    let (rest, error) = read_all(&mut client.socket);
    assert_eq!((rest.len(), error.map(|error| error.kind())), (0, None));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno, report.handed), (CloseReason::Finished, None, 3), "{report}");
}

#[test]
fn a_damaged_record_behind_the_end_of_our_stream_ends_the_connection() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    server.ask(move |net| {
        net.send(conn, b"bye").expect("queued");
        net.close_write(conn);
    });
    assert_eq!(client.receive_all(), (b"bye".to_vec(), true));
    let mut damaged = client.seal(b"damaged");
    *damaged.last_mut().expect("a byte") ^= 1;
    client.socket.write_all(&damaged).expect("a write");
    let (rest, error) = read_all(&mut client.socket);
    assert_eq!((rest.len(), error.map(|error| error.kind())), (0, None));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Tls, None), "{report}");
    assert_eq!(report.alert, None, "our stream had ended: none was sent");
}

// A session that has failed takes nothing more to seal: that is no full buffer of the kernel's, of which
// an event would tell when it has room.
#[test]
fn an_alert_goes_out_although_the_handler_had_more_to_send() {
    let handler = Custom {
        data: Some(Box::new(|net, conn, data| {
            net.pause_reading(conn);
            net.send(conn, b"never").expect("queued");
            net.set_timer(Duration::from_millis(100));
            data.len()
        })),
        timer: Some(Box::new(|net, _| {
            for conn in net.connections().collect::<Vec<_>>() {
                net.resume_reading(conn);
            }
        })),
        ..Custom::default()
    };
    let server = serve_tls(Config::default(), handler);
    let mut client = Client::ready(&server);
    let mut bytes = client.seal(b"whole");
    let mut damaged = client.seal(b"damaged");
    *damaged.last_mut().expect("a byte") ^= 1;
    bytes.extend(damaged);
    let began = Instant::now();
    client.socket.write_all(&bytes).expect("a write");
    let mut header = [0; 5];
    client.socket.read_exact(&mut header).expect("an alert");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.unsent), (CloseReason::Tls, 0, 5), "{report}");
}

#[test]
fn data_between_the_handshake_and_a_damaged_record_is_delivered_though_all_came_at_once() {
    let server = serve_tls(Config::default(), Custom::default());
    let (mut client, mut bytes) = Client::at_the_end_of_its_handshake(&server);
    bytes.extend(client.seal(b"whole"));
    let mut damaged = client.seal(b"damaged");
    *damaged.last_mut().expect("a byte") ^= 1;
    bytes.extend(damaged);
    client.socket.write_all(&bytes).expect("a write");
    drop(client);
    let conn = server.opened();
    assert_eq!(server.event(), Event::Data(conn, 5, 5));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Tls, 5), "{report}");
    assert_eq!(server.stats().handshake_failures, 0);
}

// Both are there when the first of them is looked at: a read that fills only a part of its buffer proves
// nothing then.
#[test]
fn an_end_or_a_reset_right_behind_a_part_of_a_record_is_seen() {
    for resets in [false, true] {
        let server = serve_tls(Config::default(), Echo);
        let mut client = Client::ready(&server);
        server.opened();
        let record = client.seal(b"world");
        server.ask(move |_| {
            client.socket.write_all(&record[..9]).expect("a write");
            match resets {
                true => reset(client.socket),
                false => drop(client),
            }
            std::thread::sleep(Duration::from_millis(50));
        });
        // Not only when a deadline has it looked at again.
        let (_, report) = server.closed_within(Duration::from_secs(5));
        let expected = if resets { CloseReason::Reset } else { CloseReason::Truncated };
        assert_eq!((report.reason, report.received), (expected, 0), "{report}");
    }
}

#[test]
fn records_without_plaintext_are_not_taken_for_ever_and_keep_nobody_waiting() {
    let server = serve_tls(Config::default(), Echo);
    let mut other = Client::ready(&server);
    let mut flood = Forger::ready(&server, "1.3");
    let records: Vec<u8> = (0..50_000).flat_map(|_| flood.seal(ContentType::ApplicationData, b"")).collect();
    let flooding = std::thread::spawn(move || {
        let _ = flood.socket.write_all(&records);
        drop(flood);
    });
    while !flooding.is_finished() {
        other.send(b"ping");
        assert_eq!(other.receive(4), b"ping");
    }
    flooding.join().expect("no panic");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received, report.alert), (CloseReason::Tls, 0, None), "{report}");
}

#[test]
fn an_alert_that_was_not_sent_is_not_reported() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Forger::ready(&server, "1.2");
    for _ in 0..5 {
        // A warning without consequence; too many of them are an attack.
        client.send(ContentType::Alert, &[1, 90]);
    }
    let (answer, _) = read_all(&mut client.socket);
    let alerts = answer.first() == Some(&21);
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Tls, "{report}");
    assert_eq!(report.alert.is_some_and(|alert| alert.by == Side::Local), alerts, "{report}");
}

// The keys of TLS 1.2 last for so many records and no longer. rustls then says that it took what it dropped.
#[test]
fn what_was_not_sealed_for_want_of_keys_counts_as_unsent() {
    let server = crate::limits::serve_with_few_keys(12);
    let mut client = Client::with(&server, crate::peer::only("1.2"));
    client.shake_hands();
    let conn = server.opened();
    let mut came = 0;
    for _ in 0..20 {
        let _ = server.ask(move |net| net.send(conn, &[1; 100]));
        std::thread::sleep(Duration::from_millis(5));
    }
    while let Ok(1..) = client.session.read_tls(&mut client.socket) {
        let Ok(state) = client.session.process_new_packets() else { break };
        let mut part = vec![0; state.plaintext_bytes_to_read()];
        client.session.reader().read_exact(&mut part).expect("plaintext");
        came += part.len() as u64;
        if state.peer_has_closed() {
            break;
        }
    }
    drop(client);
    let (_, report) = server.closed();
    assert!(!report.reason.is_clean(), "{report}");
    assert_eq!(report.handed, came, "{report}");
}

#[test]
fn keys_are_renewed_when_they_have_served_enough() {
    let server = crate::limits::serve_with_few_keys(12);
    let mut client = Client::with(&server, crate::peer::only("1.3"));
    client.shake_hands();
    let conn = server.opened();
    for _ in 0..100 {
        server.ask(move |net| net.send(conn, &[1; 100])).expect("queued");
        client.receive(100);
    }
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed), (CloseReason::PeerClosed, 10_000), "{report}");
}

// What is written into the first flight of a resumed session is in nobody's hands: rustls keeps it apart.
#[test]
fn data_ahead_of_the_handshake_is_refused_or_delivered() {
    let server = crate::limits::serve_with_early_data();
    let config = crate::limits::early_client();
    for round in 0..2 {
        let mut client = Client::with(&server, config.clone());
        if let Some(mut early) = client.session.early_data() {
            assert_eq!(round, 1);
            early.write_all(b"early").expect("it is sealed");
        }
        client.shake_hands();
        client.send(b"late");
        let accepted = client.session.is_early_data_accepted();
        let expected: &[u8] = if accepted { b"earlylate" } else { b"late" };
        assert_eq!(client.receive(expected.len()), expected, "{accepted}");
        client.end();
    }
}

#[test]
fn a_slow_reader_of_one_record_gets_on() {
    let config = configured(|config| {
        config.write_stall = Some(Duration::from_millis(700));
        config.send_buffer = Some(4096);
    });
    let server = serve_tls(config, Custom::default());
    let socket = crate::util::narrow_client(server.addr);
    let mut client = Client::on(socket, client_config());
    client.shake_hands();
    let conn = server.opened();
    server.ask(move |net| net.send(conn, &pattern(60_000))).expect("queued");
    let mut raw = Vec::new();
    let mut part = [0; 500];
    // Each record takes two seconds and more.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        let count = client.socket.read(&mut part).expect("a read");
        assert!(count > 0, "cut after {} bytes", raw.len());
        raw.extend_from_slice(&part[..count]);
        std::thread::sleep(Duration::from_millis(70));
    }
    assert!(!server.events_so_far().iter().any(|event| matches!(event, Event::Close(..))));
    assert!(raw.len() < 25_000, "{} bytes", raw.len());
}

#[test]
fn a_record_that_comes_slowly_is_no_silence() {
    let config = configured(|config| {
        config.idle_timeout = Some(Duration::from_millis(600));
    });
    let server = serve_tls(config, Echo);
    let mut client = Client::ready(&server);
    let record = client.seal(&pattern(1000));
    for part in record.chunks(record.len() / 12) {
        client.socket.write_all(part).expect("a write");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.receive(1000), pattern(1000));
    let (_, report) = server.closed_within(SOON);
    assert_eq!((report.reason, report.received), (CloseReason::TimedOut(Timeout::Idle), 1000));
}
