//! Ten thousand connections come and go in every way: one report each, nothing leaked. It stands
//! alone because it counts the descriptors and the memory of the whole process.

mod util;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use unbroken::{Config, ConnId};
use util::{reset, serve, Echo, Event};

/// A small generator, seeded, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn seed() -> u64 {
    let given = std::env::var("UNBROKEN_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or(0x5eed_0001)
}

/// Connects `count` times and treats each connection in one of many ways, a few hundred at a time.
fn churn(server: &util::Server, random: &mut Random, count: usize) {
    let mut open: Vec<TcpStream> = Vec::new();
    let data = vec![b'd'; 60_000];
    for n in 0..count {
        open.push(server.client());
        while open.len() > 200 || (n + 1 == count && !open.is_empty()) {
            let mut client = open.swap_remove(random.below(open.len()));
            let way = random.below(8);
            let size = [1, 100, 5000, 60_000][random.below(4)];
            if way > 0 {
                let _ = client.write_all(&data[..size]);
            }
            match way {
                0 | 1 => drop(client),
                2 | 3 => reset(client),
                4 => {
                    let _ = client.read(&mut [0; 100]);
                    reset(client);
                }
                5 => {
                    let _ = client.shutdown(Shutdown::Write);
                    let _ = client.read_to_end(&mut Vec::new());
                }
                6 => {
                    let _ = client.shutdown(Shutdown::Write);
                    reset(client);
                }
                _ => {
                    let _ = client.read_exact(&mut vec![0; size]);
                }
            }
        }
    }
}

/// Takes in the events so far and checks that each connection opens once and closes once, last.
fn check(server: &util::Server, open: &mut HashSet<ConnId>, closed: &mut u64) {
    for event in server.events_so_far() {
        match event {
            Event::Open(conn, _) => assert!(open.insert(conn), "{conn} opened twice"),
            Event::Data(conn, ..) | Event::Eof(conn) => assert!(open.contains(&conn), "{conn} is closed"),
            Event::Close(conn, report) => {
                assert!(open.remove(&conn), "{conn} closed twice");
                assert!(report.handed + report.unsent <= report.received, "{report}");
                assert!(!(report.reason.is_clean() && report.lost_bytes()), "{report}");
                *closed += 1;
            }
            _ => {}
        }
    }
}

// R10, N3
#[test]
fn ten_thousand_connections_come_and_go_and_leave_nothing_behind() {
    let seed = seed();
    println!("UNBROKEN_SEED={seed}");
    let mut random = Random(seed);
    let server = serve(Config::default(), Echo);
    let (mut open, mut closed) = (HashSet::new(), 0);
    churn(&server, &mut random, 1000);
    server.wait_stats(|stats| stats.connections == 0);
    check(&server, &mut open, &mut closed);
    let (fds, rss) = (util::open_fds(), util::rss());
    for round in 1..=9 {
        churn(&server, &mut random, 1000);
        let stats = server.wait_stats(|stats| stats.connections == 0 && stats.accepted == 1000 * (round + 1));
        assert_eq!(stats.closed, stats.accepted);
        check(&server, &mut open, &mut closed);
    }
    assert_eq!((closed, open.len()), (10_000, 0));
    let stats = server.stats();
    assert_eq!((stats.queued, stats.congested, stats.closing), (0, 0, 0));
    assert_eq!(util::open_fds(), fds);
    let growth = util::rss().saturating_sub(rss);
    assert!(growth < 3 << 20, "{growth} bytes more than after the first thousand");
}
