mod crowds;

use std::collections::HashSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;

/// How long anything may take that is expected to happen at once, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Long enough that what must not happen would have happened.
const A_WHILE: Duration = Duration::from_millis(50);

/// A call as the pool made it: it returns when it is told what.
struct Called {
    name: String,
    thread: String,
    end: Sender<io::Result<Vec<SocketAddr>>>,
}

impl Called {
    fn finds(self, ip: [u8; 4]) {
        self.end.send(Ok(vec![SocketAddr::from((ip, 0))])).unwrap();
    }
}

/// A pool whose calls are shown as they are made and block until they are let go. Names that
/// begin with "panic" panic instead.
fn pool(threads: usize, waiting: usize) -> (Pool, Receiver<Called>) {
    let (show, calls) = mpsc::channel();
    let show = Mutex::new(show);
    let call = move |name: &str| {
        assert!(!name.starts_with("panic"), "as it was asked to");
        let (end, ended) = mpsc::channel();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        show.lock().unwrap().send(Called { name: name.to_owned(), thread, end }).unwrap();
        ended.recv().unwrap_or_else(|_| Err(io::Error::other("let go")))
    };
    (Pool::new(Box::new(call), Limits { threads, waiting }), calls)
}

fn default_pool() -> (Pool, Receiver<Called>) {
    let Limits { threads, waiting } = Limits::default();
    pool(threads, waiting)
}

/// Answers, by the number that was given to the question.
struct Asker {
    answers: Receiver<(usize, io::Result<Vec<SocketAddr>>)>,
    tell: Sender<(usize, io::Result<Vec<SocketAddr>>)>,
}

impl Asker {
    fn new() -> Self {
        let (tell, answers) = mpsc::channel();
        Self { answers, tell }
    }

    fn ask(&self, pool: &Pool, number: usize, name: &str) -> Waiting {
        let tell = self.tell.clone();
        let port = u16::try_from(number % 60_000).unwrap();
        let (answer, waiting) = Answer::awaited(Box::new(move |addrs| {
            // The test may be over.
            let _ = tell.send((number, addrs));
        }));
        pool.resolve(name, port, answer);
        waiting
    }

    fn next(&self) -> (usize, io::Result<Vec<SocketAddr>>) {
        self.answers.recv_timeout(SOON).expect("an answer")
    }

    fn failure(&self) -> (usize, String) {
        let (number, result) = self.next();
        (number, result.expect_err("a failure").to_string())
    }

    fn has_none(&self) -> bool {
        self.answers.try_recv().is_err()
    }
}

fn next_call(calls: &Receiver<Called>) -> Called {
    calls.recv_timeout(SOON).expect("a call")
}

fn no_call(calls: &Receiver<Called>) -> bool {
    calls.recv_timeout(A_WHILE).is_err()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < SOON, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// What arrives after a timeout, an abort or a shutdown.
#[test]
fn an_answer_that_nobody_waits_for_is_thrown_away() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let (gone, stays) = (asker.ask(&pool, 1, "db"), asker.ask(&pool, 2, "db"));
    let call = next_call(&calls);
    drop(gone);
    call.finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 2);
    drop(stays);
    let (answer, waiting) = Answer::awaited(Box::new(|_| panic!("nobody waits")));
    drop(waiting);
    assert!(!answer.is_wanted());
    drop(answer);
    assert!(asker.has_none());
}

#[test]
fn an_answer_that_is_dropped_reports_a_failure() {
    let asker = Asker::new();
    let tell = asker.tell.clone();
    drop(Answer::new(move |addrs| tell.send((1, addrs)).unwrap()));
    assert_eq!(asker.failure(), (1, "the resolver gave no answer".to_owned()));
    // One that panics drops it as well.
    let tell = asker.tell.clone();
    let answer = Answer::new(move |addrs| tell.send((2, addrs)).unwrap());
    let panicked = std::thread::spawn(move || {
        let _answer = answer;
        panic!("as it was asked to");
    });
    assert!(panicked.join().is_err());
    assert_eq!(asker.failure().0, 2);
}

#[test]
fn an_answer_that_was_sent_is_not_sent_again_by_its_end() {
    let asker = Asker::new();
    let tell = asker.tell.clone();
    Answer::new(move |addrs| tell.send((1, addrs)).unwrap()).send(Ok(Vec::new()));
    assert_eq!(asker.next().1.unwrap(), []);
    assert!(asker.has_none());
}

#[test]
fn a_lookup_that_panics_costs_its_own_answers_and_no_thread() {
    let (pool, calls) = pool(1, 100);
    let asker = Asker::new();
    let hangs = asker.ask(&pool, 0, "hangs");
    let call = next_call(&calls);
    let waiting = [asker.ask(&pool, 1, "panic"), asker.ask(&pool, 2, "db"), asker.ask(&pool, 3, "panic")];
    call.finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 0);
    assert_eq!(asker.failure(), (1, "the lookup panicked".to_owned()));
    assert_eq!(asker.failure().0, 3);
    next_call(&calls).finds([10, 0, 0, 2]);
    assert_eq!(asker.next().0, 2);
    assert_eq!(pool.counts().0, 1);
    drop((hangs, waiting));
}

#[test]
fn a_reply_that_panics_costs_nobody_else_the_answer() {
    let (pool, calls) = pool(1, 100);
    let asker = Asker::new();
    let _first = asker.ask(&pool, 1, "db");
    pool.resolve("db", 80, Answer::new(|_| panic!("as it was asked to")));
    let _last = asker.ask(&pool, 2, "db");
    next_call(&calls).finds([10, 0, 0, 1]);
    assert_eq!([asker.next().0, asker.next().0], [1, 2]);
    let _again = asker.ask(&pool, 3, "db");
    next_call(&calls).finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 3);
}

// `std` gives no code, only the words of gai_strerror(3): they must not be lost, nor an errno.
#[test]
fn the_words_of_the_system_reach_everybody_who_waits() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    for words in ["Name or service not known", "Temporary failure in name resolution"] {
        let _waiting = [asker.ask(&pool, 1, "db"), asker.ask(&pool, 2, "db")];
        next_call(&calls).end.send(Err(io::Error::new(io::ErrorKind::NotFound, words))).unwrap();
        for number in [1, 2] {
            let (who, result) = asker.next();
            let error = result.unwrap_err();
            assert_eq!((who, error.kind(), &*error.to_string()), (number, io::ErrorKind::NotFound, words));
        }
    }
    let _waiting = asker.ask(&pool, 1, "db");
    next_call(&calls).end.send(Err(io::Error::from_raw_os_error(libc::EMFILE))).unwrap();
    assert_eq!(asker.next().1.unwrap_err().raw_os_error(), Some(libc::EMFILE));
}

#[test]
fn one_resolver_serves_several_reactors() {
    let (pool, calls) = default_pool();
    let pool = Arc::new(pool);
    let (tell, told) = mpsc::channel();
    let boxed: Vec<Box<dyn Resolve>> = vec![Box::new(pool.clone()), Box::new(pool)];
    for resolver in boxed {
        let tell = tell.clone();
        resolver.resolve("db", 80, Answer::new(move |addrs| tell.send(addrs.unwrap()).unwrap()));
    }
    next_call(&calls).finds([10, 0, 0, 1]);
    for _ in 0..2 {
        assert_eq!(told.recv_timeout(SOON).unwrap(), [SocketAddr::from(([10, 0, 0, 1], 80))]);
    }
}

#[test]
fn the_system_knows_localhost_and_takes_literals_as_they_are() {
    let pool = system_resolver();
    let asker = Asker::new();
    let ask = |name: &str| {
        let _waiting = asker.ask(&pool, 80, name);
        asker.next().1
    };
    assert_eq!(ask("127.0.0.1").unwrap(), ["127.0.0.1:80".parse().unwrap()]);
    // Also where no interface has an IPv6 address.
    assert_eq!(ask("::1").unwrap(), ["[::1]:80".parse().unwrap()]);
    let localhost = ask("localhost").unwrap();
    assert!(!localhost.is_empty() && localhost.iter().all(|addr| addr.ip().is_loopback()), "{localhost:?}");
    // A label too long for DNS: no name server is asked.
    let unknown = ask(&format!("{}.invalid", "x".repeat(64))).unwrap_err().to_string();
    assert!(unknown.starts_with("failed to lookup address information: "), "{unknown}");
}

/// Set for a process that this test starts of itself.
const ALONE: &str = "UNBROKEN_NAMES_ALONE";

#[test]
fn a_lookup_that_hangs_does_not_keep_the_process_from_ending() {
    if std::env::var_os(ALONE).is_some() {
        let (begun, is_begun) = mpsc::channel();
        let begun = Mutex::new(begun);
        let call = move |_: &str| {
            begun.lock().unwrap().send(()).unwrap();
            loop {
                std::thread::park();
            }
        };
        let pool = Pool::new(Box::new(call), Limits::default());
        pool.resolve("hangs", 80, Answer::new(|_| {}));
        is_begun.recv_timeout(SOON).unwrap();
        // `main` returns with the thread in its call and the pool alive.
        std::mem::forget(pool);
        return;
    }
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "names::tests::a_lookup_that_hangs_does_not_keep_the_process_from_ending"])
        .env(ALONE, "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > SOON {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("it is still running");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// A resolver of a program's own that loses every other answer.
struct Careless;

impl Resolve for Careless {
    fn resolve(&self, _: &str, port: u16, answer: Answer) {
        if ASKED.fetch_add(1, Ordering::Relaxed) % 2 == 0 {
            answer.send(Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]));
        }
    }
}

#[test]
fn a_resolver_that_loses_its_answer_leaves_nobody_waiting() {
    let asker = Asker::new();
    for number in [1, 2] {
        let tell = asker.tell.clone();
        let (answer, _waiting) = Answer::awaited(Box::new(move |addrs| tell.send((number, addrs)).unwrap()));
        Careless.resolve("db", 80, answer);
    }
    assert!(asker.next().1.is_ok());
    assert_eq!(asker.failure(), (2, "the resolver gave no answer".to_owned()));
}
