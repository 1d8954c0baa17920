//! Other people's TLS at the other end, in both directions and both versions.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use unbroken::{CloseReason, CloseReport, Config, Net, Timeout};

use crate::peer::{configured, file, name, only, serve_tls};
use crate::util::{have, pattern, serve, Custom, Echo, Server, SOON};

const VERSIONS: [&str; 2] = ["1.2", "1.3"];

/// Ends it, whatever happens to the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> (Program, BufReader<ChildStdout>) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    (Program(child), output)
}

fn port(addr: SocketAddr) -> String {
    addr.port().to_string()
}

fn path(name: &str) -> String {
    file(name).to_string_lossy().into_owned()
}

fn python(server: &Server, version: &str, mode: &str) -> (Program, BufReader<ChildStdout>) {
    let args = [&path("peer.py"), "client", &port(server.addr), version, mode, &path("ed25519.cert.pem")];
    start(Command::new("python3").args(args))
}

/// A client of each version, at once; what each of them said, and what was reported of each.
fn pythons(server: &Server, mode: &str) -> Vec<(String, CloseReport)> {
    let running = VERSIONS.map(|version| python(server, version, mode));
    let said: Vec<_> = running.into_iter().map(|(program, output)| (rest(output), drop(program)).0).collect();
    said.into_iter().map(|said| (said, server.closed().1)).collect()
}

fn rest(mut output: impl Read) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).expect("text");
    text
}

/// Our client, which sends `request`, and closes when so much has come back, if it is to be the first.
fn our_client(version: &'static str, to: SocketAddr, request: Vec<u8>, close_after: usize) -> Server {
    let mut came = 0;
    let data = move |net: &mut Net, conn, data: &[u8]| {
        came += data.len();
        if came == close_after {
            net.close(conn);
        }
        data.len()
    };
    let ours = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    ours.ask(move |net| {
        let conn = net.connect_tls(to, name(), only(version)).expect("connect");
        net.send_bytes(conn, request.into()).expect("queued");
    });
    ours
}

#[test]
fn openssls_client_speaks_with_our_server() {
    if !have("openssl") {
        return;
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let server = serve_tls(Config::default(), Echo);
        let connect = format!("127.0.0.1:{}", server.addr.port());
        let (cert, name) = (path("ed25519.cert.pem"), "localhost");
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &connect, version, "-CAfile", &cert, "-verify_hostname", name]);
        let (mut client, mut output) =
            start(command.args(["-verify_return_error", "-quiet", "-no_ign_eof", "-servername", name]));
        let mut input = client.0.stdin.take().expect("piped");
        input.write_all(b"hello\n").expect("a write");
        let mut line = String::new();
        output.read_line(&mut line).expect("an answer");
        assert_eq!(line, "hello\n");
        drop(input);
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 6), "{version}: {report}");
        assert!(client.0.wait().expect("it ends").success());
    }
}

#[test]
fn our_client_speaks_with_openssls_server() {
    if !have("openssl") {
        return;
    }
    for (version, flag) in [("1.2", "-tls1_2"), ("1.3", "-tls1_3")] {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        let (cert, key) = (path("ed25519.cert.pem"), path("ed25519.key.pem"));
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", &format!("127.0.0.1:{}", free.port()), "-cert", &cert]);
        let _server = start(command.args(["-key", &key, flag, "-rev", "-quiet"]));
        // It lines its words up backwards; when it listens it does not say.
        let began = Instant::now();
        let report = loop {
            let ours = our_client(version, free, b"hello\n".to_vec(), 6);
            let (_, report) = ours.closed();
            if report.reason != CloseReason::ConnectFailed {
                break report;
            }
            assert!(began.elapsed() < SOON);
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(
            (report.reason, report.received, report.handed),
            (CloseReason::Finished, 6, 6),
            "{report}"
        );
    }
}

#[test]
fn curl_gets_and_posts_over_https() {
    if !have("curl") {
        return;
    }
    for flags in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        let mut got = Vec::new();
        let data = move |net: &mut Net, conn, data: &[u8]| {
            got.extend_from_slice(data);
            let Some(head) = got.windows(4).position(|window| window == b"\r\n\r\n") else {
                return data.len();
            };
            if got.starts_with(b"GET") || got.len() == head + 4 + 3_000_000 {
                let _ = net
                    .send(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n");
                let _ = net.send_bytes(conn, pattern(1_000_000).into());
                net.close(conn);
                got.clear();
            }
            data.len()
        };
        let server = serve_tls(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
        let url = format!("https://localhost:{}/", server.addr.port());
        let cert = path("ed25519.cert.pem");
        for posts in [false, true] {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--http1.1", "--cacert", &cert, "--max-time", "20"]);
            command.args(flags).args(["--resolve", &format!("localhost:{}:127.0.0.1", server.addr.port())]);
            if posts {
                command.args(["-H", "Expect:", "--data-binary", "@-"]);
            }
            let (mut curl, output) = start(command.arg(&url));
            let mut input = curl.0.stdin.take().expect("piped");
            let feeding = std::thread::spawn(move || {
                let _ = input.write_all(&pattern(if posts { 3_000_000 } else { 0 }));
            });
            let mut body = Vec::new();
            { output }.read_to_end(&mut body).expect("the answer");
            feeding.join().expect("no panic");
            assert!(body == pattern(1_000_000), "{} bytes, {posts}, {flags:?}", body.len());
            let (_, report) = server.closed();
            assert_eq!(report.reason, CloseReason::Finished, "{report}");
        }
    }
}

#[test]
fn pythons_client_ends_its_session_in_good_order() {
    if !have("python3") {
        return;
    }
    let server = serve_tls(Config::default(), Echo);
    for (said, report) in pythons(&server, "echo") {
        assert_eq!(said, "done\n");
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 5), "{report}");
    }
}

#[test]
fn pythons_client_that_says_no_farewell_is_cut_short() {
    if !have("python3") {
        return;
    }
    let server = serve_tls(Config::default(), Echo);
    for (said, report) in pythons(&server, "abandon") {
        assert_eq!(said, "done\n");
        assert_eq!((report.reason, report.received), (CloseReason::Truncated, 5), "{report}");
    }
}

#[test]
fn our_close_is_a_clean_end_to_python_however_much_comes_before() {
    if !have("python3") {
        return;
    }
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send_bytes(conn, pattern(4_000_000).into());
        net.close(conn);
        data.len()
    };
    let server = serve_tls(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    for (said, report) in pythons(&server, "to-the-end") {
        assert_eq!(said, "bytes 4000000\ndone\n");
        assert_eq!((report.reason, report.handed), (CloseReason::Finished, 4_000_000), "{report}");
    }
}

#[test]
fn pythons_client_is_understood_a_byte_at_a_time() {
    if !have("python3") {
        return;
    }
    let server = serve_tls(Config::default(), Echo);
    for (said, report) in pythons(&server, "bytes") {
        assert_eq!(said, "done\n");
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 5), "{report}");
    }
}

#[test]
fn pythons_client_that_resets_in_the_middle_of_a_record_is_a_reset() {
    if !have("python3") {
        return;
    }
    let server = serve_tls(Config::default(), Echo);
    for (said, report) in pythons(&server, "reset") {
        assert_eq!(said, "done\n");
        assert_eq!((report.reason, report.received), (CloseReason::Reset, 5), "{report}");
    }
}

#[test]
fn pythons_client_that_reads_no_more_is_a_stall_with_an_account() {
    if !have("python3") {
        return;
    }
    let config = configured(|config| {
        config.write_stall = Some(Duration::from_millis(300));
    });
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send_bytes(conn, pattern(15_000_000).into());
        data.len()
    };
    let server = serve_tls(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let (_client, _) = python(&server, "1.3", "mute");
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(report.handed + report.unsent == 15_000_000 && report.unsent > 0, "{report}");
}

/// Our client and Python's server: the client's report, and what the server says of it.
fn with_pythons_server(version: &'static str, mode: &str, close_after: usize) -> (CloseReport, String) {
    let args = [&path("peer.py"), "server", "0", version, mode, &path("ed25519.cert.pem")];
    let (_server, mut output) = start(Command::new("python3").args(args).arg(path("ed25519.key.pem")));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let port: u16 = line.trim().rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
    let request = if close_after > 5 { pattern(close_after) } else { b"hello".to_vec() };
    let ours = our_client(version, SocketAddr::from(([127, 0, 0, 1], port)), request, close_after);
    let (_, report) = ours.closed();
    (report, rest(output))
}

#[test]
fn our_client_ends_its_session_with_pythons_server_in_good_order() {
    if !have("python3") {
        return;
    }
    for version in VERSIONS {
        let (report, said) = with_pythons_server(version, "echo", 2_000_000);
        assert_eq!(said, "bytes 2000000\ndone\n");
        assert_eq!(
            (report.reason, report.received, report.handed),
            (CloseReason::Finished, 2_000_000, 2_000_000)
        );
    }
}

#[test]
fn our_client_notices_that_pythons_server_was_cut_short() {
    if !have("python3") {
        return;
    }
    for version in VERSIONS {
        let (report, said) = with_pythons_server(version, "cut", 0);
        assert!(said.starts_with("done") || said.starts_with("failed"), "{said}");
        assert_eq!((report.reason, report.received), (CloseReason::Truncated, 5), "{report}");
    }
}
