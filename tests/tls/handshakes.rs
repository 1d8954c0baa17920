//! The handshake: a deadline, a budget, an alert, and nobody else's time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustls::ServerConnection;
use unbroken::{AtLimit, CloseReason, Config, Reactor, Side, Timeout, Tls};

use crate::example_tls as certificates;
use crate::peer::{client_config, configured, file, name, serve_tls, server_config, Client};
use crate::util::{eventually, read_all, serve, Custom, Echo, Event};

#[test]
fn what_is_no_tls_is_told_so_and_ends_with_the_alert_in_the_report() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = server.client();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("a write");
    let (answer, error) = read_all(&mut client);
    // An alert record: 21, a version, two bytes: fatal and what for.
    assert_eq!((answer.first(), answer.get(5), error.map(|e| e.kind())), (Some(&21), Some(&2), None));
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received, report.handed), (CloseReason::Tls, 0, 0));
    let alert = report.alert.expect("an alert");
    assert_eq!((alert.by, Some(&alert.code)), (Side::Local, answer.get(6)));
    assert!(report.tls_error.is_some(), "{report}");
    assert_eq!(server.stats().handshake_failures, 1);
}

#[test]
fn the_alert_reaches_a_client_that_is_still_writing() {
    let server = serve_tls(Config::default(), Echo);
    for _ in 0..20 {
        let mut client = server.client();
        let mut junk = vec![0; 300_000];
        junk[..5].copy_from_slice(&[22, 3, 1, 0, 200]);
        client.write_all(&junk).expect("it is read and thrown away");
        let _ = client.shutdown(std::net::Shutdown::Write);
        let (answer, error) = read_all(&mut client);
        assert_eq!((answer.first(), error.map(|error| error.kind())), (Some(&21), None));
        let (_, report) = server.closed();
        assert_eq!(report.reason, CloseReason::Tls);
        assert_eq!(server.events_so_far(), [], "no on_open");
    }
}

#[test]
fn a_client_that_objects_to_the_certificate_is_told_of_by_its_alert() {
    let server = serve_tls(Config::default(), Echo);
    let stranger = certificates::client(Some(&file("p256.cert.pem"))).expect("files");
    let mut client = Client::with(&server, stranger);
    let mut failed = false;
    while !failed {
        failed = client.session.complete_io(&mut client.socket).is_err();
    }
    let bytes = client.sealed();
    let _ = client.socket.write_all(&bytes);
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Tls);
    let alert = report.alert.expect("an alert");
    assert_eq!(alert.by, Side::Peer, "{report}");
}

#[test]
fn our_client_does_not_speak_to_a_server_that_it_does_not_trust() {
    let server = serve_tls(Config::default(), Echo);
    let ours = serve(Config::default(), Custom::default());
    let addr = server.addr;
    let tls = certificates::client(Some(&file("p256.cert.pem"))).expect("files");
    ours.ask(move |net| {
        let conn = net.connect_tls(addr, name(), tls).expect("connect");
        net.send(conn, b"secret").expect("queued");
    });
    let (_, report) = ours.closed();
    assert_eq!((report.reason, report.handed, report.unsent), (CloseReason::Tls, 0, 6));
    let alert = report.alert.expect("an alert");
    assert_eq!(alert.by, Side::Local, "{report}");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Tls, 0));
    let told = report.alert.expect("an alert");
    assert_eq!((told.by, told.code), (Side::Peer, alert.code), "as it went over the wire");
}

#[test]
fn our_client_and_our_server_speak_with_each_other_by_name() {
    let server = serve_tls(Config::default(), Echo);
    let handler = Custom {
        data: Some(Box::new(|net, conn, data| {
            net.close(conn);
            data.len()
        })),
        ..Custom::default()
    };
    let ours = serve(Config::default(), handler);
    let port = server.addr.port();
    ours.ask(move |net| {
        let conn = net.connect_tls(&format!("localhost:{port}"), name(), client_config()).expect("connect");
        net.send(conn, b"hello").expect("queued");
    });
    let (_, report) = ours.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 5), "{report}");
    assert_eq!((report.handed, report.unsent, report.unacked), (5, 0, Some(0)));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 5));
}

#[test]
fn a_handshake_that_stops_at_any_byte_ends_at_its_deadline() {
    let config = configured(|config| {
        config.handshake_timeout = Duration::from_millis(300);
    });
    let server = serve_tls(config, Echo);
    let hello = Client::of(&server).sealed();
    let mut stalled = Vec::new();
    let began = Instant::now();
    for part in (0..hello.len()).step_by(7) {
        let mut client = server.client();
        client.write_all(&hello[..part]).expect("a write");
        stalled.push(client);
    }
    // The one that made the hello has gone without a word.
    let gone = server.closed().1;
    assert_eq!(gone.reason, CloseReason::Truncated);
    for _ in &stalled {
        let (_, report) = server.closed();
        assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Handshake), "{report}");
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let stats = server.stats();
    assert_eq!((stats.handshaking, stats.connections, stats.opened), (0, 0, 0));
}

#[test]
fn an_end_and_a_reset_during_the_handshake_end_it() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::of(&server);
    let hello = client.sealed();
    client.socket.write_all(&hello[..50]).expect("a write");
    drop(client);
    assert_eq!(server.closed().1.reason, CloseReason::Truncated);
    let mut client = Client::of(&server);
    let hello = client.sealed();
    client.socket.write_all(&hello[..50]).expect("a write");
    server.wait_stats(|stats| stats.handshaking == 1);
    crate::util::reset(client.socket);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
}

#[test]
fn those_whose_handshake_stalls_give_their_place_to_others() {
    let config = configured(|config| {
        config.max_connections = Some(4);
        config.at_limit = AtLimit::Refuse;
    });
    let server = serve_tls(config, Echo);
    let stalled: Vec<_> = (0..4).map(|_| server.client()).collect();
    server.wait_stats(|stats| stats.handshaking == 4);
    std::thread::sleep(Duration::from_millis(1100));
    let mut client = Client::ready(&server);
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Handshake));
    let stats = server.stats();
    assert_eq!((stats.handshakes_shed, stats.handshaking, stats.handshakes), (1, 3, 1));
    drop(stalled);
}

#[test]
fn a_thousand_handshakes_at_once_do_not_keep_an_open_connection_waiting_and_do_not_spin() {
    let server = serve_tls(Config::default(), Echo);
    let mut client = Client::ready(&server);
    let mut crowd: Vec<_> = (0..300).map(|_| Client::of(&server)).collect();
    let mut worst = Duration::ZERO;
    for stranger in &mut crowd {
        let hello = stranger.sealed();
        stranger.socket.write_all(&hello).expect("a write");
    }
    for _ in 0..20 {
        let began = Instant::now();
        client.send(b"ping");
        client.receive(4);
        worst = worst.max(began.elapsed());
    }
    assert!(worst < Duration::from_millis(500), "{worst:?}");
    eventually("every handshake has begun", || server.stats().handshaking == 300);
    let turns_in = |millis| {
        let before = server.stats().turns;
        std::thread::sleep(Duration::from_millis(millis));
        server.stats().turns - before
    };
    // Each hello has been answered by then.
    eventually("nobody does anything", || turns_in(50) < 10);
    let turns = turns_in(200);
    assert!(turns < 30, "{turns} turns while all wait");
    for stranger in &mut crowd {
        stranger.shake_hands();
    }
    eventually("every handshake is done", || server.stats().handshakes == 301);
}

// CVE-2011-0411, CVE-2021-23222: what was slipped in behind STARTTLS must not be taken for what TLS brought.
#[test]
fn plaintext_behind_starttls_fails_as_a_record_and_is_shown_to_nobody() {
    let server = serve(Config::default(), starttls());
    let mut client = server.client();
    client.write_all(b"STARTTLS\nEVIL\n").expect("a write");
    let (answer, _) = read_all(&mut client);
    assert!(answer.starts_with(b"GO\n"), "{answer:?}");
    assert_eq!(answer.get(3), Some(&21), "an alert");
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Tls, "{report}");
    assert_eq!((report.handed, report.unsent), (3, 0), "the answer went out as it was");
}

// cpython#142352, uWebSockets#1714.
#[test]
fn a_hello_in_the_same_segment_as_what_comes_before_it_is_taken() {
    let server = serve(Config::default(), starttls());
    let mut client = Client::of(&server);
    let hello = client.sealed();
    client.socket.write_all(&[b"STARTTLS\n", &hello[..]].concat()).expect("a write");
    let mut go = [0; 3];
    client.socket.read_exact(&mut go).expect("the answer");
    assert_eq!(&go, b"GO\n");
    client.shake_hands();
    client.send(b"hello\n");
    assert_eq!(client.receive(6), b"hello\n");
    let events = server.events_so_far();
    let opens = events.iter().filter(|event| matches!(event, Event::Open(..))).count();
    assert_eq!(opens, 1);
}

/// A line at a time; one of them asks for TLS.
fn starttls() -> Custom {
    Custom {
        data: Some(Box::new(|net, conn, data| match data.strip_prefix(b"STARTTLS\n") {
            Some(_) => {
                net.send(conn, b"GO\n").expect("queued");
                net.start_tls(conn, Tls::Server(server_config())).expect("open");
                assert!(net.start_tls(conn, Tls::Server(server_config())).is_err(), "once is enough");
                9
            }
            None => {
                let _ = net.send(conn, data);
                data.len()
            }
        })),
        ..Custom::default()
    }
}

#[test]
fn our_client_goes_over_to_tls_behind_what_it_sent_before() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let ours = serve(Config::default(), Custom::default());
    ours.ask(move |net| {
        let conn = net.connect(addr).expect("connect");
        net.send(conn, b"PROXY\r\n").expect("queued");
        net.start_tls(conn, Tls::Client(client_config(), name())).expect("connecting");
        net.send(conn, b"hello").expect("queued");
    });
    let (mut socket, _) = listener.accept().expect("a client");
    let mut header = [0; 7];
    socket.read_exact(&mut header).expect("the header");
    assert_eq!(&header, b"PROXY\r\n");
    let mut session = ServerConnection::new(server_config()).expect("a session");
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    let mut plain = [0; 5];
    rustls::Stream::new(&mut session, &mut socket).read_exact(&mut plain).expect("plaintext");
    assert_eq!(&plain, b"hello");
    drop(socket);
    let (_, report) = ours.closed();
    assert_eq!((report.reason, report.handed), (CloseReason::Truncated, 12), "{report}");
}

#[test]
fn a_configuration_that_allows_no_handshake_is_refused_at_once() {
    let ours = serve(Config::default(), Custom::default());
    let none = ours.ask(|net| {
        let gone = net.connect("127.0.0.1:1").expect("connect");
        net.abort(gone);
        net.start_tls(gone, Tls::Server(server_config())).map_err(|error| error.kind())
    });
    assert_eq!(none, Err(std::io::ErrorKind::NotConnected));
}

#[test]
fn a_session_at_rest_has_no_deadline_left_of_its_handshake() {
    let mut reactor = Reactor::new(Config::default()).expect("a reactor");
    let listener = reactor.net().listen_tls("127.0.0.1:0", server_config()).expect("a port");
    let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp()).expect("an address");
    let client = std::thread::spawn(move || {
        let mut client = Client::on(TcpStream::connect(addr).expect("a connection"), client_config());
        client.shake_hands();
        client.send(b"hello");
        client.receive(5);
        client
    });
    while !client.is_finished() {
        reactor.turn(&mut Echo, Some(Duration::from_millis(1))).expect("a turn");
    }
    let _client = client.join().expect("a client");
    reactor.turn(&mut Echo, Some(Duration::ZERO)).expect("a turn");
    assert_eq!((reactor.net().stats().handshakes, reactor.next_timeout()), (1, None));
}

// No step of it is due before something has come: not from one turn to the next either.
#[test]
fn a_handshake_whose_peer_says_nothing_costs_no_turns() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let client = serve(Config::default(), Custom::default());
    client.ask(move |net| net.connect_tls(addr, name(), client_config()).map(drop).expect("connect"));
    let (_silent, _) = listener.accept().expect("it connects");
    client.wait_stats(|stats| stats.handshaking == 1);
    std::thread::sleep(Duration::from_millis(100));
    let before = client.stats().turns;
    std::thread::sleep(Duration::from_millis(300));
    let turns = client.stats().turns - before;
    // Those in which it is asked are among them.
    assert!(turns <= 10, "{turns} turns");
}
