//! A host process with SIGPIPE at its default survives every write of the engine to a broken
//! connection, and finds its signals as it left them.
//!
//! What is tested concerns a whole process, so each test starts this program again.

mod util;

use std::io::{IoSlice, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use socket2::SockRef;
use unbroken::{Bytes, CloseReason, CloseReport, Config, ConnId, Net, Reactor, Via};
use util::{serve_with, Custom, Server};

fn set_sigpipe(disposition: libc::sighandler_t) {
    // SAFETY: neither disposition runs any code of ours.
    assert_ne!(unsafe { libc::signal(libc::SIGPIPE, disposition) }, libc::SIG_ERR);
}

fn block_sigpipe() {
    // SAFETY: an empty set is made valid by sigemptyset; it lives longer than the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
    }
}

/// The state of this thread's and its process's signals.
fn signals() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc");
    let lines = status.lines().filter(|line| line.starts_with("Sig") || line.starts_with("ShdPnd"));
    // SigQ counts what is queued for the whole user.
    lines.filter(|line| !line.starts_with("SigQ")).map(str::to_owned).collect()
}

fn run(test: &str, role: &str) -> Output {
    util::again(test, role).output().expect("this program starts again")
}

fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:#?}");
}

fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("unbroken-{name}-{}", std::process::id()))
}

/// Reads nothing until it is told to: so it is a write that finds the pipe broken.
fn writes_only() -> Custom {
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    Custom { open: Some(Box::new(open)), ..Custom::default() }
}

/// The descriptor in this process of the socket that is connected to `peer`.
fn socket_to(peer: SocketAddr) -> RawFd {
    let fds = std::fs::read_dir("/proc/self/fd").expect("/proc");
    let mut fds = fds.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    fds.find(|fd| peer_of(*fd).is_some_and(|addr| addr == peer)).expect("a connected socket")
}

fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: only one question is asked through it, which fails on what is closed or no socket.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    SockRef::from(&fd).peer_addr().ok()?.as_socket()
}

/// Waits until a reset has come in: then a socket has no peer any more, and a write to it fails.
fn wait_for_reset(fd: RawFd) {
    util::eventually("the reset", || peer_of(fd).is_none());
}

type Write = fn(&mut Net, ConnId);

/// Every way that bytes take out of the engine.
const WRITES: [(&str, Write); 3] = [
    ("plain", |net, conn| {
        let _ = net.send(conn, b"a small piece");
    }),
    ("gathered", |net, conn| {
        for _ in 0..20 {
            let _ = net.send_bytes(conn, Bytes::from(vec![1; 10_000]));
        }
    }),
    ("written through", |net, conn| {
        let _ = net.send(conn, &[2; 100_000]);
    }),
];

/// The report of a connection that was not read from until its write had failed.
fn report_after_write(server: &Server, conn: ConnId, write: Write) -> CloseReport {
    server.ask(move |net| write(net, conn));
    server.ask(move |net| net.resume_reading(conn));
    let (closed, report) = server.closed();
    assert_eq!(closed, conn);
    report
}

fn break_every_pipe() {
    set_sigpipe(libc::SIG_DFL);
    let path = socket_path("sigpipe");
    let unix = format!("unix:{}", path.display());
    let server = serve_with(Config::default(), writes_only(), move |net| {
        net.listen(unix.as_str()).expect("a path of our own");
    });
    for (name, write) in WRITES {
        // A peer that closed: the first write is answered with a reset, the second is EPIPE, the
        // one that kills.
        let client = server.client();
        let (conn, ours) = (server.opened(), socket_to(client.local_addr().unwrap()));
        drop(client);
        server.ask(move |net| net.send(conn, b"into the void")).unwrap();
        wait_for_reset(ours);
        let report = report_after_write(&server, conn, write);
        assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)), "{name}");
        assert!(report.unsent > 0, "{name}: {report}");

        // A peer that reset.
        let client = server.client();
        let (conn, ours) = (server.opened(), socket_to(client.local_addr().unwrap()));
        util::reset(client);
        wait_for_reset(ours);
        let report = report_after_write(&server, conn, write);
        assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)), "{name}");

        // A Unix-domain socket knows no grace: EPIPE at once.
        let client = UnixStream::connect(&path).unwrap();
        let conn = server.opened();
        drop(client);
        let report = report_after_write(&server, conn, write);
        assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)), "{name}");
    }
}

/// What a program does that calls `writev` itself.
fn break_a_pipe_without_the_engine() {
    set_sigpipe(libc::SIG_DFL);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    drop(client);
    server.write_all(b"into the void").unwrap();
    wait_for_reset(server.as_raw_fd());
    let _ = server.write_vectored(&[IoSlice::new(b"one"), IoSlice::new(b"two")]);
}

// S1
#[test]
fn a_host_that_left_sigpipe_alone_survives_every_broken_pipe() {
    const NAME: &str = "a_host_that_left_sigpipe_alone_survives_every_broken_pipe";
    match util::role().as_deref() {
        None => {
            assert_passed(&run(NAME, "engine"));
            // The same, written by hand, is killed: the proof that the above could fail.
            let control = run(NAME, "control");
            assert_eq!(control.status.signal(), Some(libc::SIGPIPE), "{control:#?}");
        }
        Some("engine") => break_every_pipe(),
        Some(_) => break_a_pipe_without_the_engine(),
    }
}

/// Compares the signals of this thread, which the engine runs on, before and after.
fn break_a_hundred_pipes_on_this_thread() {
    let before = signals();
    assert!(before.len() >= 5, "{before:?}");
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let path = socket_path("signals");
    reactor.net().listen(path.clone()).unwrap();
    assert_eq!(signals(), before, "after the creation");

    let (opened, newcomers) = std::sync::mpsc::channel();
    let (closed, reports) = std::sync::mpsc::channel();
    let open = move |net: &mut Net, conn, _: Via| {
        net.pause_reading(conn);
        opened.send(conn).unwrap();
    };
    let close = move |_: &mut Net, _, report: &CloseReport| closed.send(report.errno).unwrap();
    let mut handler =
        Custom { open: Some(Box::new(open)), close: Some(Box::new(close)), ..Custom::default() };
    for round in 0..100 {
        let client = UnixStream::connect(&path).unwrap();
        let conn = loop {
            if let Ok(conn) = newcomers.try_recv() {
                break conn;
            }
            reactor.turn(&mut handler, Some(Duration::from_secs(1))).unwrap();
        };
        drop(client);
        let (_, write) = WRITES[round % WRITES.len()];
        write(reactor.net(), conn);
        let errno = loop {
            reactor.net().resume_reading(conn);
            reactor.turn(&mut handler, Some(Duration::from_secs(1))).unwrap();
            if let Ok(errno) = reports.try_recv() {
                break errno;
            }
        };
        assert_eq!(errno, Some(libc::EPIPE), "round {round}");
    }
    assert_eq!(signals(), before, "after a hundred broken pipes");
    drop(reactor);
    assert_eq!(signals(), before, "after the end");
}

// S3
#[test]
fn the_engine_leaves_the_signals_of_its_host_alone() {
    const NAME: &str = "the_engine_leaves_the_signals_of_its_host_alone";
    match util::role().as_deref() {
        None => {
            for role in ["default", "ignored", "blocked"] {
                assert_passed(&run(NAME, role));
            }
            return;
        }
        Some("default") => set_sigpipe(libc::SIG_DFL),
        Some("ignored") => set_sigpipe(libc::SIG_IGN),
        // A blocked SIGPIPE stays pending and kills later, unless it is never raised.
        Some(_) => {
            set_sigpipe(libc::SIG_DFL);
            block_sigpipe();
        }
    }
    break_a_hundred_pipes_on_this_thread();
}

/// The sockets, polls and the like that a child of this process finds open; its own pipes aside.
fn inherited() -> Vec<String> {
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().expect("ls");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let targets = lines.lines().filter_map(|line| line.split(" -> ").nth(1));
    targets.filter(|target| target.contains(':') && !target.starts_with("pipe:")).map(str::to_owned).collect()
}

// S4
#[test]
fn a_child_of_a_callback_has_its_sigpipe_and_none_of_our_sockets() {
    let (answer, answers) = std::sync::mpsc::channel();
    // Whoever started this program may have left it something.
    let before = inherited();
    let open = move |_: &mut Net, _, _: Via| {
        let killed = Command::new("sh").args(["-c", "kill -PIPE $$; echo survived"]).output();
        answer.send((inherited(), killed.unwrap())).unwrap();
    };
    let server = util::serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = server.client();
    let (found, killed) = answers.recv_timeout(util::SOON).unwrap();
    assert_eq!(killed.status.signal(), Some(libc::SIGPIPE), "{killed:?}");
    assert_eq!(found, before);
    // No copy of the connection lives on in the children: the peer sees its end at once.
    let conn = server.opened();
    server.ask(move |net| net.close(conn));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

// S1
#[test]
fn a_c_program_with_sigpipe_at_its_default_survives() {
    if !util::have("cc") {
        return;
    }
    let library = util::example("libc_host.a");
    let program = std::env::temp_dir().join(format!("unbroken-c-host-{}", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c_host/main.c");
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .arg(&library)
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-lutil", "-lrt"])
        .output()
        .expect("cc runs");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    // std gives its children SIGPIPE at its default, although this process ignores it.
    let output = Command::new(&program).output().expect("the program starts");
    std::fs::remove_file(&program).expect("it is ours");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}: {text}", output.status);
    assert_eq!(text, "alive after 20 broken sockets and 20 broken pipes\n");
}
