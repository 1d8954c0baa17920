//! After every turn: the caps hold, the books agree, nobody was busier than a turn allows.

use super::ages::Ages;
use super::hearing;
use super::watch::{Kind, KINDS};
use crate::net::{Entry, Net, Stopping};
use crate::simnet::{Kernel, World};

/// A read, a flush before it and one behind it, a large send or two of the handler's.
const MOST_FRUITLESS: usize = 12;

/// A handler that panics cuts a turn short: its timers fire in the next.
const TURNS_OVERDUE: u32 = 8;

/// What is counted over several turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    ages: Ages,
    /// Turns in a row at whose end a timer was overdue.
    overdue: u32,
}

impl Turns {
    pub(super) fn check(
        &mut self,
        net: &Net,
        kernel: &Kernel,
        overtime: &[usize; KINDS],
    ) -> Result<(), String> {
        books(net)?;
        let world = kernel.world();
        work(net, &world)?;
        slice(overtime)?;
        match hearing::overdue(net, &world) {
            Some(what) if self.overdue >= TURNS_OVERDUE => return Err(what),
            Some(_) => self.overdue += 1,
            None => self.overdue = 0,
        }
        self.ages.check(net, &world)
    }
}

/// The counters agree with what there is, and the caps are kept.
fn books(net: &Net) -> Result<(), String> {
    let config = net.config();
    let (mut queued, mut unused, mut congested, mut closing) = (0, 0, 0, 0);
    for (conn, Entry { conn: state, .. }) in net.conns.iter() {
        queued += state.queued();
        unused += state.unused();
        congested += usize::from(state.is_congested());
        closing += usize::from(state.is_closing());
        if state.queued() > net.config_of(conn).max_write_buffer {
            return Err(format!("{conn}: {} bytes queued, above the cap", state.queued()));
        }
        // Settings may change under what is queued already.
        let passed = !state.has_own_settings() && state.queued() >= config.high_water;
        if passed && state.is_delivering() && !state.is_congested() {
            return Err(format!("{conn}: {} bytes queued, and not congested", state.queued()));
        }
    }
    let stats = net.stats();
    for (what, told, counted) in [
        ("queued", stats.queued, queued),
        ("unused", stats.unused, unused),
        ("congested", stats.congested, congested),
        ("closing", stats.closing, closing),
        ("connections", stats.connections, net.conns.len()),
    ] {
        if told != counted {
            return Err(format!("stats.{what} is {told}, counted: {counted}"));
        }
    }
    if net.stopping == Stopping::No && closing > config.max_lingering {
        return Err(format!("{closing} connections are closing, above max_lingering"));
    }
    if queued + unused > config.total_write_buffer {
        return Err(format!("{queued} bytes queued and {unused} unused in all, above the cap"));
    }
    Ok(())
}

/// Nobody was read from, asked or accepted more often than a turn allows.
fn work(net: &Net, world: &World) -> Result<(), String> {
    let config = net.config();
    let most_read = config.read_budget + config.read_size;
    for (id, work) in &world.work.socks {
        let (read, fruitless) = (work.read, work.would_block);
        // A session may have to read more than there is plaintext in it.
        let Some(overhead) = world.socks.get(id).map(|sock| sock.kept_at_most() as usize) else { continue };
        if read > most_read + overhead {
            return Err(format!("{}: {read} bytes read in one turn", world.name(*id)));
        }
        if fruitless > MOST_FRUITLESS {
            return Err(format!(
                "{}: {fruitless} calls in one turn that found nothing to do",
                world.name(*id)
            ));
        }
    }
    let most = 2 * config.accepts_per_turn * (net.listeners.len() + 1);
    // Clients that are turned away with the reserved descriptor are accepted beyond the budget.
    if net.stopping == Stopping::No && !config.shed_when_exhausted && world.work.accepts > most {
        return Err(format!("{} accepts in one turn", world.work.accepts));
    }
    Ok(())
}

/// How many long callbacks of each kind may be begun once the time of a turn is over: each phase makes
/// one step.
const MOST_OVERTIME: [(Kind, usize); KINDS] = [
    (Kind::Wake, 1),
    // Behind the commands, and before those who have ended are reported.
    (Kind::Refused, 2),
    // A connect, a client at each of a few listeners.
    (Kind::Open, 6),
    // What was unused is shown, then what is new.
    (Kind::Data, 2),
    (Kind::Eof, 1),
    // Before a read, in its batch, and among the others.
    (Kind::Drain, 3),
    (Kind::Timer, 1),
    (Kind::Deadline, 1),
    (Kind::Shutdown, 1),
    (Kind::Close, 1),
    (Kind::Listener, 6),
];

fn slice(overtime: &[usize; KINDS]) -> Result<(), String> {
    for (kind, most) in MOST_OVERTIME {
        let count = overtime.get(kind as usize).copied().unwrap_or(0);
        if count > most {
            return Err(format!(
                "{count} long callbacks ({kind:?}) were begun after the time of the turn was over"
            ));
        }
    }
    Ok(())
}
