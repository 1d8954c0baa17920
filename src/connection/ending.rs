//! How a connection ends: half-closes, and the lingering close.
//!
//! A close in good order is flush, end our stream, read until the peer ends its own, wait for the
//! last acknowledgement. Closing a socket with input unread makes the kernel send a reset, which
//! destroys what the peer has not received yet: so the input is read and thrown away first, within
//! caps, for a peer may go on sending for ever.

use std::io::{self, ErrorKind};

use super::{Connection, Context, Halves, State, UNKNOWN};
use crate::close::CloseReason;
use crate::read_buffer::ReadBuffer;
use crate::timers::Time;
use crate::transport::Transport;

impl Connection {
    /// `close`: the handler wants no more input, what is queued goes out, then all ends.
    pub(crate) fn close<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        match self.state {
            State::Flushing | State::Lingering | State::Dead => {}
            // One that was taken in is established, and merely has not been told of yet.
            State::Connecting if self.queued() == 0 && !self.is_arriving() => {
                self.die(CloseReason::Aborted, socket, cx)
            }
            State::Connecting => {
                self.set_close_wanted(true);
                self.set_fin_wanted(true);
            }
            State::Handshaking if self.queued() > 0 => {
                self.set_close_wanted(true);
                self.set_fin_wanted(true);
            }
            _ => self.begin_close(cx),
        }
    }

    /// `close_write`: our stream ends behind what is queued, the peer's goes on.
    pub(crate) fn close_write(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::Connecting | State::Handshaking => self.set_fin_wanted(true),
            // A pipe that cannot be sent to.
            State::Open if self.fin_wanted() => {}
            State::Open => {
                self.set_fin_wanted(true);
                self.ended_first = true;
                self.activity = cx.now;
                self.begin_to_await_reader(cx.now);
                self.state = State::HalfClosedLocal;
            }
            // The handler has yet to use what came before the peer's end, and to hear of that.
            State::HalfClosedRemote if !self.end_is_told() => self.set_fin_wanted(true),
            State::HalfClosedRemote => self.begin_close(cx),
            _ => {}
        }
    }

    pub(super) fn begin_close(&mut self, cx: &mut Context<'_>) {
        self.leave_handshake(cx);
        self.ended_first |= !self.saw_fin();
        self.set_fin_wanted(true);
        self.state = State::Flushing;
        if !self.waiting {
            self.progress = cx.now;
        }
        self.discarded = 0;
        self.set_eof_due(false);
        self.set_congested(false);
        self.set_drain_due(false);
        self.set_show_again(false);
        self.standing_since = Time::NEVER;
        self.input = ReadBuffer::default();
    }

    /// Takes whatever step towards the end is due: the end of our stream behind the last byte,
    /// the end of everything once both streams have ended or an error has been read up to.
    #[inline]
    pub(crate) fn advance<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        // As most connections are most of the time: open, whole, and with no end in sight.
        if self.state != State::Open || self.fin_wanted() || self.is_broken() {
            self.advance_to_end(socket, cx);
        }
    }

    fn advance_to_end<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        if matches!(self.state, State::Connecting | State::Dead) {
            return;
        }
        if self.is_broken() {
            if self.goes_on_reading() {
                return;
            }
            if self.saw_fin() || !self.is_readable() {
                self.die(CloseReason::Io, socket, cx);
            }
            return;
        }
        if self.state == State::Handshaking {
            return;
        }
        if self.end_is_told() && self.fin_wanted() && !self.is_closing() {
            self.begin_close(cx);
        }
        if self.fin_wanted() && !self.fin_sent && self.queued() == 0 {
            if let Err(error) = self.end_stream(socket, cx.now) {
                return self.fail_own(&error, socket, cx);
            }
        }
        if self.state == State::Flushing && self.fin_sent {
            self.state = State::Lingering;
        }
        if self.secured() && self.state == State::Lingering && self.is_settled() {
            return self.end_settled(socket, cx);
        }
        let has_ended = self.halves() == Some(Halves::ReadOnly) || self.saw_fin() && !self.ends().tail;
        if self.state != State::Lingering || (self.is_lingering() && !has_ended) {
            return;
        }
        if has_ended && self.error_hint() {
            self.ask_for_error(socket);
        }
        let unacked = self.unacked_now(socket);
        let delivered = unacked.is_none_or(|bytes| bytes == 0);
        if has_ended && (self.is_broken() || delivered) {
            self.unacked = unacked.unwrap_or(UNKNOWN);
            return self.die(self.clean_reason(), socket, cx);
        }
        if delivered {
            // From here on only the peer's end is awaited, and that within the caps.
            self.standing_since = cx.now;
            self.progress = cx.now;
            self.discarded = 0;
        }
    }

    /// Closing, and the peer has all of our bytes: it only owes its end.
    #[inline]
    pub(crate) fn is_lingering(&self) -> bool {
        self.state == State::Lingering && self.standing_since != Time::NEVER
    }

    /// An error is one of the end of a session: it is told once, to whoever asks first.
    fn end_stream<T: Transport>(&mut self, socket: &mut T, now: Time) -> io::Result<()> {
        self.fin_sent = true;
        if self.secured() {
            let all_taken = self.unacked_now(socket) == Some(0);
            self.ends_mut().all_taken |= all_taken;
        }
        match socket.shutdown_write() {
            Ok(()) if self.halves().is_some() => self.pipe_has_ended(),
            Ok(()) => self.fin_counted = true,
            // The end of a session comes first, and the kernel took it in part or not at all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.fin_sent = false;
                self.set_writable(false);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fin_sent = false,
            Err(error) if self.secured() && error.raw_os_error() != Some(libc::ENOTCONN) => {
                return Err(error)
            }
            // ENOTCONN: a reset came first. The next read, or the next question, tells which.
            Err(_) => {
                self.set_readable(self.is_readable() | !self.saw_fin());
                self.set_more_hint(true);
                self.set_error_hint(true);
            }
        }
        if self.secured() {
            self.after_session_step(socket, now);
        }
        Ok(())
    }

    /// `finished` when our stream was the first to end, `peer_closed` when it was the peer's.
    pub(super) fn clean_reason(&self) -> CloseReason {
        match self.ended_first {
            _ if self.ends().truncated => CloseReason::Truncated,
            true => CloseReason::Finished,
            false => CloseReason::PeerClosed,
        }
    }

    /// Bytes of ours that the peer's kernel has not acknowledged, our end of stream not counted.
    pub(super) fn unacked_now<T: Transport>(&self, socket: &T) -> Option<u64> {
        if self.handed == 0 || self.ends().all_taken {
            // The SYN of a refused connection counts as well, and nobody handed it over.
            return socket.unacknowledged().map(|_| 0);
        }
        let pending = socket.unacknowledged()?;
        // One acknowledgement covers all that is before it: while anything is unacknowledged,
        // so is the end of the stream.
        let fin = u64::from(self.fin_counted && pending > 0);
        Some((pending - fin).min(self.handed))
    }

    /// Bytes of ours that count as taken by the peer: acknowledged, or where the system cannot
    /// tell, accepted by the kernel.
    pub(super) fn acknowledged_now<T: Transport>(&self, socket: &T) -> u64 {
        self.handed - self.unacked_now(socket).unwrap_or(0)
    }
}
