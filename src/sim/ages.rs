//! Deadlines, watched from outside: how long each connection has been as it is, by the simulated
//! kernel's books, and whether the engine should have ended it by now.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::connection::{Connection, State};
use crate::id::ConnId;
use crate::net::{Entry, Net};
use crate::simnet::{Phase, Sock, World};
use crate::socket::Stream;

/// Since when something has been so, if it is.
#[derive(Clone, Copy, Debug, Default)]
struct Since(Option<u64>);

impl Since {
    /// How long it has been so, if it is so now.
    fn update(&mut self, holds: bool, now: u64) -> Duration {
        self.0 = if holds { Some(self.0.unwrap_or(now)) } else { None };
        Duration::from_nanos(self.0.map_or(0, |since| now - since))
    }
}

#[derive(Debug, Default)]
struct Age {
    connecting: Since,
    closing: Since,
    /// Nothing came or went.
    silent: Since,
    /// The same, and one stream has ended.
    half_silent: Since,
    /// Bytes are queued and none were acknowledged.
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

/// A handler that panics cuts a turn short: its timers fire in the next.
const TURNS_OVERDUE: u32 = 4;

/// The age of every connection.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<ConnId, Age>);

impl Ages {
    /// Looks at everybody after a turn. By then whatever was due must have been done.
    pub(super) fn check(&mut self, net: &Net, world: &World) -> Result<(), String> {
        self.0.retain(|conn, _| net.conns.get(*conn).is_some());
        for (conn, Entry { conn: state, stream }) in net.conns.iter() {
            let sock = match stream {
                Stream::Sim(stream) => world.socks.get(&stream.sock),
                _ => None,
            };
            let age = self.0.entry(conn).or_default();
            if world.work.slept {
                // Nobody looked for acknowledgements meanwhile.
                (age.stalled, age.silent, age.half_silent) = Default::default();
            }
            match age.check(state, sock, net.config(), world.now) {
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
        config: &Config,
        now: u64,
    ) -> Result<(), String> {
        let within = |what: &str, age: Duration, limit: Option<Duration>| match limit {
            Some(limit) if age > limit + Duration::from_millis(1) => {
                Err(format!("{what} for {age:?}, although {limit:?} are the most"))
            }
            _ => Ok(()),
        };
        let state = conn.state();
        let connecting = self.connecting.update(state == State::Connecting, now);
        within("connecting", connecting, Some(config.connect_timeout))?;
        let closing = self.closing.update(conn.is_closing(), now);
        within("closing", closing, Some(config.linger_total))?;

        let Some(sock) = sock else { return Ok(()) };
        // The end of a stream and an error are something that came or went.
        let told = sock.phase == Phase::Closed && sock.error.is_none();
        let moved = (sock.read, sock.written, sock.acked, Some(state), told);
        if std::mem::replace(&mut self.moved, moved) != moved {
            (self.silent, self.half_silent) = Default::default();
        }
        let silent = self.silent.update(conn.is_delivering(), now);
        // Acknowledgements count as well, and are only asked for when the time is up.
        let twice = |limit: Option<Duration>| limit.map(|limit| limit * 2);
        within("silent", silent, twice(config.idle_timeout))?;
        let half = conn.is_delivering() && state != State::Open;
        within(
            "half closed and silent",
            self.half_silent.update(half, now),
            twice(config.half_close_timeout),
        )?;

        if std::mem::replace(&mut self.acked, sock.acked) != sock.acked {
            self.stalled = Since::default();
        }
        let waits = conn.is_delivering() && conn.queued() > 0 && !conn.may_flush();
        let stalled = self.stalled.update(waits, now);
        // Acknowledgements are looked for eight times in the span.
        within("stalled", stalled, config.write_stall.map(|stall| stall + stall / 4))?;

        let (queued, written) = std::mem::replace(&mut self.queue, (conn.queued(), sock.written));
        if let Some(soft) = config.soft_limit {
            // It fell below within the turn, before more was queued.
            if (queued as u64).saturating_sub(sock.written - written) < soft.bytes as u64 {
                self.soft = Since::default();
            }
            let above = conn.is_delivering() && conn.queued() >= soft.bytes;
            within("above the soft limit", self.soft.update(above, now), Some(soft.duration))?;
        }
        Ok(())
    }
}
