//! The server as the engine sees it: connections come, send and go. What they say is carried out
//! in `commands` and `web`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use unbroken::frame::Frame;
use unbroken::{
    Addr, CloseReason, CloseReport, Config, ConnId, Handler, ListenerId, Net, PerConn, Timeout, TimerId, Via,
};

use crate::audience::Audiences;
use crate::caps::Caps;
use crate::clients::{Client, Protocol, MAX_TAGS};
use crate::history::Histories;
use crate::irc;
use crate::labels::Answers;
use crate::monitor::Monitors;
use crate::options::Options;
use crate::passwords::Passwords;
use crate::relay::Relay;
use crate::stamp::Stamp;
use crate::state::{State, UserId};
use crate::whowas::Whowas;

/// The other servers, and the clients that are held back, are looked at this often.
pub const TICK: Duration = Duration::from_millis(250);

/// What `/metrics` tells besides the engine's own counters.
#[derive(Default)]
pub struct Counters {
    pub messages: u64,
    pub deliveries: u64,
    pub refused: u64,
    /// Messages that were given a name.
    pub named: u64,
}

pub struct Chat {
    pub options: Options,
    pub state: State,
    pub clients: PerConn<Client>,
    /// The connections of this server's users.
    pub conns: HashMap<UserId, ConnId>,
    pub audiences: Audiences,
    pub counters: Counters,
    pub histories: Histories,
    pub whowas: Whowas,
    pub monitors: Monitors,
    /// Who may log in, and who may become an operator.
    pub accounts: Option<Passwords>,
    pub operators: Option<Passwords>,
    /// Answers that wait to be marked, and how many batches there were.
    pub answers: RefCell<Option<Answers>>,
    pub batches: u64,
    pub relay: Relay,
    pub draining: bool,
    pub clock: fn() -> SystemTime,
    /// Seconds since 1970.
    pub started: u64,
    pub tick: u64,
    /// Clients that are faster than they may be. They are not read from until the next tick.
    pub held: Vec<ConnId>,
    /// The most users there ever were, here and everywhere.
    pub most_users: usize,
    pub most_all: usize,
    pub addresses: HashMap<IpAddr, usize>,
    irc: Vec<ListenerId>,
    /// Listeners that others have as well: the clients that wait there are left to them.
    shared: Vec<ListenerId>,
}

/// The engine's settings for a chat.
pub fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.high_water = options.high_water();
    config.low_water = options.send_queue as usize / 8;
    // For a client the cap is `push`'s; what goes to Redis may be more.
    config.max_write_buffer = config.max_write_buffer.max(2 * options.send_queue as usize);
    // A client that does not read is to be found out by its cap, not to be kept from speaking.
    config.read_while_congested = true;
    config.max_read_buffer = 64 << 10;
    // Lines are short: thousands of clients need no larger buffer.
    config.read_size = 16 << 10;
    config
}

impl Chat {
    pub fn new(options: Options, relay: Relay, clock: fn() -> SystemTime) -> Self {
        Self {
            options,
            state: State::default(),
            clients: PerConn::new(),
            conns: HashMap::new(),
            audiences: Audiences::default(),
            counters: Counters::default(),
            histories: Histories::default(),
            whowas: Whowas::default(),
            monitors: Monitors::default(),
            accounts: None,
            operators: None,
            answers: RefCell::new(None),
            batches: 0,
            relay,
            draining: false,
            clock,
            started: irc::unix(clock()),
            tick: 0,
            held: Vec::new(),
            most_users: 0,
            most_all: 0,
            addresses: HashMap::new(),
            irc: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// Clients of the first listeners speak IRC, with TLS or without, those of the other HTTP. Shared
    /// listeners belong to a successor as well.
    pub fn serve(&mut self, irc: &[ListenerId], web: ListenerId, shared: bool) {
        self.irc = irc.to_vec();
        self.shared = if shared { [irc, &[web]].concat() } else { Vec::new() };
    }

    /// Begins what happens by itself.
    pub fn start(&mut self, net: &mut Net) {
        net.set_timer(TICK);
        self.relay_connect(net);
    }

    pub fn now(&self) -> u64 {
        irc::unix((self.clock)())
    }

    /// This moment, among those of all servers.
    pub fn stamp(&self) -> Stamp {
        let since = (self.clock)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Stamp { at: since.as_millis() as u64, server: self.relay.id }
    }

    /// Whether a user is one of ours who asked for something.
    pub fn has_cap(&self, id: UserId, cap: Caps) -> bool {
        let client = self.conns.get(&id).and_then(|conn| self.clients.get(*conn));
        client.is_some_and(|client| client.caps.has(cap))
    }

    /// The ticks in a span of time.
    pub fn ticks(span: Duration) -> u64 {
        (span.as_millis() / TICK.as_millis()).max(1) as u64
    }

    /// Ends a connection after a last word; its user leaves with the same words.
    pub fn end(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        let Some(client) = self.clients.get(conn) else { return };
        let last = format!("ERROR :Closing link: {} ({why})", client.host);
        if client.form().is_some() {
            self.send(net, conn, &last);
        }
        if self.answered() == Some(conn) {
            self.answer_all(net);
        }
        if let Some(Client { protocol: Protocol::WebSocket(socket), .. }) = self.clients.get_mut(conn) {
            let _ = net.send_bytes(conn, socket.goodbye(self.draining));
        }
        self.gone(net, conn, why);
    }

    /// A connection is over, and has been told so.
    pub fn gone(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        if self.answered() == Some(conn) {
            self.answer_all(net);
        }
        self.leave(net, conn, why);
        if let Some(client) = self.clients.get_mut(conn) {
            client.leaving = true;
        }
        net.close(conn);
    }

    /// The user of a connection leaves, if it has one.
    fn leave(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        let Some(user) = self.clients.get_mut(conn).and_then(|client| client.user.take()) else { return };
        self.conns.remove(&user);
        self.quit(net, user, why);
    }

    fn tick(&mut self, net: &mut Net) {
        net.set_timer(TICK);
        self.tick += 1;
        self.relay_tick(net);
        self.release(net);
    }

    /// Lines of a bare connection. Returns how many bytes of them were used.
    fn lines(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut rest = data;
        while !rest.is_empty() {
            if !self.may_speak(net, conn) {
                let lines = rest.iter().filter(|byte| **byte == b'\n').count();
                if self.is_flooded(rest.len(), lines) {
                    self.end(net, conn, "Excess flood");
                }
                break;
            }
            match self.clients[conn].lines.next_in(&mut rest) {
                Some(Frame::Whole(line)) => self.line(net, conn, line),
                Some(Frame::TooLong { .. }) => self.end(net, conn, "Line too long"),
                None => break,
            }
            // That may have been its last word.
            if self.clients[conn].leaving {
                return data.len();
            }
        }
        if rest.is_empty() {
            self.caught_up(conn);
        }
        data.len() - rest.len()
    }

    /// One line, whatever it came in.
    pub fn line(&mut self, net: &mut Net, conn: ConnId, line: &[u8]) {
        self.spoke(conn);
        let tags = irc::tags_length(line);
        let nick = self.nick_of(conn);
        let server = &self.options.name;
        if tags > MAX_TAGS || line.len() - tags > self.options.max_line as usize - 2 {
            return self.send(net, conn, &format!(":{server} 417 {nick} :Input line was too long"));
        }
        let Ok(text) = std::str::from_utf8(line) else {
            let lossy = String::from_utf8_lossy(line);
            let command = irc::parse(&lossy).map_or("*", |message| message.command);
            let command =
                if command.bytes().all(|byte| byte.is_ascii_alphanumeric()) { command } else { "*" };
            let text = "Message rejected: it is not UTF-8";
            return self.send(net, conn, &format!(":{server} FAIL {command} INVALID_UTF8 :{text}"));
        };
        if text.contains(['\0', '\r', '\n']) {
            return self.send(
                net,
                conn,
                &format!(":{server} 400 {nick} * :A line cannot contain NUL, CR or LF"),
            );
        }
        if let Some(message) = irc::parse(text) {
            self.label(conn, message.tags);
            self.command(net, conn, &message);
            self.answer_all(net);
        }
    }

    /// The nick of a connection's user, or `*`.
    pub fn nick_of(&self, conn: ConnId) -> String {
        let user = self.clients.get(conn).and_then(|client| client.user);
        user.and_then(|user| self.state.user(user)).map_or("*".to_owned(), |user| user.nick.clone())
    }
}

impl Handler for Chat {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        let Via::Listener(listener) = via else { return self.relay_open(net, conn) };
        let addr = net.peer_addr(conn).as_ref().and_then(Addr::as_tcp).map(|addr| addr.ip());
        let speaks_irc = self.irc.contains(&listener);
        if let Err(why) = self.admit(addr) {
            self.counters.refused += 1;
            let text = match speaks_irc {
                true => format!("ERROR :Closing link: ({why})\r\n"),
                false => format!(
                    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
                    why.len() + 1
                ),
            };
            let _ = net.send(conn, text.as_bytes());
            return net.close(conn);
        }
        if let Some(addr) = addr {
            *self.addresses.entry(addr).or_default() += 1;
        }
        let client = Client::new(speaks_irc, addr, self.tick, &self.options);
        self.clients.insert(conn, client);
        net.set_deadline(conn, self.options.register_timeout);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.heard(net, conn);
        let Some(client) = self.clients.get(conn) else {
            return match self.relay.owns(conn) {
                true => self.relay_data(net, conn, data),
                false => data.len(),
            };
        };
        match client.protocol {
            Protocol::Irc => self.lines(net, conn, data),
            Protocol::Http => self.request(net, conn, data),
            Protocol::WebSocket(_) => self.frames(net, conn, data),
        }
    }

    /// A client has ended its stream: it has left, however long it takes to bring it what is queued.
    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        match self.clients.contains(conn) {
            true => self.gone(net, conn, "Connection closed"),
            false => net.close(conn),
        }
    }

    /// What a client asked for has been taken.
    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        let Some(client) = self.clients.get(conn) else { return };
        client.asked_for.set(0);
        if matches!(client.protocol, Protocol::Http) {
            net.resume_reading(conn);
        }
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        self.tick(net);
    }

    /// A client has not registered in time, nor asked for a page, or was silent for too long.
    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        if client.user.is_none() {
            self.end(net, conn, "Registration timed out");
        } else if std::mem::replace(&mut client.asked, true) {
            let silence = self.options.ping_interval + self.options.ping_timeout;
            self.end(net, conn, &format!("Ping timeout: {} seconds", silence.as_secs()));
        } else {
            self.send(net, conn, &format!("PING :{}", self.options.name));
            net.set_deadline(conn, self.options.ping_timeout);
        }
    }

    /// Tells everybody; they are closed when all is delivered.
    fn on_shutdown(&mut self, net: &mut Net) {
        self.draining = true;
        self.relay_leave(net);
        for listener in std::mem::take(&mut self.shared) {
            net.close_listener(listener);
        }
        for conn in self.clients.ids().collect::<Vec<_>>() {
            self.end(net, conn, "Server shutting down");
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if self.relay.owns(conn) {
            return self.relay_close(net, conn, report);
        }
        self.leave(net, conn, &cause(report));
        let Some(client) = self.clients.remove(conn) else { return };
        self.monitors.forget_all(conn, &client.watched);
        log::info!("{conn} {}: {report}", client.host);
        if let Some(count) = client.addr.and_then(|addr| self.addresses.get_mut(&addr)) {
            *count -= 1;
        }
        self.addresses.retain(|_, count| *count > 0);
    }

    fn on_listener_error(&mut self, net: &mut Net, _: ListenerId, error: &io::Error) {
        log::error!("a listener failed: {error}");
        net.shutdown(self.options.drain);
    }
}

/// Why somebody left, in the words of chat.
fn cause(report: &CloseReport) -> String {
    match report.reason {
        CloseReason::PeerClosed | CloseReason::Finished => "Connection closed".to_owned(),
        CloseReason::Reset | CloseReason::ResetAfterFin => "Connection reset by peer".to_owned(),
        CloseReason::BrokenPipe => "Broken pipe".to_owned(),
        CloseReason::SlowConsumer => "Slow consumer".to_owned(),
        CloseReason::InputOverflow => "Excess flood".to_owned(),
        CloseReason::TimedOut(Timeout::WriteStall) => "Write timeout".to_owned(),
        CloseReason::TimedOut(_) => "Connection timed out".to_owned(),
        CloseReason::Shutdown => "Server shutting down".to_owned(),
        reason => reason.to_string(),
    }
}
