//! How a connection comes out: errors that end it, and the report of its end.

use std::io;

use super::{Connection, Context, State, UNKNOWN};
use crate::close::{reason_for, Attempt, Circumstances, CloseReason, CloseReport, Timeout};
use crate::read_buffer::ReadBuffer;
use crate::timers::Time;
use crate::transport::Transport;

impl Connection {
    /// The peer owes its end for too long. One that ended its session owes it only to the kernel.
    pub(super) fn end_lingering<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        let reason = match self.saw_fin() {
            true => self.clean_reason(),
            false => CloseReason::TimedOut(Timeout::Linger),
        };
        self.unacked = self.unacked_now(socket).unwrap_or(UNKNOWN);
        self.die(reason, socket, cx);
    }

    /// Ends the connection now. `reason` holds unless an error came first: the first error is
    /// what ended it, except that a panic of the handler is always told.
    pub(crate) fn die<T: Transport>(&mut self, reason: CloseReason, socket: &mut T, cx: &mut Context<'_>) {
        if self.is_dead() {
            return;
        }
        #[cfg(feature = "sim")]
        {
            let last = super::Last {
                occasion: reason,
                state: self.state,
                queued: self.queued(),
                unused: self.unused(),
                is_holder: self.is_holder(cx.terms.defaults),
                congested: self.is_congested(),
            };
            self.extra.get_or_insert_default().last = Some(last);
        }
        let connecting = self.state == State::Connecting;
        self.leave_handshake(cx);
        self.drop_queue(cx);
        self.set_congested(false);
        self.input = ReadBuffer::default();
        if !reason.is_clean() {
            self.unacked = self.unacked_now(socket).unwrap_or(UNKNOWN);
        }
        let lost = self.unsent > 0 || !matches!(self.unacked, 0 | UNKNOWN);
        let reason = match reason {
            CloseReason::HandlerPanic => reason,
            _ if self.ends().failed => CloseReason::Tls,
            _ if self.errno != 0 => {
                let lost = lost || self.write_failed();
                let saw_fin = self.saw_fin() && !self.ends().truncated;
                reason_for(self.errno, Circumstances { connecting, saw_fin, lost })
            }
            _ if self.write_failed() => CloseReason::Io,
            _ => reason,
        };
        // A slow consumer has missed at least the send that was refused.
        let reset = match reason {
            CloseReason::Aborted
            | CloseReason::HandlerPanic
            | CloseReason::Refused
            | CloseReason::SlowConsumer => true,
            _ => lost,
        };
        if reset {
            socket.reset_on_close();
        }
        self.state = State::Dead;
        self.reason = Some(reason);
    }

    /// The connection could not be established, or its socket not be put to use.
    pub(crate) fn fail<T: Transport>(&mut self, error: &io::Error, socket: &mut T, cx: &mut Context<'_>) {
        let connecting = self.state == State::Connecting;
        self.record(error);
        self.die(if connecting { CloseReason::ConnectFailed } else { CloseReason::Io }, socket, cx);
    }

    /// The host's name could not be looked up.
    pub(crate) fn fail_lookup<T: Transport>(
        &mut self,
        error: &io::Error,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) {
        self.extra.get_or_insert_default().lookup_error = Some(error.to_string().into());
        self.fail(error, socket, cx);
    }

    /// Keeps the first error. One thing is told later and means more: a Unix-domain socket
    /// answers a write with EPIPE and keeps its ECONNRESET for the next read.
    pub(super) fn record(&mut self, error: &io::Error) {
        // Without an errno it is an error of our own making: the connection's address, for one.
        let Some(errno) = error.raw_os_error() else { return };
        if self.is_settled() {
            return;
        }
        if self.errno == 0 || (self.errno == libc::EPIPE && errno == libc::ECONNRESET) {
            self.errno = errno;
        }
    }

    /// A reset that came after the connection was established and before anybody looked.
    pub(crate) fn broken_at_birth(&mut self, error: &io::Error) {
        self.record(error);
        self.set_readable(true);
        self.set_more_hint(true);
    }

    pub(crate) fn report(&self, now: Time) -> CloseReport {
        let extra = self.extra.as_deref();
        CloseReport {
            reason: self.reason.unwrap_or(CloseReason::Io),
            errno: (self.errno != 0).then_some(self.errno),
            saw_fin: self.saw_fin() && !self.ends().truncated,
            received: self.received,
            handed: self.handed,
            unsent: self.unsent,
            unacked: (self.unacked != UNKNOWN).then_some(self.unacked),
            duration: now.since(self.since),
            attempts: extra.map_or(Box::default(), |extra| extra.attempts.as_slice().into()),
            lookup_error: extra.and_then(|extra| extra.lookup_error.clone()),
            alert: extra.and_then(|extra| extra.alert),
            tls_error: extra.and_then(|extra| extra.tls_error.clone()),
        }
    }

    /// The time for connecting was up.
    pub(crate) fn connect_timed_out(&self) -> bool {
        self.reason == Some(CloseReason::TimedOut(Timeout::Connect))
    }

    /// The one address that was tried, when that is why the connection ended.
    pub(crate) fn only_attempt(&self) -> Option<Attempt> {
        let errno = match self.reason? {
            CloseReason::ConnectFailed if self.errno != 0 => self.errno,
            CloseReason::TimedOut(Timeout::Connect) => libc::ETIMEDOUT,
            _ => return None,
        };
        let addr = self.peer.addr()?.as_tcp()?;
        Some(Attempt { addr, errno })
    }
}
