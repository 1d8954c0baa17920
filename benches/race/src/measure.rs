//! One scenario: all peers take turns, and each round gives every one a ratio to the reference.
//!
//! The turns are short, so that whatever else the machine does hits all alike, and of the turns of
//! a round the median counts.

use std::io;
use std::time::{Duration, Instant};

use crate::count::{self, Counts, Tool};
use crate::load::{latencies, Game, Latencies};
use crate::peers::{Peer, ENGINE};
use crate::process::Server;
use crate::rounds::Rounds;
use crate::scenarios::Scenario;
use crate::Plan;

/// What a peer did in a scenario, or why it did nothing.
pub struct Cell {
    pub peer: &'static str,
    pub outcome: Result<Data, String>,
}

pub struct Data {
    /// Units a second.
    pub rate: Rounds,
    /// The server's processor time per unit, in microseconds.
    pub cpu: Rounds,
    /// The same by the reference's of the same round.
    pub ratio: Rounds,
    /// The part of the processor time that was spent in user space; `None` when the clock ticked too
    /// seldom to tell.
    pub user_share: Option<f64>,
    pub latencies: Latencies,
    /// The server's resident memory at the end, in bytes: the most that any start of it came to.
    pub resident: u64,
    /// System calls per unit, by which tool, and which calls.
    pub calls: Option<Calls>,
    /// Instructions in user space per unit.
    pub instructions: Option<f64>,
}

/// Below so many ticks of 10 ms their shares say nothing.
const FEWEST_TICKS: u64 = 50;

pub struct Calls {
    pub per_unit: f64,
    pub tool: &'static str,
    pub detail: String,
}

/// Where things lie in memory is drawn anew for each process, and is worth half a per cent either way:
/// after so many rounds, and a few more when there are many, each server is started anew. The intervals
/// are those of rounds all the same, of which the ones with the same process are akin.
const ROUNDS_OF_A_START: usize = 5;
const MOST_STARTS: usize = 16;

/// Whether each server is started anew before this round.
fn starts_anew(round: usize, rounds: usize) -> bool {
    let starts = (rounds / ROUNDS_OF_A_START).clamp(1, MOST_STARTS);
    round > 0 && round * starts / rounds != (round - 1) * starts / rounds
}

/// A peer's server, and the clients that play against it.
struct Contender<'a> {
    peer: &'a Peer,
    server: Server,
    game: Box<dyn Game>,
    /// Units a second, and microseconds of processor time per unit, of each turn of this round.
    turns: Vec<(f64, f64)>,
    /// The medians of each round.
    rounds: Vec<Option<(f64, f64)>>,
    latencies: Latencies,
    /// Of the present server when it had started, and of those before it in all.
    ticks: (u64, u64),
    spent: (u64, u64),
    /// The most resident memory that one of those before it ended with.
    resident: u64,
}

/// A server, and clients that have played against it once.
type Started = (Server, Box<dyn Game>, (u64, u64));

fn start(peer: &Peer, scenario: &Scenario, plan: Plan) -> Result<Started, String> {
    let (role, opening) = scenario.set_up().map_err(|error| error.to_string())?;
    let server = peer.start(&role, &[])?;
    let mut game = opening(server.addr).map_err(|error| error.to_string())?;
    game.play(plan.slice, &mut latencies()).map_err(|error| error.to_string())?;
    let ticks = server.ticks().map_err(|error| error.to_string())?;
    Ok((server, game, ticks))
}

impl<'a> Contender<'a> {
    fn start(peer: &'a Peer, scenario: &Scenario, plan: Plan) -> Result<Self, String> {
        let (server, game, ticks) = start(peer, scenario, plan)?;
        Ok(Self {
            peer,
            server,
            game,
            turns: Vec::new(),
            rounds: Vec::new(),
            latencies: latencies(),
            ticks,
            spent: (0, 0),
            resident: 0,
        })
    }

    /// Goes on with another process.
    fn start_anew(&mut self, scenario: &Scenario, plan: Plan) -> Result<(), String> {
        let started = start(self.peer, scenario, plan)?;
        self.spent = self.spent().map_err(|error| error.to_string())?;
        self.resident = self.resident().map_err(|error| error.to_string())?;
        (self.server, self.game, self.ticks) = started;
        Ok(())
    }

    fn resident(&self) -> io::Result<u64> {
        Ok(self.server.resident()?.max(self.resident))
    }

    /// Ticks of processor time so far, in user space and in the kernel.
    fn spent(&self) -> io::Result<(u64, u64)> {
        let now = self.server.ticks()?;
        Ok((self.spent.0 + now.0 - self.ticks.0, self.spent.1 + now.1 - self.ticks.1))
    }

    fn slice(&mut self, time: Duration) -> io::Result<()> {
        let before = self.server.cpu()?;
        let begun = Instant::now();
        let units = self.game.play(time, &mut self.latencies)?;
        let elapsed = begun.elapsed();
        let cpu = self.server.cpu()? - before;
        if units > 0 {
            let units = units as f64;
            self.turns.push((units / elapsed.as_secs_f64(), cpu.as_secs_f64() * 1e6 / units));
        }
        Ok(())
    }

    fn end_round(&mut self) {
        let rate = Rounds::new(self.turns.iter().map(|(rate, _)| *rate)).median();
        let cpu = Rounds::new(self.turns.iter().map(|(_, cpu)| *cpu)).median();
        self.rounds.push((!self.turns.is_empty()).then_some((rate, cpu)));
        self.turns.clear();
    }
}

/// Runs a scenario with all `peers`.
pub fn run(scenario: &Scenario, peers: &[Peer], plan: Plan) -> Vec<Cell> {
    let mut fates: Vec<Result<Contender<'_>, String>> =
        peers.iter().map(|peer| Contender::start(peer, scenario, plan)).collect();
    let (turns, time) = scenario.play.turns(plan);
    for turn in 0..plan.rounds * turns {
        if turn % turns == 0 && starts_anew(turn / turns, plan.rounds) {
            for contender in fates.iter_mut().flatten() {
                // What it has done so far counts all the same.
                if let Err(error) = contender.start_anew(scenario, plan) {
                    eprintln!("{} goes on with the same process: {error}", contender.peer.name);
                }
            }
        }
        // Everybody is first, and last, as often as anybody else, and nobody plays twice in a row:
        // the second time the caches would be warm.
        for n in (0..fates.len()).map(|place| (place + turn) % peers.len()) {
            if let Ok(contender) = &mut fates[n] {
                if let Err(error) = contender.slice(time) {
                    fates[n] = Err(format!("failed: {error}"));
                }
            }
        }
        if (turn + 1) % turns == 0 {
            fates.iter_mut().flatten().for_each(Contender::end_round);
        }
    }
    let reference = peers.iter().position(|peer| peer.name == scenario.reference());
    let reference: Vec<Option<f64>> = match reference.and_then(|n| fates.get(n)) {
        Some(Ok(contender)) => contender.rounds.iter().map(|round| round.map(|(_, cpu)| cpu)).collect(),
        _ => Vec::new(),
    };
    let mut cells = Vec::new();
    for (peer, fate) in peers.iter().zip(fates) {
        let outcome = fate.and_then(|contender| finish(contender, scenario, plan, &reference));
        cells.push(Cell { peer: peer.name, outcome });
    }
    cells
}

fn finish(
    mut contender: Contender<'_>,
    scenario: &Scenario,
    plan: Plan,
    reference: &[Option<f64>],
) -> Result<Data, String> {
    let (user, system) = contender.spent().map_err(|error| error.to_string())?;
    let resident = contender.resident().map_err(|error| error.to_string())?;
    let first = contender.peer.name == ENGINE || contender.peer.name == scenario.reference();
    let matters = first || matches!(contender.peer.name, "raw mio" | "tokio taught");
    let calls = match scenario.calls && (first || !plan.quick) {
        true => count_calls(&mut contender).map_err(|error| format!("failed: {error}"))?,
        false => None,
    };
    let counted = if plan.quick { matters && scenario.id == "echo_50" } else { scenario.instructions };
    let instructions = match counted && contender.peer.compiled {
        true => crate::callgrind::per_unit(contender.peer, scenario, plan),
        false => None,
    };
    let rounds = contender.rounds.iter().flatten();
    let ratios = contender.rounds.iter().zip(reference).filter_map(|(round, reference)| {
        let ((_, cpu), reference) = ((*round)?, (*reference)?);
        // A slice in which the reference's count did not move gives none.
        Some(cpu / reference).filter(|ratio| ratio.is_finite())
    });
    Ok(Data {
        rate: Rounds::new(rounds.clone().map(|(rate, _)| *rate)),
        cpu: Rounds::new(rounds.map(|(_, cpu)| *cpu)),
        ratio: Rounds::new(ratios),
        user_share: (user + system >= FEWEST_TICKS).then(|| user as f64 / (user + system) as f64),
        latencies: contender.latencies,
        resident,
        calls,
        instructions,
    })
}

/// System calls per unit over a slice of their own, with whatever tool can count them.
fn count_calls(contender: &mut Contender<'_>) -> io::Result<Option<Calls>> {
    let game = &mut contender.game;
    let work = || game.play(Duration::from_millis(150), &mut latencies());
    let counted = count::during(contender.server.pid(), &[Tool::Perf, Tool::Strace], work)?;
    Ok(counted.map(|(units, counts): (u64, Counts)| Calls {
        per_unit: counts.total as f64 / units.max(1) as f64,
        tool: counts.tool.name(),
        detail: counts.per(units.max(1)),
    }))
}
