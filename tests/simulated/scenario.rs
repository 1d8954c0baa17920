//! A scenario: everything that follows from a seed, and how to make one smaller.

use std::collections::BTreeMap;
use std::time::Duration;

use unbroken::sim::{Faults, Remote, Script, Sim, Violation};
use unbroken::{AtLimit, Config, Keepalive, Overflow, SoftLimit};

use crate::chaos::{Chaos, HABITS};
use crate::dice::Dice;

pub const MOST_PEERS: usize = 12;

/// Where clients come in.
const DOORS: [&str; 3] = ["10.0.0.1:7", "10.0.0.1:17", "10.0.0.1:27"];

#[derive(Clone)]
pub struct Scenario {
    pub seed: u64,
    pub faults: Faults,
    /// Some of its doors, and a machine that it connects to, speak TLS.
    pub secured: bool,
    /// Which peers come.
    pub peers: [bool; MOST_PEERS],
    /// Which habits of the handler are switched off.
    pub off: [bool; HABITS.len()],
}

/// What a scenario that went well came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub connections: usize,
    pub lost: usize,
    /// Connections ended for each reason.
    pub ends: BTreeMap<&'static str, usize>,
}

impl Scenario {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut peers = [false; MOST_PEERS];
        let count = dice.between(1, MOST_PEERS);
        peers[..count].fill(true);
        // Every fourth world is on its best behaviour.
        let faults = if seed % 4 == 0 { Faults::none() } else { Faults::from_seed(seed) };
        let secured = seed % 3 == 0;
        Self { seed, faults, secured, peers, off: [false; HABITS.len()] }
    }

    fn config(&self) -> Config {
        let mut dice = Dice::new(self.seed ^ 0xC0FF);
        let dice = &mut dice;
        let mut config = Config::default();
        let some_time = |dice: &mut Dice, most: usize| Duration::from_millis(dice.between(1, most) as u64);
        config.high_water = dice.between(100, 20_000);
        config.low_water = dice.below(config.high_water);
        config.max_write_buffer = config.high_water + dice.between(1, 200_000);
        // Small enough to be met in every other world.
        let spare = [2_000, 30_000, 400_000][dice.below(3)];
        config.total_write_buffer = config.high_water + dice.between(1, spare);
        config.overflow = if dice.chance(600) { Overflow::Close } else { Overflow::Refuse };
        config.read_while_congested = dice.chance(200);
        let unused = [5_000, 60_000][dice.below(2)];
        config.max_read_buffer = dice.between(1, unused);
        config.read_size = dice.between(16, 8000);
        config.read_budget = dice.between(16, 16_000);
        config.write_budget = dice.between(16, 16_000);
        config.accepts_per_turn = dice.between(1, 8);
        config.events_per_turn = dice.between(1, 16);
        if dice.chance(500) {
            config.turn_slice = Duration::from_micros(dice.between(100, 10_000) as u64);
        }
        config.commands_per_turn = dice.between(1, 20);
        config.max_commands = dice.between(1, 20);
        config.max_command_bytes = dice.between(1, 10_000);
        config.backlog = dice.between(1, 8) as u32;
        config.max_lingering = dice.between(1, 8);
        config.linger_bytes = dice.between(100, 100_000) as u64;
        config.linger_idle = some_time(dice, 2000);
        config.linger_total = some_time(dice, 6000);
        config.connect_timeout = some_time(dice, 3000);
        config.idle_timeout = dice.chance(400).then(|| some_time(dice, 5000));
        config.half_close_timeout = dice.chance(800).then(|| some_time(dice, 8000));
        config.write_stall = dice.chance(800).then(|| some_time(dice, 4000));
        if dice.chance(300) {
            let most = [2_000, config.max_write_buffer][dice.below(2)].min(config.max_write_buffer);
            let (bytes, duration) = (dice.between(1, most), some_time(dice, 2000));
            config.soft_limit = Some(SoftLimit { bytes, duration });
        }
        if dice.chance(200) {
            config.max_connections = Some(dice.between(1, 6));
            config.at_limit = if dice.chance(500) { AtLimit::Wait } else { AtLimit::Refuse };
        }
        config.shed_when_exhausted = dice.chance(300);
        let seconds = |dice: &mut Dice| Duration::from_secs(dice.between(1, 3) as u64);
        let keepalive =
            Keepalive { idle: seconds(dice), interval: seconds(dice), count: dice.between(3, 5) as u32 };
        config.keepalive = dice.chance(700).then_some(keepalive);
        config.catch_panics = true;
        if self.secured {
            let mut dice = Dice::new(self.seed ^ 0x715);
            config.handshake_timeout = some_time(&mut dice, 4000);
            config.handshakes_per_turn = dice.between(1, 8);
            config.allow_missing_close_notify = dice.chance(200);
        }
        config
    }

    /// Whether clients speak TLS there.
    fn is_secured(&self, door: &str) -> bool {
        self.secured && door != DOORS[1]
    }

    /// What a client does; a few do not know what is spoken there.
    fn script(&self, door: &str, seed: u64) -> Script {
        match self.is_secured(door) && !Dice::new(seed ^ 0xD00).chance(50) {
            true => Script::random_secured(seed),
            false => Script::random(seed),
        }
    }

    /// Plays it. With `record` a violation comes with its trace.
    pub fn play(&self, record: bool) -> Result<Outcome, Violation> {
        let mut dice = Dice::new(self.seed ^ 0x9E37);
        let chaos = Chaos::new(self.seed, &self.off);
        let sim = Sim::with_faults(self.seed, self.faults.clone(), self.config(), chaos);
        let mut sim = sim.expect("a valid configuration");
        if record {
            sim.record();
        }
        sim.handler().clock = Some(sim.clock());
        if dice.chance(700) {
            sim.handler().handle = Some(sim.net().handle());
        }
        let most = [300, 4_000, 60_000][dice.below(3)];
        sim.buffers(dice.between(50, most), most);
        sim.remote("10.0.1.1:1", Remote::Serves(Script::random(self.seed ^ 0x1111)));
        sim.remote("10.0.1.1:2", Remote::Refuses);
        sim.remote("10.0.1.1:3", Remote::Silent);
        sim.remote("10.0.1.1:4", Remote::Serves(Script::random(self.seed ^ 0x4444)));
        sim.remote("10.0.1.1:5", Remote::Serves(Script::random_secured(self.seed ^ 0x5555)));
        sim.handler().secured = self.secured;
        let soon = Duration::from_millis(5);
        sim.name("one", ["10.0.1.1"], soon);
        sim.name("many", ["10.0.1.9", "10.0.1.8", "10.0.1.1"], soon);
        sim.silent_name("silent");
        // A descriptor may be lacking right at the beginning.
        let doors = dice.between(1, DOORS.len());
        for door in &DOORS[..doors] {
            let listener = loop {
                match sim.net().listen(*door) {
                    Ok(listener) => break listener,
                    Err(_) => sim.run_for(Duration::from_millis(100))?,
                }
            };
            if self.is_secured(door) {
                sim.secure(listener);
            }
        }
        for (place, comes) in self.peers.iter().enumerate() {
            let wait = Duration::from_micros([0, 100, 30_000][dice.below(3)] * dice.below(20) as u64);
            if *comes {
                let door = DOORS[dice.below(doors)];
                sim.client(door, self.script(door, self.seed.wrapping_mul(31) + place as u64));
            }
            sim.run_for(wait)?;
        }
        // With dice of their own: the other worlds stay as they were.
        if self.seed % 5 == 2 {
            for place in 0..1 + self.seed / 5 % 3 {
                let _ = sim.pipe(Script::random(self.seed ^ (place << 50)));
            }
        }
        match dice.below(3) {
            0 => sim.run()?,
            1 => sim.run_for(Duration::from_secs(20))?,
            _ => sim.run_for(Duration::from_millis(50))?,
        }
        if dice.chance(300) {
            // They wait in the accept queues when the shutdown comes, or come in the course of it.
            for place in 0..dice.between(1, 8) as u64 {
                let wait = Duration::from_micros(dice.below(4_000) as u64);
                let door = DOORS[dice.below(doors)];
                sim.client_after(wait, door, self.script(door, self.seed ^ (place << 40)));
            }
            sim.freeze(Duration::from_millis(dice.below(3) as u64));
        }
        if dice.chance(300) {
            let deadline = [0, 100, 3_000][dice.below(3)];
            sim.net().shutdown(Duration::from_millis(dice.between(0, deadline) as u64));
        }
        let (chaos, reports) = sim.finish()?;
        chaos.settle_accounts();
        let mut ends = BTreeMap::new();
        for (_, report) in &reports {
            *ends.entry(report.reason.name()).or_default() += 1;
        }
        let lost = reports.iter().filter(|(_, report)| report.lost_bytes()).count();
        Ok(Outcome { connections: reports.len(), lost, ends })
    }

    /// The same failure with fewer peers, faults and habits.
    pub fn shrink(mut self, failure: impl Fn(&Self) -> Option<String>) -> Self {
        // Of the same kind, whatever the numbers.
        let failure = |scenario: &Self| failure(scenario).map(|what| kind(&what));
        let wanted = failure(&self);
        let fails = |scenario: &Self| failure(scenario) == wanted;
        for _ in 0..2 {
            for place in 0..MOST_PEERS {
                self.keep_if(|smaller| smaller.peers[place] = false, &fails);
            }
            for place in 0..HABITS.len() {
                self.keep_if(|smaller| smaller.off[place] = true, &fails);
            }
            for fault in FAULTS {
                self.keep_if(|smaller| *fault(&mut smaller.faults) = 0, &fails);
            }
        }
        self
    }

    fn keep_if(&mut self, change: impl Fn(&mut Self), fails: &impl Fn(&Self) -> bool) {
        let mut smaller = self.clone();
        change(&mut smaller);
        if fails(&smaller) {
            *self = smaller;
        }
    }

    /// What is left in it, in words.
    pub fn describe(&self) -> String {
        let peers = self.peers.iter().filter(|comes| **comes).count();
        let habits: Vec<_> =
            HABITS.iter().zip(self.off).filter(|(_, off)| !off).map(|(name, _)| *name).collect();
        format!("{peers} peers; the handler may: {}; {:?}", habits.join(", "), self.faults)
    }
}

/// What is wrong, without the report and the numbers.
fn kind(what: &str) -> String {
    let what = what.split("; the report").next().unwrap_or(what);
    what.chars().filter(|c| !c.is_numeric()).collect()
}

type Fault = fn(&mut Faults) -> &mut u16;

const FAULTS: [Fault; 13] = [
    |faults| &mut faults.short_write,
    |faults| &mut faults.short_read,
    |faults| &mut faults.would_block,
    |faults| &mut faults.interrupt,
    |faults| &mut faults.reset,
    |faults| &mut faults.accept_error,
    |faults| &mut faults.connect_error,
    |faults| &mut faults.event_delay,
    |faults| &mut faults.event_shuffle,
    |faults| &mut faults.event_spurious,
    |faults| &mut faults.exhaustion,
    |faults| &mut faults.pause,
    |faults| &mut faults.stop,
];
