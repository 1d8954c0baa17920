//! Going over to TLS, in whatever state a connection is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use unbroken::{CloseReason, Config, ConnId, Net, State, Tls};

use crate::peer::{client_config, configured, server_config, Client};
use crate::util::{pattern, serve, Custom, Event, Server, SOON};

fn plain_server(handler: Custom) -> (Server, TcpStream, ConnId) {
    let server = serve(Config::default(), handler);
    let client = server.client();
    let conn = server.opened();
    (server, client, conn)
}

fn speaks_tls(socket: TcpStream) -> Client {
    let mut client = Client::on(socket, client_config());
    client.shake_hands();
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    client
}

fn echo() -> Custom {
    Custom {
        data: Some(Box::new(|net, conn, data| {
            let _ = net.send(conn, data);
            data.len()
        })),
        ..Custom::default()
    }
}

#[test]
fn tls_can_be_started_from_outside_of_any_callback() {
    let (server, socket, conn) = plain_server(echo());
    server.ask(move |net| net.start_tls(conn, Tls::Server(server_config()))).expect("it is open");
    let _client = speaks_tls(socket);
    assert!(server.ask(move |net| net.tls(conn).is_some()));
}

#[test]
fn tls_can_be_started_during_a_pause_which_goes_on_behind_it() {
    let (server, socket, conn) = plain_server(echo());
    server
        .ask(move |net| {
            net.pause_reading(conn);
            net.start_tls(conn, Tls::Server(server_config()))
        })
        .expect("it is open");
    let mut client = Client::on(socket, client_config());
    client.shake_hands();
    client.send(b"hello");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!server.events_so_far().iter().any(|event| matches!(event, Event::Data(..))));
    server.ask(move |net| net.resume_reading(conn));
    assert_eq!(client.receive(5), b"hello");
}

#[test]
fn tls_can_be_started_over_unused_input_and_a_want() {
    // The hello lies unused when it is asked for.
    let data = |net: &mut Net, conn, data: &[u8]| {
        if net.tls(conn).is_some() {
            let _ = net.send(conn, data);
            return data.len();
        }
        net.want(conn, 20_000).expect("it can be kept");
        0
    };
    let (server, mut socket, conn) = plain_server(Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = Client::on(socket.try_clone().expect("a clone"), client_config());
    let hello = client.sealed();
    socket.write_all(&hello).expect("a write");
    server.wait_for(SOON, |event| matches!(event, Event::Data(..)));
    server.ask(move |net| net.start_tls(conn, Tls::Server(server_config()))).expect("it is open");
    client.shake_hands();
    client.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    assert_eq!(server.stats().unused, 0);
}

// More than the kernel takes is queued in the clear: all of it comes first.
#[test]
fn tls_that_is_started_over_a_long_queue_comes_behind_it() {
    let (server, mut socket, conn) = plain_server(echo());
    server.ask(move |net| {
        net.send_bytes(conn, pattern(6 << 20).into()).expect("queued");
        net.start_tls(conn, Tls::Server(server_config())).expect("it is open");
        net.send(conn, b"sealed").expect("queued");
    });
    let mut clear = vec![0; 6 << 20];
    socket.read_exact(&mut clear).expect("the clear");
    assert!(clear == pattern(6 << 20));
    let mut client = Client::on(socket, client_config());
    client.shake_hands();
    assert_eq!(client.receive(6), b"sealed");
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.handed, report.unacked, report.unsent), ((6 << 20) + 6, Some(0), 0), "{report}");
}

#[test]
fn tls_can_be_started_on_a_drain() {
    let config = configured(|config| {
        config.high_water = 2000;
        config.low_water = 1000;
    });
    let handler = Custom {
        drain: Some(Box::new(|net, conn| {
            if net.tls(conn).is_none() && net.state(conn) == Some(State::Open) {
                net.start_tls(conn, Tls::Server(server_config())).expect("it is open");
            }
        })),
        ..echo()
    };
    let server = serve(config, handler);
    let mut socket = server.client();
    let conn = server.opened();
    server.ask(move |net| net.send(conn, &[7; 3000])).expect("queued");
    socket.read_exact(&mut [0; 3000]).expect("the clear");
    speaks_tls(socket);
}

#[test]
fn a_connection_that_goes_over_and_closes_at_once_sends_its_answer_in_the_clear() {
    let handler = Custom {
        data: Some(Box::new(|net, conn, data| {
            net.send(conn, b"GO\n").expect("queued");
            net.start_tls(conn, Tls::Server(server_config())).expect("it is open");
            net.abort(conn);
            assert!(net.start_tls(conn, Tls::Server(server_config())).is_err());
            data.len()
        })),
        ..Custom::default()
    };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    client.write_all(b"STARTTLS\n").expect("a write");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed + report.unsent), (CloseReason::Aborted, 3));
    assert_eq!(server.stats().handshaking, 0);
}
