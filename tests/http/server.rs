//! A running server with a directory of its own, and a client that takes answers apart.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::util;

pub const INDEX: &str = "<!doctype html><title>index</title>";

/// A directory that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    /// It holds `index.html` and `sub/page.html`.
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("http-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        std::fs::create_dir_all(folder.0.join("sub")).unwrap();
        folder.write("index.html", INDEX.as_bytes());
        folder.write("sub/page.html", b"a page");
        folder
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.0.join(name), content).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server. Dropping it kills it.
pub struct Server {
    pub child: Child,
    pub addr: SocketAddr,
    pub folder: Folder,
}

impl Server {
    pub fn start() -> Self {
        let folder = Folder::new();
        let mut command = Command::new(util::example("http"));
        command.arg("127.0.0.1:0").arg(&folder.0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, addr, folder }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        util::patient(&stream);
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn client(&self) -> Client {
        Client { stream: BufReader::new(self.connect()) }
    }

    /// All that comes back for `input` until the server ends the connection, which it must do in order.
    pub fn ask(&self, input: &[u8]) -> Vec<Answer> {
        let mut client = self.client();
        client.send(input);
        client.rest()
    }

    /// Resident memory of its own, in bytes: not the pages of the program that it has come to use.
    pub fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).map(|kib: usize| kib << 10).unwrap()
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// In lower case, without the date.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Says that it is the last one, as it must when the connection ends behind it.
    pub fn is_last(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub fn send(&mut self, input: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(input.as_ref()).unwrap();
    }

    pub fn half_close(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer; `None` at the end of the stream.
    pub fn answer(&mut self) -> Option<Answer> {
        read_answer(&mut self.stream, false)
    }

    /// The answer to a HEAD.
    pub fn head(&mut self) -> Answer {
        read_answer(&mut self.stream, true).expect("an answer")
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(get(path));
        self.answer().expect("an answer")
    }

    /// All answers up to the end.
    pub fn rest(&mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.answer()).collect()
    }

    /// What is left, and whether the stream ends with a reset.
    pub fn cut(mut self) -> (usize, bool) {
        let mut rest = Vec::new();
        let ended = self.stream.read_to_end(&mut rest);
        (rest.len(), ended.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET)))
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub fn post(body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A POST whose body comes in chunks, which are given as they are on the wire.
pub fn chunked(chunks: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

fn line(input: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    input.read_line(&mut line).expect("a line");
    (!line.is_empty()).then(|| line.strip_suffix("\r\n").expect("an end of the line").to_owned())
}

fn bytes(input: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    input.read_exact(&mut bytes).expect("all of the body");
    bytes
}

/// Takes the next answer apart, strictly.
pub fn read_answer(input: &mut impl BufRead, to_head: bool) -> Option<Answer> {
    let first = line(input)?;
    let (status, reason) =
        first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split_once(' ')).expect("a status");
    assert!(!reason.is_empty(), "{first}");
    let lines = std::iter::from_fn(|| line(input).filter(|line| !line.is_empty()));
    let mut headers: Vec<String> = lines.map(|line| line.to_lowercase()).collect();
    let mut answer = Answer { status: status.parse().unwrap(), headers: Vec::new(), body: Vec::new() };
    if answer.status != 100 {
        let dated = headers.iter().position(|line| line.starts_with("date: ") && line.ends_with(" gmt"));
        headers.remove(dated.unwrap_or_else(|| panic!("no date: {headers:?}")));
    }
    answer.headers = headers;
    match (answer.header("content-length"), answer.header("transfer-encoding")) {
        _ if to_head || answer.status == 100 => {}
        (Some(length), None) => answer.body = bytes(input, length.parse().unwrap()),
        (None, Some("chunked")) => loop {
            let size = usize::from_str_radix(&line(input).expect("a chunk"), 16).expect("its size");
            answer.body.extend(bytes(input, size));
            assert_eq!(line(input).as_deref(), Some(""));
            if size == 0 {
                break;
            }
        },
        _ => panic!("no length: {answer:?}"),
    }
    Some(answer)
}
