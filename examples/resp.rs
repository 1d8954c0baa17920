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

use unbroken::{Bytes, CloseReport, Config, ConnId, Handler, Net, Reactor};

/// The longest command taken, arguments and all: as much as the engine keeps unused.
const LONGEST_COMMAND: usize = 16 << 20;
/// Arguments of one command at most.
const MOST_ARGUMENTS: usize = 1024;
/// From this length on a value is sent by reference.
const BY_REFERENCE: usize = 16 << 10;

/// What stands at the front of the input.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// A command of this many bytes; where its arguments are was written into the list.
    Command(usize),
    /// More has to come.
    Incomplete,
    /// Not the protocol, with the reason.
    Wrong(&'static str),
}

/// The line that begins at `from`, and where the next one begins.
fn line(input: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(from..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), from + end + 1))
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads one command: an array of bulk strings, or words on a line of their own.
fn parse(input: &[u8], arguments: &mut Vec<Range<usize>>) -> Parsed {
    arguments.clear();
    let Some((first, mut at)) = line(input, 0) else {
        return if input.len() > 64 << 10 {
            Parsed::Wrong("too big inline request")
        } else {
            Parsed::Incomplete
        };
    };
    let Some(count) = first.strip_prefix(b"*") else {
        let mut from = 0;
        for word in first.split(|byte| *byte == b' ') {
            if !word.is_empty() {
                arguments.push(from..from + word.len());
            }
            from += word.len() + 1;
        }
        return Parsed::Command(at);
    };
    let count = match number(count) {
        Some(count) if count <= MOST_ARGUMENTS as i64 => count.max(0),
        _ => return Parsed::Wrong("invalid multibulk length"),
    };
    for _ in 0..count {
        let Some((head, begin)) = line(input, at) else {
            return Parsed::Incomplete;
        };
        let Some(len) = head.strip_prefix(b"$") else {
            return Parsed::Wrong("expected '$'");
        };
        let len = match number(len).map(usize::try_from) {
            Some(Ok(len)) if len <= LONGEST_COMMAND => len,
            _ => return Parsed::Wrong("invalid bulk length"),
        };
        arguments.push(begin..begin + len);
        at = begin + len + 2;
        if at > input.len() {
            return Parsed::Incomplete;
        }
    }
    Parsed::Command(at)
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
        let _ = write!(self, ":{value}\r\n");
    }

    fn bulk(&mut self, data: &[u8]) {
        let _ = write!(self, "${}\r\n", data.len());
        self.extend_from_slice(data);
        self.extend_from_slice(b"\r\n");
    }

    fn array(&mut self, len: usize) {
        let _ = write!(self, "*{len}\r\n");
    }
}

#[derive(Default)]
struct Resp {
    values: HashMap<Box<[u8]>, Bytes>,
    /// Who listens to each channel, and to which channels each connection listens.
    channels: HashMap<Box<[u8]>, HashSet<ConnId>>,
    subscriptions: HashMap<ConnId, HashSet<Box<[u8]>>>,
    /// The answers to one piece of input leave together.
    answers: Vec<u8>,
    /// Kept to be used again.
    arguments: Vec<Range<usize>>,
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
        let known = match (command.to_ascii_uppercase().as_slice(), arguments) {
            (b"GET", [key]) => return self.get(net, conn, key),
            (b"SET", [key, value]) => {
                self.values.insert((*key).into(), Bytes::copy_from_slice(value));
                return self.answers.simple("OK");
            }
            (b"INCR", [key]) => return self.incr(key),
            (b"PING", []) if !self.subscriptions.contains_key(&conn) => return self.answers.simple("PONG"),
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
            Some(value) if value.len() < BY_REFERENCE => self.answers.bulk(value),
            Some(value) => {
                let value = value.clone();
                let _ = write!(self.answers, "${}\r\n", value.len());
                self.flush(net, conn);
                let _ = net.send_bytes(conn, value);
                self.answers.extend_from_slice(b"\r\n");
            }
        }
    }

    fn incr(&mut self, key: &[u8]) {
        let old = self.values.get(key).map_or(Some(0), |value| number(value));
        match old.and_then(|old| old.checked_add(1)) {
            Some(new) => {
                self.values.insert(key.into(), new.to_string().into());
                self.answers.integer(new);
            }
            None => self.answers.error("value is not an integer or out of range"),
        }
    }

    fn subscribe(&mut self, conn: ConnId, channel: &[u8]) {
        self.channels.entry(channel.into()).or_default().insert(conn);
        let mine = self.subscriptions.entry(conn).or_default();
        mine.insert(channel.into());
        self.answers.array(3);
        self.answers.bulk(b"subscribe");
        self.answers.bulk(channel);
        self.answers.integer(mine.len() as i64);
    }

    fn unsubscribe(&mut self, conn: ConnId, channels: &[&[u8]]) {
        let mut mine = self.subscriptions.remove(&conn).unwrap_or_default();
        let all: Vec<Box<[u8]>> = match channels {
            [] => mine.iter().cloned().collect(),
            some => some.iter().map(|channel| (*channel).into()).collect(),
        };
        for channel in all {
            mine.remove(&channel);
            self.leave(conn, &channel);
            self.answers.array(3);
            self.answers.bulk(b"unsubscribe");
            self.answers.bulk(&channel);
            self.answers.integer(mine.len() as i64);
        }
        if !mine.is_empty() {
            self.subscriptions.insert(conn, mine);
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
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let (mut used, mut arguments) = (0, std::mem::take(&mut self.arguments));
        let mut words = Vec::new();
        loop {
            let rest = &data[used..];
            match parse(rest, &mut arguments) {
                Parsed::Command(len) => {
                    words.clear();
                    words.extend(arguments.iter().map(|place| &rest[place.clone()]));
                    self.answer(net, conn, &words);
                    used += len;
                }
                Parsed::Incomplete => break,
                Parsed::Wrong(why) => {
                    self.answers.error(format_args!("Protocol error: {why}"));
                    self.flush(net, conn);
                    net.close(conn);
                    used = data.len();
                }
            }
            if used >= data.len() {
                break;
            }
        }
        self.flush(net, conn);
        self.arguments = arguments;
        used
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        for channel in self.subscriptions.remove(&conn).unwrap_or_default() {
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
