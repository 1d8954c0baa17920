//! Child processes whose standard input and output are a connection, and descriptors that are watched.

mod util;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{eventfd, EventfdFlags};
use unbroken::{
    ChildId, CloseReason, CloseReport, Config, ConnId, Handle, Handler, Interest, Net, Reactor, Ready, Via,
    WatchId,
};

#[derive(Debug, PartialEq)]
enum Told {
    Open(ConnId, Via),
    Data(Vec<u8>),
    Eof,
    Exit(ChildId, ExitStatus),
    Ready(WatchId, Ready),
    Close(CloseReport),
}

/// Tells the test everything. Reads one number from a watched descriptor whenever asked to.
struct Tells(Sender<Told>, bool);

impl Tells {
    fn tell(&self, told: Told) {
        let _ = self.0.send(told);
    }
}

impl Handler for Tells {
    fn on_open(&mut self, _: &mut Net, conn: ConnId, via: Via) {
        self.tell(Told::Open(conn, via));
    }
    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        self.tell(Told::Data(data.to_vec()));
        data.len()
    }
    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.tell(Told::Eof);
        net.close(conn);
    }
    fn on_exit(&mut self, _: &mut Net, child: ChildId, status: ExitStatus) {
        self.tell(Told::Exit(child, status));
    }
    fn on_ready(&mut self, net: &mut Net, watch: WatchId, ready: Ready) {
        if self.1 && ready.readable {
            let fd = net.watched(watch).expect("it is watched");
            let mut count = [0; 8];
            rustix::io::read(fd, &mut count).unwrap();
        }
        self.tell(Told::Ready(watch, ready));
    }
    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.tell(Told::Close(report.clone()));
    }
}

struct Stage {
    handle: Handle,
    told: Receiver<Told>,
    thread: Option<thread::JoinHandle<()>>,
}

fn stage(reads: bool) -> Stage {
    let (tells, told) = channel();
    let (ready, is_ready) = channel();
    let thread = thread::spawn(move || {
        let mut reactor = Reactor::new(Config::default()).unwrap();
        ready.send(reactor.net().handle()).unwrap();
        reactor.run(&mut Tells(tells, reads)).unwrap();
    });
    Stage { handle: is_ready.recv().unwrap(), told, thread: Some(thread) }
}

impl Stage {
    fn ask<R: Send + 'static>(&self, question: impl FnOnce(&mut Net) -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        self.handle.run(move |net| drop(answer.send(question(net)))).unwrap();
        answered.recv_timeout(util::SOON).unwrap()
    }

    fn next(&self) -> Told {
        self.told.recv_timeout(util::SOON).expect("something is told")
    }

    fn sh(&self, script: &'static str) -> (ConnId, ChildId) {
        let (conn, child) = self.ask(move |net| net.spawn(Command::new("sh").args(["-c", script]))).unwrap();
        assert_eq!(self.next(), Told::Open(conn, Via::Child));
        (conn, child)
    }

    /// Everything until both the exit and the close have come: the output, the status, the report.
    fn finish(&self) -> (Vec<u8>, ExitStatus, CloseReport) {
        let (mut output, mut exit, mut report) = (Vec::new(), None, None);
        while exit.is_none() || report.is_none() {
            match self.next() {
                Told::Data(data) => output.extend(data),
                Told::Exit(_, status) => exit = Some(status),
                Told::Close(close) => report = Some(close),
                _ => {}
            }
        }
        (output, exit.unwrap(), report.unwrap())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.handle.shutdown(Duration::ZERO);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || thread::panicking());
        }
    }
}

#[test]
fn a_child_reads_what_is_sent_and_what_it_writes_is_shown() {
    let stage = stage(false);
    let (conn, _) = stage.sh("sort; exit 3");
    stage.ask(move |net| {
        net.send(conn, b"b\nc\na\n").unwrap();
        net.close_write(conn);
    });
    let (output, status, report) = stage.finish();
    assert_eq!((output.as_slice(), status.code()), (&b"a\nb\nc\n"[..], Some(3)));
    assert_eq!((report.reason, report.handed, report.received), (CloseReason::Finished, 6, 6));
}

#[test]
fn a_program_that_is_not_there_is_an_error_and_leaves_nothing_behind() {
    let stage = stage(false);
    let before = util::open_fds();
    let error = stage.ask(|net| net.spawn(&mut Command::new("/no/such/program"))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    util::eventually("all descriptors are closed", || util::open_fds() <= before);
}

#[test]
fn a_child_that_dies_in_the_middle_breaks_the_pipe_and_nothing_else() {
    let stage = stage(false);
    let (conn, child) = stage.sh("exec sleep 1000");
    stage.ask(move |net| net.send(conn, &[7; 1 << 20])).unwrap();
    stage.ask(move |net| net.child(child).unwrap().kill()).unwrap();
    let (_, status, report) = stage.finish();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    assert!(matches!(report.reason, CloseReason::BrokenPipe | CloseReason::Reset), "{report}");
    assert_eq!(report.handed + report.unsent, 1 << 20);
    assert!(report.unsent > 0);
}

#[test]
fn a_child_that_does_not_want_its_input_is_heard_to_the_end() {
    let stage = stage(false);
    // It never reads, and one that closes its input goes on to write.
    for script in ["echo one; sleep 0.1; echo two", "exec 0<&-; echo one; sleep 0.1; echo two"] {
        let (conn, _) = stage.sh(script);
        stage.ask(move |net| net.send(conn, b"nobody wants it")).unwrap();
        let (output, status, _) = stage.finish();
        assert_eq!((output.as_slice(), status.success()), (&b"one\ntwo\n"[..], true), "{script}");
    }
}

#[test]
fn a_grandchild_that_holds_the_output_is_waited_for_and_the_exit_told_before() {
    let stage = stage(false);
    let (_, child) = stage.sh("(sleep 0.3; echo late) & exit 0");
    let Told::Exit(exited, status) = stage.next() else { panic!("the exit comes first") };
    assert_eq!((exited, status.success()), (child, true));
    assert_eq!(stage.next(), Told::Data(b"late\n".to_vec()));
    assert_eq!(stage.next(), Told::Eof);
    assert!(matches!(stage.next(), Told::Close(report) if report.reason == CloseReason::PeerClosed));
}

#[test]
fn a_shutdown_waits_for_children_until_its_deadline_and_no_longer() {
    for (script, waits) in [("sleep 0.2", true), ("exec sleep 1000", false)] {
        let stage = stage(false);
        let (_, child) = stage.sh(script);
        let began = Instant::now();
        let pid = stage.ask(move |net| net.child(child).unwrap().id());
        stage.handle.shutdown(Duration::from_millis(700)).unwrap();
        let told: Vec<_> = stage.told.iter().collect();
        assert_eq!(told.iter().any(|told| matches!(told, Told::Exit(..))), waits, "{told:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
        if !waits {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[test]
fn a_thousand_children_come_and_go_and_no_descriptor_stays() {
    let stage = stage(false);
    let before = util::open_fds();
    for _ in 0..20 {
        for _ in 0..10 {
            stage.ask(|net| net.spawn(&mut Command::new("true"))).unwrap();
        }
        let (mut exits, mut closes) = (0, 0);
        while exits < 10 || closes < 10 {
            match stage.next() {
                Told::Exit(_, status) => exits += usize::from(status.success()),
                Told::Close(_) => closes += 1,
                _ => {}
            }
        }
    }
    util::eventually("all descriptors are closed", || util::open_fds() <= before);
}

#[test]
fn a_watched_descriptor_is_told_of_until_somebody_deals_with_it() {
    let stage = stage(false);
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut ours = std::fs::File::from(counter.try_clone().unwrap());
    let watch = stage.ask(move |net| net.watch(counter, Interest::Read)).unwrap();
    ours.write_all(&1u64.to_ne_bytes()).unwrap();
    for _ in 0..3 {
        let Told::Ready(which, ready) = stage.next() else { panic!("ready") };
        assert_eq!((which, ready.readable, ready.writable), (watch, true, false));
    }
    let fd = stage.ask(move |net| net.unwatch(watch)).expect("it was watched");
    assert!(stage.ask(move |net| net.unwatch(watch).is_none()));
    assert_eq!(rustix::io::read(&fd, &mut [0; 8]).unwrap(), 8, "nobody had read it");
}

#[test]
fn one_that_is_dealt_with_is_told_of_once_each_time() {
    let stage = stage(true);
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut ours = std::fs::File::from(counter.try_clone().unwrap());
    let watch = stage.ask(move |net| net.watch(counter, Interest::Both)).unwrap();
    let counter = stage.ask(move |net| net.unwatch(watch)).expect("it was watched");
    stage.ask(|net| net.watch(counter, Interest::Read)).unwrap();
    // It had room to write for as long as that was asked for.
    while stage.told.try_recv().is_ok() {}
    for _ in 0..5 {
        ours.write_all(&1u64.to_ne_bytes()).unwrap();
        assert!(matches!(stage.next(), Told::Ready(_, ready) if ready.readable));
        assert!(stage.told.recv_timeout(Duration::from_millis(20)).is_err(), "once");
    }
}

#[test]
fn what_cannot_be_waited_for_is_refused_with_a_sentence() {
    let stage = stage(false);
    for path in ["/etc/passwd", "/dev/null", "/"] {
        let file = OwnedFd::from(std::fs::File::open(path).unwrap());
        let error = stage.ask(move |net| net.watch(file, Interest::Read)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{path}");
        assert!(error.to_string().contains("always ready"), "{error}");
    }
}
