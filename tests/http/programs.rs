//! What others wrote: `curl` and `wrk`. And the server as a program: its exit status, and a signal.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::server::{Server, INDEX};
use crate::util::{self, eventually, have, pattern};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new("timeout").args(["30", program]).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What `curl` got, and what it told by `--write-out`.
fn curl(args: &[&str]) -> (Vec<u8>, String) {
    let write_out = "%{stderr}%{http_version} %{http_code} %{num_connects}\\n";
    let output = run("curl", &[&["--silent", "--show-error", "--write-out", write_out], args].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {told}");
    (output.stdout, told)
}

#[test]
fn curl_gets_files_and_its_uploads_back() {
    if !have("curl") {
        return;
    }
    let server = Server::start();
    let big = pattern(3_000_000);
    server.folder.write("big.bin", &big);
    let url = |path: &str| format!("http://{}{path}", server.addr);
    let upload = format!("@{}", server.folder.0.join("big.bin").display());
    let file = upload.trim_start_matches('@');

    let (got, told) = curl(&[&url("/"), &url("/"), &url("/big.bin")]);
    assert!(got == [INDEX.as_bytes(), INDEX.as_bytes(), &big].concat());
    assert_eq!(told, "1.1 200 1\n1.1 200 0\n1.1 200 0\n", "one connection for all");
    let (got, told) = curl(&["--head", &url("/big.bin"), &url("/none")]);
    assert_eq!(told, "1.1 200 1\n1.1 404 0\n");
    assert!(String::from_utf8_lossy(&got).contains("Content-Length: 3000000\r\n"));
    let (got, told) = curl(&["--http1.0", &url("/")]);
    assert_eq!((got.as_slice(), told.as_str()), (INDEX.as_bytes(), "1.1 200 1\n"));

    for how in [
        &["--data-binary", &upload][..],
        &["--data-binary", &upload, "--header", "Expect:"],
        &["--data-binary", &upload, "--header", "Transfer-Encoding: chunked"],
        &["--upload-file", file, "--request", "POST"],
        &["--http1.0", "--data-binary", &upload, "--header", "Expect:"],
    ] {
        let (got, told) = curl(&[how, &[&url("/echo")]].concat());
        assert!(got == big, "{how:?}: {} bytes, {told}", got.len());
        assert_eq!(told, "1.1 200 1\n", "{how:?}");
    }
    // More than is taken: curl gets the answer.
    server.folder.write("big.bin", &vec![0; 20 << 20]);
    for how in [&["--header", "Expect:"][..], &[]] {
        let (got, told) = curl(&[&["--data-binary", &upload], how, &[&url("/echo")]].concat());
        assert_eq!((got.len(), told.as_str()), (0, "1.1 413 1\n"));
    }
}

#[test]
fn wrk_meets_no_error() {
    if !have("wrk") {
        return;
    }
    let server = Server::start();
    let url = format!("http://{}/", server.addr);
    let output = run("wrk", &["--threads", "1", "--connections", "50", "--duration", "1s", &url]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = told.lines().find(|line| line.contains(" requests in "));
    let requests = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    assert!(requests.is_some_and(|requests| requests > 1000), "{told}");
    assert!(!told.contains("Non-2xx") && !told.contains("Socket errors"), "{told}");
}

#[test]
fn sigterm_delivers_what_is_queued_and_ends_with_status_0() {
    let mut server = Server::start();
    server.folder.write("file.bin", &pattern(50_000));
    let mut idle = server.client();
    assert_eq!(idle.get("/").status, 200);
    let mut reading = server.client();
    reading.send(crate::server::get("/file.bin"));
    eventually("the answer", || rustix::io::ioctl_fionread(reading.stream.get_ref()).unwrap() > 0);
    kill(Pid::from_raw(server.child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(idle.answer(), None);
    assert!(reading.answer().unwrap().body == pattern(50_000));
    assert_eq!(reading.answer(), None);
    drop((idle, reading));
    let mut status = None;
    eventually("the end", || {
        status = server.child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success(), "{status:?}");
}

#[test]
fn an_address_or_a_directory_that_cannot_be_had_ends_with_status_2_and_one_line() {
    let server = Server::start();
    let folder = server.folder.0.to_str().unwrap();
    for (addr, dir) in [(server.addr.to_string().as_str(), folder), ("127.0.0.1:0", "/none"), ("x", folder)] {
        let mut child = Command::new(util::example("http"))
            .args([addr, dir])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut out, mut errors) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(2));
        assert!(out.is_empty() && errors.starts_with("http: ") && errors.lines().count() == 1, "{errors}");
    }
}
