//! Members of an IRC channel: one speaks, all others hear it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::audience::Audience;
use super::{connect, reset, Game, Latencies};

/// Bytes of a delivered line, its end included: as many as the fan-out's frames have.
const LINE: usize = 64;

/// Registered clients of a chat server.
pub struct Chat {
    members: Audience,
    speaker: TcpStream,
    /// What the speaker sends at once, and what every member then hears.
    said: Vec<u8>,
    heard: Vec<u8>,
    lines: usize,
    /// Bytes that every member has been sent.
    sent: usize,
}

/// Connects and registers a client, and returns it when all of the welcome has come.
pub fn register(addr: SocketAddr, n: usize) -> io::Result<TcpStream> {
    let mut stream = connect(addr, n, None)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("NICK n{n}\r\nUSER u 0 * :r\r\n").as_bytes())?;
    hear(&mut stream, b" 376 ")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Reads until these words have come, and the end of their line.
fn hear(stream: &mut TcpStream, words: &[u8]) -> io::Result<()> {
    let (mut all, mut scratch) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut scratch)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => all.extend_from_slice(&scratch[..count]),
        }
        if all.ends_with(b"\n") && all.windows(words.len()).any(|window| window == words) {
            return Ok(());
        }
    }
}

impl Chat {
    /// `members` listen in one channel; `lines` are said at a time.
    pub fn open(addr: SocketAddr, members: usize, lines: usize) -> io::Result<Self> {
        let mut all = Audience::new()?;
        for n in 1..=members {
            all.add(register(addr, n)?)?;
        }
        let mut speaker = register(addr, 0)?;
        for mut client in all.streams().chain([&speaker]) {
            client.write_all(b"JOIN #c\r\n")?;
        }
        speaker.set_nonblocking(false)?;
        speaker.set_read_timeout(Some(Duration::from_secs(5)))?;
        hear(&mut speaker, b" 366 ")?;
        speaker.set_nonblocking(true)?;
        // All that the joins brought.
        all.drain()?;
        let head = format!(":n0!~u@{} PRIVMSG #c :", speaker.local_addr()?.ip());
        let text = "x".repeat(LINE.saturating_sub(head.len() + 2));
        Ok(Self {
            members: all,
            said: format!("PRIVMSG #c :{text}\r\n").repeat(lines).into_bytes(),
            heard: format!("{head}{text}\r\n").repeat(lines).into_bytes(),
            speaker,
            lines,
            sent: 0,
        })
    }
}

impl Game for Chat {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        self.members.poll.begin();
        let end = Instant::now() + time;
        let mut deliveries = 0;
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok(deliveries);
            }
            self.speaker.write_all(&self.said)?;
            self.sent += self.heard.len();
            self.members.hear(self.sent, &self.heard, self.heard.len(), latencies, begun)?;
            deliveries += (self.members.len() * self.lines) as u64;
        }
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        reset(&self.speaker);
    }
}
