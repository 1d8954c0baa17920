//! A close is as patient with the bytes as an open connection is: nothing but a stall cuts it while
//! anything is on its way; the caps of the linger bound the wait for the peer's end alone.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, Sent, Timeout, Via};

use crate::stage::{
    client_with_room, connect, end, enter, in_parallel, meanwhile, millis, small_send_buffer, turn_for,
};
use crate::stage::{count, reactor, reports, until, Probe, Seen, TOLERANCE};
use crate::util::{pattern, read_all, serve, Custom, Server, SOON};

const ANSWER: usize = 4 << 20;
/// Short spans: a close that waits for less than its client takes must not be cut by them.
const IDLE: Duration = Duration::from_millis(150);
const TOTAL: Duration = Duration::from_millis(300);

fn linger() -> Config {
    let mut config = Config::default();
    config.linger_idle = IDLE;
    config.linger_total = TOTAL;
    small_send_buffer(&mut config);
    config
}

/// Answers the first input with so much of the pattern and closes at once.
fn answer_and_close(len: usize) -> Custom {
    let data = move |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send_bytes(conn, pattern(len).into());
        net.close(conn);
        data.len()
    };
    Custom { data: Some(Box::new(data)), ..Custom::default() }
}

fn asks(addr: SocketAddr) -> TcpStream {
    let mut client = client_with_room(addr, 32 << 10);
    client.write_all(b"question").unwrap();
    client
}

/// Reads to the end, `piece` bytes at a time with a pause after each. Gives what came, and the error
/// that ended it.
fn read_slowly(stream: &mut TcpStream, piece: usize, pause: Duration) -> (usize, Option<String>) {
    let (mut got, mut buf) = (0, vec![0; piece]);
    loop {
        let mut filled = 0;
        while filled < piece {
            match stream.read(&mut buf[filled..]) {
                Ok(0) => return (got + filled, None),
                Ok(count) => filled += count,
                Err(error) => return (got + filled, Some(error.to_string())),
            }
        }
        got += filled;
        std::thread::sleep(pause);
    }
}

fn assert_finished(server: &Server, len: usize) {
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed), (CloseReason::Finished, len as u64), "{report}");
    assert_eq!((report.unsent, report.unacked), (0, Some(0)), "{report}");
}

// C1
#[test]
fn a_client_that_is_busy_for_longer_than_the_linger_gets_everything() {
    let server = serve(linger(), answer_and_close(ANSWER));
    let mut client = asks(server.addr);
    std::thread::sleep(2 * TOTAL);
    let (got, error) = read_all(&mut client);
    assert!(error.is_none() && got == pattern(ANSWER), "{} bytes, then {error:?}", got.len());
    drop(client);
    assert_finished(&server, ANSWER);
}

// C1
#[test]
fn a_steady_reader_gets_everything_however_long_it_takes() {
    let server = serve(linger(), answer_and_close(ANSWER));
    let mut client = asks(server.addr);
    let begin = Instant::now();
    let got = read_slowly(&mut client, 128 << 10, millis(25));
    assert_eq!(got, (ANSWER, None), "after {:?}", begin.elapsed());
    assert!(begin.elapsed() > TOTAL);
    drop(client);
    assert_finished(&server, ANSWER);
}

// C1
#[test]
fn what_a_client_uploads_while_it_is_answered_is_not_held_against_it() {
    let mut config = linger();
    config.linger_bytes = 256 << 10;
    let server = serve(config, answer_and_close(ANSWER));
    let mut client = asks(server.addr);
    // Four times the cap, before it reads anything; once it has all, the cap holds.
    client.write_all(&vec![1; 1 << 20]).unwrap();
    let mut got = vec![0; ANSWER];
    client.read_exact(&mut got).unwrap();
    assert!(got == pattern(ANSWER));
    let begin = Instant::now();
    while client.write_all(&[1; 16 << 10]).is_ok() {
        assert!(begin.elapsed() < SOON);
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger), "{report}");
    assert!(report.received < 3 << 20, "{report}");
}

/// Pairs each client with a connection of its own upstream, as `examples/proxy.rs` does.
struct Pair {
    upstream: SocketAddr,
    partners: HashMap<ConnId, ConnId>,
}

impl Handler for Pair {
    fn on_open(&mut self, net: &mut Net, client: ConnId, via: Via) {
        if via != Via::Connect {
            let upstream = net.connect(self.upstream).unwrap();
            self.partners.extend([(client, upstream), (upstream, client)]);
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if net.send(self.partners[&conn], data) == Ok(Sent::Congested) {
            net.pause_reading(conn);
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        net.resume_reading(self.partners[&conn]);
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        net.close_write(self.partners[&conn]);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if !report.reason.is_clean() {
            net.abort(self.partners[&conn]);
        }
    }
}

// C1
#[test]
fn a_client_of_a_proxy_that_has_ended_its_stream_gets_the_whole_answer_at_its_own_pace() {
    const PIECE: usize = 16 << 10;
    const PIECES: usize = 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = Pair { upstream: listener.local_addr().unwrap(), partners: HashMap::new() };
    let upstream = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        crate::util::patient(&stream);
        let (question, _) = read_all(&mut stream);
        assert_eq!(question, b"question");
        stream.write_all(&pattern(PIECES * PIECE)).unwrap();
    });
    let server = serve(linger(), pair);
    let mut client = asks(server.addr);
    end(&client);
    let begin = Instant::now();
    // What the proxy has of it when the upstream has ended takes longer than the caps.
    let got = read_slowly(&mut client, PIECE, millis(75));
    assert_eq!(got, (PIECES * PIECE, None));
    assert!(begin.elapsed() > 2 * TOTAL, "it was not slow: {:?}", begin.elapsed());
    upstream.join().unwrap();
}

// C1
#[test]
fn a_shutdown_waits_until_its_deadline_for_a_client_that_pauses() {
    let open = |net: &mut Net, conn, _: Via| {
        net.send_bytes(conn, pattern(ANSWER).into()).unwrap();
    };
    let server = serve(linger(), Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut clients: Vec<_> = (0..3).map(|_| client_with_room(server.addr, 32 << 10)).collect();
    server.wait_stats(|stats| stats.opened == 3 && stats.queued > ANSWER);
    server.handle.shutdown(SOON).unwrap();
    std::thread::sleep(2 * TOTAL);
    for client in &mut clients {
        let (got, error) = read_all(client);
        assert!(error.is_none() && got == pattern(ANSWER), "{} bytes, then {error:?}", got.len());
    }
    drop(clients);
    for _ in 0..3 {
        assert_finished(&server, ANSWER);
    }
    server.join().unwrap();
}

// C1: "in a shutdown its deadline is the only clock besides the stall".
#[test]
fn in_a_shutdown_the_linger_caps_cut_nobody_and_the_stall_does() {
    let mut config = linger();
    config.write_stall = Some(millis(400));
    let open = |net: &mut Net, conn, _: Via| {
        // The second client is one that takes nothing.
        let len = if net.stats().opened == 2 { ANSWER } else { 10 };
        net.send_bytes(conn, pattern(len).into()).unwrap();
    };
    let server = serve(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut quiet = client_with_room(server.addr, 32 << 10);
    let first = server.opened();
    let _stuck = client_with_room(server.addr, 32 << 10);
    let second = server.opened();
    server.handle.shutdown(SOON).unwrap();
    let (conn, report) = server.closed();
    assert_eq!((conn, report.reason), (second, CloseReason::TimedOut(Timeout::WriteStall)), "{report}");
    // The other one has had everything for longer than the caps.
    quiet.read_exact(&mut [0; 10]).unwrap();
    drop(quiet);
    let (conn, report) = server.closed();
    assert_eq!((conn, report.reason), (first, CloseReason::Finished), "{report}");
    assert!(report.duration > TOTAL, "{report}");
    server.join().unwrap();
}

// C1
#[test]
fn a_closing_peer_that_takes_nothing_ends_as_a_write_stall() {
    let stall = millis(400);
    // Queued and unacknowledged; nothing queued, for the kernel took it all; and what it sends meanwhile
    // is no sign that it takes anything.
    let cases = [(32 << 10, ANSWER, false), (1 << 20, 200_000, false), (32 << 10, ANSWER, true)];
    in_parallel(cases, |(room, len, trickles)| {
        let mut config = linger();
        config.write_stall = Some(stall);
        config.send_buffer = Some(room);
        let server = serve(config, answer_and_close(len));
        let mut client = asks(server.addr);
        let mut sending = client.try_clone().unwrap();
        let trickle = trickles.then(|| {
            meanwhile(move || {
                let _ = sending.write_all(b"x");
                std::thread::sleep(millis(20));
            })
        });
        let (_, report) = server.closed();
        assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall), "{report}");
        assert_eq!(report.handed + report.unsent, len as u64);
        assert_eq!(report.unsent > 0, len == ANSWER, "{report}");
        assert!(report.unacked.is_some_and(|bytes| bytes > 0), "{report}");
        let most = stall + stall / 8 + TOLERANCE;
        assert!(report.duration >= stall && report.duration <= most, "{report}");
        // A cut stream never looks whole. (The socket goes after the report; and whoever writes is the
        // one who hears of the reset.)
        server.wait_stats(|stats| stats.connections == 0);
        let (got, error) = read_all(&mut client);
        assert!(trickle.is_some() || error.is_some(), "{} bytes and a clean end: {report}", got.len());
        assert!(got.len() < len);
    });
}

/// Reads all of an answer slowly, for longer than the caps, and then does as `then` says until the
/// connection is cut. Gives how long that was after the last byte was read: what the client's kernel
/// had of it was acknowledged a little earlier.
fn cut_after_the_last_byte(config: Config, then: impl Fn(&mut TcpStream)) -> Duration {
    let server = serve(config, answer_and_close(ANSWER / 4));
    let mut client = asks(server.addr);
    for _ in 0..15 {
        client.read_exact(&mut [0; 64 << 10]).unwrap();
        std::thread::sleep(millis(25));
    }
    client.read_exact(&mut [0; 64 << 10]).unwrap();
    let last = Instant::now();
    let closed = std::thread::spawn(move || (server.closed().1, Instant::now()));
    while !closed.is_finished() {
        then(&mut client);
        std::thread::sleep(millis(5));
    }
    let (report, at) = closed.join().unwrap();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger), "{report}");
    assert!(!report.lost_bytes(), "{report}");
    at.duration_since(last)
}

// C1
#[test]
fn the_linger_caps_count_from_the_last_acknowledgement() {
    const EARLIER: Duration = Duration::from_millis(60);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let after = cut_after_the_last_byte(linger(), |_| {});
            // An acknowledgement may be 40 ms late.
            let most = IDLE + IDLE / 8 + millis(40) + TOLERANCE;
            assert!(after + EARLIER >= IDLE && after <= most, "a silent one: {after:?}");
        });
        scope.spawn(|| {
            let mut config = linger();
            config.linger_total = 2 * TOTAL;
            let trickle = |client: &mut TcpStream| drop(client.write_all(b"x"));
            let after = cut_after_the_last_byte(config, trickle);
            let most = 2 * TOTAL + TOTAL / 4 + millis(40) + TOLERANCE;
            assert!(after + EARLIER >= 2 * TOTAL && after <= most, "a trickling one: {after:?}");
        });
    });
}

const MUCH: usize = 2 << 20;

/// Answers `G` with much and anything else with little, and closes at once.
fn much_or_little() -> Probe {
    let data = |net: &mut Net, conn, data: &[u8]| {
        let len = if data[0] == b'G' { MUCH } else { 10 };
        net.send(conn, &pattern(len)).unwrap();
        net.close(conn);
        data.len()
    };
    Probe { quiet: true, data: Some(Box::new(data)), ..Probe::default() }
}

fn downloads(mut stream: TcpStream) -> JoinHandle<(usize, Option<String>)> {
    std::thread::spawn(move || read_slowly(&mut stream, 64 << 10, millis(4)))
}

// C3
#[test]
fn at_the_limit_of_closing_connections_who_only_owes_its_end_goes_first_and_the_oldest_of_them() {
    let mut config = Config::default();
    config.max_lingering = 5;
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let mut h = much_or_little();
    h.quiet = false;
    let (mut good, good_conn) = enter(&mut r, &mut h, addr);
    good.write_all(b"G").unwrap();
    let reader = downloads(good);
    turn_for(&mut r, &mut h, millis(20));
    // Ten that have their answer and do not end.
    let mut bad = Vec::new();
    for _ in 0..10 {
        let (mut client, conn) = enter(&mut r, &mut h, addr);
        client.write_all(b"x").unwrap();
        turn_for(&mut r, &mut h, millis(4));
        bad.push((client, conn));
    }
    turn_for(&mut r, &mut h, millis(10));
    let closed: Vec<ConnId> = h.log.borrow().iter().filter_map(closed_one).collect();
    let expected: Vec<ConnId> = bad.iter().map(|(_, conn)| *conn).take(6).collect();
    assert_eq!(closed, expected, "{good_conn} is the one that downloads");
    assert!(reports(&h.log).iter().all(|report| report.reason == CloseReason::TimedOut(Timeout::Linger)));
    let all = move |log: &[Seen]| log.iter().any(|seen| closed_one(seen) == Some(good_conn));
    assert!(until(&mut r, &mut h, SOON, all));
    assert_eq!(reader.join().unwrap(), (MUCH, None));
}

fn closed_one(seen: &Seen) -> Option<ConnId> {
    match seen {
        Seen::Close(conn, _) => Some(*conn),
        _ => None,
    }
}

// C3
#[test]
fn many_that_download_while_others_come_and_close_all_get_everything() {
    let mut config = Config::default();
    config.max_lingering = 6;
    small_send_buffer(&mut config);
    let (mut r, addr) = reactor(config);
    let mut h = much_or_little();
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let mut client = connect(addr);
            client.write_all(b"G").unwrap();
            downloads(client)
        })
        .collect();
    turn_for(&mut r, &mut h, millis(30));
    // Clients that get their answer and leave their sockets open until they are cut.
    let mut open = VecDeque::new();
    let _flood = meanwhile(move || {
        let mut client = connect(addr);
        client.set_read_timeout(Some(millis(50))).unwrap();
        let _ = (client.write_all(b"x"), client.read(&mut [0; 10]));
        open.push_back(client);
        if open.len() > 30 {
            open.pop_front();
        }
    });
    let downloaded = |seen: &Seen| matches!(seen, Seen::Close(_, report) if report.handed > 10);
    until(&mut r, &mut h, SOON / 2, |log| count(log, downloaded) == 5);
    // Who has it all may be cut while it looks at it.
    for report in reports(&h.log).iter().filter(|report| report.handed > 10) {
        assert!(!report.lost_bytes(), "{report}");
    }
    let cut = reports(&h.log).iter().filter(|report| report.handed == 10).count();
    assert!(cut > 20, "{cut} of the others");
    let got: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert!(got.iter().all(|got| *got == (MUCH, None)), "{got:?}");
}
