//! What a connection knows of the TLS session between it and its socket: a handshake before the first
//! byte of data, bytes to be sent that are in nobody's account, an end of its own before that of the
//! stream, and errors that only the session sees.

use std::io::{self, ErrorKind};

use super::{Connection, Context, Ends, Handshake, State, Terms, Via};
use crate::close::CloseReason;
use crate::timers::Time;
use crate::transport::{SessionError, Transport};

/// What a step of a handshake came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Nothing had come.
    Idle,
    /// It goes on, or has failed.
    GoesOn,
    /// It is done. The handler is to be told, unless it has known the connection already.
    Done { tell: bool },
}

impl Connection {
    /// Whether there can be a session from now on.
    #[cfg(feature = "tls")]
    pub(crate) fn may_be_secured(&self) -> bool {
        let is_open = matches!(self.state, State::Connecting | State::Handshaking | State::Open);
        is_open && !self.fin_wanted() && !self.is_broken()
    }

    /// Once the connection is established there will be a session.
    #[cfg(feature = "tls")]
    pub(crate) fn will_be_secured(&mut self) {
        self.set_secured(true);
    }

    #[cfg(feature = "tls")]
    pub(crate) fn is_secured(&self) -> bool {
        self.secured()
    }

    /// There is a session now, and its handshake is to come first.
    /// `is_known` to the handler it is when it has been open before.
    pub(crate) fn begin_handshake<T: Transport>(
        &mut self,
        is_known: bool,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) {
        self.set_secured(true);
        self.state = State::Handshaking;
        self.activity = cx.now;
        // Its session has it by now.
        self.forget_input();
        if is_known {
            // It was asked for of what came before.
            self.want = 0;
        }
        self.extra.get_or_insert_default().handshake = Some(Handshake { since: cx.now, is_known });
        // Whatever came before is the session's, and brought its event already; but for a client that has
        // just come in, whose first words do.
        self.set_readable(self.is_readable() | is_known | !matches!(self.via(), Via::Listener(_)));
        cx.stats.handshaking += 1;
        self.after_session_step(socket, cx.now);
    }

    /// Whether a step of the handshake is due.
    #[inline]
    pub(crate) fn may_greet(&self) -> bool {
        self.state == State::Handshaking && self.is_readable()
    }

    /// One step of the handshake, by one read into `scratch`.
    pub(crate) fn greet<T: Transport>(
        &mut self,
        socket: &mut T,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Greeting {
        if !self.may_greet() {
            return Greeting::Idle;
        }
        let step = socket.shake_hands(scratch);
        self.after_session_step(socket, cx.now);
        match step {
            Ok(true) => {
                cx.stats.handshakes += 1;
                self.activity = cx.now;
                // Nothing is left in the socket or in the session: a read would find that out again.
                self.set_readable(self.more_hint() || !socket.short_read_empties());
                return Greeting::Done { tell: self.end_handshake(socket, cx) };
            }
            Ok(false) => {
                self.activity = cx.now;
                self.set_readable(self.more_hint() || !socket.short_read_empties());
                return Greeting::GoesOn;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.set_readable(false);
                self.set_more_hint(false);
                // A write failed before: nothing is left to read.
                self.advance(socket, cx);
                return Greeting::Idle;
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.set_readable(false);
                if self.error_hint() {
                    self.ask_for_error(socket);
                }
                self.die(CloseReason::Truncated, socket, cx);
            }
            Err(error) => {
                self.set_readable(false);
                self.fail_reading(&error, socket, cx);
            }
        }
        Greeting::GoesOn
    }

    /// Application data may flow. Returns whether the handler is to be told of the connection.
    fn end_handshake<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) -> bool {
        let is_known = self.leave_handshake(cx).is_some_and(|handshake| handshake.is_known);
        self.set_held_back(false);
        self.waiting = false;
        self.enter(socket, cx) && !is_known
    }

    /// The handshake is over, one way or the other.
    pub(super) fn leave_handshake(&mut self, cx: &mut Context<'_>) -> Option<Handshake> {
        if self.state != State::Handshaking {
            return None;
        }
        cx.stats.handshaking -= 1;
        let extra = self.extra.as_mut()?;
        let handshake = extra.handshake.take();
        // Sessions are many, and idle most of the time.
        if extra.is_idle() {
            self.extra = None;
        }
        handshake
    }

    /// Since when the handshake has been under way.
    pub(crate) fn handshake_since(&self) -> Time {
        let handshake = self.extra.as_ref().and_then(|extra| extra.handshake);
        handshake.map_or(self.since, |handshake| handshake.since)
    }

    /// When the handshake is given up.
    pub(super) fn handshake_ends(&self, terms: Terms<'_>) -> Time {
        terms.lapses.end_of(self.handshake_since(), terms.config.handshake_timeout)
    }

    /// A read failed: the session, which has its alert still to send, or the socket.
    pub(super) fn fail_reading<T: Transport>(
        &mut self,
        error: &io::Error,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) {
        match error.get_ref().and_then(|source| source.downcast_ref::<SessionError>()) {
            // We have ended all there was to end: what the peer still says is thrown away unheard.
            Some(_) if self.fin_sent && self.is_closing() => {
                self.set_readable(true);
                self.set_more_hint(true);
            }
            Some(error) => self.fail_session(error, socket, cx),
            None if self.is_settled() => {
                self.ends_mut().tail = false;
                self.advance(socket, cx);
            }
            None => {
                self.record(error);
                self.die(CloseReason::Io, socket, cx);
            }
        }
    }

    /// The session is of no use any more. What has become part of it goes out with the alert, as in any
    /// close, so that the peer learns why; the rest of the queue never will.
    fn fail_session<T: Transport>(&mut self, error: &SessionError, socket: &mut T, cx: &mut Context<'_>) {
        if self.state == State::Handshaking {
            cx.stats.handshake_failures += 1;
        }
        let extra = self.extra.get_or_insert_default();
        extra.alert = error.alert;
        extra.tls_error = Some(error.text.clone());
        self.ends_mut().failed = true;
        if let Some(mut out) = self.out.take() {
            self.unsent += out.truncate(socket.committed()) as u64;
            match out.is_empty() {
                true => cx.pool.give(out),
                false => self.out = Some(out),
            }
        }
        self.begin_close(cx);
        self.set_held_back(false);
        // What the peer goes on to send is read, and thrown away.
        self.set_readable(true);
        self.set_more_hint(true);
        self.after_session_step(socket, cx.now);
    }

    /// A session that seals no more has failed, although it may still open what comes.
    pub(super) fn note_session_error(&mut self, error: &io::Error) {
        if let Some(error) = error.get_ref().and_then(|source| source.downcast_ref::<SessionError>()) {
            let extra = self.extra.get_or_insert_default();
            extra.tls_error = Some(error.text.clone());
            extra.ends.failed = true;
        }
    }

    /// Sends what the session has to send of its own.
    pub(super) fn flush_own<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        if !self.may_flush() {
            return;
        }
        match socket.send_own() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.set_writable(false);
                cx.stats.write_eagains += 1;
            }
            Err(error) => return self.fail_own(&error, socket, cx),
        }
        self.after_session_step(socket, cx.now);
    }

    /// What the session has to send of its own cannot be sent.
    pub(super) fn fail_own<T: Transport>(&mut self, error: &io::Error, socket: &mut T, cx: &mut Context<'_>) {
        if self.is_settled() {
            // What is left is the end of our session, and nobody is there to hear it.
            return self.end_settled(socket, cx);
        }
        self.break_write_half(Some(error), cx);
        self.after_session_step(socket, cx.now);
    }

    /// What the end of the session has come to.
    #[inline]
    pub(super) fn ends(&self) -> Ends {
        self.extra.as_ref().map_or(Ends::default(), |extra| extra.ends)
    }

    pub(super) fn ends_mut(&mut self) -> &mut Ends {
        &mut self.extra.get_or_insert_default().ends
    }

    /// After each call of a socket that a session may have made use of. Returns whether bytes came or went
    /// below it.
    pub(super) fn after_session_step<T: Transport>(&mut self, socket: &T, now: Time) -> bool {
        // A part of a record that came or went is in no account yet, but it is no silence.
        let moved = socket.has_moved_below();
        if moved {
            self.activity = now;
            if self.is_lingering() {
                self.progress = now;
            }
        }
        self.set_own(!self.write_failed() && socket.has_own());
        self.set_held_back(self.state == State::Handshaking && !socket.takes_data());
        moved
    }

    /// Whether the peer has taken a part of what the session made, since this was last asked: a record
    /// counts as a whole, and may take a slow peer long.
    pub(super) fn took_part<T: Transport>(&mut self, socket: &T) -> bool {
        socket.has_taken_below()
    }

    /// The peer's stream has come to an end, or its session has.
    pub(super) fn after_session_end<T: Transport>(&mut self, socket: &T, now: Time) {
        // In a close nobody wants to know what else there was.
        let truncated = socket.is_truncated() && !self.is_closing();
        let tail = socket.has_tail();
        let ends = self.ends_mut();
        (ends.truncated, ends.tail) = (truncated, tail);
        self.set_readable(tail);
        self.after_session_step(socket, now);
    }

    /// Both sessions have ended, and nobody owes anybody anything: the end of the peer's stream says no more
    /// than that of its session did.
    pub(super) fn end_settled<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        self.unacked = 0;
        self.die(self.clean_reason(), socket, cx);
    }

    /// The peer's direction has ended, and it has all of our bytes. It need not wait for the end of our
    /// session, and many close at once: then that end meets a closed socket, and the reset that answers
    /// it means nothing.
    pub(super) fn is_settled(&self) -> bool {
        self.secured() && self.saw_fin() && (self.ends().all_taken || self.is_lingering())
    }
}
