//! The example `inetd`: a program for each client, with half-closes, broken pipes and backpressure passed
//! through both ways.

mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use util::{patient, pattern, read_all};

/// The example, serving a program. Dropping it kills it.
struct Inetd(Child, SocketAddr);

fn inetd(program: &[&str]) -> Inetd {
    let mut command = Command::new(util::example("inetd"));
    command.args(["127.0.0.1:0", "--"]).args(program).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().expect("the example starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("listening on ").expect(&line).parse().unwrap();
    Inetd(child, addr)
}

impl Inetd {
    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.1).unwrap();
        patient(&stream);
        stream
    }

    fn children(&self) -> usize {
        let path = format!("/proc/{0}/task/{0}/children", self.0.id());
        std::fs::read_to_string(path).unwrap().split_whitespace().count()
    }

    fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).unwrap() << 10
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_program_sees_the_end_of_its_input_and_the_client_the_end_of_the_answer() {
    let inetd = inetd(&["sort"]);
    let mut clients: Vec<_> = (0..5).map(|_| inetd.client()).collect();
    for client in &mut clients {
        client.write_all(b"b\nc\na\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for mut client in clients {
        let (got, error) = read_all(&mut client);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(got, b"a\nb\nc\n");
    }
    util::eventually("no child is left", || inetd.children() == 0);
}

#[test]
fn a_program_that_stops_reading_still_gets_its_answer_through() {
    // It leaves most of its input unread.
    let inetd = inetd(&["head", "-n", "1"]);
    let mut client = inetd.client();
    client.write_all(b"first\n").unwrap();
    let _ = client.write_all(&vec![b'x'; 300_000]);
    let (got, error) = read_all(&mut client);
    assert_eq!((got.as_slice(), error.is_none()), (&b"first\n"[..], true), "{error:?}");
}

#[test]
fn a_program_that_is_killed_resets_its_client_and_a_missing_one_does_too() {
    let killed = inetd(&["sh", "-c", "echo half an answer; kill -9 $$"]);
    let (_, error) = read_all(&mut killed.client());
    assert_eq!(error.and_then(|error| error.raw_os_error()), Some(libc::ECONNRESET));
    let missing = inetd(&["/no/such/program"]);
    let (got, error) = read_all(&mut missing.client());
    assert_eq!((got.len(), error.and_then(|error| error.raw_os_error())), (0, Some(libc::ECONNRESET)));
}

#[test]
fn a_client_that_goes_breaks_the_pipe_of_its_program() {
    let inetd = inetd(&["yes"]);
    let mut client = inetd.client();
    client.read_exact(&mut [0; 10_000]).unwrap();
    util::eventually("the program", || inetd.children() == 1);
    drop(client);
    util::eventually("its end", || inetd.children() == 0);
}

#[test]
fn many_megabytes_through_cat_come_back_byte_for_byte_and_memory_stays_flat() {
    // A gigabyte where there is time: the debug build takes its own.
    let long = std::env::var_os("UNBROKEN_LONG").is_some_and(|value| value == "1");
    let megabytes = if long { 1024 } else { 64 };
    let inetd = inetd(&["cat"]);
    let mut client = inetd.client();
    let block = pattern(251 * 4096);
    let writer = {
        let (mut stream, block) = (client.try_clone().unwrap(), block.clone());
        thread::spawn(move || {
            (0..megabytes).for_each(|_| stream.write_all(&block).unwrap());
            stream.shutdown(Shutdown::Write).unwrap();
        })
    };
    let (mut buf, mut most, began) = (vec![0; block.len()], 0, Instant::now());
    for n in 0..megabytes {
        client.read_exact(&mut buf).unwrap();
        assert!(buf == block, "block {n}");
        most = most.max(inetd.rss());
    }
    assert_eq!(client.read(&mut buf).unwrap(), 0);
    writer.join().unwrap();
    assert!(most < 24 << 20, "{most} bytes");
    assert!(began.elapsed() < Duration::from_secs(300));
}
