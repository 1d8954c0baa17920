//! What a message costs as the connections become many, beside the reference: with few of them busy and
//! with all, the memory of each, and a message to a crowd that does nothing else.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::crowd::Crowd;
use crate::load::Line;
use crate::peers::{Peer, ENGINE, REFERENCE};
use crate::process::{self, Server};
use crate::rounds::Rounds;
use crate::special::{settle, text};
use crate::{tls, Plan};

/// Connections, and those of the short run.
const POINTS: [usize; 6] = [10, 100, 1_000, 4_000, 10_000, 18_000];
const QUICK_POINTS: [usize; 4] = [10, 100, 1_000, 4_000];
/// How many of them are busy, in percent; one at least.
pub const BUSY: [usize; 2] = [1, 100];
/// Memory is counted from the first point with so many connections on: by then a server has the buffers
/// that it needs however many there are.
const MEMORY_FROM: usize = 100;
/// From so many that are busy on a slice is long enough by itself.
const LONG: usize = 4_000;
/// Descriptors that a server and a load have besides.
const SPARE: usize = 200;
/// A message to all, so often at most, and this long after the last.
const BROADCASTS: usize = 11;
const PAUSE: Duration = Duration::from_millis(100);

/// Of the reference and of the engine.
pub type Both<T> = [T; 2];

pub struct Outcome {
    pub points: Vec<Point>,
    pub broadcasts: Vec<Cast>,
}

pub struct Point {
    pub connections: usize,
    /// One for each of [`BUSY`].
    pub busy: Vec<Busy>,
    /// Bytes of the server's memory for each connection, once used.
    pub memory: Option<Both<f64>>,
    /// Bytes of kernel memory for each end of a connection, those of the load counted like the servers'.
    pub kernel: Option<f64>,
}

pub struct Busy {
    pub percent: usize,
    /// Microseconds of the server's processor for a message.
    pub cpu: Both<Rounds>,
    /// The engine's by the reference's, of the same round.
    pub ratio: Rounds,
}

/// A message to so many that do nothing else.
pub struct Cast {
    pub receivers: usize,
    pub servers: Both<CastCost>,
    /// The engine's longest turn, which it tells itself: all that it did before is counted in.
    pub longest_turn: Duration,
}

pub struct CastCost {
    /// Milliseconds until the last had it.
    pub last: Rounds,
    /// Milliseconds that one client waited who asked meanwhile, at most.
    pub wait: Rounds,
    /// Microseconds of the server's processor for each receiver.
    pub cpu: Rounds,
}

pub fn race(peers: &[Peer], plan: Plan) -> Result<Outcome, String> {
    let find = |name: &str| {
        peers.iter().find(|peer| peer.name == name).ok_or_else(|| format!("{name} takes no part"))
    };
    let pair = [find(REFERENCE)?, find(ENGINE)?];
    let room = process::descriptor_limit().saturating_sub(SPARE);
    let points = if plan.quick { &QUICK_POINTS[..] } else { &POINTS[..] };
    let within: Vec<usize> = points.iter().copied().filter(|count| *count <= room).collect();
    if within.len() < points.len() {
        eprintln!("      a process may have too few descriptors for more than {room} connections");
    }
    let most = within.last().copied().ok_or("a process may have hardly any descriptors")?;
    let points = measure(pair, &within, plan)?;
    let sizes = [most / 10, most];
    let broadcasts = sizes.into_iter().map(|receivers| cast(pair, receivers, plan));
    Ok(Outcome { points, broadcasts: broadcasts.collect::<Result<_, _>>()? })
}

fn start(pair: Both<&Peer>, role: &str) -> Result<Both<Server>, String> {
    let role = tls::role(role, false);
    Ok([pair[0].start(&role, &[])?, pair[1].start(&role, &[])?])
}

fn measure(pair: Both<&Peer>, points: &[usize], plan: Plan) -> Result<Vec<Point>, String> {
    let servers = start(pair, "echo")?;
    let measure = || -> io::Result<Vec<Point>> {
        let mut crowds = [Crowd::of_clients(servers[0].addr)?, Crowd::of_clients(servers[1].addr)?];
        let mut base = None;
        points.iter().map(|connections| point(&servers, &mut crowds, *connections, &mut base, plan)).collect()
    };
    measure().map_err(text)
}

/// What memory is counted from: connections, the servers' memory, and the kernel's.
type Base = Option<(usize, Both<u64>, u64)>;

fn point(
    servers: &Both<Server>,
    crowds: &mut Both<Crowd>,
    connections: usize,
    base: &mut Base,
    plan: Plan,
) -> io::Result<Point> {
    for (server, crowd) in servers.iter().zip(crowds.iter_mut()) {
        crowd.grow(connections)?;
        settle(server)?;
    }
    let busy = BUSY.map(|percent| busy(servers, crowds, connections, percent, plan));
    let busy = busy.into_iter().collect::<io::Result<_>>()?;
    let mut point = Point { connections, busy, memory: None, kernel: None };
    if connections < MEMORY_FROM {
        return Ok(point);
    }
    servers.iter().try_for_each(settle)?;
    let (user, kernel) = ([servers[0].resident()?, servers[1].resident()?], kernel_memory()?);
    let Some((fewer, least, least_kernel)) = *base else {
        *base = Some((connections, user, kernel));
        return Ok(point);
    };
    let more = (connections - fewer) as f64;
    point.memory = Some([0, 1].map(|n| user[n].saturating_sub(least[n]) as f64 / more));
    // Two servers, and of each connection both ends.
    point.kernel = Some(kernel.saturating_sub(least_kernel) as f64 / (4.0 * more));
    Ok(point)
}

fn busy(
    servers: &Both<Server>,
    crowds: &mut Both<Crowd>,
    connections: usize,
    percent: usize,
    plan: Plan,
) -> io::Result<Busy> {
    let count = (connections * percent / 100).max(1);
    let turns = if count >= LONG { 1 } else { plan.turns };
    let (mut cpu, mut ratio) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..=plan.rounds {
        let mut taken = [Vec::new(), Vec::new()];
        for turn in 0..turns {
            for place in 0..2 {
                let n = (place + round + turn) % 2;
                let before = servers[n].cpu()?;
                let messages = crowds[n].play(count, plan.slice)?;
                taken[n].push((servers[n].cpu()? - before).as_secs_f64() * 1e6 / messages as f64);
            }
        }
        // The first warms up.
        if round > 0 {
            let medians = taken.map(|taken| Rounds::new(taken).median());
            cpu.iter_mut().zip(medians).for_each(|(cpu, median)| cpu.push(median));
            ratio.push(medians[1] / medians[0]);
        }
    }
    Ok(Busy { percent, cpu: cpu.map(Rounds::new), ratio: Rounds::new(ratio) })
}

/// What the kernel holds for its own structures and for sockets' buffers, of the whole machine.
fn kernel_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let slab = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let slab: Option<u64> = slab.and_then(|value| value.split_whitespace().next()?.parse().ok());
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let tcp = text.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.split_whitespace().skip_while(|word| *word != "mem").nth(1));
    let pages: Option<u64> = pages.and_then(|pages| pages.parse().ok());
    let other_form = || io::Error::other("/proc/meminfo or /proc/net/sockstat has another form");
    let (slab, pages) = slab.zip(pages).ok_or_else(other_form)?;
    Ok(slab * 1024 + pages * rustix::param::page_size() as u64)
}

fn cast(pair: Both<&Peer>, receivers: usize, plan: Plan) -> Result<Cast, String> {
    let servers = start(pair, "fanout")?;
    let measure = || -> io::Result<Cast> {
        let mut crowds = [
            Crowd::of_subscribers(servers[0].addr, receivers)?,
            Crowd::of_subscribers(servers[1].addr, receivers)?,
        ];
        let mut figures = [(); 2].map(|()| [const { Vec::new() }; 3]);
        for round in 0..=plan.rounds.min(BROADCASTS) {
            for place in 0..2 {
                let n = (place + round) % 2;
                std::thread::sleep(PAUSE);
                let before = servers[n].cpu()?;
                let (last, wait) = crowds[n].publish()?;
                let cpu = (servers[n].cpu()? - before).as_secs_f64() * 1e6 / receivers as f64;
                // The first warms up.
                if round > 0 {
                    let now = [last.as_secs_f64() * 1e3, wait.as_secs_f64() * 1e3, cpu];
                    figures[n].iter_mut().zip(now).for_each(|(list, value)| list.push(value));
                }
            }
        }
        let servers_cost = figures.map(|figures| {
            let [last, wait, cpu] = figures.map(Rounds::new);
            CastCost { last, wait, cpu }
        });
        Ok(Cast { receivers, servers: servers_cost, longest_turn: longest_turn(&servers[1])? })
    };
    measure().map_err(text)
}

/// Asks the engine.
fn longest_turn(server: &Server) -> io::Result<Duration> {
    use std::io::{Read, Write};
    let line = Line::from(TcpStream::connect(server.addr)?);
    let mut answer = [0; 64];
    line.stream().write_all(&[b'T'; 64])?;
    line.stream().read_exact(&mut answer)?;
    let nanos = String::from_utf8_lossy(&answer).trim().parse();
    nanos.map(Duration::from_nanos).map_err(|_| io::Error::other("the engine tells no turn"))
}
