//! A peer that vanished without a word, or never reads, ends in a report within the time
//! configured for it; one that is only slow is left alone.
//!
//! These tests wait for seconds each, and the test runner starts one per processor core. So the
//! first of them starts all, each on a thread of its own, and every test waits for its own.

mod util;

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;
use unbroken::{CloseReason, Config, Keepalive, Net, Reactor, Timeout, UserTimeout, Via};
use util::{blackhole, pattern, read_all, serve, Custom, Event, Server, Sink};

const KERNEL: CloseReason = CloseReason::TimedOut(Timeout::Kernel);

/// What the tests of this file that wait are started and joined by.
macro_rules! waiting_together {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$attribute])* #[test] fn $name() { wait_for_own(stringify!($name)); })*
        const WAITING: &[(&str, fn())] = &[$((stringify!($name), || $body)),*];
    };
}

fn wait_for_own(name: &str) {
    static STARTED: LazyLock<Mutex<HashMap<&str, JoinHandle<()>>>> = LazyLock::new(|| {
        Mutex::new(WAITING.iter().map(|(name, test)| (*name, std::thread::spawn(test))).collect())
    });
    if util::role().is_some() {
        // A process of its own was started for this one alone.
        let (_, test) = WAITING.iter().find(|(of, _)| *of == name).expect("in the list");
        return test();
    }
    let own = STARTED.lock().expect("no panic").remove(name).expect("each is waited for once");
    if let Err(panic) = own.join() {
        resume_unwind(panic);
    }
}

/// One second of silence, then three probes a second apart: gone after four.
const FAST: Keepalive =
    Keepalive { idle: Duration::from_secs(1), interval: Duration::from_secs(1), count: 3 };

/// Nothing but what a test asks for may end a connection.
fn config(keepalive: Option<Keepalive>, user_timeout: UserTimeout) -> Config {
    let mut config = Config::default();
    config.keepalive = keepalive;
    config.user_timeout = user_timeout;
    config.write_stall = None;
    config
}

fn send(server: &Server, len: usize) {
    let conn = server.opened();
    assert!(server.ask(move |net| net.send(conn, &pattern(len))).is_ok());
}

/// Keeps sending, as fast as the peer takes it.
fn streamer() -> Custom {
    fn produce(net: &mut Net, conn: unbroken::ConnId) {
        while net.send(conn, &[b'x'; 16 << 10]) == Ok(unbroken::Sent::Queued) {}
    }
    Custom {
        open: Some(Box::new(|net: &mut Net, conn, _: Via| produce(net, conn))),
        drain: Some(Box::new(produce)),
        ..Custom::default()
    }
}

/// No report comes for so long.
fn assert_open_for(server: &Server, time: Duration) {
    let deadline = Instant::now() + time;
    while let Some(event) = server.event_within(deadline.saturating_duration_since(Instant::now())) {
        assert!(!matches!(event, Event::Close(..)), "{event:?}");
    }
}

fn seconds(from: Duration, least: u64, most: u64) {
    // The kernel's timers go by ticks of up to 10 ms.
    let least = Duration::from_secs(least) - Duration::from_millis(20);
    assert!(from >= least && from < Duration::from_secs(most), "{from:?}");
}

waiting_together! {
    // D1
    fn keepalive_notices_an_idle_peer_that_vanished() {
        let server = serve(config(Some(FAST), UserTimeout::Auto), Sink);
        let client = server.client();
        if !blackhole(&client) {
            return;
        }
        let (_, report) = server.closed_within(Duration::from_secs(20));
        assert_eq!((report.reason, report.errno), (KERNEL, Some(libc::ETIMEDOUT)), "{report}");
        assert_eq!((report.saw_fin, report.lost_bytes()), (false, false), "{report}");
        seconds(report.duration, 3, 9);
    }

    // D2
    fn the_user_timeout_notices_that_nothing_is_acknowledged() {
        let server = serve(config(None, UserTimeout::After(Duration::from_secs(3))), Sink);
        let client = server.client();
        if !blackhole(&client) {
            return;
        }
        send(&server, 100);
        let (_, report) = server.closed_within(Duration::from_secs(20));
        assert_eq!((report.reason, report.errno), (KERNEL, Some(libc::ETIMEDOUT)), "{report}");
        assert_eq!((report.handed, report.unsent, report.unacked), (100, 0, Some(100)), "{report}");
        seconds(report.duration, 3, 8);
    }

    // D2, with what the configuration derives from the keepalive.
    fn the_user_timeout_by_default_covers_what_keepalive_does_not() {
        let server = serve(config(Some(FAST), UserTimeout::Auto), Sink);
        let client = server.client();
        if !blackhole(&client) {
            return;
        }
        send(&server, 100);
        let (_, report) = server.closed_within(Duration::from_secs(20));
        assert_eq!((report.reason, report.unacked), (KERNEL, Some(100)), "{report}");
        seconds(report.duration, 4, 9);
    }

    // D3: why the user timeout is on by default. The same peer is gone after four seconds when it
    // is idle (D1), and for ever there when 100 bytes are on their way.
    fn keepalive_alone_is_silent_while_bytes_are_unacknowledged() {
        let server = serve(config(Some(FAST), UserTimeout::Off), Sink);
        let client = server.client();
        if !blackhole(&client) {
            return;
        }
        send(&server, 100);
        assert_open_for(&server, Duration::from_secs(15));
    }

    // D4
    fn an_outage_that_ends_in_time_costs_nothing() {
        let server = serve(config(None, UserTimeout::After(Duration::from_secs(10))), Sink);
        let mut client = server.client();
        if !blackhole(&client) {
            return;
        }
        send(&server, 5000);
        assert_open_for(&server, Duration::from_secs(2));
        util::heal(&client);
        let mut got = vec![0; 5000];
        client.read_exact(&mut got).unwrap();
        assert!(got == pattern(5000));
        assert!(server.events_so_far().iter().all(|event| !matches!(event, Event::Close(..))));
        drop(client);
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.unacked), (CloseReason::PeerClosed, Some(0)), "{report}");
    }

    // D5
    fn a_peer_that_restarted_resets_at_the_first_probe() {
        let server = serve(config(Some(FAST), UserTimeout::Auto), Sink);
        let client = server.client();
        server.opened();
        if !vanish(client) {
            return;
        }
        let (_, report) = server.closed_within(Duration::from_secs(20));
        assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)), "{report}");
        seconds(report.duration, 1, 4);
    }

    // D6
    fn a_live_peer_that_never_reads_is_a_write_stall() {
        let mut config = config(Some(FAST), UserTimeout::Off);
        config.write_stall = Some(Duration::from_secs(3));
        let server = serve(config, streamer());
        let mut client = util::narrow_client(server.addr);
        let (_, report) = server.closed_within(Duration::from_secs(20));
        assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall), "{report}");
        assert_eq!(report.errno, None);
        seconds(report.duration, 3, 6);
        assert!(report.unsent > 0 && report.unacked.is_some_and(|bytes| bytes > 0), "{report}");
        let (_, error) = read_all(&mut client);
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::ConnectionReset));
    }

    // D7: documented at `UserTimeout`. The peer's kernel answers every probe, and yet.
    fn a_user_timeout_also_ends_live_peers_that_never_read() {
        let server = serve(config(Some(FAST), UserTimeout::Auto), streamer());
        let _client = util::narrow_client(server.addr);
        let (_, report) = server.closed_within(Duration::from_secs(20));
        assert_eq!((report.reason, report.errno), (KERNEL, Some(libc::ETIMEDOUT)), "{report}");
        assert!(report.unsent > 0 && report.unacked.is_some_and(|bytes| bytes > 0), "{report}");
        seconds(report.duration, 4, 9);
    }

    // D9: at the defaults, and with every timeout an order of magnitude below. The loopback's 64 KiB
    // segments would open a window only once in many reads, so the segments are those of Ethernet.
    fn a_slow_reader_is_not_a_dead_one() {
        if util::role().is_some() {
            return read_slowly();
        }
        if !util::have("unshare") || !util::have("ip") {
            return;
        }
        let this = util::again("a_slow_reader_is_not_a_dead_one", "slow reader");
        let set_up = r#"ip link set lo up mtu 1500 gso_max_segs 1 && exec "$0" "$@""#;
        let mut inside = Command::new("unshare");
        inside.args(["--net", "sh", "-c", set_up]).arg(this.get_program()).args(this.get_args());
        inside.envs(this.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let probe = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::piped()).output();
        match probe {
            Ok(probe) if probe.status.success() => {}
            probe => return util::skip("root", &format!("unshare --net: {probe:?}")),
        }
        let output = inside.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    }
}

/// Sends 10 kB/s to clients through windows that are closed nearly all the time, for ten seconds;
/// for half a minute with `UNBROKEN_LONG=1`.
fn read_slowly() {
    let link = Command::new("ip").args(["-d", "link", "show", "lo"]).output().unwrap();
    let link = String::from_utf8_lossy(&link.stdout).into_owned();
    assert!(link.contains("mtu 1500") && link.contains("gso_max_segs 1 "), "{link}");
    let mut hasty = config(Some(FAST), UserTimeout::Auto);
    hasty.write_stall = Some(Duration::from_secs(3));
    hasty.send_buffer = Some(32 << 10);
    let mut readers = [hasty, Config::default()].map(|config| {
        let server = serve(config, streamer());
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(32 << 10).unwrap();
        socket.connect(&server.addr.into()).unwrap();
        let client = TcpStream::from(socket);
        util::patient(&client);
        // Only a full window tells a slow reader from a fast one.
        server.wait_stats(|stats| stats.write_eagains > 0);
        (server, client, 0)
    });
    let long = std::env::var_os("UNBROKEN_LONG").is_some_and(|value| value == "1");
    let seconds = if long { 30 } else { 10 };
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        for (_, client, got) in &mut readers {
            *got += client.read(&mut [0; 1000]).unwrap_or_else(|error| panic!("{error} after {got}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for (server, _, got) in readers {
        assert!(server.events_so_far().iter().all(|event| !matches!(event, Event::Close(..))));
        assert!(server.stats().queued > 0, "the reader was not slow");
        assert!(got as u64 > 3_000 * seconds, "{got}");
    }
}

/// Closes a socket without a word to its peer, as a host does that loses power and comes back.
/// False, with a line that says so, where that needs a privilege we lack.
fn vanish(stream: TcpStream) -> bool {
    const TCP_REPAIR: libc::c_int = 19;
    let on: libc::c_int = 1;
    // SAFETY: the option is read from one int, which lives longer than the call.
    let status = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if status != 0 {
        util::skip("CAP_NET_ADMIN", &format!("TCP_REPAIR: {}", std::io::Error::last_os_error()));
    }
    status == 0
}

/// Looks at the socket of this process that connects these two addresses.
fn with_socket<R>(local: SocketAddr, peer: SocketAddr, look: impl Fn(SockRef<'_>) -> R) -> Option<R> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let fds = fds.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for fd in fds {
        // SAFETY: the descriptor was open a moment ago. If it is closed meanwhile, or another one
        // by now, the questions below fail or do not match: nothing is changed through it.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = SockRef::from(&fd);
        let is = |addr: std::io::Result<socket2::SockAddr>, expected| {
            addr.is_ok_and(|addr| addr.as_socket() == Some(expected))
        };
        if is(socket.local_addr(), local) && is(socket.peer_addr(), peer) {
            return Some(look(socket));
        }
    }
    None
}

fn assert_options(socket: SockRef<'_>) {
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(7 + 3 * 5)));
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.out_of_band_inline().unwrap());
    // The kernel doubles both, for its own book-keeping (socket(7)).
    assert_eq!(socket.send_buffer_size().unwrap(), 2 * 30_000);
    assert_eq!(socket.recv_buffer_size().unwrap(), 2 * 20_000);
    // Any other value would block the loop in close.
    assert_eq!(socket.linger().unwrap(), None);
    assert!(socket.nonblocking().unwrap());
}

fn uncommon() -> Config {
    let mut config = Config::default();
    config.keepalive =
        Some(Keepalive { idle: Duration::from_secs(7), interval: Duration::from_secs(3), count: 5 });
    config.send_buffer = Some(30_000);
    config.recv_buffer = Some(20_000);
    config
}

// D10
#[test]
fn accepted_sockets_have_the_options_of_the_configuration() {
    let server = serve(uncommon(), Sink);
    let client = server.client();
    server.opened();
    let checked = with_socket(server.addr, client.local_addr().unwrap(), assert_options);
    checked.expect("the accepted socket is among our descriptors");
}

// D10
#[test]
fn sockets_that_connect_have_them_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = util::serve_with(uncommon(), Sink, move |net| drop(net.connect(addr)));
    let (_accepted, peer) = listener.accept().unwrap();
    server.opened();
    with_socket(peer, addr, assert_options).expect("the connected socket is among our descriptors");
}

// D10
#[test]
fn what_is_switched_off_is_off() {
    let mut config = config(None, UserTimeout::Auto);
    config.nodelay = false;
    let server = serve(config, Sink);
    let client = server.client();
    server.opened();
    let checked = with_socket(server.addr, client.local_addr().unwrap(), |socket| {
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        assert!(!socket.tcp_nodelay().unwrap());
    });
    checked.expect("the accepted socket is among our descriptors");
}

// D11
#[test]
fn a_user_timeout_that_a_lost_probe_would_exceed_is_refused() {
    let refused = |user_timeout| {
        let mut config = config(Some(FAST), UserTimeout::After(user_timeout));
        config.write_stall = Config::default().write_stall;
        Reactor::new(config)
    };
    let error = refused(Duration::from_millis(3999)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("user_timeout"), "{error}");
    assert!(refused(Duration::from_secs(4)).is_ok());
}
