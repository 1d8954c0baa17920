//! cargo run --release --example resp -- 127.0.0.1:7379
//! redis-cli -p 7379 SET greeting hello; redis-benchmark -p 7379 -t ping,set,get,incr -P 16
//!
//! A small server that speaks Redis' protocol (RESP2), so that Redis' own tools can drive it: PING,
//! ECHO, SET, GET, INCR, DEL, EXISTS, and publish/subscribe. It keeps nothing on disk. A message is
//! built once and shared by all subscribers; one that does not read is dropped at its cap, and
//! nobody else waits for it.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::io::{self, Write};
use std::ops::Range;
use std::process::ExitCode;

use unbroken::frame::{Frame, Lines};
use unbroken::{Bytes, CloseReport, Config, ConnId, Handler, Net, PerConn, Reactor, Via};

/// The longest command taken, arguments and all: as much as the engine keeps unused.
const LONGEST_COMMAND: usize = 16 << 20;
/// Arguments of one command at most.
const MOST_ARGUMENTS: usize = 1024;
/// From this length on a value is sent by reference.
const BY_REFERENCE: usize = 16 << 10;

/// What stands at the front of the input.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// A command of this many bytes; where its arguments are stands in the list.
    Command(usize),
    /// More has to come.
    Incomplete,
    /// Not the protocol, with the reason.
    Wrong(&'static str),
}

/// What the words of a command are in, unless they are many.
const FEW: usize = 4;
/// The longest name of a command, and more.
const LONGEST_NAME: usize = 16;

fn number(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    let read = |sum: i64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(sign * digit)
    };
    digits.iter().try_fold(0, read).filter(|_| !digits.is_empty())
}

/// A number's digits, at the end of `room`.
fn digits(value: i64, room: &mut [u8; 20]) -> &[u8] {
    let (mut at, mut rest) = (room.len(), value.unsigned_abs());
    loop {
        at -= 1;
        room[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        room[at] = b'-';
    }
    &room[at..]
}

/// Takes the command at the front of a connection's input apart: an array of bulk strings, or words
/// on a line of their own. What it did stays done when the input ends in between.
#[derive(Default)]
struct Parser {
    lines: Lines,
    /// Where it goes on: this may be behind the end of what has come.
    at: usize,
    /// How many arguments are still to come; `None` in front of the first line.
    missing: Option<usize>,
    arguments: Vec<Range<usize>>,
}

impl Parser {
    /// Reads on. `input` begins with the command, also when a part of it was shown before.
    fn parse(&mut self, input: &[u8]) -> Parsed {
        while let Some(mut rest) = input.get(self.at..) {
            if self.missing == Some(0) {
                self.missing = None;
                return Parsed::Command(std::mem::take(&mut self.at));
            }
            let line = match self.lines.next_in(&mut rest) {
                Some(Frame::Whole(line)) => line,
                Some(Frame::TooLong { .. }) => return Parsed::Wrong("too big inline request"),
                None => break,
            };
            self.at = input.len() - rest.len();
            match (self.missing, line) {
                (None, [b'*', count @ ..]) => match number(count) {
                    Some(count) if count <= MOST_ARGUMENTS as i64 => {
                        self.missing = Some(count.max(0) as usize)
                    }
                    _ => return Parsed::Wrong("invalid multibulk length"),
                },
                (None, words) => {
                    self.words(words);
                    self.missing = Some(0);
                }
                (Some(missing), [b'$', len @ ..]) => match number(len).map(usize::try_from) {
                    Some(Ok(len)) if len <= LONGEST_COMMAND => {
                        self.arguments.push(self.at..self.at + len);
                        self.at += len + 2;
                        self.missing = Some(missing - 1);
                    }
                    _ => return Parsed::Wrong("invalid bulk length"),
                },
                (Some(_), _) => return Parsed::Wrong("expected '$'"),
            }
        }
        Parsed::Incomplete
    }

    fn words(&mut self, line: &[u8]) {
        let mut from = 0;
        for word in line.split(|byte| *byte == b' ') {
            if !word.is_empty() {
                self.arguments.push(from..from + word.len());
            }
            from += word.len() + 1;
        }
    }
}

/// Answers, in the protocol's forms.
trait Answer {
    fn simple(&mut self, text: &str);
    fn error(&mut self, text: impl Display);
    fn integer(&mut self, value: i64);
    fn bulk(&mut self, data: &[u8]);
    fn array(&mut self, len: usize);
}

impl Answer for Vec<u8> {
    fn simple(&mut self, text: &str) {
        self.push(b'+');
        self.extend_from_slice(text.as_bytes());
        self.extend_from_slice(b"\r\n");
    }

    fn error(&mut self, text: impl Display) {
        // Writing to a vector does not fail.
        let _ = write!(self, "-ERR {text}\r\n");
    }

    fn integer(&mut self, value: i64) {
        line(self, b':', value);
    }

    fn bulk(&mut self, data: &[u8]) {
        line(self, b'$', data.len() as i64);
        self.extend_from_slice(data);
        self.extend_from_slice(b"\r\n");
    }

    fn array(&mut self, len: usize) {
        line(self, b'*', len as i64);
    }
}

fn line(answers: &mut Vec<u8>, kind: u8, value: i64) {
    answers.push(kind);
    answers.extend_from_slice(digits(value, &mut [0; 20]));
    answers.extend_from_slice(b"\r\n");
}

/// A value: short ones are changed where they are, long ones are sent by reference.
enum Value {
    Short(Vec<u8>),
    Long(Bytes),
}

impl Value {
    fn new(data: &[u8]) -> Self {
        match data.len() < BY_REFERENCE {
            true => Self::Short(data.to_vec()),
            false => Self::Long(Bytes::copy_from_slice(data)),
        }
    }

    fn set(&mut self, data: &[u8]) {
        match self {
            // Room that is not needed any more is given back.
            Self::Short(value) if data.len() < BY_REFERENCE && value.capacity() <= 2 * data.len() + 64 => {
                value.clear();
                value.extend_from_slice(data);
            }
            _ => *self = Self::new(data),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(value) => value,
            Self::Long(value) => value,
        }
    }
}

#[derive(Default)]
struct Client {
    parser: Parser,
    /// The channels that it listens to.
    channels: HashSet<Box<[u8]>>,
}

#[derive(Default)]
struct Resp {
    values: HashMap<Box<[u8]>, Value>,
    clients: PerConn<Client>,
    /// Who listens to each channel.
    channels: HashMap<Box<[u8]>, HashSet<ConnId>>,
    /// The answers to one piece of input leave together.
    answers: Vec<u8>,
}

impl Resp {
    /// Sends what has been answered so far.
    fn flush(&mut self, net: &mut Net, conn: ConnId) {
        if !self.answers.is_empty() {
            // What cannot be taken any more stands in the report.
            let _ = net.send(conn, &self.answers);
            self.answers.clear();
        }
    }

    fn answer(&mut self, net: &mut Net, conn: ConnId, words: &[&[u8]]) {
        let [command, arguments @ ..] = words else { return };
        let mut name = [0; LONGEST_NAME];
        let name = name.get_mut(..command.len()).unwrap_or_default();
        name.iter_mut().zip(*command).for_each(|(to, from)| *to = from.to_ascii_uppercase());
        let known = match (&*name, arguments) {
            (b"GET", [key]) => return self.get(net, conn, key),
            (b"SET", [key, value]) => {
                self.set(key, value);
                return self.answers.simple("OK");
            }
            (b"INCR", [key]) => return self.incr(key),
            (b"PING", []) if self.clients[conn].channels.is_empty() => return self.answers.simple("PONG"),
            (b"PING", []) => {
                self.answers.array(2);
                self.answers.bulk(b"pong");
                return self.answers.bulk(b"");
            }
            (b"PING" | b"ECHO", [text]) => return self.answers.bulk(text),
            (b"DEL", [_, ..]) => {
                let gone = arguments.iter().filter(|key| self.values.remove(**key).is_some()).count();
                return self.answers.integer(gone as i64);
            }
            (b"EXISTS", [_, ..]) => {
                let there = arguments.iter().filter(|key| self.values.contains_key(**key)).count();
                return self.answers.integer(there as i64);
            }
            (b"SUBSCRIBE", [_, ..]) => {
                arguments.iter().for_each(|channel| self.subscribe(conn, channel));
                return;
            }
            (b"UNSUBSCRIBE", _) => return self.unsubscribe(conn, arguments),
            (b"PUBLISH", [channel, message]) => return self.publish(net, conn, channel, message),
            (b"QUIT", _) => {
                self.answers.simple("OK");
                self.flush(net, conn);
                return net.close(conn);
            }
            // What the tools ask before they begin.
            (b"COMMAND", _) => return self.answers.array(0),
            (b"CONFIG", [_, name]) => {
                self.answers.array(2);
                self.answers.bulk(name);
                return self.answers.bulk(b"");
            }
            (b"CLIENT" | b"SELECT", [_, ..]) => return self.answers.simple("OK"),
            (name, _) => matches!(
                name,
                b"GET"
                    | b"SET"
                    | b"INCR"
                    | b"PING"
                    | b"ECHO"
                    | b"DEL"
                    | b"EXISTS"
                    | b"SUBSCRIBE"
                    | b"PUBLISH"
            ),
        };
        let name = String::from_utf8_lossy(command).escape_default().take(64).collect::<String>();
        match known {
            true => self.answers.error(format_args!("wrong number of arguments for '{name}' command")),
            false => self.answers.error(format_args!("unknown command '{name}'")),
        }
    }

    fn get(&mut self, net: &mut Net, conn: ConnId, key: &[u8]) {
        match self.values.get(key) {
            None => self.answers.extend_from_slice(b"$-1\r\n"),
            Some(Value::Short(value)) => self.answers.bulk(value),
            Some(Value::Long(value)) => {
                let value = value.clone();
                line(&mut self.answers, b'$', value.len() as i64);
                self.flush(net, conn);
                let _ = net.send_bytes(conn, value);
                self.answers.extend_from_slice(b"\r\n");
            }
        }
    }

    fn set(&mut self, key: &[u8], data: &[u8]) {
        match self.values.get_mut(key) {
            Some(value) => value.set(data),
            None => drop(self.values.insert(key.into(), Value::new(data))),
        }
    }

    fn incr(&mut self, key: &[u8]) {
        let value = self.values.get_mut(key);
        let old = value.as_ref().map_or(Some(0), |value| number(value.as_slice()));
        let Some(new) = old.and_then(|old| old.checked_add(1)) else {
            return self.answers.error("value is not an integer or out of range");
        };
        let mut room = [0; 20];
        let digits = digits(new, &mut room);
        match value {
            Some(value) => value.set(digits),
            None => drop(self.values.insert(key.into(), Value::new(digits))),
        }
        self.answers.integer(new);
    }

    fn subscribe(&mut self, conn: ConnId, channel: &[u8]) {
        self.channels.entry(channel.into()).or_default().insert(conn);
        let mine = &mut self.clients[conn].channels;
        mine.insert(channel.into());
        self.answers.array(3);
        self.answers.bulk(b"subscribe");
        self.answers.bulk(channel);
        self.answers.integer(mine.len() as i64);
    }

    fn unsubscribe(&mut self, conn: ConnId, channels: &[&[u8]]) {
        let all: Vec<Box<[u8]>> = match channels {
            [] => self.clients[conn].channels.iter().cloned().collect(),
            some => some.iter().map(|channel| (*channel).into()).collect(),
        };
        for channel in all {
            let mine = &mut self.clients[conn].channels;
            mine.remove(&channel);
            self.answers.array(3);
            self.answers.bulk(b"unsubscribe");
            self.answers.bulk(&channel);
            self.answers.integer(mine.len() as i64);
            self.leave(conn, &channel);
        }
    }

    fn leave(&mut self, conn: ConnId, channel: &[u8]) {
        if let Some(members) = self.channels.get_mut(channel) {
            members.remove(&conn);
            if members.is_empty() {
                self.channels.remove(channel);
            }
        }
    }

    fn publish(&mut self, net: &mut Net, conn: ConnId, channel: &[u8], message: &[u8]) {
        let mut told = 0;
        if let Some(members) = self.channels.get(channel) {
            let mut form = Vec::new();
            form.array(3);
            form.bulk(b"message");
            form.bulk(channel);
            form.bulk(message);
            let members: Vec<_> = members.iter().copied().collect();
            // What the publisher was answered before comes first, should it listen itself.
            self.flush(net, conn);
            told = net.broadcast(members, form.into()).queued;
        }
        self.answers.integer(told as i64);
    }
}

impl Handler for Resp {
    fn on_open(&mut self, _: &mut Net, conn: ConnId, _: Via) {
        self.clients.insert(conn, Client::default());
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let (mut rest, mut few) = (data, [&data[..0]; FEW]);
        let wrong = loop {
            let parser = &mut self.clients[conn].parser;
            match parser.parse(rest) {
                Parsed::Command(len) => {
                    let command = rest;
                    let words = parser.arguments.drain(..).map(|place| &command[place]);
                    rest = &rest[len..];
                    if let Some(few) = few.get_mut(..words.len()) {
                        few.iter_mut().zip(words).for_each(|(to, word)| *to = word);
                        self.answer(net, conn, few);
                    } else {
                        let many: Vec<_> = words.collect();
                        self.answer(net, conn, &many);
                    }
                }
                Parsed::Incomplete if rest.is_empty() => break None,
                // A long value is shown again when all of it is there, not with each piece of it.
                Parsed::Incomplete if net.want(conn, parser.at).is_ok() => break None,
                Parsed::Incomplete => break Some("too big request"),
                Parsed::Wrong(why) => break Some(why),
            }
        };
        if let Some(why) = wrong {
            self.answers.error(format_args!("Protocol error: {why}"));
            rest = &[];
        }
        self.flush(net, conn);
        if wrong.is_some() {
            net.close(conn);
        }
        data.len() - rest.len()
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        for channel in self.clients.remove(conn).unwrap_or_default().channels {
            self.leave(conn, &channel);
        }
        let peer = net.peer_addr(conn).map_or("?".to_owned(), |peer| peer.to_string());
        log::debug!("{conn} {peer}: {report}");
    }
}

fn serve(addr: &str) -> io::Result<()> {
    let mut config = Config::default();
    config.max_read_buffer = LONGEST_COMMAND + (64 << 10);
    let mut reactor = Reactor::new(config)?;
    let listener = reactor.net().listen(addr)?;
    if let Some(addr) = reactor.net().local_addr(listener) {
        // Nobody may be reading: that is no reason not to serve.
        let _ = writeln!(io::stdout(), "listening on {addr}");
    }
    reactor.run(&mut Resp::default())
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7379".to_owned());
    match serve(&addr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("resp: {addr}: {error}");
            ExitCode::from(2)
        }
    }
}
