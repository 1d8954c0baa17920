//! What does not fit into turns of one kind: memory of idle connections, clients that never read,
//! and a server whose descriptors run out. The peers come one after the other.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{prlimit, Pid, Resource, Rlimit};

use crate::load::{connect, latencies, Arrivals, Echo, Game, Greedy, Idle, Latencies, Shape};
use crate::peers::Peer;
use crate::process::Server;
use crate::rounds::Rounds;
use crate::tls;
use crate::Plan;

pub const HEALTHY: Shape = Shape { connections: 50, length: 64, messages: 1, arrivals: Arrivals::Closed };

fn start(peer: &Peer) -> Result<Server, String> {
    peer.start(&tls::role("echo", false), &[])
}

pub fn text(error: io::Error) -> String {
    format!("failed: {error}")
}

/// What a crowd of idle connections costs.
pub struct IdleCost {
    pub connections: usize,
    /// Bytes of the server's memory for each, before and after it was used once.
    pub fresh: f64,
    pub used: f64,
    /// An echo beside them.
    pub latencies: Latencies,
    pub cpu: f64,
}

pub fn idle(peer: &Peer, plan: Plan, secured: bool) -> Result<IdleCost, String> {
    let server = peer.start(&tls::role("echo", secured), &[])?;
    let tls = tls::client(secured).map_err(text)?;
    let measure = || -> io::Result<IdleCost> {
        let mut beside = Echo::open(server.addr, HEALTHY, &tls)?;
        beside.play(plan.slice, &mut latencies())?;
        let before = server.resident()?;
        let mut crowd = Idle::open(server.addr, plan.idle, &tls)?;
        settle(&server)?;
        let fresh = server.resident()?;
        crowd.use_each()?;
        settle(&server)?;
        let used = server.resident()?;
        let each = |after: u64| after.saturating_sub(before) as f64 / plan.idle as f64;
        let (mut latencies, cpu) = (latencies(), server.cpu()?);
        let messages = beside.play(plan.slice * 10, &mut latencies)?;
        let cpu = (server.cpu()? - cpu).as_secs_f64() * 1e6 / messages as f64;
        Ok(IdleCost { connections: plan.idle, fresh: each(fresh), used: each(used), latencies, cpu })
    };
    measure().map_err(text)
}

/// Waits until the server has nothing left to do.
pub fn settle(server: &Server) -> io::Result<()> {
    let mut before = server.cpu()?;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        let now = server.cpu()?;
        if now - before < Duration::from_micros(200) {
            break;
        }
        before = now;
    }
    Ok(())
}

/// How many clients send and never read, and what each sends at most.
pub const GREEDY: usize = 10;
const GREEDY_LIMIT: usize = 32 << 20;

/// What clients that never read do to the others.
pub struct GreedyCost {
    /// Messages a second of the healthy, beside them, by those without them.
    pub ratio: Rounds,
    pub rate: Rounds,
    /// By how much the server's memory grew, in bytes.
    pub growth: u64,
}

pub fn greedy(peer: &Peer, plan: Plan) -> Result<GreedyCost, String> {
    let (with, without) = (start(peer)?, start(peer)?);
    let measure = || -> io::Result<GreedyCost> {
        let mut alone = Echo::open(without.addr, HEALTHY, &None)?;
        let mut beside = Echo::open(with.addr, HEALTHY, &None)?;
        alone.play(plan.slice, &mut latencies())?;
        beside.play(plan.slice, &mut latencies())?;
        let before = with.resident()?;
        let _greedy = Greedy::open(with.addr, GREEDY, GREEDY_LIMIT)?;
        let (mut rates, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let rate = |game: &mut Echo| -> io::Result<f64> {
                let begun = Instant::now();
                let messages = game.play(plan.slice * 3, &mut latencies())?;
                Ok(messages as f64 / begun.elapsed().as_secs_f64())
            };
            let (alone, beside) = (rate(&mut alone)?, rate(&mut beside)?);
            rates.push(beside);
            ratios.push(beside / alone);
        }
        let growth = with.peak()?.saturating_sub(before);
        Ok(GreedyCost { ratio: Rounds::new(ratios), rate: Rounds::new(rates), growth })
    };
    measure().map_err(text)
}

/// Descriptors that the server may have, and the clients that come.
const DESCRIPTORS: u64 = 64;
const CLIENTS: usize = 100;

/// What a server does when its descriptors have run out.
pub struct Famine {
    /// The part of a processor that it burns while there are none.
    pub busy: f64,
    /// From the moment there are some again until the last of those that waited was answered.
    pub recovery: Duration,
}

pub fn emfile(peer: &Peer) -> Result<Famine, String> {
    let server = start(peer)?;
    let pid = Pid::from_raw(server.pid() as i32);
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    prlimit(pid, Resource::Nofile, limit).map_err(|error| text(error.into()))?;
    let measure = || -> io::Result<Famine> {
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let stream = connect(server.addr, n, None)?;
            io::Write::write_all(&mut &stream, &[b'x'; 64])?;
            clients.push(stream);
        }
        let mut waiting = answered(clients, Duration::from_millis(300))?;
        if waiting.1.is_empty() {
            return Err(io::Error::other("its descriptors did not run out"));
        }
        let before = server.cpu()?;
        let begun = Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        let busy = (server.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        // Those that were served go; there is room for all that wait.
        let begun = Instant::now();
        waiting.0.clear();
        while !waiting.1.is_empty() {
            if begun.elapsed() > Duration::from_secs(3) {
                let left = waiting.1.len();
                return Err(io::Error::other(format!("{left} clients were never served")));
            }
            waiting = answered(waiting.1, Duration::from_millis(1))?;
        }
        Ok(Famine { busy, recovery: begun.elapsed() })
    };
    measure().map_err(text)
}

type Streams = Vec<std::net::TcpStream>;

/// Parts those that have been answered from those that have not, after `time` without any news.
fn answered(clients: Streams, time: Duration) -> io::Result<(Streams, Streams)> {
    let (mut served, mut waiting) = (Vec::new(), clients);
    let mut news = Instant::now();
    while news.elapsed() < time && !waiting.is_empty() {
        let mut still = Vec::new();
        for stream in waiting {
            let mut answer = [0; 64];
            match io::Read::read(&mut &stream, &mut answer) {
                Ok(64) => {
                    news = Instant::now();
                    served.push(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => still.push(stream),
                Ok(_) => return Err(io::Error::other("a client that waited was turned away")),
                Err(error) => return Err(error),
            }
        }
        waiting = still;
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok((served, waiting))
}
