//! Deadlines, watched from outside: how long each connection has been as it is, by the simulated
//! kernel's books, and whether the engine should have ended it by now.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::connection::{Connection, State};
use crate::id::ConnId;
use crate::net::{Entry, Net, Stopping};
use crate::settings::Settings;
use crate::simnet::{Phase, Sock, World, MILLI};
use crate::socket::Stream;

/// Since when something has been so, if it is.
#[derive(Clone, Copy, Debug, Default)]
struct Since(Option<u64>);

impl Since {
    fn update(&mut self, holds: bool, now: u64) {
        self.0 = if holds { Some(self.0.unwrap_or(now)) } else { None };
    }

    fn restart(&mut self) {
        self.0 = None;
    }
}

/// How long something may be so.
#[derive(Clone, Copy)]
struct Clock {
    now: u64,
    /// When the reactor last came back from somewhere: the time away does not count.
    back: u64,
}

impl Clock {
    fn within(self, what: &str, since: Since, limit: Option<Duration>) -> Result<(), String> {
        let (Some(since), Some(limit)) = (since.0, limit) else { return Ok(()) };
        let age = Duration::from_nanos(self.now - since);
        let most = if self.back > since { limit * 2 } else { limit };
        match age > most + Duration::from_millis(1) {
            true => Err(format!("{what} for {age:?}, although {most:?} are the most")),
            false => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct Age {
    connecting: Since,
    /// Closing, and the peer has all of our bytes.
    lingering: Since,
    /// Nothing came or went.
    silent: Since,
    /// The same, and one stream has ended.
    half_silent: Since,
    /// Bytes are queued or under way, and none were acknowledged.
    stalled: Since,
    /// The queue stands at the soft limit.
    soft: Since,
    /// Bytes queued and bytes written at the last look.
    queue: (usize, u64),
    /// What the kernel had counted at the last look.
    moved: (u64, u64, u64, Option<State>, bool),
    acked: u64,
    /// Turns in a row at whose end a deadline was overdue.
    overdue: u32,
}

/// A handler that panics cuts a turn short: its timers fire in the next. So does a slice that is spent.
const TURNS_OVERDUE: u32 = 8;

/// The age of every connection.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<ConnId, Age>);

impl Ages {
    /// Looks at everybody after a turn. By then whatever was due must have been done.
    pub(super) fn check(&mut self, net: &Net, world: &World) -> Result<(), String> {
        self.0.retain(|conn, _| net.conns.get(*conn).is_some());
        let clock = Clock { now: world.now, back: world.back };
        for (conn, Entry { conn: state, stream }) in net.conns.iter() {
            let sock = match stream {
                Stream::Sim(stream) => world.socks.get(&stream.sock),
                _ => None,
            };
            let age = self.0.entry(conn).or_default();
            let draining = net.stopping == Stopping::Draining;
            match age.check(state, sock, (net.config(), &net.defaults), clock, draining) {
                Err(what) if age.overdue >= TURNS_OVERDUE => return Err(format!("{conn}: {what}")),
                Err(_) => age.overdue += 1,
                Ok(()) => age.overdue = 0,
            }
        }
        Ok(())
    }
}

impl Age {
    fn check(
        &mut self,
        conn: &Connection,
        sock: Option<&Sock>,
        (config, defaults): (&Config, &Settings),
        clock: Clock,
        draining: bool,
    ) -> Result<(), String> {
        let now = clock.now;
        let state = conn.state();
        self.connecting.update(state == State::Connecting, now);
        clock.within("connecting", self.connecting, Some(config.connect_timeout))?;

        let Some(sock) = sock else { return Ok(()) };
        // The end of a stream and an error are something that came or went.
        let told = sock.phase == Phase::Closed && sock.error.is_none();
        let moved = (sock.read, sock.written, sock.acked, Some(state), told);
        if std::mem::replace(&mut self.moved, moved) != moved {
            self.silent.restart();
            self.half_silent.restart();
        }
        // Who is not read from is not silent while input comes, or waits because of a pause.
        if conn.is_delivering() && !conn.wants_input(defaults) && (sock.data_at > now - MILLI || sock.paused)
        {
            self.silent.restart();
            self.half_silent.restart();
        }
        self.silent.update(conn.is_delivering(), now);
        // Acknowledgements are looked for eight times in the span.
        let grid = |limit: Option<Duration>| limit.map(|limit| limit + limit / 8);
        clock.within("silent", self.silent, grid(config.idle_timeout))?;
        self.half_silent.update(conn.is_delivering() && state != State::Open, now);
        clock.within("half closed and silent", self.half_silent, grid(config.half_close_timeout))?;

        let under_way = conn.queued() > 0 || sock.acked < sock.written;
        if std::mem::replace(&mut self.acked, sock.acked) != sock.acked {
            self.stalled.restart();
        }
        let waits = match conn.is_closing() {
            true => under_way,
            false => conn.is_delivering() && conn.queued() > 0 && !conn.may_flush(),
        };
        self.stalled.update(waits, now);
        let patience = match conn.is_closing() {
            true => config.write_stall.or(config.half_close_timeout),
            false => config.write_stall,
        };
        clock.within("stalled", self.stalled, grid(patience))?;

        self.lingering.update(conn.is_closing() && !under_way && sock.shut && !draining, now);
        clock.within("lingering", self.lingering, grid(Some(config.linger_total)))?;

        let (queued, written) = std::mem::replace(&mut self.queue, (conn.queued(), sock.written));
        if let Some(soft) = config.soft_limit {
            // It fell below within the turn, before more was queued.
            if (queued as u64).saturating_sub(sock.written - written) < soft.bytes as u64 {
                self.soft.restart();
            }
            self.soft.update(conn.is_delivering() && conn.queued() >= soft.bytes, now);
            clock.within("above the soft limit", self.soft, Some(soft.duration))?;
        }
        Ok(())
    }
}
