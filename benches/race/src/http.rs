//! `wrk` against the example `http` and against hyper, which answer with the same file.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::peers::launch;
use crate::process::Server;
use crate::rounds::Rounds;
use crate::Plan;

/// The file that is asked for: some hundred bytes.
const CONTENT: &str = concat!(
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>A small page</title>",
    "<link rel=\"stylesheet\" href=\"style.css\"></head><body><h1>A small page</h1>",
    "<p>It is as long as a page is that holds little: some hundred bytes, which leave in one segment.</p>",
    "<p>Whoever asks for it asks again when it has come, on the same connection.</p></body></html>\n",
);

pub const CONNECTIONS: u32 = 50;

pub struct Outcome {
    /// Microseconds of the server's processor for each request, the example's and hyper's.
    pub ours: Rounds,
    pub theirs: Rounds,
    /// Ours by theirs, of the same round.
    pub ratio: Rounds,
    /// Requests a second. `wrk` keeps its one processor busy, so that they differ less.
    pub our_rate: Rounds,
    pub their_rate: Rounds,
}

/// The figure, or why there is none.
pub fn race(target: &Path, plan: Plan) -> Result<Outcome, String> {
    // It prints its version and ends with status 1.
    let found = Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map_err(|_| "wrk is not installed".to_owned())?;
    measure(target, plan).map_err(|error| format!("failed: {error}"))
}

fn measure(target: &Path, plan: Plan) -> io::Result<Outcome> {
    let folder = target.join("http");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("index.html"), CONTENT)?;
    let program = |name: &str| std::env::current_exe().map(|path| Command::new(path.with_file_name(name)));
    let ours = launch(program("race-http")?.arg("127.0.0.1:0").arg(&folder))?;
    let theirs = launch(program("race-peer")?.args(["hyper", "http"]).arg(&folder))?;
    for server in [&ours, &theirs] {
        check(server.addr)?;
    }
    let mut rounds = Vec::new();
    for round in 0..=plan.http_rounds {
        let (first, second) = if round % 2 == 0 { (&ours, &theirs) } else { (&theirs, &ours) };
        let (first, second) = (run(first)?, run(second)?);
        // The first warms up.
        if round > 0 {
            rounds.push(if round % 2 == 0 { (first, second) } else { (second, first) });
        }
    }
    Ok(Outcome {
        ours: Rounds::new(rounds.iter().map(|(ours, _)| ours.0)),
        theirs: Rounds::new(rounds.iter().map(|(_, theirs)| theirs.0)),
        ratio: Rounds::new(rounds.iter().map(|(ours, theirs)| ours.0 / theirs.0)),
        our_rate: Rounds::new(rounds.iter().map(|(ours, _)| ours.1)),
        their_rate: Rounds::new(rounds.iter().map(|(_, theirs)| theirs.1)),
    })
}

/// `wrk` looks at statuses only: here the content is compared.
fn check(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(b"GET /index.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(CONTENT) {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidData, format!("a wrong answer: {answer}"))),
    }
}

/// One run: microseconds of the server's processor for each request, and requests a second.
fn run(server: &Server) -> io::Result<(f64, f64)> {
    let before = server.cpu()?;
    let output = Command::new("wrk")
        .args(["--threads", "1", "--duration", "1s", "--connections", &CONNECTIONS.to_string()])
        .arg(format!("http://{}/index.html", server.addr))
        .stdin(Stdio::null())
        .output()?;
    let micros = (server.cpu()? - before).as_secs_f64() * 1e6;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str, place: usize| line.split_whitespace().nth(place)?.parse::<f64>().ok();
    let count = text.lines().find(|line| line.contains(" requests in ")).and_then(|line| number(line, 0));
    let rate = text.lines().find(|line| line.starts_with("Requests/sec:")).and_then(|line| number(line, 1));
    match (count, rate) {
        _ if text.contains("Non-2xx") || text.contains("Socket errors") => {
            Err(io::Error::new(ErrorKind::InvalidData, format!("wrk met errors: {text}")))
        }
        (Some(count), Some(rate)) if count > 0.0 => Ok((micros / count, rate)),
        _ => Err(io::Error::other(format!("wrk said nothing of its requests: {text}"))),
    }
}
