//! A listening socket passes from one process to the next, from the old server or from a service
//! manager, and no client notices.

mod util;

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use unbroken::{Config, Handler, Net, Reactor, UserTimeout, Via};
use util::{patient, read_all, serve, Custom, Event};

/// Answers the first bytes with its name and closes; `quit` shuts it down.
fn answer_with(name: &'static str) -> Custom {
    let data = move |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, name.as_bytes());
        net.close(conn);
        if data == b"quit" {
            net.shutdown(Duration::from_secs(5));
        }
        data.len()
    };
    Custom { data: Some(Box::new(data)), ..Custom::default() }
}

/// Passes a descriptor on, with one byte to carry it (unix(7), SCM_RIGHTS).
fn pass(channel: &UnixStream, fd: BorrowedFd<'_>) {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(channel, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::empty()).expect("sendmsg");
}

fn receive(channel: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    recvmsg(channel, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("recvmsg");
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).expect("a descriptor came with it")
}

/// Another process, which does not outlive a test that fails.
struct Process(Option<Child>);

impl Process {
    fn finish(mut self) -> Output {
        self.0.take().expect("finished once").wait_with_output().expect("wait")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Tells the clients to stop, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One client: connects, asks, reads to the end. What it got, or what went wrong.
fn ask(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    patient(&stream);
    stream.write_all(b"who is it?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn refuses<T>(connected: io::Result<T>) -> bool {
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn serve_until_shutdown(mut reactor: Reactor, handler: &mut impl Handler) {
    reactor.run(handler).expect("no error");
}

/// The new process: gets the listener through its standard input.
fn succeed() {
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let listener = receive(&channel);
    let mut reactor = Reactor::new(Config::default()).unwrap();
    reactor.net().listen_from(listener).unwrap();
    (&channel).write_all(b"r").unwrap();
    serve_until_shutdown(reactor, &mut answer_with("new"));
}

// G4
#[test]
fn a_listener_changes_hands_under_load_and_no_client_fails() {
    const NAME: &str = "a_listener_changes_hands_under_load_and_no_client_fails";
    if util::role().is_some() {
        return succeed();
    }
    let old = serve(Config::default(), answer_with("old"));
    let addr = old.addr;
    let (channel, theirs) = UnixStream::pair().unwrap();
    channel.set_read_timeout(Some(util::SOON)).unwrap();
    let mut successor = util::again(NAME, "successor");
    successor.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped());
    let successor = Process(Some(successor.spawn().unwrap()));

    let over = AtomicBool::new(false);
    let answers: Vec<io::Result<String>> = std::thread::scope(|scope| {
        // Four clients every eight milliseconds.
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (begin, mut answers) = (Instant::now(), Vec::new());
                    while !over.load(Ordering::Relaxed) {
                        answers.push(ask(addr));
                        let next = Duration::from_millis(8) * answers.len() as u32;
                        std::thread::sleep(next.saturating_sub(begin.elapsed()));
                    }
                    answers
                })
            })
            .collect();
        let stop = Stop(&over);

        let listener = match old.wait_for(util::SOON, |event| matches!(event, Event::Open(..))) {
            Event::Open(_, Via::Listener(listener)) => listener,
            event => panic!("{event:?}"),
        };
        std::thread::sleep(Duration::from_millis(500));
        let fd = old.ask(move |net| net.listener_fd(listener).map(|fd| fd.try_clone_to_owned()));
        pass(&channel, fd.expect("it listens").unwrap().as_fd());
        (&channel).read_exact(&mut [0]).unwrap();
        // For a while both accept. Then the old one leaves those who wait to the new one, and
        // ends when the clients that it has are served.
        std::thread::sleep(Duration::from_millis(300));
        old.ask(move |net| net.close_listener(listener));
        old.wait_stats(|stats| stats.connections == 0);
        old.handle.shutdown(Duration::from_secs(5)).unwrap();
        old.join().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        drop(stop);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });

    let mut quit = TcpStream::connect(addr).unwrap();
    quit.write_all(b"quit").unwrap();
    read_all(&mut quit);
    drop(quit);
    let output = successor.finish();
    assert!(output.status.success(), "{output:?}");

    let count = |name: &str| answers.iter().filter(|a| a.as_ref().is_ok_and(|a| a == name)).count();
    let failures: Vec<_> =
        answers.iter().filter(|a| !a.as_ref().is_ok_and(|a| a == "old" || a == "new")).collect();
    assert!(failures.is_empty(), "{} of {} failed: {failures:?}", failures.len(), answers.len());
    assert!(count("old") > 50 && count("new") > 50, "old {}, new {}", count("old"), count("new"));
}

/// The process that a service manager starts: its listeners are its descriptors from 3 on, if
/// the variables are meant for it (sd_listen_fds(3)).
fn start_activated() {
    assert_eq!(std::env::var("LISTEN_PID").unwrap(), std::process::id().to_string());
    assert_eq!(std::env::var("LISTEN_FDS").unwrap(), "1");
    // SAFETY: whoever set the variables left this descriptor to us, and nobody else here knows it.
    let listener = unsafe { OwnedFd::from_raw_fd(3) };
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let listener = reactor.net().listen_from(listener).unwrap();
    assert!(reactor.net().local_addr(listener).is_some());
    serve_until_shutdown(reactor, &mut answer_with("activated"));
}

// G5
#[test]
fn a_service_manager_can_open_the_listener() {
    if util::role().is_some() {
        return start_activated();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // It waits already when the process starts.
    let mut first = TcpStream::connect(addr).unwrap();
    patient(&first);
    first.write_all(b"who is it?").unwrap();

    let this = util::again("a_service_manager_can_open_the_listener", "activated");
    let start = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@" 3<&0 </dev/null"#;
    let mut manager = Command::new("sh");
    manager.args(["-c", start]).arg(this.get_program()).args(this.get_args());
    manager.envs(this.get_envs().filter_map(|(key, value)| Some((key, value?))));
    manager.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::piped());
    let process = Process(Some(manager.spawn().unwrap()));
    // Ours is only the copy that the process inherited.
    drop(manager);

    let (answer, error) = read_all(&mut first);
    assert!(error.is_none() && answer == b"activated", "{error:?}");
    drop(first);
    assert_eq!(ask(addr).unwrap(), "activated");
    let mut quit = TcpStream::connect(addr).unwrap();
    quit.write_all(b"quit").unwrap();
    read_all(&mut quit);
    drop(quit);
    let output = process.finish();
    assert!(output.status.success(), "{output:?}");
    // It was the last that held the listener. (A child that another test is just starting has a
    // copy until it runs its own program.)
    util::eventually("nobody listens", || refuses(TcpStream::connect(addr)));
}

/// Each with what the refusal is to say.
fn not_to_be_listened_on(listener: &TcpListener) -> Vec<(&'static str, OwnedFd)> {
    let addr = listener.local_addr().unwrap();
    let socket = |domain, kind, protocol| Socket::new(domain, kind, protocol);
    let bound = socket(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let packets = socket(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    let path = std::env::temp_dir().join(format!("unbroken-packets-{}", std::process::id()));
    packets.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    packets.listen(1).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut all: Vec<(_, OwnedFd)> = vec![
        ("a connection with 127.0.0.1:", TcpStream::connect(addr).unwrap().into()),
        ("a connection,", UnixStream::pair().unwrap().0.into()),
        ("not listening", bound.into()),
        ("datagram", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ("datagram", UnixDatagram::unbound().unwrap().into()),
        ("SEQPACKET", packets.into()),
        ("no socket", File::open("/dev/null").unwrap().into()),
    ];
    // Streams of other kinds, where the kernel has them.
    let mptcp = socket(Domain::IPV4, Type::STREAM, Some(Protocol::from(libc::IPPROTO_MPTCP)));
    let vsock = socket(Domain::VSOCK, Type::STREAM, None);
    for other in [mptcp, vsock].into_iter().flatten() {
        let _ = other.listen(1);
        all.push(("neither TCP nor a Unix-domain socket", other.into()));
    }
    all
}

#[test]
fn what_cannot_be_listened_on_is_refused_and_told_what_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    for (reason, fd) in not_to_be_listened_on(&listener) {
        let error = reactor.net().listen_from(fd).expect_err(reason);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{reason}: {error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    // Nothing of it is left, and the reactor is as good as before.
    assert!(reactor.net().listen_from(listener).is_ok());
}

#[test]
fn an_adopted_listener_is_not_left_to_our_children() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let id = reactor.net().listen_from(listener).unwrap();
    let fd = reactor.net().listener_fd(id).unwrap();
    assert_eq!(rustix::io::fcntl_getfd(fd).unwrap(), FdFlags::CLOEXEC);
    let number = fd.as_raw_fd();
    let child = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let theirs = String::from_utf8_lossy(&child.stdout).into_owned();
    let ours = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert!(!theirs.contains(ours.to_str().unwrap()), "{theirs}");
}

/// Accepts from a listener that does not block.
fn accept_soon(listener: &TcpListener) -> TcpStream {
    let mut accepted = None;
    util::eventually("a client waits", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    accepted.expect("it waited").0
}

/// Keepalive, no delay, user timeout.
type Configured = (bool, bool, Option<Duration>);
/// Linger, cork, urgent bytes out of place: what must never be on.
type Never = (Option<Duration>, bool, bool);

fn options(socket: &impl AsFd) -> (Configured, Never) {
    let socket = SockRef::from(socket);
    let configured =
        (socket.keepalive().unwrap(), socket.tcp_nodelay().unwrap(), socket.tcp_user_timeout().unwrap());
    let urgent_apart = !socket.out_of_band_inline().unwrap();
    (configured, (socket.linger().unwrap(), socket.tcp_cork().unwrap(), urgent_apart))
}

#[test]
fn an_adopted_listener_has_its_options_as_configured_those_that_are_off_included() {
    let mut off = Config::default();
    off.keepalive = None;
    off.nodelay = false;
    off.user_timeout = UserTimeout::Off;
    let mut on = Config::default();
    on.user_timeout = UserTimeout::After(Duration::from_secs(200));
    for (config, wanted) in [(off, (false, false, None)), (on, (true, true, Some(Duration::from_secs(200))))]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let made = SockRef::from(&listener);
        made.set_keepalive(!wanted.0).unwrap();
        made.set_tcp_nodelay(!wanted.1).unwrap();
        made.set_tcp_user_timeout(Some(Duration::from_secs(5))).unwrap();
        // With these a close would block the loop, bytes be held back, and urgent ones vanish.
        made.set_linger(Some(Duration::from_secs(7))).unwrap();
        made.set_tcp_cork(true).unwrap();
        made.set_out_of_band_inline(false).unwrap();
        let copy = listener.try_clone().unwrap();
        let addr = listener.local_addr().unwrap();
        let mut reactor = Reactor::new(config).unwrap();
        reactor.net().listen_from(listener).unwrap();
        assert_eq!(options(&copy), (wanted, (None, false, false)));
        // What a client is accepted with comes from the listener.
        let _client = TcpStream::connect(addr).unwrap();
        let served = accept_soon(&copy);
        assert_eq!(options(&served), (wanted, (None, false, false)));
    }
}

#[test]
fn the_path_of_a_listener_that_we_did_not_bind_is_not_ours_to_remove() {
    let path = std::env::temp_dir().join(format!("unbroken-handover-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let server = util::serve_with(Config::default(), answer_with("unix"), move |net| {
        net.listen_from(listener).unwrap();
    });
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(util::SOON)).unwrap();
    client.write_all(b"who is it?").unwrap();
    assert_eq!(read_all(&mut client).0, b"unix");
    drop((client, server));
    util::eventually("nobody listens", || refuses(UnixStream::connect(&path)));
    std::fs::remove_file(&path).expect("it is still there");
}
