//! The examples speak TLS by a flag: with each other, and with curl.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::peer::file;
use crate::util::{example, have};

/// A program that ends with the test, however that ends.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An example that listens.
struct Listening {
    _child: Ending,
    addr: String,
}

impl Listening {
    fn start(name: &str, args: &[&str]) -> Self {
        let (cert, key) = (file("ed25519.cert.pem"), file("ed25519.key.pem"));
        let mut command = Command::new(example(name));
        command.args(args).arg("--tls").args([cert, key]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("an example");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let addr = line.strip_prefix("listening on ").expect("where it listens").trim().to_owned();
        Self { _child: Ending(child), addr }
    }
}

fn client(args: &[&str]) -> Command {
    let mut command = Command::new(example(args[0]));
    command.args(&args[1..]).arg("--tls").arg("--ca").arg(file("ed25519.cert.pem"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it prints when it is given `input`, and how it ends.
fn talk(mut command: Command, input: &[u8]) -> (String, String, bool) {
    let mut child = command.spawn().expect("an example");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr), output.status.success())
}

#[test]
fn echo_and_client_talk_over_tls() {
    let echo = Listening::start("echo", &["127.0.0.1:0"]);
    let port = echo.addr.rsplit(':').next().expect("a port");
    for host in ["localhost", "127.0.0.1"] {
        let (out, told, succeeded) = talk(client(&["client", &format!("{host}:{port}")]), b"hello\n");
        assert_eq!((out.as_str(), succeeded), ("hello\n", true), "{told}");
    }
}

#[test]
fn a_client_tells_why_it_does_not_trust_a_server() {
    let echo = Listening::start("echo", &["127.0.0.1:0"]);
    let mut command = Command::new(example("client"));
    command.args([&echo.addr, "--tls", "--ca"]).arg(file("p256.cert.pem"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Ending(command.spawn().expect("an example"));
    let told = BufReader::new(child.0.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let told = told.into_iter().find(|line| line.contains("certificate")).expect("it says why");
    assert!(told.contains("alert"), "{told}");
}

#[test]
fn proxy_ends_tls_in_front_of_a_server_that_has_none() {
    let mut plain = Command::new(example("echo"));
    let echo = plain.arg("127.0.0.1:0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut echo = Ending(echo.expect("echo"));
    let mut line = String::new();
    BufReader::new(echo.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let upstream = line.trim().strip_prefix("listening on ").expect("where it listens");
    let proxy = Listening::start("proxy", &["127.0.0.1:0", upstream]);
    let (out, told, succeeded) = talk(client(&["client", &proxy.addr]), b"hello\n");
    assert_eq!((out.as_str(), succeeded), ("hello\n", true), "{told}");
}

#[test]
fn rpc_is_served_and_called_over_tls() {
    let rpc = Listening::start("rpc", &["serve", "127.0.0.1:0"]);
    let (out, told, succeeded) = talk(client(&["rpc", "call", &rpc.addr, "hello"]), b"");
    assert_eq!((out.as_str(), succeeded), ("HELLO\n", true), "{told}");
}

#[test]
fn lab_keeps_its_contract_over_tls_and_counts_plaintext() {
    let mut lab = Command::new(example("lab"));
    lab.arg("--tls").args([file("ed25519.cert.pem"), file("ed25519.key.pem")]);
    let mut child = Ending(lab.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("lab"));
    let mut events = BufReader::new(child.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let first: serde_json::Value = serde_json::from_str(&events.next().expect("a line")).expect("JSON");
    let addr = first["addr"].as_str().expect("an address").to_owned();
    let (out, told, succeeded) = talk(client(&["client", &addr]), b"SEND 100000\n");
    assert!(!out.is_empty() && succeeded, "{told}");
    let close = events.find(|line| line.contains("\"event\":\"close\"")).expect("a report");
    let close: serde_json::Value = serde_json::from_str(&close).expect("JSON");
    assert_eq!((&close["handed"], &close["unsent"]), (&100_000.into(), &0.into()), "{close}");
}

#[test]
fn http_serves_curl_over_tls_and_agrees_on_the_protocol() {
    if !have("curl") {
        return;
    }
    let http = Listening::start("http", &["127.0.0.1:0", env!("CARGO_MANIFEST_DIR")]);
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "--cacert"]).arg(file("ed25519.cert.pem")).args(args);
        let output = command.output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let readme = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("a file");
    assert!(curl(&[&format!("https://{}/README.md", http.addr)]) == readme);
    let told = curl(&["-v", "--stderr", "-", "-o", "/dev/null", &format!("https://{}/README.md", http.addr)]);
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("http/1.1"), "{told}");
    let echo = format!("https://{}/echo", http.addr);
    let body = format!("@{}/README.md", env!("CARGO_MANIFEST_DIR"));
    assert!(curl(&["--data-binary", &body, &echo]) == readme);
    assert!(curl(&["--tls-max", "1.2", "--data-binary", &body, &echo]) == readme);
}

#[test]
fn files_that_cannot_be_had_are_told_of_in_one_line() {
    for args in [&["127.0.0.1:0", "--tls"][..], &["127.0.0.1:0", "--tls", "/nowhere", "/nowhere"][..]] {
        let output = Command::new(example("echo")).args(args).output().expect("echo");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{told}");
    }
}
