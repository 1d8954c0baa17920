//! Data over TLS: all of it, in order, and counted as plaintext.

use std::io::Write;
use std::time::Duration;

use rustls::ProtocolVersion;
use unbroken::{Bytes, CloseReason, Config, Sent};

use crate::peer::{configured, only, serve_tls, Client};
use crate::util::{eventually, pattern, Custom, Echo, Event, SOON};

#[test]
fn what_is_sent_over_tls_comes_back_in_both_versions() {
    for version in ["1.2", "1.3"] {
        let server = serve_tls(Config::default(), Echo);
        let mut client = Client::with(&server, only(version));
        client.shake_hands();
        client.send(b"hello");
        assert_eq!(client.receive(5), b"hello");
        let conn = server.opened();
        let info = server.ask(move |net| net.tls(conn).cloned()).expect("it is secured");
        let expected = if version == "1.2" { ProtocolVersion::TLSv1_2 } else { ProtocolVersion::TLSv1_3 };
        assert_eq!((info.version, info.server_name.as_deref()), (expected, Some("localhost")));
        client.end();
        assert_eq!(client.receive_all(), (Vec::new(), true));
        let (_, report) = server.closed();
        assert_eq!(report.reason, CloseReason::PeerClosed, "{report}");
        assert_eq!((report.received, report.handed, report.unsent), (5, 5, 0));
        assert_eq!((report.saw_fin, report.unacked, report.alert), (true, Some(0), None));
    }
}

#[test]
fn a_hundred_megabytes_come_whole_in_both_directions() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    let block = pattern(1 << 20);
    for _ in 0..20 {
        client.send(&block);
        assert!(client.receive(block.len()) == block);
    }
    client.end();
    assert_eq!(client.receive_all(), (Vec::new(), true));
    let (_, report) = server.closed();
    assert_eq!((report.received, report.handed), (20 << 20, 20 << 20), "{report}");
}

#[test]
fn records_that_come_a_byte_at_a_time_are_put_together() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::of(&server);
    client.socket.set_nodelay(true).expect("TCP_NODELAY");
    let hello = client.sealed();
    for byte in hello.chunks(1) {
        client.socket.write_all(byte).expect("a write");
    }
    client.shake_hands();
    for byte in client.seal(&pattern(100)).chunks(1) {
        client.socket.write_all(byte).expect("a write");
    }
    assert_eq!(client.receive(100), pattern(100));
}

// Redis has a list for it; envoy, libevent, curl and stud had the bug.
#[test]
fn plaintext_that_no_event_tells_of_is_delivered_all_the_same() {
    let config = configured(|config| {
        config.read_size = 1000;
        config.read_budget = 1000;
    });
    let server = serve_tls(config, Echo);
    let mut client = Client::ready(&server);
    let sent = pattern(40_000);
    client.send(&sent);
    assert!(client.receive(sent.len()) == sent);
}

#[test]
fn nothing_is_shown_during_a_pause_and_all_of_it_after() {
    let handler = Custom {
        open: Some(Box::new(|net, conn, _| net.pause_reading(conn))),
        data: Some(Box::new(|net, conn, data| {
            let _ = net.send(conn, data);
            data.len()
        })),
        ..Custom::default()
    };
    let server = serve_tls(Config::default(), handler);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    client.send(&pattern(50_000));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.events_so_far(), []);
    server.ask(move |net| net.resume_reading(conn));
    assert!(client.receive(50_000) == pattern(50_000));
}

#[test]
fn a_byte_counts_when_its_record_is_with_the_kernel_and_a_cut_one_is_unsent() {
    let server = serve_tls(
        configured(|config| {
            config.max_write_buffer = 64 << 20;
        }),
        Custom::default(),
    );
    let mut client = Client::ready(&server);
    let conn = server.opened();
    let whole = 32 << 20;
    let sent = server.ask(move |net| net.send_bytes(conn, Bytes::from(vec![7; whole])));
    assert_eq!(sent, Ok(Sent::Congested));
    // It reads a part, then stops until nothing moves, then is gone.
    client.receive(1 << 20);
    let mut queued = 0;
    eventually("the queue stands still", || {
        std::thread::sleep(Duration::from_millis(30));
        let before = std::mem::replace(&mut queued, server.ask(move |net| net.queued(conn)));
        before == queued
    });
    server.ask(move |net| net.abort(conn));
    let (_, report) = server.closed();
    assert_eq!(report.unsent, queued as u64);
    assert_eq!(report.handed + report.unsent, whole as u64, "{report}");
    assert_eq!(report.handed % (16 << 10), 0, "whole records: {report}");
    // What the peer can still read is no more than was handed over, and whole records.
    let mut came = 1 << 20;
    while let Ok(1..) = client.session.read_tls(&mut client.socket) {
        let Ok(state) = client.session.process_new_packets() else { break };
        let mut part = vec![0; state.plaintext_bytes_to_read()];
        std::io::Read::read_exact(&mut client.session.reader(), &mut part).expect("plaintext");
        came += part.len() as u64;
    }
    assert!(came <= report.handed, "{came} of {report}");
    assert!(report.unacked.is_some_and(|unacked| came + unacked >= report.handed), "{came}: {report}");
}

#[test]
fn sends_before_the_handshake_wait_in_our_queue_under_our_caps() {
    let config = configured(|config| {
        config.max_write_buffer = 10_000;
        config.high_water = 8_000;
        config.low_water = 1_000;
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let server = serve_tls(config, Custom::default());
    let conn = server.ask(move |net| {
        net.connect_tls(addr, crate::peer::name(), crate::peer::client_config()).expect("connect")
    });
    let (_silent, _) = listener.accept().expect("it connects");
    server.wait_stats(|stats| stats.handshaking == 1);
    assert_eq!(server.ask(move |net| net.send(conn, &[1; 9_000])), Ok(Sent::Congested));
    assert!(server.ask(move |net| net.send(conn, &[1; 2_000])).is_err());
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.unsent), (CloseReason::SlowConsumer, 0, 9_000));
}

#[test]
fn a_drain_comes_when_sealed_bytes_have_gone() {
    let handler = Custom {
        open: Some(Box::new(|net, conn, _| {
            let mut sent = Ok(Sent::Queued);
            while sent == Ok(Sent::Queued) {
                sent = net.send(conn, &[3; 10_000]);
            }
        })),
        ..Custom::default()
    };
    let config = configured(|config| {
        config.high_water = 200_000;
        config.low_water = 50_000;
    });
    let server = serve_tls(config, handler);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    client.receive(200_000);
    server.wait_for(SOON, |event| matches!(event, Event::Drain(drained, _) if *drained == conn));
}

#[test]
fn data_that_comes_with_the_end_of_the_handshake_needs_no_read_of_its_own() {
    let server = serve_tls(Config::default(), Echo);
    let (mut client, mut last) = Client::at_the_end_of_its_handshake(&server);
    last.extend(client.seal(b"hello"));
    client.socket.write_all(&last).expect("a write");
    assert_eq!(client.receive(5), b"hello");
    assert_eq!(server.stats().read_eagains, 0);
    // What comes later is heard of all the same.
    client.send(b"again");
    assert_eq!(client.receive(5), b"again");
}

#[test]
fn all_that_comes_with_the_end_of_the_handshake_is_read_however_much() {
    let server = serve_tls(Config::default(), Echo);
    let (mut client, mut last) = Client::at_the_end_of_its_handshake(&server);
    let data = pattern(700_000);
    last.extend(client.seal(&data));
    client.session.send_close_notify();
    last.extend(client.sealed());
    let mut socket = client.socket.try_clone().expect("a duplicate");
    let writer = std::thread::spawn(move || socket.write_all(&last).expect("a write"));
    assert_eq!(client.receive(data.len()), data);
    writer.join().expect("it writes");
    assert_eq!(client.receive_all(), (Vec::new(), true));
}

#[test]
fn who_is_paused_as_soon_as_it_is_open_is_shown_nothing_that_came_with_its_handshake() {
    let (told, shown) = std::sync::mpsc::channel();
    let server = serve_tls(
        Config::default(),
        Custom {
            open: Some(Box::new(|net, conn, _| net.pause_reading(conn))),
            data: Some(Box::new(move |_, _, data| told.send(data.to_vec()).map_or(0, |()| data.len()))),
            ..Custom::default()
        },
    );
    let (mut client, mut last) = Client::at_the_end_of_its_handshake(&server);
    last.extend(client.seal(b"hello"));
    client.socket.write_all(&last).expect("a write");
    server.wait_stats(|stats| stats.handshakes == 1);
    assert!(shown.recv_timeout(Duration::from_millis(100)).is_err());
    assert_eq!(server.stats().bytes_in, 0);
}

#[test]
fn what_was_sent_on_opening_makes_room_before_the_first_data_is_answered() {
    let config = configured(|config| {
        config.max_write_buffer = 10_000;
        config.high_water = 8_000;
        config.low_water = 1_000;
    });
    let server = serve_tls(
        config,
        Custom {
            open: Some(Box::new(|net, conn, _| assert_eq!(net.send(conn, &[1; 4_000]), Ok(Sent::Queued)))),
            data: Some(Box::new(|net, conn, data| net.send(conn, &[2; 7_000]).map_or(0, |_| data.len()))),
            ..Custom::default()
        },
    );
    let (mut client, mut last) = Client::at_the_end_of_its_handshake(&server);
    last.extend(client.seal(b"hello"));
    client.socket.write_all(&last).expect("a write");
    assert_eq!(client.receive(11_000).len(), 11_000);
    client.end();
    assert_eq!(server.closed().1.reason, CloseReason::PeerClosed);
}
