//! Unix-domain sockets: the same rules and the same reports, where the kernel differs.

mod util;

use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use unbroken::{Addr, CloseReason, Config, Net, Reactor, Via};
use util::{pattern, read_all, serve_with, Custom, Echo, Event, Server};

struct UnixServer {
    server: Server,
    path: PathBuf,
}

fn serve(name: &str, handler: Custom) -> UnixServer {
    let path = std::env::temp_dir().join(format!("unbroken-{name}-{}", std::process::id()));
    let listen = path.clone();
    let server = serve_with(Config::default(), handler, move |net| {
        net.listen(listen).unwrap();
    });
    UnixServer { server, path }
}

impl UnixServer {
    fn client(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(util::SOON)).unwrap();
        stream.set_write_timeout(Some(util::SOON)).unwrap();
        stream
    }
}

fn echo() -> Custom {
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, data);
        data.len()
    };
    Custom { data: Some(Box::new(data)), ..Custom::default() }
}

#[test]
fn a_megabyte_comes_back_and_the_report_says_what_can_be_known() {
    let unix = serve("echo", echo());
    let mut client = unix.client();
    let mut writer = client.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        writer.write_all(&pattern(1 << 20)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (got, error) = read_all(&mut client);
    thread.join().unwrap();
    assert!(error.is_none() && got == pattern(1 << 20));
    let (_, report) = unix.server.closed();
    assert_eq!(report.reason, CloseReason::PeerClosed);
    assert_eq!((report.received, report.handed), (1 << 20, 1 << 20));
    assert_eq!((report.unsent, report.unacked), (0, None));
}

#[test]
fn a_close_with_input_unread_still_delivers_the_reply() {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send(conn, &pattern(2_000_000));
        net.close(conn);
    };
    let unix = serve("close", Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = unix.client();
    client.write_all(&[1; 50_000]).unwrap();
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(2_000_000));
    drop(client);
    let (_, report) = unix.server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 50_000));
}

// R12, C27: the write says EPIPE, and the read still keeps its ECONNRESET.
#[test]
fn a_peer_that_closed_with_our_data_unread_is_a_reset() {
    let open = |net: &mut Net, conn, _: Via| {
        net.pause_reading(conn);
        let _ = net.send(conn, b"unread");
    };
    let unix = serve("reset", Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = unix.client();
    let conn = unix.server.opened();
    client.write_all(b"abc").unwrap();
    unix.server.wait_stats(|stats| stats.bytes_out == 6);
    drop(client);
    unix.server.ask(move |net| {
        let _ = net.send(conn, &[0; 20_000]);
        net.resume_reading(conn);
    });
    let (_, report) = unix.server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert_eq!((report.received, report.unsent), (3, 20_000));
}

// R12, C26: unlike TCP there is no grace for the first write.
#[test]
fn the_first_write_to_a_peer_that_closed_breaks_the_pipe() {
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let unix = serve("pipe", Custom { open: Some(Box::new(open)), ..Custom::default() });
    let client = unix.client();
    let conn = unix.server.opened();
    drop(client);
    unix.server.ask(move |net| {
        let _ = net.send(conn, b"first");
    });
    assert_eq!(unix.server.event_within(Duration::from_millis(100)), None, "it is paused");
    unix.server.ask(move |net| net.resume_reading(conn));
    let (_, report) = unix.server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    assert!(report.saw_fin);
    assert_eq!((report.handed, report.unsent), (0, 5));
}

// R14, C28
#[test]
fn a_peer_that_shut_its_reading_down_breaks_the_pipe_at_the_first_write() {
    let unix = serve("shut", echo());
    let mut client = unix.client();
    client.shutdown(Shutdown::Read).unwrap();
    client.write_all(b"answer me").unwrap();
    let (_, report) = unix.server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    assert_eq!((report.received, report.unsent, report.saw_fin), (9, 9, false));
}

// A read stops short at a message that carries descriptors, though more is there.
#[test]
fn descriptors_among_the_bytes_stall_nothing() {
    let unix = serve("fds", echo());
    let mut client = unix.client();
    for _ in 0..50 {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = [file.as_fd(), file.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        client.write_all(b"before ").unwrap();
        sendmsg(&client, &[IoSlice::new(b"with ")], &mut control, SendFlags::empty()).unwrap();
        client.write_all(b"after").unwrap();
        let mut got = [0; 17];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"before with after");
    }
}

#[test]
fn half_closes_work_as_on_tcp() {
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send(conn, b"all");
        net.close_write(conn);
    };
    let unix = serve("half", Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = unix.client();
    assert_eq!(read_all(&mut client).0, b"all");
    client.write_all(b"still heard").unwrap();
    drop(client);
    let (_, report) = unix.server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::Finished, 11));
}

#[test]
fn events_of_a_unix_client_come_in_order() {
    let unix = serve("order", echo());
    let client = unix.client();
    drop(client);
    assert!(matches!(unix.server.event(), Event::Open(..)));
    assert!(matches!(unix.server.event(), Event::Eof(_)));
    assert!(matches!(unix.server.event(), Event::Close(..)));
    let tcp = util::serve(Config::default(), Echo);
    drop(tcp.client());
    assert_eq!(tcp.closed().1.unacked, Some(0));
}

// A Unix-domain socket inherits nothing from its listener.
#[test]
fn accepted_connections_have_the_buffers_that_were_configured() {
    // How much the kernel takes while nobody reads.
    let taken = |size: Option<usize>| {
        let mut config = Config::default();
        config.send_buffer = size;
        let path = std::env::temp_dir().join(format!("unbroken-buffers-{}", std::process::id()));
        let listen = path.clone();
        let server = serve_with(config, Custom::default(), move |net| {
            net.listen(listen).unwrap();
        });
        let _client = UnixStream::connect(&path).unwrap();
        let conn = server.opened();
        server.ask(move |net| net.send(conn, &[0; 1 << 20])).unwrap();
        server.wait_stats(|stats| stats.write_eagains > 0);
        (1 << 20) - server.ask(move |net| net.queued(conn))
    };
    let (small, large) = (taken(Some(8192)), taken(Some(100_000)));
    assert!(small < 30_000 && large > 50_000, "{small} and {large}");
}

#[test]
fn an_urgent_byte_is_a_byte_like_any_other() {
    let unix = serve("urgent", echo());
    let mut client = unix.client();
    let socket = socket2::SockRef::from(&client);
    socket.send(b"ab").unwrap();
    if let Err(error) = socket.send_out_of_band(b"!") {
        return util::skip("urgent data on Unix-domain sockets", &error.to_string());
    }
    socket.send(b"cd").unwrap();
    let mut got = [0; 5];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ab!cd");
}

#[test]
fn the_peer_of_an_outbound_connection_stays_the_address_that_was_asked_for() {
    let folder = std::env::temp_dir();
    let name = format!("unbroken-asked-{}", std::process::id());
    let path = folder.join(&name);
    // Bound under another name than the one that is asked for.
    let other = folder.join(".").join(&name);
    let listener = UnixListener::bind(&other).unwrap();
    let mut asked = vec![Addr::Unix(path.clone())];
    #[cfg(target_os = "linux")]
    let named =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name)
            .unwrap();
    #[cfg(target_os = "linux")]
    let _abstract = UnixListener::bind_addr(&named).unwrap();
    #[cfg(target_os = "linux")]
    asked.push(Addr::Abstract(name.into_bytes()));
    let server = util::serve(Config::default(), Echo);
    for addr in asked {
        let to = addr.clone();
        let (conn, before) = server.ask(move |net| {
            let conn = net.connect(&to).unwrap();
            (conn, net.peer_addr(conn))
        });
        assert_eq!(before.as_ref(), Some(&addr));
        assert_eq!(server.event(), Event::Open(conn, Via::Connect));
        assert_eq!(server.ask(move |net| net.peer_addr(conn)), Some(addr));
    }
    drop(listener);
    std::fs::remove_file(&path).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_listened_on_and_connected_to_like_a_path_and_leaves_nothing() {
    let name = format!("unix:@unbroken-{}", std::process::id());
    let (listen, connect) = (name.clone(), name.clone());
    let server = serve_with(Config::default(), echo(), move |net| {
        let listener = net.listen(&listen).unwrap();
        assert_eq!(net.local_addr(listener).unwrap().to_string(), listen);
        assert_eq!(net.listen(&listen).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    });
    let clients = util::serve(Config::default(), util::Sink);
    let conn = clients.ask(move |net| {
        let conn = net.connect(&connect).unwrap();
        net.send(conn, b"hello").unwrap();
        conn
    });
    assert_eq!(clients.event(), Event::Open(conn, Via::Connect));
    assert_eq!(clients.event(), Event::Data(conn, 5, 5));
    let served = server.opened();
    let local = server.ask(move |net| net.local_addr_of(served));
    assert_eq!(local.unwrap().to_string(), name);
    assert!(!std::path::Path::new(&name).exists());
    drop(server);
    // The name is free again at once.
    let mut reactor = Reactor::new(Config::default()).unwrap();
    reactor.net().listen(&name).unwrap();
}

// Its address is one byte longer than the structure that is to hold it (unix(7), BUGS).
#[cfg(target_os = "linux")]
#[test]
fn a_client_with_the_longest_path_there_is_is_a_client_like_any_other() {
    const LONGEST: usize = 108;
    let unix = serve("longest", echo());
    let folder = std::env::temp_dir().canonicalize().unwrap();
    let name = folder.join(format!("unbroken-client-{}-", std::process::id())).into_os_string();
    let name = format!("{:n<LONGEST$}", name.to_str().unwrap());
    let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    // SAFETY: all zeros is a valid sockaddr_un; it is only read, and outlives the call.
    let status = unsafe {
        let mut addr: libc::sockaddr_un = std::mem::zeroed();
        addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
        addr.sun_path.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte as libc::c_char);
        let size = std::mem::size_of_val(&addr) as libc::socklen_t;
        libc::bind(client.as_raw_fd(), (&raw const addr).cast(), size)
    };
    assert_eq!((name.len(), status), (LONGEST, 0));
    client.connect(&SockAddr::unix(&unix.path).unwrap()).unwrap();
    std::fs::remove_file(&name).unwrap();
    let conn = unix.server.opened();
    assert_eq!(unix.server.ask(move |net| net.peer_addr(conn)), Some(Addr::Unix(name.into())));
    let mut client = UnixStream::from(client);
    client.write_all(b"echo").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_with_an_abstract_name_is_known_by_it() {
    let unix = serve("named", echo());
    let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let name = format!("unbroken-client-{}", std::process::id());
    client.bind(&SockAddr::unix(format!("\0{name}")).unwrap()).unwrap();
    client.connect(&SockAddr::unix(&unix.path).unwrap()).unwrap();
    let conn = unix.server.opened();
    let peer = unix.server.ask(move |net| net.peer_addr(conn));
    assert_eq!(peer, Some(Addr::Abstract(name.into_bytes())));
    // One without a name has none.
    let _client = unix.client();
    let conn = unix.server.opened();
    assert_eq!(unix.server.ask(move |net| net.peer_addr(conn)), None);
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_at_the_other_end_is_known_and_gone_with_its_connection() {
    let unix = serve("credentials", echo());
    let client = unix.client();
    let conn = unix.server.opened();
    let peer = unix.server.ask(move |net| net.peer_credentials(conn)).unwrap();
    let us = (std::process::id() as i32, rustix::process::geteuid(), rustix::process::getegid());
    assert_eq!((peer.pid, peer.uid, peer.gid), (Some(us.0), us.1.as_raw(), us.2.as_raw()));
    // The other way round it is the one that listens.
    let to = unix.path.clone();
    let out = unix.server.ask(move |net| net.connect(to).unwrap());
    let ours = unix.server.ask(move |net| net.peer_credentials(out));
    assert_eq!(ours, Some(peer));
    // TCP vouches for nobody.
    let _tcp = unix.server.client();
    unix.server.wait_stats(|stats| stats.accepted == 3);
    let known = unix.server.ask(|net| {
        let all: Vec<_> = net.connections().collect();
        all.into_iter().filter(|conn| net.peer_credentials(*conn).is_some()).count()
    });
    assert_eq!(known, 3);
    drop(client);
    unix.server.closed();
    unix.server.wait_stats(|stats| stats.connections == 3);
    assert_eq!(
        unix.server.ask(move |net| (net.peer_credentials(conn), net.local_addr_of(conn))),
        (None, None)
    );
}
