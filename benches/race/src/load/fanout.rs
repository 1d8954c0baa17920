//! One publisher, many subscribers: each gets every message, in order.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::{connect, read_some, reset, wrong, Game, Latencies, Poll, PERIOD};

const FRAME: usize = 64;
/// After so many frames the stream of them begins again.
const CYCLE: usize = PERIOD * FRAME;

struct Subscriber {
    stream: TcpStream,
    got: usize,
}

pub struct Fanout {
    poll: Poll,
    publisher: TcpStream,
    subscribers: Vec<Subscriber>,
    /// Subscribe, and never read again.
    silent: Vec<TcpStream>,
    /// Frames sent at once: the next come when all subscribers have these.
    in_flight: usize,
    /// Bytes published.
    published: usize,
    /// The stream of frames, a cycle and more of it.
    frames: Vec<u8>,
    scratch: Vec<u8>,
    ready: Vec<usize>,
}

impl Fanout {
    pub fn open(addr: SocketAddr, subscribers: usize, silent: usize, in_flight: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut frames = Vec::new();
        for n in 0..PERIOD + in_flight {
            frames.push(b'M');
            frames.extend((0..FRAME - 1).map(|i| ((n * (FRAME - 1) + i) % PERIOD) as u8));
        }
        let mut fanout = Self {
            poll,
            publisher: connect(addr, 0, None)?,
            subscribers: Vec::new(),
            silent: Vec::new(),
            in_flight,
            published: 0,
            frames,
            scratch: vec![0; (in_flight * FRAME).max(4096)],
            ready: Vec::new(),
        };
        for n in 0..subscribers + silent {
            let stream = connect(addr, n, (n >= subscribers).then_some(4096))?;
            subscribe(&stream)?;
            if n < subscribers {
                fanout.poll.add(&stream, n, EventFlags::IN)?;
                fanout.subscribers.push(Subscriber { stream, got: 0 });
            } else {
                fanout.silent.push(stream);
            }
        }
        Ok(fanout)
    }

    /// How long a server may be silent before it has failed.
    pub fn set_patience(&mut self, patience: Duration) {
        self.poll.patience = patience;
    }
}

/// Asks to be sent what is published, and waits for the confirmation.
fn subscribe(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[b'S'; FRAME])?;
    let mut answer = [0; FRAME];
    stream.read_exact(&mut answer)?;
    if answer != [b'S'; FRAME] {
        return Err(wrong("the confirmation differs from what was sent"));
    }
    stream.set_nonblocking(true)
}

impl Game for Fanout {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        self.poll.begin();
        let end = Instant::now() + time;
        let mut deliveries = 0;
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok(deliveries);
            }
            let from = self.published % CYCLE;
            let length = self.in_flight * FRAME;
            self.publisher.write_all(&self.frames[from..from + length])?;
            self.published += length;
            let mut missing = self.subscribers.len();
            while missing > 0 {
                let mut ready = std::mem::take(&mut self.ready);
                self.poll.wait(Duration::from_millis(20), &mut ready)?;
                for slot in &ready {
                    let Some(subscriber) = self.subscribers.get_mut(*slot) else { continue };
                    let Some(count) = read_some(&subscriber.stream, &mut self.scratch)? else { continue };
                    let from = subscriber.got % CYCLE;
                    subscriber.got += count;
                    if subscriber.got > self.published
                        || self.scratch[..count] != self.frames[from..from + count]
                    {
                        return Err(wrong("a subscriber got something else than was published"));
                    }
                    if subscriber.got == self.published {
                        missing -= 1;
                        latencies.saturating_record(begun.elapsed().as_nanos() as u64);
                    }
                }
                self.ready = ready;
            }
            deliveries += (self.subscribers.len() * self.in_flight) as u64;
        }
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        self.subscribers.iter().for_each(|subscriber| reset(&subscriber.stream));
        self.silent.iter().for_each(reset);
        reset(&self.publisher);
    }
}
