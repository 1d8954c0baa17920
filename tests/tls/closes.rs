//! Ends: of the session and of the stream, and what a missing one of them means.

use std::io::Write;
use std::time::Duration;

use unbroken::{CloseReason, Config};

use crate::peer::{configured, only, serve_tls, Client};
use crate::util::{pattern, reset, Custom, Echo, Event, SOON};

#[test]
fn an_end_of_the_stream_without_one_of_the_session_is_truncated_and_all_of_it_is_delivered() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    client.send(b"hello");
    client.socket.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let conn = server.opened();
    server.wait_for(SOON, |event| *event == Event::Data(conn, 5, 5));
    assert_eq!(server.event(), Event::Eof(conn));
    assert_eq!(client.receive_all(), (b"hello".to_vec(), true), "our end stays whole");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.saw_fin, report.received), (CloseReason::Truncated, false, 5));
    assert!(!report.reason.is_clean());
}

#[test]
fn an_end_in_the_middle_of_a_record_is_truncated() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    client.send(b"hello");
    let record = client.seal(b"world");
    client.socket.write_all(&record[..record.len() - 1]).expect("a write");
    client.socket.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(client.receive_all(), (b"hello".to_vec(), true));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Truncated, 5));
}

#[test]
fn a_missing_end_of_the_session_can_be_allowed() {
    let config = configured(|config| {
        config.allow_missing_close_notify = true;
    });
    let server = serve_tls(config, Echo);
    let client = Client::ready(&server);
    client.socket.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.saw_fin), (CloseReason::PeerClosed, true));
}

#[test]
fn a_reset_in_the_middle_of_a_record_is_a_reset() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    let record = client.seal(b"world");
    client.socket.write_all(&record[..9]).expect("a write");
    reset(client.socket);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Reset, 5));
}

#[test]
fn the_end_of_the_session_in_the_same_segment_as_data_comes_behind_it() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    let mut bytes = client.seal(&pattern(20_000));
    client.session.send_close_notify();
    bytes.extend(client.sealed());
    // What comes behind it is nobody's.
    bytes.extend_from_slice(&[99; 5_000]);
    client.socket.write_all(&bytes).expect("a write");
    assert_eq!(client.receive_all(), (pattern(20_000), true));
    client.socket.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 20_000), "{report}");
}

#[test]
fn our_direction_goes_on_when_the_peer_has_ended_its_session() {
    for version in ["1.2", "1.3"] {
        let handler = Custom {
            eof: Some(Box::new(|net, conn| {
                net.send(conn, &pattern(3 << 20)).expect("queued");
                net.close(conn);
            })),
            ..Custom::default()
        };
        let config = configured(|config| {
            config.max_write_buffer = 16 << 20;
        });
        let server = serve_tls(config, handler);
        let mut client = Client::with(&server, only(version));
        client.shake_hands();
        client.end();
        let (plain, ended) = client.receive_all();
        assert!(plain == pattern(3 << 20) && ended, "{} bytes", plain.len());
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.handed), (CloseReason::PeerClosed, 3 << 20));
    }
}

#[test]
fn a_close_ends_the_session_behind_the_queue_and_waits_for_the_peer() {
    let handler = Custom {
        open: Some(Box::new(|net, conn, _| {
            net.send(conn, &pattern(5 << 20)).expect("queued");
            net.close(conn);
        })),
        ..Custom::default()
    };
    let server = serve_tls(
        configured(|config| {
            config.max_write_buffer = 16 << 20;
        }),
        handler,
    );
    let mut client = Client::ready(&server);
    std::thread::sleep(Duration::from_millis(50));
    let (plain, ended) = client.receive_all();
    assert!(plain == pattern(5 << 20) && ended, "{} bytes", plain.len());
    assert!(!server.events_so_far().iter().any(|event| matches!(event, Event::Close(..))));
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.unacked), (CloseReason::Finished, 5 << 20, Some(0)));
}

// Many close at once when the session has ended: our own end then meets a closed socket.
#[test]
fn a_peer_that_closes_at_once_behind_its_end_of_the_session_has_closed_in_good_order() {
    for round in 0..50 {
        let server = serve_tls(Config::default(), Echo);
        let mut client = Client::ready(&server);
        client.send(b"hello");
        assert_eq!(client.receive(5), b"hello");
        client.session.send_close_notify();
        let bytes = client.sealed();
        client.socket.write_all(&bytes).expect("a write");
        drop(client);
        let (_, report) = server.closed();
        assert_eq!(report.reason, CloseReason::PeerClosed, "{round}: {report}");
    }
}

#[test]
fn a_damaged_record_ends_the_connection_behind_what_was_whole() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    let mut bytes = client.seal(b"whole");
    let mut damaged = client.seal(b"damaged");
    *damaged.last_mut().expect("a byte") ^= 1;
    bytes.extend(damaged);
    client.socket.write_all(&bytes).expect("a write");
    let conn = server.opened();
    assert_eq!(server.event(), Event::Data(conn, 5, 5));
    let (_, report) = server.closed_within(SOON);
    assert_eq!((report.reason, report.received), (CloseReason::Tls, 5), "{report}");
}

#[test]
fn what_a_client_that_only_writes_has_sent_is_all_delivered() {
    let server = serve_tls(Config::default(), Custom::default());
    for _ in 0..20 {
        let mut client = Client::ready(&server);
        for _ in 0..40 {
            client.send(&pattern(10_000));
        }
        client.session.send_close_notify();
        let bytes = client.sealed();
        client.socket.write_all(&bytes).expect("a write");
        drop(client);
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 400_000), "{report}");
    }
}
