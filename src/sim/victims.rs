//! Where one of several has to go: at the common budget who has not got on for longest, among too many
//! who close those who only owe their end.

use super::nanos;
use super::verdicts::{Case, HEALTHY, SLACK};
use crate::connection::State;
use crate::simnet::{Other, Phase, View, Witness, MILLI};

/// So many are asked before everybody is taken to get on.
const ASKED: usize = 16;

impl Other {
    /// Since when a holder of memory has not got on, by the kernel's books; `None` for one that does, or
    /// has not been offered what is queued for it.
    fn idle_since(&self) -> Option<u64> {
        let sock = self.sock.as_ref()?;
        let times = &sock.times;
        if self.queued == 0 || !self.pays_for_queue {
            // A write that failed is something that went.
            let failed = if sock.phase == Phase::Closed { times.tried } else { 0 };
            let moments = [times.opened, times.read, times.written, times.ack, times.ended, failed];
            return moments.into_iter().max();
        }
        if self.state == State::Connecting {
            return Some(times.made);
        }
        if sock.may_take_more() || sock.times.lie > sock.now {
            return None;
        }
        Some(times.ack.max(times.queue))
    }

    /// The same, if what it took when it was last offered something counts, and what has just been
    /// queued does not yet.
    fn stuck_since(&self) -> Option<u64> {
        let sock = self.sock?;
        // Of a connection that is paused the silence is ours, and counts as none.
        if sock.paused && sock.unread > 0 {
            return None;
        }
        let times = sock.times;
        Some(self.idle_since()?.max(times.written).max(times.queue))
    }
}

/// A holder of memory that went because all together hold too much.
pub(super) fn holder(case: &Case<'_>, sock: &View) -> Result<(), String> {
    let was = Other { sock: Some(*sock), ..case.death.was };
    let held = was.queued + was.unused > 0;
    if !held {
        return Err("it held nothing".to_owned());
    }
    // What the kernel held back it has not told before the engine asks again.
    if sock.times.lie > case.death.asked {
        return Ok(());
    }
    let Some(since) = was.idle_since() else { return Err("it gets on".to_owned()) };
    let (idle, healthy) = (case.death.at - since, nanos(HEALTHY));
    let least = healthy + case.witness.excused(since, healthy, case.death.at);
    // The kernel tells in milliseconds when it last heard.
    if idle + 2 * MILLI < least {
        return Err(format!("it got on {} µs ago", idle / 1000));
    }
    let longer = case.death.others.iter().filter(|other| other.is_holder && !other.is_dirty);
    let longer = longer.filter_map(|other| Some((other.conn, other.stuck_since()?)));
    match longer.min_by_key(|(_, since)| *since) {
        Some((other, earlier)) if earlier + SLACK < since => Err(format!(
            "{other} has not got on for {} ms, it for {} ms",
            (case.death.at - earlier) / MILLI,
            idle / MILLI
        )),
        _ => Ok(()),
    }
}

/// Somebody had to be refused because everybody gets on.
pub(super) fn nobody_idle(now: u64, holders: &[Other], witness: &Witness) -> Result<(), String> {
    // Nobody has had the time right behind an absence.
    if holders.len() > ASKED || now < witness.back + nanos(HEALTHY) + SLACK {
        return Ok(());
    }
    // What has been queued since it was last seen to is seen to at the end of a turn.
    let idle = holders.iter().filter(|other| other.is_holder && !other.is_dirty);
    let idle = idle.filter_map(|other| Some((other.conn, other.stuck_since()?)));
    match idle.min_by_key(|(_, since)| *since) {
        Some((other, since)) => {
            let healthy = nanos(HEALTHY);
            let most = healthy + witness.excused(since, healthy, now) + SLACK;
            match now - since > most {
                true => Err(format!("although {other} has not got on for {} ms", (now - since) / MILLI)),
                false => Ok(()),
            }
        }
        None => Ok(()),
    }
}

/// A closing connection that went because there are too many.
pub(super) fn closer(case: &Case<'_>, sock: &View) -> Result<(), String> {
    if sock.has_all() {
        return Ok(());
    }
    let closing = |other: &&Other| matches!(other.state, State::Flushing | State::Lingering);
    // For longer than it takes to ask.
    let owes = |other: &Other| {
        other.sock.is_some_and(|sock| {
            sock.has_all() && sock.all_acked && sock.shut && sock.times.ack + MILLI < sock.now
        })
    };
    match case.death.others.iter().filter(closing).find(|other| owes(other)) {
        Some(other) => Err(format!("it still receives, and {} only owes its end", other.conn)),
        None => Ok(()),
    }
}
