//! The state machine of one connection.
//!
//! It knows neither clock nor socket: `now` comes with the [`Context`], the socket is whatever
//! [`Transport`] is passed in. Readiness is two sets of bits: what the kernel last said
//! (`readable`, `writable`) and what we want (`paused`, `congested`). Both are hints about when to
//! try; only the result of a read, a write or `take_error` changes the state.
//!
//! The kernel tells an error once, to whoever asks first, and answers everybody else with an end
//! of stream. So the first error is kept here, and an end of stream behind it is not believed.

mod ending;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, IoSlice};

use crate::addr::{Addr, Peer};
use crate::close::{CloseReason, CloseReport, Timeout};
use crate::config::Config;
use crate::id::ListenerId;
use crate::read_buffer::ReadBuffer;
use crate::send::{Data, SendError, Sent};
use crate::stats::Stats;
use crate::timers::Time;
use crate::transport::Transport;
use crate::write_buffer::{BufferPool, WriteBuffer, GATHER};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Asked for with `connect`, not established yet. Sends are queued.
    Connecting,
    /// Both directions are open.
    Open,
    /// The peer ended its stream; ours goes on.
    HalfClosedRemote,
    /// `close_write` was called; the peer's stream goes on.
    HalfClosedLocal,
    /// `close` was called and bytes are still queued; input is discarded.
    Flushing,
    /// All was handed to the kernel and our end of stream sent; the peer's end and its last
    /// acknowledgement are awaited, input is discarded.
    Lingering,
    /// It has ended; `on_close` is due or under way.
    Dead,
}

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// A client came in through this listener.
    Listener(ListenerId),
    /// We asked for it with `connect`.
    Connect,
}

/// From this length on a slice that finds the queue empty is written straight away: below it one
/// gathered write at the end of the turn is cheaper, above it the copy is what costs.
const WRITE_THROUGH: usize = 16 << 10;

/// What every step needs besides the socket.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) config: &'a Config,
    pub(crate) pool: &'a mut BufferPool,
    pub(crate) stats: &'a mut Stats,
}

/// What the kernel says of a socket, to be taken as a hint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// An error is pending, or was.
    pub(crate) error: bool,
    /// The end of the peer's stream, or urgent data, stands behind what can be read: a short
    /// read proves nothing.
    pub(crate) more: bool,
}

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

/// In which of the reactor's lists a connection stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) ready: bool,
    pub(crate) dirty: bool,
    pub(crate) dead: bool,
}

/// One connection, its socket excepted.
#[derive(Debug)]
pub(crate) struct Connection {
    state: State,
    via: Via,
    pub(crate) listed: Listed,
    /// `on_close` has been called.
    pub(crate) reported: bool,

    readable: bool,
    writable: bool,
    error_hint: bool,
    /// A short read does not prove that the socket is empty.
    more_hint: bool,

    /// The handler asked for no input.
    paused: bool,
    /// The queue passed high water and has not fallen to low water since.
    congested: bool,
    /// A drain grants one read, congested or not.
    may_read_once: bool,
    /// What the handler left unused is to be shown again without new input.
    show_again: bool,
    /// The queue fell to low water and the handler has not been told.
    drain_due: bool,

    saw_fin: bool,
    /// Our stream ended, or was asked to, before the peer's end was seen.
    ended_first: bool,
    close_wanted: bool,
    fin_wanted: bool,
    fin_sent: bool,
    /// Our end of stream is counted among the unacknowledged bytes.
    fin_counted: bool,
    write_failed: bool,
    /// The queue could not be emptied when it was last tried.
    waiting: bool,
    /// The kernel's buffer was full when it was last tried.
    put_off: bool,
    /// The first error; 0 for none.
    errno: i32,

    out: Option<Box<WriteBuffer>>,
    input: ReadBuffer,
    peer: Peer,

    received: u64,
    handed: u64,
    unsent: u64,
    reason: Option<CloseReason>,
    unacked: Option<u64>,

    /// When it was accepted or asked for.
    since: Time,
    /// When the last byte came or went.
    activity: Time,
    /// When the peer was last seen to take bytes of ours, or the close to get on.
    progress: Time,
    /// Bytes known to be acknowledged at `progress`.
    acknowledged: u64,
    closing_since: Time,
    /// Since when the queue has been at the soft limit.
    soft_since: Time,
    /// Input read while closing, or after the write half broke.
    discarded: u64,
    /// The moment of this connection's entry among the timers.
    pub(crate) armed: Time,
}

impl Connection {
    pub(crate) fn new(state: State, via: Via, peer: Option<Addr>, now: Time) -> Self {
        Self {
            state,
            via,
            listed: Listed::default(),
            reported: false,
            readable: false,
            // A new socket has room: if not, the first write finds out.
            writable: true,
            error_hint: false,
            more_hint: false,
            paused: false,
            congested: false,
            may_read_once: false,
            show_again: false,
            drain_due: false,
            saw_fin: false,
            ended_first: false,
            close_wanted: false,
            fin_wanted: false,
            fin_sent: false,
            fin_counted: false,
            write_failed: false,
            waiting: false,
            put_off: false,
            errno: 0,
            out: None,
            input: ReadBuffer::default(),
            peer: peer.into(),
            received: 0,
            handed: 0,
            unsent: 0,
            reason: None,
            unacked: None,
            since: now,
            activity: now,
            progress: now,
            acknowledged: 0,
            closing_since: now,
            soft_since: Time::NEVER,
            discarded: 0,
            armed: Time::NEVER,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn via(&self) -> Via {
        self.via
    }

    pub(crate) fn peer(&self) -> Option<Addr> {
        self.peer.addr()
    }

    /// Bytes queued and not yet handed to the kernel.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.congested
    }

    /// Closing, or ended.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_closing() || self.is_dead()
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, State::Flushing | State::Lingering)
    }

    /// Established, and not closed by us: the handler hears of it.
    pub(crate) fn is_delivering(&self) -> bool {
        matches!(self.state, State::Open | State::HalfClosedRemote | State::HalfClosedLocal)
    }

    /// Whether an error has been met, so that only what the peer sent before it is still of use.
    fn is_broken(&self) -> bool {
        self.errno != 0 || self.write_failed
    }

    pub(crate) fn on_readiness(&mut self, hints: Hints) {
        self.readable |= hints.readable || hints.error;
        self.writable |= hints.writable || hints.error;
        self.error_hint |= hints.error;
        self.more_hint |= hints.more || hints.error;
    }

    /// Whether a read is wanted and may bring something.
    pub(crate) fn may_read(&self, config: &Config) -> bool {
        if !self.readable || self.saw_fin {
            return false;
        }
        match self.state {
            State::Flushing | State::Lingering => true,
            State::Open | State::HalfClosedLocal => {
                let held = self.congested && !config.read_while_congested && !self.may_read_once;
                !self.paused && !held
            }
            State::Connecting | State::HalfClosedRemote | State::Dead => false,
        }
    }

    /// Whether bytes are queued that the kernel may take now.
    pub(crate) fn may_flush(&self) -> bool {
        self.writable && self.out.is_some() && !matches!(self.state, State::Connecting | State::Dead)
    }

    /// Whether the next turn has something to do here without any new event.
    pub(crate) fn has_work(&self, config: &Config) -> bool {
        self.may_read(config)
            || self.may_flush()
            || (self.show_again && self.may_show_again())
            || (self.drain_due && self.is_delivering())
            || self.error_is_due()
    }

    /// Whether anything else is to be done before new input is read: a broken or waiting queue,
    /// an error to be asked for, input to be shown again.
    pub(crate) fn has_old_business(&self) -> bool {
        self.out.is_some() || self.show_again || self.error_hint
    }

    /// After the peer's end of stream an error shows in no read: it has to be asked for.
    fn error_is_due(&self) -> bool {
        self.error_hint && self.saw_fin && !self.is_dead()
    }

    /// The connection is established. Returns whether the handler is to be told.
    pub(crate) fn opened<T: Transport>(
        &mut self,
        socket: &mut T,
        peer: Option<Addr>,
        cx: &mut Context<'_>,
    ) -> bool {
        self.peer = peer.into();
        self.state = if self.fin_wanted { State::HalfClosedLocal } else { State::Open };
        self.activity = cx.now;
        if self.close_wanted {
            self.begin_close(cx);
            self.advance(socket, cx);
            return false;
        }
        true
    }

    /// The connection could not be established, or its socket not be put to use.
    pub(crate) fn fail<T: Transport>(&mut self, error: &io::Error, socket: &mut T, cx: &mut Context<'_>) {
        self.record(error);
        self.die(CloseReason::Io, socket, cx);
    }

    /// Whether bytes can still be sent.
    pub(crate) fn check_sendable(&self) -> Result<(), SendError> {
        if self.close_wanted || self.is_broken() || self.is_ending() {
            return Err(SendError::Closed);
        }
        match self.fin_wanted {
            true => Err(SendError::WriteClosed),
            false => Ok(()),
        }
    }

    /// Queues bytes whose room has been checked.
    pub(crate) fn push<T: Transport>(
        &mut self,
        data: Data<'_>,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) -> Sent {
        let data = match data {
            Data::Slice(slice) if slice.len() >= WRITE_THROUGH && self.out.is_none() => {
                let taken = self.write_through(slice, socket, cx);
                Data::Slice(slice.get(taken..).unwrap_or_default())
            }
            other => other,
        };
        if self.write_failed {
            // The write above broke the pipe. The rest was taken all the same, and is accounted for.
            self.unsent += data.len() as u64;
            return Sent::Queued;
        }
        if !data.is_empty() {
            let out = self.out.get_or_insert_with(|| cx.pool.take());
            match data {
                Data::Slice(slice) => out.push_copy(slice),
                Data::Shared(bytes) => out.push_shared(bytes),
            }
        }
        let queued = self.queued();
        if cx.config.soft_limit.is_some_and(|soft| queued >= soft.bytes) && self.soft_since == Time::NEVER {
            self.soft_since = cx.now;
        }
        if queued >= cx.config.high_water {
            self.congested = true;
            return Sent::Congested;
        }
        Sent::Queued
    }

    /// Writes the front of a large slice without copying it, when nothing waits before it.
    fn write_through<T: Transport>(&mut self, slice: &[u8], socket: &mut T, cx: &mut Context<'_>) -> usize {
        let mut taken = 0;
        while self.writable && self.state != State::Connecting && !self.write_failed && taken < slice.len() {
            if taken >= cx.config.write_budget {
                break;
            }
            let rest = slice.get(taken..).unwrap_or_default();
            taken += self.write_once(&[IoSlice::new(rest)], rest.len(), socket, cx);
        }
        taken
    }

    /// Hands queued bytes to the kernel until none are left, it takes no more, or the budget of
    /// this turn is spent.
    pub(crate) fn flush<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) {
        let mut budget = cx.config.write_budget;
        while budget > 0 && self.may_flush() {
            let Some(mut out) = self.out.take() else { return };
            let taken = match out.only_slice(budget) {
                Some(slice) => self.write_once(&[IoSlice::new(slice)], slice.len(), socket, cx),
                None => {
                    let mut slices = [IoSlice::new(&[]); GATHER];
                    let filled = out.gather(&mut slices, budget);
                    let gathered = slices.get(..filled).unwrap_or_default();
                    let offered = gathered.iter().map(|slice| slice.len()).sum();
                    self.write_once(gathered, offered, socket, cx)
                }
            };
            out.advance(taken);
            budget = budget.saturating_sub(taken);
            if self.write_failed {
                self.unsent += out.clear() as u64;
            }
            if out.is_empty() {
                cx.pool.give(out);
            } else {
                self.out = Some(out);
            }
        }
        self.after_flush(socket, cx);
    }

    fn after_flush<T: Transport>(&mut self, socket: &T, cx: &mut Context<'_>) {
        if self.state == State::Connecting {
            return;
        }
        let queued = self.queued();
        if queued == 0 {
            self.waiting = false;
        } else if !self.waiting {
            self.waiting = true;
            self.progress = cx.now;
            self.acknowledged = self.acknowledged_now(socket);
        }
        if cx.config.soft_limit.is_none_or(|soft| queued < soft.bytes) {
            self.soft_since = Time::NEVER;
        }
        if self.congested && queued <= cx.config.low_water {
            self.congested = false;
            self.drain_due = self.is_delivering() && !self.is_broken();
        }
    }

    /// One system call, or none when it was interrupted and has to be made again. Returns how
    /// many bytes the kernel took.
    fn write_once<T: Transport>(
        &mut self,
        slices: &[IoSlice<'_>],
        offered: usize,
        socket: &mut T,
        cx: &mut Context<'_>,
    ) -> usize {
        match socket.write(slices) {
            // Nobody wrote nothing: a zero would have us try for ever.
            Ok(0) => self.break_write_half(None, cx),
            Ok(taken) => {
                let taken = taken.min(offered);
                self.handed += taken as u64;
                self.activity = cx.now;
                cx.stats.writes += 1;
                cx.stats.bytes_out += taken as u64;
                cx.stats.partial_writes += u64::from(taken < offered);
                cx.stats.resumed_writes += u64::from(std::mem::take(&mut self.put_off));
                return taken;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                self.put_off = true;
                cx.stats.write_eagains += 1;
            }
            Err(error) => self.break_write_half(Some(&error), cx),
        }
        0
    }

    /// The write half is dead, and only that: what the peer sent before is still read.
    fn break_write_half(&mut self, error: Option<&io::Error>, cx: &mut Context<'_>) {
        if let Some(error) = error {
            self.record(error);
        }
        self.write_failed = true;
        self.congested = false;
        self.drain_due = false;
        self.drop_queue(cx);
        // Whatever the kernel last said: read on until it says that nothing is left.
        self.readable = true;
        self.more_hint = true;
    }

    fn drop_queue(&mut self, cx: &mut Context<'_>) {
        if let Some(mut out) = self.out.take() {
            self.unsent += out.clear() as u64;
            cx.pool.give(out);
        }
        self.waiting = false;
        self.soft_since = Time::NEVER;
    }

    /// One read into `scratch`.
    pub(crate) fn receive<T: Transport>(
        &mut self,
        socket: &mut T,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Received {
        self.may_read_once = false;
        match socket.read(scratch) {
            Ok(0) => return self.received_eof(socket, cx),
            Ok(count) => return self.received_data(count.min(scratch.len()), scratch.len(), socket, cx),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                self.more_hint = false;
                cx.stats.read_eagains += 1;
                self.advance(socket, cx);
            }
            Err(error) => {
                self.readable = false;
                self.record(&error);
                self.die(CloseReason::Io, socket, cx);
            }
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
        self.received += count as u64;
        self.activity = cx.now;
        cx.stats.reads += 1;
        cx.stats.bytes_in += count as u64;
        if count < room && !self.more_hint && socket.short_read_empties() {
            self.readable = false;
        }
        if self.is_closing() || self.is_broken() {
            // What comes behind an error that only the write half met, or during a close, is
            // bounded: a peer may go on sending for ever.
            self.discarded += count as u64;
            if self.discarded > cx.config.linger_bytes {
                self.die(CloseReason::TimedOut(Timeout::Linger), socket, cx);
                return Received::Nothing(count);
            }
        }
        if self.is_closing() {
            self.progress = cx.now;
            return Received::Nothing(count);
        }
        Received::Data(count)
    }

    fn received_eof<T: Transport>(&mut self, socket: &mut T, cx: &mut Context<'_>) -> Received {
        cx.stats.reads += 1;
        self.readable = false;
        self.more_hint = false;
        // Behind an error that was told already the kernel says "end of stream" although none
        // came. EPIPE is different: it tells of a reset behind the peer's end.
        self.saw_fin = matches!(self.errno, 0 | libc::EPIPE);
        if self.error_hint {
            self.ask_for_error(socket);
        }
        if self.is_broken() || self.is_closing() {
            self.progress = cx.now;
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

    fn ask_for_error<T: Transport>(&mut self, socket: &mut T) {
        self.error_hint = false;
        if let Ok(Some(error)) = socket.take_error() {
            self.record(&error);
        }
    }

    /// Keeps the first error. One thing is told later and means more: a Unix-domain socket
    /// answers a write with EPIPE and keeps its ECONNRESET for the next read.
    fn record(&mut self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        if self.errno == 0 || (self.errno == libc::EPIPE && errno == libc::ECONNRESET) {
            self.errno = errno;
        }
    }

    pub(crate) fn pause_reading(&mut self) {
        self.paused = true;
    }

    pub(crate) fn resume_reading(&mut self) {
        if self.paused {
            self.paused = false;
            self.show_again = true;
        }
    }

    fn may_show_again(&self) -> bool {
        self.is_delivering() && !self.paused && !self.input.is_empty()
    }

    /// Takes out what the handler left unused, when it is due to be shown again.
    pub(crate) fn take_shown_again(&mut self) -> Option<ReadBuffer> {
        let due = std::mem::take(&mut self.show_again) && self.may_show_again();
        due.then(|| std::mem::take(&mut self.input))
    }

    /// Whether the handler left input unused, before which new input must not be shown.
    pub(crate) fn has_unused_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Puts new input behind what the handler left unused, and takes it all out.
    pub(crate) fn take_input_with(&mut self, data: &[u8]) -> ReadBuffer {
        let mut input = std::mem::take(&mut self.input);
        input.append(data);
        input
    }

    /// Keeps what the handler did not use. Too much of it ends the connection, unless the handler
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
        let waits = self.paused || self.congested;
        if input.len() > cx.config.max_read_buffer && !waits {
            return self.die(CloseReason::InputOverflow, socket, cx);
        }
        self.input = input;
    }

    /// Whether the handler is to be told that the queue fell to low water. A drain grants the
    /// peer one read, whatever the handler then queues, and shows unused input again.
    pub(crate) fn take_drain(&mut self) -> bool {
        let due = std::mem::take(&mut self.drain_due) && self.is_delivering();
        if due {
            self.may_read_once = true;
            self.show_again = true;
        }
        due
    }

    pub(crate) fn report(&self, now: Time) -> CloseReport {
        CloseReport {
            reason: self.reason.unwrap_or(CloseReason::Io),
            errno: (self.errno != 0).then_some(self.errno),
            saw_fin: self.saw_fin,
            received: self.received,
            handed: self.handed,
            unsent: self.unsent,
            unacked: self.unacked,
            duration: now.since(self.since),
        }
    }
}
