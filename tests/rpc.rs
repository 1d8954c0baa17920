//! The example `rpc`: requests and answers with ids, heartbeats, time-outs, a client that connects anew,
//! a server that ends in good order; as programs, and as plain sockets that speak its frames.

mod util;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use util::{eventually, have, patient, read_all};

/// A running server. Dropping it kills it.
struct Server {
    child: Child,
    addr: SocketAddr,
}

fn rpc(args: &[&str]) -> Command {
    let mut command = Command::new(util::example("rpc"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

impl Server {
    fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(addr: &str) -> Self {
        let mut child = rpc(&["serve", addr]).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = [0; 64];
        let length = child.stdout.as_mut().expect("piped").read(&mut line).expect("a line");
        let line = String::from_utf8_lossy(&line[..length]).into_owned();
        let addr = line.trim_end().strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
        Self { child, addr: addr.unwrap_or_else(|| panic!("{line:?}")) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("connect");
        patient(&stream);
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    /// Starts `rpc call` with these texts.
    fn call(&self, texts: &[&str]) -> Child {
        call(self.addr, texts)
    }

    fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("/proc").count()
    }

    /// Its status, once it has ended by itself, and how long that took from now.
    fn ended(&mut self) -> (Option<i32>, Duration) {
        let begin = Instant::now();
        let mut status = None;
        eventually("the end of the server", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        (status.and_then(|status| status.code()), begin.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send_signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
}

fn call(addr: SocketAddr, texts: &[&str]) -> Child {
    let mut command = rpc(&["call", &addr.to_string()]);
    command.args(texts).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Status, output and errors of a client, once it has ended by itself.
fn outcome(mut client: Child) -> (Option<i32>, String, String) {
    eventually("the end of the client", || client.try_wait().expect("wait").is_some());
    let Output { status, stdout, stderr } = client.wait_with_output().expect("output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

fn answers(client: Child) -> String {
    let (status, output, errors) = outcome(client);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{output}");
    output
}

/// The one line of a client that failed.
fn failure(client: Child) -> String {
    let (status, output, errors) = outcome(client);
    assert_eq!((status, output.as_str(), errors.lines().count()), (Some(1), "", 1), "{errors}");
    errors
}

fn frame(kind: u8, id: u32, text: &str) -> Vec<u8> {
    let length = (5 + text.len() as u32).to_be_bytes();
    [&length[..], &[kind], &id.to_be_bytes(), text.as_bytes()].concat()
}

/// The next frame, which may be a sign of life.
fn any_frame(stream: &mut TcpStream) -> (u8, u32, String) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("a frame");
    let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    let mut text = vec![0; number(0) as usize - 5];
    stream.read_exact(&mut text).expect("the rest of the frame");
    (head[4], number(5), String::from_utf8(text).unwrap())
}

/// The next frame that is not one; a ping is answered.
fn next(stream: &mut TcpStream) -> (u8, u32, String) {
    loop {
        match any_frame(stream) {
            (b'>', ..) => stream.write_all(&frame(b'<', 0, "")).expect("a pong"),
            (b'<', ..) => {}
            other => return other,
        }
    }
}

fn said(kind: u8, id: u32, text: &str) -> (u8, u32, String) {
    (kind, id, text.to_owned())
}

#[test]
fn a_text_comes_back_in_capitals() {
    let server = Server::start();
    assert_eq!(answers(server.call(&["hello, you"])), "HELLO, YOU\n");
    assert_eq!(answers(server.call(&["sleep well"])), "SLEEP WELL\n");
    assert_eq!(answers(server.call(&["sleep 400 slow", "quick"])), "QUICK\nSLOW\n");
}

#[test]
fn answers_overtake_each_other_and_ids_tell_whose_they_are() {
    const REQUESTS: u32 = 20;
    let server = Server::start();
    let mut stream = server.connect();
    let request = |n: u32| frame(b'?', n, &format!("sleep {} text {n}", 30 * (REQUESTS - n)));
    stream.write_all(&(0..REQUESTS).flat_map(request).collect::<Vec<_>>()).unwrap();
    for n in (0..REQUESTS).rev() {
        assert_eq!(next(&mut stream), said(b'=', n, &format!("TEXT {n}")));
    }
}

#[test]
fn frames_may_come_in_any_pieces_and_a_piece_is_a_sign_of_life() {
    let server = Server::start();
    let mut stream = server.connect();
    // Longer on its way than a heartbeat may be missed.
    for byte in frame(b'?', 7, "in pieces") {
        stream.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(any_frame(&mut stream), said(b'=', 7, "IN PIECES"), "no ping was called for");
    // Who asks no more is answered all the same; half a frame at the end is nothing.
    let whole = frame(b'?', 8, "sleep 1500 last");
    stream.write_all(&[&whole[..], &whole[..11]].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(any_frame(&mut stream), said(b'=', 8, "LAST"));
    assert!(matches!(read_all(&mut stream), (rest, None) if rest.is_empty()));
}

#[test]
fn a_frame_too_long_is_refused_with_the_reason_and_the_others_are_served() {
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(&[&frame(b'?', 1, "first")[..], &[0, 1, 0, 0]].concat()).unwrap();
    assert_eq!(next(&mut stream), said(b'!', 0, "a frame of 65536 bytes, at most 32768 are allowed"));
    assert!(matches!(read_all(&mut stream), (rest, None) if rest.is_empty()));
    assert_eq!(answers(server.call(&["next"])), "NEXT\n");
    // The client does not even send one.
    let (status, _, errors) = outcome(server.call(&[&"x".repeat(40_000)]));
    assert_eq!(
        (status, errors.as_str()),
        (Some(2), "rpc: a payload of 40005 bytes, at most 32768 are allowed\n")
    );
}

#[test]
fn who_speaks_http_is_told_in_http() {
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (answer, end) = read_all(&mut stream);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 ") && answer.contains("not an HTTP server"), "{answer}");
    assert!(end.is_none(), "{end:?}");
    if have("curl") {
        let url = format!("http://{}/", server.addr);
        let curl = Command::new("curl").args(["-s", "--max-time", "10", &url]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&curl.stdout), "This is not an HTTP server.\n");
    }
}

#[test]
fn a_client_says_when_what_it_called_is_no_rpc_server_or_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    for (answer, told) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "rpc: no rpc server: a frame of 1213486160 bytes"),
        (frame(b'!', 1, "not today"), "rpc: refused: not today\n"),
    ] {
        let client = call(addr, &["a", "b"]);
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(next(&mut stream), said(b'?', 1, "a"));
        stream.write_all(&answer).unwrap();
        drop(stream);
        let errors = failure(client);
        assert!(errors.starts_with(told), "{errors}");
    }
}

#[test]
fn one_connection_has_so_many_requests_open_and_no_more() {
    let server = Server::start();
    let mut stream = server.connect();
    let request = |n: u32| frame(b'?', n, if n == 5 { "sleep 2000 x" } else { "sleep 60000 x" });
    stream.write_all(&(0..=1000).flat_map(request).collect::<Vec<_>>()).unwrap();
    assert_eq!(next(&mut stream), said(b'!', 1000, "no more requests are taken"));
    assert_eq!(answers(server.call(&["somebody else"])), "SOMEBODY ELSE\n");
    assert_eq!(next(&mut stream), said(b'=', 5, "X"));
    stream.write_all(&frame(b'?', 1001, "in its place")).unwrap();
    assert_eq!(next(&mut stream), said(b'=', 1001, "IN ITS PLACE"));
}

#[test]
fn who_gives_signs_of_life_stays_and_who_gives_none_is_given_up() {
    let server = Server::start();
    let (mut lively, mut silent) = (server.connect(), server.connect());
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(any_frame(&mut lively), said(b'>', 0, ""));
        lively.write_all(&frame(b'<', 0, "")).unwrap();
    }
    assert!(begin.elapsed() > Duration::from_millis(2900), "{:?}", begin.elapsed());
    assert_eq!(any_frame(&mut silent), said(b'>', 0, ""));
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "given up");
    lively.write_all(&[frame(b'>', 0, ""), frame(b'?', 1, "still here")].concat()).unwrap();
    assert_eq!(
        [any_frame(&mut lively), any_frame(&mut lively)],
        [said(b'<', 0, ""), said(b'=', 1, "STILL HERE")]
    );
}

#[test]
fn a_client_that_hangs_is_given_up_in_time() {
    let server = Server::start();
    let before = server.descriptors();
    let mut client = server.call(&["sleep 60000 x"]);
    eventually("the connection", || server.descriptors() > before);
    send_signal(&client, Signal::SIGSTOP);
    let begin = Instant::now();
    eventually("the verdict", || server.descriptors() == before);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(answers(server.call(&["the next"])), "THE NEXT\n");
    let _ = client.kill();
    let _ = client.wait();
}

#[test]
fn a_server_that_hangs_is_given_up_in_time_and_asked_again() {
    let server = Server::start();
    server.signal(Signal::SIGSTOP);
    let mut client = rpc(&["call", &server.addr.to_string(), "hello"]);
    client.env("RUST_LOG", "unbroken=debug").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let begin = Instant::now();
    let log = BufReader::new(client.stderr.take().unwrap()).lines();
    let verdict = log.map_while(Result::ok).find(|line| line.contains("idle for too long"));
    let found = begin.elapsed();
    assert!(verdict.is_some());
    assert!(found > Duration::from_millis(1900) && found < Duration::from_secs(4), "{found:?}");
    server.signal(Signal::SIGCONT);
    let (status, output, _) = outcome(client);
    assert_eq!((status, output.as_str()), (Some(0), "HELLO\n"));
}

#[test]
fn a_request_outlives_a_server_that_is_killed_and_started_again() {
    let server = Server::start();
    let (addr, before) = (server.addr, server.descriptors());
    let client = server.call(&["sleep 700 again"]);
    eventually("the connection", || server.descriptors() > before);
    drop(server);
    // Whoever comes before the server waits for it as well.
    let early = call(addr, &["early"]);
    std::thread::sleep(Duration::from_millis(300));
    let _server = Server::at(&addr.to_string());
    assert_eq!(answers(client), "AGAIN\n");
    assert_eq!(answers(early), "EARLY\n");
}

#[test]
fn a_request_is_given_up_in_time_with_one_clear_line() {
    let server = Server::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begin = Instant::now();
    let clients = [server.call(&["sleep 60000 x", "sleep 50000 y"]), call(nobody, &["x"])];
    let told = clients.map(failure);
    assert_eq!(told, ["rpc: no answer within 5s\n", "rpc: no connection within 5s\n"]);
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_server_that_is_to_end_answers_what_was_asked_and_refuses_the_rest() {
    let mut server = Server::start();
    let (mut stream, mut other) = (server.connect(), server.connect());
    stream.write_all(&frame(b'?', 1, "sleep 2500 open")).unwrap();
    other.write_all(&frame(b'?', 1, "seen")).unwrap();
    assert_eq!(next(&mut other), said(b'=', 1, "SEEN"));
    server.signal(Signal::SIGTERM);
    eventually("a refusal", || {
        other.write_all(&frame(b'?', 2, "late")).unwrap();
        next(&mut other) == said(b'!', 2, "no more requests are taken")
    });
    assert_eq!(failure(server.call(&["later"])), "rpc: refused: no more requests are taken\n");
    assert_eq!(next(&mut stream), said(b'=', 1, "OPEN"));
    for stream in [&mut stream, &mut other] {
        assert!(matches!(read_all(stream), (_, None)), "the end is a clean one");
    }
    drop((stream, other));
    let (status, took) = server.ended();
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_server_that_is_to_end_waits_for_nobody_who_is_gone_and_not_for_ever() {
    let (mut idle, mut busy) = (Server::start(), Server::start());
    let before = idle.descriptors();
    let mut gone = idle.connect();
    gone.write_all(&[frame(b'?', 1, "sleep 60000 x"), frame(b'?', 2, "seen")].concat()).unwrap();
    assert_eq!(next(&mut gone), said(b'=', 2, "SEEN"));
    util::reset(gone);
    eventually("the end of its caller", || idle.descriptors() == before);
    let mut stays = busy.connect();
    stays.write_all(&[frame(b'?', 1, "sleep 60000 x"), frame(b'?', 2, "seen")].concat()).unwrap();
    assert_eq!(next(&mut stays), said(b'=', 2, "SEEN"));
    let begin = Instant::now();
    idle.signal(Signal::SIGTERM);
    busy.signal(Signal::SIGTERM);
    let (status, took) = idle.ended();
    assert!(status == Some(0) && took < Duration::from_secs(2), "{status:?} {took:?}");
    // Until the server has lost its patience.
    while any_frame_or_end(&mut stays) {}
    drop(stays);
    assert_eq!(busy.ended().0, Some(0));
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
}

/// Answers a ping; false at the end of the stream.
fn any_frame_or_end(stream: &mut TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(0) => return false,
        Ok(_) => assert_eq!(any_frame(stream), said(b'>', 0, "")),
        Err(error) => panic!("{error}"),
    }
    match stream.write_all(&frame(b'<', 0, "")) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
        _ => true,
    }
}

#[test]
fn bad_usage_is_one_line_and_status_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for args in [
        &[][..],
        &["serve"],
        &["call", "127.0.0.1:1"],
        &["ask", "127.0.0.1:1", "x"],
        &["call", "nonsense", "x"],
        &["serve", "nonsense"],
        &["serve", &taken],
    ] {
        let client = rpc(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (status, output, errors) = outcome(client);
        assert_eq!((status, output.as_str(), errors.lines().count()), (Some(2), "", 1), "{args:?}: {errors}");
        assert!(errors.starts_with("rpc: "), "{errors}");
    }
}
