//! The race: the engine beside its peers, in one run on this machine.
//!
//! cargo bench --bench race                   all of it
//! cargo bench --bench race -- --quick        with less care, in under three minutes
//! cargo bench --bench race -- echo fanout    the scenarios whose names contain these words
//! cargo bench --bench race -- --list         their names
//! cargo bench --bench race -- --merge tls    what is not measured stays in the report as it was
//! cargo bench --bench race -- --only='raw epoll,unbroken'              some of the peers
//! cargo bench --bench race -- --with='before=/tmp/race-peer unbroken'  another build beside them
//! cargo bench --bench race -- --baseline REPORT.json                   and what changed since
//! cargo bench --bench race -- --readme=write  the tables of README and NOTES, from the last report
//! cargo bench --bench race -- --check         instructions and system calls against the stored ones
//! cargo bench --bench race -- --check=renew   stores them anew
//!
//! Writes `target/race/report.md`, `report.json` and plots. What is measured, and how, stands in
//! `benches/NOTES.md`.

#[cfg(not(target_os = "linux"))]
compile_error!("the race is run on Linux: it reads /proc and pins its processes");

mod baseline;
mod callgrind;
mod chat;
mod check;
mod cores;
#[path = "../../support/count.rs"]
#[allow(dead_code)]
mod count;
mod crowd;
mod http;
mod json;
mod latency;
mod load;
mod measure;
mod million;
mod options;
mod peers;
mod plots;
mod plots_of_scale;
#[path = "../../support/process.rs"]
#[allow(dead_code)]
mod process;
mod readme;
mod redis;
mod report;
mod report_under_load;
#[path = "../../support/rounds.rs"]
mod rounds;
mod scale;
mod scenarios;
mod special;
mod targets;
mod targets_under_load;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::measure::Cell;
use self::options::{Options, Task};
use self::peers::Peer;
use self::process::Side;
use self::rounds::Rounds;
use self::scenarios::{Scenario, SCENARIOS};
use self::special::{Famine, GreedyCost, IdleCost};

/// How much care is taken.
#[derive(Clone, Copy)]
pub struct Plan {
    pub quick: bool,
    /// Rounds of each scenario, turns of each round, and how long each peer's slice of a turn is.
    pub rounds: usize,
    pub turns: usize,
    pub slice: Duration,
    /// Idle connections.
    pub idle: usize,
    /// Requests of a run of redis-benchmark with one on its way, and how many runs.
    pub requests: u64,
    pub redis_rounds: usize,
    /// Pairs of runs of wrk.
    pub http_rounds: usize,
}

const FULL: Plan = Plan {
    quick: false,
    rounds: 21,
    turns: 5,
    slice: Duration::from_millis(15),
    idle: 10_000,
    requests: 100_000,
    redis_rounds: 7,
    http_rounds: 15,
};

const QUICK: Plan = Plan {
    quick: true,
    rounds: 5,
    turns: 2,
    slice: Duration::from_millis(10),
    idle: 2_000,
    requests: 10_000,
    redis_rounds: 3,
    http_rounds: 5,
};

/// Everything that was found out.
pub struct Results {
    pub plan: Plan,
    pub machine: String,
    pub took: Duration,
    pub peers: Vec<&'static str>,
    pub scenarios: Vec<(&'static Scenario, Vec<Cell>)>,
    pub idle: Special<IdleCost>,
    pub greedy: Special<GreedyCost>,
    pub emfile: Special<Famine>,
    pub redis: Option<Result<redis::Outcome, String>>,
    pub chat: Option<Result<chat::ChatCost, String>>,
    pub http: Option<Result<http::Outcome, String>>,
    pub cores: Option<Result<Vec<cores::Verdict>, String>>,
    pub scale: Option<Result<scale::Outcome, String>>,
    pub latency: Option<Result<latency::Outcome, String>>,
    pub tls_idle: Special<IdleCost>,
    pub tls_storm: Special<tls::Storm>,
    /// Microseconds to open and seal 1 MiB in memory.
    pub tls_bare: Option<Result<Rounds, String>>,
}

/// One figure for each peer; empty when it was not asked for.
pub type Special<T> = Vec<(&'static str, Result<T, String>)>;

impl Results {
    /// A scenario and its cells, if it was run.
    pub fn scenario(&self, id: &str) -> Option<&(&'static Scenario, Vec<Cell>)> {
        self.scenarios.iter().find(|(scenario, _)| scenario.id == id)
    }
}

/// The figures beside the scenarios that can be asked for by name.
const SPECIAL: [(&str, &str); 12] = [
    ("idle", "memory of idle connections, and an echo beside them"),
    ("greedy", "clients that send and never read beside healthy ones"),
    ("emfile", "a server whose descriptors run out, and its recovery"),
    ("redis", "redis-benchmark against the example resp and redis-server"),
    ("chat", "the chat server: delivery to 1,000 members, memory of idle clients"),
    ("http", "wrk against the example http and hyper"),
    ("scale", "from 10 to 18,000 connections, beside raw epoll, and a message to all"),
    ("latency", "latency at 50 and 90 % of raw epoll's capacity, by a schedule"),
    ("cores", "a group on two cores beside tokio's and raw epoll's, and an echo between pipes"),
    ("tls_bare", "TLS: opening and sealing 1 MiB, in memory"),
    ("tls_idle", "TLS: memory of idle connections, and an echo beside them"),
    ("tls_storm", "TLS: 1,000 handshakes at once, and an echo beside them"),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((option, rest)) if option == crowd::OPTION => crowd::serve(rest).map_err(io::Error::other),
        _ => Options::parse(args.into_iter()).and_then(|options| match options.task {
            Task::Race => race(&options),
            Task::List => {
                let scenarios = SCENARIOS.iter().map(|scenario| (scenario.id, scenario.title));
                scenarios.chain(SPECIAL).for_each(|(id, title)| println!("{id:18} {title}"));
                Ok(())
            }
            Task::Check { renew } => check::run(renew),
            Task::Readme { write } => readme::run(&target()?, write),
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("race: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where everything is written.
fn target() -> io::Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/race");
    std::fs::create_dir_all(&target)?;
    target.canonicalize()
}

fn race(options: &Options) -> io::Result<()> {
    let (plan, wanted) = (options.plan, |id: &str| options.wants(id));
    let ids = SCENARIOS.iter().map(|scenario| scenario.id).chain(SPECIAL.map(|(id, _)| id));
    let count = ids.filter(|id| wanted(id)).count();
    if count == 0 {
        return Err(io::Error::other("no scenario has such a name; --list tells them"));
    }
    let stored = options.baseline.as_deref().map(json::load).transpose()?;

    let begun = Instant::now();
    let target = target()?;
    process::raise_descriptor_limit()?;
    process::pin(Side::Load)?;
    let mut peers = peers::prepare(&target)?;
    if let Some(names) = &options.only {
        peers.retain(|peer| names.split(',').any(|name| name.trim() == peer.name));
    }
    for other in &options.with {
        let other = peers::other(other).ok_or_else(|| io::Error::other("--with=NAME=PROGRAM ARGUMENTS"))?;
        // Beside the engine: neighbours in the round are compared best.
        peers.insert(peers.len().min(2), other);
    }
    for peer in &peers {
        if let Some(why) = peer.absent() {
            eprintln!("{} takes no part: {why}", peer.name);
        }
    }
    let mut progress = Progress { begun, count, n: 0 };
    let mut results = Results {
        plan,
        machine: process::machine(),
        took: Duration::ZERO,
        peers: peers.iter().map(|peer| peer.name).collect(),
        scenarios: Vec::new(),
        idle: Vec::new(),
        greedy: Vec::new(),
        emfile: Vec::new(),
        redis: None,
        chat: None,
        http: None,
        cores: None,
        scale: None,
        latency: None,
        tls_idle: Vec::new(),
        tls_storm: Vec::new(),
        tls_bare: None,
    };
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.id)) {
        progress.step(scenario.title);
        let cells = measure::run(scenario, &peers, plan);
        eprintln!("      {}", report::summary(scenario, &cells));
        results.scenarios.push((scenario, cells));
    }
    // The short run looks at a few.
    let few = |name: &str| {
        !plan.quick
            || [peers::REFERENCE, peers::ENGINE, "raw mio", "tokio taught", "message-io", "libuv"]
                .contains(&name)
    };
    for (id, title) in SPECIAL.into_iter().filter(|(id, _)| wanted(id)) {
        progress.step(title);
        let some = peers.iter().filter(|peer| few(peer.name));
        match id {
            "idle" => results.idle = each(some, |peer| special::idle(peer, plan, false)),
            "greedy" => results.greedy = each(some, |peer| special::greedy(peer, plan)),
            "emfile" => results.emfile = each(some, special::emfile),
            "redis" => results.redis = Some(redis::race(plan)),
            "cores" => results.cores = Some(cores::race(plan)),
            "scale" => results.scale = Some(scale::race(&peers, plan)),
            "latency" => results.latency = Some(latency::race(&peers, plan)),
            "http" => results.http = Some(http::race(&target, plan)),
            "tls_bare" => results.tls_bare = Some(tls::bare(plan).map_err(special::text)),
            "tls_idle" => {
                // A handshake costs the load more than the server.
                let plan = Plan { idle: plan.idle.min(2_000), ..plan };
                results.tls_idle = each(peers.iter(), |peer| special::idle(peer, plan, true));
            }
            "tls_storm" => results.tls_storm = each(peers.iter(), |peer| tls::storm(peer, plan)),
            _ => results.chat = Some(chat::race(&peers, plan)),
        }
    }
    results.took = begun.elapsed();

    plots::draw(&results, &target)?;
    plots_of_scale::draw(&results, &target)?;
    let file = target.join("report.json");
    let mut value = json::render(&results);
    let mut text = report::render(&results);
    if let Some(stored) = &stored {
        text.push_str(&baseline::compare(stored, &value));
    }
    if options.merge {
        json::merge(&mut value, json::load(&file).unwrap_or_default());
    }
    std::fs::write(&file, format!("{value:#}\n"))?;
    std::fs::write(target.join("report.md"), &text)?;
    print!("{text}");
    eprintln!("\nwritten to {}", target.display());
    Ok(())
}

fn each<'a, T>(
    peers: impl Iterator<Item = &'a Peer>,
    measure: impl Fn(&Peer) -> Result<T, String>,
) -> Special<T> {
    peers.map(|peer| (peer.name, measure(peer))).collect()
}

/// What is being done, on standard error.
struct Progress {
    begun: Instant,
    count: usize,
    n: usize,
}

impl Progress {
    fn step(&mut self, title: &str) {
        self.n += 1;
        eprintln!("[{:2}/{} {:4.0} s] {title}", self.n, self.count, self.begun.elapsed().as_secs_f64());
    }
}
