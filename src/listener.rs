//! Accepting: what each error of `accept` means, and what a listener waits for.
//!
//! Readiness is edge-triggered, so a listener remembers that clients may be waiting (`owed`): when
//! file descriptors run out the kernel does not say a second time that somebody is there.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use crate::addr::Addr;
use crate::settings::Settings;
use crate::socket::{Accept, Acceptor, Reserve, Shed, Stream};
use crate::stats::Stats;
use crate::timers::Time;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// The first wait after descriptors or memory ran out; it doubles up to the last one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Clients turned away with the reserved descriptor in one go.
const SHED_AT_ONCE: usize = 64;

/// So many errors in a row that should have cost one client each come from something else, such as
/// a security policy that forbids to accept: they do not go away by trying again at once.
const PERSISTENT: u32 = 64;

/// Exhaustion that comes back within this time is the same episode, and has been logged.
const EPISODE: Duration = Duration::from_secs(10);

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
    /// One client was lost on the way, or turned away, or none: try the next.
    GoOn,
    /// Nobody waits any more.
    Empty,
    /// Nothing more before this moment.
    Pause(Time),
    /// The listener is of no more use.
    Broken(io::Error),
}

/// What keeps a listener from accepting although clients may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Nothing,
    /// `max_connections` are open; at this moment one of them can be taken for a client that gets nowhere.
    Limit(Time),
    /// Descriptors or memory ran out; tried again at this moment, or when one is freed.
    Exhausted(Time),
}

/// One listener.
#[derive(Debug)]
pub(crate) struct Listener<A = Acceptor> {
    pub(crate) acceptor: A,
    /// Of the connections that it brings, if they have any of their own.
    pub(crate) settings: Option<Arc<Settings>>,
    /// Its clients speak TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    /// Its clients are handed out among the reactors of the group.
    pub(crate) hands_out: bool,
    /// Clients may be waiting: an event said so, and no EAGAIN since.
    owed: bool,
    hold: Hold,
    pause: Duration,
    /// Errors since somebody was accepted or nobody waited.
    errors: u32,
    /// Until when the present episode of exhaustion lasts at least; it has been logged.
    episode: Time,
    /// Clients accepted in the course of a shutdown.
    last_accepts: u32,
}

impl<A: Accept> Listener<A> {
    pub(crate) fn new(acceptor: A, settings: Option<Arc<Settings>>) -> Self {
        Self {
            acceptor,
            settings,
            #[cfg(feature = "tls")]
            tls: None,
            hands_out: false,
            // Those who came before the registration may bring no event.
            owed: true,
            hold: Hold::Nothing,
            pause: FIRST_PAUSE,
            errors: 0,
            episode: Time::default(),
            last_accepts: 0,
        }
    }

    pub(crate) fn on_readable(&mut self) {
        self.owed = true;
    }

    /// Whether trying to accept now makes sense.
    pub(crate) fn is_ready(&self) -> bool {
        self.owed && self.hold == Hold::Nothing
    }

    /// Nobody waits, as far as is known.
    pub(crate) fn is_empty(&self) -> bool {
        !self.owed
    }

    /// Waits until a connection ends, or this moment, when one may be ended.
    pub(crate) fn hold_at_limit(&mut self, until: Time) {
        self.hold = Hold::Limit(until);
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
            Hold::Limit(at) | Hold::Exhausted(at) => at,
            Hold::Nothing => Time::NEVER,
        }
    }

    /// The pause is over.
    pub(crate) fn expire(&mut self, now: Time) {
        if now >= self.retry_at() {
            self.hold = Hold::Nothing;
        }
    }

    /// One more was accepted in the course of a shutdown. Returns how many that were.
    pub(crate) fn accepted_last(&mut self) -> u32 {
        self.last_accepts += 1;
        self.last_accepts
    }

    /// Accepts one client.
    pub(crate) fn accept(&mut self, now: Time, reserve: Option<&mut Reserve>, stats: &mut Stats) -> Step {
        let error = match self.acceptor.accept() {
            Ok((stream, peer)) => {
                stats.accepted += 1;
                self.pause = FIRST_PAUSE;
                self.errors = 0;
                return Step::Accepted(stream, peer);
            }
            Err(error) => error,
        };
        match judge(&error) {
            Verdict::Empty => self.empty(),
            Verdict::GoOn => {
                stats.accept_errors += 1;
                log::debug!("accept: {error}");
                self.errors = self.errors.saturating_add(1);
                match self.errors >= PERSISTENT {
                    true => self.pause(&error, now, stats),
                    false => Step::GoOn,
                }
            }
            Verdict::Pause => match self.shed(reserve, stats) {
                Shed::One => Step::GoOn,
                Shed::Nobody => self.empty(),
                Shed::Failed => self.pause(&error, now, stats),
            },
            Verdict::Broken => Step::Broken(error),
        }
    }

    fn empty(&mut self) -> Step {
        self.owed = false;
        self.errors = 0;
        Step::Empty
    }

    /// Turns clients away with the reserved descriptor, a bounded number. The next try finds more of
    /// them, or nobody.
    fn shed(&mut self, reserve: Option<&mut Reserve>, stats: &mut Stats) -> Shed {
        let Some(reserve) = reserve else { return Shed::Failed };
        for _ in 0..SHED_AT_ONCE {
            match reserve.shed_one(&mut self.acceptor) {
                Shed::One => stats.shed += 1,
                end => return end,
            }
        }
        Shed::One
    }

    fn pause(&mut self, error: &io::Error, now: Time, stats: &mut Stats) -> Step {
        stats.accept_pauses += 1;
        // One line an episode, however often clients have it come back.
        if now >= self.episode {
            log::warn!("accept: {error}; clients wait, trying again as file descriptors are freed");
        }
        self.episode = now.plus(EPISODE);
        let until = now.plus(self.pause);
        self.hold = Hold::Exhausted(until);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        Step::Pause(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Held;
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
        Listener::new(Script(script.iter().copied().collect()), None)
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
            assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Empty));
            assert!(!listener.is_ready());
            assert_eq!((stats.accept_errors, stats.accepted, stats.accept_pauses), (1, 1, 0));
        }
    }

    #[test]
    fn an_error_of_one_client_that_does_not_go_away_pauses() {
        let errors = PERSISTENT as usize;
        let (mut listener, mut stats) = (listener(&vec![libc::EPERM; errors + 3]), Stats::default());
        for _ in 1..errors {
            assert!(matches!(listener.accept(at(0), None, &mut stats), Step::GoOn));
        }
        let mut now = at(0);
        for wait in [100, 200, 400] {
            let step = listener.accept(now, None, &mut stats);
            assert!(matches!(step, Step::Pause(until) if until.since(now) == Duration::from_millis(wait)));
            assert!(!listener.is_ready());
            now = listener.retry_at();
            listener.expire(now);
        }
        // Once it goes away it is forgotten.
        listener.acceptor.0 = [libc::EPERM, 0, libc::EPERM].into();
        assert!(matches!(listener.accept(now, None, &mut stats), Step::Pause(_)));
        listener.expire(listener.retry_at());
        assert!(matches!(listener.accept(now, None, &mut stats), Step::Accepted(..)));
        assert!(matches!(listener.accept(now, None, &mut stats), Step::GoOn));
    }

    // A4
    #[test]
    fn exhaustion_pauses_longer_each_time_and_is_forgotten_by_success() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let (mut listener, mut stats) = (listener(&[errno; 7]), Stats::default());
            let mut now = at(0);
            for wait in [100, 200, 400, 800, 1000, 1000] {
                assert!(listener.is_ready());
                assert!(matches!(listener.accept(now, None, &mut stats), Step::Pause(_)));
                assert!(!listener.is_ready());
                assert_eq!(listener.retry_at().since(now), Duration::from_millis(wait));
                listener.expire(now);
                assert!(!listener.is_ready(), "too early");
                now = listener.retry_at();
                listener.expire(now);
            }
            listener.acceptor.0 = [0, errno].into();
            assert!(matches!(listener.accept(now, None, &mut stats), Step::Accepted(..)));
            assert!(matches!(listener.accept(now, None, &mut stats), Step::Pause(_)));
            assert_eq!(listener.retry_at().since(now), FIRST_PAUSE);
        }
    }

    // A1: the kernel does not say again that somebody waits.
    #[test]
    fn a_freed_descriptor_makes_up_for_the_accept_owed() {
        let (mut listener, mut stats) = (listener(&[libc::EMFILE, 0]), Stats::default());
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Pause(_)));
        assert!(listener.on_freed());
        assert!(listener.is_ready());
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Accepted(..)));
        assert!(matches!(listener.accept(at(0), None, &mut stats), Step::Empty));
        assert!(!listener.on_freed());
    }

    #[test]
    fn a_listener_at_its_limit_waits_for_a_connection_to_end() {
        let (mut listener, mut stats) = (listener(&[0]), Stats::default());
        listener.hold_at_limit(Time::NEVER);
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
        let step = listener.accept(at(0), None, &mut stats);
        assert!(matches!(step, Step::Pause(until) if until > at(0)));
    }

    // A2
    #[test]
    fn whoever_waits_is_turned_away_at_once_while_there_is_a_descriptor_for_it() {
        let mut reserve = Reserve::new(Box::new(|| std::fs::File::open("/dev/null").map(Held::File)));
        let reserve = reserve.as_mut().ok();
        let mut script = vec![libc::EMFILE];
        script.extend([0; 3 * SHED_AT_ONCE]);
        let (mut listener, mut stats) = (listener(&script), Stats::default());
        let reserve = reserve.unwrap();
        assert!(matches!(listener.accept(at(0), Some(reserve), &mut stats), Step::GoOn));
        assert_eq!((stats.shed, listener.is_ready()), (SHED_AT_ONCE as u64, true), "and so on at once");
        // With no descriptor left the kernel says so even when nobody waits.
        listener.acceptor.0 = [libc::EMFILE, 0].into();
        assert!(matches!(listener.accept(at(0), Some(reserve), &mut stats), Step::Empty));
        assert_eq!((stats.shed, stats.accept_pauses), (SHED_AT_ONCE as u64 + 1, 0));
        listener.acceptor.0 = [libc::EMFILE, libc::EMFILE].into();
        assert!(matches!(listener.accept(at(0), Some(reserve), &mut stats), Step::Pause(_)));
    }
}
