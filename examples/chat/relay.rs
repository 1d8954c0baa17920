//! The link to other servers: two connections to one Redis, one that publishes and one that
//! listens, and what each server is known to have said. What an event means stands in `remote`.
//!
//! Every event has its server's name and number in it. A server that misses a number, or hears of
//! one it does not know, asks for the whole state; one that has not said for three announcements
//! that it is alive is gone, and its users with it. What a server tells comes back to itself as well:
//! when that ceases, Redis is away, whatever its connections say. Meanwhile everybody goes on alone.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::encode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};
use unbroken::{Addr, CloseReport, ConnId, ConnectOptions, Net};

use crate::events::{Event, Letter, Word};
use crate::pace::{ticks, TICK};
use crate::server::Chat;
use crate::stamp::ServerId;
use crate::state::UserId;

/// The channel of Redis that all servers publish to.
const TOPIC: &str = "unbroken-chat/2";
/// The first and the longest pause before Redis is tried again, in ticks.
const FIRST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 40;
/// A state may be larger than a line by far.
const MAX_EVENT: usize = 48 << 20;

/// Other servers at most: whoever can write to Redis can make some up.
const MOST_PEERS: usize = 64;

/// Another server.
pub struct Peer {
    pub name: String,
    /// When it was last heard of, in ticks.
    pub heard: u64,
    /// The number of the last event that is part of what is known of it; all up to it are.
    pub applied: u64,
    /// Whether that is all there is: a state has come, and nothing was missed since.
    pub whole: bool,
    /// The number of the last event that was heard at all.
    pub latest: u64,
    /// Its users, by its own numbers.
    pub users: HashMap<u64, UserId>,
}

#[derive(Default)]
pub struct Relay {
    /// `None` without `--redis`.
    addr: Option<Addr>,
    /// This server's name among the others.
    pub id: ServerId,
    name: String,
    publisher: Option<ConnId>,
    subscriber: Option<ConnId>,
    up: bool,
    /// Whether users were told that it is away.
    told: bool,
    pause: u64,
    retry: u64,
    /// When it was tried to connect, and when an event of ours came back, in ticks.
    since: u64,
    echoed: u64,
    /// Events published.
    number: u64,
    pub peers: HashMap<ServerId, Peer>,
    /// Our users who have said something since the last announcement.
    pub active: HashSet<UserId>,
}

impl Relay {
    /// No other servers.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn new(addr: Addr, name: &str) -> Self {
        // Different in every process, without a library for it.
        Self::with_id(addr, name, ServerId(RandomState::new().build_hasher().finish()))
    }

    pub fn with_id(addr: Addr, name: &str, id: ServerId) -> Self {
        Self { addr: Some(addr), id, name: name.to_owned(), pause: FIRST_PAUSE, ..Self::default() }
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    /// How many other servers are known.
    pub fn servers(&self) -> usize {
        self.peers.len()
    }

    /// Another server's name.
    pub fn name_of(&self, id: ServerId) -> &str {
        self.peers.get(&id).map_or("*", |peer| &peer.name)
    }

    /// What is known of the server of a letter, from now on at least; `None` when there are too many.
    pub fn peer_of(&mut self, letter: &Letter, tick: u64) -> Option<&mut Peer> {
        if !self.peers.contains_key(&letter.server) && self.peers.len() >= MOST_PEERS {
            return None;
        }
        let peer = self.peers.entry(letter.server).or_insert_with(|| Peer {
            name: letter.name.0.clone(),
            heard: tick,
            applied: 0,
            whole: false,
            latest: 0,
            users: HashMap::new(),
        });
        peer.heard = tick;
        Some(peer)
    }

    pub fn owns(&self, conn: ConnId) -> bool {
        self.publisher == Some(conn) || self.subscriber == Some(conn)
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let words = words.iter().map(|word| OwnedFrame::BulkString(word.as_bytes().to_vec())).collect();
    let frame = OwnedFrame::Array(words);
    let mut bytes = vec![0; frame.encode_len(false)];
    // It is as long as was asked for.
    let _ = encode(&mut bytes, &frame, false);
    bytes
}

impl Chat {
    pub fn relay_connect(&mut self, net: &mut Net) {
        let Some(addr) = &self.relay.addr else { return };
        self.relay.since = self.tick;
        let mut settings = net.config().settings();
        settings.max_read_buffer = MAX_EVENT;
        let mut options = ConnectOptions::default();
        options.settings = Some(settings);
        for end in [&mut self.relay.publisher, &mut self.relay.subscriber] {
            match net.connect_with(addr, &options) {
                Ok(conn) => *end = Some(conn),
                Err(error) => log::warn!("redis at {addr}: {error}"),
            }
        }
        if self.relay.publisher.is_none() || self.relay.subscriber.is_none() {
            self.relay_down(net);
        }
    }

    pub fn relay_open(&mut self, net: &mut Net, conn: ConnId) {
        if self.relay.subscriber == Some(conn) {
            let _ = net.send(conn, &command(&["SUBSCRIBE", TOPIC]));
        }
    }

    /// Frames of Redis. Returns how many bytes of them were used.
    pub fn relay_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if self.relay.publisher == Some(conn) {
            // Numbers of receivers; an error would end what cannot work.
            if data.starts_with(b"-") {
                log::warn!("redis: {}", String::from_utf8_lossy(data).trim_end());
                net.abort(conn);
            }
            return data.len();
        }
        let mut rest = data;
        loop {
            match decode(rest) {
                Ok(Some((frame, length))) => {
                    rest = &rest[length..];
                    self.relay_frame(net, conn, frame);
                }
                Ok(None) => return data.len() - rest.len(),
                Err(error) => {
                    log::warn!("redis: {error}");
                    net.abort(conn);
                    return data.len();
                }
            }
        }
    }

    fn relay_frame(&mut self, net: &mut Net, conn: ConnId, frame: OwnedFrame) {
        let words = match frame {
            OwnedFrame::Array(words) => words,
            OwnedFrame::Error(error) => {
                log::warn!("redis: {error}");
                return net.abort(conn);
            }
            _ => return,
        };
        match &words[..] {
            [OwnedFrame::BulkString(kind), _, _] if kind == b"subscribe" => self.relay_up(net),
            [OwnedFrame::BulkString(kind), _, OwnedFrame::BulkString(text)] if kind == b"message" => {
                match Letter::parse(text) {
                    Ok(letter) if letter.server == self.relay.id => self.relay.echoed = self.tick,
                    Ok(letter) => self.letter(net, letter),
                    Err(error) => log::warn!("redis: not an event of ours: {error}"),
                }
            }
            _ => {}
        }
    }

    fn relay_up(&mut self, net: &mut Net) {
        self.relay.up = true;
        self.relay.echoed = self.tick;
        self.relay.pause = FIRST_PAUSE;
        if std::mem::take(&mut self.relay.told) {
            self.notice_all(net, "The link to the other servers is back");
        }
        self.publish(net, Event::Hello);
        self.publish_state(net);
    }

    /// Redis is away: it is tried again after a pause that grows.
    fn relay_down(&mut self, net: &mut Net) {
        for conn in [self.relay.publisher.take(), self.relay.subscriber.take()].into_iter().flatten() {
            net.abort(conn);
        }
        self.relay.active.clear();
        self.relay.retry = self.tick + self.relay.pause;
        self.relay.pause = (self.relay.pause * 2).min(LONGEST_PAUSE);
        let was_up = std::mem::replace(&mut self.relay.up, false);
        if was_up && !self.ports.draining {
            self.relay.told = true;
            // It stands, and nothing comes back: what went in is nobody knows where.
            let silence = self.tick - self.relay.echoed;
            let text = match silence > 2 * ticks(self.options.announce) {
                true => format!(
                    "The link to the other servers is down; what was said in the last {:.0} seconds may not have \
                     reached them. Here everything goes on",
                    (TICK * silence as u32).as_secs_f64().ceil()
                ),
                false => "The link to the other servers is down; here everything goes on".to_owned(),
            };
            self.notice_all(net, &text);
        }
    }

    pub fn relay_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        log::warn!("redis, {conn}: {report}");
        self.relay_down(net);
    }

    pub fn relay_tick(&mut self, net: &mut Net) {
        if self.relay.addr.is_none() {
            return;
        }
        let idle = self.relay.publisher.is_none() && self.relay.subscriber.is_none();
        if idle && self.tick >= self.relay.retry && !self.ports.draining {
            self.relay_connect(net);
        }
        let span = ticks(self.options.announce);
        let patience = 3 * span + 1;
        if self.relay.up && self.tick % span == 0 {
            let active = std::mem::take(&mut self.relay.active);
            let active = active.iter().filter_map(|id| Some((id.0, self.state.user(*id)?.active))).collect();
            self.publish(net, Event::Alive { active });
        }
        // Connections may stand while nobody answers at their other end.
        let heard = if self.relay.up { self.relay.echoed } else { self.relay.since };
        if !idle && self.tick - heard > patience {
            log::warn!("redis: nothing comes back");
            self.relay_down(net);
        }
        let silent = self.relay.peers.iter().filter(|(_, peer)| self.tick - peer.heard > patience);
        let gone: Vec<ServerId> = silent.map(|(id, _)| *id).collect();
        for id in gone {
            self.peer_gone(net, id);
        }
    }

    /// A server is gone: its users leave as in a netsplit, with the names of both ends.
    pub fn peer_gone(&mut self, net: &mut Net, id: ServerId) {
        let Some(peer) = self.relay.peers.remove(&id) else { return };
        let why = format!("{} {}", self.options.name, peer.name);
        for user in peer.users.into_values() {
            self.quit(net, user, &why);
        }
    }

    /// Before this server ends: the others need not wait to find out.
    pub fn relay_leave(&mut self, net: &mut Net) {
        self.publish(net, Event::Bye);
    }

    /// Tells the other servers, if they can be reached: else they will ask for everything.
    pub fn publish(&mut self, net: &mut Net, event: Event) {
        if !self.relay.up {
            return;
        }
        let Some(conn) = self.relay.publisher else { return };
        self.relay.number += 1;
        let name = Word(self.relay.name.clone());
        let letter = Letter { server: self.relay.id, name, number: self.relay.number, event };
        let _ = net.send_bytes(conn, command(&["PUBLISH", TOPIC, &letter.text()]).into());
    }

    /// A notice of the server to all its users.
    fn notice_all(&mut self, net: &mut Net, text: &str) {
        let users: Vec<UserId> = self.conns.keys().copied().collect();
        for user in users {
            let Some(nick) = self.state.user(user).map(|user| user.nick.clone()) else { continue };
            let line = format!(":{} NOTICE {nick} :{text}", self.options.name);
            self.deliver(net, line, [user]);
        }
    }
}
