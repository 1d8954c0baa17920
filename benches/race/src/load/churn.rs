//! Clients that connect, have one message echoed, and close.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::line::scratch;
use super::{client_socket, pattern, wrong, Game, Latencies, Line, Poll, Tls, PERIOD};

const MESSAGE: usize = 64;

struct Client {
    line: Line,
    phase: usize,
    sent: bool,
    got: usize,
    begun: Instant,
}

pub struct Churn {
    addr: SocketAddr,
    tls: Tls,
    poll: Poll,
    slots: Vec<Option<Client>>,
    pattern: Vec<u8>,
    scratch: Vec<u8>,
    ready: Vec<usize>,
    connected: usize,
}

impl Churn {
    /// So many at a time.
    pub fn open(addr: SocketAddr, at_a_time: usize, tls: &Tls) -> io::Result<Self> {
        let slots = (0..at_a_time).map(|_| None).collect();
        let pattern = pattern(MESSAGE + PERIOD);
        Ok(Self {
            addr,
            tls: tls.clone(),
            poll: Poll::new()?,
            slots,
            pattern,
            scratch: scratch(),
            ready: Vec::new(),
            connected: 0,
        })
    }

    fn connect(&mut self, slot: usize) -> io::Result<()> {
        self.connected += 1;
        let begun = Instant::now();
        // Another source address each time: ports rest for a minute after they were used.
        let socket = client_socket(self.connected * 1000)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.addr.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            result => result?,
        }
        let line = Line::begin(TcpStream::from(socket), &self.tls)?;
        self.poll.add(&line, slot, EventFlags::IN | EventFlags::OUT)?;
        let phase = self.connected % PERIOD;
        self.slots[slot] = Some(Client { line, phase, sent: false, got: 0, begun });
        Ok(())
    }
}

impl Game for Churn {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        self.poll.begin();
        let end = Instant::now() + time;
        for slot in 0..self.slots.len() {
            self.connect(slot)?;
        }
        let (mut outstanding, mut done) = (self.slots.len(), 0);
        while outstanding > 0 {
            let mut ready = std::mem::take(&mut self.ready);
            self.poll.wait(Duration::from_millis(20), &mut ready)?;
            for slot in &ready {
                let Some(Some(client)) = self.slots.get_mut(*slot) else { continue };
                if !client.advance(&self.pattern, &mut self.scratch)? {
                    continue;
                }
                latencies.saturating_record(client.begun.elapsed().as_nanos() as u64);
                done += 1;
                client.line.end()?;
                // Dropped, it is closed.
                self.slots[*slot] = None;
                if Instant::now() < end {
                    self.connect(*slot)?;
                } else {
                    outstanding -= 1;
                }
            }
            self.ready = ready;
        }
        Ok(done)
    }
}

impl Client {
    /// Returns whether the answer is complete.
    fn advance(&mut self, pattern: &[u8], answer: &mut [u8]) -> io::Result<bool> {
        if !self.sent {
            if let Some(error) = self.line.stream().take_error()? {
                return Err(error);
            }
            self.sent = true;
            if self.line.write(&pattern[self.phase..self.phase + MESSAGE])? < MESSAGE {
                return Err(wrong("the kernel took part of a message"));
            }
            return Ok(false);
        }
        if let Some(count) = self.line.read(answer)? {
            let from = self.phase + self.got;
            if self.got + count > MESSAGE || answer[..count] != pattern[from..from + count] {
                return Err(wrong("an answer differs from what was sent"));
            }
            self.got += count;
        }
        Ok(self.got == MESSAGE)
    }
}
