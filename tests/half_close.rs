//! The two directions of a connection end one by one.

mod util;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

use unbroken::{CloseReason, Config, Net, SendError, State, Timeout, Via};
use util::{pattern, read_all, serve, Custom, Echo, Event};

// H1, H2
#[test]
fn a_client_that_ended_its_request_gets_the_whole_answer() {
    let mut request = 0;
    let data = move |net: &mut Net, conn, data: &[u8]| {
        request += data.len();
        if request == 7 {
            let _ = net.send_bytes(conn, pattern(1 << 20).into());
        }
        data.len()
    };
    let server = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = server.client();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(1 << 20));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.saw_fin), (CloseReason::PeerClosed, true));
    assert_eq!((report.handed, report.unsent, report.unacked), (1 << 20, 0, Some(0)));
}

// H3
#[test]
fn ten_megabytes_come_back_to_netcat() {
    if !util::have("nc") {
        return;
    }
    let server = serve(Config::default(), Echo);
    let mut nc = Command::new("nc")
        .args(["-N", "127.0.0.1", &server.addr.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = nc.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&pattern(10 << 20)).unwrap());
    let (got, error) = read_all(nc.stdout.as_mut().unwrap());
    writer.join().unwrap();
    assert!(nc.wait().unwrap().success());
    assert!(error.is_none() && got == pattern(10 << 20));
    assert_eq!(server.closed().1.reason, CloseReason::PeerClosed);
}

// H4
#[test]
fn after_close_write_input_still_comes_and_no_send_is_tried() {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send(conn, b"that is all");
        net.close_write(conn);
        assert_eq!(net.send(conn, b"no"), Err(SendError::WriteClosed));
        assert_eq!(net.state(conn), Some(State::HalfClosedLocal));
    };
    let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = server.client();
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == b"that is all");
    client.write_all(&pattern(1 << 20)).unwrap();
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 1 << 20));
    assert_eq!((report.errno, report.handed), (None, 11));
    assert_eq!(server.stats().writes, 1);
}

// H5
#[test]
fn both_may_end_at_once_and_that_is_no_error() {
    for _ in 0..50 {
        let open = |net: &mut Net, conn, _: Via| net.close_write(conn);
        let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = server.client();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client).0, b"");
        let (_, report) = server.closed();
        assert!(report.reason.is_clean() && report.errno.is_none(), "{report}");
    }
}

// H6
#[test]
fn a_peer_that_ended_and_does_not_read_is_not_waited_for_without_end() {
    let mut config = Config::default();
    // Its end is not seen while it is not read from, for it does not read itself.
    config.write_stall = Some(Duration::from_millis(300));
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send_bytes(conn, pattern(15_000_000).into());
        data.len()
    };
    let server = serve(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = server.client();
    client.write_all(b"go").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(report.lost_bytes());
    assert!(report.duration < Duration::from_secs(3));
}

#[test]
fn a_handler_may_answer_long_after_the_peers_end() {
    let eof = |net: &mut Net, _| {
        net.set_timer(Duration::from_millis(100));
    };
    let timer = |net: &mut Net, _| {
        let conns: Vec<_> = net.connections().collect();
        for conn in conns {
            let _ = net.send(conn, b"at last");
            net.close(conn);
        }
    };
    let handler = Custom { eof: Some(Box::new(eof)), timer: Some(Box::new(timer)), ..Custom::default() };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = [0; 7];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"at last");
    assert!(matches!(server.event(), Event::Open(..)));
    assert!(matches!(server.event(), Event::Eof(..)));
    assert_eq!(server.closed().1.reason, CloseReason::PeerClosed);
}

#[test]
fn half_a_connection_is_ended_when_nothing_comes_or_goes() {
    let mut config = Config::default();
    config.half_close_timeout = Some(Duration::from_millis(300));
    let server = serve(config, Custom { eof: Some(Box::new(|_, _| {})), ..Custom::default() });
    let whole = server.client();
    let half = server.client();
    half.shutdown(Shutdown::Write).unwrap();
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Idle));
    assert!(report.duration >= Duration::from_millis(300));
    assert_eq!(server.stats().connections, 1);
    drop(whole);
}
