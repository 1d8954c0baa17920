//! Instructions in user space, counted by valgrind: they do not depend on the neighbours.
//!
//! The server runs twice, once for a few units and once for many; the difference is the units'
//! alone, without the start and the end.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};

use crate::load::latencies;
use crate::peers::Peer;
use crate::process::Server;
use crate::scenarios::Scenario;
use crate::Plan;

/// `None` when valgrind is missing, or cannot run this peer.
pub fn per_unit(peer: &Peer, scenario: &Scenario, plan: Plan) -> Option<f64> {
    let play = |time| {
        let (role, opening) = scenario.set_up()?;
        collect(peer, &role, |server| opening(server.addr)?.play(time, &mut latencies()))
    };
    let few = play(Duration::from_millis(50)).ok()?;
    let many = play(Duration::from_millis(if plan.quick { 500 } else { 1500 })).ok()?;
    let units = many.0.checked_sub(few.0).filter(|units| *units > 0)?;
    Some(many.1.checked_sub(few.1)? as f64 / units as f64)
}

/// What `play` did with a server under valgrind, and the instructions of the whole process.
pub fn collect(
    peer: &Peer,
    role: &[String],
    play: impl FnOnce(&Server) -> io::Result<u64>,
) -> io::Result<(u64, u64)> {
    let log = std::env::temp_dir().join(format!("unbroken-race-{}.log", std::process::id()));
    let under = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let mut under: Vec<String> = under.map(str::to_owned).into();
    under.push(format!("--log-file={}", log.display()));
    let mut server = peer.start(role, &under).map_err(io::Error::other)?;
    let units = play(&server)?;
    // It must be at rest, and be asked to end, or it tells nothing.
    server.cpu()?;
    if let Some(pid) = Pid::from_raw(server.pid() as i32) {
        kill_process(pid, Signal::TERM)?;
    }
    if !server.wait(Duration::from_secs(5)) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it would not end"));
    }
    let text = fs::read_to_string(&log)?;
    let _ = fs::remove_file(&log);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let collected = collected.and_then(|(_, count)| count.split_whitespace().next()?.parse().ok());
    Ok((units, collected.ok_or_else(|| io::Error::other("valgrind counted nothing"))?))
}
