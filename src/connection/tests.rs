//! The state machine against a scripted socket, in made-up time.

mod books;
mod ending;
mod histories;
mod piping;
mod receiving;
mod sending;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::close::{CloseReason, CloseReport, Timeout};
use crate::send::{Data, SendError, Sent};
use crate::transport::LastHeard;

/// What a call of the socket answers.
#[derive(Clone, Debug)]
enum Answer {
    /// This many bytes, or as many as there is room for.
    Bytes(usize),
    Eof,
    Error(i32),
}

const EAGAIN: Answer = Answer::Error(libc::EAGAIN);
const EINTR: Answer = Answer::Error(libc::EINTR);

/// A socket that answers by a script: EAGAIN when it has run out.
#[derive(Default)]
struct Script {
    reads: VecDeque<Answer>,
    writes: VecDeque<Answer>,
    written: Vec<u8>,
    calls: usize,
    pending_error: Option<i32>,
    unacknowledged: Option<u64>,
    /// Acknowledged for good, the end of our stream included; what is not is then by what was written.
    acknowledged: Option<u64>,
    heard: Option<LastHeard>,
    unread: Option<usize>,
    shutdowns: usize,
    shutdown_fails: bool,
    reset: bool,
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Transport for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // E11: a read into nothing would look like the end of the stream.
        assert!(!buf.is_empty());
        match self.reads.pop_front().unwrap_or(EAGAIN) {
            Answer::Bytes(count) => Ok(count.min(buf.len())),
            Answer::Eof => Ok(0),
            Answer::Error(errno) => Err(error(errno)),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls += 1;
        let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(!offered.is_empty(), "an empty write says nothing and may cost an error");
        assert_eq!(self.shutdowns, 0, "a write after the end of our stream");
        match self.writes.pop_front().unwrap_or(EAGAIN) {
            Answer::Bytes(count) => {
                let count = count.min(offered.len());
                self.written.extend(&offered[..count]);
                Ok(count)
            }
            Answer::Eof => Ok(0),
            Answer::Error(errno) => Err(error(errno)),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdowns += 1;
        match self.shutdown_fails {
            true => Err(error(libc::ENOTCONN)),
            false => Ok(()),
        }
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(self.pending_error.take().map(error))
    }

    fn unacknowledged(&self) -> Option<u64> {
        let pending = |acknowledged| self.written.len() as u64 + self.shutdowns as u64 - acknowledged;
        self.acknowledged.map(pending).or(self.unacknowledged)
    }

    fn last_heard(&self) -> Option<LastHeard> {
        self.heard
    }

    fn unread(&self) -> Option<usize> {
        self.unread
    }

    fn short_read_empties(&self) -> bool {
        true
    }

    fn reset_on_close(&mut self) {
        self.reset = true;
    }
}

/// A connection, its script, and what stands around it.
struct World {
    conn: Connection,
    socket: Script,
    config: Config,
    lapses: Lapses,
    draining: bool,
    pool: BufferPool,
    stats: Stats,
    now: Time,
    scratch: Vec<u8>,
    /// Bytes shown to the handler.
    shown: usize,
    eofs: usize,
    drains: usize,
    taken: u64,
}

fn world() -> World {
    let now = Time::default();
    World {
        conn: Connection::new(State::Open, Via::Connect, None, now),
        socket: Script { unacknowledged: Some(0), ..Script::default() },
        config: Config::default(),
        lapses: Lapses::default(),
        draining: false,
        pool: BufferPool::default(),
        stats: Stats::default(),
        now,
        scratch: vec![0; 1000],
        shown: 0,
        eofs: 0,
        drains: 0,
        taken: 0,
    }
}

fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i % 251) as u8).collect()
}

impl World {
    fn step<R>(&mut self, step: impl FnOnce(&mut Connection, &mut Script, &mut Context<'_>) -> R) -> R {
        let defaults = self.config.settings();
        let terms = Terms {
            config: &self.config,
            defaults: &defaults,
            lapses: &self.lapses,
            draining: self.draining,
        };
        let mut cx = Context { now: self.now, terms, pool: &mut self.pool, stats: &mut self.stats };
        let result = step(&mut self.conn, &mut self.socket, &mut cx);
        self.check();
        result
    }

    /// What must hold after every step.
    fn check(&self) {
        let report = self.conn.report(self.now);
        let queued = self.conn.queued() as u64;
        assert_eq!(report.handed + report.unsent + queued, self.taken, "every byte is in one place");
        assert_eq!(report.handed, self.socket.written.len() as u64);
        assert_eq!(self.socket.written, bytes(0, self.socket.written.len()), "in order");
        assert!(self.socket.shutdowns <= 1);
        if self.conn.is_dead() {
            assert_eq!(queued, 0);
            assert!(!self.conn.has_work(&self.config.settings()));
            assert_eq!(self.deadline(), Time::NEVER);
            let lost = report.unsent > 0 || report.unacked.is_some_and(|unacked| unacked > 0);
            assert!(!(lost && report.reason.is_clean()), "a loss is never clean: {report}");
            assert!(
                !(report.errno.is_some() && report.reason.is_clean()),
                "an error is never clean: {report}"
            );
            let panicked = report.reason == CloseReason::HandlerPanic;
            assert!(!lost || panicked || self.socket.reset, "a cut stream ends in a reset: {report}");
        }
    }

    fn deadline(&self) -> Time {
        let defaults = self.config.settings();
        let terms = Terms {
            config: &self.config,
            defaults: &defaults,
            lapses: &self.lapses,
            draining: self.draining,
        };
        self.conn.deadline(self.now, terms)
    }

    fn send(&mut self, len: usize) -> Sent {
        let data = bytes(self.taken as usize, len);
        self.taken += len as u64;
        // The books are only right when the push is done.
        let defaults = self.config.settings();
        let terms = Terms {
            config: &self.config,
            defaults: &defaults,
            lapses: &self.lapses,
            draining: self.draining,
        };
        let mut cx = Context { now: self.now, terms, pool: &mut self.pool, stats: &mut self.stats };
        let sent = self.conn.push(Data::Slice(&data), &mut self.socket, &mut cx);
        self.check();
        sent
    }

    fn hint(&mut self, hints: Hints) {
        self.conn.on_readiness(hints);
    }

    /// What a reactor does with a connection in one turn, with a handler that uses all it is
    /// shown and closes at the peer's end of stream.
    fn turn(&mut self) {
        self.step(|conn, socket, cx| conn.check_error(socket, cx));
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..100 {
            let may_read = self.conn.may_read(&self.config.settings());
            if !may_read {
                break;
            }
            match self.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx)) {
                Received::Data(count) => self.shown += count,
                Received::Eof => {
                    self.eofs += 1;
                    self.step(|conn, socket, cx| conn.close(socket, cx));
                }
                Received::Nothing(_) => {}
            }
        }
        self.scratch = scratch;
        let drained = self.step(|conn, socket, cx| {
            conn.flush(socket, cx);
            conn.advance(socket, cx);
            conn.take_drain()
        });
        self.drains += usize::from(drained);
    }

    fn readable(&mut self, reads: impl IntoIterator<Item = Answer>) {
        self.socket.reads.extend(reads);
        self.hint(Hints { readable: true, more: true, ..Hints::default() });
        self.turn();
    }

    fn writable(&mut self, writes: impl IntoIterator<Item = Answer>) {
        self.socket.writes.extend(writes);
        self.hint(Hints { writable: true, ..Hints::default() });
        self.turn();
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.step(|conn, socket, cx| conn.expire(socket, cx.now, cx));
    }

    fn close(&mut self) {
        self.step(|conn, socket, cx| conn.close(socket, cx));
        self.turn();
    }

    fn report(&self) -> CloseReport {
        assert!(self.conn.is_dead(), "{:?}", self.conn.state());
        self.conn.report(self.now)
    }

    fn reason(&self) -> CloseReason {
        self.report().reason
    }
}

const SECOND: Duration = Duration::from_secs(1);
