//! A group in one simulated world, its turns drawn by a seed: every client has one reactor, the balance holds,
//! and nobody is lost, whoever stops when.

use std::time::Duration;

use unbroken::sim::{Faults, GroupSim, Script};
use unbroken::{Bytes, Config, ConnId, Handler, Net, Peers};

/// Echoes, and tells the others of everybody who comes.
struct Echo {
    peers: Peers,
    told: usize,
}

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.peers.broadcast(data.to_vec());
        net.send(conn, data).map_or(0, |_| data.len())
    }

    fn on_message(&mut self, _: &mut Net, from: Option<usize>, _: Bytes) {
        assert_ne!(from, Some(self.peers.index()));
        self.told += 1;
    }
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("UNBROKEN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    0..count
}

/// All that a kernel may do, but for what leaves clients in the queue: there is nothing to take them in with.
fn faults(seed: u64) -> Faults {
    let mut faults = Faults::from_seed(seed);
    (faults.exhaustion, faults.accept_error) = (0, 0);
    faults
}

fn world(seed: u64, faults: Faults, config: Config) -> GroupSim<Echo> {
    let reactors = 2 + (seed % 4) as usize;
    let mut sim = GroupSim::new(seed, faults, config, reactors, |peers| Echo { peers, told: 0 }).unwrap();
    sim.group().listen("10.0.0.1:7").unwrap();
    sim
}

#[test]
fn clients_are_spread_evenly_and_each_has_one_reactor() {
    for seed in seeds() {
        let mut sim = world(seed, Faults::none(), Config::default());
        let script = || Script::new().send("hello").await_bytes(5).wait(Duration::from_secs(100));
        let clients: Vec<_> = (0..40)
            .map(|n| sim.client_after(Duration::from_micros(seed * n), "10.0.0.1:7", script()))
            .collect();
        sim.run_for(Duration::from_secs(2)).unwrap_or_else(|what| panic!("{what:?}"));
        let counts = sim.handle().connections();
        assert_eq!(counts.iter().sum::<usize>(), 40);
        for client in &clients {
            assert_eq!(sim.received(*client), b"hello", "seed {seed}");
            assert!(sim.reactor_of(*client).is_some());
        }
        let reactors = counts.len();
        let told: usize = (0..reactors).map(|reactor| sim.handler(reactor).unwrap().told).sum();
        assert!(told >= 40 * (reactors - 1), "seed {seed}: {told}");
        sim.finish().unwrap_or_else(|what| panic!("{what:?}"));
    }
}

#[test]
fn nobody_is_lost_when_the_group_or_one_of_it_stops_amid_the_storm() {
    for seed in seeds().step_by(4) {
        let mut sim = world(seed, faults(seed), Config::default());
        let reactors = sim.handle().len();
        let clients: Vec<_> = (0..60)
            .map(|n| {
                let wait = Duration::from_micros(n * 100 + seed % 7);
                sim.client_after(wait, "10.0.0.1:7", Script::random(seed * 1000 + n))
            })
            .collect();
        sim.run_for(Duration::from_micros(500 + seed * 37 % 6000)).unwrap_or_else(|what| panic!("{what:?}"));
        if seed % 8 == 0 {
            // Any but the one that accepts.
            let one = 1 + seed as usize / 2 % (reactors - 1);
            sim.handle().handle(one).unwrap().shutdown(Duration::from_secs(5)).unwrap();
            sim.run_for(Duration::from_millis(seed % 9)).unwrap_or_else(|what| panic!("{what:?}"));
        }
        sim.finish().unwrap_or_else(|what| panic!("{what:?}"));
        let reports = clients.iter().filter(|client| sim.report_of(**client).is_some()).count();
        assert!(reports > 0, "seed {seed}");
    }
}

#[test]
fn the_limit_of_all_is_kept_and_who_waits_gets_in() {
    for seed in seeds() {
        let mut config = Config::default();
        config.max_connections = Some(5);
        let mut sim = world(seed, Faults::none(), config);
        let script = || Script::new().send("hello").await_bytes(5).wait(Duration::from_millis(3)).close();
        let clients: Vec<_> = (0..40)
            .map(|n| sim.client_after(Duration::from_micros(seed * n % 3000), "10.0.0.1:7", script()))
            .collect();
        for _ in 0..400 {
            sim.run_for(Duration::from_millis(1)).unwrap_or_else(|what| panic!("{what:?}"));
            assert!(sim.handle().connections().iter().sum::<usize>() <= 5, "seed {seed}");
        }
        for client in &clients {
            assert_eq!(sim.received(*client), b"hello", "seed {seed}: everybody gets in");
        }
        sim.finish().unwrap_or_else(|what| panic!("{what:?}"));
    }
}
