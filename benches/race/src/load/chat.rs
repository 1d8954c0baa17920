//! Members of an IRC channel: one speaks, all others hear it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::{connect, read_some, reset, wrong, Game, Latencies, Poll, BLOCK};

/// Bytes of a delivered line, its end included: as many as the fan-out's frames have.
const LINE: usize = 64;

struct Member {
    stream: TcpStream,
    got: usize,
}

/// Registered clients of a chat server.
pub struct Chat {
    poll: Poll,
    members: Vec<Member>,
    speaker: TcpStream,
    /// What the speaker sends at once, and what every member then hears.
    said: Vec<u8>,
    heard: Vec<u8>,
    lines: usize,
    /// Bytes that every member has been sent.
    sent: usize,
    scratch: Vec<u8>,
    ready: Vec<usize>,
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
        let poll = Poll::new()?;
        let mut all = Vec::new();
        for n in 1..=members {
            let stream = register(addr, n)?;
            poll.add(&stream, all.len(), EventFlags::IN)?;
            all.push(Member { stream, got: 0 });
        }
        let mut speaker = register(addr, 0)?;
        for client in all.iter().map(|member| &member.stream).chain([&speaker]) {
            (&mut &*client).write_all(b"JOIN #c\r\n")?;
        }
        // The speaker says the same again and again: to find a lost line all the same, they count.
        let head = format!(":n0!~u@{} PRIVMSG #c :", speaker.local_addr()?.ip());
        let text = "x".repeat(LINE.saturating_sub(head.len() + 2));
        let mut chat = Self {
            poll,
            members: all,
            said: format!("PRIVMSG #c :{text}\r\n").repeat(lines).into_bytes(),
            heard: format!("{head}{text}\r\n").repeat(lines).into_bytes(),
            speaker: speaker.try_clone()?,
            lines,
            sent: 0,
            scratch: vec![0; BLOCK],
            ready: Vec::new(),
        };
        speaker.set_nonblocking(false)?;
        speaker.set_read_timeout(Some(Duration::from_secs(5)))?;
        hear(&mut speaker, b" 366 ")?;
        speaker.set_nonblocking(true)?;
        chat.drain()?;
        Ok(chat)
    }

    /// Takes in all that the joins brought, until nothing has come for a while.
    fn drain(&mut self) -> io::Result<()> {
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_millis(300) {
            for member in &self.members {
                while read_some(&member.stream, &mut self.scratch)?.is_some() {
                    last = Instant::now();
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Game for Chat {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        self.poll.begin();
        let end = Instant::now() + time;
        let mut deliveries = 0;
        while Instant::now() < end {
            let begun = Instant::now();
            self.speaker.write_all(&self.said)?;
            self.sent += self.heard.len();
            let mut missing = self.members.len();
            while missing > 0 {
                let mut ready = std::mem::take(&mut self.ready);
                self.poll.wait(Duration::from_millis(20), &mut ready)?;
                for slot in &ready {
                    let Some(member) = self.members.get_mut(*slot) else { continue };
                    let Some(count) = read_some(&member.stream, &mut self.scratch)? else { continue };
                    let from = member.got % self.heard.len();
                    if self.heard.get(from..from + count) != Some(&self.scratch[..count]) {
                        return Err(wrong("a member heard something else than was said"));
                    }
                    member.got += count;
                    if member.got == self.sent {
                        missing -= 1;
                        latencies.saturating_record(begun.elapsed().as_nanos() as u64);
                    }
                }
                self.ready = ready;
            }
            deliveries += (self.members.len() * self.lines) as u64;
        }
        Ok(deliveries)
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.members.iter().for_each(|member| reset(&member.stream));
        reset(&self.speaker);
    }
}
