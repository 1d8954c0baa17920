//! How fast a client may speak, and what it says as it comes: lines, and the frames of WebSockets.

use std::borrow::Cow;
use std::time::Duration;

use unbroken::frame::Frame;
use unbroken::{ConnId, Net};

use crate::between::Heard;
use crate::options::Options;
use crate::ports::{show_again, Ports, Protocol};
use crate::websocket::Event;

/// The other servers, and the clients that are held back, are looked at this often.
pub const TICK: Duration = Duration::from_millis(250);

/// Bytes, and lines, that wait at most because a client is faster than its rate.
const MAX_WITHHELD: usize = 8 << 10;
const MAX_WITHHELD_LINES: usize = 300;

/// How long a client that is held back is not asked whether it is still there: for as long it is heard
/// although its connection has ended.
const GRACE: Duration = Duration::from_secs(5);

/// The ticks in a span of time.
pub fn ticks(span: Duration) -> u64 {
    (span.as_millis() / TICK.as_millis()).max(1) as u64
}

/// What a client may say.
pub struct Pace {
    /// Messages it may send now, as of a tick.
    tokens: f64,
    refilled: u64,
    /// It is held back, and since which tick what it said has been waiting.
    held: bool,
    since: Option<u64>,
}

impl Pace {
    pub fn new(tick: u64, options: &Options) -> Self {
        Self { tokens: options.burst.get() as f64, refilled: tick, held: false, since: None }
    }
}

impl Ports {
    /// Whether a client has the right to a message. Else it is held back until it has one again, and
    /// until it has taken most of what it asked for before.
    fn may_speak(&mut self, net: &mut Net, conn: ConnId) -> bool {
        let (tick, rate, burst) = (self.tick, self.options.rate, self.options.burst.get() as f64);
        let Some(port) = self.ports.get_mut(conn) else { return false };
        let pace = &mut port.pace;
        let gained = (tick - pace.refilled) as f64 * TICK.as_secs_f64() * rate;
        (pace.tokens, pace.refilled) = ((pace.tokens + gained).min(burst), tick);
        let held = pace.tokens < 1.0 || net.queued(conn) > self.options.high_water();
        if held {
            let since = *pace.since.get_or_insert(tick);
            // The engine tells of no end while it does not read: not reading must have one.
            if tick - since < ticks(GRACE) {
                net.pause_reading(conn);
            }
            if !std::mem::replace(&mut pace.held, true) {
                self.held.push(conn);
            }
        }
        !held
    }

    /// The right to one message is used up.
    fn spoke(&mut self, conn: ConnId) {
        if let Some(port) = self.ports.get_mut(conn) {
            port.pace.tokens -= 1.0;
        }
    }

    /// All that a client said has been heard.
    fn caught_up(&mut self, conn: ConnId) {
        if let Some(port) = self.ports.get_mut(conn) {
            port.pace.since = None;
        }
    }

    /// Whether what a client has said and is held back is too much to wait for.
    fn is_flooded(&self, bytes: usize, lines: usize) -> bool {
        bytes > MAX_WITHHELD || lines > MAX_WITHHELD_LINES.max(10 * self.options.burst.get())
    }

    /// Time goes on: clients that were held back are heard again, as far as their rate allows by now.
    pub fn tick(&mut self, net: &mut Net) {
        self.tick += 1;
        for conn in std::mem::take(&mut self.held) {
            let Some(port) = self.ports.get_mut(conn) else { continue };
            port.pace.held = false;
            if port.leaving {
                continue;
            }
            // It is we who do not listen: unless it does not read, it is not silent.
            if port.asked_for.get() == 0 {
                self.heard(net, conn);
            }
            show_again(net, conn);
        }
    }

    /// The next line of a bare connection.
    pub fn next_line<'a>(&mut self, net: &mut Net, conn: ConnId, rest: &mut &'a [u8]) -> Option<Heard<'a>> {
        if rest.is_empty() {
            self.caught_up(conn);
            return None;
        }
        if !self.may_speak(net, conn) {
            let lines = rest.iter().filter(|byte| **byte == b'\n').count();
            return self.flood(conn, rest.len(), lines);
        }
        match self.ports.get_mut(conn)?.lines.next_in(rest) {
            Some(Frame::Whole(line)) => {
                self.spoke(conn);
                Some(Heard::Line(Cow::Borrowed(line)))
            }
            Some(Frame::TooLong { .. }) => self.end(conn, "Line too long"),
            None => {
                if rest.is_empty() {
                    self.caught_up(conn);
                }
                None
            }
        }
    }

    /// The next message of a WebSocket.
    pub fn next_frame(&mut self, net: &mut Net, conn: ConnId, rest: &mut &[u8]) -> Option<Heard<'static>> {
        while !rest.is_empty() {
            if !self.may_speak(net, conn) {
                return self.flood(conn, rest.len(), 0);
            }
            let port = self.ports.get_mut(conn)?;
            let Protocol::WebSocket(socket) = &mut port.protocol else { return None };
            match socket.next_in(rest)? {
                Event::Message(mut message) => {
                    let line = message.strip_suffix(b"\n").unwrap_or(&message);
                    let length = line.strip_suffix(b"\r").unwrap_or(line).len();
                    message.truncate(length);
                    self.spoke(conn);
                    return Some(Heard::Line(Cow::Owned(message)));
                }
                Event::Ping(pong) => {
                    self.spoke(conn);
                    return Some(Heard::Echo(pong));
                }
                Event::Close(answer) => {
                    port.leaving = true;
                    return Some(Heard::Over(answer, "Connection closed"));
                }
                Event::Broken(why, last_word) => {
                    port.leaving = true;
                    return Some(Heard::Over(last_word, why));
                }
                Event::Nothing => {}
            }
        }
        self.caught_up(conn);
        None
    }

    /// A client that is held back, and goes on.
    fn flood(&mut self, conn: ConnId, bytes: usize, lines: usize) -> Option<Heard<'static>> {
        match self.is_flooded(bytes, lines) {
            true => self.end(conn, "Excess flood"),
            false => None,
        }
    }

    fn end(&mut self, conn: ConnId, why: &'static str) -> Option<Heard<'static>> {
        self.ports.get_mut(conn)?.leaving = true;
        Some(Heard::Ended(why.into()))
    }
}
