//! A client that sends as fast as it can, through a proxy, to one that reads slowly.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{connect, pattern, read_some, reset, wrong, Game, Latencies, PERIOD};

/// What the slow side takes, in bytes a second.
const PACE: f64 = 200e6;
/// The slow side's receive buffer, so that the proxy feels it.
const RECEIVE_BUFFER: usize = 64 << 10;
const BLOCK: usize = 64 << 10;

/// Where the proxy is to connect to.
pub struct Proxy {
    listener: TcpListener,
    ends: Option<(TcpStream, TcpStream)>,
    sent: u64,
    got: u64,
    /// Bytes read of a megabyte not counted yet.
    remainder: u64,
    pattern: Vec<u8>,
    scratch: Vec<u8>,
}

impl Proxy {
    pub fn listen() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        socket2::SockRef::from(&listener).set_recv_buffer_size(RECEIVE_BUFFER)?;
        let (pattern, scratch) = (pattern(BLOCK + PERIOD), vec![0; BLOCK]);
        Ok(Self { listener, ends: None, sent: 0, got: 0, remainder: 0, pattern, scratch })
    }

    pub fn upstream(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Connects to the proxy at `addr`, which connects to us.
    pub fn open(&mut self, addr: SocketAddr) -> io::Result<()> {
        let fast = connect(addr, 0, None)?;
        self.listener.set_nonblocking(true)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        let slow = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        };
        slow.set_nonblocking(true)?;
        self.ends = Some((fast, slow));
        Ok(())
    }
}

impl Game for Proxy {
    /// The unit is a megabyte; one has no latency.
    fn play(&mut self, time: Duration, _: &mut Latencies) -> io::Result<u64> {
        let Some((fast, slow)) = &mut self.ends else { return Err(wrong("there is no connection")) };
        let begun = Instant::now();
        let before = self.got;
        let mut heard = begun;
        loop {
            let now = Instant::now();
            let sending = now - begun < time;
            if !sending && self.got == self.sent {
                break;
            }
            let allowed = ((now - begun).as_secs_f64() * PACE) as u64;
            let mut waits = true;
            if sending {
                let phase = (self.sent % PERIOD as u64) as usize;
                match fast.write(&self.pattern[phase..phase + BLOCK]) {
                    Ok(count) => {
                        self.sent += count as u64;
                        waits = false;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            while self.got - before < allowed {
                let room = self.scratch.len().min((allowed + before - self.got) as usize);
                let Some(count) = read_some(slow, &mut self.scratch[..room])? else { break };
                let phase = (self.got % PERIOD as u64) as usize;
                if self.scratch[..count] != self.pattern[phase..phase + count] {
                    return Err(wrong("the slow side got something else than was sent"));
                }
                self.got += count as u64;
                (heard, waits) = (now, false);
            }
            if now - heard > Duration::from_secs(10) {
                return Err(io::Error::new(ErrorKind::TimedOut, "the proxy has stopped"));
            }
            if waits {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.remainder += self.got - before;
        let megabytes = self.remainder / 1_000_000;
        self.remainder %= 1_000_000;
        Ok(megabytes)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some((fast, slow)) = &self.ends {
            reset(fast);
            reset(slow);
        }
    }
}
