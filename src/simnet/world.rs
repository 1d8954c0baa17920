//! The simulated network: packets, their arrival in order, and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use super::faults::Faults;
use super::names::{Lookup, Name};
use super::peer::{PeerState, Remote};
use super::rng::Rng;
use super::socket::{Phase, Side, Sock, SockId};
use super::witness::Witness;

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Data(Vec<u8>),
    Fin,
    /// Acknowledges so many bytes.
    Ack(usize),
    FinAck,
    /// The reader made room.
    Window,
    Reset,
    /// The answer to a connect.
    Established,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// From one socket to the other.
    Packet(SockId, SockId, Packet),
    /// A peer has something to do.
    Peer(usize),
    /// A connect, of a peer or of ours, reaches the other side.
    Knock(Knock),
    /// An event that was held back, or one that nothing called for.
    Event(SockId),
    ListenerEvent(usize),
    /// Looks whether the other end is dead.
    Watch(SockId),
    DescriptorLimit(Option<usize>),
    /// A lookup is done.
    Resolved(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knock {
    Peer(usize),
    Engine(SockId, SocketAddr),
}

#[derive(Debug, PartialEq, Eq)]
struct Event {
    at: u64,
    sequence: u64,
    what: What,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) addr: SocketAddr,
    pub(crate) backlog: usize,
    pub(crate) queue: VecDeque<SockId>,
    pub(crate) token: Option<usize>,
    pub(crate) listed: bool,
    /// When an accept last found nobody.
    pub(crate) empty_at: Option<u64>,
    /// What accepted sockets inherit.
    pub(crate) keepalive: Option<u64>,
    pub(crate) user_timeout: Option<u64>,
}

/// What stands on the poll's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Sock(SockId),
    /// A pipe whose input was told of before.
    Again(SockId),
    Listener(usize),
}

/// What the calls for one socket came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SockWork {
    pub(crate) read: usize,
    pub(crate) written: usize,
    /// Calls that found nothing to do.
    pub(crate) would_block: usize,
}

/// What the calls of one turn came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    /// System calls other than the poll.
    pub(crate) calls: usize,
    pub(crate) accepts: usize,
    /// What each socket was used for.
    pub(crate) socks: BTreeMap<SockId, SockWork>,
    /// Events that the poll gave.
    pub(crate) events: usize,
    /// Sockets made or closed.
    pub(crate) sockets: usize,
}

pub(crate) const MICRO: u64 = 1_000;
pub(crate) const MILLI: u64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct World {
    /// Nanoseconds since the beginning.
    pub(crate) now: u64,
    sequence: u64,
    wire: BinaryHeap<Reverse<Event>>,
    pub(crate) socks: BTreeMap<SockId, Sock>,
    next_sock: SockId,
    pub(crate) peers: Vec<PeerState>,
    pub(crate) listeners: BTreeMap<usize, ListenerState>,
    pub(crate) remotes: BTreeMap<SocketAddr, Remote>,
    pub(crate) names: BTreeMap<String, Name>,
    /// Lookups under way, those that are done, and those that never will be.
    pub(super) lookups: BTreeMap<u64, Lookup>,
    pub(super) next_lookup: u64,
    pub(super) answers: Vec<Lookup>,
    pub(super) hanging: Vec<Lookup>,
    /// Packets of peers that are off the network.
    pub(super) held: Vec<(SockId, SockId, Packet)>,
    pub(crate) ready: VecDeque<Ready>,
    /// Which reactors were woken.
    pub(crate) woken: BTreeSet<usize>,

    pub(crate) faults: Faults,
    /// Dice of the network, of the kernel's faults.
    pub(crate) weather: Rng,
    pub(crate) dice: Rng,
    /// Buffers of each end: least and most.
    pub(crate) rooms: (usize, usize),

    pub(crate) descriptors: usize,
    pub(crate) descriptor_limit: Option<usize>,
    /// Tokens of sockets that are gone.
    pub(crate) gone: Vec<usize>,

    pub(crate) work: Work,
    pub(crate) witness: Witness,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            now: MILLI,
            sequence: 0,
            wire: BinaryHeap::new(),
            socks: BTreeMap::new(),
            next_sock: 1,
            peers: Vec::new(),
            listeners: BTreeMap::new(),
            remotes: BTreeMap::new(),
            names: BTreeMap::new(),
            lookups: BTreeMap::new(),
            next_lookup: 0,
            answers: Vec::new(),
            hanging: Vec::new(),
            held: Vec::new(),
            ready: VecDeque::new(),
            woken: BTreeSet::new(),
            faults,
            weather: Rng::new(seed, u64::from_be_bytes(*b".weather")),
            dice: Rng::new(seed, u64::from_be_bytes(*b"...fault")),
            rooms: (32 << 10, 128 << 10),
            descriptors: 0,
            descriptor_limit: None,
            gone: Vec::new(),
            work: Work::default(),
            witness: Witness::default(),
            trace: None,
            violation: None,
        }
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>12.6} {}", self.now as f64 / 1e9, line(self));
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    /// The first promise that was broken.
    pub(crate) fn accuse(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// A name of a socket for the trace.
    pub(crate) fn name(&self, id: SockId) -> String {
        let sock = self.socks.get(&id);
        match sock.map(|sock| (sock.side, sock.peer)) {
            Some((Side::Peer(peer), _)) => format!("peer {peer}"),
            Some((Side::Engine, Some(peer))) => format!("server, to peer {peer}"),
            _ => format!("server, socket {id}"),
        }
    }

    pub(super) fn schedule(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.wire.push(Reverse(Event { at, sequence: self.sequence, what }));
    }

    pub(crate) fn schedule_peer(&mut self, peer: usize, at: u64) {
        if let Some(state) = self.peers.get_mut(peer) {
            let soon = at <= self.now + MICRO;
            // Of the steps to be made at once one is enough.
            if soon && std::mem::replace(&mut state.scheduled, true) {
                return;
            }
        }
        self.schedule(at, What::Peer(peer));
    }

    pub(crate) fn schedule_event(&mut self, ready: Ready, at: u64) {
        match ready {
            Ready::Sock(id) | Ready::Again(id) => self.schedule(at, What::Event(id)),
            Ready::Listener(id) => self.schedule(at, What::ListenerEvent(id)),
        }
    }

    pub(crate) fn schedule_knock(&mut self, knock: Knock, at: u64) {
        self.schedule(at, What::Knock(knock));
    }

    pub(crate) fn schedule_descriptor_limit(&mut self, limit: Option<usize>, at: u64) {
        self.schedule(at, What::DescriptorLimit(limit));
    }

    /// When something happens next, if anything does.
    pub(crate) fn next_event(&self) -> Option<u64> {
        self.wire.peek().map(|Reverse(event)| event.at)
    }

    /// Whether nothing is under way: no packet, no event, nobody who is about to do anything.
    pub(crate) fn is_resting(&self) -> bool {
        let tells = |ready: &Ready| match ready {
            Ready::Again(id) => self.socks.get(id).is_some_and(Sock::is_told_again),
            _ => true,
        };
        let quiet = self.answers.is_empty() && self.woken.is_empty();
        quiet && self.wire.is_empty() && !self.ready.iter().any(tells)
    }

    /// Lets happen what is due.
    pub(crate) fn settle(&mut self) {
        while self.next_event().is_some_and(|at| at <= self.now) {
            let Some(Reverse(event)) = self.wire.pop() else { return };
            match event.what {
                What::Packet(from, to, packet) => self.arrive(from, to, packet),
                What::Peer(peer) => self.act(peer),
                What::Knock(knock) => self.knock(knock),
                What::Event(id) => self.list(Ready::Sock(id)),
                What::ListenerEvent(id) => self.list(Ready::Listener(id)),
                What::Watch(id) => self.watch(id),
                What::Resolved(number) => self.resolved(number),
                What::DescriptorLimit(limit) => {
                    self.note(|_| match limit {
                        Some(_) => "file descriptors run out".to_owned(),
                        None => "file descriptors are to be had again".to_owned(),
                    });
                    self.descriptor_limit = limit;
                }
            }
        }
    }

    pub(crate) fn add_sock(&mut self, side: Side, phase: Phase) -> SockId {
        let (least, most) = self.rooms;
        let rooms = (self.weather.between(least, most), self.weather.between(least, most));
        let id = self.next_sock;
        self.next_sock += 1;
        self.socks.insert(id, Sock::new(side, phase, rooms, self.now));
        id
    }

    /// From 20 µs to 2 ms.
    pub(crate) fn latency(&mut self) -> u64 {
        let most = if self.weather.chance(100) { 2_000 } else { 100 };
        self.weather.between(20, most) as u64 * MICRO
    }

    /// Puts a packet from `from` on the wire. What one end sends arrives in order.
    pub(crate) fn transmit(&mut self, from: SockId, packet: Packet) {
        let latency = self.latency();
        let now = self.now;
        let Some(sock) = self.socks.get_mut(&from) else { return };
        let Some(to) = sock.other else { return };
        let at = (now + latency).max(sock.last_arrival);
        sock.last_arrival = at;
        if let (Packet::Data(data), Some(other)) = (&packet, self.socks.get_mut(&to)) {
            other.inbound += data.len();
        }
        self.schedule(at, What::Packet(from, to, packet));
    }

    /// Sends what may be sent: no more than the other end has room for, and the end of the
    /// stream behind the last byte.
    pub(crate) fn pump(&mut self, id: SockId) {
        loop {
            let Some(sock) = self.socks.get(&id) else { return };
            if sock.phase != Phase::Open || sock.fin_out {
                return;
            }
            if sock.output.is_empty() {
                if sock.shut {
                    if let Some(sock) = self.socks.get_mut(&id) {
                        sock.fin_out = true;
                    }
                    self.transmit(id, Packet::Fin);
                }
                return;
            }
            let window = match sock.other.and_then(|other| self.socks.get(&other)) {
                Some(other) => other.window(),
                // Nobody there any more: the reset that answers will tell.
                None => usize::MAX,
            };
            let piece = self.weather.between(1, 16 << 10).min(window);
            let now = self.now;
            let Some(sock) = self.socks.get_mut(&id) else { return };
            if window == 0 {
                return self.start_watch(id);
            }
            let count = piece.min(sock.output.len());
            let data: Vec<u8> = sock.output.drain(..count).collect();
            if sock.flight == 0 {
                sock.progress = now;
            }
            sock.flight += count;
            self.transmit(id, Packet::Data(data));
        }
    }

    /// Tells whoever owns this end that something has changed.
    pub(crate) fn wake(&mut self, id: SockId) {
        match self.socks.get(&id).map(|sock| sock.side) {
            Some(Side::Peer(peer)) => self.schedule_peer(peer, self.now),
            Some(Side::Engine) => self.list(Ready::Sock(id)),
            None => {}
        }
    }

    /// Puts something on the poll's list, once.
    pub(crate) fn list(&mut self, ready: Ready) {
        let listed = match ready {
            Ready::Sock(id) | Ready::Again(id) => match self.socks.get_mut(&id) {
                Some(sock) if sock.token.is_some() => &mut sock.listed,
                _ => return,
            },
            Ready::Listener(id) => match self.listeners.get_mut(&id) {
                Some(listener) if listener.token.is_some() => &mut listener.listed,
                _ => return,
            },
        };
        if !std::mem::replace(listed, true) {
            self.ready.push_back(ready);
        }
    }
}
