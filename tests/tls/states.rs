//! What a program may do to a connection while its handshake is under way, or to one that is to have one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, setrlimit, Resource};
use unbroken::{
    Answer, Bytes, CloseReason, Config, ConnId, Handler, Net, Reactor, Resolve, State, Timeout, Via,
};

use crate::peer::{client_config, configured, name, serve_tls, server_config, Client};
use crate::util::{
    again, patient, pattern, read_all, role, serve, serve_with, Custom, Echo, Event, Server, SOON,
};

fn handshaking(server: &Server) -> ConnId {
    server.wait_stats(|stats| stats.handshaking == 1);
    let mut ids = server.ask(|net| {
        net.connections().filter(|id| net.state(*id) == Some(State::Handshaking)).collect::<Vec<_>>()
    });
    ids.pop().expect("one")
}

#[test]
fn what_was_sent_before_a_close_in_a_handshake_is_delivered() {
    let server = serve_tls(Config::default(), Custom::default());
    let mut client = Client::of(&server);
    let conn = handshaking(&server);
    server.ask(move |net| {
        net.send(conn, b"farewell").expect("queued");
        net.close(conn);
        assert!(net.send(conn, b"more").is_err());
    });
    client.shake_hands();
    assert_eq!(client.receive_all(), (b"farewell".to_vec(), true));
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.unsent), (CloseReason::Finished, 8, 0), "{report}");
}

#[test]
fn a_close_write_in_a_handshake_ends_our_direction_behind_it() {
    let server = serve_tls(Config::default(), Custom::default());
    let mut client = Client::of(&server);
    let conn = handshaking(&server);
    server.ask(move |net| {
        net.send(conn, b"all").expect("queued");
        net.close_write(conn);
    });
    client.shake_hands();
    assert_eq!(client.receive_all(), (b"all".to_vec(), true));
    client.send(b"heard");
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received, report.handed), (CloseReason::Finished, 5, 3), "{report}");
}

#[test]
fn an_abort_in_a_handshake_is_a_reset_and_its_queue_unsent() {
    let server = serve_tls(Config::default(), Custom::default());
    let mut client = server.client();
    let conn = handshaking(&server);
    server.ask(move |net| {
        net.send_bytes(conn, Bytes::from(vec![1; 50_000])).expect("queued");
        net.abort(conn);
    });
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.unsent), (CloseReason::Aborted, 0, 50_000));
    assert!(read_all(&mut client).1.is_some());
    assert_eq!((server.stats().handshaking, server.stats().queued), (0, 0));
}

#[test]
fn a_shutdown_takes_handshakes_along() {
    let server = serve_tls(Config::default(), Custom::default());
    let mut silent = server.client();
    let mut busy = Client::of(&server);
    server.wait_stats(|stats| stats.handshaking == 2);
    let conns: Vec<_> = server.ask(|net| net.connections().collect());
    for conn in conns {
        server.ask(move |net| net.send(conn, b"in time")).expect("queued");
    }
    server.handle.shutdown(Duration::from_millis(800)).expect("it runs");
    busy.shake_hands();
    assert_eq!(busy.receive_all(), (b"in time".to_vec(), true));
    busy.end();
    let (_, first) = server.closed();
    assert_eq!((first.reason, first.handed), (CloseReason::Finished, 7), "{first}");
    let (_, second) = server.closed();
    assert_eq!((second.reason, second.unsent), (CloseReason::Shutdown, 7), "{second}");
    let _ = silent.read(&mut [0; 100]);
    server.join().expect("no error");
}

#[test]
fn a_shutdown_ends_clients_that_have_not_said_hello_yet_in_good_order() {
    let server = serve_tls(Config::default(), Echo);
    let mut clients: Vec<_> = (0..10).map(|_| Client::of(&server)).collect();
    server.handle.shutdown(SOON).expect("it runs");
    for client in &mut clients {
        let hello = client.sealed();
        client.socket.write_all(&hello).expect("a write");
        let (answer, error) = read_all(&mut client.socket);
        assert_eq!((answer, error.map(|error| error.kind())), (vec![21, 3, 3, 0, 2, 1, 0], None));
    }
    drop(clients);
    for _ in 0..10 {
        let (_, report) = server.closed();
        assert!(report.reason.is_clean(), "{report}");
    }
    server.join().expect("no error");
}

#[test]
fn a_handler_that_panics_in_on_open_costs_its_connection_only() {
    let config = configured(|config| {
        config.catch_panics = true;
    });
    let mut opened = 0;
    let open = move |_: &mut Net, _, _: Via| {
        opened += 1;
        assert!(opened != 2, "as planned");
    };
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, data);
        data.len()
    };
    let handler = Custom { open: Some(Box::new(open)), data: Some(Box::new(data)), ..Custom::default() };
    let server = serve_tls(config, handler);
    let mut clients: Vec<_> = (0..4).map(|_| Client::of(&server)).collect();
    for client in &mut clients {
        client.shake_hands();
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::HandlerPanic);
    let mut served = 0;
    for client in &mut clients {
        let record = client.seal(b"ping");
        if client.socket.write_all(&record).is_ok()
            && client.session.read_tls(&mut client.socket).is_ok_and(|n| n > 0)
        {
            served += 1;
        }
    }
    assert_eq!(served, 3);
}

#[test]
fn a_broadcast_reaches_those_who_are_still_shaking_hands() {
    let server = serve_tls(Config::default(), Custom::default());
    let mut ready = Client::ready(&server);
    let mut late = Client::of(&server);
    handshaking(&server);
    let outcome = server.ask(|net| {
        let all: Vec<_> = net.connections().collect();
        net.broadcast(all, Bytes::from(pattern(100_000)))
    });
    assert_eq!((outcome.queued, outcome.failed), (2, 0));
    late.shake_hands();
    assert!(late.receive(100_000) == pattern(100_000));
    assert!(ready.receive(100_000) == pattern(100_000));
}

// The common budget: what waits for a handshake counts, and goes first when it has waited.
#[test]
fn a_queue_that_waits_for_a_handshake_gives_way_to_a_healthy_receiver() {
    let config = configured(|config| {
        config.total_write_buffer = 1 << 20;
        config.max_write_buffer = 1 << 20;
    });
    let server = serve_tls(config, Custom::default());
    let mut ready = Client::ready(&server);
    let good = server.opened();
    let _silent = server.client();
    let stalled = handshaking(&server);
    server.ask(move |net| net.send_bytes(stalled, Bytes::from(vec![0; 600_000]))).expect("queued");
    std::thread::sleep(Duration::from_millis(50));
    server.ask(move |net| net.send_bytes(good, Bytes::from(pattern(600_000)))).expect("there is room again");
    let (conn, report) = server.closed();
    assert_eq!((conn, report.reason, report.unsent), (stalled, CloseReason::SlowConsumer, 600_000));
    assert!(ready.receive(600_000) == pattern(600_000));
}

// Descriptors run out, and those who hold them have nothing to say. In a process of its own.
#[test]
fn a_stalled_handshake_gives_its_descriptor_to_a_client_that_speaks() {
    const NAME: &str = "states::a_stalled_handshake_gives_its_descriptor_to_a_client_that_speaks";
    if role().is_some() {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(40);
        setrlimit(Resource::Nofile, limit).expect("less is allowed");
        let mut reactor = Reactor::new(Config::default()).expect("a reactor");
        let listener = reactor.net().listen_tls("127.0.0.1:0", server_config()).expect("a port");
        println!("{}", reactor.net().local_addr(listener).expect("an address"));
        return reactor.run(&mut Echo).expect("no error");
    }
    let mut child = again(NAME, "starved").stdout(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let addr = loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).expect("output") > 0, "the child ended early");
        if let Ok(addr) = line.split_whitespace().last().unwrap_or_default().parse::<SocketAddr>() {
            break addr;
        }
    };
    let connect = || {
        let stream = TcpStream::connect(addr).expect("connect");
        patient(&stream);
        stream
    };
    let _stalled: Vec<_> = (0..60).map(|_| connect()).collect();
    let mut client = Client::on(connect(), client_config());
    client.shake_hands();
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
}

// A callback that takes long is no fault of those who shake hands meanwhile.
#[test]
fn a_handshake_has_its_time_however_long_a_callback_takes() {
    let config = configured(|config| {
        config.handshake_timeout = Duration::from_millis(400);
    });
    let server = serve_tls(config, Echo);
    let mut client = Client::of(&server);
    handshaking(&server);
    server.ask(|_| std::thread::sleep(Duration::from_millis(700)));
    client.shake_hands();
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
}

// It stops before its last flight.
#[test]
fn a_handshake_that_stops_in_the_middle_ends_at_its_deadline() {
    let config = configured(|config| {
        config.handshake_timeout = Duration::from_millis(300);
    });
    let server = serve_tls(config, Echo);
    let mut stalled = Vec::new();
    for part in [0, 1, 10, 50] {
        let (mut client, finished) = Client::at_the_end_of_its_handshake(&server);
        client.socket.write_all(&finished[..part]).expect("a write");
        stalled.push(client);
    }
    for _ in &stalled {
        let (_, report) = server.closed();
        assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Handshake), "{report}");
    }
    assert_eq!(server.stats().opened, 0);
}

#[test]
fn a_listener_takes_another_configuration_for_those_who_come_then() {
    let server = serve_tls(Config::default(), Echo);
    let mut before = Client::ready(&server);
    let Event::Open(_, Via::Listener(listener)) = server.event() else { panic!("it is open") };
    let other = crate::example_tls::server(
        &crate::peer::file("p256.cert.pem"),
        &crate::peer::file("p256.key.pem"),
        &[],
    )
    .expect("files");
    server.ask(move |net| net.set_tls(listener, other));
    before.send(b"still");
    assert_eq!(before.receive(5), b"still");
    let trusting = crate::example_tls::client(Some(&crate::peer::file("p256.cert.pem"))).expect("files");
    let mut after = Client::with(&server, trusting);
    after.shake_hands();
    after.send(b"hello");
    assert_eq!(after.receive(5), b"hello");
}

/// The first of two addresses refuses, and the second answers.
struct Two(u16, u16);

impl Resolve for Two {
    fn resolve(&self, _: &str, _: u16, answer: Answer) {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        answer.send(Ok(vec![local(self.0), local(self.1)]));
    }
}

struct Once(Option<unbroken::CloseReport>);

impl Handler for Once {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        net.close(conn);
        data.len()
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &unbroken::CloseReport) {
        self.0 = Some(report.clone());
    }
}

#[test]
fn a_host_with_two_addresses_is_reached_over_tls_by_the_one_that_answers() {
    let server = serve_tls(Config::default(), Echo);
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let mut reactor = Reactor::new(Config::default()).expect("a reactor");
    reactor.set_resolver(Box::new(Two(closed.port(), server.addr.port())));
    let conn = reactor.net().connect_tls("host.example:1", name(), client_config()).expect("connect");
    reactor.net().send(conn, b"hello").expect("queued");
    let mut once = Once(None);
    let began = Instant::now();
    while once.0.is_none() {
        assert!(began.elapsed() < SOON);
        reactor.turn(&mut once, Some(Duration::from_millis(20))).expect("a turn");
    }
    let report = once.0.expect("a report");
    assert_eq!((report.reason, report.received, report.handed), (CloseReason::Finished, 5, 5), "{report}");
    assert_eq!(report.attempts.len(), 1);
}

// A connection that is closed before it is established never had a session.
#[test]
fn a_connect_that_is_given_up_leaves_no_session_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let server = serve_with(Config::default(), Custom::default(), |_| {});
    server.ask(move |net| {
        for round in 0..20 {
            let conn = net.connect_tls(addr, name(), client_config()).expect("connect");
            match round % 2 {
                0 => net.close(conn),
                _ => net.abort(conn),
            }
            assert!(net.tls(conn).is_none());
        }
    });
    for _ in 0..20 {
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.handed), (CloseReason::Aborted, 0), "{report}");
    }
    assert_eq!(server.stats().handshaking, 0);
}

// What is not told otherwise closes then.
#[test]
fn a_deadline_of_the_handlers_own_comes_during_a_handshake() {
    let config = configured(|config| {
        config.linger_idle = Duration::from_millis(100);
    });
    let server = serve_tls(config, Custom::default());
    let _client = server.client();
    let conn = handshaking(&server);
    server.ask(move |net| net.set_deadline(conn, Duration::from_millis(50)));
    let (_, report) = server.closed_within(Duration::from_secs(5));
    assert!(report.duration >= Duration::from_millis(50), "{report}");
    assert_eq!(server.stats().handshaking, 0);
}

#[test]
fn our_client_ends_with_the_alert_of_a_server_that_turns_it_down() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let server = serve(Config::default(), Custom::default());
    server.ask(move |net| {
        net.connect_tls(addr, name(), client_config()).expect("connect");
    });
    let (mut socket, _) = listener.accept().expect("a client");
    patient(&socket);
    // `handshake_failure`, and the end.
    socket.write_all(&[21, 3, 3, 0, 2, 2, 40]).expect("a write");
    let _ = socket.read(&mut [0; 1000]);
    drop(socket);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Tls);
    let alert = report.alert.expect("an alert");
    assert_eq!((alert.by, alert.code), (unbroken::Side::Peer, 40), "{report}");
}
