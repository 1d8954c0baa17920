//! cargo run --release --example rpc -- serve 127.0.0.1:7011
//! cargo run --release --example rpc -- call 127.0.0.1:7011 "sleep 300 slow" quick
//!
//! Requests and answers with ids, in frames with their length in front: many may be open, and answers
//! overtake each other. The server gives a text back in capitals, `sleep MS TEXT` after so long. Besides:
//! * Heartbeats: who hears nothing asks for a sign of life. That finds a program that hangs, too.
//! * Connecting anew, until the time for a request is over. What was not answered is asked again, although
//!   it may have been carried out: here that does no harm. Where it does, say that nobody knows.
//! * An end in good order: after SIGTERM what was asked is answered, and what is asked then is refused.

mod tls;

use std::collections::{hash_map::RandomState, BTreeMap};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use signal_hook::{consts::SIGINT, consts::SIGTERM, iterator::Signals};
use unbroken::frame::{EncodeError, LengthPrefix};
use unbroken::{Addr, Bytes, CloseReason, CloseReport, Config, ConnId, Handler, Net, PerConn, PerTimer};
use unbroken::{Reactor, State, Timeout, TimerId, Via};

/// A frame: its length, its kind (a byte), the id of the request (four bytes), a text.
const FRAME: LengthPrefix = LengthPrefix::be::<u32>().max(32 << 10);
const REQUEST: u8 = b'?';
const ANSWER: u8 = b'=';
const REFUSAL: u8 = b'!';
const PING: u8 = b'>';
const PONG: u8 = b'<';
const NO_HTTP: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nThis is not an HTTP server.\n";
/// Silence before a sign of life is asked for, and then before it is given up.
const QUIET: Duration = Duration::from_secs(1);
/// How long a client waits for its answers, and a server that is to end for the last of them.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Requests of one connection that are open at most.
const MOST_OPEN: usize = 1000;

fn frame(kind: u8, id: u32, text: &[u8]) -> Result<Bytes, EncodeError> {
    FRAME.frame(&[&[kind], &id.to_be_bytes()[..], text].concat())
}

fn parse(frame: &[u8]) -> (u8, u32, &[u8]) {
    let Some(([kind, id @ ..], text)) = frame.split_first_chunk::<5>() else { return (0, 0, frame) };
    (*kind, u32::from_be_bytes(*id), text)
}

fn send(net: &mut Net, conn: ConnId, kind: u8, id: u32, text: &[u8]) {
    // No text of ours is too long. What does not arrive stands in the close report.
    let _ = frame(kind, id, text).map(|frame| net.send_bytes(conn, frame));
}

/// How long to sleep, and the text behind it.
fn sleep(text: &[u8]) -> Option<(Duration, &[u8])> {
    let (ms, text) = std::str::from_utf8(text.strip_prefix(b"sleep ")?).ok()?.split_once(' ')?;
    Some((Duration::from_millis(ms.parse().ok()?), text.as_bytes()))
}

struct Link {
    frames: LengthPrefix,
    /// The other end was asked for a sign of life, and nothing has come since.
    asked: bool,
    /// The answers that it waits for.
    open: Vec<TimerId>,
}

/// Either end: a server is asked, a client asks, and both keep their connections alive.
#[derive(Default)]
struct Peer {
    links: PerConn<Link>,
    /// Answers that wait for their timers. Elsewhere a thread or a database has them ready.
    answers: PerTimer<(ConnId, u32, Vec<u8>)>,
    /// It ends once all is answered, and when this timer fires: a client, or a server after a signal.
    give_up: Option<TimerId>,
    /// Whom a client asks, and what it asked that is not answered, by id.
    server: Option<(Addr, tls::Line)>,
    calls: BTreeMap<u32, Bytes>,
    backoff: Duration,
    failed: bool,
}

impl Peer {
    fn request(&mut self, net: &mut Net, conn: ConnId, id: u32, text: &[u8]) {
        let link = &mut self.links[conn];
        if self.give_up.is_some() || link.open.len() == MOST_OPEN {
            return send(net, conn, REFUSAL, id, b"no more requests are taken");
        }
        let (delay, text) = sleep(text).unwrap_or((Duration::ZERO, text));
        let timer = net.set_timer(delay);
        link.open.push(timer);
        self.answers.insert(timer, (conn, id, text.to_ascii_uppercase()));
    }

    fn answered(&mut self, net: &mut Net, id: u32, text: &[u8]) {
        // What was asked twice may be answered twice.
        let Some(_) = self.calls.remove(&id) else { return };
        let _ = writeln!(io::stdout(), "{}", String::from_utf8_lossy(text));
        self.backoff = FIRST_BACKOFF;
        self.end_if_done(net);
    }

    /// What was asked will not be answered. (A server has asked nothing.)
    fn fail(&mut self, net: &mut Net, why: &str) {
        if !self.calls.is_empty() {
            eprintln!("rpc: {why}");
            self.calls.clear();
            self.failed = true;
            net.shutdown(QUIET);
        }
    }

    fn end_if_done(&self, net: &mut Net) {
        if self.give_up.is_some() && self.answers.is_empty() && self.calls.is_empty() {
            net.shutdown(PATIENCE);
        }
    }
}

impl Handler for Peer {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.links.insert(conn, Link { frames: FRAME, asked: false, open: Vec::new() });
        net.set_deadline(conn, QUIET);
        for frame in self.calls.values() {
            let _ = net.send_bytes(conn, frame.clone());
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut rest = data;
        // Half a frame is a sign of life as well.
        self.links[conn].asked = false;
        net.set_deadline(conn, QUIET);
        while let Some(frame) = self.links[conn].frames.next_in(&mut rest) {
            match frame.map(parse) {
                Ok((PING, ..)) => send(net, conn, PONG, 0, b""),
                Ok((PONG, ..)) => {}
                Ok((REQUEST, id, text)) => self.request(net, conn, id, text),
                Ok((ANSWER, id, text)) => self.answered(net, id, text),
                Ok((REFUSAL, _, why)) => self.fail(net, &format!("refused: {}", why.escape_ascii())),
                Ok((_, id, _)) => send(net, conn, REFUSAL, id, b"unknown kind of frame"),
                Err(error) => {
                    match error.field() {
                        b"GET " | b"HEAD" | b"POST" => drop(net.send(conn, NO_HTTP)),
                        _ => send(net, conn, REFUSAL, 0, error.to_string().as_bytes()),
                    }
                    net.close(conn);
                    self.fail(net, &format!("no rpc server: {error}"));
                }
            }
        }
        data.len() - rest.len()
    }

    /// Nothing more will come, not even a sign of life; but answers may be waited for.
    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        match self.links[conn].open.is_empty() {
            true => net.close(conn),
            false => net.clear_deadline(conn),
        }
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        if std::mem::replace(&mut self.links[conn].asked, true) {
            return net.abort_as(conn, CloseReason::TimedOut(Timeout::Idle));
        }
        send(net, conn, PING, 0, b"");
        net.set_deadline(conn, QUIET);
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        if let Some((conn, id, text)) = self.answers.remove(timer) {
            let open = &mut self.links[conn].open;
            open.retain(|other| *other != timer);
            send(net, conn, ANSWER, id, &text);
            if open.is_empty() && net.state(conn) == Some(State::HalfClosedRemote) {
                net.close(conn);
            }
            self.end_if_done(net);
        } else if self.give_up == Some(timer) {
            let what = if self.links.is_empty() { "connection" } else { "answer" };
            self.fail(net, &format!("no {what} within {PATIENCE:?}"));
            net.shutdown(QUIET);
        } else if let Some((server, line)) = &self.server {
            // During a shutdown it is refused, rightly.
            let _ = line.connect(net, server);
        }
    }

    /// A signal came.
    fn on_wake(&mut self, net: &mut Net) {
        self.give_up.get_or_insert_with(|| net.set_timer(PATIENCE));
        self.end_if_done(net);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, _: &CloseReport) {
        // Answers for somebody who is gone are not worth the work.
        for timer in self.links.remove(conn).map_or(Vec::new(), |link| link.open) {
            net.cancel_timer(timer);
            self.answers.remove(timer);
        }
        if self.calls.is_empty() {
            return self.end_if_done(net);
        }
        // A random part of the back-off, so that many clients do not come back at one moment.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        net.set_timer(self.backoff.mul_f64(random));
        self.backoff = (self.backoff * 2).min(20 * FIRST_BACKOFF);
    }
}

fn serve(addr: &str, front: &tls::Front) -> io::Result<ExitCode> {
    let mut reactor = Reactor::new(Config::default())?;
    let (handle, mut signals) = (reactor.net().handle(), Signals::new([SIGTERM, SIGINT])?);
    std::thread::spawn(move || signals.forever().all(|_| handle.wake().is_ok()));
    front.open(reactor.net(), addr)?;
    reactor.run(&mut Peer::default()).map(|()| ExitCode::SUCCESS)
}

fn call(addr: &str, line: tls::Line, texts: &[&str]) -> io::Result<ExitCode> {
    let (mut reactor, addr) = (Reactor::new(Config::default())?, addr.parse()?);
    line.connect(reactor.net(), &addr)?;
    let mut client = Peer { server: Some((addr, line)), backoff: FIRST_BACKOFF, ..Peer::default() };
    for (id, text) in (1..).zip(texts) {
        client.calls.insert(id, frame(REQUEST, id, text.as_bytes()).map_err(io::Error::other)?);
    }
    client.give_up = Some(reactor.net().set_timer(PATIENCE));
    reactor.run(&mut client).map(|()| ExitCode::from(u8::from(client.failed)))
}

const USAGE: &str = "usage: rpc serve ADDR [--tls CERT KEY] | rpc call ADDR [--tls [--ca FILE]] TEXT...";

fn run(mut args: Vec<String>) -> io::Result<ExitCode> {
    let serves = args.first().is_some_and(|arg| arg == "serve");
    let front = if serves { tls::Front::take(&mut args, &[])? } else { tls::Front::default() };
    let line = tls::Line::take(&mut args)?;
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", addr] => serve(addr, &front),
        ["call", addr, ref texts @ ..] if !texts.is_empty() => call(addr, line, texts),
        _ => Err(io::Error::other(USAGE)),
    }
}

fn main() -> ExitCode {
    env_logger::init();
    run(std::env::args().skip(1).collect()).unwrap_or_else(|error| {
        eprintln!("rpc: {error}");
        ExitCode::from(2)
    })
}
