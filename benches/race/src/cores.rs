//! What several cores bring and cost, and an echo between two pipes. Server and load share all processors
//! here, so that figures compare within a run only: the servers take turns, and ratios are of one round.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{latencies, Arrivals, Churn, Echo, Fanout, Game, Latencies, Shape};
use crate::peers::spawn_beside;
use crate::process::{self, Server, Side, LISTENING};
use crate::rounds::Rounds;
use crate::special::text;
use crate::Plan;

/// A ratio that has to be reached.
pub struct Verdict {
    pub what: &'static str,
    pub ratio: Rounds,
    pub goal: Goal,
}

/// What the median of a ratio has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Measured for comparison.
    None,
}

struct Contender {
    server: Server,
    game: Box<dyn Game>,
}

type Opening = fn(SocketAddr) -> io::Result<Box<dyn Game>>;

impl Contender {
    fn start(peer: &str, role: &str, threads: usize, open: Opening) -> io::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("race-peer");
        let mut command = Command::new(program);
        command.args([peer, role, &threads.to_string()]).stderr(Stdio::null());
        let server = Server::announced(spawn_beside(&mut command)?, LISTENING)?;
        let mut game = open(server.addr)?;
        game.play(Duration::from_millis(20), &mut latencies())?;
        Ok(Self { server, game })
    }

    /// Units a second, and microseconds of the server's processor time for each.
    fn slice(&mut self, time: Duration) -> io::Result<(f64, f64)> {
        let (cpu, begun) = (self.server.cpu()?, Instant::now());
        let units = self.game.play(time, &mut latencies())? as f64;
        let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), self.server.cpu()? - cpu);
        Ok((units / elapsed, cpu.as_secs_f64() * 1e6 / units))
    }
}

fn thousand(addr: SocketAddr) -> io::Result<Box<dyn Game>> {
    let shape = Shape { connections: 500, length: 64, messages: 1, arrivals: Arrivals::Closed };
    OnBoth::open(move || Echo::open(addr, shape, &None))
}

fn churn(addr: SocketAddr) -> io::Result<Box<dyn Game>> {
    OnBoth::open(move || Churn::open(addr, 8, &None))
}

/// Clients on two threads: with one, whatever is served on two processors would wait for its clients.
struct OnBoth<G> {
    here: G,
    to: Sender<Duration>,
    from: Receiver<io::Result<(u64, Latencies)>>,
}

impl<G: Game + 'static> OnBoth<G> {
    fn open(half: impl Fn() -> io::Result<G> + Clone + Send + 'static) -> io::Result<Box<dyn Game>> {
        let (to, tasks) = mpsc::channel::<Duration>();
        let (outcomes, from) = mpsc::channel();
        let open = half.clone();
        thread::spawn(move || {
            let mut there = open();
            for time in tasks {
                let mut latencies = latencies();
                let units = there.as_mut().map_err(|error| io::Error::other(error.to_string()));
                let units = units.and_then(|there| there.play(time, &mut latencies));
                if outcomes.send(units.map(|units| (units, latencies))).is_err() {
                    break;
                }
            }
        });
        Ok(Box::new(Self { here: half()?, to, from }))
    }
}

impl<G: Game> Game for OnBoth<G> {
    fn play(&mut self, time: Duration, latencies: &mut Latencies) -> io::Result<u64> {
        let gone = || io::Error::other("half of the clients are gone");
        self.to.send(time).map_err(|_| gone())?;
        let here = self.here.play(time, latencies)?;
        let (there, theirs) = self.from.recv().map_err(|_| gone())??;
        latencies.add(theirs).map_err(io::Error::other)?;
        Ok(here + there)
    }
}

fn fanout(addr: SocketAddr) -> io::Result<Box<dyn Game>> {
    Ok(Box::new(Fanout::open(addr, 1000, 0, 16, &None)?))
}

/// Rates and processor times of each round, for each contender.
fn rounds(contenders: &mut [Contender], plan: Plan) -> io::Result<Vec<Vec<(f64, f64)>>> {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let mut turns = vec![Vec::new(); contenders.len()];
        for _ in 0..plan.turns {
            for (contender, turns) in contenders.iter_mut().zip(&mut turns) {
                turns.push(contender.slice(plan.slice * 2)?);
            }
        }
        let median = |turns: &Vec<(f64, f64)>| {
            let rate = Rounds::new(turns.iter().map(|(rate, _)| *rate)).median();
            (rate, Rounds::new(turns.iter().map(|(_, cpu)| *cpu)).median())
        };
        rounds.push(turns.iter().map(median).collect());
    }
    Ok(rounds)
}

pub fn race(plan: Plan) -> Result<Vec<Verdict>, String> {
    process::unpin().map_err(text)?;
    let verdicts = measure(plan).map_err(text);
    process::pin(Side::Load).map_err(text)?;
    verdicts
}

fn measure(plan: Plan) -> io::Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let mut push = |what, ratios: Vec<f64>, goal| {
        verdicts.push(Verdict { what, ratio: Rounds::new(ratios), goal });
    };
    let several = |peer: &str, role: &str, threads, open| Contender::start(peer, role, threads, open);

    let mut echo = [
        several("several-unbroken", "echo", 2, thousand)?,
        several("several-tokio", "echo", 2, thousand)?,
        several("several-epoll", "echo", 2, thousand)?,
        several("several-unbroken", "echo", 1, thousand)?,
    ];
    let all = rounds(&mut echo, plan)?;
    let rate = |other: usize| all.iter().map(|round| round[0].0 / round[other].0).collect();
    push(
        "echo 64 B × 1,000, group of 2: messages/s ÷ tokio's multi-thread runtime",
        rate(1),
        Goal::AtLeast(1.05),
    );
    push(
        "echo 64 B × 1,000, group of 2: messages/s ÷ two raw epoll loops with SO_REUSEPORT",
        rate(2),
        Goal::AtLeast(0.95),
    );
    let cpu = all.iter().map(|round| round[0].1 / round[3].1).collect();
    push(
        "echo 64 B × 1,000, group of 2: processor time a message ÷ a single reactor",
        cpu,
        Goal::AtMost(1.05),
    );
    drop(echo);

    for (what, role, open, limit) in [
        (
            "connect, echo, close through the hand-out: processor time ÷ a single reactor",
            "echo",
            churn as Opening,
            1.25,
        ),
        (
            "broadcast to 1,000 over 2 reactors: processor time a delivery ÷ one",
            "fanout",
            fanout as Opening,
            1.10,
        ),
    ] {
        let mut pair =
            [several("several-unbroken", role, 2, open)?, several("several-unbroken", role, 1, open)?];
        let all = rounds(&mut pair, plan)?;
        push(what, all.iter().map(|round| round[0].1 / round[1].1).collect(), Goal::AtMost(limit));
    }

    // As servers and loads are everywhere else that have a processor each.
    push(
        "pipe echo 64 B: processor time ÷ raw poll, read and write",
        pipe_ratios(Side::Server, plan)?,
        Goal::AtMost(1.05),
    );
    push(
        "pipe echo 64 B, both ends on one processor, so that no other is woken",
        pipe_ratios(Side::Load, plan)?,
        Goal::None,
    );
    Ok(verdicts)
}

/// Processor times of ours by those of raw, with the programs on one processor and this one on that of the
/// load. What it costs to wake another processor differs from one round to the next, and from one start
/// of a program to the next.
fn pipe_ratios(side: Side, plan: Plan) -> io::Result<Vec<f64>> {
    let mut ratios = Vec::new();
    for _ in 0..4 {
        process::pin(side)?;
        let mut pipes = [Pipe::start("unbroken")?, Pipe::start("raw")?];
        process::pin(Side::Load)?;
        for round in 0..plan.rounds {
            let mut cost = [0.0; 2];
            for n in [round % 2, 1 - round % 2] {
                cost[n] = pipes[n].play(2000)?;
            }
            ratios.push(cost[0] / cost[1]);
        }
    }
    Ok(ratios)
}

/// A program between two pipes.
struct Pipe {
    server: Server,
    input: ChildStdin,
    output: ChildStdout,
}

impl Pipe {
    fn start(peer: &str) -> io::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("race-peer");
        let mut child = spawn_beside(Command::new(program).args([peer, "pipe"]).stderr(Stdio::null()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let missing = || io::Error::other("no pipe");
        let server = Server::running(([127, 0, 0, 1], 0).into(), child);
        let mut pipe =
            Self { server, input: input.ok_or_else(missing)?, output: output.ok_or_else(missing)? };
        pipe.play(100)?;
        Ok(pipe)
    }

    /// Processor time of each message, there and back.
    fn play(&mut self, messages: u32) -> io::Result<f64> {
        let cpu = self.server.cpu()?;
        let (message, mut answer) = ([7; 64], [0; 64]);
        for _ in 0..messages {
            self.input.write_all(&message)?;
            self.output.read_exact(&mut answer)?;
        }
        Ok((self.server.cpu()? - cpu).as_secs_f64() / f64::from(messages))
    }
}
