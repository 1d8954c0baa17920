//! The life of a Unix-domain path: who may listen on it, who takes it away, and when a path is a
//! left-over that may be replaced. One starter wins, the others hear that the address is in use.

mod util;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use socket2::{Domain, SockAddr, Socket, Type};
use unbroken::{Config, ListenOptions, ListenerId, Reactor};
use util::SOON;

/// A folder of one test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("unbroken-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn reactor() -> Reactor {
    Reactor::new(Config::default()).unwrap()
}

/// A path whose server is gone.
fn leave_behind(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists(), "a dead listener leaves its path");
}

/// Bound, as between `bind` and `listen`.
fn bound(path: &Path) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket
}

fn listen_on(reactor: &mut Reactor, path: &Path) -> Option<ListenerId> {
    match reactor.net().listen(path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error:?}");
            None
        }
    }
}

/// What reaches the path reaches the winner.
fn is_reached(reactor: &mut Reactor, path: &Path) {
    let before = reactor.net().stats().accepted;
    let _client = UnixStream::connect(path).expect("somebody listens");
    let deadline = Instant::now() + SOON;
    while reactor.net().stats().accepted == before {
        assert!(Instant::now() < deadline, "the client went to somebody else");
        reactor.turn(&mut util::Sink, Some(Duration::from_millis(10))).unwrap();
    }
}

/// What came of a start: the winner, or the error that the others met.
type Start = Result<ListenerId, ErrorKind>;

/// A starter on a thread of its own, told when to start and when to end.
struct Thread {
    orders: Sender<bool>,
    answers: Receiver<Start>,
}

impl Thread {
    fn new<'scope>(scope: &'scope Scope<'scope, '_>, path: &'scope Path) -> Self {
        let (orders, ordered) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        scope.spawn(move || {
            let (mut reactor, mut listener) = (reactor(), None);
            for start in ordered {
                if start {
                    let result = reactor.net().listen(path).map_err(|error| error.kind());
                    listener = result.ok();
                    answer.send(result).unwrap();
                } else if let Some(listener) = listener.take() {
                    is_reached(&mut reactor, path);
                    reactor.net().close_listener(listener);
                    answer.send(Ok(listener)).unwrap();
                }
            }
        });
        Self { orders, answers }
    }

    fn answer(&self) -> Start {
        self.answers.recv_timeout(SOON).expect("a starter answers")
    }
}

#[test]
fn of_threads_that_start_on_one_left_over_path_one_listens_and_the_others_hear_that_it_is_in_use() {
    let folder = Folder::new("threads");
    let path = folder.path("s");
    let begin = Instant::now();
    let rounds = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..4).map(|_| Thread::new(scope, &path)).collect();
        let mut rounds = 0;
        while begin.elapsed() < Duration::from_secs(2) {
            leave_behind(&path);
            starters.iter().for_each(|starter| starter.orders.send(true).unwrap());
            let answers: Vec<_> = starters.iter().map(|starter| starter.answer()).collect();
            let losers = answers.iter().filter(|answer| **answer == Err(ErrorKind::AddrInUse)).count();
            assert_eq!(losers, starters.len() - 1, "round {rounds}: {answers:?}");
            for (starter, _) in starters.iter().zip(answers).filter(|(_, answer)| answer.is_ok()) {
                starter.orders.send(false).unwrap();
                starter.answer().unwrap();
            }
            assert!(!path.exists(), "the winner takes its path along");
            rounds += 1;
        }
        rounds
    });
    assert!(rounds >= 200, "{rounds} rounds");
}

/// Tells over standard output what came of each try that standard input asks for.
fn start_when_told(path: &Path) {
    let mut reactor = reactor();
    let mut listener = None;
    for order in io::stdin().lock().lines() {
        let answer = match order.unwrap().as_str() {
            "start" => {
                listener = listen_on(&mut reactor, path);
                if listener.is_some() {
                    "won"
                } else {
                    "in use"
                }
            }
            "reached" => {
                is_reached(&mut reactor, path);
                "yes"
            }
            _ => {
                listener.take().into_iter().for_each(|listener| reactor.net().close_listener(listener));
                "stopped"
            }
        };
        println!("\n{answer}");
    }
}

struct Starter {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Starter {
    fn new(test: &str, path: &Path) -> Self {
        let mut command = util::again(test, path.to_str().unwrap());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// The test runner says a few things of its own.
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "a starter ended early");
            let line = line.trim_end();
            if ["won", "in use", "yes", "stopped"].contains(&line) {
                return line.to_owned();
            }
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn of_processes_that_start_on_one_left_over_path_one_listens_and_the_others_hear_that_it_is_in_use() {
    const NAME: &str =
        "of_processes_that_start_on_one_left_over_path_one_listens_and_the_others_hear_that_it_is_in_use";
    if let Some(path) = util::role() {
        return start_when_told(Path::new(&path));
    }
    let folder = Folder::new("processes");
    let path = folder.path("s");
    let mut starters: Vec<_> = (0..3).map(|_| Starter::new(NAME, &path)).collect();
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        leave_behind(&path);
        starters.iter_mut().for_each(|starter| starter.tell("start"));
        let answers: Vec<_> = starters.iter_mut().map(|starter| starter.answer()).collect();
        assert_eq!(answers.iter().filter(|answer| *answer == "won").count(), 1, "{answers:?}");
        for (starter, answer) in starters.iter_mut().zip(answers) {
            if answer == "won" {
                starter.tell("reached");
                assert_eq!(starter.answer(), "yes");
                starter.tell("stop");
                assert_eq!(starter.answer(), "stopped");
            }
        }
        assert!(!path.exists(), "the winner takes its path along");
        rounds += 1;
    }
    assert!(rounds >= 100, "{rounds} rounds");
}

#[test]
fn a_path_whose_owner_is_about_to_listen_is_not_taken_from_it() {
    let folder = Folder::new("about-to");
    let path = folder.path("s");
    let owner = bound(&path);
    let error = reactor().net().listen(path.as_path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    owner.listen(16).unwrap();
    UnixStream::connect(&path).expect("its owner is reached");

    // Also when the owner calls the path by another name, a symbolic link's or a shorter one.
    let other = folder.path("other");
    std::os::unix::fs::symlink(&folder.0, &other).unwrap();
    let _linked = bound(&other.join("t"));
    assert_eq!(listen_on(&mut reactor(), &folder.path("t")), None);
    assert!(folder.path("t").exists());
}

// The working directory is the whole process's.
#[test]
fn a_path_that_its_owner_calls_by_a_relative_name_is_not_taken_from_it() {
    const NAME: &str = "a_path_that_its_owner_calls_by_a_relative_name_is_not_taken_from_it";
    let Some(folder) = util::role() else {
        let folder = Folder::new("relative");
        let output = util::again(NAME, folder.0.to_str().unwrap()).output().unwrap();
        assert!(output.status.success(), "{output:#?}");
        return;
    };
    std::env::set_current_dir(&folder).unwrap();
    let _owner = bound(Path::new("./s"));
    std::env::set_current_dir("/").unwrap();
    assert_eq!(listen_on(&mut reactor(), &Path::new(&folder).join("s")), None);
    // And the other way round.
    std::env::set_current_dir(&folder).unwrap();
    let _other = bound(&Path::new(&folder).join("t"));
    let error = reactor().net().listen("unix:./t").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
}

// Connections that a dead server's children still hold carry its path.
#[test]
fn connections_that_outlived_their_listener_do_not_keep_its_path() {
    let folder = Folder::new("outlived");
    let path = folder.path("s");
    let listener = UnixListener::bind(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let _served = listener.accept().unwrap();
    drop(listener);
    assert!(listen_on(&mut reactor(), &path).is_some());
}

#[test]
fn a_path_without_a_living_owner_is_replaced_and_ours_goes_when_we_go() {
    let folder = Folder::new("replaced");
    let path = folder.path("s");
    leave_behind(&path);
    let mut first = reactor();
    let listener = listen_on(&mut first, &path).unwrap();
    assert_eq!(listen_on(&mut reactor(), &path), None, "a live one is not");
    is_reached(&mut first, &path);
    first.net().close_listener(listener);
    assert!(!path.exists());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_is_at_the_path_and_no_left_over_socket_stays_there() {
    let folder = Folder::new("stays");
    let (file, link, gone) = (folder.path("file"), folder.path("link"), folder.path("gone"));
    fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&gone, &link).unwrap();
    let datagrams = std::os::unix::net::UnixDatagram::bind(folder.path("datagrams")).unwrap();
    for name in ["file", "link", "datagrams", "."] {
        assert_eq!(listen_on(&mut reactor(), &folder.path(name)), None, "{name}");
    }
    drop(datagrams);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_eq!(fs::read_link(&link).unwrap(), gone);
}

#[test]
fn a_path_that_somebody_else_has_taken_over_is_not_ours_to_remove() {
    let folder = Folder::new("taken");
    let path = folder.path("s");
    let mut reactor = reactor();
    listen_on(&mut reactor, &path).unwrap();
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    drop(reactor);
    assert!(path.exists());
    UnixStream::connect(&path).expect("theirs is reached");
}

#[test]
fn a_child_that_drops_its_copy_of_the_reactor_leaves_the_path_to_its_parent() {
    const NAME: &str = "a_child_that_drops_its_copy_of_the_reactor_leaves_the_path_to_its_parent";
    let Some(path) = util::role() else {
        let folder = Folder::new("forked");
        let output = util::again(NAME, folder.path("s").to_str().unwrap()).output().unwrap();
        assert!(output.status.success(), "{output:#?}");
        return;
    };
    let path = Path::new(&path);
    let mut reactor = reactor();
    listen_on(&mut reactor, path).unwrap();
    // SAFETY: the child only drops what it has a copy of, and ends without running anything else.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        drop(reactor);
        // SAFETY: ends this process and nothing else.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: writes one int through the pointer, which outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    is_reached(&mut reactor, path);
    drop(reactor);
    assert!(!path.exists(), "whose process made it removes it");
}

// `flock(1)` around a server does so for as long as the server lives.
#[test]
fn a_folder_that_somebody_else_keeps_locked_delays_a_start_and_does_not_prevent_it() {
    let folder = Folder::new("locked");
    let (fresh, stale) = (folder.path("fresh"), folder.path("stale"));
    leave_behind(&stale);
    let lock = File::open(&folder.0).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    for path in [&fresh, &stale] {
        let begin = Instant::now();
        let mut reactor = reactor();
        assert!(listen_on(&mut reactor, path).is_some());
        is_reached(&mut reactor, path);
        drop(reactor);
        assert!(!path.exists());
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    // Nor is the lock left to anybody.
    drop(lock);
    let mut reactor = reactor();
    listen_on(&mut reactor, &fresh).unwrap();
    let again = File::open(&folder.0).unwrap();
    rustix::fs::flock(&again, FlockOperation::NonBlockingLockExclusive).expect("it is free");
}

/// Becomes somebody without privileges, for good.
fn become_nobody() {
    // SAFETY: change this process's identity and nothing in its memory.
    let status = unsafe { libc::setgid(65534) | libc::setuid(65534) };
    assert_eq!(status, 0);
}

#[test]
fn a_folder_that_may_be_written_but_not_read_serves_as_well() {
    const NAME: &str = "a_folder_that_may_be_written_but_not_read_serves_as_well";
    if let Some(folder) = util::role() {
        become_nobody();
        let folder = Path::new(&folder);
        let path = folder.join("open/s");
        leave_behind(&path);
        let mut reactor = reactor();
        listen_on(&mut reactor, &path).unwrap();
        is_reached(&mut reactor, &path);
        drop(reactor);
        assert!(!path.exists());
        // What may not be removed is somebody else's, and the error says what is in the way.
        let error = self::reactor().net().listen(folder.join("theirs/s")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("theirs/s"), "{error}");
        // Where nothing may be made the system says so itself.
        let error = self::reactor().net().listen(folder.join("theirs/t")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return util::skip("root", "to become somebody else");
    }
    let folder = Folder::new("unread");
    for (name, mode) in [("open", 0o333), ("theirs", 0o755)] {
        fs::create_dir(folder.path(name)).unwrap();
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    leave_behind(&folder.path("theirs/s"));
    fs::set_permissions(folder.path("theirs/s"), fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let this = util::again(NAME, folder.0.to_str().unwrap());
    let mut command = Command::new(&program);
    command.args(this.get_args()).envs(this.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.current_dir("/").output().unwrap();
    assert!(output.status.success(), "{output:#?}");
}

fn with_mode(mode: u32) -> ListenOptions {
    let mut options = ListenOptions::default();
    options.mode = Some(mode);
    options
}

#[test]
fn a_path_has_the_mode_that_was_asked_for() {
    let folder = Folder::new("mode");
    let path = folder.path("s");
    for mode in [0o600, 0o666, 0o777, 0] {
        let mut reactor = reactor();
        reactor.net().listen_with(path.as_path(), &with_mode(mode)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    // More than permissions is refused before anything is made.
    let error = reactor().net().listen_with(path.as_path(), &with_mode(0o4755)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(!path.exists());
}

#[test]
fn the_mode_of_a_path_is_in_force_before_anybody_can_connect() {
    const NAME: &str = "the_mode_of_a_path_is_in_force_before_anybody_can_connect";
    if let Some(path) = util::role() {
        reactor().net().listen_with(Path::new(&path), &with_mode(0o600)).unwrap();
        return;
    }
    if !util::have("strace") {
        return;
    }
    let folder = Folder::new("order");
    let (path, trace) = (folder.path("s"), folder.path("trace"));
    let this = util::again(NAME, path.to_str().unwrap());
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-e", "trace=/^(bind|listen|f?chmod(at2?)?)$", "-o"]);
    command.arg(&trace).arg(this.get_program()).args(this.get_args());
    command.envs(this.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:#?}");
    let trace = fs::read_to_string(&trace).unwrap();
    let calls: Vec<_> = trace.lines().filter_map(|line| line.split_once(' ')).map(|(_, call)| call).collect();
    let place = |what: &str| calls.iter().position(|call| call.trim_start().starts_with(what)).expect(what);
    let changed =
        calls.iter().position(|call| call.contains("chmod") && call.contains("0600")).expect("chmod");
    assert!(place("bind(") < changed && changed < place("listen("), "{trace}");
}

#[test]
fn a_server_that_ends_takes_the_path_of_no_other_along() {
    let folder = Folder::new("ends");
    let path = folder.path("s");
    let begin = Instant::now();
    let won: usize = std::thread::scope(|scope| {
        let servers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (mut reactor, mut won) = (reactor(), 0);
                    while begin.elapsed() < Duration::from_secs(2) {
                        if let Some(listener) = listen_on(&mut reactor, &path) {
                            is_reached(&mut reactor, &path);
                            reactor.net().close_listener(listener);
                            won += 1;
                        }
                    }
                    won
                })
            })
            .collect();
        servers.into_iter().map(|server| server.join().unwrap()).sum()
    });
    assert!(won > 100, "{won}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "nothing is left");
}
