//! A message to a crowd that does nothing else, and what one client sees that asks meanwhile.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::line::scratch;
use super::{reset, wrong, Line, Poll};

const FRAME: usize = 64;
/// How often the one asks.
const EVERY: Duration = Duration::from_millis(1);
/// So few are read from before the one is looked after again.
const AT_A_TIME: usize = 64;

struct Member {
    line: Line,
    got: usize,
}

/// What became of a message.
pub struct Delivery {
    /// Until the last had it.
    pub last: Duration,
    /// The longest that the one waited for an answer, counted from when it was to ask.
    pub wait: Duration,
}

pub struct Broadcast {
    publisher: Line,
    members: Vec<Member>,
    /// A subscriber as well, that asks to be one again and again: each time it is answered.
    asking: Line,
    /// Bytes that have come for it, and where the present frame stands in them.
    heard: Vec<u8>,
    poll: Poll,
    scratch: Vec<u8>,
    ready: Vec<usize>,
}

impl Broadcast {
    pub fn open(addr: SocketAddr, members: usize) -> io::Result<Self> {
        let mut broadcast = Self {
            publisher: Line::open(addr, 0, None, &None)?,
            members: Vec::new(),
            asking: Line::open(addr, 0, None, &None)?,
            heard: Vec::new(),
            poll: Poll::taking(AT_A_TIME)?,
            scratch: scratch(),
            ready: Vec::new(),
        };
        broadcast.asking.ask(&[b'S'; FRAME])?;
        for n in 0..members {
            let mut line = Line::open(addr, n, None, &None)?;
            line.ask(&[b'S'; FRAME])?;
            broadcast.poll.add(&line, n, EventFlags::IN)?;
            broadcast.members.push(Member { line, got: 0 });
        }
        Ok(broadcast)
    }

    /// One message to all.
    pub fn publish(&mut self) -> io::Result<Delivery> {
        let begun = Instant::now();
        self.poll.begin();
        let frame = [b'M'; FRAME];
        if self.publisher.write(&frame)? < FRAME {
            return Err(wrong("the kernel took part of what was published"));
        }
        self.members.iter_mut().for_each(|member| member.got = 0);
        let (mut missing, mut wait, mut last) = (self.members.len(), Duration::ZERO, Duration::ZERO);
        // When the question that is on its way was due, and when the next one is.
        let (mut asked, mut due) = (None, begun);
        while missing > 0 || asked.is_some() {
            if asked.is_none() && missing > 0 && Instant::now() >= due {
                if self.asking.write(&[b'S'; FRAME])? < FRAME {
                    return Err(ErrorKind::WriteZero.into());
                }
                asked = Some(due);
                due += EVERY;
            }
            self.poll.wait(EVERY / 4, &mut self.ready)?;
            for slot in &self.ready {
                let Some(member) = self.members.get_mut(*slot) else { continue };
                let Some(count) = member.line.read(&mut self.scratch)? else { continue };
                member.got += count;
                if member.got > FRAME || self.scratch[..count].iter().any(|byte| *byte != b'M') {
                    return Err(wrong("a receiver got something else than was sent"));
                }
                if member.got == FRAME {
                    missing -= 1;
                    last = begun.elapsed();
                }
            }
            if let (true, Some(due)) = (self.is_answered()?, asked) {
                wait = wait.max(due.elapsed());
                asked = None;
            }
        }
        Ok(Delivery { last, wait })
    }

    /// Whether an answer has come for the one that asks. The message itself comes to it as well.
    fn is_answered(&mut self) -> io::Result<bool> {
        if let Some(count) = self.asking.read(&mut self.scratch)? {
            self.heard.extend_from_slice(&self.scratch[..count]);
        }
        let whole = self.heard.len() - self.heard.len() % FRAME;
        let answered = self.heard[..whole].chunks(FRAME).any(|frame| frame[0] == b'S');
        self.heard.drain(..whole);
        Ok(answered)
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        self.members.iter().map(|member| member.line.stream()).for_each(reset);
        [&self.publisher, &self.asking].map(Line::stream).into_iter().for_each(reset);
    }
}
