//! The patience of a close as a stranger sees it: the built examples, plain sockets, the options of the
//! lab's contract.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::SockRef;

use crate::harness::{Client, Lab};
use crate::stage::{millis, TOLERANCE};
use crate::util::{patient, pattern, SOON};

const ANSWER: usize = 8 << 20;
const IDLE: Duration = Duration::from_millis(150);
const TOTAL: Duration = Duration::from_millis(300);
const CAPS: [&str; 4] = ["--linger-idle", "150ms", "--linger-total", "300ms"];

fn lab(more: &[&str]) -> Lab {
    Lab::start(&[&CAPS[..], more].concat())
}

fn ask(lab: &Lab, len: usize) -> Client {
    let client = lab.client(format!("SENDCLOSE {len}\n"));
    lab.conn(&client);
    client
}

// C1
#[test]
fn a_client_that_is_busy_after_its_request_gets_everything() {
    let lab = lab(&[]);
    let mut client = ask(&lab, ANSWER);
    std::thread::sleep(2 * TOTAL);
    assert!(client.read_to_eof() == pattern(ANSWER));
    let closed = lab.closed(&client.gone());
    assert_eq!((closed.reason.as_str(), closed.unsent, closed.unacked), ("finished", 0, Some(0)));
}

// C1
#[test]
fn a_steady_slow_client_gets_everything() {
    let lab = lab(&["--sndbuf", "32k"]);
    let mut client = lab.narrow(format!("SENDCLOSE {}\n", 100_000));
    let begin = Instant::now();
    let mut got = Vec::new();
    while got.len() < 100_000 {
        got.extend(client.read_exactly(1000));
        std::thread::sleep(millis(7));
    }
    assert!(begin.elapsed() > 2 * TOTAL && got == pattern(100_000));
    assert_eq!(client.read_to_eof(), b"");
    assert_eq!(lab.closed(&client.gone()).reason, "finished");
}

// C1
#[test]
fn a_client_that_reads_nothing_of_its_answer_is_a_write_stall() {
    let stall = millis(500);
    let lab = lab(&["--write-stall", "500ms"]);
    let mut client = ask(&lab, ANSWER);
    let closed = lab.closed(&client);
    assert_eq!(closed.reason, "write_stall");
    assert_eq!(closed.handed + closed.unsent, ANSWER as u64);
    assert!(closed.unacked.is_some_and(|unacked| unacked > 0), "{closed:?}");
    assert!(closed.duration >= stall && closed.duration <= stall + stall / 8 + TOLERANCE, "{closed:?}");
    assert!(client.read_to_reset().len() < ANSWER);
}

// C1
#[test]
fn a_client_that_has_everything_is_waited_for_as_long_as_the_caps_say() {
    let lab = lab(&["--write-stall", "10s"]);
    let mut silent = ask(&lab, ANSWER);
    std::thread::sleep(IDLE);
    silent.read_exactly(ANSWER);
    let read = Instant::now();
    let closed = lab.closed(&silent);
    assert_eq!((closed.reason.as_str(), closed.unsent, closed.unacked), ("linger_timeout", 0, Some(0)));
    let after = closed.at.duration_since(read);
    let most = IDLE + IDLE / 8 + millis(40) + TOLERANCE;
    assert!(after + millis(60) >= IDLE && after <= most, "silent: {after:?}");

    let mut trickling = ask(&lab, ANSWER);
    std::thread::sleep(IDLE);
    trickling.read_exactly(ANSWER);
    let read = Instant::now();
    while read.elapsed() < SOON && trickling.write_all(b"x").is_ok() {
        std::thread::sleep(millis(10));
    }
    let closed = lab.closed(&trickling);
    assert_eq!((closed.reason.as_str(), closed.unsent, closed.unacked), ("linger_timeout", 0, Some(0)));
    let after = closed.at.duration_since(read);
    let most = TOTAL + TOTAL / 8 + millis(40) + TOLERANCE;
    assert!(after + millis(60) >= TOTAL && after <= most, "trickling: {after:?}");
}

// C1
#[test]
fn a_drain_waits_for_a_client_that_pauses() {
    let mut lab = lab(&["--drain", "9s"]);
    let mut client = lab.client(format!("SEND {ANSWER}\n"));
    lab.told(&client, "congested");
    let mut quiet = lab.client("SEND 10\n");
    assert_eq!(quiet.read_exactly(10), pattern(10));
    lab.signal(Signal::TERM);
    std::thread::sleep(2 * TOTAL);
    assert!(client.read_to_eof() == pattern(ANSWER));
    let (first, second) = (client.gone(), quiet.gone());
    assert_eq!(lab.exit().code(), Some(0));
    assert_eq!(lab.closed(&first).reason, "finished");
    assert_eq!(lab.closed(&second).reason, "finished");
}

// C1
#[test]
fn a_drain_is_not_held_up_by_a_client_that_takes_nothing() {
    let mut lab = lab(&["--drain", "9s", "--write-stall", "400ms"]);
    let mut client = lab.client(format!("SEND {ANSWER}\n"));
    lab.told(&client, "congested");
    let begin = Instant::now();
    lab.signal(Signal::TERM);
    assert_eq!(lab.exit().code(), Some(0));
    assert!(begin.elapsed() < millis(450) + TOLERANCE + TOLERANCE, "{:?}", begin.elapsed());
    assert_eq!(lab.closed(&client).reason, "write_stall");
    client.read_to_reset();
}

/// The example `proxy` between its clients and `upstream`.
struct Proxy {
    child: Child,
    addr: SocketAddr,
}

impl Proxy {
    fn start(upstream: SocketAddr) -> Self {
        let mut command = Command::new(crate::util::example("proxy"));
        command.args(["127.0.0.1:0", &upstream.to_string()]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, addr }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads requests and answers each byte with ten, without looking at anything else meanwhile.
fn answer_ten_to_one(listener: TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    patient(&stream);
    // Little of what is under way is with the kernel.
    SockRef::from(&stream).set_send_buffer_size(64 << 10).unwrap();
    SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
    let mut buf = vec![0; 16 << 10];
    loop {
        match stream.read(&mut buf) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if stream.write_all(&vec![b'a'; 10 * count]).is_err() {
                    return;
                }
            }
        }
    }
}

// C2
#[test]
fn through_the_proxy_a_client_that_writes_and_reads_at_once_gets_all_of_long_answers() {
    const QUESTIONS: usize = 12 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap());
    let upstream = std::thread::spawn(move || answer_ten_to_one(listener));
    let client = TcpStream::connect(proxy.addr).unwrap();
    // Directly it takes a tenth of a second.
    client.set_read_timeout(Some(SOON / 5)).unwrap();
    client.set_write_timeout(Some(SOON / 5)).unwrap();
    let mut writing = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let written = writing.write_all(&vec![b'q'; QUESTIONS]);
        let _ = writing.shutdown(std::net::Shutdown::Write);
        written.map_err(|error| error.to_string())
    });
    let (mut reading, mut got, mut buf) = (client, 0, vec![0; 64 << 10]);
    let end = loop {
        match reading.read(&mut buf) {
            Ok(0) => break None,
            Ok(count) => got += count,
            Err(error) => break Some(error.to_string()),
        }
    };
    drop(proxy);
    drop(reading);
    assert_eq!((got, end), (10 * QUESTIONS, None), "of so many bytes; the writer: {:?}", writer.join());
    upstream.join().unwrap();
}
