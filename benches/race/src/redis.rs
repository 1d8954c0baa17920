//! Redis' own yardstick: `redis-benchmark` against the example `resp` and against `redis-server`.

use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers::{launch, spawn};
use crate::process::Server;
use crate::rounds::Rounds;
use crate::Plan;

/// What is asked, and how `redis-benchmark` is told so.
const COMMANDS: [(&str, &str); 4] =
    [("PING", "ping_mbulk"), ("GET", "get"), ("SET", "set"), ("INCR", "incr")];
const DEPTHS: [u32; 2] = [1, 16];

/// One command at one pipeline depth.
pub struct Row {
    pub command: &'static str,
    pub depth: u32,
    /// Requests a second.
    pub ours: Rounds,
    pub theirs: Rounds,
    /// Ours by theirs, of the same round.
    pub ratio: Rounds,
    /// Microseconds of the server's processor for each request, and ours by theirs. The benchmark
    /// itself keeps its one processor busy, so that the requests a second of two servers that are
    /// both faster than it differ little.
    pub our_cpu: Rounds,
    pub their_cpu: Rounds,
    pub cpu_ratio: Rounds,
}

/// Everything there is to tell.
pub struct Outcome {
    pub rows: Vec<Row>,
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

/// One run of `redis-benchmark`: requests a second, and microseconds of the server's processor for each.
fn benchmark(server: &Server, test: (&str, &str), depth: u32, requests: u64) -> io::Result<(f64, f64)> {
    let (command, name) = test;
    let before = server.cpu()?;
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &server.addr.port().to_string(), "-t", name, "-c", "50"])
        .args(["-P", &depth.to_string(), "-n", &requests.to_string(), "--csv"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let micros = (server.cpu()? - before).as_secs_f64() * 1e6;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with(&format!("\"{command}")));
    let rate = line.and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok());
    let rate = rate.ok_or_else(|| io::Error::other(format!("redis-benchmark said nothing of {command}")));
    Ok((rate?, micros / requests as f64))
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
    let mut rows = Vec::new();
    for depth in DEPTHS {
        let requests = plan.requests * if depth == 1 { 1 } else { 5 };
        for test in COMMANDS {
            let mut pairs = Vec::new();
            for round in 0..plan.redis_rounds {
                let run = |server| benchmark(server, test, depth, requests);
                pairs.push(match round % 2 {
                    0 => (run(&ours)?, run(&theirs)?),
                    _ => {
                        let theirs = run(&theirs)?;
                        (run(&ours)?, theirs)
                    }
                });
            }
            rows.push(row(test.0, depth, &pairs));
        }
    }
    Ok(Outcome { rows })
}

/// What [`benchmark`] found of both, ours first, in one round.
type Pair = ((f64, f64), (f64, f64));

fn row(command: &'static str, depth: u32, pairs: &[Pair]) -> Row {
    let all = |figure: fn(&Pair) -> f64| Rounds::new(pairs.iter().map(figure));
    Row {
        command,
        depth,
        ours: all(|(ours, _)| ours.0),
        theirs: all(|(_, theirs)| theirs.0),
        ratio: all(|(ours, theirs)| ours.0 / theirs.0),
        our_cpu: all(|(ours, _)| ours.1),
        their_cpu: all(|(_, theirs)| theirs.1),
        cpu_ratio: all(|(ours, theirs)| ours.1 / theirs.1),
    }
}
