//! Several servers in virtual time, at one Redis that is played by the test: it serves each of them when
//! it likes, or not.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::encode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};
use unbroken::sim::{PeerId, Remote, Script, Sim};
use unbroken::Addr;

use crate::irc::fold;
use crate::options::Options;
use crate::pace::TICK;
use crate::relay::Relay;
use crate::server::{self, Chat};
use crate::stamp::ServerId;
use crate::{IRC, WEB};

const REDIS: &str = "10.0.0.9:6379";
pub const STEP: Duration = Duration::from_millis(50);

thread_local! {
    /// Milliseconds since 1970, as all servers see them.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

pub fn set_clock(now: u64) {
    NOW.set(now);
}

pub fn let_pass(time: Duration) {
    NOW.set(NOW.get() + time.as_millis() as u64);
}

fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(NOW.get())
}

/// What came from a server, and what is to go there.
#[derive(Default)]
pub struct Link {
    /// Bytes of each connection that have been looked at.
    read: BTreeMap<PeerId, usize>,
    pub subscriber: Option<PeerId>,
    pub waiting: VecDeque<Vec<u8>>,
    /// Steps for which Redis does not serve this server, in either direction.
    pub stalled: usize,
}

pub struct Server {
    pub sim: Sim<Chat>,
    pub link: Link,
    pub clients: Vec<PeerId>,
}

pub fn frame(words: &[&[u8]]) -> Vec<u8> {
    let frame = OwnedFrame::Array(words.iter().map(|word| OwnedFrame::BulkString(word.to_vec())).collect());
    let mut bytes = vec![0; frame.encode_len(false)];
    encode(&mut bytes, &frame, false).expect("room");
    bytes
}

impl Server {
    pub fn start(seed: u64, number: u64) -> Self {
        let name = format!("s{number}");
        let flags = ["chat", "--name", &name, "--announce", "0.5", "--rate", "1000", "--burst", "1000"];
        let options = Options::try_parse_from(flags).expect("flags");
        let relay = Relay::with_id(REDIS.parse::<Addr>().expect("an address"), &name, ServerId(number));
        let config = server::config(&options);
        let mut sim =
            Sim::new(seed + number, config, Chat::new(options, relay, clock)).expect("a simulation");
        sim.remote(REDIS, Remote::Serves(Script::new()));
        let irc = sim.net().listen(IRC).expect("a listener");
        let web = sim.net().listen(WEB).expect("a listener");
        sim.handler().serve(&[irc], web, false);
        sim.net().set_timer(TICK);
        Self { sim, link: Link::default(), clients: Vec::new() }
    }

    /// What this server has told Redis since the last time.
    pub fn published(&mut self) -> Vec<Vec<u8>> {
        let mut published = Vec::new();
        for peer in self.sim.peers() {
            if self.clients.contains(&peer) {
                continue;
            }
            let received = self.sim.received(peer);
            let read = self.link.read.entry(peer).or_default();
            while let Ok(Some((OwnedFrame::Array(words), length))) = decode(&received[*read..]) {
                *read += length;
                match &words[..] {
                    [OwnedFrame::BulkString(verb), OwnedFrame::BulkString(topic)] if verb == b"SUBSCRIBE" => {
                        self.link.subscriber = Some(peer);
                        self.link.waiting.clear();
                        let mut answer = frame(&[b"subscribe", topic]);
                        answer[1] = b'3';
                        answer.extend(b":1\r\n");
                        self.sim.perform(peer, Script::new().send(answer));
                    }
                    [_, OwnedFrame::BulkString(topic), OwnedFrame::BulkString(text)] => {
                        published.push(frame(&[b"message", topic, text]));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        published
    }

    pub fn receive(&mut self, count: usize) {
        let Some(peer) = self.link.subscriber else { return };
        let count = count.min(self.link.waiting.len());
        let bytes: Vec<u8> = self.link.waiting.drain(..count).flatten().collect();
        if !bytes.is_empty() {
            self.sim.perform(peer, Script::new().send(bytes));
        }
    }

    /// Redis closes its connections to this server.
    pub fn break_off(&mut self) {
        let connections: Vec<PeerId> = self.link.read.keys().copied().collect();
        for peer in connections {
            self.sim.perform(peer, Script::new().reset());
        }
        self.link.subscriber = None;
        self.link.waiting.clear();
    }

    /// What this server sees of everything: each user, and each channel with its members' ranks.
    pub fn view(&mut self) -> (BTreeSet<String>, BTreeMap<String, String>) {
        let state = &self.sim.handler().state;
        state.check();
        let users = state.users().map(|(_, user)| format!("{} {:?}", user.source(), user.away));
        let channels = state.channels().map(|channel| {
            let member = |id: &crate::state::UserId| {
                let nick = &state.user(*id).expect("a member").nick;
                format!("{}{nick}", channel.marks(*id, true))
            };
            let members: BTreeSet<String> = channel.members.keys().map(member).collect();
            let about = format!("{:?} {:?} {members:?}", channel.born, channel.settings.holding());
            (fold(&channel.name), about)
        });
        (users.collect(), channels.collect())
    }
}

/// Servers at one Redis that serves them at once, unless it is told not to.
pub struct Servers(pub Vec<Server>);

impl Servers {
    pub fn start(count: u64) -> Self {
        set_clock(1_000_000_000_000);
        let mut servers = Self((1..=count).map(|number| Server::start(number, number)).collect());
        servers.run(2.0);
        servers
    }

    /// Lets so many seconds pass.
    pub fn run(&mut self, seconds: f64) {
        for _ in 0..(seconds / STEP.as_secs_f64()).ceil() as usize {
            let_pass(STEP);
            for n in 0..self.0.len() {
                self.0[n].sim.run_for(STEP).expect("no violation");
                if self.0[n].link.stalled > 0 {
                    self.0[n].link.stalled -= 1;
                    continue;
                }
                let published = self.0[n].published();
                for receiver in self.0.iter_mut().filter(|server| server.link.subscriber.is_some()) {
                    receiver.link.waiting.extend(published.iter().cloned());
                }
                self.0[n].receive(usize::MAX);
            }
        }
    }

    /// Redis stops serving everybody, until it is told to go on.
    pub fn stall(&mut self, stalled: bool) {
        let steps = if stalled { usize::MAX } else { 0 };
        self.0.iter_mut().for_each(|server| server.link.stalled = steps);
    }

    /// A client of one server, which says this.
    pub fn client(&mut self, server: usize, nick: &str, lines: &str) -> (usize, PeerId) {
        let hello = format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}\r\n");
        let peer = self.0[server].sim.client(IRC, Script::new().send(hello));
        self.0[server].clients.push(peer);
        self.say((server, peer), lines);
        (server, peer)
    }

    /// A client says this, and all is at rest again.
    pub fn say(&mut self, client: (usize, PeerId), lines: &str) {
        let lines: String = lines.split('|').map(|line| format!("{line}\r\n")).collect();
        self.0[client.0].sim.perform(client.1, Script::new().send(lines));
        self.run(0.5);
    }

    pub fn heard(&self, client: (usize, PeerId)) -> String {
        String::from_utf8(self.0[client.0].sim.received(client.1)).expect("UTF-8")
    }

    /// What a server sees of a channel, and whether all see the same of everything.
    pub fn channel(&mut self, server: usize, name: &str) -> String {
        self.0[server].view().1.get(name).cloned().unwrap_or_default()
    }

    pub fn agree(&mut self) {
        let views: Vec<_> = self.0.iter_mut().map(Server::view).collect();
        views.iter().for_each(|view| assert_eq!(*view, views[0]));
    }

    /// Somebody else publishes this.
    pub fn publish(&mut self, text: &str) {
        let message = frame(&[b"message", b"unbroken-chat/2", text.as_bytes()]);
        self.0.iter_mut().for_each(|server| server.link.waiting.push_back(message.clone()));
        self.run(0.5);
    }
}
