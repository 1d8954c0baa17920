//! Broken pipes and resets, over TLS: what came before is delivered, and the first error is the reason.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use rustls::ClientConnection;
use unbroken::{CloseReason, CloseReport, Config, Net, SendError, State, Via};

use crate::peer::{client_config, name, serve_tls, server_config, Client};
use crate::util::{have, pattern, reset, serve_with, skip, Custom, Echo, Event, Server, Sink, SOON};

/// How much was shown before the report, the report, and whether an end was told.
fn received_before_close(server: &Server) -> (usize, CloseReport, bool) {
    let (mut shown, mut eof) = (0, false);
    loop {
        match server.event() {
            Event::Data(_, count, _) => shown += count,
            Event::Eof(_) => eof = true,
            Event::Close(_, report) => return (shown, report, eof),
            _ => {}
        }
    }
}

// R1
#[test]
fn an_idle_connection_that_is_reset_is_reported_once() {
    let server = serve_tls(Config::default(), Sink);
    let client = Client::ready(&server);
    server.opened();
    reset(client.socket);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert!(!report.saw_fin);
    server.stats();
    assert_eq!(server.events_so_far(), []);
}

// R2
#[test]
fn what_came_before_a_reset_is_delivered() {
    let server = serve_tls(Config::default(), Sink);
    let mut client = Client::ready(&server);
    client.send(&pattern(100_000));
    reset(client.socket);
    let (shown, report, eof) = received_before_close(&server);
    assert_eq!((shown, report.received, eof), (100_000, 100_000, false));
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
}

// R3: the write meets the error first, and the kernel shows the read a clean end.
#[test]
fn a_write_that_meets_the_reset_first_does_not_hide_what_came_before() {
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = Client::ready(&server);
    let conn = server.opened();
    client.send(&pattern(100_000));
    reset(client.socket);
    std::thread::sleep(Duration::from_millis(20));
    server.ask(move |net| {
        // Large enough to be written at once: the error is taken by this write.
        assert!(net.send(conn, &[1; 50_000]).is_ok());
        assert_eq!(net.send(conn, b"more"), Err(SendError::Closed));
        net.resume_reading(conn);
    });
    let (shown, report, eof) = received_before_close(&server);
    assert_eq!((shown, eof), (100_000, false));
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert_eq!((report.handed, report.unsent, report.saw_fin), (0, 50_000, false));
}

// R4: with and without an end of the session.
#[test]
fn the_first_reply_to_a_peer_that_closed_succeeds_and_its_loss_is_counted() {
    for ends in [true, false] {
        let eof = |net: &mut Net, _| {
            net.set_timer(Duration::from_millis(50));
        };
        let data = |net: &mut Net, conn, data: &[u8]| {
            let _ = net.send(conn, &[8; 1000]);
            data.len()
        };
        let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
        let handler = Custom {
            open: Some(Box::new(open)),
            data: Some(Box::new(data)),
            eof: Some(Box::new(eof)),
            ..Custom::default()
        };
        let server = serve_tls(Config::default(), handler);
        let mut client = Client::ready(&server);
        let conn = server.opened();
        client.send(b"request");
        if ends {
            client.end();
        }
        drop(client);
        server.ask(move |net| net.resume_reading(conn));
        let (shown, report, _) = received_before_close(&server);
        assert_eq!(shown, 7);
        assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)), "{ends}");
        assert_eq!(report.saw_fin, ends, "{report}");
        assert_eq!((report.handed, report.unacked), (1000, Some(1000)));
    }
}

// R5
#[test]
fn a_reset_behind_the_end_of_the_stream_is_not_a_clean_end() {
    let handler = Custom { eof: Some(Box::new(|_, _| {})), ..Custom::default() };
    let server = serve_tls(Config::default(), handler);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    client.send(b"abc");
    client.end();
    server.wait_for(SOON, |event| matches!(event, Event::Eof(_)));
    assert_eq!(server.ask(move |net| net.state(conn)), Some(State::HalfClosedRemote));
    reset(client.socket);
    let (_, report) = server.closed();
    assert!(matches!(report.reason, CloseReason::ResetAfterFin), "{report}");
    assert!(report.saw_fin && !report.lost_bytes());
}

// R6
#[test]
fn a_client_that_closes_in_the_middle_of_a_reply_is_a_reset_with_an_account() {
    const LEN: usize = 8_000_000;
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, pattern(LEN).into());
    };
    let server = serve_tls(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = Client::ready(&server);
    client.receive(10_000);
    server.wait_stats(|stats| stats.write_eagains > 0);
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Reset);
    assert_eq!(report.handed + report.unsent, LEN as u64);
    // At least the record that it read from was acknowledged; more than that, `unacked` may overstate.
    assert!(report.unacked.is_some_and(|unacked| unacked > 0), "{report}");
}

// R7, R8
#[test]
fn a_send_from_on_close_and_after_it_is_refused() {
    let (answer, answers) = mpsc::channel();
    let close = move |net: &mut Net, conn, _: &CloseReport| {
        let _ = answer.send(net.send(conn, b"late"));
    };
    let server = serve_tls(Config::default(), Custom { close: Some(Box::new(close)), ..Custom::default() });
    drop(Client::ready(&server));
    assert_eq!(answers.recv_timeout(SOON), Ok(Err(SendError::Closed)));
    let (conn, _) = server.closed();
    assert_eq!(server.ask(move |net| net.send(conn, b"later")), Err(SendError::Closed));
    assert!(server.ask(move |net| net.tls(conn).is_none()));
}

// R10: at every stage of a session.
#[test]
fn hundreds_of_resets_at_any_moment_cost_one_report_each() {
    let server = serve_tls(Config::default(), Echo);
    let mut bystander = Client::ready(&server);
    for round in 0..300 {
        let mut client = Client::of(&server);
        let hello = client.sealed();
        match round % 6 {
            0 => {}
            1 => client.socket.write_all(&hello[..round / 3]).expect("a write"),
            2 => client.socket.write_all(&hello).expect("a write"),
            stage => {
                client.session.write_tls(&mut std::io::sink()).ok();
                client = Client::ready(&server);
                let record = client.seal(&pattern(20_000));
                let part = if stage == 3 { 0 } else { record.len() / (stage - 3) };
                client.socket.write_all(&record[..part]).expect("a write");
            }
        }
        match round % 3 {
            0 => drop(client),
            1 => reset(client.socket),
            _ => client.socket.shutdown(Shutdown::Both).expect("shutdown"),
        }
        if round % 20 == 0 {
            bystander.send(b"ping");
            assert_eq!(bystander.receive(4), b"ping");
        }
    }
    let stats = server.wait_stats(|stats| stats.connections == 1);
    assert_eq!(stats.closed, stats.accepted - 1);
    assert_eq!((stats.handshaking, stats.queued, stats.unused), (0, 0, 0));
    let closes = server.events_so_far().iter().filter(|event| matches!(event, Event::Close(..))).count();
    assert_eq!(closes as u64, stats.closed);
}

// R11
#[test]
fn a_closed_port_is_a_failed_connect_and_no_handshake() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let server = serve_tls(Config::default(), Sink);
    server.ask(move |net| {
        let conn = net.connect_tls(closed, name(), client_config()).expect("it fails later");
        net.send(conn, b"queued").expect("queued");
    });
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, Some(libc::ECONNREFUSED)));
    assert_eq!((report.unsent, report.handed), (6, 0));
    assert_eq!(server.stats().handshake_failures, 0);
}

struct UnixClient {
    session: ClientConnection,
    socket: UnixStream,
}

fn unix(name_of_it: &str, handler: Custom) -> (Server, PathBuf) {
    let path = std::env::temp_dir().join(format!("unbroken-tls-{name_of_it}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listen = path.clone();
    let server = serve_with(Config::default(), handler, move |net| {
        net.listen_tls(listen, server_config()).expect("a path");
    });
    (server, path)
}

fn unix_client(path: &PathBuf) -> UnixClient {
    let mut socket = UnixStream::connect(path).expect("connect");
    socket.set_read_timeout(Some(SOON)).expect("timeout");
    let mut session = ClientConnection::new(client_config(), name()).expect("a session");
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    UnixClient { session, socket }
}

// R12, C27: the write says EPIPE, and the read still keeps its ECONNRESET.
#[test]
fn a_unix_peer_that_closed_with_our_data_unread_is_a_reset() {
    let open = |net: &mut Net, conn, _: Via| {
        net.pause_reading(conn);
        let _ = net.send(conn, b"unread");
    };
    let (server, path) = unix("reset", Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = unix_client(&path);
    let conn = server.opened();
    client.session.writer().write_all(b"abc").expect("memory");
    client.session.write_tls(&mut client.socket).expect("a write");
    server.wait_stats(|stats| stats.bytes_out == 6);
    drop(client.socket);
    server.ask(move |net| {
        let _ = net.send(conn, &[0; 20_000]);
        net.resume_reading(conn);
    });
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)), "{report}");
    assert_eq!((report.received, report.unsent), (3, 20_000));
    let _ = std::fs::remove_file(path);
}

// R12, C26; R14, C28
#[test]
fn a_unix_peer_that_reads_no_more_breaks_the_pipe_at_the_first_write() {
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, data);
        data.len()
    };
    let (server, path) = unix("shut", Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = unix_client(&path);
    client.socket.shutdown(Shutdown::Read).expect("shutdown");
    client.session.writer().write_all(b"answer me").expect("memory");
    client.session.write_tls(&mut client.socket).expect("a write");
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    assert_eq!((report.received, report.unsent, report.saw_fin), (9, 9, false));
    let _ = std::fs::remove_file(path);
}

#[test]
fn our_client_and_our_server_speak_over_a_unix_socket() {
    let (server, path) = unix(
        "both",
        Custom {
            data: Some(Box::new(|net, conn, data| {
                let _ = net.send(conn, data);
                data.len()
            })),
            ..Custom::default()
        },
    );
    let target = path.clone();
    let mut left = 3 << 20;
    let ours = serve_with(
        Config::default(),
        Custom {
            data: Some(Box::new(move |net, conn, data| {
                left -= data.len();
                if left == 0 {
                    net.close(conn);
                }
                data.len()
            })),
            ..Custom::default()
        },
        move |net| {
            let conn = net.connect_tls(target, name(), client_config()).expect("connect");
            net.send_bytes(conn, pattern(3 << 20).into()).expect("queued");
        },
    );
    let (_, report) = ours.closed();
    assert_eq!((report.reason, report.handed, report.received), (CloseReason::Finished, 3 << 20, 3 << 20));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 3 << 20), "{report}");
    let _ = std::fs::remove_file(path);
}

// R13
#[test]
fn a_connection_killed_by_an_administrator_is_told_apart() {
    if !have("ss") {
        return;
    }
    let server = serve_tls(Config::default(), Sink);
    let client = Client::ready(&server);
    server.opened();
    let port = client.socket.local_addr().expect("an address").port().to_string();
    // The server's end: its peer is the client's port.
    let killed = Command::new("ss").args(["-K", "dst", "127.0.0.1", "dport", "=", &port]).output();
    let Some(Event::Close(_, report)) = server.event_within(Duration::from_secs(2)) else {
        let error = String::from_utf8_lossy(&killed.expect("it runs").stderr).trim().to_owned();
        return skip("root and a kernel with socket destruction", &error);
    };
    assert_eq!((report.reason, report.errno), (CloseReason::KernelAborted, Some(libc::ECONNABORTED)));
}

// R15, C24
#[test]
fn a_client_that_resets_before_it_is_accepted_is_still_reported() {
    let wake = |_: &mut Net| std::thread::sleep(Duration::from_millis(200));
    let server = serve_tls(Config::default(), Custom { wake: Some(Box::new(wake)), ..Custom::default() });
    server.handle.wake().expect("it runs");
    std::thread::sleep(Duration::from_millis(50));
    let mut client = Client::of(&server);
    let hello = client.sealed();
    client.socket.write_all(&hello).expect("a write");
    reset(client.socket);
    let (shown, report, eof) = received_before_close(&server);
    assert_eq!((shown, eof, report.received, report.reason), (0, false, 0, CloseReason::Reset));
    let mut client = Client::ready(&server);
    client.end();
    drop(client);
    assert_eq!(server.closed().1.reason, CloseReason::PeerClosed);
}
