//! Which of a host's addresses to try next, and when: Happy Eyeballs, version 2 (RFC 8305,
//! sections 4 and 5).
//!
//! A pure state machine. It makes no sockets and has no clock: it is told what became of each
//! attempt and asked, with the present moment, what to do. Only [`Dial::step`] starts anything, so
//! whoever tells all that has happened before asking makes no attempt that a success at the same
//! moment would have spared.
//!
//! An attempt ends by its own success or failure, or with the whole. That the next one is due
//! changes nothing for those under way: a path may just be slow.

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::timers::Time;

/// Which addresses of a host are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv6 and IPv4 by turns, beginning with the one that the resolver named first.
    #[default]
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    fn has(self, addr: &SocketAddr) -> bool {
        match self {
            Self::Both => true,
            Self::V4 => addr.is_ipv4(),
            Self::V6 => addr.is_ipv6(),
        }
    }
}

/// Addresses tried at most, so that no answer, however long, costs more than 64 attempts and a
/// report of 64 lines. Large services name a dozen.
pub(crate) const MAX_ADDRESSES: usize = 64;

/// Attempts under way at most; of two families, three of each. RFC 8305 sets no number, but a host
/// that swallows every packet should not get a stream of them.
pub(crate) const MAX_IN_FLIGHT: usize = 6;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start this attempt, then ask again.
    Start(usize, SocketAddr),
    /// Nothing before this moment, unless an attempt succeeds or fails; `Time::NEVER` when no
    /// attempt is left to be started, or too many are under way.
    Wait(Time),
    /// Nothing any more: this attempt has won. All others are to be closed.
    Won(usize),
    /// Nothing any more: every attempt has failed.
    Failed,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    InFlight,
    Established,
    Failed(i32),
}

/// The attempts to reach one host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dial {
    /// In the order in which they are tried, without duplicates. An attempt has the number of its
    /// address.
    addrs: Vec<SocketAddr>,
    /// Of the attempts started so far.
    outcomes: Vec<Outcome>,
    winner: Option<usize>,
    /// The Connection Attempt Delay of RFC 8305, section 5.
    delay: Duration,
    /// The next attempt is due.
    next_at: Time,
}

impl Dial {
    /// Takes the addresses of one lookup, in the resolver's order. Nothing starts before
    /// [`step`](Self::step) is asked. `delay` is 10 ms to 2 s (RFC 8305, section 8).
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable`, in words, when there is no address, or none that `family` admits.
    pub(crate) fn new(answer: Vec<SocketAddr>, family: Family, delay: Duration) -> io::Result<Self> {
        let found = answer.len();
        let admitted = distinct(answer.into_iter().filter(|addr| family.has(addr)));
        if admitted.is_empty() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, no_address(found, family)));
        }
        let addrs = interleave(admitted);
        Ok(Self { addrs, outcomes: Vec::new(), winner: None, delay, next_at: Time::default() })
    }

    /// What to do at `now`. A started attempt counts from the answer on: ask until something else
    /// is said. A connect that fails at once is told by [`failed`](Self::failed) and costs no delay.
    pub(crate) fn step(&mut self, now: Time) -> Step {
        if let Some(winner) = self.winner {
            return Step::Won(winner);
        }
        let (attempt, in_flight) = (self.outcomes.len(), self.in_flight().count());
        match self.addrs.get(attempt) {
            None if in_flight == 0 => Step::Failed,
            None => Step::Wait(Time::NEVER),
            Some(_) if in_flight >= MAX_IN_FLIGHT => Step::Wait(Time::NEVER),
            Some(_) if now < self.next_at => Step::Wait(self.next_at),
            Some(addr) => {
                self.outcomes.push(Outcome::InFlight);
                self.next_at = now.plus(self.delay);
                Step::Start(attempt, *addr)
            }
        }
    }

    /// An attempt is established. Returns whether it has won; a loser is to be closed, unread.
    pub(crate) fn established(&mut self, attempt: usize) -> bool {
        if let Some(outcome @ Outcome::InFlight) = self.outcomes.get_mut(attempt) {
            *outcome = Outcome::Established;
            self.winner.get_or_insert(attempt);
        }
        self.winner == Some(attempt)
    }

    /// An attempt has failed.
    ///
    /// The newest one's failure makes the next due at once: nobody is left who was to be given
    /// time (RFC 9623, 4.3.2; RFC 8305 says nothing of failures, and its 10 ms are a bound of the
    /// delay). An older one's does not: the newest has its whole delay before it gets a rival,
    /// and a burst of failures starts one attempt, not as many.
    pub(crate) fn failed(&mut self, attempt: usize, errno: i32) {
        let Some(outcome @ Outcome::InFlight) = self.outcomes.get_mut(attempt) else { return };
        *outcome = Outcome::Failed(errno);
        if attempt + 1 == self.outcomes.len() {
            self.next_at = Time::default();
        }
    }

    /// The time for all of it is up: what is under way has failed with ETIMEDOUT, and nothing more
    /// is started. A winner stays one.
    pub(crate) fn time_out(&mut self) {
        for outcome in self.outcomes.iter_mut().filter(|outcome| **outcome == Outcome::InFlight) {
            *outcome = Outcome::Failed(libc::ETIMEDOUT);
        }
        self.addrs.truncate(self.outcomes.len());
    }

    /// The attempts under way. After a success these have lost.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        let under_way = |(attempt, outcome)| (outcome == Outcome::InFlight).then_some(attempt);
        self.outcomes.iter().copied().enumerate().filter_map(under_way)
    }

    /// The address of an attempt.
    pub(crate) fn addr(&self, attempt: usize) -> Option<SocketAddr> {
        self.addrs.get(attempt).copied()
    }

    /// For the report: each attempt that was started and not established, in order, with its
    /// errno. One still under way, because the program gave up first, has EINPROGRESS.
    pub(crate) fn failures(&self) -> Vec<(SocketAddr, i32)> {
        let errno = |outcome: &Outcome| match outcome {
            Outcome::InFlight => Some(libc::EINPROGRESS),
            Outcome::Failed(errno) => Some(*errno),
            Outcome::Established => None,
        };
        let attempts = self.addrs.iter().zip(&self.outcomes);
        attempts.filter_map(|(addr, outcome)| Some((*addr, errno(outcome)?))).collect()
    }
}

/// The errno that says most about why a host could not be reached: not the last one. On a machine
/// without IPv6 every IPv6 address says at once that the network is unreachable, and that must not
/// hide what an IPv4 address said.
pub(crate) fn most_telling(failures: &[(SocketAddr, i32)]) -> Option<i32> {
    failures.iter().map(|(_, errno)| *errno).min_by_key(|errno| rank(*errno))
}

/// The further a packet of ours got, the more its fate tells; a lower rank tells more.
fn rank(errno: i32) -> u8 {
    match errno {
        // The host answered: it is there, and does not want this.
        libc::ECONNREFUSED => 0,
        libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE | libc::EPROTO => 1,
        // Packets went out and nobody answered.
        libc::ETIMEDOUT => 2,
        // A router says that there is no such host, or nobody answered to its address on the link.
        libc::EHOSTUNREACH | libc::EHOSTDOWN => 3,
        // Forbidden on our own side, mostly by a packet filter.
        libc::EACCES | libc::EPERM => 4,
        // No packet was sent, for want of something of our own.
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => 5,
        // No way leads there.
        libc::ENETUNREACH | libc::ENETDOWN => 6,
        // Not over yet when the program gave up: behind everything that anybody said.
        libc::EINPROGRESS => 8,
        // The family is switched off, no local address or port is left, and whatever else there is.
        _ => 7,
    }
}

/// Drops duplicates and bounds a resolver's answer: so many addresses of each family, the first
/// ones, that nothing is lost which [`Dial`] would try.
pub(crate) fn distinct(answer: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut kept: Vec<SocketAddr> = Vec::new();
    let (mut v4, mut v6) = (0, 0);
    for addr in answer {
        let count = if addr.is_ipv4() { &mut v4 } else { &mut v6 };
        if *count < MAX_ADDRESSES && !kept.contains(&addr) {
            *count += 1;
            kept.push(addr);
        }
    }
    kept
}

/// One of the first address's family, one of the other, and so on; the rest of the longer list
/// follows (RFC 8305, section 4, with a First Address Family Count of 1). The resolver's order
/// (RFC 6724) stays within each family.
fn interleave(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv4 = addrs.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addrs.into_iter().partition(|addr| addr.is_ipv4() == first_is_ipv4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    while first.len() + second.len() > 0 {
        order.extend(first.next());
        order.extend(second.next());
    }
    order.truncate(MAX_ADDRESSES);
    order
}

fn no_address(found: usize, family: Family) -> String {
    match (found, family) {
        (0, _) | (_, Family::Both) => "the lookup gave no address".to_owned(),
        (_, Family::V4) => format!("none of the {found} addresses is IPv4, and the settings allow no other"),
        (_, Family::V6) => format!("none of the {found} addresses is IPv6, and the settings allow no other"),
    }
}
