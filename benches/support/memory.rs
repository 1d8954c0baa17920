//! What connections cost in memory of the server's own: at rest, and when their peers never read.
//! The kernel's buffers are not counted; they are the same for every engine.

use std::io;
use std::time::Duration;

use super::load::{Goal, Load};
use super::process::{self, Server};
use super::rounds::Rounds;
use super::servers;
use super::table::Row;
use super::Plan;

/// Growth per connection in bytes: before anything was sent, and after one echo each.
fn idle_growth(role: &str, clients: usize) -> io::Result<(f64, f64)> {
    let server = Server::start(role)?;
    // The first client brings in the code and the buffers that are there once.
    let mut first = Load::new()?;
    first.add_healthy(server.addr, 1, 1)?;
    first.run(&Goal::Messages(100), false)?;
    let empty = server.resident()?;
    let mut load = Load::new()?;
    load.add_healthy(server.addr, clients, 1)?;
    // One of the last to come is answered: all others have been accepted.
    first.add_healthy(server.addr, 1, 1)?;
    first.run(&Goal::Messages(2), false)?;
    let per_client = |bytes: u64| (bytes as f64 - empty as f64) / clients as f64;
    let fresh = per_client(server.resident()?);
    load.run(&Goal::Messages(clients as u64), false)?;
    Ok((fresh, per_client(server.resident()?)))
}

pub fn idle(plan: Plan) -> io::Result<Vec<Row>> {
    const LIMIT: f64 = 512.0;
    const GOAL: f64 = 256.0;
    const CLIENTS: usize = 10_000;
    // Some descriptors are in use for other things, on either side.
    let clients = CLIENTS.min(process::descriptor_limit().saturating_sub(100));
    let rounds = plan.pick(5, 3);
    let (mut fresh, mut used) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (before, after) = idle_growth(servers::ECHO, clients)?;
        eprintln!("    round {}/{rounds}: {before:.0} B, after use {after:.0} B", round + 1);
        fresh.push(before);
        used.push(after);
    }
    let (mio_fresh, mio_used) = idle_growth(servers::MIO_SHORT, clients)?;
    let row = |what: &str, values: Vec<f64>| {
        let rounds = Rounds::new(values);
        let what = format!("memory per connection, {clients} {what}");
        let must = format!("≤ {LIMIT:.0} B (goal {GOAL:.0})");
        Row::new(&what, rounds.show(0, " B"), &must, rounds.median() <= LIMIT)
    };
    let mio = format!("raw mio: {mio_fresh:.0} B idle, {mio_used:.0} B after use");
    let mut rows = vec![row("idle", fresh).note(mio), row("idle after use", used)];
    if clients < CLIENTS {
        let short = format!("the limit of open files allows no more than {clients} connections here");
        rows = rows.into_iter().map(|row| row.note(short.clone())).collect();
    }
    Ok(rows)
}

pub fn unread(plan: Plan) -> io::Result<Vec<Row>> {
    const CLIENTS: usize = 100;
    const EACH: u64 = 10_000_000;
    const MIB: f64 = 1048576.0;
    let config = unbroken::Config::default();
    let limit = (CLIENTS * (config.high_water + config.read_size)) as f64 / MIB;
    let rounds = plan.pick(5, 3);
    let mut growth = Vec::new();
    let mut taken = 0.0;
    for round in 0..rounds {
        let server = Server::start(servers::ECHO)?;
        let mut first = Load::new()?;
        first.add_healthy(server.addr, 1, 1)?;
        first.run(&Goal::Messages(100), false)?;
        let before = server.resident()?;
        let mut load = Load::new()?;
        load.add_greedy(server.addr, CLIENTS, EACH, None)?;
        load.run(&Goal::Stuck(Duration::from_millis(500)), false)?;
        let grown = server.peak()?.saturating_sub(before) as f64 / MIB;
        taken = load.sent_by_greedy() as f64 / 1e6 / CLIENTS as f64;
        // The one that reads its echoes is still served.
        first.run(&Goal::Messages(100), false)?;
        eprintln!("    round {}/{rounds}: {grown:.1} MiB; each client got rid of {taken:.1} MB", round + 1);
        growth.push(grown);
    }
    let growth = Rounds::new(growth);
    let what = "memory growth, 100 clients send 10 MB each and never read";
    let row = Row::new(what, growth.show(1, " MiB"), &format!("≤ {limit:.1} MiB"), growth.max() <= limit);
    Ok(vec![row
        .note("the peak of resident memory, against 100 × (high water + one read); the greatest round is judged".to_owned())
        .note(format!("each client got rid of {taken:.1} MB on average; the rest of it waits in the kernel's buffers"))])
}
