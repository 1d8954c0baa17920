//! The examples `echo`, `client`, `proxy` and `embed`, used as a stranger would: as programs with
//! arguments, standard streams, an exit status, and plain sockets at the other end.

mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use util::{eventually, patient, pattern, read_all};

/// A running example. Dropping it kills it.
struct Example {
    child: Child,
    output: BufReader<ChildStdout>,
    errors: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Example {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(util::example(name));
        command.args(args).env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let errors = Arc::new(Mutex::new(String::new()));
        let kept = errors.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *kept.lock().expect("lock") += &(line + "\n");
            }
        });
        Self { child, output, errors, reader: Some(reader) }
    }

    /// Starts an example that listens; its first line must say where.
    fn listening(name: &str, args: &[&str]) -> (Self, SocketAddr) {
        let mut example = Self::start(name, args);
        let mut line = String::new();
        example.output.read_line(&mut line).expect("a line");
        let addr = line.strip_prefix("listening on ").and_then(|line| line.strip_suffix('\n'));
        let addr = addr.unwrap_or_else(|| panic!("{line:?}: {}", example.errors()));
        (example, addr.parse().expect("an address"))
    }

    fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("not taken yet")
    }

    /// What it has written to standard error so far.
    fn errors(&self) -> String {
        self.errors.lock().expect("lock").clone()
    }

    /// Its exit status, the rest of its output and all of its errors, once it has ended by itself.
    fn ended(&mut self) -> (Option<i32>, Vec<u8>, String) {
        let mut status = None;
        eventually("its end", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("output");
        self.reader.take().expect("asked once").join().expect("stderr");
        (status.and_then(|status| status.code()), rest, self.errors())
    }

    /// Resident memory, in bytes.
    fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).map(|kib: usize| kib << 10).unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connect");
    patient(&stream);
    stream
}

/// Waits for a client no longer than is sensible.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut stream = None;
    eventually("a client", || {
        stream = listener.accept().ok();
        stream.is_some()
    });
    let (stream, _) = stream.expect("just accepted");
    stream.set_nonblocking(false).unwrap();
    patient(&stream);
    stream
}

/// A port that is ours and refuses everybody, until `listen` is called on it.
fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

fn read_exactly(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).expect("so many bytes");
    data
}

fn assert_clean(stream: &mut TcpStream, expected: &[u8]) {
    let (data, error) = read_all(stream);
    assert!(error.is_none(), "{error:?} after {} bytes", data.len());
    assert!(data == expected, "{} bytes instead of {}", data.len(), expected.len());
}

fn assert_reset(stream: &mut TcpStream) {
    let (data, error) = read_all(stream);
    let errno = error.as_ref().and_then(|error| error.raw_os_error());
    assert_eq!(errno, Some(libc::ECONNRESET), "{error:?} after {} bytes", data.len());
}

/// The number behind a word in a line of `client`.
fn number(line: &str, word: &str) -> usize {
    let rest = line.split(&format!("{word} ")).nth(1).unwrap_or_else(|| panic!("no {word}: {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {word}: {line}"))
}

#[test]
fn echo_says_where_it_listens_and_answers_in_full_after_a_half_close() {
    let (_echo, addr) = Example::listening("echo", &["127.0.0.1:0"]);
    let sent = pattern(10_000_000);
    let mut client = connect(addr);
    // Reading and writing go side by side: echo does not read from whom it cannot write to.
    let (mut writer, data) = (client.try_clone().unwrap(), sent.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    // Slow at first, so that the end of the stream comes long before the answer has been read.
    let mut got = Vec::new();
    while !writing.is_finished() && got.len() < sent.len() - (1 << 20) {
        got.extend(read_exactly(&mut client, 20_000));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_clean(&mut client, &sent[got.len()..]);
    assert!(sent.starts_with(&got));
    writing.join().unwrap();
}

#[test]
fn echo_exits_with_status_2_and_one_line_for_an_address_it_cannot_bind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for addr in [taken.local_addr().unwrap().to_string(), "no address".to_owned()] {
        let (status, output, errors) = Example::start("echo", &[&addr]).ended();
        assert_eq!((status, output.as_slice()), (Some(2), b"".as_slice()), "{errors}");
        assert!(errors.starts_with(&format!("echo: {addr}: ")) && errors.lines().count() == 1, "{errors}");
    }
}

#[test]
fn client_sends_its_input_prints_the_answer_and_says_how_it_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Example::start("client", &[&listener.local_addr().unwrap().to_string()]);
    client.input().write_all(b"question").unwrap();
    let mut server = accept(&listener);
    assert_clean(&mut server, b"question");
    server.write_all(b"answer").unwrap();
    drop(server);
    let (status, output, errors) = client.ended();
    assert_eq!((status, output.as_slice()), (Some(0), b"answer".as_slice()), "{errors}");
    assert!(errors.contains("client: finished; received 6, handed 8, unsent 0"), "{errors}");
}

#[test]
fn client_reconnects_with_growing_jittered_delays_until_it_gets_through() {
    const ROUNDS: usize = 5;
    let (socket, addr) = refusing();
    let began = Instant::now();
    // Several, because chance may make any single one of them quick.
    let mut clients: Vec<_> = (0..4).map(|_| Example::start("client", &[&addr.to_string()])).collect();
    for client in &mut clients {
        client.input().write_all(b"typed early").unwrap();
    }
    let mut all = Vec::new();
    for client in &clients {
        let delays = || -> Vec<usize> {
            let errors = client.errors();
            let lines = errors.lines().filter(|line| line.contains("connecting again in"));
            lines.map(|line| number(line, "again in")).collect()
        };
        eventually("reconnections", || delays().len() >= ROUNDS);
        let (delays, elapsed) = (delays(), began.elapsed());
        for (round, delay) in delays.iter().enumerate() {
            assert!(*delay <= 100 << round, "{delays:?}");
        }
        let waited: usize = delays[..delays.len() - 1].iter().sum();
        assert!(elapsed >= Duration::from_millis(waited as u64), "{elapsed:?} for {delays:?}");
        assert!(client.errors().contains("client: could not connect (errno 111)"), "{}", client.errors());
        all.push(delays[..ROUNDS].to_vec());
    }
    // Each of these fails by chance less than once in a million runs.
    assert!(all.iter().flatten().any(|delay| *delay > 200), "they do not grow: {all:?}");
    assert!(all.iter().any(|delays| delays != &all[0]), "there is no jitter: {all:?}");
    socket.listen(16).unwrap();
    let listener = TcpListener::from(socket);
    for _ in 0..clients.len() {
        assert_clean(&mut accept(&listener), b"typed early");
    }
    for client in &mut clients {
        let (status, _, errors) = client.ended();
        assert_eq!(status, Some(0), "{errors}");
    }
}

#[test]
fn client_tells_what_a_reset_cost_and_resends_nothing() {
    const TOTAL: usize = 30_000_000;
    const READ: usize = 100_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Example::start("client", &[&listener.local_addr().unwrap().to_string()]);
    let (mut input, typed) = (client.input(), Arc::new(AtomicUsize::new(0)));
    let count = typed.clone();
    let typing = std::thread::spawn(move || {
        for piece in pattern(TOTAL).chunks(10_000) {
            input.write_all(piece).unwrap();
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let mut first = accept(&listener);
    assert!(read_exactly(&mut first, READ) == pattern(READ));
    // Until nothing moves any more: every buffer on the way is full.
    let (mut seen, mut since) = ((0, 0), Instant::now());
    eventually("a stall", || {
        let now = (typed.load(Ordering::Relaxed), rustix::io::ioctl_fionread(&first).unwrap() as usize);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    });
    let arrived = READ + seen.1;
    assert!(seen.0 < TOTAL, "the client does not hold its input up");
    util::reset(first);

    let mut second = accept(&listener);
    let (resumed, error) = read_all(&mut second);
    assert!(error.is_none(), "{error:?}");
    drop(second);
    typing.join().unwrap();
    let (status, _, errors) = client.ended();
    assert_eq!(status, Some(0), "{errors}");
    let report = errors.lines().find(|line| line.contains("connection reset")).expect("a report");
    let (handed, unsent, unacked) =
        (number(report, "handed"), number(report, "unsent"), number(report, "unacked"));
    assert!(unsent > 0 && unacked > 0, "{report}");
    assert_eq!(handed - unacked, arrived, "{report}");
    let told = format!("not delivered: {unsent} bytes never sent, {unacked} sent and not acknowledged");
    assert!(errors.contains(&told), "{errors}");
    // The second connection begins behind all that the first one took.
    assert_eq!(resumed.len(), TOTAL - handed - unsent, "{report}");
    assert!(resumed == pattern(TOTAL)[handed + unsent..]);
}

/// A proxy in front of a listener, with a client and its counterpart behind the proxy.
fn proxied() -> (Example, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let (proxy, addr) = Example::listening("proxy", &["127.0.0.1:0", &upstream]);
    let client = connect(addr);
    (proxy, client, accept(&listener))
}

#[test]
fn proxy_passes_half_closes_through_in_both_directions() {
    for client_ends_first in [true, false] {
        let (_proxy, client, upstream) = proxied();
        let (mut one, mut other) = if client_ends_first { (client, upstream) } else { (upstream, client) };
        one.write_all(b"question").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        assert_clean(&mut other, b"question");
        let answer = pattern(1_000_000);
        let data = answer.clone();
        let answering = std::thread::spawn(move || other.write_all(&data).unwrap());
        assert_clean(&mut one, &answer);
        answering.join().unwrap();
    }
}

#[test]
fn proxy_passes_a_reset_or_a_refusal_on_as_a_reset() {
    for client_resets in [true, false] {
        let (_proxy, client, upstream) = proxied();
        let (mut one, mut other) = if client_resets { (client, upstream) } else { (upstream, client) };
        one.write_all(b"cut").unwrap();
        assert_eq!(read_exactly(&mut other, 3), b"cut");
        util::reset(one);
        assert_reset(&mut other);
    }
    let (_held, nobody) = refusing();
    let (_proxy, addr) = Example::listening("proxy", &["127.0.0.1:0", &nobody.to_string()]);
    assert_reset(&mut connect(addr));
}

#[test]
fn proxy_keeps_its_memory_flat_and_loses_nothing_when_nobody_reads() {
    const MOST: usize = 4 << 20;
    const CHUNK: usize = 251 * 256;
    let (proxy, mut sender, mut receiver) = proxied();
    let before = proxy.rss();
    let data = pattern(CHUNK);
    let (mut sent, mut refused, mut highest) = (0, 0, before);
    sender.set_nonblocking(true).unwrap();
    // A stall is 200 ms without a single byte taken.
    while refused < 40 {
        match sender.write(&data[sent % 251..]) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                refused += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        highest = highest.max(proxy.rss());
        assert!(sent < 200 << 20, "the sender is never held up");
    }
    assert!(sent > MOST, "too little to show anything: {sent}");
    assert!(highest - before < MOST, "grew by {} for {sent} bytes", highest - before);
    sender.set_nonblocking(false).unwrap();
    let total = sent + 20_000_000;
    let sending = std::thread::spawn(move || {
        sender.write_all(&pattern(total)[sent..]).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    assert_clean(&mut receiver, &pattern(total));
    sending.join().unwrap();
    let after = proxy.rss().saturating_sub(before);
    assert!(after < MOST, "grew by {after}");
}

#[test]
fn embed_answers_clients_beside_its_input_and_ends_with_it() {
    let (mut embed, addr) = Example::listening("embed", &["127.0.0.1:0"]);
    let mut input = embed.input();
    let mut clients = [connect(addr), connect(addr)];
    for round in 0..3 {
        for client in &mut clients {
            client.write_all(b"mine").unwrap();
            assert_eq!(read_exactly(client, 4), b"mine", "round {round}");
        }
        input.write_all(b"typed\n").unwrap();
        for client in &mut clients {
            assert_eq!(read_exactly(client, 6), b"typed\n", "round {round}");
        }
    }
    input.write_all(b"last\n").unwrap();
    drop(input);
    for client in &mut clients {
        assert_clean(client, b"last\n");
    }
    drop(clients);
    let (status, _, errors) = embed.ended();
    assert_eq!(status, Some(0), "{errors}");
}
