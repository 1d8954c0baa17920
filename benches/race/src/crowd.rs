//! A load in a process of its own, which takes orders on its standard input: so many clients of two
//! servers would be more descriptors than one process may have.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::time::Duration;

use crate::load::{latencies, Arrivals, Broadcast, Echo, Shape};
use crate::peers::spawn_beside;
use crate::special::text;

/// How this program is started to be one: the option, the address of the server, and how many subscribers.
pub const OPTION: &str = "--crowd";

const SHAPE: Shape = Shape { connections: 1, length: 64, messages: 1, arrivals: Arrivals::Closed };

/// The other process.
pub struct Crowd {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Crowd {
    /// Echo clients, one at first.
    pub fn of_clients(addr: SocketAddr) -> io::Result<Self> {
        Self::start(&[addr.to_string()])
    }

    /// Subscribers of a fan-out.
    pub fn of_subscribers(addr: SocketAddr, count: usize) -> io::Result<Self> {
        Self::start(&[addr.to_string(), count.to_string()])
    }

    fn start(args: &[String]) -> io::Result<Self> {
        let mut child = spawn_beside(Command::new(std::env::current_exe()?).arg(OPTION).args(args))?;
        let missing = || io::Error::other("no pipe");
        let orders = child.stdin.take().ok_or_else(missing)?;
        let answers = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        let mut crowd = Self { child, orders, answers };
        crowd.answer()?;
        Ok(crowd)
    }

    fn order(&mut self, order: &str) -> io::Result<Vec<u64>> {
        writeln!(self.orders, "{order}")?;
        self.answer()
    }

    /// Numbers, or why there are none.
    fn answer(&mut self) -> io::Result<Vec<u64>> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match line.trim().strip_prefix("done") {
            Some(numbers) => numbers
                .split_whitespace()
                .map(|number| number.parse().map_err(|_| ErrorKind::InvalidData.into()))
                .collect(),
            None => Err(io::Error::other(format!("the load stopped: {}", line.trim()))),
        }
    }

    /// Connects clients until there are so many, and has each of them echo once.
    pub fn grow(&mut self, connections: usize) -> io::Result<()> {
        self.order(&format!("grow {connections}")).map(drop)
    }

    /// A closed loop of `count` of them. Returns the messages.
    pub fn play(&mut self, count: usize, time: Duration) -> io::Result<u64> {
        let numbers = self.order(&format!("play {count} {}", time.as_micros()))?;
        numbers.first().copied().ok_or(ErrorKind::InvalidData.into())
    }

    /// One message to all subscribers: until the last had it, and what one waited that asked meanwhile.
    pub fn publish(&mut self) -> io::Result<(Duration, Duration)> {
        match self.order("publish")?[..] {
            [last, wait] => Ok((Duration::from_nanos(last), Duration::from_nanos(wait))),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the other process does, until its standard input ends.
pub fn serve(args: &[String]) -> Result<(), String> {
    let result = match args {
        [addr] => clients(addr),
        [addr, count] => subscribers(addr, count),
        _ => Err(ErrorKind::InvalidInput.into()),
    };
    result.map_err(|error| {
        println!("{}", text(error));
        "the load has failed".to_owned()
    })
}

fn parse<T: std::str::FromStr>(word: Option<&str>) -> io::Result<T> {
    word.and_then(|word| word.parse().ok()).ok_or(ErrorKind::InvalidInput.into())
}

fn done(numbers: &[u128]) -> io::Result<()> {
    let numbers: Vec<String> = numbers.iter().map(u128::to_string).collect();
    let mut out = io::stdout();
    writeln!(out, "done {}", numbers.join(" "))?;
    out.flush()
}

fn clients(addr: &str) -> io::Result<()> {
    let addr: SocketAddr = parse(Some(addr))?;
    let mut echo = Echo::open(addr, SHAPE, &None)?;
    let mut connections = 1;
    done(&[])?;
    for line in io::stdin().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let order = words.next();
        let count: usize = parse(words.next())?;
        if order == Some("grow") {
            // A part at a time, so that the backlog does not overflow.
            while connections < count {
                connections = count.min(connections + 500);
                echo.grow(addr, connections, &None)?;
                echo.play_some(connections, Duration::ZERO, &mut latencies())?;
            }
            done(&[])?;
        } else {
            let time = Duration::from_micros(parse(words.next())?);
            done(&[u128::from(echo.play_some(count, time, &mut latencies())?)])?;
        }
    }
    Ok(())
}

fn subscribers(addr: &str, count: &str) -> io::Result<()> {
    let mut broadcast = Broadcast::open(parse(Some(addr))?, parse(Some(count))?)?;
    done(&[])?;
    for line in io::stdin().lines() {
        line?;
        let delivery = broadcast.publish()?;
        done(&[delivery.last.as_nanos(), delivery.wait.as_nanos()])?;
    }
    Ok(())
}
