//! The poll, and the phases of a turn.

mod accepting;
mod company;
mod connecting;
mod greeting;
mod phases;
mod serving;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::time::Duration;

use crate::close::CloseReason;
use crate::config::Config;
use crate::handler::Handler;
use crate::id::Source;
use crate::lapses::LAPSE;
use crate::mailbox::{Command, Mailbox};
use crate::names::Resolve;
use crate::net::{Errand, Net, LOOKS};
use crate::system::{self, Poller, System, Wake};
use crate::timers::Time;
use crate::transport::Hints;

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The reactor goes on.
    Running,
    /// A shutdown has been carried out: there is nothing left to do, now or ever.
    Stopped,
}

/// A poll that left nothing unseen in the kernel. Once so many connections have been served as were
/// listed as ready by then, whatever had come by that moment was heard.
#[derive(Clone, Copy, Debug)]
struct Horizon {
    moment: Time,
    readied: u64,
    /// Who has not been heard a slice after this is not waited for.
    from: Time,
    /// That was moved behind a lapse: once only, for a reactor that is always late must keep its timers
    /// all the same.
    is_moved: bool,
}

/// One event loop: polls the kernel and calls a [`Handler`].
///
/// It belongs to one thread; [`Handle`](crate::Handle) reaches it from others. To run it inside
/// another event loop, wait for its file descriptor ([`AsFd`]) to be readable, for
/// [`next_timeout`](Self::next_timeout) at most, and call [`turn`](Self::turn) with a timeout of
/// zero.
pub struct Reactor {
    poller: Poller,
    /// The buffer all reads go through.
    scratch: Vec<u8>,
    /// The waker's event came: the mailbox is to be looked into.
    woken: bool,
    /// When the present turn began, and a tenth of its slice in nanoseconds.
    began: Time,
    tenth_of_slice: u64,
    /// The phase that comes next in the present turn.
    phase: usize,
    horizons: VecDeque<Horizon>,
    /// Up to here everybody was heard.
    heard: Time,
    /// Which of the listeners is the first to accept in the next turn.
    first_listener: usize,
    net: Net,
}

impl Reactor {
    /// Makes a reactor.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a configuration that cannot work, with the reason; otherwise those of
    /// making the poll (no file descriptors left, for one).
    pub fn new(config: Config) -> io::Result<Self> {
        config.validate()?;
        let parts = system::operating_system(&config)?;
        Self::of(config, parts)
    }

    fn of(config: Config, (system, poller, wake): (System, Poller, Wake)) -> io::Result<Self> {
        let mailbox = Mailbox::new(config.max_commands, config.max_command_bytes, wake);
        let scratch = vec![0; config.read_size];
        Ok(Self {
            poller,
            scratch,
            woken: false,
            began: Time::default(),
            tenth_of_slice: u64::try_from(config.turn_slice.as_nanos() / 10).unwrap_or(u64::MAX),
            phase: 0,
            horizons: VecDeque::new(),
            heard: Time::default(),
            first_listener: 0,
            net: Net::new(config, system, mailbox)?,
        })
    }

    /// A reactor on a simulated kernel.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(config: Config, kernel: crate::simnet::Kernel) -> io::Result<Self> {
        config.validate()?;
        Self::of(config, system::simulated(kernel)?)
    }

    /// What a handler gets with every callback, to set things up before the loop or between turns.
    pub fn net(&mut self) -> &mut Net {
        self.note_lateness(self.owes_work(), self.next_deadline());
        &mut self.net
    }

    pub(crate) fn net_ref(&self) -> &Net {
        &self.net
    }

    /// Has the names of hosts looked up by another [`Resolve`] than the system's, from here on.
    pub fn set_resolver(&mut self, resolver: Box<dyn Resolve>) {
        self.net.resolver = Some(resolver);
    }

    /// Turns until a shutdown has been carried out.
    ///
    /// # Errors
    ///
    /// Those of the poll itself, which leave nothing to be done. What befalls a connection is
    /// never an error here.
    ///
    /// # Panics
    ///
    /// Passes on a panic of the handler, unless [`Config::catch_panics`] is set. The connection
    /// whose callback it was is reset; to go on with the others, call again.
    pub fn run<H: Handler + ?Sized>(&mut self, handler: &mut H) -> io::Result<()> {
        let mut asked = None;
        while self.turn_once(handler, None, asked)? == Turn::Running {
            // The next poll follows at once.
            asked = Some(self.net.now);
        }
        Ok(())
    }

    /// Makes one turn: waits for events, for `timeout` at most, and deals with what there is.
    ///
    /// When it leaves work behind, as when a budget is spent, the file descriptor is readable
    /// again at once.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn turn<H: Handler + ?Sized>(
        &mut self,
        handler: &mut H,
        timeout: Option<Duration>,
    ) -> io::Result<Turn> {
        let turn = self.turn_once(handler, timeout, None)?;
        if turn == Turn::Running && self.owes_work() {
            self.net.mailbox.nudge();
        }
        Ok(turn)
    }

    /// How long another event loop may wait before it calls [`turn`](Self::turn), if the file
    /// descriptor does not become readable before: zero when work is owed, `None` for ever.
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.owes_work() || self.net.has_stopped() {
            return Some(Duration::ZERO);
        }
        Some(self.next_deadline()?.since(self.net.clock()))
    }

    fn next_deadline(&self) -> Option<Time> {
        match (self.net.deadlines.next(), self.net.alarms.next()) {
            (Some(deadline), Some(alarm)) => Some(deadline.min(alarm)),
            (deadline, alarm) => deadline.or(alarm),
        }
    }

    fn owes_work(&self) -> bool {
        self.woken || self.net.owes_work()
    }

    fn turn_once<H: Handler + ?Sized>(
        &mut self,
        handler: &mut H,
        timeout: Option<Duration>,
        asked: Option<Time>,
    ) -> io::Result<Turn> {
        if !self.net.has_stopped() {
            self.poll(timeout, asked)?;
        }
        self.net.stats.turns += 1;
        self.net.looks = LOOKS;
        self.phase = 0;
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.phases(handler))) {
            // A timer that panics each time must not keep the phases behind it from their turn.
            self.after_panic(panic);
        }
        let length = self.net.tick_over().since(self.began);
        self.net.stats.longest_turn = self.net.stats.longest_turn.max(length);
        Ok(match self.net.has_stopped() {
            true => Turn::Stopped,
            false => Turn::Running,
        })
    }

    /// Waits for events and takes in all that the kernel has, a batch at a time: whoever is judged in
    /// this turn has been heard. It comes to an end, for there are only so many things to tell of.
    /// The moment at which it is asked may be known already.
    fn poll(&mut self, timeout: Option<Duration>, asked: Option<Time>) -> io::Result<()> {
        let (owed, due) = (self.owes_work(), self.next_deadline());
        let mut asked = asked.unwrap_or_else(|| self.net.clock());
        let timeout = match (timeout, due) {
            _ if owed => Some(Duration::ZERO),
            (Some(most), Some(due)) => Some(most.min(due.since(asked))),
            (most, due) => most.or(due.map(|due| due.since(asked))),
        };
        let interrupted = self.poller.poll(&self.net.config, timeout)?;
        self.note_lateness(owed, due);
        let mut taken = self.take_events();
        if let (Some(timeout), true, 0) = (timeout, !interrupted, taken) {
            // It has waited all that time, and there was nothing at its end.
            asked = asked.plus(timeout);
        }
        // Some may be told of twice.
        let others = self.net.children.len() + self.net.watches.len();
        let all = 2 * (self.net.conns.len() + self.net.listeners.len() + others + 1);
        let mut left = all;
        loop {
            let full = taken >= self.net.config.events_per_turn;
            left = left.saturating_sub(taken);
            // A timer fell due since the kernel was asked: whoever spoke before it is heard before it.
            if self.net.alarms.next().is_some_and(|due| due > asked && due <= self.net.now) {
                left = all;
            } else if !full || left == 0 {
                break;
            }
            asked = self.net.now;
            self.poller.poll(&self.net.config, Some(Duration::ZERO))?;
            self.net.tick_over();
            taken = self.take_events();
        }
        self.began = self.net.now;
        self.net.asked = asked;
        // Nobody else asks who has been heard.
        if self.net.alarms.next().is_some() {
            let moment = asked.min(self.began);
            let (readied, from) = (self.net.readied, self.began);
            self.horizons.push_back(Horizon { moment, readied, from, is_moved: false });
        }
        Ok(())
    }

    /// The turn begins. When something was owed or due long before, the process was not there for it:
    /// stopped, or busy in an outer loop.
    fn note_lateness(&mut self, owed: bool, due: Option<Time>) {
        let (before, now) = (self.net.last_served, self.net.clock());
        let late = due.map_or(Duration::ZERO, |due| now.since(due));
        if owed {
            self.net.lapses.note(before, now);
        } else if late >= LAPSE {
            // Nothing tells when it began. As long before that moment as behind it is likely enough.
            self.net.lapses.note(now.minus(2 * late).max(before), now);
        }
        (self.net.now, self.net.last_served) = (now, now);
        self.began = now;
    }

    /// Adds what the kernel says to what is known of each connection, and returns how many events that
    /// were. No callback comes from here, so that whatever a handler does or fails to do, no event is
    /// lost.
    fn take_events(&mut self) -> usize {
        let (net, woken) = (&mut self.net, &mut self.woken);
        let mut taken = 0;
        self.poller.for_each_event(|token, hints| {
            taken += 1;
            match net.conns.find_connection(token) {
                Some((id, entry)) => {
                    entry.conn.on_readiness(hints);
                    if !std::mem::replace(&mut entry.conn.listed.ready, true) {
                        net.ready.push_back(id);
                        net.readied += 1;
                    }
                }
                None => *woken |= take_other_event(net, token, hints),
            }
        });
        taken
    }

    /// A callback panicked. Its connection is in an unknown state and ends; everything else stands
    /// as it did, and the lists remember what was still to be done.
    fn after_panic(&mut self, panic: Box<dyn Any + Send>) {
        self.net.serving = None;
        if let Some(conn) = self.net.calling.take() {
            self.net.kill(conn, CloseReason::HandlerPanic);
        }
        if !self.net.config.catch_panics {
            if self.owes_work() {
                self.net.mailbox.nudge();
            }
            resume_unwind(panic);
        }
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        log::error!("the handler panicked: {}", text.unwrap_or("(no message)"));
    }
}

/// An event of something else than a connection that is there. Returns whether it is the waker's.
#[inline(never)]
fn take_other_event(net: &mut Net, token: usize, hints: Hints) -> bool {
    let known = match Source::from_token(token) {
        Some(Source::Waker) => return true,
        Some(Source::Listener { slot, generation }) => {
            let listener = net.listeners.find(slot, generation);
            listener.map(|(_, listener)| listener.on_readable()).is_some()
        }
        Some(Source::Attempt { slot, generation }) => {
            let conn = net.attempts.find(slot, generation).map(|(_, attempt)| attempt.conn);
            conn.map(|conn| net.list_ready(conn)).is_some()
        }
        Some(Source::Child { slot, generation }) => net.children.on_event(slot, generation),
        Some(Source::Watch { slot, generation }) => net.watches.on_event(slot, generation, hints),
        Some(Source::Connection { .. }) | None => false,
    };
    net.stats.stale_events += u64::from(!known);
    false
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let waiting = self.net.mailbox.stop();
        let waiting: Vec<_> = self.net.inbox.drain(..).chain(waiting).collect();
        let mut waiting = waiting;
        for command in &mut waiting {
            match command {
                Command::Run(Errand::Arrival(arrival)) => arrival.reset(),
                Command::Run(Errand::Client(client)) => client.reset(),
                _ => {}
            }
        }
        let waiting = waiting.len();
        if waiting > 0 {
            log::warn!("the reactor is dropped with {waiting} commands of other threads not carried out");
        }
        let (connections, queued) = (self.net.conns.len(), self.net.stats.queued);
        if connections > 0 {
            log::warn!(
                "the reactor is dropped with {connections} connections open and {queued} bytes unsent; \
                 shut it down first to have them delivered"
            );
        }
        // A stream that is cut here must not look whole.
        for conn in self.net.conns.ids().collect::<Vec<_>>() {
            if self.net.queued(conn) > 0 {
                self.net.kill(conn, CloseReason::Shutdown);
            }
        }
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

impl AsRawFd for Reactor {
    fn as_raw_fd(&self) -> RawFd {
        self.poller.as_raw_fd()
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("net", &self.net).finish_non_exhaustive()
    }
}
