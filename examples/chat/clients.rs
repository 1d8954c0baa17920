//! The clients: what is known of each, who may come in, and how fast each may speak.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use unbroken::frame::Lines;
use unbroken::{ConnId, Net};

use crate::caps::{Caps, MESSAGE_TAGS, SERVER_TIME};
use crate::options::Options;
use crate::server::{Chat, TICK};
use crate::state::UserId;
use crate::websocket::Socket;
use crate::wire::Form;

/// Bytes, and lines, that wait at most because a client is faster than its rate.
const MAX_WITHHELD: usize = 8 << 10;
const MAX_WITHHELD_LINES: usize = 300;

/// How long a client that is held back is not asked whether it is still there: for as long it is heard
/// although its connection has ended.
const GRACE: Duration = Duration::from_secs(5);

/// What a connection speaks.
pub enum Protocol {
    Irc,
    Http,
    WebSocket(Box<Socket>),
}

/// Bytes of tags that a client may send before a line, with their mark and blank (IRCv3 message tags).
pub const MAX_TAGS: usize = 4096;

/// A connection of a client.
pub struct Client {
    pub protocol: Protocol,
    /// Finds the lines of a bare connection.
    pub lines: Lines,
    pub host: String,
    pub addr: Option<IpAddr>,
    /// Set once it has registered.
    pub user: Option<UserId>,
    pub nick: Option<String>,
    /// User name and real name, as `USER` gave them.
    pub names: Option<(String, String)>,
    /// `CAP` has begun and not ended.
    pub negotiating: bool,
    pub caps: Caps,
    /// The account it proved to be its own, what it has said of one so far, and how often it was wrong.
    pub account: Option<String>,
    pub authenticating: Option<String>,
    pub tries: u8,
    /// Nicks that it watches, folded.
    pub watched: BTreeSet<String>,
    /// It is on its way out.
    pub leaving: bool,
    /// Bytes of answers that it asked for itself and has not taken yet: they do not count against it.
    pub asked_for: Cell<usize>,
    /// It was asked for a sign of life, and none has come.
    pub asked: bool,
    /// It is held back, and since which tick what it said has been waiting.
    pub held: bool,
    pub waiting: Option<u64>,
    /// Messages it may send now, as of a tick.
    tokens: f64,
    refilled: u64,
}

impl Client {
    /// One that has just come.
    pub fn new(speaks_irc: bool, addr: Option<IpAddr>, tick: u64, options: &Options) -> Self {
        Self {
            protocol: if speaks_irc { Protocol::Irc } else { Protocol::Http },
            lines: Lines::new().max(MAX_TAGS + options.max_line as usize),
            // A colon at the front would look like the last parameter of a line.
            host: addr.map_or("local".to_owned(), |addr| match addr.to_string() {
                host if host.starts_with(':') => format!("0{host}"),
                host => host,
            }),
            addr,
            user: None,
            nick: None,
            names: None,
            negotiating: false,
            caps: Caps::default(),
            account: None,
            authenticating: None,
            tries: 0,
            watched: BTreeSet::new(),
            leaving: false,
            asked_for: Cell::new(0),
            asked: false,
            held: false,
            waiting: None,
            tokens: options.burst.get() as f64,
            refilled: tick,
        }
    }

    /// Which variant of a line it takes.
    pub fn variant(&self, form: Form) -> usize {
        form.variant(self.caps.has(SERVER_TIME), self.caps.has(MESSAGE_TAGS))
    }

    /// `None` while it speaks HTTP.
    pub fn form(&self) -> Option<Form> {
        match &self.protocol {
            Protocol::Irc => Some(Form::Irc),
            Protocol::WebSocket(socket) => Some(socket.form),
            Protocol::Http => None,
        }
    }
}

impl Chat {
    /// Whether a client may stay, else why not.
    pub fn admit(&self, addr: Option<IpAddr>) -> Result<(), &'static str> {
        if self.draining {
            return Err("The server is shutting down");
        }
        if self.clients.len() >= self.options.max_clients.get() {
            return Err("The server is full");
        }
        let count = addr.and_then(|addr| self.addresses.get(&addr)).copied().unwrap_or(0);
        match count >= self.options.max_clients_per_address.get() {
            true => Err("Too many connections from your address"),
            false => Ok(()),
        }
    }

    /// Whether a client has the right to a message. Else it is held back until it has one again, and
    /// until it has taken most of what it asked for before.
    pub fn may_speak(&mut self, net: &mut Net, conn: ConnId) -> bool {
        let (tick, rate, burst) = (self.tick, self.options.rate, self.options.burst.get() as f64);
        let Some(client) = self.clients.get_mut(conn) else { return false };
        let gained = (tick - client.refilled) as f64 * TICK.as_secs_f64() * rate;
        (client.tokens, client.refilled) = ((client.tokens + gained).min(burst), tick);
        let held = client.tokens < 1.0 || net.queued(conn) > self.options.high_water();
        if held {
            let since = *client.waiting.get_or_insert(tick);
            // The engine tells of no end while it does not read: not reading must have one.
            if tick - since < Self::ticks(GRACE) {
                net.pause_reading(conn);
            }
            if !std::mem::replace(&mut client.held, true) {
                self.held.push(conn);
            }
        }
        !held
    }

    /// The right to one message is used up.
    pub fn spoke(&mut self, conn: ConnId) {
        if let Some(client) = self.clients.get_mut(conn) {
            client.tokens -= 1.0;
        }
    }

    /// Clients that were held back are heard again, as far as their rate allows by now.
    pub fn release(&mut self, net: &mut Net) {
        for conn in std::mem::take(&mut self.held) {
            let Some(client) = self.clients.get_mut(conn) else { continue };
            client.held = false;
            if client.leaving {
                continue;
            }
            // It is we who do not listen: unless it does not read, it is not silent.
            if client.asked_for.get() == 0 {
                self.heard(net, conn);
            }
            // What waits is shown by the end of a pause alone.
            net.pause_reading(conn);
            net.resume_reading(conn);
        }
    }

    /// All that a client said has been carried out.
    pub fn caught_up(&mut self, conn: ConnId) {
        if let Some(client) = self.clients.get_mut(conn) {
            client.waiting = None;
        }
    }

    /// A client has given a sign of life.
    pub fn heard(&mut self, net: &mut Net, conn: ConnId) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        client.asked = false;
        // The time to register runs whatever is said.
        if client.user.is_some() {
            net.set_deadline(conn, self.options.ping_interval);
        }
    }

    /// Whether what a client has said and is held back is too much to wait for.
    pub fn is_flooded(&self, bytes: usize, lines: usize) -> bool {
        bytes > MAX_WITHHELD || lines > MAX_WITHHELD_LINES.max(10 * self.options.burst.get())
    }
}
