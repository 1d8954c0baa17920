//! The server as the engine sees it: connections come, send and go. What they are is with `ports`, what
//! they say is carried out here and in `commands`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use unbroken::{CloseReport, Config, ConnId, Handler, ListenerId, Net, TimerId, Via};

use crate::audience::Audiences;
use crate::between::{Goodbye, Heard, Told};
use crate::caps::Caps;
use crate::clients::{ClientId, Clients};
use crate::far::Far;
use crate::history::Histories;
use crate::irc;
use crate::labels::Answers;
use crate::monitor::Monitors;
use crate::options::Options;
use crate::pace::TICK;
use crate::passwords::Passwords;
use crate::ports::{Ports, MAX_TAGS};
use crate::relay::Relay;
use crate::stamp::Stamp;
use crate::state::{State, UserId};
use crate::whowas::Whowas;

/// What `/metrics` tells besides the engine's own counters.
#[derive(Default)]
pub struct Counters {
    pub messages: u64,
    pub refused: u64,
    /// Messages that were given a name.
    pub named: u64,
}

pub struct Chat {
    pub options: Options,
    pub state: State,
    pub clients: Clients,
    /// The connections of this reactor.
    pub ports: Ports,
    /// The other reactors.
    pub far: Far,
    /// The connections of this server's users.
    pub conns: HashMap<UserId, ClientId>,
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
    pub clock: fn() -> SystemTime,
    /// Seconds since 1970.
    pub started: u64,
    pub tick: u64,
    /// The most users there ever were, here and everywhere.
    pub most_users: usize,
    pub most_all: usize,
    pub addresses: HashMap<IpAddr, usize>,
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
            ports: Ports::new(options.clone(), clock),
            options,
            state: State::default(),
            clients: Clients::default(),
            far: Far::default(),
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
            clock,
            started: irc::unix(clock()),
            tick: 0,
            most_users: 0,
            most_all: 0,
            addresses: HashMap::new(),
            shared: Vec::new(),
        }
    }

    /// Clients of the first listeners speak IRC, with TLS or without, those of the other HTTP. Shared
    /// listeners belong to a successor as well.
    pub fn serve(&mut self, irc: &[ListenerId], web: ListenerId, shared: bool) {
        self.ports.irc = irc.to_vec();
        self.shared = if shared { [irc, &[web]].concat() } else { Vec::new() };
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

    /// Carries out what has come from a client.
    pub fn hear(&mut self, net: &mut Net, conn: ClientId, heard: Heard<'_>) {
        match heard {
            Heard::Came(addr, form) => {
                if let Err(why) = self.admit(conn, addr, form) {
                    self.counters.refused += 1;
                    self.tell(net, conn, Told::Refused(why));
                }
            }
            Heard::Line(line) => self.line(net, conn, &line),
            Heard::Echo(bytes) => self.answer(net, conn, bytes),
            Heard::Upgraded(form) => {
                if let Some(client) = self.clients.get_mut(conn) {
                    client.form = Some(form);
                }
            }
            Heard::Metrics => self.figures_wanted(net, conn),
            Heard::Silent => self.send(net, conn, &format!("PING :{}", self.options.name)),
            Heard::Ended(why) => self.end(net, conn, &why),
            Heard::Over(last, why) => {
                if !last.is_empty() {
                    self.answer(net, conn, last);
                }
                self.gone(net, conn, why, None);
            }
            Heard::Left(why) => {
                self.leave(net, conn, &why);
                self.forget(conn);
            }
            Heard::Next => self.tell(net, conn, Told::Next),
        }
    }

    /// Ends a connection after a last word; its user leaves with the same words.
    pub fn end(&mut self, net: &mut Net, conn: ClientId, why: &str) {
        let Some(client) = self.clients.get(conn) else { return };
        let last = format!("ERROR :Closing link: {} ({why})", client.host);
        if client.form.is_some() {
            self.send(net, conn, &last);
        }
        let away = if self.ports.draining { Goodbye::Away } else { Goodbye::Normal };
        self.gone(net, conn, why, Some(away));
    }

    /// A connection is over, and has been told so, but for the goodbye of its protocol perhaps.
    fn gone(&mut self, net: &mut Net, conn: ClientId, why: &str, goodbye: Option<Goodbye>) {
        if self.answered() == Some(conn) {
            self.answer_all(net);
        }
        self.leave(net, conn, why);
        if let Some(client) = self.clients.get_mut(conn) {
            client.leaving = true;
        }
        self.tell(net, conn, Told::Close(goodbye));
    }

    /// The user of a connection leaves, if it has one.
    fn leave(&mut self, net: &mut Net, conn: ClientId, why: &str) {
        let Some(user) = self.clients.get_mut(conn).and_then(|client| client.user.take()) else { return };
        self.conns.remove(&user);
        self.quit(net, user, why);
    }

    /// One line, whatever it came in.
    fn line(&mut self, net: &mut Net, conn: ClientId, line: &[u8]) {
        // What follows its last word is not heard.
        if self.clients.get(conn).is_none_or(|client| client.leaving) {
            return;
        }
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
    pub fn nick_of(&self, conn: ClientId) -> String {
        let user = self.clients.get(conn).and_then(|client| client.user);
        user.and_then(|user| self.state.user(user)).map_or("*".to_owned(), |user| user.nick.clone())
    }
}

impl Handler for Chat {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        let Via::Listener(listener) = via else { return self.relay_open(net, conn) };
        let came = self.ports.came(net, conn, listener);
        self.hear(net, ClientId::near(conn), came);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.ports.heard(net, conn);
        if self.must_wait(net, conn) {
            return 0;
        }
        if self.relay.owns(conn) {
            return self.relay_data(net, conn, data);
        }
        let mut rest = data;
        while let Some(heard) = self.ports.next_in(net, conn, &mut rest) {
            self.hear(net, ClientId::near(conn), heard);
        }
        data.len() - rest.len()
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        match self.ports.ended(conn) {
            Some(over) => self.hear(net, ClientId::near(conn), over),
            None => net.close(conn),
        }
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.ports.drained(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        net.set_timer(TICK);
        self.tick += 1;
        self.relay_tick(net);
        self.ports.tick(net);
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        if let Some(heard) = self.ports.late(net, conn) {
            self.hear(net, ClientId::near(conn), heard);
        }
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.hear_others(net);
    }

    /// Tells everybody; they are closed when all is delivered.
    fn on_shutdown(&mut self, net: &mut Net) {
        self.ports.draining = true;
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
        if let Some(left) = self.ports.gone(net, conn, report) {
            self.hear(net, ClientId::near(conn), left);
        }
    }

    fn on_listener_error(&mut self, net: &mut Net, _: ListenerId, error: &io::Error) {
        log::error!("a listener failed: {error}");
        net.shutdown(self.options.drain);
    }
}
