//! Nobody is ended too early, nor for something that is not so: what called for the end of a connection,
//! held against the simulated kernel's books at that moment. That nobody stays too long is looked after
//! in `ages`.

use std::time::Duration;

use super::nanos;
use super::victims;
use super::watch::Book;
use crate::close::{CloseReason, Timeout};
use crate::config::Config;
use crate::connection::State;
use crate::id::ConnId;
use crate::settings::Overflow;
use crate::simnet::{Death, Phase, View, Witness, MICRO, MILLI};

/// How much earlier the engine may be than the kernel's books have it: its clock is read once for
/// several steps.
pub(super) const SLACK: u64 = 3 * MILLI;

/// Everything that a verdict rests on.
pub(super) struct Case<'a> {
    pub(super) conn: ConnId,
    pub(super) death: &'a Death,
    pub(super) book: &'a Book,
    pub(super) config: &'a Config,
    pub(super) witness: &'a Witness,
}

/// Whether the end was called for.
pub(super) fn check(
    conn: ConnId,
    death: &Death,
    book: &Book,
    config: &Config,
    witness: &Witness,
) -> Result<(), String> {
    // What the program does itself is its own affair.
    let (Some(sock), false) = (&death.was.sock, death.by_hand) else { return Ok(()) };
    let case = Case { conn, death, book, config, witness };
    let verdict = match death.occasion {
        CloseReason::TimedOut(Timeout::Connect) => case.connect(sock),
        CloseReason::TimedOut(Timeout::Idle) => case.idle(sock),
        CloseReason::TimedOut(Timeout::WriteStall) => case.write_stall(sock),
        CloseReason::TimedOut(Timeout::Linger) => case.linger(sock),
        CloseReason::SlowConsumer => case.slow_consumer(sock),
        CloseReason::InputOverflow => case.input_overflow(sock),
        CloseReason::Shutdown => case.shutdown(sock),
        _ => Ok(()),
    };
    verdict.map_err(|what| format!("ended as {}: {what}", death.occasion.name()))
}

fn millis(nanos: u64) -> String {
    format!("{}.{:03} ms", nanos / MILLI, nanos % MILLI / MICRO)
}

fn holds(truth: bool, otherwise: &str) -> Result<(), String> {
    match truth {
        true => Ok(()),
        false => Err(otherwise.to_owned()),
    }
}

impl Case<'_> {
    /// `limit` has passed between two moments.
    fn passed(&self, what: &str, since: u64, until: u64, limit: u64) -> Result<(), String> {
        let span = until.saturating_sub(since);
        match span + SLACK + self.witness.brief(since, until) >= limit {
            true => Ok(()),
            false => Err(format!("{what} for {} only, of {}", millis(span), millis(limit))),
        }
    }

    /// The same, if time in which nobody was served does not count.
    fn passed_in_presence(&self, what: &str, since: u64, until: u64, limit: u64) -> Result<(), String> {
        self.passed(what, since, until, limit + self.witness.excused(since, limit, self.death.at))
    }

    fn is_closing(&self) -> bool {
        matches!(self.death.was.state, State::Flushing | State::Lingering)
    }

    /// The connect has no outcome, and was looked at once its time was over.
    fn connect(&self, sock: &View) -> Result<(), String> {
        let times = &sock.times;
        let outcome = match sock.phase {
            Phase::Connecting => u64::MAX,
            Phase::Open => times.opened,
            Phase::Closed => times.failed,
        };
        holds(outcome > times.looked, "the connect had an outcome")?;
        self.passed("connecting", times.made, times.looked, nanos(self.config.connect_timeout))
    }

    /// Nothing came, went or was acknowledged. Who is read from was looked at after that; of whom is not,
    /// nothing waits because of a pause.
    fn idle(&self, sock: &View) -> Result<(), String> {
        let (times, death) = (&sock.times, self.death);
        let half = death.was.state != State::Open || sock.phase == Phase::Closed;
        let half = half.then_some(self.config.half_close_timeout).flatten();
        let limit = self.config.idle_timeout.into_iter().chain(half).min();
        let Some(limit) = limit.map(nanos) else { return Err("there is no such limit".to_owned()) };
        let broken = sock.phase == Phase::Closed;
        let held = death.was_congested && !self.config.read_while_congested;
        let (data, basis) = match sock.paused || held {
            true => (times.data, death.at),
            false => (times.data_at_look, if sock.end_read { death.at } else { times.looked }),
        };
        if sock.paused && !broken && !sock.end_read {
            holds(sock.unread == 0, "input waits because of a pause")?;
        }
        if sock.end_read && sock.fin_in && !broken && !sock.paused && !self.book.told_eof {
            let behind = death.was_congested && self.book.unused().max(death.was.unused) > 0;
            holds(behind, "the peer's stream has ended, and nobody was told")?;
        }
        let last = [data, times.read, times.written, times.ack, times.opened].into_iter().max();
        self.passed("silent", last.unwrap_or_default(), basis, limit)
    }

    /// Bytes are under way and none were acknowledged.
    fn write_stall(&self, sock: &View) -> Result<(), String> {
        let limit = match self.is_closing() {
            true => self.config.write_stall.or(self.config.half_close_timeout),
            false => self.config.write_stall,
        };
        let Some(limit) = limit.map(nanos) else { return Err("there is no such limit".to_owned()) };
        holds(!sock.has_all() || !sock.all_acked, "everything has been acknowledged")?;
        let queue = if sock.promised > sock.written { sock.times.queue } else { 0 };
        let since = sock.times.ack.max(queue);
        self.passed_in_presence("without an acknowledgement", since, self.death.at, limit)
    }

    /// The peer has all of our bytes and only owes its end, and one of the caps is met.
    fn linger(&self, sock: &View) -> Result<(), String> {
        let (times, death) = (&sock.times, self.death);
        if sock.read_since_acked > self.config.linger_bytes {
            return Ok(());
        }
        if death.closing > self.config.max_lingering && !death.draining {
            return victims::closer(self, sock);
        }
        holds(self.is_closing(), "it is not closing")?;
        holds(sock.has_all() && sock.shut, "bytes of ours are under way")?;
        holds(!death.draining, "a shutdown's deadline is the only clock")?;
        let since = times.taken.max(times.shut).max(times.closing);
        let heard = since.max(times.read).max(times.data_at_look);
        let silence = nanos(self.config.linger_idle);
        let total = nanos(self.config.linger_total);
        self.passed_in_presence("silent", heard, times.looked, silence)
            .or_else(|what| self.passed_in_presence(&format!("{what}; closing"), since, death.at, total))
    }

    /// The queue stood at the soft limit all the time, or a send met a cap.
    fn slow_consumer(&self, sock: &View) -> Result<(), String> {
        let (death, config) = (self.death, self.config);
        let Some(attempt) = death.attempt else {
            let soft = config.soft_limit.zip(sock.times.soft);
            let Some((soft, since)) = soft else { return Err("no send met a cap".to_owned()) };
            let limit = nanos(soft.duration);
            return self.passed_in_presence("above the soft limit", since, death.at, limit);
        };
        holds(config.overflow == Overflow::Close, "sends are to be refused")?;
        let most = config.max_write_buffer.min(config.total_write_buffer);
        holds(attempt.len <= most, "nobody could hold that message")?;
        if attempt.conn == self.conn && attempt.queued + attempt.len > config.max_write_buffer {
            return Ok(());
        }
        holds(death.held + attempt.len > config.total_write_buffer, "there is room for all")?;
        victims::holder(self, sock)
    }

    /// More is left unused than one may leave, or all together may hold.
    fn input_overflow(&self, sock: &View) -> Result<(), String> {
        let (death, config) = (self.death, self.config);
        let waits = sock.paused || (death.was_congested && !config.read_while_congested);
        if !waits && self.book.unused() > config.max_read_buffer {
            return Ok(());
        }
        let Some(attempt) = death.attempt else {
            return Err(format!("{} bytes are unused, which is allowed", self.book.unused()));
        };
        holds(death.held + attempt.len > config.total_write_buffer, "there is room for all")?;
        let idlest = victims::holder(self, sock);
        match attempt.conn == self.conn && attempt.len == 0 {
            // Whoever would hold more has to go when everybody gets on.
            true => idlest.or_else(|_| victims::nobody_idle(death.at, &death.others, self.witness)),
            false => idlest,
        }
    }

    /// The shutdown's time is over, counted from its call, and what is queued was tried since.
    fn shutdown(&self, sock: &View) -> Result<(), String> {
        let calls = &self.witness.shutdowns;
        let Some((first, _)) = calls.first() else { return Err("nobody asked for a shutdown".to_owned()) };
        let over = calls
            .iter()
            .map(|(at, deadline)| self.passed_in_presence("shutting down", *at, self.death.at, *deadline));
        over.reduce(|one, other| one.or(other)).unwrap_or(Ok(()))?;
        let untried = self.death.was.queued > 0
            && self.death.was.state != State::Connecting
            && sock.phase == Phase::Open
            && sock.has_room
            && sock.times.room < self.death.asked
            && sock.times.lie <= self.death.asked
            && sock.times.tried < *first;
        holds(!untried, "what is queued for it was not tried since the shutdown was asked for")
    }
}

/// The limit of a holder's patience, at the least.
pub(super) const HEALTHY: Duration = Duration::from_millis(10);
