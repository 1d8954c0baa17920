//! Connections that wait must not keep the processor awake.

use std::io;
use std::time::Duration;

use super::load::{Goal, Load};
use super::process::Server;
use super::rounds::Rounds;
use super::servers::{self, PAUSE};
use super::table::Row;
use super::Plan;

const CLIENTS: usize = 1000;
/// More than all buffers on the way take.
const FLOOD: u64 = 16 << 20;
/// How much of its echo a client must read at least for the server to be able to write again.
const UNBLOCK: usize = 64 << 10;

/// A server with half of its connections paused and half congested, all full.
struct Full {
    server: Server,
    load: Load,
}

impl Full {
    fn start(role: &str) -> io::Result<Self> {
        let server = Server::start(role)?;
        let mut load = Load::new()?;
        load.add_greedy(server.addr, CLIENTS / 2, FLOOD, Some(PAUSE))?;
        load.add_greedy(server.addr, CLIENTS / 2, FLOOD, Some(b'e'))?;
        load.run(&Goal::Stuck(Duration::from_secs(1)), false)?;
        let each = load.sent_by_greedy() / CLIENTS as u64;
        eprintln!("    {role}: {CLIENTS} clients are stuck after {} KiB each on average", each >> 10);
        Ok(Self { server, load })
    }

    /// Wake-ups and processor time now.
    fn now(&self) -> io::Result<(u64, Duration)> {
        Ok((self.server.sleeps()?, self.server.cpu()?))
    }
}

pub fn wakeups(plan: Plan) -> io::Result<Vec<Row>> {
    let windows = plan.pick(5, 3);
    // Longer than the time between two looks of the write stall's watch.
    let window = plan.pick(Duration::from_secs(8), Duration::from_secs(1));
    let mut plain = Full::start(servers::HOLD_NO_STALL)?;
    let watched = Full::start(servers::HOLD)?;
    let (mut woken, mut cpu, mut watching) = (Vec::new(), Vec::new(), Vec::new());
    let seconds = window.as_secs_f64();
    for n in 0..windows {
        let (before, before_watched) = (plain.now()?, watched.now()?);
        std::thread::sleep(window);
        let (after, after_watched) = (plain.now()?, watched.now()?);
        woken.push((after.0 - before.0) as f64 / seconds);
        cpu.push((after.1 - before.1).as_secs_f64() * 1e6 / seconds);
        watching.push((after_watched.0 - before_watched.0) as f64 / seconds);
        eprintln!(
            "    window {}/{windows} of {seconds:.0} s: {} wake-ups; with the write stall's watch {}",
            n + 1,
            after.0 - before.0,
            after_watched.0 - before_watched.0
        );
    }
    // The counter counts: one client that reads wakes the server.
    let before = plain.server.sleeps()?;
    plain.load.read_from_greedy(CLIENTS - 1, UNBLOCK)?;
    if plain.server.sleeps()? == before {
        return Err(io::Error::other("a client that reads woke nobody: nothing was measured"));
    }
    let (woken, watching) = (Rounds::new(woken), Rounds::new(watching));
    let what = "wake-ups per second, 500 paused and 500 congested";
    let row = Row::new(what, woken.show(2, ""), "0", woken.max() == 0.0);
    let stall = unbroken::Config::default().write_stall.map_or(0.0, |stall| stall.as_secs_f64());
    Ok(vec![row.note(format!("CPU in that time: {} µs per second", Rounds::new(cpu).show(1, ""))).note(
        format!(
            "with the default write stall of {stall:.0} s, whose watch looks at all congested connections \
             together every {:.1} s: {} wake-ups per second",
            stall / 8.0,
            watching.show(2, "")
        ),
    )])
}
