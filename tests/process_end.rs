//! How a whole program ends: by a signal, by dropping its reactor, and although its handler would
//! rather go on.
//!
//! What concerns a whole process is tested in one of its own.

mod util;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, Reactor, Turn, Via};
use util::{open_fds, pattern, Custom};

const REPLY: usize = 4_000_000;

fn listen(reactor: &mut Reactor) -> SocketAddr {
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap()
}

/// A server as its author would write it: a signal asks for the shutdown, `main` returns after it.
fn serve_until_signalled() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let addr = listen(&mut reactor);
    let handle = reactor.net().handle();
    let mut signals = Signals::new([SIGTERM, SIGINT]).unwrap();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = handle.shutdown(Duration::from_secs(8));
        }
    });
    println!("listening on {addr}");
    let open = |net: &mut Net, conn, _: Via| {
        net.send_bytes(conn, pattern(REPLY).into()).unwrap();
    };
    reactor.run(&mut Custom { open: Some(Box::new(open)), ..Custom::default() }).unwrap();
}

/// A process that does not outlive a test that fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Without effect on one that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// G7
#[test]
fn a_signal_ends_a_server_when_its_replies_are_delivered() {
    if util::role().is_some() {
        return serve_until_signalled();
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = util::again("a_signal_ends_a_server_when_its_replies_are_delivered", "server");
        let mut server = Process(server.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let addr = lines.find_map(|line| Some(line.split_once("listening on ")?.1.to_owned())).unwrap();
        let mut client = TcpStream::connect(&addr).unwrap();
        util::patient(&client);
        let mut got = vec![0; 1000];
        client.read_exact(&mut got).unwrap();
        kill_process(Pid::from_child(&server.0), signal).unwrap();
        client.read_to_end(&mut got).unwrap();
        // It waits for our end of stream, and for nobody new.
        assert_eq!(TcpStream::connect(&addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(client);
        assert!(got == pattern(REPLY), "{} bytes", got.len());
        assert!(server.0.wait().unwrap().success());
        assert!(lines.any(|line| line.contains("1 passed")));
    }
}

// G6
#[test]
fn a_dropped_reactor_leaves_no_descriptor_behind() {
    if util::role().is_none() {
        let this = util::again("a_dropped_reactor_leaves_no_descriptor_behind", "alone").output().unwrap();
        assert!(this.status.success(), "{this:#?}");
        return;
    }
    let path = std::env::temp_dir().join(format!("unbroken-dropped-{}", std::process::id()));
    let before = open_fds();
    let mut config = Config::default();
    config.shed_when_exhausted = true;
    let mut reactor = Reactor::new(config).unwrap();
    let addr = listen(&mut reactor);
    reactor.net().listen(path.clone()).unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    reactor.net().connect(elsewhere.local_addr().unwrap()).unwrap();
    let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let handle = reactor.net().handle();
    let mut handler = Custom::default();
    while reactor.net().stats().opened < 21 {
        assert_eq!(reactor.turn(&mut handler, Some(Duration::from_secs(1))).unwrap(), Turn::Running);
    }
    assert!(open_fds() > before + 42);
    drop(reactor);
    assert!(!path.exists());
    assert!(handle.wake().is_err());
    drop((clients, elsewhere));
    // What wakes the reactor belongs to its handles as well.
    drop(handle);
    assert_eq!(open_fds(), before);
}

/// Connects again whenever a connection ends, for ever.
struct Reconnect {
    to: SocketAddr,
    reports: Vec<CloseReport>,
}

impl Handler for Reconnect {
    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }

    fn on_close(&mut self, net: &mut Net, _: ConnId, report: &CloseReport) {
        self.reports.push(report.clone());
        let _ = net.connect(self.to);
    }
}

#[test]
fn a_handler_that_reconnects_at_once_can_be_shut_down() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let mut reactor = Reactor::new(Config::default()).unwrap();
    reactor.net().connect(to).unwrap();
    let mut handler = Reconnect { to, reports: Vec::new() };
    while reactor.net().stats().opened == 0 {
        reactor.turn(&mut handler, Some(Duration::from_secs(1))).unwrap();
    }
    reactor.net().shutdown(Duration::from_millis(200));
    let begin = Instant::now();
    while reactor.turn(&mut handler, Some(Duration::from_millis(100))).unwrap() == Turn::Running {
        assert!(begin.elapsed() < Duration::from_secs(3), "{} reconnects", handler.reports.len());
    }
    assert!(handler.reports.len() < 10, "{} reconnects", handler.reports.len());
}

#[test]
fn a_shutdown_gives_up_what_is_still_connecting_and_says_so() {
    // A full backlog: a connection to it stays on its way.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let to = socket.local_addr().unwrap().as_socket().unwrap();
    let _waits = TcpStream::connect(to).unwrap();
    let server = util::serve_with(Config::default(), Custom::default(), move |net| {
        let conn = net.connect(to).unwrap();
        net.send(conn, b"never sent").unwrap();
        net.connect(to).unwrap();
    });
    server.handle.shutdown(Duration::from_millis(300)).unwrap();
    let reports = [server.closed().1, server.closed().1];
    let find = |reason| reports.iter().find(|report| report.reason == reason);
    // Nothing was to be sent on the one; on the other the deadline cut off what was.
    assert_eq!(find(CloseReason::Aborted).map(|report| report.unsent), Some(0), "{reports:?}");
    assert_eq!(find(CloseReason::Shutdown).map(|report| report.unsent), Some(10), "{reports:?}");
    server.join().unwrap();
}

#[test]
fn a_shutdown_takes_no_longer_than_the_last_peer() {
    let server = util::serve(Config::default(), util::Echo);
    let mut client = server.client();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let begin = Instant::now();
    server.handle.shutdown(Duration::from_secs(600)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    assert_eq!(server.closed().1.reason, CloseReason::Finished);
    server.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}
