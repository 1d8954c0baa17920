//! Redis' own yardstick: `redis-benchmark` against the example `resp` and against `redis-server`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers::{launch, spawn};
use crate::process::Server;
use crate::rounds::Rounds;
use crate::Plan;

pub const COMMANDS: [&str; 3] = ["PING", "GET", "SET"];
pub const DEPTHS: [u32; 2] = [1, 16];

/// One command at one pipeline depth.
pub struct Row {
    pub command: &'static str,
    pub depth: u32,
    /// Requests a second.
    pub ours: Rounds,
    pub theirs: Rounds,
    /// Ours by theirs, of the same round.
    pub ratio: Rounds,
}

/// Everything there is to tell.
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Microseconds of the server's processor for each request, by pipeline depth: ours, theirs.
    /// The benchmark itself keeps its one processor busy, so that the requests a second of two
    /// servers that are both faster than it differ little.
    pub cpu: Vec<(u32, Rounds, Rounds)>,
}

/// `redis-server`, which tells its readiness in its own way.
fn start_redis() -> io::Result<Server> {
    // It has to be told a port; this one was free a moment ago.
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--loglevel", "warning"]).arg("--port").arg(addr.port().to_string());
    let server = Server::running(addr, spawn(&mut command)?);
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(addr).is_err() {
        if Instant::now() > deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "redis-server did not start"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// One run of `redis-benchmark`: requests a second of each of [`COMMANDS`].
fn benchmark(addr: SocketAddr, depth: u32, requests: u64) -> io::Result<Vec<f64>> {
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &addr.port().to_string(), "-t", "ping_mbulk,get,set", "-c", "50"])
        .args(["-P", &depth.to_string(), "-n", &requests.to_string(), "--csv"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = |command: &&str| {
        let line = text.lines().find(|line| line.starts_with(&format!("\"{command}")))?;
        line.split(',').nth(1)?.trim_matches('"').parse().ok()
    };
    COMMANDS
        .iter()
        .map(|command| {
            rate(command)
                .ok_or_else(|| io::Error::other(format!("redis-benchmark said nothing of {command}")))
        })
        .collect()
}

/// All rows, or why there are none.
pub fn race(plan: Plan) -> Result<Outcome, String> {
    for program in ["redis-server", "redis-benchmark"] {
        let found =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|_| format!("{program} is not installed"))?;
    }
    measure(plan).map_err(|error| format!("failed: {error}"))
}

fn measure(plan: Plan) -> io::Result<Outcome> {
    let program = std::env::current_exe()?.with_file_name("race-resp");
    let ours = launch(Command::new(program).arg("127.0.0.1:0").stderr(Stdio::null()))?;
    let theirs = start_redis()?;
    let (mut rows, mut cpu) = (Vec::new(), Vec::new());
    for depth in DEPTHS {
        let requests = plan.requests * if depth == 1 { 1 } else { 5 };
        let mut pairs: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
        let (mut our_cpu, mut their_cpu) = (Vec::new(), Vec::new());
        for round in 0..plan.redis_rounds {
            let run = |server: &Server, cpu: &mut Vec<f64>| -> io::Result<Vec<f64>> {
                let before = server.cpu()?;
                let rates = benchmark(server.addr, depth, requests)?;
                let micros = (server.cpu()? - before).as_secs_f64() * 1e6;
                cpu.push(micros / (requests * COMMANDS.len() as u64) as f64);
                Ok(rates)
            };
            pairs.push(match round % 2 {
                0 => (run(&ours, &mut our_cpu)?, run(&theirs, &mut their_cpu)?),
                _ => {
                    let theirs = run(&theirs, &mut their_cpu)?;
                    (run(&ours, &mut our_cpu)?, theirs)
                }
            });
        }
        cpu.push((depth, Rounds::new(our_cpu), Rounds::new(their_cpu)));
        for (n, command) in COMMANDS.into_iter().enumerate() {
            rows.push(Row {
                command,
                depth,
                ours: Rounds::new(pairs.iter().map(|(ours, _)| ours[n])),
                theirs: Rounds::new(pairs.iter().map(|(_, theirs)| theirs[n])),
                ratio: Rounds::new(pairs.iter().map(|(ours, theirs)| ours[n] / theirs[n])),
            });
        }
    }
    Ok(Outcome { rows, cpu })
}
