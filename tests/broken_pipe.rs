//! Whatever breaks a pipe, only that connection ends, with what the peer had sent delivered, the
//! true cause, and an exact account.

mod util;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, Reactor, SendError, State, Via};
use util::{pattern, reset, serve, Custom, Echo, Event, Server, Sink};

fn received_before_close(server: &Server) -> (usize, unbroken::CloseReport, bool) {
    let (mut shown, mut eof) = (0, false);
    loop {
        match server.event() {
            Event::Data(_, _, used) => shown += used,
            Event::Eof(_) => eof = true,
            Event::Close(_, report) => return (shown, report, eof),
            _ => {}
        }
    }
}

// R1
#[test]
fn an_idle_connection_that_is_reset_is_reported_once() {
    let server = serve(Config::default(), Sink);
    let client = server.client();
    server.opened();
    reset(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert!(!report.saw_fin);
    server.stats();
    assert_eq!(server.events_so_far(), []);
}

/// Once it has been shown as much as two reads bring, the first connection resets the other, which is
/// about to be read from in the same turn.
#[derive(Default)]
struct Cutter {
    victim: Option<TcpStream>,
    shown: usize,
    report: Option<CloseReport>,
}

impl Handler for Cutter {
    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        self.shown += data.len();
        if self.shown == 3 * PIECE {
            reset(self.victim.take().unwrap());
        }
        data.len()
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.report = Some(report.clone());
    }
}

/// What a turn reads of a connection.
const PIECE: usize = 1024;

// R1: no event has hinted at the error, and it is told but once.
#[test]
fn a_reset_that_comes_after_the_poll_is_told_by_the_read() {
    let mut config = Config::default();
    (config.read_size, config.read_budget) = (PIECE, PIECE);
    let mut reactor = Reactor::new(config).unwrap();
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    let addr = reactor.net().local_addr(listener).unwrap().as_tcp().unwrap();
    let mut first = TcpStream::connect(addr).unwrap();
    let mut victim = TcpStream::connect(addr).unwrap();
    let mut handler = Cutter::default();
    let mut turn = |handler: &mut Cutter| reactor.turn(handler, Some(Duration::from_secs(5))).unwrap();
    turn(&mut handler);
    first.write_all(&pattern(2 * PIECE)).unwrap();
    victim.write_all(&pattern(PIECE)).unwrap();
    handler.victim = Some(victim);
    for _ in 0..10 {
        if handler.report.is_none() {
            turn(&mut handler);
        }
    }
    let report = handler.report.expect("the reset is reported");
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert_eq!((report.received, handler.shown), (PIECE as u64, 3 * PIECE));
}

// R2
#[test]
fn what_came_before_a_reset_is_delivered() {
    let server = serve(Config::default(), Sink);
    let mut client = server.client();
    client.write_all(&pattern(100_000)).unwrap();
    reset(client);
    let (shown, report, eof) = received_before_close(&server);
    assert_eq!((shown, report.received, eof), (100_000, 100_000, false));
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
}

// R3: the write meets the error first, and the kernel shows the read a clean end.
#[test]
fn a_write_that_meets_the_reset_first_does_not_hide_what_came_before() {
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = server.client();
    let conn = server.opened();
    client.write_all(&pattern(100_000)).unwrap();
    reset(client);
    std::thread::sleep(Duration::from_millis(20));
    server.ask(move |net| {
        // Large enough to be written at once: the error is taken by this write.
        assert!(net.send(conn, &[1; 50_000]).is_ok());
        assert_eq!(net.send(conn, b"more"), Err(SendError::Closed));
        net.resume_reading(conn);
    });
    let (shown, report, eof) = received_before_close(&server);
    assert_eq!((shown, eof), (100_000, false));
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert_eq!((report.handed, report.unsent, report.saw_fin), (0, 50_000, false));
}

// R4
#[test]
fn the_first_reply_to_a_peer_that_closed_succeeds_and_its_loss_is_counted() {
    let eof = |net: &mut Net, _| {
        net.set_timer(Duration::from_millis(50));
    };
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, &[8; 1000]);
        data.len()
    };
    // The reply must not reach the client before it closes: it would close with input unread.
    let open = |net: &mut Net, conn, _: Via| net.pause_reading(conn);
    let handler = Custom {
        open: Some(Box::new(open)),
        data: Some(Box::new(data)),
        eof: Some(Box::new(eof)),
        ..Custom::default()
    };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    let conn = server.opened();
    client.write_all(b"request").unwrap();
    drop(client);
    server.ask(move |net| net.resume_reading(conn));
    let (shown, report, _) = received_before_close(&server);
    assert_eq!(shown, 7);
    assert_eq!((report.reason, report.errno), (CloseReason::BrokenPipe, Some(libc::EPIPE)));
    assert!(report.saw_fin);
    assert_eq!((report.handed, report.unacked), (1000, Some(1000)));
}

// R5
#[test]
fn a_reset_behind_the_end_of_the_stream_is_not_a_clean_end() {
    let handler = Custom { eof: Some(Box::new(|_, _| {})), ..Custom::default() };
    let server = serve(Config::default(), handler);
    let mut client = server.client();
    let conn = server.opened();
    client.write_all(b"abc").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    server.wait_for(util::SOON, |event| matches!(event, Event::Eof(_)));
    assert_eq!(server.ask(move |net| net.state(conn)), Some(State::HalfClosedRemote));
    reset(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.errno), (CloseReason::ResetAfterFin, Some(libc::EPIPE)));
    assert!(report.saw_fin && !report.lost_bytes());
}

// R6
#[test]
fn a_client_that_closes_in_the_middle_of_a_reply_is_a_reset_with_an_account() {
    const LEN: usize = 4_000_000;
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send_bytes(conn, pattern(LEN).into());
    };
    let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = server.client();
    let mut got = vec![0; 10_000];
    client.read_exact(&mut got).unwrap();
    server.wait_stats(|stats| stats.write_eagains > 0 || stats.queued == 0);
    drop(client);
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Reset);
    assert_eq!(report.handed + report.unsent, LEN as u64);
    let unacked = report.unacked.unwrap();
    assert!(unacked > 0 && report.handed - unacked >= 10_000, "{report}");
}

// R9
#[test]
fn a_killed_client_is_reported_by_what_its_kernel_said() {
    if !util::have("python3") {
        return;
    }
    for (read_first, expected) in [(true, CloseReason::PeerClosed), (false, CloseReason::Reset)] {
        let open = move |net: &mut Net, conn, _: Via| {
            let _ = net.send(conn, b"unread or not");
        };
        let server = serve(Config::default(), Custom { open: Some(Box::new(open)), ..Custom::default() });
        let script = "import socket, sys, time\n\
            s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
            if sys.argv[2] == 'true': s.recv(100)\n\
            else: s.recv(100, socket.MSG_PEEK)\n\
            print('ready', flush=True)\n\
            time.sleep(60)";
        let mut client = Command::new("python3")
            .args(["-c", script, &server.addr.port().to_string(), &read_first.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        assert_eq!(server.closed().1.reason, expected, "read first: {read_first}");
    }
}

// R7
#[test]
fn a_send_from_on_close_is_refused_without_a_system_call() {
    let (answer, answers) = std::sync::mpsc::channel();
    let close = move |net: &mut Net, conn, _: &unbroken::CloseReport| {
        let writes = net.stats().writes;
        let _ = answer.send((net.send(conn, b"late"), net.stats().writes - writes));
    };
    let server = serve(Config::default(), Custom { close: Some(Box::new(close)), ..Custom::default() });
    drop(server.client());
    assert_eq!(answers.recv_timeout(util::SOON), Ok((Err(SendError::Closed), 0)));
}

// R13
#[test]
fn a_connection_killed_by_an_administrator_is_told_apart() {
    if !util::have("ss") {
        return;
    }
    let server = serve(Config::default(), Sink);
    let client = server.client();
    server.opened();
    let port = client.local_addr().unwrap().port().to_string();
    // The server's end: its peer is the client's port.
    let killed = Command::new("ss").args(["-K", "dst", "127.0.0.1", "dport", "=", &port]).output().unwrap();
    let Some(Event::Close(_, report)) = server.event_within(Duration::from_secs(2)) else {
        let error = String::from_utf8_lossy(&killed.stderr).trim().to_owned();
        return util::skip("root and a kernel with socket destruction", &error);
    };
    assert_eq!((report.reason, report.errno), (CloseReason::KernelAborted, Some(libc::ECONNABORTED)));
}

// R15, C24
#[test]
fn a_client_that_resets_before_it_is_accepted_is_still_reported() {
    let wake = |_: &mut Net| std::thread::sleep(Duration::from_millis(200));
    let server = serve(Config::default(), Custom { wake: Some(Box::new(wake)), ..Custom::default() });
    server.handle.wake().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut client = server.client();
    let addr = client.local_addr().unwrap();
    client.write_all(b"abc").unwrap();
    reset(client);
    let (shown, report, _) = received_before_close(&server);
    assert_eq!((shown, report.received, report.reason), (3, 3, CloseReason::Reset));
    assert!(addr.ip().is_loopback());
    assert!(echo_works(&server));
}

fn echo_works(server: &Server) -> bool {
    // Any client that is accepted and reported will do: the loop is alive.
    drop(server.client());
    server.closed().1.reason == CloseReason::PeerClosed
}

#[test]
fn a_hundred_broken_pipes_do_not_touch_a_bystander() {
    let server = serve(Config::default(), Echo);
    let mut bystander = server.client();
    for round in 0..100 {
        let mut client = server.client();
        client.write_all(&[1; 10_000]).unwrap();
        match round % 3 {
            0 => reset(client),
            1 => drop(client),
            _ => client.shutdown(Shutdown::Both).unwrap(),
        }
        bystander.write_all(b"ping").unwrap();
        let mut got = [0; 4];
        bystander.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ping");
    }
    let stats = server.wait_stats(|stats| stats.connections == 1);
    assert_eq!(stats.closed, 100);
    let dirty = stats.closed - stats.closed_by(CloseReason::PeerClosed);
    assert!(dirty >= 33, "{stats:?}");
    let _: TcpStream = bystander;
}
