//! One client: a plain non-blocking socket that carries out its script, checks every byte of the
//! answers, and tells at the end what it sent and got.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::{send, SendFlags};
use socket2::{Domain, SockRef, Socket, Type};

use crate::ledger::{End, Farewell};
use crate::script::{Ending, Reading, Script};
use crate::wire::{Checker, Frame, Kind, HEADER};

/// What one call reads or writes at most, so that one client does not hold up the others.
const BUDGET: usize = 128 << 10;

/// How long the server may take with a client. A good one that is not done by then was lost.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Client {
    pub n: u64,
    pub script: Script,
    stream: TcpStream,
    born: Instant,
    /// When it wants to be looked at although nothing happened.
    pub wake: Option<Instant>,
    connected: bool,

    /// The frame that is being sent, and how much of it is written.
    frame: Option<(Frame, [u8; HEADER])>,
    written: usize,
    /// Frames sent whole, or begun.
    begun: u32,
    sent: u64,
    sent_all_at: Option<Instant>,
    next_write: Instant,
    write_failed: bool,
    fin_sent: bool,
    close_asked: bool,

    checker: Checker,
    /// The next frames whose answers are due: from the reactor, and from the other thread.
    due: [u32; 2],
    unanswered: u32,
    messages: u64,
    broadcast: Option<u32>,
    got: u64,
    next_read: Instant,
    /// The connection was seen to have ended: what is left may be read.
    over: bool,
    end: Option<(End, Instant)>,
    wrong: Option<String>,
}

impl Client {
    /// Begins to connect from `from` to `to`.
    pub fn start(n: u64, script: Script, from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // An earlier run may have left the address in TIME_WAIT, with another server.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(size) = script.recv_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        socket.bind(&from.into())?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error)
            }
            _ => {}
        }
        let now = Instant::now();
        Ok(Self {
            n,
            script,
            stream: socket.into(),
            born: now,
            wake: None,
            connected: false,
            frame: None,
            written: 0,
            begun: 0,
            sent: 0,
            sent_all_at: None,
            next_write: now,
            write_failed: false,
            fin_sent: false,
            close_asked: false,
            checker: Checker::default(),
            due: [0, 0],
            unanswered: 0,
            messages: 0,
            broadcast: None,
            got: 0,
            next_read: now,
            over: false,
            end: None,
            wrong: None,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The server has ended the connection, whether or not we read.
    pub fn hung_up(&mut self) {
        self.over = true;
    }

    /// Answers got since the last call.
    pub fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    /// Does what can be done now. Returns a farewell when the client is done; it is to be dropped then.
    pub fn step(&mut self, now: Instant, scratch: &mut [u8]) -> Option<Farewell> {
        self.wake = Some(self.born + PATIENCE);
        if let Ending::Reset(0, _) = self.script.ending {
            return self.reset();
        }
        if now >= self.born + PATIENCE {
            if self.script.behaviour.is_good() {
                let [direct, remote] = self.due;
                self.wrong = Some(format!(
                    "lost: not done after {PATIENCE:?} (begun {}, sent all {}, due {direct} and {remote}, fin sent {})",
                    self.begun,
                    self.sent_all_at.is_some(),
                    self.fin_sent,
                ));
            }
            return self.reset();
        }
        if let Some((after, length)) = self.script.freeze {
            let (from, until) = (self.born + after, self.born + after + length);
            self.wake_at(if now < from { from } else { until });
            if now >= from && now < until {
                return None;
            }
        }
        let done = self.work(now, scratch);
        if done.is_err() || self.wrong.is_some() {
            return self.reset();
        }
        self.finish(now)
    }

    fn work(&mut self, now: Instant, scratch: &mut [u8]) -> io::Result<()> {
        if !self.connected {
            if let Some(error) = self.stream.take_error()? {
                self.wrong = Some(format!("could not connect: {error}"));
                return Ok(());
            }
            match self.stream.peer_addr() {
                Ok(_) => self.connected = true,
                // Not yet; or it is over already, and a read will tell.
                Err(_) if !self.over => return Ok(()),
                Err(_) => {}
            }
        }
        // Only an answer opens the window, so reading comes before and after.
        self.pull(now, scratch);
        self.push(now)?;
        self.pull(now, scratch);
        Ok(())
    }

    /// The next frame to send, if there is one and its time has come.
    fn next_frame(&mut self, now: Instant) -> Option<Frame> {
        if self.begun < self.script.frames {
            if self.unanswered >= self.script.window {
                return None;
            }
            if now < self.next_write {
                self.wake_at(self.next_write);
                return None;
            }
            let frame = self.script.frame(self.begun);
            self.begun += 1;
            self.unanswered += u32::from(is_answered(frame.kind));
            return Some(frame);
        }
        let asks = matches!(self.script.ending, Ending::AskClose | Ending::Overstay(_));
        (asks && !self.close_asked && self.is_answered()).then(|| {
            self.close_asked = true;
            Frame { kind: Kind::Close, len: 0, tag: 0 }
        })
    }

    fn push(&mut self, now: Instant) -> io::Result<()> {
        let mut budget = BUDGET;
        if let Ending::Reset(after, _) = self.script.ending {
            budget = budget.min(after.saturating_sub(self.sent) as usize);
        }
        while budget > 0 && !self.write_failed && !self.fin_sent {
            if self.frame.is_none() {
                let Some(frame) = self.next_frame(now) else { break };
                self.frame = Some((frame, frame.header()));
                self.written = 0;
            }
            let Some((frame, header)) = self.frame else { break };
            let mut limit = budget;
            if let Some((bytes, pause)) = self.script.piece {
                if now < self.next_write {
                    self.wake_at(self.next_write);
                    break;
                }
                limit = limit.min(bytes);
                self.next_write = now + pause;
            }
            let [head, payload] = frame.rest(&header, self.written);
            let head = &head[..head.len().min(limit)];
            let payload = &payload[..payload.len().min(limit - head.len())];
            let wrote = match self.script.urgent {
                // The server takes urgent bytes in where they stand, so it must be one of the frame.
                Some(index) if index + 1 == self.begun && self.written == 0 => {
                    let flags = SendFlags::OOB | SendFlags::NOSIGNAL;
                    send(&self.stream, &head[..1.min(head.len())], flags).map_err(io::Error::from)
                }
                _ => self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(payload)]),
            };
            match wrote {
                Ok(count) => {
                    self.written += count;
                    self.sent += count as u64;
                    budget -= count;
                    if self.written == HEADER + frame.asked() {
                        self.frame = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The kernel tells this error once. An end of stream behind it is none.
                Err(_) => self.write_failed = true,
            }
        }
        if budget == 0 {
            self.wake_at(now);
        }
        if self.frame.is_none() && self.begun == self.script.frames {
            self.sent_all_at.get_or_insert(now);
        }
        let ended = match self.script.ending {
            Ending::Answered => self.is_answered(),
            Ending::Sent | Ending::FinReset(_) => self.sent_all_at.is_some(),
            _ => false,
        };
        if ended && !self.fin_sent && self.connected && self.frame.is_none() {
            self.fin_sent = true;
            // ENOTCONN: it is over, and a read will tell.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Whether all has been sent and every answer has come.
    fn is_answered(&self) -> bool {
        self.begun == self.script.frames
            && (self.frame.is_none() || self.close_asked)
            && self.unanswered == 0
            && self.checker.is_whole()
    }

    fn pull(&mut self, now: Instant, scratch: &mut [u8]) {
        let mut budget = BUDGET;
        match self.script.reading {
            _ if self.over => {}
            Reading::Eager => {}
            Reading::Never => return,
            Reading::Late(after) if now < self.born + after => return self.wake_at(self.born + after),
            Reading::Late(_) => {}
            Reading::Slow(bytes, every) => {
                if now < self.next_read {
                    return self.wake_at(self.next_read);
                }
                self.next_read = now + every;
                self.wake_at(self.next_read);
                budget = bytes;
            }
        }
        while budget > 0 && self.end.is_none() && self.wrong.is_none() {
            let room = budget.min(scratch.len());
            match self.stream.read(&mut scratch[..room]) {
                Ok(0) if self.write_failed => self.end = Some((End::Broken, now)),
                Ok(0) => self.end = Some((End::Eof, now)),
                Ok(count) => {
                    self.got += count as u64;
                    budget -= count;
                    self.check(&scratch[..count], now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.end = Some((End::Broken, now)),
            }
        }
        if budget == 0 && (self.over || !matches!(self.script.reading, Reading::Slow(..))) {
            self.wake_at(now);
        }
    }

    fn check(&mut self, data: &[u8], now: Instant) {
        let Self { checker, script, due, unanswered, broadcast, messages, begun, .. } = self;
        let checked = checker.feed(data, |frame| {
            if frame.kind == Kind::Broadcast {
                let expected = broadcast.map_or(frame.tag, |last| last.wrapping_add(1));
                *broadcast = Some(frame.tag);
                return match frame.tag == expected {
                    true => Ok(()),
                    false => Err(format!("broadcast {} came where {expected} was due", frame.tag)),
                };
            }
            let from_thread = usize::from(frame.kind == Kind::Remote);
            let next = (due[from_thread]..*begun).find(|index| {
                let kind = script.frame(*index).kind;
                is_answered(kind) && (kind == Kind::Remote) == (from_thread == 1)
            });
            match next.map(|index| (index, script.frame(index))) {
                Some((index, expected)) if expected == frame => {
                    due[from_thread] = index + 1;
                    *unanswered -= 1;
                    *messages += 1;
                    Ok(())
                }
                other => Err(format!("{frame:?} came where {other:?} was due")),
            }
        });
        if let Err(what) = checked {
            self.wrong = Some(format!("behind byte {}: {what}", self.got - data.len() as u64));
        } else if self.unanswered == 0 && self.script.piece.is_none() && !self.script.think.is_zero() {
            self.next_write = now + self.script.think;
        }
    }

    /// Whether it is time to go.
    fn finish(&mut self, now: Instant) -> Option<Farewell> {
        if let Some((end, at)) = self.end {
            return match self.script.ending {
                Ending::Overstay(stay) if end == End::Eof && now < at + stay => {
                    self.wake_at(at + stay);
                    None
                }
                _ => Some(self.farewell(end)),
            };
        }
        match self.script.ending {
            Ending::Reset(after, patience) => {
                if self.sent >= after || now >= self.born + patience {
                    return self.reset();
                }
                self.wake_at(self.born + patience);
            }
            Ending::FinReset(delay) | Ending::Leave(delay) => {
                if let Some(sent_all) = self.sent_all_at {
                    if now < sent_all + delay {
                        self.wake_at(sent_all + delay);
                    } else if matches!(self.script.ending, Ending::Leave(_)) {
                        return Some(self.farewell(End::Left));
                    } else {
                        return self.reset();
                    }
                }
            }
            _ => {}
        }
        None
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Leaves with a reset. (Also a client that found something wrong: it is told all the same.)
    fn reset(&mut self) -> Option<Farewell> {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        Some(self.farewell(End::Left))
    }

    fn farewell(&mut self, end: End) -> Farewell {
        Farewell {
            n: self.n,
            behaviour: self.script.behaviour,
            ending: self.script.ending,
            end,
            sent: self.sent,
            got: self.got,
            answered: self.is_answered(),
            whole: self.checker.is_whole(),
            wrong: self.wrong.take(),
        }
    }
}

/// Whether a frame of this kind brings an answer.
fn is_answered(kind: Kind) -> bool {
    matches!(kind, Kind::Echo | Kind::Remote | Kind::Push | Kind::Heedless)
}
