//! What an echo costs: processor time and system calls.

use std::io;

use super::count::{self, Counts, Tool};
use super::load::{Goal, Load, Run};
use super::process::Server;
use super::rounds::Rounds;
use super::servers::{self, BURST_SENDS};
use super::table::Row;
use super::Plan;

/// A server with its clients, connected for all rounds.
struct Contender {
    server: Server,
    load: Load,
    /// Processor time per message in microseconds, for each slice of the present round.
    slices: Vec<f64>,
    /// The median of them, for each round.
    micros: Vec<f64>,
    messages: u64,
    ticks: (u64, u64),
}

impl Contender {
    fn start(role: &str, clients: usize) -> io::Result<Self> {
        let server = Server::start(role)?;
        let mut load = Load::new()?;
        load.add_healthy(server.addr, clients, 1)?;
        load.run(&Goal::Messages(10 * clients as u64), false)?;
        let ticks = server.ticks()?;
        Ok(Self { server, load, slices: Vec::new(), micros: Vec::new(), messages: 0, ticks })
    }

    fn slice(&mut self, messages: u64) -> io::Result<()> {
        let before = self.server.cpu()?;
        let run = self.load.run(&Goal::Messages(messages), false)?;
        let used = self.server.cpu()? - before;
        self.slices.push(used.as_secs_f64() * 1e6 / run.messages as f64);
        self.messages += run.messages;
        Ok(())
    }

    fn end_round(&mut self) -> f64 {
        let median = Rounds::new(self.slices.drain(..)).median();
        self.micros.push(median);
        median
    }

    /// Time spent in user space per message, from the clock's ticks over all rounds.
    fn user_micros(&self) -> io::Result<f64> {
        let (user, _) = self.server.ticks()?;
        Ok((user - self.ticks.0) as f64 * 1e4 / self.messages as f64)
    }
}

/// Each round's ratio of one to the other.
fn ratios(ours: &Contender, theirs: &Contender) -> Rounds {
    Rounds::new(ours.micros.iter().zip(&theirs.micros).map(|(ours, theirs)| ours / theirs))
}

pub fn echo_cpu(plan: Plan) -> io::Result<Vec<Row>> {
    const LIMIT: f64 = 1.05;
    const CLIENTS: usize = 50;
    /// Short enough for most of them to pass without anything else on the machine cutting in.
    const SLICE: u64 = 2_000;
    let rounds = plan.pick(25, 9);
    let slices = plan.pick(15, 5);
    let mut all = [
        Contender::start(servers::ECHO, CLIENTS)?,
        Contender::start(servers::MIO_SHORT, CLIENTS)?,
        Contender::start(servers::MIO, CLIENTS)?,
    ];
    for round in 0..rounds {
        for slice in 0..slices {
            // Nobody is always the first, or always behind the same one.
            for place in 0..all.len() {
                all[(place + slice) % 3].slice(SLICE)?;
            }
        }
        let micros = all.each_mut().map(Contender::end_round);
        eprintln!(
            "    round {}/{rounds}: unbroken {:.2} µs, mio without a second read {:.2}, mio {:.2}",
            round + 1,
            micros[0],
            micros[1],
            micros[2]
        );
    }
    let [ours, short, full] = &all;
    let (to_short, to_full) = (ratios(ours, short), ratios(ours, full));
    let micros = |contender: &Contender| Rounds::new(contender.micros.iter().copied());
    let row = |what: &str, ratio: &Rounds| {
        Row::new(what, ratio.show(3, ""), &format!("≤ {LIMIT}"), ratio.median() <= LIMIT)
    };
    let what = "echo 64 B × 50: server CPU per message ÷ raw mio, which reads until nothing is left";
    let documented = row(what, &to_full);
    let faster = row("the same ÷ raw mio without its second read (beyond what is asked)", &to_short);
    let own = |contender: &Contender| -> io::Result<String> {
        let micros = micros(contender).show(2, " µs");
        Ok(format!("{micros}, of which user space {:.2}", contender.user_micros()?))
    };
    let how = format!("{rounds} rounds of {slices} slices of {SLICE} messages for each server in turn; the median slice counts");
    Ok(vec![
        documented
            .note(how)
            .note(format!("CPU per message: unbroken {}", own(ours)?))
            .note(format!("CPU per message: mio {}", own(full)?)),
        faster.note(format!("CPU per message: mio without its second read {}", own(short)?)),
    ])
}

const NO_TOOL: &str = "neither perf nor strace can count here";

pub fn coalescing(_plan: Plan) -> io::Result<Vec<Row>> {
    const REQUESTS: u64 = 1000;
    let what = format!("{BURST_SENDS} sends of 64 B in one callback");
    let must = "1 call that sends";
    let server = Server::start(servers::BURST)?;
    let mut load = Load::new()?;
    load.add_healthy(server.addr, 1, BURST_SENDS)?;
    load.run(&Goal::Messages(100), false)?;
    let work = || load.run(&Goal::Messages(REQUESTS), false);
    let Some((run, counts)) = count::during(server.pid(), &[Tool::Strace, Tool::Perf], work)? else {
        return Ok(vec![Row::not_measured(&what, must, NO_TOOL)]);
    };
    let per_request = counts.sends() as f64 / run.messages as f64;
    let measured = format!("{per_request:.3}");
    let row = Row::new(&what, measured, must, counts.sends() == run.messages);
    let per = counts.per(run.messages);
    Ok(vec![row.note(format!("{} for {} callbacks, each: {per}", counts.tool.name(), run.messages))])
}

pub fn syscalls(plan: Plan) -> io::Result<Vec<Row>> {
    const LIMIT: f64 = 2.1;
    const CLIENTS: usize = 1000;
    let what = "system calls per echo, 1,000 busy connections";
    let must = format!("≤ {LIMIT}");
    let messages = plan.pick(100_000, 40_000);
    let rounds = plan.pick(5, 3);
    let count = |role: &str| -> io::Result<Option<(Run, Counts)>> {
        let mut contender = Contender::start(role, CLIENTS)?;
        let pid = contender.server.pid();
        let work = || contender.load.run(&Goal::Messages(messages), false);
        let counted = count::during(pid, &[Tool::Perf, Tool::Strace], work)?;
        if counted.as_ref().is_some_and(|(run, counts)| counts.receives() < run.messages) {
            return Err(io::Error::other("the counting began too late"));
        }
        Ok(counted)
    };
    let (mut ours, mut notes) = (Vec::new(), Vec::new());
    let mio = [(servers::MIO_SHORT, "mio, short read"), (servers::MIO, "mio, until empty")];
    let all = std::iter::repeat_n((servers::ECHO, "unbroken"), rounds).chain(mio);
    for (role, name) in all {
        let Some((run, counts)) = count(role)? else {
            return Ok(vec![Row::not_measured(what, &must, NO_TOOL)]);
        };
        let per_message = counts.total as f64 / run.messages as f64;
        eprintln!("    {name}: {per_message:.3}");
        let is_ours = role == servers::ECHO;
        if !is_ours || ours.is_empty() {
            let per = counts.per(run.messages);
            notes.push(format!("{name} by {}: {per_message:.3}: {per}", counts.tool.name()));
        }
        if is_ours {
            ours.push(per_message);
        }
    }
    let ours = Rounds::new(ours);
    let row = Row::new(what, ours.show(3, ""), &must, ours.median() <= LIMIT);
    Ok(vec![notes.into_iter().fold(row, Row::note)])
}
