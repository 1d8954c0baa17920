//! What is raced: each scenario is one table row, or two.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::load::{Arrivals, Churn, Echo, Fanout, Game, Proxy, Shape};
use crate::peers::{REFERENCE, SECURED_REFERENCE};
use crate::tls;
use crate::Plan;

/// What the clients do.
#[derive(Clone, Copy)]
pub enum Play {
    Echo(Shape),
    Churn,
    Fanout { subscribers: usize, silent: usize, in_flight: usize },
    Proxy,
}

pub struct Scenario {
    pub id: &'static str,
    pub title: &'static str,
    /// What is counted, in the singular.
    pub unit: &'static str,
    pub play: Play,
    /// System calls are counted.
    pub calls: bool,
    /// Instructions are counted.
    pub instructions: bool,
    /// All of it goes through TLS 1.3.
    pub tls: bool,
}

const fn echo(connections: usize, length: usize, messages: u64) -> Play {
    Play::Echo(Shape { connections, length, messages, arrivals: Arrivals::Closed })
}

const fn fanout(subscribers: usize, silent: usize, in_flight: usize) -> Play {
    Play::Fanout { subscribers, silent, in_flight }
}

const fn scenario(id: &'static str, title: &'static str, unit: &'static str, play: Play) -> Scenario {
    Scenario { id, title, unit, play, calls: false, instructions: false, tls: false }
}

impl Scenario {
    const fn counted(self, instructions: bool) -> Self {
        Self { calls: true, instructions, ..self }
    }

    const fn secured(self) -> Self {
        Self { tls: true, ..self }
    }

    /// The peer whose processor time is 1.
    pub fn reference(&self) -> &'static str {
        if self.tls {
            SECURED_REFERENCE
        } else {
            REFERENCE
        }
    }

    /// What a server has to be started as, and the game against it.
    pub fn set_up(&self) -> io::Result<(Vec<String>, Opening)> {
        let tls = tls::client(self.tls)?;
        let (role, opening): (&str, Opening) = match self.play {
            Play::Echo(shape) => ("echo", Box::new(move |addr| Ok(Box::new(Echo::open(addr, shape, &tls)?)))),
            Play::Churn => ("echo", Box::new(move |addr| Ok(Box::new(Churn::open(addr, 16, &tls)?)))),
            Play::Fanout { subscribers, silent, in_flight } => {
                let open = move |addr| -> io::Result<Box<dyn Game>> {
                    let mut game = Fanout::open(addr, subscribers, silent, in_flight, &tls)?;
                    if silent > 0 {
                        game.set_patience(Duration::from_secs(2));
                    }
                    Ok(Box::new(game))
                };
                ("fanout", Box::new(open))
            }
            Play::Proxy => {
                let mut proxy = Proxy::listen()?;
                let role = vec!["proxy".to_owned(), proxy.upstream()?.to_string()];
                let open = move |addr| -> io::Result<Box<dyn Game>> {
                    proxy.open(addr)?;
                    Ok(Box::new(proxy))
                };
                return Ok((role, Box::new(open)));
            }
        };
        Ok((tls::role(role, self.tls), opening))
    }
}

/// Messages a second of the open loop: about a fifth of what the reference can do.
const OPEN_RATE: u64 = 20_000;

pub const SCENARIOS: &[Scenario] = &[
    scenario("echo_1", "echo 64 B, 1 connection", "message", echo(1, 64, 1)).counted(false),
    scenario("echo_50", "echo 64 B, 50 connections", "message", echo(50, 64, 1)).counted(true),
    scenario("echo_1000", "echo 64 B, 1,000 connections", "message", echo(1000, 64, 1)).counted(false),
    scenario("pipelined", "pipelined, 16 × 64 B, 50 connections", "message", echo(50, 1024, 16))
        .counted(false),
    scenario("echo_4k", "echo 4 KiB, 50 connections", "message", echo(50, 4096, 1)),
    scenario("stream", "blocks of 1 MiB, 2 connections", "block", echo(2, 1 << 20, 1)),
    scenario(
        "echo_open",
        "echo 64 B, 50 connections, open loop, 20,000/s",
        "message",
        Play::Echo(Shape { connections: 50, length: 64, messages: 1, arrivals: Arrivals::Open(OPEN_RATE) }),
    ),
    scenario("churn", "connect, echo, close", "connection", Play::Churn).counted(false),
    scenario("fanout_100_one", "fan-out to 100, one at a time", "delivery", fanout(100, 0, 1)),
    scenario("fanout_100_many", "fan-out to 100, 16 in flight", "delivery", fanout(100, 0, 16)).counted(true),
    scenario("fanout_1000_one", "fan-out to 1,000, one at a time", "delivery", fanout(1000, 0, 1)),
    scenario("fanout_1000_many", "fan-out to 1,000, 16 in flight", "delivery", fanout(1000, 0, 16))
        .counted(false),
    scenario("fanout_silent", "fan-out to 100, 10 more never read", "delivery", fanout(100, 10, 16)),
    scenario("proxy", "proxy, a fast sender to a slow reader", "megabyte", Play::Proxy),
    scenario("tls_echo", "TLS: echo 64 B, 50 connections", "message", echo(50, 64, 1))
        .counted(true)
        .secured(),
    scenario("tls_stream", "TLS: blocks of 1 MiB, 2 connections", "block", echo(2, 1 << 20, 1))
        .counted(false)
        .secured(),
    scenario("tls_fanout", "TLS: fan-out to 100, 16 in flight", "delivery", fanout(100, 0, 16))
        .counted(true)
        .secured(),
    scenario("tls_churn", "TLS: connect, full handshake, echo, close", "connection", Play::Churn)
        .counted(false)
        .secured(),
];

/// The beginning of a game, once the server's address is known.
pub type Opening = Box<dyn FnOnce(SocketAddr) -> io::Result<Box<dyn Game>>>;

impl Play {
    /// How many turns a round has, and how long each peer's slice of one is.
    pub fn turns(self, plan: Plan) -> (usize, Duration) {
        match self {
            // A proxied megabyte takes long and varies little, and what the kernel holds has to
            // drain after each slice.
            Self::Proxy => (1, plan.slice * 2),
            _ => (plan.turns, plan.slice),
        }
    }
}
