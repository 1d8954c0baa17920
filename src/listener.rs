//! Accepting: what each error of `accept` means, and what a listener waits for.
//!
//! Readiness is edge-triggered, so a listener remembers that clients may be waiting (`owed`): when
//! file descriptors run out the kernel does not say a second time that somebody is there.

use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::addr::Addr;
use crate::socket::{Accept, Acceptor, Reserve, Stream};
use crate::stats::Stats;
use crate::timers::Time;

/// The first wait after descriptors or memory ran out; it doubles up to the last one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Clients turned away with the reserved descriptor in one go.
const SHED_AT_ONCE: usize = 64;

/// What an error of `accept` means for the loop that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody waits any more.
    Empty,
    /// It cost this one client, or nothing at all: go on.
    GoOn,
    /// Descriptors or memory are short, or nobody knows: wait a little.
    Pause,
    /// The listener itself is broken.
    Broken,
}

/// Judges an error of `accept`. Linux hands a waiting connection's own network errors to accept
/// (accept(2), "Error handling"); other systems tell that the client is gone already.
fn judge(error: &io::Error) -> Verdict {
    if error.kind() == ErrorKind::WouldBlock {
        return Verdict::Empty;
    }
    match error.raw_os_error() {
        Some(
            libc::EINTR
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
            | libc::ECONNRESET,
        ) => Verdict::GoOn,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Some(libc::ENONET) => Verdict::GoOn,
        // macOS says so of a client that reset while it waited.
        Some(libc::EINVAL) if cfg!(target_vendor = "apple") => Verdict::GoOn,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT | libc::EOPNOTSUPP) => {
            Verdict::Broken
        }
        _ => Verdict::Pause,
    }
}

/// What one try to accept came to.
#[derive(Debug)]
pub(crate) enum Step {
    Accepted(Stream, Option<Addr>),
    /// One client was lost on the way, or none: try the next.
    GoOn,
    /// Nothing more for now.
    Stop,
    /// The listener is of no more use.
    Broken(io::Error),
}

/// What keeps a listener from accepting although clients may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Nothing,
    /// `max_connections` are open.
    Limit,
    /// Descriptors or memory ran out; tried again at this moment, or when one is freed.
    Exhausted(Time),
}

/// One listener.
#[derive(Debug)]
pub(crate) struct Listener<A = Acceptor> {
    pub(crate) acceptor: A,
    /// Clients may be waiting: an event said so, and no EAGAIN since.
    owed: bool,
    hold: Hold,
    pause: Duration,
    /// The present episode of exhaustion has been logged.
    logged: bool,
}

impl<A: Accept> Listener<A> {
    pub(crate) fn new(acceptor: A) -> Self {
        Self {
            acceptor,
            // Those who came before the registration may bring no event.
            owed: true,
            hold: Hold::Nothing,
            pause: FIRST_PAUSE,
            logged: false,
        }
    }

    pub(crate) fn on_readable(&mut self) {
        self.owed = true;
    }

    /// Whether trying to accept now makes sense.
    pub(crate) fn is_ready(&self) -> bool {
        self.owed && self.hold == Hold::Nothing
    }

    /// Waits until a connection ends.
    pub(crate) fn hold_at_limit(&mut self) {
        self.hold = Hold::Limit;
    }

    /// A connection ended, and its file descriptor is free. Returns whether there is a try to be
    /// made up for.
    pub(crate) fn on_freed(&mut self) -> bool {
        let held = self.hold != Hold::Nothing;
        self.hold = Hold::Nothing;
        held && self.owed
    }

    /// When to try again, if nothing is freed before.
    pub(crate) fn retry_at(&self) -> Time {
        match self.hold {
            Hold::Exhausted(at) => at,
            Hold::Nothing | Hold::Limit => Time::NEVER,
        }
    }

    /// The pause is over.
    pub(crate) fn expire(&mut self, now: Time) {
        if now >= self.retry_at() {
            self.hold = Hold::Nothing;
        }
    }

    /// Accepts one client.
    pub(crate) fn accept(&mut self, now: Time, reserve: Option<&mut Reserve>, stats: &mut Stats) -> Step {
        let error = match self.acceptor.accept() {
            Ok((stream, peer)) => {
                stats.accepted += 1;
                self.pause = FIRST_PAUSE;
                return Step::Accepted(stream, peer);
            }
            Err(error) => error,
        };
        match judge(&error) {
            Verdict::Empty => {
                self.owed = false;
                self.logged = false;
                Step::Stop
            }
            Verdict::GoOn => {
                stats.accept_errors += 1;
                log::debug!("accept: {error}");
                Step::GoOn
            }
            Verdict::Pause => {
                self.pause(&error, now, reserve, stats);
                Step::Stop
            }
            Verdict::Broken => Step::Broken(error),
        }
    }

    fn pause(&mut self, error: &io::Error, now: Time, reserve: Option<&mut Reserve>, stats: &mut Stats) {
        stats.accept_pauses += 1;
        // One line until nobody waits any more.
        if !std::mem::replace(&mut self.logged, true) {
            log::warn!("accept: {error}; clients wait, trying again as file descriptors are freed");
        }
        self.hold = Hold::Exhausted(now.plus(self.pause));
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        if let Some(reserve) = reserve {
            for _ in 0..SHED_AT_ONCE {
                if !reserve.shed_one(&mut self.acceptor) {
                    break;
                }
                stats.shed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Fails with each of these errors in turn, then has nobody waiting.
    struct Script(VecDeque<i32>);

    impl Accept for Script {
        fn accept(&mut self) -> io::Result<(Stream, Option<Addr>)> {
            match self.0.pop_front() {
                Some(0) => Ok((Stream::None, None)),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(ErrorKind::WouldBlock.into()),
            }
        }
    }

    fn listener(script: &[i32]) -> Listener<Script> {
        Listener::new(Script(script.iter().copied().collect()))
    }

    fn at(millis: u64) -> Time {
        Time::from_duration(Duration::from_millis(millis))
    }

    // A4
    #[test]
    fn an_error_of_one_client_does_not_stop_the_others() {
        let errors =
            [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::ENETDOWN, libc::EPERM, libc::EHOSTUNREACH];
        for errno in errors {
            let (mut listener, mut stats) = (listener(&[errno, 0]), Stats::default());
            assert!(matches!(listener.accept(at(0), None, &mut stats), Step::GoOn), "{errno}");
            assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Accepted(..)));
            assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Stop));
            assert!(!listener.is_ready());
            assert_eq!((stats.accept_errors, stats.accepted, stats.accept_pauses), (1, 1, 0));
        }
    }

    // A4
    #[test]
    fn exhaustion_pauses_longer_each_time_and_is_forgotten_by_success() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let (mut listener, mut stats) = (listener(&[errno; 7]), Stats::default());
            let mut now = at(0);
            for wait in [100, 200, 400, 800, 1000, 1000] {
                assert!(listener.is_ready());
                assert!(matches!(listener.accept(now, None, &mut stats), Step::Stop));
                assert!(!listener.is_ready());
                assert_eq!(listener.retry_at().since(now), Duration::from_millis(wait));
                listener.expire(now);
                assert!(!listener.is_ready(), "too early");
                now = listener.retry_at();
                listener.expire(now);
            }
            listener.acceptor.0 = [0, errno].into();
            assert!(matches!(listener.accept(now, None, &mut stats), Step::Accepted(..)));
            assert!(matches!(listener.accept(now, None, &mut stats), Step::Stop));
            assert_eq!(listener.retry_at().since(now), FIRST_PAUSE);
        }
    }

    // A1: the kernel does not say again that somebody waits.
    #[test]
    fn a_freed_descriptor_makes_up_for_the_accept_owed() {
        let (mut listener, mut stats) = (listener(&[libc::EMFILE, 0]), Stats::default());
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Stop));
        assert!(listener.on_freed());
        assert!(listener.is_ready());
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Accepted(..)));
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Stop));
        assert!(!listener.on_freed());
    }

    #[test]
    fn a_listener_at_its_limit_waits_for_a_connection_to_end() {
        let (mut listener, mut stats) = (listener(&[0]), Stats::default());
        listener.hold_at_limit();
        assert!(!listener.is_ready());
        assert_eq!(listener.retry_at(), Time::NEVER);
        assert!(listener.on_freed());
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Accepted(..)));
    }

    // A7
    #[test]
    fn a_listener_that_is_broken_says_so() {
        for errno in [libc::EBADF, libc::ENOTSOCK] {
            let step = listener(&[errno]).accept(at(0), None, &mut Stats::default());
            assert!(matches!(step, Step::Broken(error) if error.raw_os_error() == Some(errno)));
        }
    }

    #[test]
    fn an_error_nobody_knows_does_not_spin() {
        let (mut listener, mut stats) = (listener(&[libc::EXDEV, 0]), Stats::default());
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Stop));
        assert!(listener.retry_at() > at(0));
    }
}
