//! The command line: what each option does, and that what makes no sense is refused in one line.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use socket2::{SockRef, Socket};

use crate::harness::{Lab, Who};
use crate::lines::path;
use crate::util::{eventually, pattern, read_all, skip};

/// Runs the lab with arguments that it must refuse. Gives its line.
fn refused(args: &[&str]) -> String {
    let output = Command::new(crate::util::example("lab")).args(args).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?}: {:?}", output.stdout);
    assert!(
        errors.ends_with('\n') && errors.lines().count() == 1 && errors.len() > 10,
        "{args:?}: {errors:?}"
    );
    errors
}

#[test]
fn bad_usage_is_refused_with_one_line_that_names_it() {
    let cases: &[(&[&str], &str)] = &[
        (&["--nonsense"], "--nonsense"),
        (&["--nonsense", "5"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["-x"], "-x"),
        (&[""], "\"\""),
        (&["--bad\nline"], "--bad"),
        (&["--listen"], "--listen"),
        (&["--listen", "localhost:80"], "localhost:80"),
        (&["--listen", "127.0.0.1"], "127.0.0.1"),
        (&["--listen", "127.0.0.1:99999"], "127.0.0.1:99999"),
        (&["--listen", "unix:"], "unix:"),
        (&["--listen="], "--listen"),
        (&["--keepalive", "60"], "--keepalive"),
        (&["--keepalive", "60/10"], "--keepalive"),
        (&["--keepalive", "60/10/6/1"], "--keepalive"),
        (&["--keepalive", "60s/10/6"], "--keepalive"),
        (&["--keepalive", "on"], "--keepalive"),
        (&["--user-timeout", "120"], "--user-timeout"),
        (&["--user-timeout", "never"], "--user-timeout"),
        (&["--write-stall", "-1s"], "--write-stall"),
        (&["--idle", "5h"], "--idle"),
        (&["--idle", "1.2.3s"], "--idle"),
        (&["--idle", "1e3s"], "--idle"),
        (&["--idle", "infs"], "--idle"),
        (&["--idle", "ms"], "--idle"),
        (&["--linger-idle", "off"], "--linger-idle"),
        (&["--linger-total", ""], "--linger-total"),
        (&["--linger-bytes", "1g"], "--linger-bytes"),
        (&["--high-water", "-5"], "--high-water"),
        (&["--low-water", "k"], "--low-water"),
        (&["--max-write-buffer", "1.5m"], "--max-write-buffer"),
        (&["--total-write-buffer", "99999999999999999999"], "--total-write-buffer"),
        (&["--max-read-buffer", "18446744073709551615k"], "--max-read-buffer"),
        (&["--overflow", "panic"], "--overflow"),
        (&["--sndbuf", "big"], "--sndbuf"),
        (&["--rcvbuf", ""], "--rcvbuf"),
        (&["--max-connections", "some"], "--max-connections"),
        (&["--drain", "5"], "--drain"),
        (&["--drain"], "--drain"),
        (&["--listen", "127.0.0.1:0", "--drain"], "--drain"),
    ];
    for (args, named) in cases {
        let line = refused(args);
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn an_argument_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let bad = std::ffi::OsStr::from_bytes(b"--listen=\xff");
    let output = Command::new(crate::util::example("lab")).arg(bad).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}

// D11
#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["--low-water", "64k", "--high-water", "32k"], "low_water"),
        (&["--high-water", "32m"], "high_water"),
        (&["--high-water", "0"], "high_water"),
        (&["--keepalive", "60/10/6", "--user-timeout", "3s"], "user_timeout"),
        (&["--user-timeout", "3s"], "user_timeout"),
        (&["--keepalive", "0/10/6"], "keepalive"),
        (&["--keepalive", "60/10/200"], "keepalive"),
        (&["--keepalive", "40000/10/6"], "keepalive"),
        (&["--write-stall", "0s"], "write_stall"),
        (&["--idle", "0ms"], "idle"),
        (&["--linger-idle", "0s"], "linger_idle"),
        (&["--linger-total", "0s"], "linger_total"),
        (&["--max-read-buffer", "0"], "max_read_buffer"),
        (&["--sndbuf", "0"], "send_buffer"),
        (&["--rcvbuf", "4096m"], "recv_buffer"),
        (&["--max-connections", "0"], "max_connections"),
    ];
    for (args, named) in cases {
        let line = refused(args);
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_refused() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    assert!(refused(&["--listen", &addr]).contains(&addr));
    // TEST-NET-1 (RFC 5737) is nobody's.
    assert!(refused(&["--listen", "192.0.2.1:0"]).contains("192.0.2.1:0"));
    let nowhere = "unix:/nonexistent/lab.sock";
    assert!(refused(&["--listen", nowhere]).contains(nowhere));
    refused(&["--listen", &format!("unix:/tmp/{}", "x".repeat(200))]);

    // Somebody listens on the path, or it is no socket: either stays as it is.
    let path = path("busy");
    let listening = UnixListener::bind(&path).unwrap();
    refused(&["--listen", &format!("unix:{}", path.display())]);
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(listening);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    refused(&["--listen", &format!("unix:{}", path.display())]);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();

    // A path that was bound before another address failed goes again.
    refused(&["--listen", &format!("unix:{}", path.display()), "--listen", &addr]);
    assert!(!path.exists());
}

#[test]
fn every_option_may_come_in_one_word_or_in_two() {
    let options: &[(&str, &str)] = &[
        ("--listen", "127.0.0.1:0"),
        ("--keepalive", "30/5/3"),
        ("--user-timeout", "2m"),
        ("--write-stall", "1.5s"),
        ("--idle", "off"),
        ("--linger-idle", "500ms"),
        ("--linger-total", "1m"),
        ("--linger-bytes", "64m"),
        ("--high-water", "32k"),
        ("--low-water", "1000"),
        ("--max-write-buffer", "1m"),
        ("--total-write-buffer", "2m"),
        ("--max-read-buffer", "128k"),
        ("--overflow", "refuse"),
        ("--sndbuf", "64k"),
        ("--rcvbuf", "64k"),
        ("--max-connections", "10"),
        ("--drain", "0s"),
    ];
    let two: Vec<_> = options.iter().flat_map(|(name, value)| [*name, *value]).collect();
    let one: Vec<_> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let one: Vec<_> = one.iter().map(String::as_str).collect();
    for args in [two, one] {
        let lab = Lab::start(&args);
        let mut client = lab.client("SENDCLOSE 100000\n");
        assert!(client.read_to_eof() == pattern(100_000));
    }
}

#[test]
fn it_listens_on_every_address_and_by_itself_on_a_free_port_of_the_loopback() {
    let lab = Lab::start(&[]);
    assert!(lab.addr().ip().is_loopback() && lab.addr().port() != 0, "{:?}", lab.addrs);
    let path = path("every");
    let unix = format!("unix:{}", path.display());
    let lab = Lab::start(&["--listen", "127.0.0.1:0", "--listen", &unix, "--listen=127.0.0.1:0"]);
    assert_eq!(lab.addrs[1], unix);
    for place in [0, 2] {
        let addr: SocketAddr = lab.addrs[place].parse().unwrap();
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.write_all(b"SENDCLOSE 3\n").unwrap();
        assert_eq!(read_all(&mut stream).0, [0, 1, 2]);
    }
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"SENDCLOSE 3\n").unwrap();
    assert_eq!(read_all(&mut stream).0, [0, 1, 2]);
}

/// The lab's end of a client's connection, borrowed out of its process.
fn lab_end(lab: &Lab, client: &impl Who) -> Option<Socket> {
    let pid = Pid::from_child(&lab.child);
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).ok()? {
        let number = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let fd: OwnedFd = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let socket = Socket::from(fd);
        let peer = socket.peer_addr().ok().and_then(|addr| addr.as_socket());
        if peer.is_some_and(|peer| peer.to_string() == client.peer()) {
            return Some(socket);
        }
    }
    None
}

// D10
#[test]
fn accepted_sockets_have_the_options_asked_for() {
    // Keepalive and user timeout: asked for, and what the kernel is told, in seconds.
    type Case = (&'static [&'static str], Option<(u64, u64, u32)>, Option<u64>);
    let cases: [Case; 6] = [
        (&[], Some((60, 10, 6)), Some(120)),
        (&["--keepalive", "70/8/5"], Some((70, 8, 5)), Some(110)),
        (&["--keepalive", "70/8/5", "--user-timeout", "auto"], Some((70, 8, 5)), Some(110)),
        (&["--keepalive", "70/8/5", "--user-timeout", "off"], Some((70, 8, 5)), None),
        (&["--user-timeout", "2.5m"], Some((60, 10, 6)), Some(150)),
        (&["--keepalive", "off"], None, None),
    ];
    for (args, keepalive, timeout) in cases {
        let lab = Lab::start(args);
        let client = lab.client("SINK\n");
        lab.conn(&client);
        let Some(socket) = lab_end(&lab, &client) else { return skip("root", "pidfd_getfd") };
        assert_eq!(socket.keepalive().unwrap(), keepalive.is_some(), "{args:?}");
        if let Some((idle, interval, count)) = keepalive {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(idle));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(interval));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), count);
        }
        let set = socket.tcp_user_timeout().unwrap().filter(|timeout| !timeout.is_zero());
        assert_eq!(set, timeout.map(Duration::from_secs), "{args:?}");
    }
    let lab = Lab::start(&["--sndbuf", "20k", "--rcvbuf", "30000"]);
    let client = lab.client("SINK\n");
    lab.conn(&client);
    let Some(socket) = lab_end(&lab, &client) else { return skip("root", "pidfd_getfd") };
    // The kernel doubles what it is asked for (socket(7)).
    assert_eq!(SockRef::from(&socket).send_buffer_size().unwrap(), 2 * (20 << 10));
    assert_eq!(SockRef::from(&socket).recv_buffer_size().unwrap(), 2 * 30_000);
}

#[test]
fn watermarks_and_caps_are_where_they_were_put() {
    let lab = Lab::start(&["--high-water", "200k", "--low-water", "100k", "--sndbuf", "4096"]);
    let mut client = lab.narrow("FLOOD 1000000\n");
    // The first multiple of 1000 at or above 204,800.
    assert_eq!(lab.told(&client, "congested").queued(), 205_000);
    client.read_exactly(1_000_000);
    let drained = lab.told(&client, "drain").queued();
    assert!(drained <= 100 << 10 && drained > 16 << 10, "{drained}");

    // A mark that is given alone draws along those that its default would contradict.
    for (option, size, bytes) in [
        ("--high-water", "1k", 1024),
        ("--max-write-buffer", "8k", 8192),
        ("--total-write-buffer", "4k", 4096),
    ] {
        let lab = Lab::start(&[option, size]);
        let mut client = lab.client(format!("SEND {bytes}\n"));
        assert_eq!(lab.told(&client, "congested").queued(), bytes);
        assert_eq!(client.read_exactly(bytes), pattern(bytes));
    }
}

#[test]
fn at_the_cap_of_all_connections_who_does_not_get_on_pays() {
    let args = ["--total-write-buffer", "1m", "--sndbuf", "4096"];
    let lab = Lab::start(&args);
    let mut large = lab.narrow("SEND 900000\n");
    lab.told(&large, "congested");
    // Long enough for everybody to see that it does not get on.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut small = lab.client("SEND 500000\n");
    assert!(small.read_exactly(500_000) == pattern(500_000));
    assert_eq!(lab.closed(&large).reason, "slow_consumer");
    assert!(large.read_to_reset().len() < 900_000);

    // Under the other policy it is whoever asks that is refused.
    let lab = Lab::start(&[&args[..], &["--overflow", "refuse"]].concat());
    let mut large = lab.narrow("SEND 900000\n");
    lab.told(&large, "congested");
    let mut small = lab.client("SENDCLOSE 500000\n");
    assert_eq!(small.read_to_eof(), b"");
    assert!(large.read_exactly(900_000) == pattern(900_000));
}

#[test]
fn max_read_buffer_bounds_what_waits_for_the_end_of_its_line() {
    let lab = Lab::start(&["--max-read-buffer", "2k"]);
    let mut client = lab.client("ROOM\n");
    client.write_all(&[b'x'; 5000]).unwrap();
    assert_eq!(lab.closed(&client).account(), ("input_overflow", 5005, 0, 0));
}

// A3
#[test]
fn clients_beyond_max_connections_wait_until_one_ends() {
    let lab = Lab::start(&["--max-connections", "2"]);
    let first = lab.client("SINK\n");
    let second = lab.client("SINK\n");
    lab.conn(&first);
    lab.conn(&second);
    let mut third = lab.client("SEND 100\n");
    third.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(read_all(&mut *third).1.is_some_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    third.set_read_timeout(Some(crate::util::SOON)).unwrap();
    let gone = first.gone();
    assert_eq!(third.read_exactly(100), pattern(100));
    let ended = lab.closed(&gone).at;
    eventually("the third one opened when the first had ended", || lab.told(&third, "open").at >= ended);
}
