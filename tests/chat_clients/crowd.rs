//! Many clients on one thread: the healthy check every line that they hear, some misbehave.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::chat::connect;
use crate::util::{self, narrow_client, SOON};

const CHANNELS: usize = 20;
const MEMBERS: usize = 10;
const HEALTHY: usize = CHANNELS * MEMBERS;

/// How often everybody speaks.
const ROUND: Duration = Duration::from_millis(100);

/// Lines of everybody in a round.
const LINES: usize = 2;

/// Makes a line of the size that a talkative person writes.
const PADDING: usize = 200;

/// How often a slow reader reads, and how much.
const SLOW: (Duration, usize) = (Duration::from_millis(50), 100);

/// One who speaks, and keeps an account of who said what.
struct Member {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    channel: usize,
    /// The number that the next line of each member of the channel must have; `usize::MAX` for
    /// one's own.
    next: [usize; MEMBERS],
    /// How others left: their nicks and the words.
    departures: Vec<(String, String)>,
    ponged: bool,
}

fn nick(healthy: usize) -> String {
    format!("h{healthy}")
}

fn hello(nick: &str, channels: &[usize]) -> String {
    let channels: Vec<String> = channels.iter().map(|channel| format!("#c{channel}")).collect();
    format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}\r\nJOIN {}\r\n", channels.join(","))
}

impl Member {
    fn new(addr: SocketAddr, index: usize) -> Self {
        let (channel, place) = (index / MEMBERS, index % MEMBERS);
        let mut stream = connect(addr);
        stream.write_all(hello(&nick(index), &[channel]).as_bytes()).expect("write");
        let mut next = [0; MEMBERS];
        next[place] = usize::MAX;
        let (input, output) = (Vec::new(), Vec::new());
        Self { stream, input, output, channel, next, departures: Vec::new(), ponged: false }
    }

    /// Reads until it is in its channel. Others may be behind it.
    fn joined(&mut self) {
        while !contains(&self.input, b" 366 ") {
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk).expect("an answer");
            assert!(length > 0, "closed before it had joined");
            self.input.extend_from_slice(&chunk[..length]);
        }
        self.lines();
        self.stream.set_nonblocking(true).expect("non-blocking");
    }

    fn read(&mut self) {
        let mut chunk = [0; 32 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("a healthy client was closed: {}", String::from_utf8_lossy(&self.input)),
                Ok(length) => self.input.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("a healthy client lost its connection: {error}"),
            }
        }
        self.lines();
    }

    /// Checks all lines that are complete.
    fn lines(&mut self) {
        let input = std::mem::take(&mut self.input);
        let end = input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&input[..end]).expect("UTF-8");
        for line in text.split_terminator("\r\n") {
            self.line(line);
        }
        self.input = input[end..].to_vec();
    }

    fn line(&mut self, line: &str) {
        if let Some(token) = line.strip_prefix("PING ") {
            self.output.extend_from_slice(format!("PONG {token}\r\n").as_bytes());
            return;
        }
        let (source, rest) = line.strip_prefix(':').and_then(|line| line.split_once(' ')).expect(line);
        let who = source.split('!').next().unwrap_or_default();
        if let Some(why) = rest.strip_prefix("QUIT :") {
            self.departures.push((who.to_owned(), why.to_owned()));
        } else if rest.starts_with("PONG ") {
            self.ponged = true;
        } else if let Some(said) = rest.strip_prefix("PRIVMSG ") {
            let (channel, index, number) = parsed(who, said);
            assert_eq!(channel, self.channel, "a line of another channel: {line}");
            assert_eq!(index / MEMBERS, self.channel, "a line of one who is not in the channel: {line}");
            let next = &mut self.next[index % MEMBERS];
            assert_eq!(number, *next, "line {number} of {who} instead of {next}");
            *next += 1;
        }
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a healthy client lost its connection: {error}"),
            }
        }
    }

    fn has_all(&self, rounds: usize) -> bool {
        self.next.iter().all(|next| *next == rounds * LINES || *next == usize::MAX)
    }
}

/// The channel, the sender and the number of `#cC :N padding`.
fn parsed(who: &str, said: &str) -> (usize, usize, usize) {
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{who} said {said:?}"));
    let (channel, text) = said.split_once(" :").unwrap_or_else(|| panic!("{who} said {said:?}"));
    let (count, padding) = text.split_once(' ').unwrap_or_else(|| panic!("{who} said {said:?}"));
    assert_eq!(padding.len(), PADDING, "a line of {who} was cut");
    (number(channel.trim_start_matches("#c")), number(who.trim_start_matches('h')), number(count))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// What the healthy saw.
pub struct Outcome {
    pub delivered: usize,
    /// Who left, and the words: once for each member who saw it.
    pub departures: Vec<(String, String)>,
    /// What each slow reader had read when it was over.
    pub slow: Vec<Vec<u8>>,
}

/// Two hundred speak for a while, in twenty channels; ten never read, ten read slowly, ten reset
/// their connection in the middle of a line.
pub fn run(addr: SocketAddr, time: Duration) -> Outcome {
    util::allow_descriptors(1024);
    let mut members: Vec<Member> = (0..HEALTHY).map(|index| Member::new(addr, index)).collect();
    members.iter_mut().for_each(Member::joined);
    let come = |mut stream: TcpStream, nick: String, channels: &[usize]| {
        stream.write_all(hello(&nick, channels).as_bytes()).expect("write");
        stream
    };
    // Who never reads is in all channels, so that the kernel's buffers and the queue will overflow.
    let all: Vec<usize> = (0..CHANNELS).collect();
    let never: Vec<TcpStream> =
        (0..10).map(|n| come(narrow_client(addr), format!("never{n}"), &all)).collect();
    let mut slow: Vec<TcpStream> =
        (0..10).map(|n| come(narrow_client(addr), format!("slow{n}"), &[n])).collect();
    let mut resetting: Vec<TcpStream> =
        (0..10).map(|n| come(connect(addr), format!("reset{n}"), &[n])).collect();
    for stream in &slow {
        stream.set_nonblocking(true).expect("non-blocking");
    }
    let mut read_slowly = vec![Vec::new(); slow.len()];

    let rounds = (time.as_millis() / ROUND.as_millis()) as usize;
    let resets = resetting.len();
    let (begin, mut round, mut slow_at) = (Instant::now(), 0, Instant::now());
    let end = begin + time + SOON;
    let padding = "x".repeat(PADDING);
    loop {
        // Who has fallen behind does not make up for it all at once: what is late is later.
        if round < rounds && begin.elapsed() >= ROUND * round as u32 {
            for (index, member) in members.iter_mut().enumerate() {
                for number in round * LINES..(round + 1) * LINES {
                    let line = format!("PRIVMSG #c{} :{number} {padding}\r\n", index / MEMBERS);
                    member.output.extend_from_slice(line.as_bytes());
                }
                member.flush();
            }
            if resets - resetting.len() < (round + 1) * resets / rounds {
                if let Some(mut stream) = resetting.pop() {
                    let half = format!("PRIVMSG #c{} :half a li", resetting.len());
                    stream.write_all(half.as_bytes()).expect("write");
                    util::reset(stream);
                }
            }
            round += 1;
        }
        if slow_at.elapsed() >= SLOW.0 {
            slow_at = Instant::now();
            for (stream, had) in slow.iter_mut().zip(&mut read_slowly) {
                let mut chunk = [0; SLOW.1];
                // Being dropped is all right.
                let length = stream.read(&mut chunk).unwrap_or(0);
                had.extend_from_slice(&chunk[..length]);
            }
        }
        if round == rounds && members.iter().all(|member| member.has_all(rounds)) {
            break;
        }
        let (channel, missing) = members
            .iter()
            .find(|member| !member.has_all(rounds))
            .map_or((0, [0; MEMBERS]), |member| (member.channel, member.next));
        assert!(Instant::now() < end, "of #c{channel} one has only {missing:?} of {rounds} x {LINES}");
        wait_and_read(&mut members);
    }
    // What comes twice may come late: a pong is behind all of it.
    for member in &mut members {
        member.output.extend_from_slice(b"PING :over\r\n");
        member.flush();
    }
    while !members.iter().all(|member| member.ponged) {
        assert!(Instant::now() < end, "no pong");
        wait_and_read(&mut members);
    }
    drop(never);
    let mut departures: Vec<_> = members.iter().flat_map(|member| member.departures.clone()).collect();
    departures.sort();
    Outcome { delivered: HEALTHY * (MEMBERS - 1) * rounds * LINES, departures, slow: read_slowly }
}

fn wait_and_read(members: &mut [Member]) {
    let interest = |member: &Member| match member.output.is_empty() {
        true => PollFlags::IN,
        false => PollFlags::IN | PollFlags::OUT,
    };
    let mut fds: Vec<PollFd> =
        members.iter().map(|member| PollFd::new(&member.stream, interest(member))).collect();
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).expect("poll");
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    for (member, _) in members.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
        member.flush();
        member.read();
        member.flush();
    }
}

/// Checks what a slow reader got: whole lines of each sender, none missing in between.
pub fn assert_without_gaps(read: &[u8]) {
    let mut last = std::collections::HashMap::new();
    let end = read.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in std::str::from_utf8(&read[..end]).expect("UTF-8").split_terminator("\r\n") {
        let Some((source, said)) = line.split_once(" PRIVMSG ") else { continue };
        let who = source.trim_start_matches(':').split('!').next().unwrap_or_default();
        let (_, index, number) = parsed(who, said);
        if let Some(before) = last.insert(index, number) {
            assert_eq!(number, before + 1, "a slow reader misses lines of {who}");
        }
    }
}
