//! What the chat server costs above the bare engine: a delivery to a member of a channel beside one to a
//! subscriber of a fan-out that makes as many sends of as many bytes, and neither reads nor writes lines.

use std::io;
use std::process::Command;
use std::time::Duration;

use crate::load::{chat, latencies, Fanout, Game};
use crate::peers::{spawn, Peer, ENGINE};
use crate::process::Server;
use crate::rounds::Rounds;
use crate::Plan;

const MEMBERS: usize = 1000;

/// A delivery to one of 1,000 members.
pub struct Delivery {
    /// Messages on their way at a time. The bare fan-out sends each on by itself, as the chat does
    /// with each line: the same number of pieces.
    pub in_flight: usize,
    /// Microseconds of the server's processor, of the chat and of the bare engine; and the one by
    /// the other, of the same round.
    pub chat: Rounds,
    pub bare: Rounds,
    pub ratio: Rounds,
}

pub struct ChatCost {
    pub deliveries: Vec<Delivery>,
    /// Bytes of memory for each idle client.
    pub idle: f64,
    pub clients: usize,
}

/// Starts the chat server, which says in its own way where it listens.
fn start() -> io::Result<Server> {
    let program = std::env::current_exe()?.with_file_name("race-chat");
    let mut command = Command::new(program);
    command.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0", "--rate", "1000000", "--burst", "1000000"]);
    command.args(["--max-clients-per-address", "20000", "--send-queue", "16777216"]);
    Server::announced(spawn(&mut command)?, "IRC   irc://")
}

pub fn race(peers: &[Peer], plan: Plan) -> Result<ChatCost, String> {
    let engine = peers.iter().find(|peer| peer.name == ENGINE).ok_or("the engine takes no part")?;
    let bare = engine.start(&["pieces".to_owned()], &[])?;
    measure(&bare, plan).map_err(|error| format!("failed: {error}"))
}

fn measure(bare: &Server, plan: Plan) -> io::Result<ChatCost> {
    let deliveries = [1, 16].map(|in_flight| deliver(bare, plan, in_flight));
    let deliveries = deliveries.into_iter().collect::<io::Result<_>>()?;
    let (idle, clients) = idle(plan)?;
    Ok(ChatCost { deliveries, idle, clients })
}

fn deliver(bare: &Server, plan: Plan, in_flight: usize) -> io::Result<Delivery> {
    let server = start()?;
    let mut fanout = Fanout::open(bare.addr, MEMBERS, 0, in_flight, &None)?;
    let mut channel = chat::Chat::open(server.addr, MEMBERS, in_flight)?;
    let slice = |server: &Server, game: &mut dyn Game| -> io::Result<f64> {
        let before = server.cpu()?;
        let deliveries = game.play(plan.slice, &mut latencies())?;
        Ok((server.cpu()? - before).as_secs_f64() * 1e6 / deliveries as f64)
    };
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=plan.rounds {
        let mut turns = (Vec::new(), Vec::new());
        for _ in 0..plan.turns {
            turns.0.push(slice(&server, &mut channel)?);
            turns.1.push(slice(bare, &mut fanout)?);
        }
        // The first warms up.
        if round > 0 {
            let (chat, bare) = (Rounds::new(turns.0).median(), Rounds::new(turns.1).median());
            ours.push(chat);
            theirs.push(bare);
            ratios.push(chat / bare);
        }
    }
    Ok(Delivery { in_flight, chat: Rounds::new(ours), bare: Rounds::new(theirs), ratio: Rounds::new(ratios) })
}

/// Memory of registered clients that do nothing.
fn idle(plan: Plan) -> io::Result<(f64, usize)> {
    let server = start()?;
    let first = chat::register(server.addr, 0)?;
    std::thread::sleep(Duration::from_millis(300));
    let before = server.resident()?;
    let count = plan.idle / 2;
    let clients: Vec<_> = (1..=count).map(|n| chat::register(server.addr, n)).collect::<io::Result<_>>()?;
    std::thread::sleep(Duration::from_millis(300));
    let after = server.resident()?;
    drop((first, clients));
    Ok((after.saturating_sub(before) as f64 / count as f64, count))
}
