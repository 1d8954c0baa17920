//! What each connection does.

use std::collections::BTreeSet;
use std::time::Duration;

use unbroken::frame::{Delimited, Frame};
use unbroken::{
    Bytes, CloseReason, CloseReport, ConnId, Handler, Net, Overflow, PerConn, SendError, Sent, Via,
};

use crate::commands::{self, Command};
use crate::events::{self, Events};

/// The longest line of a room, its end counted.
const ROOM_LINE: usize = 64 << 10;
/// What `FLOOD` and `TWICE` send at a time.
const PIECE: u64 = 1000;
/// What `STREAM` sends at a time.
const STREAM_PIECE: usize = 16 << 10;
/// How long `STREAM` waits when the budget of all connections together is spent.
const STREAM_RETRY: Duration = Duration::from_millis(10);
/// The pattern repeats after so many bytes.
const PERIOD: usize = 251;

/// What a connection does with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Waits for the first line.
    Choosing,
    Echo,
    Sink,
    Stream,
    Room,
    Twice(Duration),
    Panic,
}

struct Member {
    mode: Mode,
    /// Finds the first line, and those for the room.
    lines: Delimited,
    /// Pattern bytes sent so far.
    offset: u64,
    /// `congested` was told, and no drain since.
    congested: bool,
}

pub struct Lab {
    events: Events,
    members: PerConn<Member>,
    room: BTreeSet<ConnId>,
    /// The pattern, long enough for a piece from any place of the period.
    pattern: Bytes,
}

/// `len` bytes of the pattern from stream offset `from` on.
fn pattern(from: u64, len: usize) -> Vec<u8> {
    let phase = (from % PERIOD as u64) as usize;
    let period: Vec<u8> = (0..PERIOD).map(|i| ((i + phase) % PERIOD) as u8).collect();
    let mut bytes = period.repeat(len.div_ceil(PERIOD));
    bytes.truncate(len);
    bytes
}

impl Lab {
    pub fn new(events: Events) -> Self {
        Self {
            events,
            members: PerConn::new(),
            room: BTreeSet::new(),
            pattern: pattern(0, PERIOD + STREAM_PIECE).into(),
        }
    }

    /// After each line: when nobody reads what we say, the lab ends.
    fn mind_the_output(&self, net: &mut Net) {
        if self.events.nobody_listens() {
            net.shutdown(Duration::ZERO);
        }
    }

    fn set_mode(&mut self, conn: ConnId, mode: Mode) {
        if let Some(member) = self.members.get_mut(conn) {
            member.mode = mode;
        }
    }

    /// Sends, and tells once when the queue passes high water.
    fn send(&mut self, net: &mut Net, conn: ConnId, data: Bytes) -> Result<Sent, SendError> {
        let sent = net.send_bytes(conn, data);
        if let (Ok(Sent::Congested), Some(member)) = (sent, self.members.get_mut(conn)) {
            if !std::mem::replace(&mut member.congested, true) {
                self.events.congested(conn, net.queued(conn));
                self.mind_the_output(net);
            }
        }
        sent
    }

    /// Sends `len` bytes of the pattern in one piece. A cap that it would pass is met before the
    /// bytes are made. What no connection could hold the engine only refuses: under the policy that
    /// closes we end the connection ourselves.
    fn send_pattern(&mut self, net: &mut Net, conn: ConnId, len: u64) -> Result<Sent, SendError> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let config = net.config();
        let impossible = size > config.max_write_buffer.min(config.total_write_buffer);
        if impossible && config.overflow == Overflow::Close {
            net.abort_as(conn, CloseReason::SlowConsumer);
        }
        net.try_reserve(conn, size)?;
        let offset = self.members.get(conn).map_or(0, |member| member.offset);
        let from = (offset % PERIOD as u64) as usize;
        let bytes = match from + size <= self.pattern.len() {
            true => self.pattern.slice(from..from + size),
            false => pattern(offset, size).into(),
        };
        let sent = self.send(net, conn, bytes)?;
        if let Some(member) = self.members.get_mut(conn) {
            member.offset += len;
        }
        Ok(sent)
    }

    /// Fills the queue to high water and not beyond: who honours `Congested` never meets a cap.
    fn stream(&mut self, net: &mut Net, conn: ConnId) {
        loop {
            let room = net.config().high_water.saturating_sub(net.queued(conn)).min(STREAM_PIECE);
            if room == 0 {
                return;
            }
            match self.send_pattern(net, conn, room as u64) {
                Ok(Sent::Queued) => {}
                // The cap of all connections together, under the policy that refuses: nothing will
                // tell when there is room again.
                Err(SendError::Full) => return net.set_deadline(conn, STREAM_RETRY),
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn flood(&mut self, net: &mut Net, conn: ConnId, mut left: u64) {
        while left > 0 {
            let piece = left.min(PIECE);
            if self.send_pattern(net, conn, piece).is_err() {
                return;
            }
            left -= piece;
        }
    }

    fn start(&mut self, net: &mut Net, conn: ConnId, command: Command) {
        let mode = match command {
            Command::Echo => Mode::Echo,
            Command::Stream => Mode::Stream,
            Command::Room => Mode::Room,
            Command::Panic => Mode::Panic,
            Command::Twice(after) => Mode::Twice(after),
            _ => Mode::Sink,
        };
        self.set_mode(conn, mode);
        // What a send that was refused would have said is told by the close line, or by nothing
        // under the policy that refuses: the rest of the row happens either way.
        match command {
            Command::Echo | Command::Sink | Command::Panic | Command::Twice(_) => {}
            Command::Send(len) => {
                let _ = self.send_pattern(net, conn, len);
            }
            Command::SendClose(len) => {
                let _ = self.send_pattern(net, conn, len);
                net.close(conn);
            }
            Command::SendAbort(len) => {
                let _ = self.send_pattern(net, conn, len);
                net.abort(conn);
            }
            Command::Half(len) => {
                let _ = self.send_pattern(net, conn, len);
                net.close_write(conn);
            }
            Command::Stream => self.stream(net, conn),
            Command::Flood(len) => self.flood(net, conn, len),
            Command::Room => {
                self.members[conn].lines = Delimited::new(b"\n").max(ROOM_LINE).keep_delimiter();
                self.room.insert(conn);
            }
            Command::Pause(time) => {
                net.pause_reading(conn);
                net.set_deadline(conn, time);
            }
            Command::Stats => {
                let line = events::stats(net.stats());
                let _ = self.send(net, conn, line.into());
                net.close(conn);
            }
            Command::Unknown => {
                let _ = self.send(net, conn, Bytes::from_static(b"unknown command\n"));
                net.close(conn);
            }
        }
    }

    /// Sends every whole line to everybody. Returns the bytes used.
    fn talk(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let members: Vec<_> = self.room.iter().copied().collect();
        let mut rest = data;
        while let Some(line) = self.members[conn].lines.next_in(&mut rest) {
            let line = match line {
                Frame::Whole(line) if line.len() <= ROOM_LINE => Bytes::copy_from_slice(line),
                _ => {
                    net.abort_as(conn, CloseReason::InputOverflow);
                    return data.len();
                }
            };
            for member in &members {
                let _ = self.send(net, *member, line.clone());
            }
        }
        data.len() - rest.len()
    }
}

impl Handler for Lab {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        let (mode, lines) = (Mode::Choosing, commands::first_line());
        self.members.insert(conn, Member { mode, lines, offset: 0, congested: false });
        self.events.open(conn, net.peer_addr(conn));
        self.mind_the_output(net);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let member = &mut self.members[conn];
        match member.mode {
            Mode::Choosing => {
                let mut rest = data;
                let Some(line) = member.lines.next_in(&mut rest) else { return 0 };
                let command = commands::read(line);
                self.start(net, conn, command);
                let used = data.len() - rest.len();
                // What follows the line is input of the command, at once or when reading resumes.
                if rest.is_empty() || matches!(command, Command::Pause(_)) {
                    return used;
                }
                used + self.on_data(net, conn, rest)
            }
            Mode::Echo => {
                // At the cap the policy of the configuration decides; nothing is echoed twice.
                let _ = self.send(net, conn, Bytes::copy_from_slice(data));
                data.len()
            }
            Mode::Room => self.talk(net, conn, data),
            Mode::Panic => panic!("the client {conn} asked for it"),
            Mode::Sink | Mode::Stream | Mode::Twice(_) => data.len(),
        }
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.events.eof(conn);
        self.mind_the_output(net);
        self.room.remove(&conn);
        match self.members.get(conn).map(|member| member.mode) {
            Some(Mode::Twice(after)) => {
                let _ = self.send_pattern(net, conn, PIECE);
                net.set_deadline(conn, after);
            }
            _ => {
                self.set_mode(conn, Mode::Sink);
                net.close(conn);
            }
        }
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.events.drain(conn, net.queued(conn));
        self.mind_the_output(net);
        let Some(member) = self.members.get_mut(conn) else { return };
        member.congested = false;
        if member.mode == Mode::Stream {
            self.stream(net, conn);
        }
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        match self.members.get(conn).map(|member| member.mode) {
            Some(Mode::Twice(_)) => {
                let _ = self.send_pattern(net, conn, PIECE);
                net.close(conn);
            }
            Some(Mode::Stream) => self.stream(net, conn),
            _ => net.resume_reading(conn),
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        self.members.remove(conn);
        self.room.remove(&conn);
        self.events.close(conn, net.peer_addr(conn), report);
        self.mind_the_output(net);
    }
}
