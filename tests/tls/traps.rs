//! The mistakes that sessions above sockets invite, each of which somebody has made.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConnection, ContentType, ServerConfig};
use unbroken::{Bytes, CloseReason, Config, Net, Overflow, SendError, Sent, Via};

use crate::forged::Forger;
use crate::limits::{serve, serve_configured};
use crate::peer::{client_config, configured, file, name, only, serve_tls, server_config, Client};
use crate::util::{eventually, narrow_client, pattern, read_all, Custom, Echo};

fn with_tickets(tickets: usize) -> ServerConfig {
    let mut config = ServerConfig::clone(&server_config());
    config.send_tls13_tickets = tickets;
    config
}

// envoy#2624, sozu's second loop: no plaintext waits, and bytes of the session's own do.
#[test]
fn a_flight_larger_than_the_kernel_takes_at_once_goes_on_when_there_is_room() {
    let cert = CertificateDer::from_pem_file(file("ed25519.cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(file("ed25519.key.pem")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // A long chain: what is behind the first is looked at by nobody.
    let chain = vec![cert; 100];
    let tls =
        builder.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("they fit");
    let config = configured(|config| {
        config.send_buffer = Some(4096);
    });
    let server = serve_configured(config, tls, Echo);
    let mut client = Client::on(narrow_client(server.addr), client_config());
    let hello = client.sealed();
    client.socket.write_all(&hello).expect("a write");
    server.wait_stats(|stats| stats.write_eagains > 0);
    std::thread::sleep(Duration::from_millis(50));
    client.shake_hands();
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
}

#[test]
fn tickets_are_in_no_account() {
    let server = serve(with_tickets(2), Echo);
    let mut client = Client::ready(&server);
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    assert_eq!(server.stats().bytes_out, 5);
    client.end();
    assert_eq!(client.receive_all(), (Vec::new(), true));
    let (_, report) = server.closed();
    assert_eq!((report.handed, report.unacked, report.received), (5, Some(0), 5), "{report}");
}

// openssl#7948: the tickets lie unread in a client that only writes; its close becomes a reset that throws
// away what it had still to send. Nobody can get that back, and nobody may call it a clean end.
#[test]
fn what_unread_tickets_destroy_is_never_a_clean_end() {
    const LEN: usize = 3_000_000;
    let slow = |_: &mut Net, _, data: &[u8]| {
        std::thread::sleep(Duration::from_millis(2));
        data.len()
    };
    let server = serve(with_tickets(2), Custom { data: Some(Box::new(slow)), ..Custom::default() });
    for _ in 0..5 {
        let mut client = Client::of(&server);
        // The handshake, and not a byte more is read.
        while client.session.is_handshaking() {
            client.session.complete_io(&mut client.socket).expect("a handshake");
        }
        let mut bytes = client.seal(&pattern(LEN));
        client.session.send_close_notify();
        bytes.extend(client.sealed());
        let _ = client.socket.write_all(&bytes);
        drop(client);
        let (_, report) = server.closed();
        let whole = report.received == LEN as u64;
        assert_eq!(report.reason == CloseReason::PeerClosed, whole, "{report}");
    }
}

// It answers with its next record: there may never be one.
#[test]
fn renewed_keys_are_taken_up_though_nothing_is_ever_sent() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::with(&server, only("1.3"));
    client.shake_hands();
    for _ in 0..30 {
        client.session.refresh_traffic_keys().expect("a request");
        let bytes = client.sealed();
        client.socket.write_all(&bytes).expect("a write");
    }
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello", "under new keys in both directions");
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.received), (CloseReason::PeerClosed, 5, 5));
}

#[test]
fn a_peer_that_does_nothing_but_renew_its_keys_is_ended() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::with(&server, only("1.3"));
    client.shake_hands();
    for _ in 0..33 {
        client.session.refresh_traffic_keys().expect("a request");
    }
    let bytes = client.sealed();
    client.socket.write_all(&bytes).expect("a write");
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Tls, "{report}");
}

// CVE-2009-3555.
#[test]
fn a_renegotiation_is_refused_and_the_session_goes_on() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Forger::ready(&server, "1.2");
    let mut session = ClientConnection::new(only("1.2"), name()).expect("a session");
    let mut record = Vec::new();
    session.write_tls(&mut record).expect("memory");
    let hello = &record[5..];
    client.send(ContentType::Handshake, hello);
    let mut header = [0; 5];
    client.socket.read_exact(&mut header).expect("an answer, although nothing is to be sent");
    assert_eq!(header[0], 21, "a warning");
    let mut rest = vec![0; usize::from(header[4])];
    client.socket.read_exact(&mut rest).expect("the rest of it");
    client.send(ContentType::ApplicationData, b"hello");
    client.socket.read_exact(&mut header).expect("the echo");
    assert_eq!(header[0], 23);
    client.send(ContentType::Handshake, hello);
    let _ = read_all(&mut client.socket);
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received, report.handed), (CloseReason::Tls, 5, 5), "{report}");
}

#[test]
fn a_refused_send_at_the_cap_disturbs_nothing_that_is_sealed() {
    let config = configured(|config| {
        config.send_buffer = Some(4096);
        config.max_write_buffer = 100_000;
        config.overflow = Overflow::Refuse;
    });
    let server = serve_tls(config, Custom::default());
    let mut client = Client::on(narrow_client(server.addr), client_config());
    client.shake_hands();
    let conn = server.opened();
    let mut sent = Vec::new();
    let mut refused = 0;
    for n in 0..300 {
        let piece = vec![n as u8; 1000];
        let copy = piece.clone();
        match server.ask(move |net| net.send_bytes(conn, Bytes::from(copy))) {
            Ok(_) => sent.extend(piece),
            Err(error) => {
                assert_eq!(error, SendError::Full);
                refused += 1;
            }
        }
        if n % 50 == 0 && sent.len() > 20_000 {
            let part = client.receive(20_000);
            assert!(part == sent[..20_000]);
            sent.drain(..20_000);
        }
    }
    assert!(refused > 0);
    assert!(client.receive(sent.len()) == sent);
}

#[test]
fn plaintext_is_shown_bit_by_bit_to_a_handler_that_pauses_after_each() {
    let config = configured(|config| {
        config.read_size = 1500;
    });
    let open = |net: &mut Net, _, _: Via| {
        net.set_timer(Duration::ZERO);
    };
    let data = |net: &mut Net, conn, data: &[u8]| {
        net.pause_reading(conn);
        let _ = net.send(conn, data);
        data.len()
    };
    let timer = |net: &mut Net, _| {
        for conn in net.connections().collect::<Vec<_>>() {
            net.resume_reading(conn);
        }
        net.set_timer(Duration::from_millis(1));
    };
    let handler = Custom {
        open: Some(Box::new(open)),
        data: Some(Box::new(data)),
        timer: Some(Box::new(timer)),
        ..Custom::default()
    };
    let server = serve_tls(config, handler);
    let mut client = Client::ready(&server);
    let mut bytes = client.seal(&pattern(60_000));
    client.session.send_close_notify();
    bytes.extend(client.sealed());
    client.socket.write_all(&bytes).expect("a write");
    assert!(client.receive(60_000) == pattern(60_000));
    assert_eq!(client.receive_all(), (Vec::new(), true));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 60_000));
}

// A pause that is never ended: no more than a step is read ahead, let alone decrypted.
#[test]
fn a_paused_connection_keeps_no_more_than_a_read() {
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = Client::ready(&server);
    server.opened();
    let bytes = client.seal(&pattern(10 << 20));
    client.socket.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    assert!(client.socket.write_all(&bytes).is_err(), "it is held up");
    let stats = server.stats();
    assert_eq!((stats.bytes_in, stats.unused), (0, 0));
    assert!(server.events_so_far().is_empty());
}

#[test]
fn unused_input_waits_and_is_shown_with_what_follows() {
    // Frames of 30,000 bytes, whichever records they come in.
    let data = |net: &mut Net, conn, data: &[u8]| {
        let mut used = 0;
        while let Some(frame) = data.get(used..used + 30_000) {
            let _ = net.send(conn, frame);
            used += 30_000;
        }
        net.want(conn, 30_000).expect("it can be kept");
        used
    };
    let server = serve_tls(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = Client::ready(&server);
    for piece in pattern(90_000).chunks(7_000) {
        client.send(piece);
    }
    assert!(client.receive(90_000) == pattern(90_000));
}

#[test]
fn a_session_that_is_idle_does_not_turn_the_loop() {
    let server = serve(with_tickets(2), Echo);
    let clients: Vec<_> = (0..20).map(|_| Client::ready(&server)).collect();
    eventually("all are in", || server.stats().opened == 20);
    std::thread::sleep(Duration::from_millis(100));
    let before = server.stats().turns;
    std::thread::sleep(Duration::from_millis(500));
    // Those of the question itself.
    assert!(server.stats().turns - before <= 3);
    drop(clients);
}

#[test]
fn each_send_of_a_thousand_small_ones_arrives() {
    let server = serve_tls(Config::default(), Custom::default());
    let mut client = Client::ready(&server);
    let conn = server.opened();
    let sent = server.ask(move |net| {
        (0..1000u32).map(|n| net.send(conn, &n.to_be_bytes())).collect::<Result<Vec<_>, _>>()
    });
    assert!(sent.is_ok_and(|sent| sent.iter().all(|sent| *sent == Sent::Queued)));
    let expected: Vec<u8> = (0..1000u32).flat_map(u32::to_be_bytes).collect();
    assert!(client.receive(4000) == expected);
    let stats = server.stats();
    assert!(stats.writes <= 20, "gathered: {} writes", stats.writes);
}
