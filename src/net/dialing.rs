//! Connecting: to an address, or to a host whose name is looked up and whose addresses are then
//! tried until one answers (RFC 8305).
//!
//! Each attempt has a socket and a token of its own, apart from the connections: what comes of one
//! that lost can be taken for nobody's.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Entry, Net};
use crate::addr::{Addr, IntoAddr};
use crate::close::Attempt;
use crate::connect_options::ConnectOptions;
use crate::connection::{Connection, State, Via};
use crate::dial::{most_telling, Dial, Family, Step};
use crate::id::{AttemptId, ConnId};
use crate::mailbox::Command;
use crate::names::{Answer, Waiting};
use crate::socket::{Connect, Stream};
use crate::timers::Time;

/// A try to reach one of a host's addresses.
#[derive(Debug)]
pub(crate) struct Try {
    /// The connection that it is made for.
    pub(crate) conn: ConnId,
    number: usize,
    stream: Stream,
}

/// How far a connection to a host has come.
#[derive(Debug)]
pub(crate) struct Call {
    family: Family,
    local_addr: Option<SocketAddr>,
    stage: Stage,
    /// When the next attempt is due.
    pub(crate) next_at: Time,
}

#[derive(Debug)]
enum Stage {
    /// The addresses are being looked up. Dropped, the answer is wanted no more.
    Asking(#[allow(dead_code)] Waiting),
    /// They are tried; of each attempt that was started, its socket.
    Trying(Dial, Vec<Option<AttemptId>>),
}

/// What has become of a call.
pub(crate) enum Called {
    /// It goes on.
    Waits,
    /// An attempt won: its socket, whom it reached, and the error that is pending on it already.
    Won(Stream, Addr, Option<io::Error>),
    /// No address answered.
    Failed,
}

impl Net {
    /// Connects to `addr`: an address, or its text, or a host's name and a port
    /// (`db.example.org:5432`). The connection can be sent to at once; what is sent is queued until it is
    /// established.
    ///
    /// Success is told by `on_open`, every failure by `on_close`, in a later callback: also those
    /// that the system reports at once. [`connect_timeout`](crate::Config::connect_timeout) covers all of
    /// it. A name is looked up by [`Resolve`](crate::Resolve) on another thread; then its addresses are
    /// tried, both families by turns, the next one as soon as one fails or has not answered for
    /// [`attempt_delay`](crate::Config::attempt_delay), until the first is established.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a text that is no address; `ConnectionAborted` during a shutdown, so that
    /// a handler which connects anew whenever a connection ends does not keep it from ending.
    pub fn connect(&mut self, addr: impl IntoAddr) -> io::Result<ConnId> {
        self.connect_with(addr, &ConnectOptions::default())
    }

    /// Connects as [`connect`](Self::connect) does, with what `options` ask for.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and `InvalidInput` for options that cannot be met.
    pub fn connect_with(&mut self, addr: impl IntoAddr, options: &ConnectOptions) -> io::Result<ConnId> {
        let addr = addr.into_addr()?;
        self.refuse_while_stopping()?;
        self.check(&addr, options)?;
        let now = self.tick();
        let mut conn = Connection::new(State::Connecting, Via::Connect, Some(addr.clone()), now);
        if let Some(settings) = &options.settings {
            self.has_soft_limits |= settings.soft_limit.is_some();
            conn.set_settings(Arc::new(settings.clone()));
        }
        if let Some(timeout) = options.connect_timeout {
            conn.set_connect_timeout(timeout);
        }
        let id = self.add(conn, Stream::None);
        self.stats.connects += 1;
        match &addr {
            Addr::Host(host) => self.look_up(id, host.name(), host.port(), options),
            addr => {
                let connect = self.system.connect(addr, options.local_addr, &self.config);
                self.connecting(id, connect);
            }
        }
        self.settle(id);
        Ok(id)
    }

    fn check(&self, addr: &Addr, options: &ConnectOptions) -> io::Result<()> {
        let invalid = |message: &str| Err(io::Error::new(ErrorKind::InvalidInput, message));
        match (addr, options.local_addr) {
            (Addr::Tcp(addr), Some(local)) if addr.is_ipv4() != local.is_ipv4() => {
                return invalid("local_addr is of another family than the address to connect to");
            }
            (Addr::Tcp(_) | Addr::Host(_), _) | (_, None) => {}
            (_, Some(_)) => return invalid("local_addr is for TCP only"),
        }
        if options.connect_timeout.is_some_and(|time| time < crate::settings::SHORTEST) {
            return invalid("connect_timeout must be at least 1 ms");
        }
        if let Some(settings) = &options.settings {
            settings.validate(self.config.total_write_buffer)?;
        }
        Ok(())
    }

    /// Takes up what a try to connect came to.
    pub(crate) fn connecting(&mut self, id: ConnId, connect: io::Result<Connect>) {
        let Some(entry) = self.conns.get_mut(id) else { return };
        let result = match connect {
            Ok(Connect::Started(stream)) => {
                entry.stream = stream;
                entry.stream.register(&self.system.registry, id.token())
            }
            Ok(Connect::TryAgain(stream)) => {
                entry.stream = stream;
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
        }
    }

    /// Has the addresses of a host looked up. The answer comes through the mailbox, as commands of
    /// other threads do; one that comes too late finds nobody.
    fn look_up(&mut self, id: ConnId, name: &str, port: u16, options: &ConnectOptions) {
        // The handle of a lookup that hangs must not keep the waker of a reactor that is gone.
        let mailbox = Arc::downgrade(&self.mailbox);
        let reply = move |addrs| {
            if let Some(mailbox) = mailbox.upgrade() {
                let _ = mailbox.post(Command::Resolved(id, addrs));
            }
        };
        let (answer, waiting) = Answer::awaited(Box::new(reply));
        let local = options.local_addr;
        let family = match local {
            Some(SocketAddr::V4(_)) => Family::V4,
            Some(SocketAddr::V6(_)) => Family::V6,
            None => options.family.unwrap_or(self.config.family),
        };
        let stage = Stage::Asking(waiting);
        self.calls.insert(id, Box::new(Call { family, local_addr: local, stage, next_at: Time::NEVER }));
        let resolver = self.resolver.get_or_insert_with(|| self.system.resolver());
        resolver.resolve(name, port, answer);
    }

    /// A lookup has been answered.
    pub(crate) fn resolved(&mut self, id: ConnId, addrs: io::Result<Vec<SocketAddr>>) {
        #[cfg(feature = "sim")]
        self.note_answer();
        let Some(call) = self.calls.get_mut(id).filter(|call| matches!(call.stage, Stage::Asking(_))) else {
            return;
        };
        let delay = self.config.attempt_delay;
        match addrs.and_then(|addrs| Dial::new(addrs, call.family, delay)) {
            Ok(dial) => {
                call.stage = Stage::Trying(dial, Vec::new());
                self.list_ready(id);
            }
            Err(error) => {
                self.touch(id, |conn, stream, cx| conn.fail_lookup(&error, stream, cx));
            }
        }
    }

    /// Sees what the attempts for a connection have come to, and starts those that are due.
    pub(crate) fn go_on_calling(&mut self, id: ConnId) -> Called {
        let Some(call) = self.calls.get_mut(id) else { return Called::Waits };
        let Stage::Trying(dial, attempts) = &mut call.stage else { return Called::Waits };
        let mut reached = None;
        // Whoever has an outcome is heard before anybody else is tried.
        for number in dial.in_flight().collect::<Vec<_>>() {
            let attempt = attempts.get(number).copied().flatten();
            let Some(stream) = attempt.and_then(|id| Some(&mut self.attempts.get_mut(id)?.stream)) else {
                continue;
            };
            let pending = match stream.finish_connect() {
                Ok(false) => continue,
                Ok(true) => None,
                // Only what was established can be reset; what came before is still to be read.
                Err(error) if is_reset(&error) => Some(error),
                Err(error) => {
                    dial.failed(number, error.raw_os_error().unwrap_or(libc::EIO));
                    continue;
                }
            };
            // Who comes too late is closed unread, with the other losers.
            if dial.established(number) {
                reached = dial.addr(number).map(|addr| (Addr::Tcp(addr), pending));
            }
        }
        loop {
            match dial.step(self.now) {
                Step::Start(number, addr) => {
                    let connect = self.system.connect(&Addr::Tcp(addr), call.local_addr, &self.config);
                    let started = connect.and_then(|connect| match connect {
                        Connect::Started(mut stream) | Connect::TryAgain(mut stream) => {
                            let registry = &self.system.registry;
                            let mut result = Ok(());
                            let attempt = self.attempts.insert_with(|attempt: AttemptId| {
                                result = stream.register(registry, attempt.token());
                                Try { conn: id, number, stream }
                            });
                            result.map(|()| attempt)
                        }
                    });
                    attempts.push(started.as_ref().ok().copied());
                    if let Err(error) = started {
                        dial.failed(number, error.raw_os_error().unwrap_or(libc::EIO));
                    }
                }
                Step::Wait(until) => {
                    call.next_at = until;
                    return Called::Waits;
                }
                Step::Failed => return Called::Failed,
                Step::Won(number) => {
                    let attempt = attempts.get_mut(number).and_then(Option::take);
                    let won = attempt.and_then(|attempt| self.attempts.remove(attempt));
                    return match (won, reached) {
                        (Some(won), Some((peer, pending))) => Called::Won(won.stream, peer, pending),
                        _ => Called::Waits,
                    };
                }
            }
        }
    }

    /// A call is over: its lookup is wanted no more, and the sockets of all attempts but the winner's are
    /// closed. Returns the attempts that failed.
    pub(crate) fn end_call(&mut self, id: ConnId, timed_out: bool) -> Vec<Attempt> {
        let Some(call) = self.calls.remove(id) else { return Vec::new() };
        let Stage::Trying(mut dial, attempts) = call.stage else { return Vec::new() };
        if timed_out {
            dial.time_out();
        }
        for attempt in attempts.into_iter().flatten() {
            if let Some(mut lost) = self.attempts.remove(attempt) {
                debug_assert_eq!(lost.conn, id, "attempt {}", lost.number);
                lost.stream.deregister(&self.system.registry);
            }
        }
        let failures = dial.failures().into_iter();
        failures.map(|(addr, errno)| Attempt { addr, errno }).collect()
    }

    /// Before the report of a connection: which addresses were tried in vain, if any were.
    pub(crate) fn gather_attempts(&mut self, id: ConnId) {
        let calling = self.is_calling(id);
        let Some(Entry { conn, .. }) = self.conns.get_mut(id) else { return };
        let attempts = match calling {
            true => {
                let timed_out = conn.connect_timed_out();
                self.end_call(id, timed_out)
            }
            false => conn.only_attempt().into_iter().collect(),
        };
        if let Some(Entry { conn, .. }) = self.conns.get_mut(id) {
            conn.note_attempts(attempts);
        }
    }

    /// Whether the addresses of a host are being looked up or tried for this connection.
    #[inline]
    pub(crate) fn is_calling(&self, id: ConnId) -> bool {
        !self.calls.is_empty() && self.calls.contains(id)
    }

    /// Moves the winner's socket to its connection, which hears of its readiness from here on.
    pub(crate) fn take_winner(&mut self, id: ConnId, mut stream: Stream) -> io::Result<()> {
        let Some(Entry { stream: place, .. }) = self.conns.get_mut(id) else { return Ok(()) };
        let registered = stream.reregister(&self.system.registry, id.token());
        *place = stream;
        #[cfg(feature = "sim")]
        self.note_winner(id);
        registered
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE))
}

/// Why none of a host's addresses could be reached.
pub(crate) fn why_all_failed(attempts: &[Attempt]) -> io::Error {
    let failures: Vec<_> = attempts.iter().map(|attempt| (attempt.addr, attempt.errno)).collect();
    match most_telling(&failures) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other("no address was tried"),
    }
}
