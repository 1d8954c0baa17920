//! A group of reactors as one world: threads become turns, and the seed draws whose turn is next.
//!
//! What is checked is what concerns the whole; that each reactor keeps its promises is what
//! [`Sim`](super::Sim) is for.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;

use super::{nanos, parse, PeerId, Violation, LONGEST_RUN};
use crate::close::CloseReport;
use crate::config::Config;
use crate::connection::Via;
use crate::group::{Group, GroupHandle, Peers};
use crate::handler::Handler;
use crate::id::{ChildId, ConnId, ListenerId, TimerId, WatchId};
use crate::net::{Net, Ready};
use crate::reactor::Turn;
use crate::simnet::{self, Faults, Kernel, Knock, PeerState, Rng, Script, MICRO};
use crate::socket::Stream;

/// What is known of a client that came to the group.
#[derive(Debug, Default)]
struct Served {
    /// By which reactor, as which connection.
    by: Option<(usize, ConnId)>,
    /// Bytes of its stream that the handler was shown.
    used: usize,
    report: Option<CloseReport>,
}

/// Passes every callback on, and notes whom it is for.
struct Seat<H> {
    index: usize,
    inner: H,
    kernel: Kernel,
    served: BTreeMap<usize, Served>,
    conns: BTreeMap<ConnId, usize>,
}

impl<H> Seat<H> {
    fn peer(&mut self, net: &Net, conn: ConnId) -> Option<usize> {
        if let Some(peer) = self.conns.get(&conn) {
            return Some(*peer);
        }
        let Stream::Sim(stream) = &net.conns.get(conn)?.stream else { return None };
        let peer = self.kernel.world().socks.get(&stream.sock)?.peer?;
        self.conns.insert(conn, peer);
        Some(peer)
    }
}

impl<H: Handler> Handler for Seat<H> {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        if let (Some(peer), Via::Listener(_)) = (self.peer(net, conn), via) {
            let served = self.served.entry(peer).or_default();
            if let Some((reactor, other)) = served.by.replace((self.index, conn)) {
                let index = self.index;
                self.kernel.world().accuse(|| {
                    format!("peer {peer} is {conn} of reactor {index}, and was {other} of reactor {reactor}")
                });
            }
        }
        self.inner.on_open(net, conn, via);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let peer = self.peer(net, conn);
        if let Some(peer) = peer {
            let used = self.served.get(&peer).map_or(0, |served| served.used);
            let world = &mut *self.kernel.world();
            let sent = world.peers.get(peer).and_then(|state| state.sent.get(used..used + data.len()));
            if sent != Some(data) {
                world.accuse(|| {
                    format!("{conn}: what is shown at offset {used} is not what peer {peer} sent")
                });
            }
        }
        let used = self.inner.on_data(net, conn, data);
        if let Some(served) = peer.and_then(|peer| self.served.get_mut(&peer)) {
            served.used += used.min(data.len());
        }
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.inner.on_eof(net, conn);
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.inner.on_drain(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        self.inner.on_timer(net, timer);
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        self.inner.on_deadline(net, conn);
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.inner.on_shutdown(net);
    }

    fn on_message(&mut self, net: &mut Net, from: Option<usize>, message: Bytes) {
        self.inner.on_message(net, from, message);
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.inner.on_wake(net);
    }

    fn on_refused(&mut self, net: &mut Net, conn: ConnId, data: Bytes) {
        self.inner.on_refused(net, conn, data);
    }

    fn on_listener_error(&mut self, net: &mut Net, listener: ListenerId, error: &io::Error) {
        self.inner.on_listener_error(net, listener, error);
    }

    fn on_exit(&mut self, net: &mut Net, child: ChildId, status: ExitStatus) {
        self.inner.on_exit(net, child, status);
    }

    fn on_ready(&mut self, net: &mut Net, watch: WatchId, ready: Ready) {
        self.inner.on_ready(net, watch, ready);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if let Some(peer) = self.peer(net, conn) {
            let served = self.served.entry(peer).or_default();
            if served.report.replace(report.clone()).is_some() {
                self.kernel.world().accuse(|| format!("{conn}: on_close of peer {peer} came twice"));
            }
        }
        self.conns.remove(&conn);
        self.inner.on_close(net, conn, report);
    }
}

/// A [`Group`] whose reactors take turns in one simulated world, in an order that the seed draws. Nothing is
/// asynchronous, so that hand-outs, messages and shutdowns fall together in every way that threads could
/// have them, and each way can be replayed.
pub struct GroupSim<H> {
    seed: u64,
    kernel: Kernel,
    group: Group,
    seats: Vec<Seat<H>>,
    order: Rng,
    stopped: Vec<bool>,
    clients: usize,
    /// Nobody has left so far: the hand-outs alone make the picture.
    only_comers: bool,
}

impl<H> std::fmt::Debug for GroupSim<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupSim")
            .field("seed", &self.seed)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl<H: Handler> GroupSim<H> {
    /// A world with a group of so many reactors. `make` makes the handler of each.
    ///
    /// # Errors
    ///
    /// As [`Group::new`].
    pub fn new(
        seed: u64,
        faults: Faults,
        config: Config,
        reactors: usize,
        make: impl FnMut(Peers) -> H,
    ) -> io::Result<Self> {
        let kernel = Kernel::new(seed, faults);
        let mut group = Group::simulated(config, reactors, &kernel)?;
        let (_, peers) = group.parts();
        let seats = peers.into_iter().map(make).enumerate().map(|(index, inner)| Seat {
            index,
            inner,
            kernel: kernel.clone(),
            served: BTreeMap::new(),
            conns: BTreeMap::new(),
        });
        Ok(Self {
            seed,
            seats: seats.collect(),
            kernel,
            group,
            order: Rng::new(seed, u64::from_be_bytes(*b"...order")),
            stopped: vec![false; reactors],
            clients: 0,
            only_comers: true,
        })
    }

    /// The group, to listen with before it runs.
    pub fn group(&mut self) -> &mut Group {
        &mut self.group
    }

    /// Reaches the group.
    pub fn handle(&self) -> GroupHandle {
        self.group.handle()
    }

    /// The handler of one reactor.
    pub fn handler(&mut self, reactor: usize) -> Option<&mut H> {
        Some(&mut self.seats.get_mut(reactor)?.inner)
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.kernel.world().now)
    }

    /// A client that connects when `wait` has passed and does what `script` says.
    ///
    /// # Panics
    ///
    /// When `server` is no address.
    pub fn client_after(&mut self, wait: Duration, server: &str, script: Script) -> PeerId {
        let server = parse(server);
        let mut world = self.kernel.world();
        let peer = world.peers.len();
        self.clients += 1;
        let addr = SocketAddr::from((
            [10, 1, (self.clients / 60_000) as u8, 1],
            1024 + (self.clients % 60_000) as u16,
        ));
        world.peers.push(PeerState::new(addr, Some(server), script));
        let at = world.now + world.latency() + nanos(wait);
        world.schedule_knock(Knock::Peer(peer), at);
        PeerId(peer)
    }

    /// What a peer has read so far.
    pub fn received(&self, peer: PeerId) -> Vec<u8> {
        self.kernel.world().peers.get(peer.0).map(|peer| peer.received.clone()).unwrap_or_default()
    }

    /// Which reactor served a client, if any did.
    pub fn reactor_of(&self, peer: PeerId) -> Option<usize> {
        self.seats.iter().find_map(|seat| Some(seat.served.get(&peer.0)?.by?.0))
    }

    /// The report on the connection with a peer, once it has ended.
    pub fn report_of(&self, peer: PeerId) -> Option<&CloseReport> {
        self.seats.iter().find_map(|seat| seat.served.get(&peer.0)?.report.as_ref())
    }

    /// Lets virtual time pass, until all reactors have stopped at the most.
    ///
    /// # Errors
    ///
    /// The first promise that is broken.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        let until = self.now() + time;
        while self.now() < until && self.stopped.contains(&false) {
            // Each of them several times, in any order: a burst of one, none of another.
            for _ in 0..2 * self.seats.len() {
                let reactor = self.order.below(self.seats.len());
                self.turn(reactor)?;
            }
            self.skip(until);
        }
        Ok(())
    }

    fn turn(&mut self, index: usize) -> Result<(), Violation> {
        self.kernel.world().work = Default::default();
        let (reactors, _) = self.group.parts();
        let (Some(reactor), Some(seat)) = (reactors.get_mut(index), self.seats.get_mut(index)) else {
            return Ok(());
        };
        if self.stopped.get(index) == Some(&true) {
            return Ok(());
        }
        let turn = reactor.turn(seat, Some(Duration::ZERO));
        match turn {
            Ok(Turn::Running) => {}
            Ok(Turn::Stopped) => {
                if let Some(stopped) = self.stopped.get_mut(index) {
                    *stopped = true;
                }
            }
            Err(error) => return Err(self.violation(format!("the poll failed: {error}"))),
        }
        self.check()
    }

    /// Nothing is to be done at this moment: the world goes on to the next.
    fn skip(&mut self, until: Duration) {
        let mut world = self.kernel.world();
        world.witness.refusals.clear();
        // Nobody looks at what woke one that has stopped.
        let stopped = &self.stopped;
        world.woken.retain(|reactor| stopped.get(*reactor) == Some(&false));
        let turns = |sock: &simnet::Sock| stopped.get(sock.engine) == Some(&false);
        let lives = |ready: &simnet::Ready| match ready {
            simnet::Ready::Sock(id) => world.socks.get(id).is_none_or(turns),
            simnet::Ready::Again(id) => {
                world.socks.get(id).is_some_and(|sock| sock.is_told_again() && turns(sock))
            }
            simnet::Ready::Listener(_) => true,
        };
        if world.ready.iter().any(lives) || !world.woken.is_empty() {
            return;
        }
        let (next, now) = (world.next_event(), world.now);
        drop(world);
        let (reactors, _) = self.group.parts();
        let due = reactors.iter().zip(&self.stopped).filter(|(_, stopped)| !**stopped);
        let due = due.filter_map(|(reactor, _)| reactor.next_timeout()).min();
        if due == Some(Duration::ZERO) {
            return;
        }
        let due = due.map(|due| now.saturating_add(nanos(due)));
        let next = next.into_iter().chain(due).min().unwrap_or(u64::MAX).min(nanos(until));
        let mut world = self.kernel.world();
        world.now = world.now.max(next).max(now + MICRO);
        world.settle();
    }

    fn check(&mut self) -> Result<(), Violation> {
        if let Some(what) = self.kernel.world().violation.take() {
            return Err(self.violation(what));
        }
        self.only_comers &=
            self.seats.iter().flat_map(|seat| seat.served.values()).all(|it| it.report.is_none());
        let counts = self.handle().connections();
        let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
        if self.only_comers && most > least.map(|least| least + 1) && !self.stopped.contains(&true) {
            return Err(self.violation(format!("only hand-outs, and yet {counts:?}")));
        }
        Ok(())
    }

    /// Shuts the group down with a deadline of a minute, lets it finish, and checks that nobody was lost: each
    /// client that was accepted had one reactor and one report, and none was left in a queue.
    ///
    /// # Errors
    ///
    /// The first promise that is broken.
    pub fn finish(&mut self) -> Result<(), Violation> {
        // It may have been shut down already.
        let _ = self.handle().shutdown(Duration::from_secs(60));
        self.run_for(LONGEST_RUN)?;
        if self.stopped.contains(&false) {
            return Err(self.violation("the shutdown does not end".to_owned()));
        }
        let counts = self.handle().connections();
        if counts.iter().any(|count| *count > 0) {
            return Err(self.violation(format!("all is over, and these are counted: {counts:?}")));
        }
        for seat in &self.seats {
            let lost = seat.served.iter().find(|(_, served)| served.report.is_none());
            if let Some((peer, served)) = lost {
                return Err(
                    self.violation(format!("peer {peer} was served by {:?} and has no report", served.by))
                );
            }
        }
        let (reactors, _) = self.group.parts();
        let stats = reactors.iter().map(|reactor| reactor.net_ref().stats());
        let (accepted, closed) = stats
            .fold((0, 0), |(accepted, closed), stats| (accepted + stats.accepted, closed + stats.closed));
        let abandoned = self.kernel.world().witness.abandoned;
        if accepted != closed || abandoned > 0 {
            let what = format!("{accepted} were accepted, {closed} reported, {abandoned} left in a queue");
            return Err(self.violation(what));
        }
        Ok(())
    }

    fn violation(&self, what: String) -> Violation {
        Violation { seed: self.seed, what, trace: self.kernel.world().trace.clone().unwrap_or_default() }
    }
}
