//! Latency under load: messages become due by a schedule, at half and at nine tenths of what the
//! reference can do, and their latency counts from then: a server that falls behind is not let off.

use std::io;
use std::time::Duration;

use crate::load::{latencies, Arrivals, Echo, Game, Shape};
use crate::peers::{Peer, ENGINE, REFERENCE};
use crate::process::Server;
use crate::rounds::Rounds;
use crate::special::text;
use crate::tls;
use crate::Plan;

const SHAPE: Shape = Shape { connections: 200, length: 64, messages: 1, arrivals: Arrivals::Closed };
/// Parts of the reference's capacity, in percent.
const LOADS: [u32; 2] = [50, 90];
/// Who is asked.
const PEERS: [&str; 4] = [REFERENCE, ENGINE, "tokio tuned", "libuv"];
/// The share of messages that were faster, of each figure.
pub const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

pub struct Outcome {
    /// Messages a second that the reference echoes in a closed loop.
    pub capacity: Rounds,
    pub loads: Vec<Load>,
}

pub struct Load {
    /// Of the capacity, in percent.
    pub percent: u32,
    pub peers: Vec<(&'static str, Result<Vec<Tail>, String>)>,
}

/// One quantile, in microseconds, and by the reference's of the same round.
pub struct Tail {
    pub micros: Rounds,
    pub ratio: Rounds,
}

struct Contender {
    name: &'static str,
    server: Server,
    game: Echo,
}

impl Contender {
    fn start(peer: &Peer) -> Result<Self, String> {
        let server = peer.start(&tls::role("echo", false), &[])?;
        let game = Echo::open(server.addr, SHAPE, &None).map_err(text)?;
        Ok(Self { name: peer.name, server, game })
    }

    /// The quantiles of one slice, in microseconds.
    fn slice(&mut self, schedule: &[Duration]) -> io::Result<[f64; QUANTILES.len()]> {
        let mut latencies = latencies();
        self.game.play_schedule(schedule, &mut latencies)?;
        // At rest, so that it does not run into the next one's slice.
        self.server.cpu()?;
        Ok(QUANTILES.map(|(_, share)| latencies.value_at_quantile(share) as f64 / 1e3))
    }
}

pub fn race(peers: &[Peer], plan: Plan) -> Result<Outcome, String> {
    let some = || peers.iter().filter(|peer| PEERS.contains(&peer.name));
    let mut fates: Vec<Result<Contender, String>> = some().map(Contender::start).collect();
    let names: Vec<&'static str> = some().map(|peer| peer.name).collect();
    let reference = fates.iter_mut().flatten().find(|contender| contender.name == REFERENCE);
    let capacity = capacity(reference.ok_or("the reference takes no part")?, plan).map_err(text)?;
    let loads = LOADS.map(|percent| {
        let rate = capacity.median() * f64::from(percent) / 100.0;
        load(percent, rate, &mut fates, &names, plan)
    });
    Ok(Outcome { capacity, loads: loads.into() })
}

fn capacity(reference: &mut Contender, plan: Plan) -> io::Result<Rounds> {
    let time = plan.slice * 5;
    let mut rates = Vec::new();
    for round in 0..=plan.rounds {
        let begun = std::time::Instant::now();
        let messages = reference.game.play(time, &mut latencies())?;
        // The first warms up.
        if round > 0 {
            rates.push(messages as f64 / begun.elapsed().as_secs_f64());
        }
    }
    Ok(Rounds::new(rates))
}

fn load(
    percent: u32,
    rate: f64,
    fates: &mut [Result<Contender, String>],
    names: &[&'static str],
    plan: Plan,
) -> Load {
    let mut rounds: Vec<Vec<Option<[f64; QUANTILES.len()]>>> = Vec::new();
    for round in 0..=plan.rounds {
        // The same schedule for all.
        let schedule = schedule(rate, plan.slice * 12, round as u64);
        let mut quantiles = vec![None; fates.len()];
        for n in (0..fates.len()).map(|place| (place + round) % names.len()) {
            let Ok(contender) = &mut fates[n] else { continue };
            match contender.slice(&schedule) {
                Ok(figures) => quantiles[n] = Some(figures),
                Err(error) => fates[n] = Err(text(error)),
            }
        }
        // The first warms up.
        if round > 0 {
            rounds.push(quantiles);
        }
    }
    let reference = names.iter().position(|name| *name == REFERENCE).unwrap_or(0);
    let peers = names.iter().zip(fates).enumerate().map(|(n, (name, fate))| {
        let tails = (0..QUANTILES.len()).map(|q| Tail {
            micros: Rounds::new(rounds.iter().filter_map(|round| Some(round[n]?[q]))),
            ratio: Rounds::new(rounds.iter().filter_map(|round| Some(round[n]?[q] / round[reference]?[q]))),
        });
        (*name, fate.as_ref().map(|_| tails.collect()).map_err(Clone::clone))
    });
    Load { percent, peers: peers.collect() }
}

/// Messages that come as if each came from somebody else: the gaps between them are exponential. The
/// same `seed` makes the same.
pub fn schedule(rate: f64, time: Duration, seed: u64) -> Vec<Duration> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut at = 0.0;
    let mut schedule = Vec::new();
    while at < time.as_secs_f64() {
        schedule.push(Duration::from_secs_f64(at));
        // xorshift64*: its upper 53 bits are a number from 0 to 1.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let unit = (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64;
        at -= (1.0 - unit).ln() / rate;
    }
    schedule
}
