//! The process: signals, exit statuses, a standard output that goes away, the path of a Unix
//! listener, and the system calls that bytes leave through.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{exit_of, Lab};
use crate::lines::path;
use crate::util::{eventually, have, pattern, SOON};

// G1
#[test]
fn a_shutdown_delivers_what_is_on_its_way() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut lab = Lab::start(&["--drain", "9s", "--sndbuf", "4096"]);
        let idle = lab.client("ECHO\n");
        let clients: Vec<_> = (0..10).map(|_| lab.narrow("SEND 300000\n")).collect();
        for client in &clients {
            lab.told(client, "congested");
        }
        let addr = lab.addr();
        lab.signal(signal);
        eventually("it accepts nobody any more", || TcpStream::connect(addr).is_err());
        let readers: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                std::thread::spawn(move || {
                    assert!(client.read_to_eof() == pattern(300_000));
                    client.gone()
                })
            })
            .collect();
        let gone: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        drop(idle);
        assert_eq!(lab.exit().code(), Some(0));
        for client in gone {
            assert_eq!(lab.closed(&client).account(), ("finished", 12, 300_000, 0));
        }
    }
}

// G2
#[test]
fn the_drain_deadline_cuts_off_who_does_not_read() {
    let mut lab = Lab::start(&["--drain", "500ms", "--sndbuf", "4096"]);
    let mut stuck = lab.narrow("SEND 1000000\n");
    lab.told(&stuck, "congested");
    let began = Instant::now();
    lab.signal(Signal::TERM);
    assert_eq!(lab.exit().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    let closed = lab.closed(&stuck);
    assert_eq!((closed.reason.as_str(), closed.errno, closed.saw_fin), ("shutdown", None, false));
    assert!(closed.unsent > 0 && closed.handed + closed.unsent == 1_000_000, "{closed:?}");
    assert!(stuck.read_to_reset().len() < 1_000_000);
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut lab = Lab::start(&["--drain", "2m", "--linger-idle", "2m", "--linger-total", "2m"]);
        let stuck = lab.narrow("SEND 4000000\n");
        lab.told(&stuck, "congested");
        let addr = lab.addr();
        lab.signal(first);
        eventually("it drains", || TcpStream::connect(addr).is_err());
        assert!(lab.child.try_wait().unwrap().is_none(), "it still drains");
        lab.signal(second);
        assert_eq!(lab.exit().code(), Some(0));
        assert_eq!(lab.closed(&stuck).reason, "shutdown");
    }
}

/// Starts it with a pipe that the caller may close.
fn piped(args: &[&str]) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(crate::util::example("lab"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout))
}

#[test]
fn a_closed_standard_output_ends_it_quietly_at_the_next_line() {
    let path = path("closed-output");
    let unix = format!("unix:{}", path.display());
    let (mut child, mut stdout) = piped(&["--listen", "127.0.0.1:0", "--listen", &unix]);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let first: serde_json::Value = serde_json::from_str(&line).unwrap();
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert!(path.exists());
    drop(stdout);
    assert!(child.try_wait().unwrap().is_none(), "nothing to say yet");
    // The next line is about this client.
    let mut client = TcpStream::connect(first["addr"].as_str().unwrap()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let _ = client.read(&mut [0; 1]);
    assert_eq!(exit_of(&mut child).code(), Some(0));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "");
    assert!(!path.exists());
}

#[test]
fn a_standard_output_that_was_never_open_is_no_reason_to_panic() {
    for (args, status) in [(&[][..], 0), (&["--help"], 0), (&["--nonsense"], 2)] {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let mut child = Command::new(crate::util::example("lab"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(std::os::fd::OwnedFd::from(writer.try_clone().unwrap()))
            .stderr(std::os::fd::OwnedFd::from(writer))
            .spawn()
            .unwrap();
        assert_eq!(exit_of(&mut child).code(), Some(status), "{args:?}");
    }
    let help = Command::new(crate::util::example("lab")).arg("--help").output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for option in ["--listen", "--keepalive", "--user-timeout", "--overflow", "--max-connections", "--drain"]
    {
        assert!(help.contains(option), "{option}: {help}");
    }
}

#[test]
fn the_path_of_a_unix_listener_goes_at_the_end_and_a_stale_one_is_replaced() {
    let path = path("path");
    let unix = format!("unix:{}", path.display());
    let (mut killed, mut stdout) = piped(&["--listen", &unix]);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(path.exists() && UnixStream::connect(&path).is_err(), "it is stale now");

    let mut lab = Lab::start(&["--listen", &unix]);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"ECHO\nhello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).unwrap();
    assert_eq!(echoed, b"hello");
    lab.signal(Signal::TERM);
    assert_eq!(lab.exit().code(), Some(0));
    assert!(!path.exists());
}

// S2
#[test]
fn no_byte_leaves_through_a_socket_without_msg_nosignal() {
    if !have("strace") {
        return;
    }
    let trace = std::env::temp_dir().join(format!("unbroken-lab-{}.strace", std::process::id()));
    let unix = path("strace");
    let mut command = Command::new("strace");
    // -D: the lab itself is our child, and gets our signals.
    command.args(["-D", "-f", "-y", "-qq", "-o"]).arg(&trace).args(["-e", "signal=none", "-e"]);
    command.arg("trace=write,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,sendfile,splice,exit_group");
    command.arg(crate::util::example("lab")).args([
        "--listen",
        "127.0.0.1:0",
        "--drain",
        "100ms",
        "--sndbuf",
        "4096",
    ]);
    command.args(["--listen", &format!("unix:{}", unix.display())]);
    let mut lab = Lab::run(command, 2);
    lab.may_panic();
    // Whole and partial writes, pieces, shared buffers, a write that fails, a panic, a Unix socket.
    let mut slow = lab.narrow("SENDCLOSE 300000\n");
    assert_eq!(slow.read_to_eof().len(), 300_000);
    lab.closed(&slow.gone());
    let mut client = lab.client("FLOOD 50000\n");
    client.read_exactly(50_000);
    let mut room = lab.client("ROOM\nhello\n");
    assert_eq!(room.read_exactly(6), b"hello\n");
    let broken = lab.closed(&lab.client("TWICE 50\n").gone());
    assert_eq!(broken.reason, "broken_pipe");
    assert_eq!(lab.client("STATS\n").read_to_eof().last(), Some(&b'\n'));
    lab.client("PANIC\nx").read_to_reset();
    let mut local = UnixStream::connect(&unix).unwrap();
    local.write_all(b"SENDCLOSE 1000\n").unwrap();
    let mut got = Vec::new();
    local.read_to_end(&mut got).unwrap();
    assert_eq!(got, pattern(1000));
    lab.signal(Signal::TERM);
    assert_eq!(lab.exit().code(), Some(0));
    drop(lab);

    let mut calls = String::new();
    eventually("strace has written all", || {
        calls = std::fs::read_to_string(&trace).unwrap();
        calls.contains("exit_group(0)")
    });
    std::fs::remove_file(&trace).unwrap();
    let on_sockets: Vec<_> = calls
        .lines()
        // The first argument, with what -y says of it.
        .filter(|call| {
            call.split(',').next().is_some_and(|fd| ["socket:", "TCP", "UNIX"].iter().any(|s| fd.contains(s)))
        })
        .collect();
    assert!(on_sockets.len() > 10, "{calls}");
    for call in on_sockets {
        // A call that another thread's interrupts is shown in two lines, its flags in the second.
        let whole = !call.contains("<unfinished ...>");
        let ours = call.contains(" sendmsg(") || call.contains(" sendto(");
        assert!(ours && (!whole || call.contains("MSG_NOSIGNAL")), "{call}");
    }
    let is_resumed = |call: &&str| ["sendmsg resumed>", "sendto resumed>"].iter().any(|it| call.contains(it));
    for call in calls.lines().filter(is_resumed) {
        assert!(call.contains("MSG_NOSIGNAL"), "{call}");
    }
    // One slice goes by the one, several by the other.
    assert!(calls.contains(" sendto(") && calls.contains(" sendmsg("), "{calls}");
}
