//! Receivers of one stream, all of which get all of it, in order.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::line::scratch;
use super::{reset, wrong, Latencies, Line, Poll};

struct Member {
    line: Line,
    got: usize,
}

pub struct Audience {
    pub poll: Poll,
    members: Vec<Member>,
    scratch: Vec<u8>,
    ready: Vec<usize>,
}

impl Audience {
    pub fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, members: Vec::new(), scratch: scratch(), ready: Vec::new() })
    }

    pub fn add(&mut self, line: impl Into<Line>) -> io::Result<()> {
        let line = line.into();
        self.poll.add(&line, self.members.len(), EventFlags::IN)?;
        self.members.push(Member { line, got: 0 });
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn streams(&self) -> impl Iterator<Item = &TcpStream> {
        self.members.iter().map(|member| member.line.stream())
    }

    /// Reads until everybody has `total` bytes since the beginning. The first `cycle` bytes of
    /// `stream` are what is sent, again and again; behind them stands as much of their beginning as
    /// one read may bring beyond.
    pub fn hear(
        &mut self,
        total: usize,
        stream: &[u8],
        cycle: usize,
        latencies: &mut Latencies,
        begun: Instant,
    ) -> io::Result<()> {
        let mut missing = self.members.len();
        while missing > 0 {
            self.poll.wait(Duration::from_millis(20), &mut self.ready)?;
            for slot in &self.ready {
                let Some(member) = self.members.get_mut(*slot) else { continue };
                let Some(count) = member.line.read(&mut self.scratch)? else { continue };
                let from = member.got % cycle;
                member.got += count;
                if member.got > total || stream.get(from..from + count) != Some(&self.scratch[..count]) {
                    return Err(wrong("a receiver got something else than was sent"));
                }
                if member.got == total {
                    missing -= 1;
                    latencies.saturating_record(begun.elapsed().as_nanos() as u64);
                }
            }
        }
        Ok(())
    }

    /// Takes in whatever comes, until nothing has come for a while.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_millis(300) {
            for member in &mut self.members {
                while member.line.read(&mut self.scratch)?.is_some() {
                    last = Instant::now();
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.streams().for_each(reset);
    }
}
