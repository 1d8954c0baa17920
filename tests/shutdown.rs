//! A shutdown delivers what can be delivered, within its deadline, and says what could not.

mod util;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGTERM;
use unbroken::{CloseReason, Config, HandleError, Net, Reactor, Turn, Via};
use util::{pattern, read_all, serve, Custom, Event, Sink};

fn reply(len: usize) -> Custom {
    let open = move |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, pattern(len).into());
    };
    Custom { open: Some(Box::new(open)), ..Custom::default() }
}

// G1
#[test]
fn a_hundred_replies_under_way_are_delivered_first() {
    const LEN: usize = 4_000_000;
    let mut config = Config::default();
    config.total_write_buffer = 1 << 30;
    let server = serve(config, reply(LEN));
    let clients: Vec<_> = (0..100).map(|_| server.client()).collect();
    server.wait_stats(|stats| stats.opened == clients.len() as u64);
    server.handle.shutdown(Duration::from_secs(60)).unwrap();
    let whole = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for mut client in clients {
            let whole = &whole;
            scope.spawn(move || {
                let mut buf = vec![0; 64 << 10];
                let mut at = 0;
                loop {
                    let count = client.read(&mut buf).unwrap();
                    if count == 0 {
                        break;
                    }
                    assert!(buf[..count].iter().enumerate().all(|(i, b)| *b == ((at + i) % 251) as u8));
                    at += count;
                }
                whole.fetch_add(usize::from(at == LEN), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(whole.into_inner(), 100);
    for _ in 0..100 {
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.handed), (CloseReason::Finished, LEN as u64));
        assert_eq!((report.unsent, report.unacked), (0, Some(0)));
    }
    server.join().unwrap();
}

// G2
#[test]
fn at_the_deadline_who_does_not_read_is_cut_off_with_an_exact_account() {
    const LEN: u64 = 15_000_000;
    let server = serve(Config::default(), reply(LEN as usize));
    let mut never_reads = server.client();
    server.wait_stats(|stats| stats.write_eagains > 0);
    let begin = Instant::now();
    server.handle.shutdown(Duration::from_millis(500)).unwrap();
    let (_, report) = server.closed();
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert_eq!(report.reason, CloseReason::Shutdown);
    assert_eq!(report.handed + report.unsent, LEN);
    let unacked = report.unacked.unwrap();
    server.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let (got, error) = read_all(&mut never_reads);
    assert!(error.is_some());
    // What was acknowledged had reached the client's kernel.
    assert_eq!(got.len() as u64, report.handed - unacked);
}

// G3
#[test]
fn clients_that_wait_in_the_backlog_are_not_reset() {
    // The reactor is busy while they come, and sees the shutdown before it accepts.
    let wake = |_: &mut Net| std::thread::sleep(Duration::from_millis(300));
    let server = serve(Config::default(), Custom { wake: Some(Box::new(wake)), ..Custom::default() });
    server.handle.wake().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let clients: Vec<_> = (0..20).map(|_| server.client()).collect();
    for mut client in &clients {
        client.write_all(b"a request").unwrap();
    }
    server.handle.shutdown(Duration::from_secs(5)).unwrap();
    for mut client in clients {
        let (_, error) = read_all(&mut client);
        assert!(error.is_none(), "{error:?}");
        drop(client);
        assert!(server.closed().1.reason.is_clean());
    }
    server.join().unwrap();
}

#[test]
fn a_second_shutdown_only_brings_the_deadline_forward() {
    let server = serve(Config::default(), reply(15_000_000));
    let _client = server.client();
    server.wait_stats(|stats| stats.write_eagains > 0);
    server.handle.shutdown(Duration::from_secs(100)).unwrap();
    server.handle.shutdown(Duration::from_secs(200)).unwrap();
    let begin = Instant::now();
    server.handle.shutdown(Duration::ZERO).unwrap();
    assert_eq!(server.closed().1.reason, CloseReason::Shutdown);
    assert!(begin.elapsed() < Duration::from_secs(5));
    let handle = server.handle.clone();
    server.join().unwrap();
    assert!(matches!(handle.wake(), Err(HandleError::Stopped(()))));
    assert!(matches!(handle.run(|_| ()), Err(HandleError::Stopped(_))));
}

#[test]
fn during_a_shutdown_nothing_new_begins() {
    let (answer, answers) = mpsc::channel();
    let close = move |net: &mut Net, _, _: &unbroken::CloseReport| {
        let listen = net.listen("127.0.0.1:0").map_err(|error| error.kind()).err();
        let connect = net.connect("127.0.0.1:1").map_err(|error| error.kind()).err();
        let _ = answer.send((listen, connect));
    };
    let server = serve(Config::default(), Custom { close: Some(Box::new(close)), ..Custom::default() });
    let client = server.client();
    server.opened();
    server.handle.shutdown(Duration::from_millis(300)).unwrap();
    drop(client);
    server.wait_for(util::SOON, |event| matches!(event, Event::Close(..)));
    let refused = Some(std::io::ErrorKind::ConnectionAborted);
    assert_eq!(answers.recv_timeout(util::SOON), Ok((refused, refused)));
    server.join().unwrap();
}

struct Lines(Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }
    fn flush(&self) {}
}

static LINES: OnceLock<Lines> = OnceLock::new();
static LOGGING: Once = Once::new();

// G6
#[test]
fn a_reactor_that_is_dropped_says_how_many_connections_it_had() {
    LOGGING.call_once(|| {
        log::set_logger(LINES.get_or_init(|| Lines(Mutex::new(Vec::new())))).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut handler = Custom::default();
    while reactor.net().stats().opened < 3 {
        assert_eq!(reactor.turn(&mut handler, Some(Duration::from_secs(1))).unwrap(), Turn::Running);
    }
    let handle = reactor.net().handle();
    drop(reactor);
    let lines = LINES.get().unwrap().0.lock().unwrap().join("\n");
    assert!(lines.contains("WARN the reactor is dropped with 3 connections open"), "{lines}");
    // Their sockets are closed, and so is the listener.
    for client in &mut clients {
        util::patient(client);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    assert!(TcpStream::connect(addr).is_err());
    assert!(matches!(handle.shutdown(Duration::ZERO), Err(HandleError::Stopped(()))));
}

// G7
#[test]
fn a_signal_shuts_down_through_a_handle() {
    let server = serve(Config::default(), reply(1000));
    let handle = server.handle.clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM]).unwrap();
    let control = signals.handle();
    let thread = std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            handle.shutdown(Duration::from_secs(5)).unwrap();
        }
    });
    let mut client = server.client();
    server.opened();
    signal_hook::low_level::raise(SIGTERM).unwrap();
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(1000));
    drop(client);
    assert_eq!(server.closed().1.reason, CloseReason::Finished);
    thread.join().unwrap();
    control.close();
    server.join().unwrap();
}

// G8
#[test]
fn the_address_can_be_bound_again_at_once() {
    let server = serve(Config::default(), Sink);
    let addr = server.addr;
    let mut clients: Vec<_> = (0..5).map(|_| server.client()).collect();
    server.wait_stats(|stats| stats.opened == clients.len() as u64);
    server.handle.shutdown(Duration::from_secs(5)).unwrap();
    for client in &mut clients {
        // We end first, so that the server's side is the one left in TIME_WAIT.
        let _ = client.shutdown(Shutdown::Write);
        read_all(client);
    }
    server.join().unwrap();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    assert!(reactor.net().listen(addr).is_ok());
    drop(TcpListener::bind("127.0.0.1:0"));
}

#[test]
fn at_a_tie_it_is_the_shutdown_that_cuts_off_and_not_the_linger_cap() {
    let tie = Duration::from_millis(400);
    let config = || {
        let mut config = Config::default();
        config.linger_idle = tie;
        config
    };
    for _ in 0..3 {
        let server = serve(config(), Sink);
        let _idle = server.client();
        server.opened();
        server.handle.shutdown(tie).unwrap();
        assert_eq!(server.closed().1.reason, CloseReason::Shutdown);
        server.join().unwrap();
    }
}
