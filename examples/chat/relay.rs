//! The link to other servers: two connections to one Redis, one that publishes and one that
//! listens, and what each server is known to have said. What an event means stands in `remote`.
//!
//! Every event has its server's name and number in it. A server that misses a number, or hears of
//! one it does not know, asks for the whole state; one that has not said for three announcements
//! that it is alive is gone, and its users with it. While Redis is away, everybody goes on alone.

use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::encode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};
use serde_json::{json, Value};
use unbroken::{Addr, CloseReport, ConnId, ConnectOptions, Net};

use crate::server::Chat;
use crate::state::UserId;

/// The channel of Redis that all servers publish to.
const TOPIC: &str = "unbroken-chat/1";
/// The first and the longest pause before Redis is tried again, in ticks.
const FIRST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 40;
/// A state may be larger than a line by far.
const MAX_EVENT: usize = 48 << 20;

/// Another server.
pub struct Peer {
    pub name: String,
    /// When it was last heard of, in ticks.
    pub heard: u64,
    /// The number of its last event; `None` until its whole state has come.
    pub last: Option<u64>,
    /// Its users, by its own numbers.
    pub users: HashMap<u64, UserId>,
}

#[derive(Default)]
pub struct Relay {
    /// `None` without `--redis`.
    addr: Option<Addr>,
    /// This server's name among the others.
    pub id: String,
    name: String,
    publisher: Option<ConnId>,
    subscriber: Option<ConnId>,
    up: bool,
    /// Whether users were told that it is away.
    told: bool,
    pause: u64,
    retry: u64,
    /// Events published.
    number: u64,
    pub peers: HashMap<String, Peer>,
}

impl Relay {
    /// No other servers.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn new(addr: Addr, name: &str) -> Self {
        // Different in every process, without a library for it.
        let id = format!("{:016x}", RandomState::new().build_hasher().finish());
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
    pub fn name_of(&self, id: &str) -> &str {
        self.peers.get(id).map_or("*", |peer| &peer.name)
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
                match serde_json::from_slice::<Value>(text) {
                    Ok(event) => self.relay_event(net, &event),
                    Err(error) => log::warn!("redis: not an event of ours: {error}"),
                }
            }
            _ => {}
        }
    }

    fn relay_up(&mut self, net: &mut Net) {
        self.relay.up = true;
        self.relay.pause = FIRST_PAUSE;
        if std::mem::take(&mut self.relay.told) {
            self.notice_all(net, "The link to the other servers is back");
        }
        self.publish(net, "hello", json!({}));
        self.publish_state(net);
    }

    /// Redis is away: it is tried again after a pause that grows.
    fn relay_down(&mut self, net: &mut Net) {
        for conn in [self.relay.publisher.take(), self.relay.subscriber.take()].into_iter().flatten() {
            net.abort(conn);
        }
        self.relay.retry = self.tick + self.relay.pause;
        self.relay.pause = (self.relay.pause * 2).min(LONGEST_PAUSE);
        let was_up = std::mem::replace(&mut self.relay.up, false);
        if was_up && !self.draining {
            self.relay.told = true;
            self.notice_all(net, "The link to the other servers is down; here everything goes on");
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
        if idle && self.tick >= self.relay.retry && !self.draining {
            self.relay_connect(net);
        }
        let span = Self::ticks(self.options.announce);
        if self.relay.up && self.tick % span == 0 {
            self.publish(net, "alive", json!({}));
        }
        let gone: Vec<String> = self
            .relay
            .peers
            .iter()
            .filter(|(_, peer)| self.tick - peer.heard > 3 * span + 1)
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.peer_gone(net, &id);
        }
    }

    /// A server is gone: its users leave as in a netsplit, with the names of both ends.
    pub fn peer_gone(&mut self, net: &mut Net, id: &str) {
        let Some(peer) = self.relay.peers.remove(id) else { return };
        let why = format!("{} {}", self.options.name, peer.name);
        for user in peer.users.into_values() {
            self.quit(net, user, &why);
        }
    }

    /// Before this server ends: the others need not wait to find out.
    pub fn relay_leave(&mut self, net: &mut Net) {
        self.publish(net, "bye", json!({}));
    }

    /// Tells the other servers, if they can be reached: else they will ask for everything.
    pub fn publish(&mut self, net: &mut Net, kind: &str, mut event: Value) {
        if !self.relay.up {
            return;
        }
        let Some(conn) = self.relay.publisher else { return };
        self.relay.number += 1;
        event["kind"] = kind.into();
        event["server"] = self.relay.id.as_str().into();
        event["name"] = self.relay.name.as_str().into();
        event["number"] = self.relay.number.into();
        let _ = net.send_bytes(conn, command(&["PUBLISH", TOPIC, &event.to_string()]).into());
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
