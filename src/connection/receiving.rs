//! How a connection receives: one read at a time, the end of the peer's stream, the error that no
//! read shows, and the input that the handler left unused.

use std::io::{self, ErrorKind};

use super::{Connection, Context, State};
use crate::close::CloseReason;
use crate::read_buffer::ReadBuffer;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::timers::Time;
use crate::transport::Transport;

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes, for the handler.
    Data(usize),
    /// The end of the peer's stream, for the handler.
    Eof,
    /// Nothing for the handler, but so many bytes that were discarded; `may_read` tells whether
    /// there may be more.
    Nothing(usize),
}

impl Connection {
    /// Whether a read is wanted and may bring something.
    #[inline]
    pub(crate) fn may_read(&self, defaults: &Settings) -> bool {
        self.is_readable() && self.wants_input(defaults)
    }

    /// Whether a read is wanted, whatever the kernel last said.
    #[inline]
    pub(crate) fn wants_input(&self, defaults: &Settings) -> bool {
        if self.saw_fin() {
            return self.ends().tail && self.is_closing();
        }
        match self.state {
            State::Flushing | State::Lingering => true,
            State::Open | State::HalfClosedLocal => {
                !self.is_paused() && (!self.is_congested() || self.is_granted(self.settings(defaults)))
            }
            State::Connecting | State::Handshaking | State::HalfClosedRemote | State::Dead => false,
        }
    }

    /// Whether a congested connection may be read from all the same: once after each crossing and
    /// each drain, and then as long as what it sends does not make its own queue grow. What a handler
    /// leaves unused meanwhile grows by one read above its limit at most.
    fn is_granted(&self, settings: &Settings) -> bool {
        let granted = self.may_read_once || !self.grew;
        settings.read_while_congested || (granted && self.input.len() <= settings.max_read_buffer)
    }

    /// One read into `scratch`.
    #[inline]
    pub(crate) fn receive<T: Transport>(
        &mut self,
        socket: &mut T,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Received {
        let outcome = socket.read(scratch);
        self.received(outcome, scratch.len(), socket, cx)
    }

    /// What a read into `room` bytes has come to.
    pub(crate) fn received<T: Transport>(
        &mut self,
        outcome: io::Result<usize>,
        room: usize,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) -> Received {
        self.may_read_once = false;
        self.grew = false;
        match outcome {
            Ok(0) => return self.received_eof(socket, cx),
            Ok(count) => return self.received_data(count.min(room), room, socket, cx),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                if self.secured() {
                    // Records without plaintext, perhaps a whole read's worth: they count as one.
                    let came = self.after_session_step(socket, cx.now);
                    return Received::Nothing(if came { room } else { 0 });
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // A session that has a part of a record says so as well, without the kernel having been asked:
                // an end or an error that stands behind that part brings no event of its own.
                let unasked = self.secured() && self.more_hint() && socket.short_read_empties();
                self.set_readable(unasked);
                self.set_more_hint(unasked);
                cx.stats.read_eagains += 1;
                self.advance(socket, cx);
            }
            Err(error) => {
                self.set_readable(false);
                self.fail_reading(&error, socket, cx);
            }
        }
        if self.secured() {
            self.after_session_step(socket, cx.now);
        }
        Received::Nothing(0)
    }

    fn received_data<T: Transport>(
        &mut self,
        count: usize,
        room: usize,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) -> Received {
        if self.secured() {
            self.after_session_step(socket, cx.now);
        }
        // What comes behind the end of a session is no plaintext.
        let received = if self.secured() && socket.has_tail() { 0 } else { count };
        self.note_read(received, cx.now, cx.stats);
        // A short read of a pipe proves nothing, but the poll tells again.
        if count < room && socket.short_read_empties() && !self.more_hint() {
            self.set_readable(false);
        }
        if self.is_lingering() || (self.is_broken() && !self.goes_on_reading()) {
            // What comes behind an error that only the write half met, or when the peer has all of
            // our bytes and only owes its end, is bounded: it may go on sending for ever.
            self.discarded = self.discarded.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            if u64::from(self.discarded) > cx.terms.config.linger_bytes {
                self.end_lingering(socket, cx);
                return Received::Nothing(count);
            }
        }
        if self.is_closing() {
            if self.is_lingering() {
                self.progress = cx.now;
            }
            return Received::Nothing(count);
        }
        Received::Data(count)
    }

    /// A read has brought so many bytes that count.
    #[inline]
    pub(crate) fn note_read(&mut self, received: usize, now: Time, stats: &mut Stats) {
        self.activity = now;
        self.received += received as u64;
        stats.reads += 1;
        stats.bytes_in += received as u64;
    }

    fn received_eof<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) -> Received {
        cx.stats.reads += 1;
        self.activity = cx.now;
        self.set_readable(false);
        self.set_more_hint(false);
        // Behind an error that was told already the kernel says "end of stream" although none
        // came. EPIPE is different: it tells of a reset behind the peer's end.
        self.set_saw_fin(matches!(self.errno, 0 | libc::EPIPE));
        if self.secured() {
            self.after_session_end(socket, cx.now);
        }
        if self.error_hint() {
            self.ask_for_error(socket);
        }
        if self.is_broken() || self.is_closing() {
            self.advance(socket, cx);
            return Received::Nothing(0);
        }
        if self.state == State::Open {
            self.state = State::HalfClosedRemote;
        }
        Received::Eof
    }

    /// Asks for the error that a read no longer shows, if the kernel hinted at one.
    pub(crate) fn check_error<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        if self.error_is_due() {
            self.ask_for_error(socket);
            self.advance(socket, cx);
        }
    }

    /// After the peer's end of stream an error shows in no read: it has to be asked for.
    #[inline]
    pub(super) fn error_is_due(&self) -> bool {
        self.error_hint() && self.saw_fin() && !self.is_dead()
    }

    pub(super) fn ask_for_error<T: Transport>(&mut self, socket: &mut T) {
        self.set_error_hint(false);
        if let Ok(Some(error)) = socket.take_error() {
            self.record(&error);
        }
    }

    /// The end of the peer's stream waits behind input that the handler left until there is room.
    pub(crate) fn postpone_eof(&mut self) {
        self.set_eof_due(true);
        // What is there will not be completed any more: it is shown although more was wanted.
        if std::mem::take(&mut self.want) > 0 {
            self.set_show_again(true);
        }
    }

    /// It rests during a pause, and behind input that is still to be shown: one condition for both,
    /// for a flag that waits for another must be settled with it.
    #[inline]
    pub(super) fn eof_is_due(&self) -> bool {
        let behind_input = !self.input.is_empty() && (self.is_congested() || self.show_again());
        self.eof_due() && self.is_delivering() && !self.is_paused() && !behind_input
    }

    #[inline]
    pub(crate) fn take_eof(&mut self) -> bool {
        let due = self.eof_is_due();
        self.set_eof_due(self.eof_due() & !due);
        due
    }

    /// The peer's end of stream was read, and the handler has heard of it or never will.
    #[inline]
    pub(super) fn end_is_told(&self) -> bool {
        self.saw_fin() && !self.eof_due()
    }

    pub(crate) fn pause_reading(&mut self) {
        self.set_paused(true);
    }

    pub(crate) fn resume_reading(&mut self) {
        if self.is_paused() {
            self.set_paused(false);
            self.set_show_again(true);
        }
    }

    #[inline]
    pub(super) fn may_show_again(&self) -> bool {
        let kept = !self.input.is_empty() && !self.wants_more_than(0);
        kept && self.is_delivering() && !self.is_paused() && !self.end_is_told()
    }

    /// Takes out what the handler left unused, when it is due to be shown again.
    pub(crate) fn take_shown_again(&mut self) -> Option<ReadBuffer> {
        let due = self.show_again() && self.may_show_again();
        if due {
            self.want = 0;
        }
        if due || self.input.is_empty() {
            self.set_show_again(false);
        }
        due.then(|| std::mem::take(&mut self.input))
    }

    /// Whether new input goes to the handler as it came: nothing is unused, and nothing was asked for.
    #[inline]
    pub(crate) fn shows_directly(&self) -> bool {
        self.input.is_empty() && self.want == 0
    }

    /// Puts new input behind what the handler left unused, and takes it all out, to be shown.
    pub(crate) fn take_input_with(&mut self, data: &[u8]) -> ReadBuffer {
        self.set_show_again(false);
        let mut input = std::mem::take(&mut self.input);
        input.append(data);
        input
    }

    /// The handler has heard of the peer's end: what it left unused is of no use to it any more.
    pub(crate) fn forget_input(&mut self) {
        self.input = ReadBuffer::default();
        self.set_show_again(false);
    }

    /// What the handler left unused.
    pub(crate) fn unused_input(&self) -> &[u8] {
        self.input.view()
    }

    /// The handler wants to be shown nothing before so many bytes are there. Behind the end of the
    /// stream nothing will come, and what is there is not held back.
    pub(crate) fn want(&mut self, bytes: u32) {
        self.want = if self.saw_fin() { 0 } else { bytes };
    }

    /// Puts new input behind what is unused, where more is wanted than that. It is owed to the handler,
    /// which may want less in the end.
    pub(crate) fn hold_input(&mut self, data: &[u8]) {
        self.set_show_again(true);
        self.input.append(data);
    }

    /// Whether so few are there, with `new` ones, that they are kept without being shown.
    #[inline]
    pub(crate) fn wants_more_than(&self, new: usize) -> bool {
        self.unused() + new < self.want as usize
    }

    /// Bytes that the handler left unused.
    #[inline]
    pub(crate) fn unused(&self) -> usize {
        self.input.len()
    }

    /// Keeps what the handler did not use. It has just seen it: a pause that it ended meanwhile is no
    /// reason to show it again. Too much of it ends the connection, unless the handler
    /// has a reason to wait: then nothing more is read, and the excess is one read at most.
    pub(crate) fn keep_input<T: Transport>(
        &mut self,
        input: ReadBuffer,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) {
        if !self.is_delivering() {
            return;
        }
        self.set_show_again(false);
        let settings = self.settings(cx.terms.defaults);
        let waits = self.is_paused() || (self.is_congested() && !settings.read_while_congested);
        if input.len() > settings.max_read_buffer && !waits {
            return self.die(CloseReason::InputOverflow, socket, cx);
        }
        self.input = input;
    }
}
