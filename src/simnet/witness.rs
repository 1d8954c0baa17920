//! What is written down of a run, to hold the engine to afterwards: what the program asked for, when
//! the process was not there, how things stood when a connection ended. Nothing of it changes what
//! happens.

use std::collections::BTreeMap;

use super::socket::{Phase, Sock};
use super::world::{World, MICRO, MILLI};
use crate::close::CloseReason;
use crate::connection::State;
use crate::id::{ConnId, TimerId};

/// When things last happened to a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) made: u64,
    pub(crate) opened: u64,
    /// The engine asked to be told of it: before that it could not know.
    pub(crate) known: u64,
    /// Data arrived, an acknowledgement did, the peer's end did: at first the beginning.
    pub(crate) data: u64,
    pub(crate) ack: u64,
    /// The same, of bytes that the program sent: not of those of a session's own.
    pub(crate) taken: u64,
    pub(crate) fin: u64,
    /// A reset, a refusal: 0 for none.
    pub(crate) failed: u64,
    /// The program read something, wrote something, ended its stream.
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) shut: u64,
    /// The program asked for the end of its stream; it began to close.
    pub(crate) ended: u64,
    pub(crate) closing: u64,
    /// It tried to read, to write, to learn what came of a connect; the first of these 0 for never.
    pub(crate) looked: u64,
    pub(crate) tried: u64,
    /// When data had last arrived by the time it tried to read.
    pub(crate) data_at_look: u64,
    /// When the program last asked for input again, or its queue had drained.
    pub(crate) freed: u64,
    /// When there was last room for further writes after there had been none.
    pub(crate) room: u64,
    /// Until when the kernel holds back what it should tell: a fault.
    pub(crate) lie: u64,
    /// Since when bytes have been queued in the engine, while any are.
    pub(crate) queue: u64,
    /// Since when the queue has stood at the soft limit.
    pub(crate) soft: Option<u64>,
}

impl Times {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            made: now,
            opened: now,
            known: now,
            data: now,
            ack: now,
            taken: now,
            fin: 0,
            failed: 0,
            read: 0,
            written: 0,
            shut: 0,
            ended: 0,
            closing: 0,
            looked: 0,
            tried: 0,
            data_at_look: now,
            freed: 0,
            room: 0,
            lie: 0,
            queue: now,
            soft: None,
        }
    }
}

/// How a socket stood at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) times: Times,
    /// Bytes that wait to be read.
    pub(crate) unread: usize,
    /// The peer's end arrived; it was read.
    pub(crate) fin_in: bool,
    pub(crate) end_read: bool,
    pub(crate) shut: bool,
    pub(crate) promised: u64,
    pub(crate) written: u64,
    pub(crate) acked: u64,
    /// Input read since everything written was acknowledged, or since a write failed.
    pub(crate) read_since_acked: u64,
    /// What the kernel has taken, a session's own bytes and parts of records included, is acknowledged.
    pub(crate) all_acked: bool,
    pub(crate) has_room: bool,
    pub(crate) paused: bool,
    pub(crate) now: u64,
}

impl Sock {
    pub(crate) fn view(&self, now: u64) -> View {
        View {
            phase: self.phase,
            times: self.times,
            unread: self.input.len(),
            fin_in: self.fin_in,
            end_read: self.is_ended(),
            shut: self.shut,
            promised: self.promised.len() as u64,
            written: self.handed(),
            acked: self.arrived(),
            read_since_acked: self.read - self.read_when_acked + self.kept_at_most(),
            all_acked: self.acked == self.written,
            has_room: self.is_writable(),
            paused: self.paused,
            now,
        }
    }
}

impl View {
    /// All that was sent has arrived.
    pub(crate) fn has_all(&self) -> bool {
        self.acked == self.promised
    }

    /// Everything written has been acknowledged, but not everything sent been written.
    pub(crate) fn may_take_more(&self) -> bool {
        self.has_room || self.all_acked
    }
}

/// Somebody who held memory when somebody ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other {
    pub(crate) conn: ConnId,
    pub(crate) state: State,
    pub(crate) queued: usize,
    pub(crate) unused: usize,
    pub(crate) is_holder: bool,
    /// The engine has yet to see to what was last done with it.
    pub(crate) is_dirty: bool,
    /// Where sends are refused, nobody pays for what is queued.
    pub(crate) pays_for_queue: bool,
    pub(crate) sock: Option<View>,
}

/// How a connection stood when it ended.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    pub(crate) at: u64,
    /// When the kernel was last asked for events.
    pub(crate) asked: u64,
    /// What called for the end, before an earlier error was found to be the reason.
    pub(crate) occasion: CloseReason,
    /// As it was before.
    pub(crate) was: Other,
    pub(crate) was_congested: bool,
    /// The program ended it.
    pub(crate) by_hand: bool,
    /// Bytes held for all connections, those of this one included.
    pub(crate) held: usize,
    /// Connections that were closing, itself included.
    pub(crate) closing: usize,
    /// A shutdown was under way.
    pub(crate) draining: bool,
    /// What was being sent, and to whom, when a cap was met.
    pub(crate) attempt: Option<Attempt>,
    /// Everybody else, when it was chosen among several.
    pub(crate) others: Vec<Other>,
}

/// A send that met a cap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) conn: ConnId,
    pub(crate) len: usize,
    /// Bytes queued for it before.
    pub(crate) queued: usize,
}

/// The commands of one connection's handles.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sends {
    pub(crate) taken: u64,
    pub(crate) queued: u64,
    pub(crate) refused: u64,
}

/// A stretch of time in which the process served nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absence {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// Shorter absences excuse nobody, and from this length on the engine may count them.
const SHORT: u64 = 21 * MILLI;
const NOTICED: u64 = 19 * MILLI;
/// So much of each counts all the same.
const FIRST_MOMENTS: u64 = 20 * MILLI;
/// The engine forgets the oldest.
const REMEMBERED: usize = 60;

/// All that is written down.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// When the reactor last came back from where it served nobody.
    pub(crate) back: u64,
    absences: Vec<Absence>,
    /// Those too short to excuse anybody: the engine's clock may be behind by one.
    brief: Vec<Absence>,
    /// When the engine has something to do, if it is known: by being late for that it can tell that it
    /// was away.
    pub(crate) due: Option<u64>,
    /// When the kernel was last asked for events, and when that poll came back.
    pub(crate) asked: u64,
    pub(crate) began: u64,
    /// When a callback was last called.
    pub(crate) called: u64,
    /// The program itself is ending something.
    pub(crate) by_hand: bool,
    /// Timers and deadlines that were told in this turn.
    pub(crate) fired: usize,
    /// A turn is under way; its first poll has come back.
    pub(crate) in_turn: bool,
    pub(crate) polled: bool,
    /// The moments for which timers are set.
    pub(crate) timers: BTreeMap<TimerId, u64>,
    /// The moments for which the deadlines of connections are set.
    pub(crate) alarms: BTreeMap<ConnId, u64>,
    /// Every call of `shutdown`: when, and with which deadline.
    pub(crate) shutdowns: Vec<(u64, u64)>,
    pub(crate) sends: BTreeMap<ConnId, Sends>,
    /// Commands that were taken in all.
    pub(crate) commands: u64,
    pub(crate) attempt: Option<Attempt>,
    /// Sends that were refused at the common budget: when, and who held memory then.
    pub(crate) refusals: Vec<(u64, Vec<Other>)>,
    pub(crate) deaths: BTreeMap<ConnId, Death>,
    /// Clients that a shutdown left in an accept queue, though it could have known of them.
    pub(crate) abandoned: usize,
}

impl Witness {
    /// The process served nobody from `from` to `until`, in the middle of a turn.
    pub(crate) fn was_away(&mut self, from: u64, until: u64) {
        if until - from >= NOTICED {
            self.back = until;
        }
        let absences = if until - from >= SHORT { &mut self.absences } else { &mut self.brief };
        absences.push(Absence { from, until });
    }

    /// The same between two turns, or while it waited for events. It can tell by what it is late for;
    /// that it was away for as long before that as it was late is all that can be asked of it.
    pub(crate) fn was_away_outside(&mut self, from: u64, until: u64) {
        let due = self.due.unwrap_or(u64::MAX);
        let late = until.saturating_sub(due);
        match late {
            SHORT.. => self.was_away(from.max(due.saturating_sub(late)), until),
            NOTICED.. => self.back = until,
            _ => {}
        }
    }

    /// A handle's command was taken, perhaps a send.
    pub(crate) fn took(&mut self, send_to: Option<ConnId>) {
        self.commands += 1;
        if let Some(conn) = send_to {
            self.sends.entry(conn).or_default().taken += 1;
        }
    }

    /// By how much the engine's clock may have been behind at either of two moments.
    pub(crate) fn brief(&self, since: u64, until: u64) -> u64 {
        let near = |moment: u64| {
            let meets = |a: &&Absence| a.from <= moment + MILLI && moment <= a.until + MILLI;
            self.brief.iter().rev().find(meets).map_or(0, |a| a.until - a.from)
        };
        near(since).max(near(until))
    }

    /// Absences that ended after this moment: how many may have been counted, and how long they took.
    pub(crate) fn absences_since(&self, moment: u64) -> (usize, u64) {
        let noticed = |absence: &&Absence| absence.until - absence.from >= NOTICED;
        let since = |absences: &[Absence]| {
            let since = absences.iter().rev().take_while(|absence| absence.until > moment).filter(noticed);
            since.fold((0, 0), |(count, time), absence| {
                (count + 1, time + absence.until - absence.from.max(moment))
            })
        };
        let ((many, long), (more, longer)) = (since(&self.absences), since(&self.brief));
        (many + more, long + longer)
    }

    /// How much of `limit`, counted from `since`, does not count for what was so at the moment `now`:
    /// absences, but for the first moments of each.
    pub(crate) fn excused(&self, since: u64, limit: u64, now: u64) -> u64 {
        let mut lost = 0;
        for absence in self.absences.iter().skip(self.absences.len().saturating_sub(REMEMBERED)) {
            if absence.until <= since {
                continue;
            }
            if absence.from >= now || absence.from + MICRO >= since.saturating_add(limit).saturating_add(lost)
            {
                break;
            }
            lost += (absence.until - absence.from.max(since)).saturating_sub(FIRST_MOMENTS);
        }
        lost
    }
}

impl World {
    /// Nobody serves for a while; the network goes on.
    pub(crate) fn pass(&mut self, nanos: u64) {
        let until = self.now.saturating_add(nanos);
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = until;
    }

    /// How long the process is stopped this time: mostly not for long.
    pub(crate) fn draw_stop(&mut self) -> u64 {
        let longest = u64::try_from(self.faults.longest_pause.as_micros()).unwrap_or(u64::MAX >> 20);
        let longest = usize::try_from(longest).unwrap_or(usize::MAX >> 1);
        let most = if self.dice.chance(500) { longest } else { longest.min(50_000) };
        self.dice.between(1, most) as u64 * MICRO
    }

    /// Now and then the process is stopped in the middle of a turn, at one of so many places.
    pub(crate) fn stop_in_turn(&mut self, places: usize) {
        if self.dice.chance(self.faults.stop) && self.dice.below(places) == 0 {
            let (from, nanos) = (self.now, self.draw_stop());
            self.note(|_| format!("the process is stopped for {} µs in the middle of a turn", nanos / MICRO));
            self.pass(nanos);
            self.witness.was_away(from, self.now);
        }
    }

    /// Now and then the process is stopped while it waits for events, or between two turns.
    pub(crate) fn stop_outside(&mut self, chance: u16) {
        if self.dice.chance(chance) {
            let (from, nanos) = (self.now, self.draw_stop());
            self.note(|_| format!("the process is stopped for {} µs", nanos / MICRO));
            self.pass(nanos);
            match self.witness.polled {
                true => self.witness.was_away(from, self.now),
                false => self.witness.was_away_outside(from, self.now),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witness(absences: &[(u64, u64)]) -> Witness {
        let mut witness = Witness::default();
        for (from, until) in absences {
            witness.was_away(from * MILLI, until * MILLI);
        }
        witness
    }

    #[test]
    fn absences_excuse_whole_but_for_their_first_moments() {
        let witness = witness(&[(100, 200), (210, 220), (300, 900)]);
        let excused = |since, limit| witness.excused(since * MILLI, limit * MILLI, u64::MAX) / MILLI;
        assert_eq!(excused(0, 90), 0);
        assert_eq!(excused(0, 150), 80);
        assert_eq!(excused(150, 100), 30, "what is short does not count");
        assert_eq!(excused(250, 100), 580, "however long");
        assert_eq!(excused(900, 100), 0);
    }

    #[test]
    fn an_absence_outside_of_a_turn_shows_by_what_is_late() {
        let away = |due: Option<u64>, from, until| {
            let mut witness = Witness { due: due.map(|due| due * MILLI), ..Witness::default() };
            witness.was_away_outside(from * MILLI, until * MILLI);
            witness.absences.first().map(|absence| (absence.from / MILLI, absence.until / MILLI))
        };
        assert_eq!(away(None, 100, 900), None);
        assert_eq!(away(Some(895), 100, 900), None);
        assert_eq!(away(Some(800), 100, 900), Some((700, 900)));
        assert_eq!(away(Some(200), 100, 900), Some((100, 900)));
    }
}
