//! The broken pipe in the word's first sense: pipes, FIFOs, terminals and files as connections.

mod retold;
#[path = "../util/mod.rs"]
mod util;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::fs::{fcntl_getfl, OFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use unbroken::{CloseReason, Config, ConnId, Handler, Net, Reactor, SendError, State, Via};
use util::{pattern, serve, Custom, Event, Server};

/// A pipe as a shell makes it: blocking, the end to read from first.
fn pipe() -> (File, File) {
    pipe_of(PipeFlags::empty())
}

fn pipe_of(flags: PipeFlags) -> (File, File) {
    let (reader, writer) = pipe_with(flags | PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

fn echo() -> Server {
    serve(Config::default(), util::Echo)
}

fn add(server: &Server, read: Option<File>, write: Option<File>) -> ConnId {
    let conn = server
        .ask(move |net| net.pipe(read.map(OwnedFd::from), write.map(OwnedFd::from)))
        .expect("what can be watched");
    assert_eq!(server.wait_for(util::SOON, |_| true), Event::Open(conn, Via::Pipe));
    conn
}

#[test]
fn two_pipes_are_a_connection_like_any_other() {
    let server = echo();
    let ((in_reader, mut in_writer), (mut out_reader, out_writer)) = (pipe(), pipe());
    let conn = add(&server, Some(in_reader), Some(out_writer));
    assert_eq!(server.ask(move |net| (net.state(conn), net.peer_addr(conn))), (Some(State::Open), None));
    in_writer.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    out_reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    // The end of the one brings the end of the other.
    drop(in_writer);
    assert_eq!(out_reader.read(&mut got).unwrap(), 0);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received, report.handed), (CloseReason::PeerClosed, 5, 5));
    assert_eq!((report.unsent, report.unacked), (0, Some(0)));
}

#[test]
fn megabytes_pass_through_a_slow_reader_byte_for_byte() {
    let server = echo();
    let ((in_reader, mut in_writer), (mut out_reader, out_writer)) = (pipe(), pipe());
    add(&server, Some(in_reader), Some(out_writer));
    let sent = pattern(8 << 20);
    let writer = {
        let sent = sent.clone();
        thread::spawn(move || in_writer.write_all(&sent).unwrap())
    };
    let mut got = Vec::<u8>::new();
    let mut buf = [0; 3001];
    loop {
        let count = out_reader.read(&mut buf).unwrap();
        got.extend(&buf[..count]);
        match count {
            0 => break,
            // A hundred bytes less are no room for the writer: the kernel counts pages.
            _ if got.len() % 7 == 0 => thread::sleep(Duration::from_micros(50)),
            _ => {}
        }
    }
    writer.join().unwrap();
    assert!(got == sent);
    assert!(server.closed().1.reason.is_clean());
}

#[test]
fn a_pipe_to_read_from_takes_no_sends_and_its_close_waits_for_nobody() {
    let server = echo();
    let (reader, mut writer) = pipe();
    let conn = add(&server, Some(reader), None);
    assert_eq!(server.ask(move |net| net.send(conn, b"x")), Err(SendError::WriteClosed));
    server.ask(move |net| net.close_write(conn));
    writer.write_all(b"heard").unwrap();
    server.wait_for(util::SOON, |event| *event == Event::Data(conn, 5, 5));
    drop(writer);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received, report.saw_fin), (CloseReason::PeerClosed, 5, true));

    let (reader, _writer) = pipe();
    let conn = add(&server, Some(reader), None);
    server.ask(move |net| net.close(conn));
    let (_, report) = server.closed_within(Duration::from_secs(2));
    assert_eq!(report.reason, CloseReason::Finished);
}

#[test]
fn the_end_of_a_reader_who_took_everything_is_the_end_of_the_stream() {
    let server = echo();
    let (mut reader, writer) = pipe();
    let conn = add(&server, None, Some(writer));
    server.ask(move |net| net.send(conn, b"all of it")).unwrap();
    let mut got = [0; 9];
    reader.read_exact(&mut got).unwrap();
    drop(reader);
    server.wait_for(util::SOON, |event| *event == Event::Eof(conn));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed, report.unacked), (CloseReason::PeerClosed, 9, Some(0)));
}

#[test]
fn what_a_reader_left_in_the_pipe_is_counted_to_the_byte() {
    let server = echo();
    let (mut reader, writer) = pipe();
    let conn = add(&server, None, Some(writer));
    server.ask(move |net| net.send(conn, &[1; 1000])).unwrap();
    reader.read_exact(&mut [0; 300]).unwrap();
    drop(reader);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    assert_eq!((report.handed, report.unacked, report.unsent), (1000, Some(700), 0));
    assert!(report.lost_bytes());
}

#[test]
fn a_reader_that_goes_in_the_middle_of_a_write_leaves_an_exact_account() {
    let server = echo();
    let (mut reader, writer) = pipe();
    let conn = add(&server, None, Some(writer));
    server.ask(move |net| net.send(conn, &[1; 500_000])).unwrap();
    let mut taken = vec![0; 100_000];
    reader.read_exact(&mut taken).unwrap();
    drop(reader);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::BrokenPipe);
    assert_eq!(report.handed + report.unsent, 500_000);
    assert_eq!(report.handed - report.unacked.unwrap(), 100_000);
}

#[test]
fn a_broken_write_half_does_not_end_what_comes_in() {
    let server = serve(Config::default(), util::Sink);
    let ((in_reader, mut in_writer), (out_reader, out_writer)) = (pipe(), pipe());
    let conn = add(&server, Some(in_reader), Some(out_writer));
    drop(out_reader);
    server.ask(move |net| net.send(conn, b"nobody reads it")).unwrap();
    util::eventually("the broken pipe", || {
        server.ask(move |net| net.send(conn, b"any more")) == Err(SendError::Closed)
    });
    for _ in 0..3 {
        in_writer.write_all(b"still here").unwrap();
        server.wait_for(util::SOON, |event| *event == Event::Data(conn, 10, 10));
    }
    drop(in_writer);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    assert_eq!((report.received, report.saw_fin), (30, true));
    assert_eq!(report.handed, 0);
    assert!(report.unsent >= 15);
}

#[test]
fn a_close_waits_until_the_reader_has_taken_the_last_byte() {
    let server = echo();
    let (mut reader, writer) = pipe();
    let conn = add(&server, None, Some(writer));
    server.ask(move |net| {
        net.send(conn, &[1; 60_000]).unwrap();
        net.close(conn);
    });
    reader.read_exact(&mut [0; 59_999]).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.ask(move |net| net.state(conn)), Some(State::Flushing));
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 1);
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.unacked), (CloseReason::Finished, Some(0)));

    // The same for the end of one direction.
    let ((in_reader, in_writer), (mut out_reader, out_writer)) = (pipe(), pipe());
    let conn = add(&server, Some(in_reader), Some(out_writer));
    server.ask(move |net| {
        net.send(conn, b"last").unwrap();
        net.close_write(conn);
    });
    thread::sleep(Duration::from_millis(30));
    let mut got: Vec<u8> = Vec::new();
    out_reader.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last");
    assert_eq!(server.ask(move |net| net.state(conn)), Some(State::HalfClosedLocal));
    drop(in_writer);
    assert_eq!(server.closed().1.reason, CloseReason::Finished);
}

#[test]
fn a_reader_that_stops_is_a_write_stall_also_in_a_close() {
    let mut config = Config::default();
    config.write_stall = Some(Duration::from_millis(300));
    let server = serve(config, util::Echo);
    for close in [false, true] {
        let (_reader, writer) = pipe();
        let conn = add(&server, None, Some(writer));
        server.ask(move |net| {
            net.send(conn, &[1; 200_000]).unwrap();
            if close {
                net.close(conn);
            }
        });
        let (_, report) = server.closed();
        assert_eq!(report.reason.name(), "write_stall", "{report}");
        assert_eq!((report.handed + report.unsent, report.unacked), (200_000, Some(report.handed)));
    }
}

#[test]
fn files_and_devices_without_events_are_read_and_written_all_the_same() {
    let server = echo();
    let path = std::env::temp_dir().join(format!("unbroken-pipes-{}", std::process::id()));
    let (content, copy) = (pattern(1 << 20), path.with_extension("copy"));
    std::fs::write(&path, &content).unwrap();
    add(&server, Some(File::open(&path).unwrap()), Some(File::create(&copy).unwrap()));
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 1 << 20));
    assert!(std::fs::read(&copy).unwrap() == content);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&copy).unwrap();

    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    add(&server, Some(null()), Some(null()));
    assert!(server.closed().1.reason.is_clean());

    let error = server.ask(|net| net.pipe(Some(File::open("/").unwrap().into()), None)).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    assert!(server.ask(|net| net.pipe(None, None)).is_err());
}

#[test]
fn a_fifo_ends_with_its_last_writer() {
    let path = std::env::temp_dir().join(format!("unbroken-fifo-{}", std::process::id()));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let server = serve(Config::default(), util::Sink);
    // Held open for a moment, so that neither open waits for the other.
    let both = File::options().read(true).write(true).open(&path).unwrap();
    let conn = add(&server, Some(File::open(&path).unwrap()), None);
    let writers: Vec<_> = (0..2).map(|_| File::options().write(true).open(&path).unwrap()).collect();
    drop(both);
    for mut writer in writers {
        writer.write_all(b"line\n").unwrap();
        server.wait_for(util::SOON, |event| *event == Event::Data(conn, 5, 5));
    }
    assert_eq!(server.closed().1.reason, CloseReason::PeerClosed);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_terminal_is_a_connection_and_the_shells_own_stays_blocking() {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: two numbers are written, the other pointers may be null.
    let status = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(status, 0);
    // SAFETY: they have just been made, for us alone.
    let (mut master, slave) = unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) };
    let server = echo();
    let (read, write) = (slave.try_clone().unwrap(), slave.try_clone().unwrap());
    let conn = add(&server, Some(read), Some(write));
    assert!(!fcntl_getfl(&slave).unwrap().contains(OFlags::NONBLOCK));
    master.write_all(b"typed\n").unwrap();
    server.wait_for(util::SOON, |event| *event == Event::Data(conn, 6, 6));
    let mut got: Vec<u8> = Vec::new();
    // What the terminal itself echoes, and what we do.
    while !got.ends_with(b"typed\r\ntyped\r\n") {
        let mut buf = [0; 100];
        let count = master.read(&mut buf).unwrap();
        got.extend(&buf[..count]);
    }
    drop((slave, master));
    server.closed();
}

/// Both the pipe that can be opened again and the socket that cannot, with a copy that the shell keeps.
fn shared_ends() -> [(OwnedFd, OwnedFd, bool); 2] {
    let (reader, writer) = pipe();
    std::mem::forget(writer);
    let (one, other) = UnixStream::pair().unwrap();
    std::mem::forget(other);
    [
        (reader.try_clone().unwrap().into(), reader.into(), false),
        (one.try_clone().unwrap().into(), one.into(), true),
    ]
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn a_standard_input_that_the_shell_shares_is_put_back_as_it_was() {
    let server = echo();
    for (fd, shells, changes) in shared_ends() {
        let conn = add(&server, Some(fd.into()), None);
        assert_eq!(is_nonblocking(&shells), changes, "while it is in use");
        server.ask(move |net| net.close(conn));
        server.closed();
        util::eventually("the flag is back", || !is_nonblocking(&shells));
    }
    // Its events are gone as well, although the open file lives on.
    assert_eq!(server.stats().stale_events, 0);
}

#[test]
fn a_panic_or_a_reactor_that_is_dropped_puts_it_back_too() {
    struct Panics;
    impl Handler for Panics {
        fn on_open(&mut self, _: &mut Net, _: ConnId, _: Via) {
            panic!("as tests do");
        }
        fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
            data.len()
        }
    }
    for panics in [false, true] {
        for (fd, shells, _) in shared_ends() {
            let result = thread::spawn(move || {
                let mut reactor = Reactor::new(Config::default()).unwrap();
                reactor.net().pipe(Some(fd), None).unwrap();
                if panics {
                    reactor.run(&mut Panics).unwrap();
                }
            })
            .join();
            assert_eq!(result.is_err(), panics);
            assert!(!is_nonblocking(&shells));
        }
    }
}

fn set_sigpipe_default() {
    // SAFETY: no precondition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[test]
fn a_host_that_left_sigpipe_alone_survives_every_broken_pipe() {
    const NAME: &str = "a_host_that_left_sigpipe_alone_survives_every_broken_pipe";
    if util::role().is_none() {
        let output = util::again(NAME, "default").output().unwrap();
        return assert!(output.status.success(), "{output:#?}");
    }
    set_sigpipe_default();
    let server = serve(Config::default(), Custom::default());
    type Write = fn(&mut Net, ConnId);
    let writes: [Write; 3] = [
        |net, conn| {
            let _ = net.send(conn, b"small");
        },
        |net, conn| {
            for _ in 0..20 {
                let _ = net.send_bytes(conn, vec![1; 1000].into());
            }
        },
        |net, conn| {
            let _ = net.send(conn, &[2; 100_000]);
        },
    ];
    for write in writes {
        let ((in_reader, in_writer), (out_reader, out_writer)) = (pipe(), pipe());
        let conn = add(&server, Some(in_reader), Some(out_writer));
        drop(out_reader);
        server.ask(move |net| write(net, conn));
        drop(in_writer);
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    }
    // A reader that goes while the pipe is full, and one that is gone before.
    for full in [true, false] {
        let (reader, writer) = pipe();
        let conn = add(&server, None, Some(writer));
        if full {
            server.ask(move |net| net.send(conn, &[3; 200_000])).unwrap();
        }
        drop(reader);
        let _ = server.ask(move |net| net.send(conn, b"x"));
        let (_, report) = server.closed();
        assert!(report.reason == CloseReason::BrokenPipe || !full, "{report}");
    }
}

#[test]
fn a_descriptor_that_is_no_socket_is_not_given_away() {
    let server = echo();
    let (reader, writer) = pipe();
    let conn = add(&server, Some(reader), None);
    assert!(server.ask(move |net| net.detach(conn).is_none()));
    assert!(writer.as_raw_fd() > 0);
}
