//! Deadlines, watched from outside: how long each connection has been as it is, by the simulated
//! kernel's books, and whether the engine should have ended it by now. That nobody is ended too early is
//! looked after in `verdicts`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::nanos;
use crate::config::Config;
use crate::connection::{Connection, State};
use crate::id::ConnId;
use crate::net::{Entry, Net, Stopping};
use crate::simnet::{Phase, Sock, World, MILLI};
use crate::socket::Stream;

/// How long something may be so.
#[derive(Clone, Copy)]
struct Clock {
    now: u64,
    /// When the reactor last came back from somewhere: the time away does not count.
    back: u64,
}

impl Clock {
    fn within(self, what: &str, since: Option<u64>, limit: Option<Duration>) -> Result<(), String> {
        let (Some(since), Some(limit)) = (since, limit) else { return Ok(()) };
        let age = Duration::from_nanos(self.now.saturating_sub(since));
        let most = limit + Duration::from_nanos(self.back.saturating_sub(since));
        match age > most + Duration::from_millis(1) {
            true => Err(format!("{what} for {age:?}, although {most:?} are the most")),
            false => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct Age {
    /// How it stood at the last look, and since when.
    stands: Option<(State, bool)>,
    changed: u64,
    /// When input was last seen to wait because of a pause.
    held: u64,
    /// Since when bytes have been under way that are to be acknowledged.
    waits: Option<u64>,
    /// Turns in a row at whose end a deadline was overdue, and when the first of them ended.
    overdue: Option<(u32, u64)>,
}

/// A handler that panics cuts a turn short, and so does a slice that is spent.
const TURNS_OVERDUE: u32 = 8;
const LONGEST_OVERDUE: u64 = 5 * MILLI;

/// The age of every connection.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<ConnId, Age>);

impl Ages {
    /// Looks at everybody after a turn. By then whatever was due must have been done.
    pub(super) fn check(&mut self, net: &Net, world: &World) -> Result<(), String> {
        self.0.retain(|conn, _| net.conns.get(*conn).is_some());
        let clock = Clock { now: world.now, back: world.witness.back };
        let draining = net.stopping == Stopping::Draining;
        for (conn, Entry { conn: state, stream }) in net.conns.iter() {
            let Stream::Sim(below) = stream.bottom() else { continue };
            let Some(sock) = world.socks.get(&below.sock).filter(|sock| !sock.sealed && sock.pipe.is_none())
            else {
                continue;
            };
            let age = self.0.entry(conn).or_default();
            match age.check(state, sock, &net.config_of(conn), clock, draining, net.stats().overflows) {
                Ok(()) => age.overdue = None,
                Err(what) => {
                    let (turns, since) = age.overdue.unwrap_or((0, world.now));
                    let late = world.now - since.max(clock.back).min(world.now);
                    if turns >= TURNS_OVERDUE && late >= LONGEST_OVERDUE {
                        return Err(format!("{conn}: {what}"));
                    }
                    age.overdue = Some((turns + 1, since));
                }
            }
        }
        Ok(())
    }
}

/// How soon the last acknowledgement is looked for.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// Acknowledgements are looked for eight times in a span.
fn grid(limit: Option<Duration>) -> Option<Duration> {
    limit.map(|limit| limit + limit / 8)
}

impl Age {
    fn check(
        &mut self,
        conn: &Connection,
        sock: &Sock,
        config: &Config,
        clock: Clock,
        draining: bool,
        overflows: u64,
    ) -> Result<(), String> {
        let (now, state, times) = (clock.now, conn.state(), &sock.times);
        // An error, and its being told, are something that came or went.
        let told = sock.phase == Phase::Closed && sock.error.is_none();
        if self.stands.replace((state, told)) != Some((state, told)) {
            self.changed = now;
        }
        if state == State::Connecting {
            return clock.within("connecting", Some(times.made), Some(config.connect_timeout));
        }
        if state == State::Handshaking {
            return clock.within("shaking hands", Some(self.changed), Some(config.handshake_timeout));
        }
        if conn.is_delivering() {
            self.silence(conn, sock, config, clock)?;
        }
        self.stall(conn, sock, config, clock)?;
        let all = sock.arrived() == sock.promised.len() as u64 && sock.shut;
        if conn.is_closing() && all && !draining {
            // An absence may hide from it that the last acknowledgement came.
            let since = times.ack.max(times.shut).max(times.closing).max(clock.back);
            clock.within("lingering", Some(since), grid(Some(config.linger_total + FIRST_LOOK)))?;
        }
        let soft = config.soft_limit.filter(|soft| conn.is_delivering() && conn.queued() >= soft.bytes);
        if let Some(soft) = soft {
            clock.within("above the soft limit", times.soft, Some(soft.duration))?;
        }
        let last = times.read.max(times.written).max(times.data).max(times.ack);
        let most = most_looks(config, now.saturating_sub(last)) + 4 * overflows;
        match sock.looks > most {
            true => Err(format!("{} looks for an acknowledgement, {most} are enough", sock.looks)),
            false => Ok(()),
        }
    }

    /// Nothing came or went.
    fn silence(
        &mut self,
        conn: &Connection,
        sock: &Sock,
        config: &Config,
        clock: Clock,
    ) -> Result<(), String> {
        let times = &sock.times;
        // A session may hold some of it.
        if sock.paused && (!sock.input.is_empty() || sock.toy.is_some()) {
            self.held = clock.now;
        }
        let moved = [times.data, times.read, times.written, times.ack, self.changed, self.held];
        let last = moved.into_iter().max();
        clock.within("silent", last, grid(config.idle_timeout))?;
        let half = conn.state() != State::Open;
        clock.within("half closed and silent", last.filter(|_| half), grid(config.half_close_timeout))
    }

    /// Bytes are queued or under way, and none were acknowledged.
    fn stall(&mut self, conn: &Connection, sock: &Sock, config: &Config, clock: Clock) -> Result<(), String> {
        let waits = match conn.is_closing() {
            true => conn.queued() > 0 || sock.arrived() < sock.handed(),
            false => conn.is_delivering() && conn.queued() > 0 && !conn.may_flush(),
        };
        let restarts = sock.times.ack.max(sock.times.queue).max(self.changed);
        self.waits = waits.then(|| self.waits.unwrap_or(clock.now).max(restarts));
        let patience = match conn.is_closing() {
            true => config.write_stall.or(config.half_close_timeout),
            false => config.write_stall,
        };
        clock.within("stalled", self.waits, grid(patience))
    }
}

/// How often the engine may look for the acknowledgements of one connection: often at first, then ever
/// more rarely, and a few times in the span of each timeout.
fn most_looks(config: &Config, age: u64) -> u64 {
    let spans = [config.idle_timeout, config.half_close_timeout, config.write_stall];
    let grids = spans.into_iter().flatten().map(|span| age / (nanos(span) / 8).max(MILLI));
    100 + age / (1_000 * MILLI) + 3 * grids.sum::<u64>()
}
