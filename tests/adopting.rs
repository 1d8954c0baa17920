//! Connections that move: a stream that was made elsewhere is taken in, one of ours is given away, and no
//! byte is lost or repeated by it.

mod util;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{fcntl_getfl, OFlags};
use socket2::{Domain, SockRef, Socket, Type};
use unbroken::{
    Bytes, CloseReason, CloseReport, Config, ConnId, Detached, Handle, HandleError, Handler, Net, Reactor,
    State, Via,
};
use util::{patient, pattern, read_all, reset, serve, Custom, Event};

/// Both ends of a TCP connection.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    patient(&client);
    (client, server)
}

/// Echoes, but leaves the last few bytes of what it is shown unused until the end: a protocol with something
/// unfinished at any moment.
struct Lazy {
    left: usize,
}

impl Handler for Lazy {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let used = data.len().saturating_sub(self.left);
        let _ = net.send(conn, &data[..used]);
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        let rest = net.unused(conn).to_vec();
        let _ = net.send(conn, &rest);
        net.close(conn);
    }
}

#[test]
fn an_adopted_stream_is_a_connection_like_any_other() {
    let server = serve(Config::default(), util::Echo);
    let (mut tcp, ours) = tcp_pair();
    let (mut unix, theirs) = UnixStream::pair().unwrap();
    let peer = tcp.local_addr().unwrap();
    for fd in [OwnedFd::from(ours), OwnedFd::from(theirs)] {
        // Blocking, as whoever made it left it.
        assert!(!fcntl_getfl(&fd).unwrap().contains(OFlags::NONBLOCK));
        let conn = server.ask(move |net| {
            let conn = net.adopt(fd).unwrap();
            // Nothing is told within the call, and sends are taken at once.
            assert_eq!(net.state(conn), Some(State::Connecting));
            net.send(conn, b"hello ").unwrap();
            conn
        });
        assert_eq!(server.wait_for(util::SOON, |_| true), Event::Open(conn, Via::Adopted));
        let told = server.ask(move |net| net.peer_addr(conn));
        assert!(told.is_none() || told.clone().and_then(|addr| addr.as_tcp()) == Some(peer), "{told:?}");
    }
    let ends: [&mut dyn ReadWrite; 2] = [&mut tcp, &mut unix];
    for end in ends {
        end.write_all(b"echo").unwrap();
        let mut got = [0; 10];
        end.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello echo");
    }
    tcp.shutdown(Shutdown::Write).unwrap();
    unix.shutdown(Shutdown::Write).unwrap();
    for _ in 0..2 {
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received, report.handed), (CloseReason::PeerClosed, 4, 10));
    }
    assert_eq!(server.stats().adopted, 2);
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn what_is_no_connected_stream_is_given_back_as_it_was() {
    let server = serve(Config::default(), util::Echo);
    let pipe = std::io::pipe().unwrap();
    let things: Vec<(OwnedFd, &str)> = vec![
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "datagram"),
        (UnixDatagram::unbound().unwrap().into(), "datagram"),
        (Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap().0.into(), "SOCK_SEQPACKET"),
        (TcpListener::bind("127.0.0.1:0").unwrap().into(), "listening"),
        (Socket::new(Domain::IPV4, Type::STREAM, None).unwrap().into(), "not connected"),
        (Socket::new(Domain::UNIX, Type::STREAM, None).unwrap().into(), "not connected"),
        (std::fs::File::open("/dev/null").unwrap().into(), "no socket"),
        (pipe.0.into(), "no socket"),
    ];
    for (fd, why) in things {
        let number = fd.as_raw_fd();
        let refused = server.ask(move |net| net.adopt(fd).unwrap_err());
        assert!(refused.error.to_string().contains(why), "{}: {why}", refused.error);
        assert_eq!(refused.error.kind(), std::io::ErrorKind::InvalidInput);
        let HandleError::Unfit(back) = server.handle.adopt(refused.stream).unwrap_err() else {
            panic!("not unfit: {why}");
        };
        assert_eq!(back.fd.as_raw_fd(), number);
        assert!(!fcntl_getfl(&back.fd).unwrap().contains(OFlags::NONBLOCK), "{why}");
    }
    assert_eq!((server.stats().adopted, server.events_so_far()), (0, vec![]));
}

#[test]
fn an_adopted_stream_that_has_ended_or_was_reset_delivers_what_came_before() {
    let server = serve(Config::default(), util::Echo);
    let (mut client, ours) = tcp_pair();
    client.write_all(b"last words").unwrap();
    drop(client);
    server.handle.adopt(ours).unwrap();
    let (_, report) = server.closed();
    assert_eq!(report.received, 10);
    assert!(report.saw_fin, "{report}");

    for asked_before in [false, true] {
        let (mut client, ours) = tcp_pair();
        client.write_all(b"last words").unwrap();
        reset(client);
        util::eventually("the reset", || ours.peer_addr().is_err());
        if asked_before {
            // Whoever had it before has taken the one error away.
            assert!(ours.take_error().unwrap().is_some());
        }
        server.handle.adopt(ours).unwrap();
        let (_, report) = server.closed();
        match asked_before {
            false => assert_eq!((report.reason, report.received), (CloseReason::Reset, 10)),
            true => {
                assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, Some(libc::ENOTCONN)))
            }
        }
    }
}

#[test]
fn an_adopted_stream_that_is_still_connecting_is_waited_for() {
    let server = serve(Config::default(), util::Echo);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    // The backlog is full from the first one on: whoever comes later waits for its SYN to be sent again.
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    first.connect(&addr).unwrap();
    let late = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    late.set_nonblocking(true).unwrap();
    let _ = late.connect(&addr);
    if late.peer_addr().is_ok() {
        return util::skip("a backlog that fills", "the second connect was established");
    }
    let conn = server.ask(move |net| net.adopt(OwnedFd::from(late)).unwrap());
    server.ask(move |net| net.send(conn, b"hello")).unwrap();
    assert_eq!(server.events_so_far(), vec![]);
    let _first = listener.accept().unwrap();
    assert_eq!(server.event(), Event::Open(conn, Via::Adopted));
    let (late, _) = listener.accept().unwrap();
    let mut got = [0; 5];
    (&late).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}

#[test]
fn who_is_closed_before_being_told_of_ends_in_good_order() {
    let server = serve(Config::default(), util::Echo);
    let (mut client, ours) = tcp_pair();
    client.write_all(b"nobody reads this").unwrap();
    server.ask(move |net| {
        let conn = net.adopt(ours).unwrap();
        net.close(conn);
    });
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "an end, and no reset");
    drop(client);
    match server.event() {
        Event::Close(_, report) => assert_eq!(report.reason, CloseReason::Finished),
        other => panic!("{other:?}"),
    }
}

/// Moves a connection on whenever it is asked to.
fn move_between(from: &util::Server, to: &Handle) -> bool {
    let to = to.clone();
    from.ask(move |net| {
        let Some(conn) = net.connections().next() else { return false };
        match net.detach(conn) {
            Some(detached) => {
                to.adopt(detached).unwrap();
                true
            }
            None => false,
        }
    })
}

#[test]
fn a_connection_moved_between_two_reactors_in_mid_stream_loses_and_repeats_nothing() {
    let config = || {
        let mut config = Config::default();
        // Small, so that there is always something queued.
        (config.send_buffer, config.recv_buffer) = (Some(16 << 10), Some(16 << 10));
        config
    };
    let (one, two) = (serve(config(), Lazy { left: 7 }), serve(config(), Lazy { left: 1 }));
    let mut client = one.client();
    let sent = pattern(12 << 20);
    let writer = {
        let (mut stream, sent) = (client.try_clone().unwrap(), sent.clone());
        thread::spawn(move || {
            for piece in sent.chunks(10_007) {
                stream.write_all(piece).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
        })
    };
    let reader = thread::spawn(move || {
        // Slowly at first, so that something is queued whenever it is moved.
        let mut got = vec![0; 2 << 20];
        for piece in got.chunks_mut(16 << 10) {
            thread::sleep(Duration::from_millis(1));
            client.read_exact(piece).unwrap();
        }
        let (rest, error) = read_all(&mut client);
        got.extend(rest);
        (got, error)
    });
    let mut moves = 0;
    while !reader.is_finished() {
        moves += usize::from(move_between(&one, &two.handle)) + usize::from(move_between(&two, &one.handle));
        thread::sleep(Duration::from_micros(300));
    }
    writer.join().unwrap();
    let (got, error) = reader.join().unwrap();
    assert!(error.is_none(), "{error:?}");
    assert!(
        got == sent,
        "{} of {} bytes, first difference at {:?}",
        got.len(),
        sent.len(),
        first_difference(&got, &sent)
    );
    assert!(moves > 20, "{moves}");
    let reports: Vec<CloseReport> = [one, two].iter().flat_map(reports).collect();
    let given_away: Vec<_> = reports.iter().filter(|report| report.reason == CloseReason::Detached).collect();
    assert_eq!(given_away.len(), moves);
    assert!(given_away.iter().all(|report| !report.lost_bytes()));
    assert!(given_away.iter().any(|report| report.unsent > 0), "something was queued at some move");
    let handed: u64 = reports.iter().map(|report| report.handed).sum();
    assert_eq!(handed, sent.len() as u64);
}

fn first_difference(got: &[u8], sent: &[u8]) -> Option<usize> {
    got.iter().zip(sent).position(|(got, sent)| got != sent)
}

fn reports(server: &util::Server) -> Vec<CloseReport> {
    let _ = server.stats();
    let closes = server.events_so_far().into_iter().filter_map(|event| match event {
        Event::Close(_, report) => Some(report),
        _ => None,
    });
    closes.collect()
}

/// Looks at the first byte, and gives the connection away with it.
#[test]
fn a_protocol_is_sniffed_and_its_connection_given_to_whoever_speaks_it() {
    let echo = serve(Config::default(), util::Echo);
    let handle = echo.handle.clone();
    let data = move |net: &mut Net, conn, data: &[u8]| {
        let mut detached = net.detach(conn).expect("open");
        assert!(detached.unread.is_empty(), "on_data has it all in its hands");
        detached.unread = data.to_vec();
        handle.adopt(detached).unwrap();
        0
    };
    let door = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = door.client();
    client.write_all(b"GET / and more").unwrap();
    let mut got = [0; 14];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET / and more");
    let (_, report) = door.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Detached, 14));
}

#[test]
fn what_is_closing_gone_or_not_established_yet_is_not_given_away() {
    let server = serve(Config::default(), util::Echo);
    let _client = server.client();
    let conn = server.opened();
    let outcome = server.ask(move |net| {
        net.send(conn, b"goodbye").unwrap();
        net.close(conn);
        let closing = net.detach(conn).is_some();
        let outbound = net.connect("127.0.0.1:1").unwrap();
        (closing, net.detach(outbound).is_some())
    });
    assert_eq!(outcome, (false, false));
    assert!(server.ask(move |net| {
        net.abort(conn);
        net.detach(conn).is_none()
    }));
}

/// Every descriptor that four threads offered is a reported connection or was given back.
#[test]
fn descriptors_adopted_while_reactors_stop_are_reported_or_given_back() {
    for round in 0..20 {
        let (closed, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (handles, reactors): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let (closed, opened) = (closed.clone(), opened.clone());
                let (told, handle) = mpsc::channel();
                let thread = thread::spawn(move || {
                    let mut reactor = Reactor::new(Config::default()).unwrap();
                    told.send(reactor.net().handle()).unwrap();
                    let open = move |_: &mut Net, _, via: Via| {
                        assert_eq!(via, Via::Adopted);
                        opened.fetch_add(1, Ordering::Relaxed);
                    };
                    let close = move |_: &mut Net, _, _: &CloseReport| {
                        closed.fetch_add(1, Ordering::Relaxed);
                    };
                    let mut handler = Custom {
                        open: Some(Box::new(open)),
                        close: Some(Box::new(close)),
                        ..Custom::default()
                    };
                    reactor.run(&mut handler).unwrap();
                });
                (handle.recv().unwrap(), thread)
            })
            .unzip();
        let offers: Vec<_> = (0..4)
            .map(|thread| {
                let handles = handles.clone();
                thread::spawn(move || {
                    let (mut taken, mut ends) = (0, Vec::new());
                    for n in 0..200 {
                        let (theirs, ours) = UnixStream::pair().unwrap();
                        match handles[(thread + n) % 2].adopt(ours) {
                            Ok(()) => taken += 1,
                            Err(HandleError::Stopped(back)) => drop(back),
                            Err(other) => panic!("{other:?}"),
                        }
                        ends.push(theirs);
                    }
                    (taken, ends)
                })
            })
            .collect();
        thread::sleep(Duration::from_micros(200 * round));
        handles.iter().for_each(|handle| handle.shutdown(Duration::from_secs(5)).unwrap());
        let (mut taken, mut ends) = (0, Vec::new());
        for offer in offers {
            let (count, some) = offer.join().unwrap();
            taken += count;
            ends.extend(some);
        }
        // The peers end their streams, so that the closes come to an end.
        for end in ends {
            end.shutdown(Shutdown::Write).unwrap();
            end.set_read_timeout(Some(util::SOON)).unwrap();
            assert_eq!((&end).read(&mut [0]).unwrap(), 0);
        }
        reactors.into_iter().for_each(|reactor| reactor.join().unwrap());
        assert_eq!(closed.load(Ordering::Relaxed), taken, "round {round}");
        assert!(opened.load(Ordering::Relaxed) <= taken);
    }
}

#[test]
fn a_reactor_that_is_dropped_resets_who_waits_in_its_mailbox() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let handle = reactor.net().handle();
    let (mut client, ours) = tcp_pair();
    handle.adopt(ours).unwrap();
    drop(reactor);
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    let (_client, ours) = tcp_pair();
    assert!(matches!(handle.adopt(ours), Err(HandleError::Stopped(_))));
}

#[test]
fn a_full_mailbox_gives_the_descriptor_back_as_it_was() {
    let mut config = Config::default();
    config.max_commands = 1;
    let mut reactor = Reactor::new(config).unwrap();
    let handle = reactor.net().handle();
    let (_one, ours) = tcp_pair();
    handle.adopt(ours).unwrap();
    let (mut two, ours) = tcp_pair();
    let mut detached = Detached::from(ours);
    (detached.unread, detached.unsent) = (b"kept".to_vec(), vec![Bytes::from_static(b"too")]);
    let HandleError::Full(back) = handle.adopt(detached).unwrap_err() else { panic!("not full") };
    assert_eq!(
        (back.unread.as_slice(), back.unsent.as_slice()),
        (&b"kept"[..], &[Bytes::from_static(b"too")][..])
    );
    assert!(!fcntl_getfl(back.as_fd()).unwrap().contains(OFlags::NONBLOCK));
    two.write_all(b"x").unwrap();
    assert_eq!(TcpStream::from(back.fd).read(&mut [0]).unwrap(), 1);
}

#[test]
fn the_options_of_an_adopted_socket_are_those_of_the_configuration() {
    let server = serve(Config::default(), util::Echo);
    let (_client, ours) = tcp_pair();
    SockRef::from(&ours).set_linger(Some(Duration::from_secs(3))).unwrap();
    let copy = ours.try_clone().unwrap();
    server.handle.adopt(ours).unwrap();
    server.opened();
    let socket = SockRef::from(&copy);
    assert_eq!((socket.linger().unwrap(), socket.keepalive().unwrap()), (None, true));
    assert!(socket.tcp_nodelay().unwrap());
}
