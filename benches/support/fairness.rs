//! What healthy clients notice of others that misbehave.
//!
//! Two servers run in each round: one has the healthy clients only, the other the same number
//! and beside them those that misbehave. They take turns of a fraction of a second, so that
//! whatever else the machine does hits both alike.

use std::io;
use std::time::Duration;

use super::load::{Goal, Load, Run};
use super::process::Server;
use super::rounds::Rounds;
use super::servers;
use super::table::Row;
use super::Plan;

const HEALTHY: usize = 50;
const NEVER_READ: usize = 10;
/// What the healthy clients without company are given each time.
const SLICE: Duration = Duration::from_millis(200);

struct Party {
    // Kept for its lifetime.
    _server: Server,
    load: Load,
    run: Run,
}

impl Party {
    fn start(role: &str, in_company: bool) -> io::Result<Self> {
        let server = Server::start(role)?;
        let mut load = Load::new()?;
        load.add_healthy(server.addr, HEALTHY, 1)?;
        if in_company {
            load.add_greedy(server.addr, NEVER_READ, u64::MAX, None)?;
            load.run(&Goal::Stuck(Duration::from_millis(200)), false)?;
            load.add_bulk(server.addr)?;
        }
        load.run(&Goal::Messages(2_000), false)?;
        Ok(Self { _server: server, load, run: Run::default() })
    }

    fn slice(&mut self, goal: &Goal) -> io::Result<()> {
        self.run.add(self.load.run(goal, true)?);
        Ok(())
    }
}

/// One round: latencies of the healthy clients alone, and in company.
fn round(role: &str, bulk: u64, slices: u64) -> io::Result<(Run, Run)> {
    let mut alone = Party::start(role, false)?;
    let mut company = Party::start(role, true)?;
    for _ in 0..slices {
        alone.slice(&Goal::Time(SLICE))?;
        company.load.extend_bulk(bulk / slices)?;
        company.slice(&Goal::Bulk)?;
    }
    Ok((alone.run, company.run))
}

/// Several rounds.
#[derive(Default)]
struct Latency {
    alone: Vec<f64>,
    company: Vec<f64>,
    ratio: Vec<f64>,
    throughput: Vec<f64>,
}

fn measure(role: &str, rounds: usize, bulk: u64, slices: u64) -> io::Result<Latency> {
    let mut all = Latency::default();
    for n in 0..rounds {
        let (mut alone, mut company) = round(role, bulk, slices)?;
        let (before, after) = (alone.percentile(0.99), company.percentile(0.99));
        eprintln!(
            "    {role} {}/{rounds}: p99 {before:.0} µs alone, {after:.0} in company (p50 {:.0}, {:.0}; {:.1} s)",
            n + 1,
            alone.percentile(0.5),
            company.percentile(0.5),
            company.elapsed.as_secs_f64(),
        );
        all.throughput.push(company.rate() / alone.rate());
        all.alone.push(before);
        all.company.push(after);
        all.ratio.push(after / before);
    }
    Ok(all)
}

pub fn latency(plan: Plan) -> io::Result<Vec<Row>> {
    const LIMIT: f64 = 2.0;
    let (bulk, slices) = plan.pick((1_000_000_000, 10), (200_000_000, 4));
    let ours = measure(servers::ECHO, plan.pick(5, 3), bulk, slices)?;
    let mio = measure(servers::MIO_SHORT, plan.pick(3, 1), bulk, slices)?;
    let ratio = Rounds::new(ours.ratio);
    let what = format!(
        "p99 of {HEALTHY} clients beside {NEVER_READ} not reading and {} MB ÷ alone",
        bulk / 1_000_000
    );
    let row = Row::new(&what, ratio.show(2, ""), &format!("≤ {LIMIT}"), ratio.median() <= LIMIT);
    let company = |latency: Vec<f64>, throughput: Vec<f64>| {
        let (latency, throughput) = (Rounds::new(latency), Rounds::new(throughput));
        format!(
            "{} in company; messages per second {} of alone",
            latency.show(0, " µs"),
            throughput.show(2, "")
        )
    };
    Ok(vec![row
        .note(format!(
            "p99 {} alone, {}",
            Rounds::new(ours.alone).show(0, " µs"),
            company(ours.company, ours.throughput)
        ))
        .note(format!(
            "raw mio: ratio {}; p99 {}",
            Rounds::new(mio.ratio).show(2, ""),
            company(mio.company, mio.throughput)
        ))])
}
