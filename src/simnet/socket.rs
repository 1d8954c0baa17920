//! One end of a simulated TCP connection: what each call answers, and what readiness it shows.
//!
//! The rules are those of Linux, as observed: an error is told once, to whoever asks first;
//! what came before a reset stays readable; behind the peer's end of stream no read shows an
//! error; what was written counts as unacknowledged until the other kernel has it, and goes on
//! counting after a reset. Nothing here knows of time, the network, or the other end.

use std::collections::VecDeque;

use super::piping::Pipe;
use super::sealed::Toyed;
use super::witness::Times;

/// Names a socket; never used twice.
pub(crate) type SockId = usize;

/// The bits of epoll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) input: bool,
    pub(crate) output: bool,
    pub(crate) read_hang_up: bool,
    pub(crate) hang_up: bool,
    pub(crate) error: bool,
}

impl Bits {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }

    /// `EPOLLHUP`, or `EPOLLIN` with `EPOLLRDHUP`: what mio calls `is_read_closed`.
    pub(crate) fn read_closed(self) -> bool {
        self.hang_up || (self.input && self.read_hang_up)
    }

    /// What mio calls `is_write_closed`.
    pub(crate) fn write_closed(self) -> bool {
        let only_error = Self { error: true, ..Self::default() };
        self.hang_up || (self.output && self.error) || self == only_error
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Open,
    /// Reset, refused or given up: nothing goes in or out any more, what came can be read.
    Closed,
}

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Engine,
    Peer(usize),
}

#[derive(Debug)]
pub(crate) struct Sock {
    pub(crate) side: Side,
    pub(crate) other: Option<SockId>,
    /// Of the engine's end: whom it talks to, also when the other end is gone.
    pub(crate) peer: Option<usize>,
    pub(crate) phase: Phase,

    /// Arrived and not read.
    pub(crate) input: VecDeque<u8>,
    pub(crate) input_room: usize,
    /// On its way to this end.
    pub(crate) inbound: usize,
    pub(crate) fin_in: bool,

    /// Written and not sent.
    pub(crate) output: VecDeque<u8>,
    /// Sent and not acknowledged.
    pub(crate) flight: usize,
    pub(crate) output_room: usize,
    /// Our stream was ended by `shutdown` or `close`.
    pub(crate) shut: bool,
    pub(crate) fin_out: bool,
    pub(crate) fin_acked: bool,
    /// A write, or a look at the readiness, found no room: more of it is an event.
    pub(crate) no_space: bool,

    pub(crate) error: Option<i32>,
    /// `SO_LINGER` with a time of zero.
    pub(crate) linger_zero: bool,
    /// Its owner has closed it; the kernel finishes the stream.
    pub(crate) orphan: bool,

    /// Registered, under this token.
    pub(crate) token: Option<usize>,
    /// With this reactor.
    pub(crate) engine: usize,
    /// On the poll's list of what is ready.
    pub(crate) listed: bool,

    /// When the last packet that was sent arrives: the next does not overtake it.
    pub(crate) last_arrival: u64,
    /// When anything was last heard of the other end.
    pub(crate) heard: u64,
    /// When the other end last acknowledged anything, or the first byte after that was sent.
    pub(crate) progress: u64,
    /// A check for a dead peer is under way.
    pub(crate) watched: bool,
    pub(crate) keepalive: Option<u64>,
    pub(crate) user_timeout: Option<u64>,

    /// Bytes that writes took, that were acknowledged, and that reads gave, since the beginning.
    pub(crate) written: u64,
    pub(crate) acked: u64,
    pub(crate) read: u64,
    /// What the program behind this end asked its engine to send: the oracle for `written`.
    pub(crate) promised: Vec<u8>,
    /// A session stands above it of which only the peer can tell what it makes; or a toy does.
    pub(crate) sealed: bool,
    pub(crate) toy: Option<Box<Toyed>>,
    /// It is an end of two pipes.
    pub(crate) pipe: Option<Pipe>,
    /// How often that passed high water.
    pub(crate) crossings: u64,
    /// That program asked for no input.
    pub(crate) paused: bool,
    /// It asked for input again, and has not been shown any since.
    pub(crate) resumed: bool,
    /// Its queue passed high water or was drained, and no read was tried since.
    pub(crate) granted: bool,
    /// Bytes promised when a read was last tried, and whether that one was allowed to a congested
    /// connection.
    pub(crate) promised_at_look: usize,
    /// The program wants to be shown nothing before so many bytes are there.
    pub(crate) want: usize,
    /// Input may have been kept back because of that.
    pub(crate) held: bool,
    /// Where the soft limit of its queue is.
    pub(crate) soft_bytes: Option<usize>,
    pub(crate) read_was_granted: bool,
    /// The end of the peer's stream was read.
    pub(crate) end_read: bool,
    /// When what is unread arrived, and up to where in the stream.
    pub(crate) arrivals: VecDeque<(u64, u64)>,
    /// Bytes read when everything written had just been acknowledged, or a write failed.
    pub(crate) read_when_acked: u64,
    /// How often the engine has looked for acknowledgements since anything came or went.
    pub(crate) looks: u64,
    pub(crate) times: Times,
}

impl Sock {
    pub(crate) fn new(side: Side, phase: Phase, rooms: (usize, usize), now: u64) -> Self {
        Self {
            side,
            other: None,
            peer: None,
            phase,
            input: VecDeque::new(),
            input_room: rooms.0,
            inbound: 0,
            fin_in: false,
            output: VecDeque::new(),
            flight: 0,
            output_room: rooms.1,
            shut: false,
            fin_out: false,
            fin_acked: false,
            no_space: false,
            error: None,
            linger_zero: false,
            orphan: false,
            token: None,
            engine: 0,
            listed: false,
            last_arrival: 0,
            heard: now,
            progress: now,
            watched: false,
            keepalive: None,
            user_timeout: None,
            written: 0,
            acked: 0,
            read: 0,
            promised: Vec::new(),
            sealed: false,
            toy: None,
            pipe: None,
            crossings: 0,
            paused: false,
            resumed: false,
            granted: false,
            promised_at_look: 0,
            want: 0,
            held: false,
            soft_bytes: None,
            read_was_granted: false,
            end_read: false,
            arrivals: VecDeque::new(),
            read_when_acked: 0,
            looks: 0,
            times: Times::new(now),
        }
    }

    /// Data arrives.
    pub(crate) fn receive(&mut self, data: &[u8], now: u64) {
        self.input.extend(data);
        self.note_input(data);
        self.times.data = now;
        self.looks = 0;
        let end = self.read + self.input.len() as u64;
        match self.arrivals.back_mut() {
            Some((at, last)) if *at == now => *last = end,
            _ => self.arrivals.push_back((now, end)),
        }
    }

    /// The other end has so many more bytes.
    pub(crate) fn acknowledge(&mut self, count: usize, now: u64) {
        self.flight -= count;
        let before = self.arrived();
        self.acked += count as u64;
        (self.times.ack, self.progress) = (now, now);
        if self.arrived() > before {
            self.times.taken = now;
            self.read_when_acked = self.read;
        }
        self.looks = 0;
    }

    /// The program asks its engine to send this.
    pub(crate) fn promise(&mut self, data: &[u8], now: u64) {
        let handed = self.handed();
        if self.promised.len() as u64 == handed {
            self.times.queue = now;
        }
        self.promised.extend_from_slice(data);
        if self.soft_bytes.is_some_and(|soft| self.promised.len() as u64 - handed >= soft as u64) {
            self.times.soft.get_or_insert(now);
        }
    }

    /// The program's engine tries to read. Interrupted it learns nothing, nor if it is not told the truth.
    pub(crate) fn look(&mut self, now: u64, struck: Option<i32>) {
        self.read_was_granted = self.granted || self.promised.len() == self.promised_at_look;
        self.promised_at_look = self.promised.len();
        self.granted = false;
        if struck != Some(libc::EINTR) {
            self.times.looked = now;
        }
        if struck.is_none() {
            self.times.data_at_look = self.times.data;
        }
    }

    /// Whether something waits to be read: bytes, the end of the stream, or an error.
    pub(crate) fn has_unread(&self) -> bool {
        !self.input.is_empty() || ((self.fin_in || self.phase == Phase::Closed) && !self.end_read)
    }

    /// Room for further writes.
    pub(crate) fn room(&self) -> usize {
        self.output_room.saturating_sub(self.output.len() + self.flight)
    }

    /// Linux wants a third of the buffer free before it calls a socket writable.
    pub(crate) fn is_writable(&self) -> bool {
        self.room() * 3 >= self.output_room
    }

    /// Bytes that the other end's kernel may still be sent.
    pub(crate) fn window(&self) -> usize {
        self.input_room.saturating_sub(self.input.len() + self.inbound)
    }

    /// What epoll would report now. To find no room asks for an event when there is some.
    pub(crate) fn level(&mut self) -> Bits {
        let closed = self.phase == Phase::Closed;
        if self.phase == Phase::Connecting {
            return Bits::default();
        }
        let output = closed || self.shut || self.is_writable() || self.is_deserted();
        self.no_space |= !output;
        Bits {
            input: !self.input.is_empty() || self.fin_in || closed,
            output,
            read_hang_up: self.fin_in || closed,
            hang_up: closed || (self.fin_in && self.shut),
            error: self.error.is_some() || self.is_deserted(),
        }
    }

    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, i32> {
        if buf.is_empty() {
            return Ok(0);
        }
        if !self.input.is_empty() {
            let count = buf.len().min(self.input.len());
            for (to, from) in buf.iter_mut().zip(self.input.drain(..count)) {
                *to = from;
            }
            self.read += count as u64;
            while self.arrivals.front().is_some_and(|(_, end)| *end <= self.read) {
                self.arrivals.pop_front();
            }
            return Ok(count);
        }
        if self.fin_in {
            self.end_read = true;
            return Ok(0);
        }
        match self.error.take() {
            Some(errno) => Err(errno),
            None if self.phase == Phase::Closed => {
                self.end_read = true;
                Ok(0)
            }
            None => Err(libc::EAGAIN),
        }
    }

    /// Takes the front of what `bytes` gives, `most` at most.
    pub(crate) fn write<'a>(
        &mut self,
        bytes: impl Iterator<Item = &'a u8>,
        offered: usize,
        most: usize,
    ) -> Result<usize, i32> {
        if let Some(errno) = self.error.take() {
            return Err(errno);
        }
        if self.phase == Phase::Closed || self.shut || self.is_deserted() {
            return Err(libc::EPIPE);
        }
        let taken = offered.min(self.room()).min(most);
        self.no_space |= taken < offered;
        if taken == 0 && offered > 0 {
            return Err(libc::EAGAIN);
        }
        self.output.extend(bytes.take(taken));
        self.written += taken as u64;
        Ok(taken)
    }

    /// `SIOCOUTQ`: a connect that was refused leaves its SYN counted.
    pub(crate) fn unacknowledged(&self) -> u64 {
        if self.phase == Phase::Connecting {
            return 0;
        }
        self.written - self.acked + u64::from(self.shut && !self.fin_acked)
    }

    /// A reset arrived, or the kernel gave up.
    pub(crate) fn fail(&mut self, errno: i32, now: u64) {
        self.phase = Phase::Closed;
        self.times.failed = now;
        self.error = Some(errno);
        self.output.clear();
    }

    /// What an arriving reset makes of this end.
    pub(crate) fn reset_errno(&self) -> i32 {
        match self.phase {
            Phase::Connecting => libc::ECONNREFUSED,
            _ if self.fin_in => libc::EPIPE,
            _ => libc::ECONNRESET,
        }
    }

    /// Whether the kernel has nothing left to do for a socket that its owner closed.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Closed || (self.fin_acked && self.fin_in)
    }
}
