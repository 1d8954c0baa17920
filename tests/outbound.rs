//! Outbound connections: queued while connecting, open only when they are, every failure reported.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use unbroken::{Addr, CloseReason, Config, Net, SendError, State, Timeout, Via};
use util::{pattern, read_all, serve, Echo, Event, Server, Sink};

fn connect(server: &Server, addr: impl Into<Addr>) -> unbroken::ConnId {
    let addr = addr.into();
    server.ask(move |net| net.connect(addr).unwrap())
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn temp_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("unbroken-{name}-{}.sock", std::process::id()))
}

// R11: the pending error is asked for before the connection counts as open.
#[test]
fn a_refused_connection_never_opens() {
    let server = serve(Config::default(), Sink);
    let conn = connect(&server, free_port());
    let _ = server.ask(move |net| net.send(conn, b"hello"));
    let Event::Close(closed, report) = server.event() else { panic!("it opened") };
    assert_eq!((closed, report.reason), (conn, CloseReason::ConnectFailed));
    assert_eq!(report.errno, Some(libc::ECONNREFUSED));
    assert_eq!((report.handed, report.unacked), (0, Some(0)));
    assert_eq!(server.stats().opened, 0);
}

#[test]
fn what_the_system_refuses_at_once_is_reported_like_the_rest() {
    let server = serve(Config::default(), Sink);
    // A broadcast address takes no TCP connection: connect itself fails.
    let conn = connect(&server, SocketAddr::from(([255, 255, 255, 255], 9)));
    let Event::Close(closed, report) = server.event() else { panic!("it opened") };
    assert_eq!((closed, report.reason), (conn, CloseReason::ConnectFailed));
    assert!(report.errno.is_some());
}

#[test]
fn a_text_that_is_no_address_is_an_error_at_once() {
    let server = serve(Config::default(), Sink);
    let (error, connects) = server.ask(|net| {
        let error = net.connect("nowhere").map_err(|error| error.kind());
        (error.err(), net.stats().connects)
    });
    assert_eq!((error, connects), (Some(ErrorKind::InvalidInput), 0));
}

// D12, C20
#[test]
fn a_connection_to_a_full_backlog_times_out_when_so_configured() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let fill: Vec<_> = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr.into());
            socket
        })
        .collect();
    let mut config = Config::default();
    config.connect_timeout = Duration::from_millis(400);
    let server = serve(config, Sink);
    let begin = Instant::now();
    let conn = connect(&server, addr);
    let _ = server.ask(move |net| net.send(conn, b"queued"));
    let (_, report) = server.closed();
    let took = begin.elapsed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Connect));
    assert_eq!((report.errno, report.unsent), (None, 6));
    assert!(took >= Duration::from_millis(390) && took < Duration::from_millis(1500), "{took:?}");
    drop(fill);
}

// H7
#[test]
fn a_peer_that_ends_while_we_connect_and_write_is_a_close_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::thread::spawn({
        let listener = listener.try_clone().unwrap();
        move || {
            let (mut stream, _) = listener.accept().unwrap();
            util::patient(&stream);
            stream.write_all(b"greeting").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            read_all(&mut stream).0
        }
    });
    let server = serve(Config::default(), Sink);
    let addr = listener.local_addr().unwrap();
    // In one go: by the next call the peer may have ended, and the default answer is to close.
    let conn = server.ask(move |net| {
        let conn = net.connect(addr).unwrap();
        assert!(net.send(conn, &pattern(100_000)).is_ok());
        conn
    });
    assert_eq!(server.event(), Event::Open(conn, Via::Connect));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 8));
    assert!(peer.join().unwrap() == pattern(100_000));
}

#[test]
fn a_close_while_connecting_gives_up_unless_something_is_queued() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = serve(Config::default(), Sink);
    server.ask(move |net| {
        let nothing = net.connect(addr).unwrap();
        net.close(nothing);
        let something = net.connect(addr).unwrap();
        assert!(net.send(something, b"fire and forget").is_ok());
        net.close(something);
        assert_eq!(net.send(something, b"more"), Err(SendError::Closed));
    });
    let Event::Close(_, report) = server.event() else { panic!("it opened") };
    assert_eq!(report.reason, CloseReason::Aborted);
    let got = loop {
        let (mut stream, _) = listener.accept().unwrap();
        util::patient(&stream);
        let (got, _) = read_all(&mut stream);
        if !got.is_empty() {
            break got;
        }
    };
    assert_eq!(got, b"fire and forget");
    let Event::Close(_, report) = server.event() else { panic!("it opened") };
    assert_eq!((report.reason, report.handed), (CloseReason::Finished, 15));
}

// E12, C36: Linux lets a socket connect to itself.
#[test]
fn a_connection_to_ourselves_is_refused() {
    let server = serve(Config::default(), Echo);
    // Every ephemeral port once or twice: sooner or later it is our own.
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], first + 1));
    for _ in 0..200 {
        let conns: Vec<_> = server.ask(move |net| (0..200).map(|_| net.connect(addr).unwrap()).collect());
        for _ in conns {
            match server.event() {
                Event::Close(_, report) => assert_eq!(report.reason, CloseReason::ConnectFailed),
                other => panic!("{other:?}"),
            }
        }
        if server.stats().connects >= 20_000 {
            break;
        }
    }
    assert_eq!(server.stats().opened, 0);
}

#[test]
fn an_outbound_connection_is_like_any_other_once_open() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = serve(Config::default(), Echo);
    let conn = connect(&server, addr);
    let (mut peer, from): (TcpStream, _) = listener.accept().unwrap();
    util::patient(&peer);
    assert_eq!(server.event(), Event::Open(conn, Via::Connect));
    let (state, known) = server.ask(move |net: &mut Net| (net.state(conn), net.peer_addr(conn)));
    assert_eq!((state, known), (Some(State::Open), Some(Addr::Tcp(addr))));
    assert!(from.ip().is_loopback());
    peer.write_all(b"echo").unwrap();
    let mut got = [0; 4];
    peer.read_exact(&mut got).unwrap();
    drop(peer);
    assert_eq!(server.closed().1.reason, CloseReason::PeerClosed);
}

#[test]
fn unix_sockets_connect_and_fail_alike() {
    let path = temp_path("outbound");
    let _ = std::fs::remove_file(&path);
    let server = serve(Config::default(), Sink);
    connect(&server, path.clone());
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, Some(libc::ENOENT)));
    let listener = UnixListener::bind(&path).unwrap();
    let to = path.clone();
    let conn = server.ask(move |net| {
        let conn = net.connect(to).unwrap();
        assert!(net.send(conn, b"hello").is_ok());
        conn
    });
    let (mut peer, _) = listener.accept().unwrap();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(server.event(), Event::Open(conn, Via::Connect));
    drop(peer);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.unacked), (CloseReason::PeerClosed, None));
    std::fs::remove_file(&path).unwrap();
}

// C29: connect says EAGAIN, and nothing tells when there is room.
#[test]
fn a_full_unix_backlog_is_tried_again_until_there_is_room() {
    let path = temp_path("backlog");
    let _ = std::fs::remove_file(&path);
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let _fill = UnixStream::connect(&path).unwrap();
    let server = serve(Config::default(), Sink);
    let conn = connect(&server, path.clone());
    server.ask(move |net| net.send(conn, b"patient")).unwrap();
    assert_eq!(server.event_within(Duration::from_millis(150)), None);
    assert_eq!(server.ask(move |net| net.state(conn)), Some(State::Connecting));
    let (_first, _) = listener.accept().unwrap();
    assert_eq!(server.event(), Event::Open(conn, Via::Connect));
    let (second, _) = listener.accept().unwrap();
    let mut got = [0; 7];
    UnixStream::from(second).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"patient");
    std::fs::remove_file(&path).unwrap();
}
