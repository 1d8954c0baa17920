//! cargo run --release --example http -- 127.0.0.1:8081 .
//! curl -i http://127.0.0.1:8081/README.md; curl --data-binary @README.md http://127.0.0.1:8081/echo
//!
//! An HTTP/1.1 server to begin one's own with: the files of a directory, and `POST /echo`, which sends a
//! body back while it comes. What a client sends, asks for or leaves unread costs a few pieces of memory;
//! what takes too long is ended. The loop reads files itself, and everybody waits for each piece. With
//! `--threads N` it uses N cores; on SIGHUP it is replaced, without a client noticing, by the program that
//! stands at its path by then.

mod cores;
mod tls;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};
use std::{fs::File, process::ExitCode, sync::Arc};

use httparse::{Error, Status};
use rustix::fs::{fstat, openat, FileType, Mode, OFlags};
use rustix::io::Errno;
use unbroken::frame::{Frame, Lines};
use unbroken::{CloseReport, Config, ConnId, Handler, Net, PerConn, Via};

const MAX_HEAD: usize = 16 << 10;
const MAX_BODY: u64 = 16 << 20;
const PIECE: usize = 64 << 10; // Of a file. A client that has as much to read gets no further answers.
const HEAD_TIME: Duration = Duration::from_secs(10); // For a head, however it trickles in.
const WAIT_TIME: Duration = Duration::from_secs(30); // For the next one to begin, and for more of a body.

/// Why it does not go on: more has to come, or the request is turned away with this status.
type Stop = Option<&'static str>;
const BAD: Stop = Some("400 Bad Request");

/// What is under way on a connection.
enum Stage {
    Idle,
    Head,
    Body(bool), // In chunks.
    File(File),
}

pub struct Client {
    stage: Stage,
    last: bool, // The connection ends with the answer at hand.
    came: u64,  // Of the body.
    left: u64,  // Of the body, the chunk or the file.
}

impl Client {
    /// Answers a request, or begins to. It must be clear to everybody where it ends (RFC 9112, 11.2).
    fn head(&mut self, net: &mut Net, conn: ConnId, root: &File, rest: &mut &[u8]) -> Result<(), Stop> {
        if matches!(self.stage, Stage::Idle) && !rest.is_empty() {
            self.stage = Stage::Head;
            net.set_deadline(conn, HEAD_TIME);
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let (text, behind) = match head.parse(rest) {
            Ok(Status::Complete(len)) if len <= MAX_HEAD => rest.split_at(len),
            Ok(Status::Partial) if rest.len() <= MAX_HEAD => return Err(None),
            Ok(_) | Err(Error::TooManyHeaders) => return Err(Some("431 Request Header Fields Too Large")),
            Err(Error::Version) => return Err(Some("505 HTTP Version Not Supported")),
            Err(_) => return Err(BAD),
        };
        *rest = behind;
        let list = |name: &'static str| {
            let named = head.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.flat_map(|header| header.value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
        };
        let says = |name, word: &[u8]| list(name).any(|each| each.eq_ignore_ascii_case(word));
        let (newer, hosts) = (head.version == Some(1), list("Host").count());
        let (mut lengths, mut codings) = (list("Content-Length"), list("Transfer-Encoding"));
        // httparse takes a line feed alone for the end of a line.
        let bare = text.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
        let length = match (lengths.next(), codings.next(), lengths.next().or(codings.next())) {
            _ if bare || hosts > 1 || hosts < usize::from(newer) => return Err(BAD),
            (None, None, _) => Some(0),
            (Some(digits), None, None) => Some(number(digits, 10).ok_or(BAD)?),
            (None, Some(coding), None) if newer && coding.eq_ignore_ascii_case(b"chunked") => None,
            (None, Some(_), _) if newer => return Err(Some("501 Not Implemented")),
            _ => return Err(BAD),
        };
        let target = head.path.and_then(|target| target.split('?').next()).unwrap_or_default();
        let path = target.strip_prefix("http://").map_or(target, |rest| &rest[rest.find('/').unwrap_or(0)..]);
        let (method, echo) = (head.method.unwrap_or_default(), path == "/echo");
        // A body that nobody wants is not waited for: the connection ends instead.
        let unwanted = length != Some(0) && !(echo && method == "POST");
        let leave = cores::is_draining() || says("Connection", b"close");
        self.last = unwanted || leave || !(newer || says("Connection", b"keep-alive"));
        match (method, echo) {
            ("GET" | "HEAD", false) => match open(root, path) {
                Ok((file, len)) => {
                    let head = self.answer_head("200 OK", kind_of(path), Some(len));
                    (self.stage, self.left) = (Stage::File(file), if method == "HEAD" { 0 } else { len });
                    net.clear_deadline(conn);
                    self.send_file(net, conn, head);
                }
                Err(Errno::MFILE | Errno::NFILE) => return Err(Some("503 Service Unavailable")),
                Err(_) => self.answer(net, conn, "404 Not Found"),
            },
            ("POST", true) if length == Some(0) => self.answer(net, conn, "200 OK"),
            ("POST", true) => {
                if newer && rest.is_empty() && length <= Some(MAX_BODY) && says("Expect", b"100-continue") {
                    let _ = net.send(conn, b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                (self.stage, self.left) = (Stage::Body(length.is_none()), length.unwrap_or(0));
                net.set_deadline(conn, WAIT_TIME);
            }
            ("GET" | "HEAD", true) => self.answer(net, conn, "405 Method Not Allowed\r\nAllow: POST"),
            ("POST", false) => self.answer(net, conn, "405 Method Not Allowed\r\nAllow: GET, HEAD"),
            _ => return Err(Some("501 Not Implemented")),
        }
        Ok(())
    }

    /// Sends back what has come of a body, in chunks when it comes in chunks.
    fn body(&mut self, net: &mut Net, conn: ConnId, chunked: bool, rest: &mut &[u8]) -> Result<(), Stop> {
        if chunked && self.left == 0 {
            // The lines between chunks are taken together or, when they are not all there, not yet.
            let (mut next, mut most) = (*rest, 0..64);
            let mut line = || {
                most.next().ok_or(BAD)?;
                match Lines::new().max(1 << 10).keep_end().next_in(&mut next).ok_or(None)? {
                    Frame::Whole(l) => l.strip_suffix(b"\r\n").filter(|l| !l.contains(&b'\r')).ok_or(BAD),
                    Frame::TooLong { .. } => Err(BAD),
                }
            };
            let end = if self.came > 0 { line()? } else { b"" };
            let size = line()?.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
            self.left = number(size, 16).filter(|_| end.is_empty()).ok_or(BAD)?;
            while self.left == 0 && !line()?.is_empty() {}
            *rest = next;
        }
        if self.left > MAX_BODY - self.came {
            return Err(Some("413 Content Too Large"));
        }
        let (data, behind) = rest.split_at(rest.len().min(self.left as usize));
        let data = Some(data).filter(|data| !data.is_empty() || self.left == 0).ok_or(None)?;
        let (kind, length) = ("application/octet-stream", (!chunked).then_some(self.left));
        let mut out = if self.came == 0 { self.answer_head("200 OK", kind, length) } else { Vec::new() };
        let size = format!("{:x}\r\n", data.len());
        let parts = if chunked { [size.as_bytes(), data, b"\r\n"] } else { [data, b"", b""] };
        parts.iter().for_each(|part| out.extend_from_slice(part));
        net.send_bytes(conn, out.into()).map_err(|_| Some("503 Service Unavailable"))?;
        net.set_deadline(conn, WAIT_TIME);
        let len = data.len() as u64;
        (*rest, self.left, self.came) = (behind, self.left - len, self.came + len);
        if self.left == 0 && (len == 0 || !chunked) {
            self.finish(net, conn);
        }
        Ok(())
    }

    /// Sends the next piece of the file behind what is in `out`; `on_drain` asks for the one after it.
    fn send_file(&mut self, net: &mut Net, conn: ConnId, mut out: Vec<u8>) {
        let Stage::File(file) = &mut self.stage else { return };
        let (begin, len) = (out.len(), self.left.min(PIECE as u64));
        out.resize(begin + len as usize, 0);
        // It shrank, or cannot be read or sent. What has been sent must not look whole.
        let Ok(()) = file.read_exact(&mut out[begin..]) else { return net.abort(conn) };
        let Ok(_) = net.send_bytes(conn, out.into()) else { return net.abort(conn) };
        self.left -= len;
        if self.left == 0 {
            self.finish(net, conn);
        }
    }

    fn answer_head(&self, status: &str, kind: &str, length: Option<u64>) -> Vec<u8> {
        let date = httpdate::HttpDate::from(SystemTime::now());
        let then = if self.last { "close" } else { "keep-alive" };
        let mut out = Vec::with_capacity(1 << 10);
        let _ = write!(out, "HTTP/1.1 {status}\r\nDate: {date}\r\nConnection: {then}\r\n");
        let _ = match length {
            Some(length) => write!(out, "Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"),
            None => write!(out, "Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"),
        };
        out
    }

    fn answer(&mut self, net: &mut Net, conn: ConnId, status: &str) {
        let head = self.answer_head(status, "text/plain", Some(0));
        let Ok(_) = net.send_bytes(conn, head.into()) else { return net.abort(conn) };
        self.finish(net, conn);
    }

    fn finish(&mut self, net: &mut Net, conn: ConnId) {
        (self.stage, self.came) = (Stage::Idle, 0);
        match self.last {
            true => net.close(conn),
            false => net.set_deadline(conn, WAIT_TIME),
        }
    }

    /// Takes no request any more. An answer that has begun must not look whole; a file is sent to its end.
    fn stop(&mut self, net: &mut Net, conn: ConnId, why: Stop) {
        let Some(status) = why else { return };
        self.last = true;
        match self.stage {
            Stage::Idle => net.close(conn),
            Stage::Body(_) if self.came > 0 => net.abort(conn),
            Stage::Head | Stage::Body(_) => self.answer(net, conn, status),
            Stage::File(_) => {}
        }
    }
}

/// Digits and nothing else: `from_str_radix` takes a sign as well.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, radix).ok()
}

/// A file below `root` and its length. The way is gone step by step: over no link and no hidden name, as `..`.
fn open(root: &File, path: &str) -> Result<(File, u64), Errno> {
    // A FIFO would have us wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut at = None;
    let names = path.strip_prefix('/').ok_or(Errno::NOENT)?.split('/');
    for name in names.map(|name| if name.is_empty() { "index.html" } else { name }) {
        let name = std::borrow::Cow::from(percent_encoding::percent_decode_str(name));
        let name = Some(&*name).filter(|n| !n.starts_with(b".") && !n.contains(&b'/')).ok_or(Errno::NOENT)?;
        at = Some(File::from(openat(at.as_ref().unwrap_or(root), name, flags, Mode::empty())?));
    }
    let file = at.ok_or(Errno::NOENT)?;
    let stat = fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode).is_file();
    regular.then_some((file, stat.st_size as u64)).ok_or(Errno::NOENT)
}

fn kind_of(path: &str) -> &'static str {
    match path.rsplit(['.', '/']).next() {
        Some("" | "html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

pub struct Http {
    pub root: Arc<File>,
    pub clients: PerConn<Client>,
}

impl Handler for Http {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.clients.insert(conn, Client { stage: Stage::Idle, last: false, came: 0, left: 0 });
        net.set_deadline(conn, WAIT_TIME);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let (client, mut rest) = (&mut self.clients[conn], data);
        while net.queued(conn) < PIECE {
            let taken = match client.stage {
                Stage::Body(chunked) => client.body(net, conn, chunked, &mut rest),
                Stage::Idle | Stage::Head if !client.last => client.head(net, conn, &self.root, &mut rest),
                _ => break,
            };
            let Err(why) = taken else { continue };
            client.stop(net, conn, why);
            break;
        }
        data.len() - rest.len() // The rest is shown again, when more has come or the client has read.
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.clients[conn].send_file(net, conn, Vec::new());
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.clients[conn].stop(net, conn, BAD);
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        self.clients[conn].stop(net, conn, Some("408 Request Timeout"));
    }

    fn on_close(&mut self, _: &mut Net, conn: ConnId, _: &CloseReport) {
        self.clients.remove(conn);
    }
}

fn serve(addr: &str, dir: &str, threads: usize, front: &tls::Front) -> io::Result<()> {
    let mut config = Config::default();
    config.high_water = PIECE;
    let root = Arc::new(File::open(dir)?);
    let service = cores::Service::open(config, threads, front, addr)?;
    service.run(|_| Http { root: root.clone(), clients: PerConn::new() })
}

fn main() -> ExitCode {
    env_logger::init();
    let mut args = std::env::args().skip(1).collect();
    let front = tls::Front::take(&mut args, &["http/1.1"]);
    let threads = cores::take_threads(&mut args);
    let arg = |at: usize, default| args.get(at).map_or(default, String::as_str);
    let serve = |front| serve(arg(0, "127.0.0.1:8081"), arg(1, "."), threads?, &front);
    let Err(error) = front.and_then(serve) else { return ExitCode::SUCCESS };
    eprintln!("http: {error}");
    ExitCode::from(2)
}
