//! A simulated network and clock, to test handlers with: every broken pipe on demand, replayed from
//! a seed.
//!
//! The reactor under test is the one that serves real sockets. Below it stands a kernel that keeps
//! the rules of Linux's, with as many [faults](Faults) as asked for; at the other ends stand
//! [peers](Script) that misbehave as told. Nothing sleeps and nothing is shared between two
//! simulations: what happens follows from the seed alone, on every machine.
//!
//! ```
//! use unbroken::sim::{Script, Sim};
//! use unbroken::{Config, ConnId, Handler, Net};
//!
//! struct Echo;
//! impl Handler for Echo {
//!     fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
//!         net.send(conn, data).map_or(0, |_| data.len())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut sim = Sim::new(7, Config::default(), Echo)?;
//! sim.net().listen("10.0.0.1:7")?;
//! let polite = sim.client("10.0.0.1:7", Script::new().send("hello").half_close());
//! let rude = sim.client("10.0.0.1:7", Script::new().send("hel").reset());
//! sim.run()?;
//! assert_eq!(sim.received(polite), b"hello");
//! assert!(sim.report_of(polite).is_some_and(|report| report.reason.is_clean()));
//! assert_eq!(sim.report_of(rude).map(|report| report.reason.name()), Some("reset"));
//! sim.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! After every turn the engine's own promises are checked: what is written is what was sent, what
//! is shown is what the peer sent, reports agree with the kernel's books, nothing is held back
//! without a reason, nothing spins. A promise that is broken is a [`Violation`]: with a handler
//! that keeps to the interface it is a bug of this crate.
//!
//! Only TCP is simulated. Threads are not: a [`Handle`](crate::Handle) works, from the one thread
//! that the simulation runs on.

mod ages;
mod audit;
mod clock;
#[cfg(all(test, target_os = "linux"))]
mod conformance;
mod group;
mod hearing;
mod rest;
mod script;
mod turns;
mod verdicts;
mod victims;
mod violation;
mod watch;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::close::CloseReport;
use crate::config::Config;
use crate::handler::Handler;
use crate::id::ConnId;
#[cfg(feature = "tls")]
use crate::id::ListenerId;
use crate::net::Net;
use crate::reactor::{Reactor, Turn};
use crate::simnet::{Kernel, Knock, Name, PeerState, MICRO};

use turns::Turns;
use watch::Watch;

pub use clock::Clock;
pub use violation::Violation;

pub use group::GroupSim;

pub use crate::simnet::{End, Faults, Reading, Remote, Script};

/// Names a peer of a simulation. Remote servers get theirs as connections reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(usize);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// Virtual time that [`Sim::run`] lets pass at most.
const LONGEST_RUN: Duration = Duration::from_secs(3600);

/// A turn that took no longer did not wait for anything.
const LONGEST_IDLE_TURN: u64 = 200 * MICRO;
/// So many in a row in which nothing was done are no accident: only interrupted calls excuse one.
const MOST_IDLE_TURNS: u32 = 12;

/// A reactor with a handler under test, on a simulated kernel, among simulated peers.
pub struct Sim<H> {
    seed: u64,
    kernel: Kernel,
    reactor: Reactor,
    watch: Watch<H>,
    turns: Turns,
    clients: usize,
    /// Turns in a row in which nothing happened and no time passed.
    idle_turns: u32,
}

impl<H> fmt::Debug for Sim<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed)
            .field("now", &self.now())
            .field("reactor", &self.reactor)
            .finish_non_exhaustive()
    }
}

impl<H> Sim<H> {
    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.kernel.world().now)
    }

    /// The clock, for a handler that lets time pass.
    pub fn clock(&self) -> Clock {
        Clock(self.kernel.clone())
    }

    /// The handler under test.
    pub fn handler(&mut self) -> &mut H {
        &mut self.watch.inner
    }

    /// The net, to listen, connect and send with from outside the handler.
    pub fn net(&mut self) -> &mut Net {
        self.reactor.net()
    }

    fn peer<R>(&self, peer: PeerId, look: impl FnOnce(&PeerState) -> R) -> Option<R> {
        self.kernel.world().peers.get(peer.0).map(look)
    }

    /// What a peer has read so far.
    pub fn received(&self, peer: PeerId) -> Vec<u8> {
        self.peer(peer, |peer| peer.received.clone()).unwrap_or_default()
    }

    /// What a peer has handed to its kernel so far.
    pub fn sent(&self, peer: PeerId) -> Vec<u8> {
        self.peer(peer, |peer| peer.sent.clone()).unwrap_or_default()
    }

    /// How the stream ended that a peer reads, if it has.
    pub fn end(&self, peer: PeerId) -> Option<End> {
        self.peer(peer, |peer| peer.end).flatten()
    }

    /// The reports in the order they came.
    pub fn reports(&self) -> &[(ConnId, CloseReport)] {
        &self.watch.reports
    }

    /// The report on the connection with a peer, once it has ended.
    pub fn report_of(&self, peer: PeerId) -> Option<&CloseReport> {
        let conn = self.watch.conn_of(peer.0)?;
        self.watch.reports.iter().find(|(id, _)| *id == conn).map(|(_, report)| report)
    }

    /// The connections that are open, and their peers.
    pub fn peers(&self) -> Vec<PeerId> {
        (0..self.kernel.world().peers.len()).map(PeerId).collect()
    }

    /// Keeps a trace from here on, which a [`Violation`] then shows.
    pub fn record(&mut self) {
        self.kernel.world().trace.get_or_insert_with(Vec::new);
    }

    /// The trace so far: a line for each thing that happened.
    pub fn trace(&self) -> Vec<String> {
        self.kernel.world().trace.clone().unwrap_or_default()
    }

    /// A client that connects to a listener at once and does what `script` says.
    ///
    /// # Panics
    ///
    /// When `server` is no address.
    pub fn client(&mut self, server: &str, script: Script) -> PeerId {
        self.client_after(Duration::ZERO, server, script)
    }

    /// A client that connects when `wait` has passed, whatever the reactor is doing then.
    ///
    /// # Panics
    ///
    /// When `server` is no address.
    pub fn client_after(&mut self, wait: Duration, server: &str, script: Script) -> PeerId {
        let server = parse(server);
        let mut world = self.kernel.world();
        let peer = world.peers.len();
        self.clients += 1;
        let port = 1024 + (self.clients % 60_000) as u16;
        let addr = SocketAddr::from(([10, 1, (self.clients / 60_000) as u8, 1], port));
        world.peers.push(PeerState::new(addr, Some(server), script));
        let at = world.now + world.latency() + nanos(wait);
        world.schedule_knock(Knock::Peer(peer), at);
        PeerId(peer)
    }

    /// Two pipes, one each way, as a connection ([`Net::pipe`]), with a peer at their other ends. What a script
    /// does that pipes cannot do, resets and networks among it, is a close, or nothing.
    ///
    /// # Errors
    ///
    /// As [`Net::pipe`].
    pub fn pipe(&mut self, script: Script) -> io::Result<(ConnId, PeerId)> {
        let (stream, peer) = self.kernel.pipe(script);
        Ok((self.reactor.net().add_simulated_pipe(stream)?, PeerId(peer)))
    }

    /// Has a peer do more, behind what its script says.
    pub fn perform(&mut self, peer: PeerId, script: Script) {
        let mut world = self.kernel.world();
        if let Some(state) = world.peers.get_mut(peer.0) {
            state.script.steps.extend(script.steps);
            let at = world.now + MICRO * 2;
            world.schedule_peer(peer.0, at);
        }
    }

    /// Puts something at an address that the handler may connect to. Where nothing was put,
    /// connections are refused.
    ///
    /// # Panics
    ///
    /// When `addr` is no address.
    pub fn remote(&mut self, addr: &str, remote: Remote) {
        self.kernel.world().remotes.insert(parse(addr), remote);
    }

    /// Gives a host a name: a lookup of it finds these addresses, `after` so long. A name that was not
    /// given is not known.
    ///
    /// # Panics
    ///
    /// When one of `addrs` is no IP address.
    pub fn name<'a>(&mut self, name: &str, addrs: impl IntoIterator<Item = &'a str>, after: Duration) {
        let addrs = addrs.into_iter().map(parse_ip).collect();
        self.set_name(name, Ok(addrs), Some(after));
    }

    /// A lookup of this name fails, `after` so long, with these words.
    pub fn no_name(&mut self, name: &str, error: &str, after: Duration) {
        self.set_name(name, Err(error.to_owned()), Some(after));
    }

    /// A lookup of this name hangs: it is never answered.
    pub fn silent_name(&mut self, name: &str) {
        self.set_name(name, Ok(Vec::new()), None);
    }

    fn set_name(&mut self, name: &str, addrs: Result<Vec<IpAddr>, String>, after: Option<Duration>) {
        let after = after.map(|after| u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
        self.kernel.world().names.insert(name.to_owned(), Name { addrs, after });
    }

    /// The kernel's buffers of each socket hold from `least` to `most` bytes, each direction by
    /// itself, for those that are made from here on. 32 to 128 KiB.
    pub fn buffers(&mut self, least: usize, most: usize) {
        self.kernel.world().rooms = (least.max(1), most.max(least).max(1));
    }

    /// Has the clients that a listener accepts from here on speak the simulator's own session, as
    /// [`Script::secure`] has them do. A connection to a [`Remote`] does so by
    /// [`start_tls`](Net::start_tls) with [`Tls::SimClient`](crate::Tls::SimClient).
    #[cfg(feature = "tls")]
    pub fn secure(&mut self, listener: ListenerId) {
        self.reactor.net().secure_listener(listener, crate::Tls::SimServer);
    }

    fn violation(&self, what: String) -> Violation {
        Violation { seed: self.seed, what, trace: self.trace() }
    }
}

/// The address in a test's own text.
#[allow(clippy::panic)]
fn parse(addr: &str) -> SocketAddr {
    addr.parse().unwrap_or_else(|_| panic!("{addr:?} is no address such as 10.0.0.1:7"))
}

/// Likewise; an IPv6 address may stand in brackets.
#[allow(clippy::panic)]
fn parse_ip(addr: &str) -> IpAddr {
    let bare = addr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(addr);
    bare.parse().unwrap_or_else(|_| panic!("{addr:?} is no IP address such as 10.0.0.1 or [fd00::1]"))
}

impl<H: Handler> Sim<H> {
    /// A simulation without faults.
    ///
    /// # Errors
    ///
    /// As [`Reactor::new`].
    pub fn new(seed: u64, config: Config, handler: H) -> io::Result<Self> {
        Self::with_faults(seed, Faults::none(), config, handler)
    }

    /// A simulation whose kernel makes these faults.
    ///
    /// # Errors
    ///
    /// As [`Reactor::new`].
    pub fn with_faults(seed: u64, faults: Faults, config: Config, handler: H) -> io::Result<Self> {
        let kernel = Kernel::new(seed, faults);
        let reactor = Reactor::simulated(config, kernel.clone())?;
        Ok(Self {
            seed,
            watch: Watch::new(handler, kernel.clone()),
            kernel,
            reactor,
            turns: Turns::default(),
            clients: 0,
            idle_turns: 0,
        })
    }

    /// Has the reactor miss its turns for a while: the world goes on, and everything that happens
    /// in it waits to be seen at once.
    pub fn freeze(&mut self, time: Duration) {
        self.note_due();
        let world = &mut *self.kernel.world();
        let from = world.now;
        world.pass(nanos(time));
        world.witness.was_away_outside(from, world.now);
    }

    /// Writes down when the reactor has something to do: by being late for it, it knows that it was away.
    fn note_due(&self) {
        let due = self.reactor.next_timeout();
        let world = &mut *self.kernel.world();
        world.witness.due = due.map(|due| world.now.saturating_add(nanos(due)));
    }

    /// One turn of the reactor, which waits for `timeout` of virtual time at most.
    ///
    /// # Errors
    ///
    /// A promise that was broken in it.
    pub fn turn(&mut self, timeout: Duration) -> Result<Turn, Violation> {
        self.note_due();
        let before = {
            let mut world = self.kernel.world();
            let pause = world.faults.pause;
            world.witness.polled = false;
            world.stop_outside(pause);
            world.work = Default::default();
            (world.witness.in_turn, world.witness.fired) = (true, 0);
            world.now
        };
        self.watch.callbacks = 0;
        self.watch.overtime = Default::default();
        let turn = self.reactor.turn(&mut self.watch, Some(timeout));
        self.kernel.world().witness.in_turn = false;
        let turn = turn.map_err(|error| self.violation(format!("the poll failed: {error}")))?;
        let worked = {
            let world = self.kernel.world();
            let work = &world.work;
            let moved: usize = work.socks.values().map(|sock| sock.read + sock.written).sum();
            let done = work.events + work.accepts + work.sockets + moved + self.watch.callbacks;
            done > 0 || world.now > before + LONGEST_IDLE_TURN
        };
        self.idle_turns =
            if worked || timeout.is_zero() || turn == Turn::Stopped { 0 } else { self.idle_turns + 1 };
        if self.idle_turns > MOST_IDLE_TURNS {
            let what = "the reactor spins: it turns again and again with nothing to do".to_owned();
            return Err(self.violation(what));
        }
        let refused = std::mem::take(&mut self.kernel.world().witness.refusals);
        let net = self.reactor.net();
        let mut checked = self.turns.check(net, &self.kernel, &self.watch.overtime);
        for (at, holders) in refused {
            let idle = victims::nobody_idle(at, &holders, &self.kernel.world().witness);
            checked = checked.and(idle.map_err(|what| format!("a send is refused for want of room, {what}")));
        }
        let accused = self.kernel.world().violation.take();
        match accused.map_or(checked, Err) {
            Ok(()) => Ok(turn),
            Err(what) => Err(self.violation(what)),
        }
    }

    /// Lets virtual time pass.
    ///
    /// # Errors
    ///
    /// The first promise that is broken.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        let until = self.now() + time;
        while self.now() < until {
            let left = until - self.now();
            if self.is_quiet(Some(left))? {
                self.kernel.world().now = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            } else if self.turn(left)? == Turn::Stopped {
                break;
            }
        }
        Ok(())
    }

    /// Runs until nothing is left to happen: no packet under way, no peer with anything to do, no
    /// deadline to come; after an hour of virtual time in any case.
    ///
    /// # Errors
    ///
    /// The first promise that is broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        let until = self.now() + LONGEST_RUN;
        while self.now() < until && !self.is_quiet(None)? {
            let left = until.saturating_sub(self.now());
            if self.turn(left)? == Turn::Stopped {
                break;
            }
        }
        Ok(())
    }

    /// Whether nothing happens for `time`, or ever. Whenever the world is quiet, everything that
    /// is still open must be idle for a reason.
    fn is_quiet(&mut self, time: Option<Duration>) -> Result<bool, Violation> {
        let resting = self.kernel.world().is_resting();
        let due = self.reactor.next_timeout();
        if !resting || due == Some(Duration::ZERO) {
            return Ok(false);
        }
        if let Err(what) = rest::check(self.reactor.net(), &self.kernel, &self.watch.books) {
            return Err(self.violation(what));
        }
        Ok(match (due, time) {
            (None, _) => true,
            (Some(due), Some(time)) => due > time,
            (Some(_), None) => false,
        })
    }

    /// Shuts the reactor down with a deadline of a minute, lets it finish, and checks that nothing
    /// is left over. Returns the handler and all reports.
    ///
    /// # Errors
    ///
    /// The first promise that is broken.
    pub fn finish(mut self) -> Result<(H, Vec<(ConnId, CloseReport)>), Violation> {
        self.reactor.net().shutdown(Duration::from_secs(60));
        let until = self.now() + LONGEST_RUN;
        while self.turn(Duration::from_secs(1))? == Turn::Running {
            if self.now() >= until {
                let what = "the shutdown does not end".to_owned();
                return Err(self.violation(what));
            }
        }
        let ended = audit::at_end(self.reactor.net(), &self.watch, &self.kernel.world());
        if let Err(what) = ended {
            return Err(self.violation(what));
        }
        // What the kernel still has to deliver arrives, or not.
        let mut world = self.kernel.world();
        while let Some(at) = world.next_event().filter(|at| *at < until.as_nanos() as u64) {
            world.now = world.now.max(at);
            world.settle();
        }
        let broken = self.watch.undelivered(&world);
        drop(world);
        match broken {
            Some(what) => Err(self.violation(what)),
            None => Ok((self.watch.inner, self.watch.reports)),
        }
    }
}
