//! One publisher, many subscribers: each gets every message, in order.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::audience::Audience;
use super::{reset, wrong, Game, Latencies, Line, Tls, PERIOD};

const FRAME: usize = 64;
/// After so many frames the stream of them begins again.
const CYCLE: usize = PERIOD * FRAME;

pub struct Fanout {
    publisher: Line,
    subscribers: Audience,
    /// Subscribe, and never read again.
    silent: Vec<Line>,
    /// Frames sent at once: the next come when all subscribers have these.
    in_flight: usize,
    /// Bytes published.
    published: usize,
    /// The stream of frames, a cycle and more of it.
    frames: Vec<u8>,
}

impl Fanout {
    pub fn open(
        addr: SocketAddr,
        subscribers: usize,
        silent: usize,
        in_flight: usize,
        tls: &Tls,
    ) -> io::Result<Self> {
        let mut frames = Vec::new();
        for n in 0..PERIOD + in_flight {
            frames.push(b'M');
            frames.extend((0..FRAME - 1).map(|i| ((n * (FRAME - 1) + i) % PERIOD) as u8));
        }
        let mut fanout = Self {
            publisher: Line::open(addr, 0, None, tls)?,
            subscribers: Audience::new()?,
            silent: Vec::new(),
            in_flight,
            published: 0,
            frames,
        };
        for n in 0..subscribers + silent {
            let mut line = Line::open(addr, n, (n >= subscribers).then_some(4096), tls)?;
            // It asks to be sent what is published, and waits for the confirmation.
            line.ask(&[b'S'; FRAME])?;
            if n < subscribers {
                fanout.subscribers.add(line)?;
            } else {
                fanout.silent.push(line);
            }
        }
        Ok(fanout)
    }

    /// How long a server may be silent before it has failed.
    pub fn set_patience(&mut self, patience: Duration) {
        self.subscribers.poll.patience = patience;
    }
}

impl Game for Fanout {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        self.subscribers.poll.begin();
        let end = Instant::now() + time;
        let mut deliveries = 0;
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok(deliveries);
            }
            let from = self.published % CYCLE;
            let length = self.in_flight * FRAME;
            if self.publisher.write(&self.frames[from..from + length])? < length {
                return Err(wrong("the kernel took part of what was published"));
            }
            self.published += length;
            self.subscribers.hear(self.published, &self.frames, CYCLE, latencies, begun)?;
            deliveries += (self.subscribers.len() * self.in_flight) as u64;
        }
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        self.silent.iter().map(Line::stream).for_each(reset);
        reset(self.publisher.stream());
    }
}
