//! What a client is going to do: one of many behaviours, drawn at random and carried out by
//! `client.rs`. The same number gives the same client, whatever the others do.

use std::time::Duration;

use crate::wire::{Frame, Kind, Rng};

/// The behaviours, and how many of a hundred clients show each.
pub const BEHAVIOURS: [(Behaviour, u64); 19] = [
    (Behaviour::Echo, 19),
    (Behaviour::Regular, 4),
    (Behaviour::HalfClose, 10),
    (Behaviour::ByteByByte, 4),
    (Behaviour::TinyWindow, 3),
    (Behaviour::Urgent, 3),
    (Behaviour::Member, 6),
    (Behaviour::SlowReader, 4),
    (Behaviour::NeverReader, 4),
    (Behaviour::LateReader, 3),
    (Behaviour::Freezer, 4),
    (Behaviour::ResetAtOnce, 8),
    (Behaviour::ResetMidFrame, 7),
    (Behaviour::ResetAfterFin, 5),
    (Behaviour::CloseUnread, 4),
    (Behaviour::Flood, 2),
    (Behaviour::Silent, 3),
    (Behaviour::Leaver, 5),
    (Behaviour::Overstayer, 2),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// Sends a few messages, reads the answers, and so on; then ends in good order.
    Echo,
    /// The same, and stays long: it has much to live through.
    Regular,
    /// Sends all it has and its end of stream without waiting for answers, then reads to the end.
    HalfClose,
    ByteByByte,
    /// The smallest receive buffer there is.
    TinyWindow,
    /// Sends a byte of a message as an urgent one.
    Urgent,
    /// Takes part in the broadcasts.
    Member,
    SlowReader,
    /// Asks for much and reads nothing.
    NeverReader,
    /// Asks for much, reads nothing for some seconds, and then all that there is.
    LateReader,
    /// Neither reads nor writes for some seconds, then goes on.
    Freezer,
    ResetAtOnce,
    ResetMidFrame,
    /// Ends its stream, and resets the connection a little later.
    ResetAfterFin,
    /// Closes while answers lie unread in its buffer.
    CloseUnread,
    /// Sends as fast as it can.
    Flood,
    /// Connects and says nothing.
    Silent,
    /// Connects and is gone before it can have been accepted.
    Leaver,
    /// Has the server close, and keeps its own end open.
    Overstayer,
}

impl Behaviour {
    /// Whether its clients do nothing wrong: each of them must get everything, and the server
    /// must say so.
    pub fn is_good(self) -> bool {
        self <= Self::Member
    }
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Eager,
    /// So many bytes, so often.
    Slow(usize, Duration),
    /// Nothing for so long.
    Late(Duration),
    /// Only what is left when the server has ended the connection.
    Never,
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Ends its stream when all answers are in, and reads to the end.
    Answered,
    /// Ends its stream when all is sent, and reads to the end.
    Sent,
    /// Has the server close when all answers are in, and reads to the end.
    AskClose,
    /// Has the server close, and stays so long.
    Overstay(Duration),
    /// Resets the connection once it has sent so many bytes, or could not for so long.
    Reset(u64, Duration),
    /// Ends its stream when all is sent, and resets the connection so much later.
    FinReset(Duration),
    /// Closes so long after all is sent.
    Leave(Duration),
    /// Waits for the server to end it.
    Stay,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub behaviour: Behaviour,
    key: u64,
    pub frames: u32,
    /// The longest payload of an echo.
    size: u64,
    /// How many frames of a hundred are answered by another thread.
    remote: u64,
    /// How many frames of a hundred have a long answer, how long at most, and of which kind.
    push: (u64, u64, Kind),
    /// How many frames of a hundred are not answered.
    sink: u64,
    /// Frames without an answer at most.
    pub window: u32,
    /// The pause before the next window.
    pub think: Duration,
    /// At most so many bytes are written at a time, so often.
    pub piece: Option<(usize, Duration)>,
    pub reading: Reading,
    /// From when, counted from the start, and for how long nothing is done.
    pub freeze: Option<(Duration, Duration)>,
    pub recv_buffer: Option<usize>,
    /// The frame whose first byte is sent as an urgent one.
    pub urgent: Option<u32>,
    pub ending: Ending,
}

impl Script {
    /// The script of client number `n` in the run of this seed.
    pub fn draw(seed: u64, n: u64) -> Self {
        let mut rng = Rng::new(seed ^ n.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let behaviour = draw_behaviour(&mut rng);
        let mut script = Self {
            behaviour,
            key: rng.next(),
            frames: rng.between(3, 40) as u32,
            size: [64, 1000, 4000, 16_000][rng.between(0, 3) as usize],
            remote: if rng.chance(30) { 30 } else { 0 },
            push: (if rng.chance(30) { 10 } else { 0 }, 64 << 10, Kind::Push),
            sink: 5,
            window: rng.between(1, 4) as u32,
            think: millis(&mut rng, 0, 200),
            piece: None,
            reading: Reading::Eager,
            freeze: None,
            recv_buffer: None,
            urgent: None,
            ending: if rng.chance(50) { Ending::Answered } else { Ending::AskClose },
        };
        script.misbehave(&mut rng);
        script
    }

    /// Sets what this behaviour does otherwise than the plain one.
    fn misbehave(&mut self, rng: &mut Rng) {
        match self.behaviour {
            Behaviour::Echo => {}
            Behaviour::Regular => {
                (self.frames, self.think) = (rng.between(4, 8) as u32, millis(rng, 500, 3000));
                self.window = 1;
            }
            Behaviour::HalfClose => {
                // An answer from the other thread may come when the connection is closing already.
                (self.remote, self.window, self.think) = (0, u32::MAX, Duration::ZERO);
                self.ending = Ending::Sent;
            }
            Behaviour::ByteByByte => {
                (self.frames, self.size, self.push.0) = (rng.between(2, 6) as u32, 40, 0);
                self.piece = Some((1, Duration::from_millis(5)));
            }
            Behaviour::TinyWindow => {
                (self.frames, self.size, self.push.0) = (rng.between(2, 8) as u32, 1000, 0);
                self.recv_buffer = Some(1);
            }
            Behaviour::Urgent => self.urgent = Some(rng.between(0, 3) as u32),
            Behaviour::Member => self.think = millis(rng, 50, 400),
            Behaviour::SlowReader => {
                (self.window, self.push.0) = (u32::MAX, 30);
                self.reading = Reading::Slow(rng.between(2000, 20_000) as usize, millis(rng, 10, 60));
                self.recv_buffer = rng.chance(50).then_some(8 << 10);
            }
            Behaviour::NeverReader => {
                let kind = if rng.chance(50) { Kind::Heedless } else { Kind::Push };
                self.push = (60, rng.between(32, 256) << 10, kind);
                (self.window, self.think) = (u32::MAX, Duration::ZERO);
                self.reading = Reading::Never;
                self.ending = Ending::Stay;
            }
            Behaviour::LateReader => {
                // Nothing of it is left unread when the server gives up, so the kernel resets nothing.
                (self.remote, self.push) = (0, (100, 32 << 10, Kind::Heedless));
                (self.window, self.think) = (u32::MAX, Duration::ZERO);
                self.reading = Reading::Late(millis(rng, 3000, 9000));
            }
            Behaviour::Freezer => {
                (self.window, self.push.0) = (u32::MAX, 20);
                self.freeze = Some((millis(rng, 0, 500), millis(rng, 500, 8000)));
                self.ending = if rng.chance(50) { Ending::Answered } else { Ending::Sent };
            }
            Behaviour::ResetAtOnce => self.ending = Ending::Reset(0, Duration::ZERO),
            Behaviour::ResetMidFrame => {
                self.size = self.size.max(1000);
                (self.window, self.think) = (u32::MAX, Duration::ZERO);
                // Somewhere within the frames, and hardly ever at the end of one.
                let after = rng.between(1, 1 + u64::from(self.frames) * self.size / 3);
                self.ending = Ending::Reset(after, millis(rng, 100, 1000));
                self.reading = if rng.chance(50) { Reading::Eager } else { Reading::Never };
            }
            Behaviour::ResetAfterFin => {
                (self.window, self.think, self.push.0) = (u32::MAX, Duration::ZERO, 20);
                self.reading = if rng.chance(50) { Reading::Eager } else { Reading::Never };
                self.ending = Ending::FinReset(millis(rng, 0, 300));
            }
            Behaviour::CloseUnread => {
                (self.window, self.think, self.push.0) = (u32::MAX, Duration::ZERO, 30);
                self.reading = Reading::Never;
                self.ending = Ending::Leave(millis(rng, 0, 500));
            }
            Behaviour::Flood => {
                (self.frames, self.size, self.sink) = (rng.between(100, 600) as u32, 16_000, 50);
                (self.window, self.think) = (u32::MAX, Duration::ZERO);
                self.ending = if rng.chance(50) { Ending::Sent } else { Ending::Leave(Duration::ZERO) };
            }
            Behaviour::Silent => (self.frames, self.ending) = (0, Ending::Stay),
            Behaviour::Leaver => {
                self.frames = u32::from(rng.chance(30));
                let reset = Ending::Reset(0, Duration::ZERO);
                self.ending = if rng.chance(50) { reset } else { Ending::Leave(Duration::ZERO) };
            }
            Behaviour::Overstayer => self.ending = Ending::Overstay(millis(rng, 500, 8000)),
        }
    }

    /// The frame number `index`, the same whenever it is asked for.
    pub fn frame(&self, index: u32) -> Frame {
        let mut rng = Rng::new(self.key ^ u64::from(index));
        let tag = rng.next() as u32;
        let frame = |kind, len: u64| Frame { kind, len: len as usize, tag };
        let choice = rng.between(0, 99);
        let [remote, push, sink] =
            [self.remote, self.remote + self.push.0, self.remote + self.push.0 + self.sink];
        if index == 0 && self.behaviour == Behaviour::Member {
            frame(Kind::Join, 0)
        } else if choice < remote {
            frame(Kind::Remote, rng.between(0, self.size.min(1000)))
        } else if choice < push {
            frame(self.push.2, rng.between(1, self.push.1))
        } else if choice < sink {
            frame(Kind::Sink, rng.between(0, self.size))
        } else {
            frame(Kind::Echo, rng.between(0, self.size))
        }
    }
}

fn draw_behaviour(rng: &mut Rng) -> Behaviour {
    let mut choice = rng.between(1, BEHAVIOURS.iter().map(|(_, share)| share).sum());
    for (behaviour, share) in BEHAVIOURS {
        if choice <= share {
            return behaviour;
        }
        choice -= share;
    }
    Behaviour::Echo
}

fn millis(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.between(least, most))
}
