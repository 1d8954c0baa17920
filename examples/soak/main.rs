//! cargo run --release --example soak -- --seconds 60
//!
//! A soak on the real kernel. The server under test, a process of its own (`server.rs`), is used
//! for hours if asked (`--seconds`, 60) by thousands of clients at a time (`--clients`, 2000), which
//! share no code with the engine (`client.rs`). Some are good; the others reset, freeze, flood,
//! never read, leave at once and so on, as the seed has it (`--seed`; `script.rs`). Now and then
//! the server runs out of file descriptors.
//!
//! It prints a line a second, and at the end an audit (`ledger.rs`). Every good client got every
//! byte in order, and what each client saw agrees with the close report of its connection; then
//! the server is back where it began: no connection, no queued byte, no descriptor more. The status
//! is 0, or 1 when anything was lost or leaked. An interrupt ends the load early.

mod client;
mod ledger;
mod load;
mod process;
mod script;
mod server;
mod wire;

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ledger::Ledger;
use crate::load::Load;
use crate::process::{Line, Server};
use crate::wire::Rng;

/// Descriptors besides those of the clients.
const SPARE_DESCRIPTORS: usize = 100;

/// How long it may take until the last client is gone and reported.
const TAIL: Duration = Duration::from_secs(60);

/// How much more memory than ever during the warm-up the server may hold when all are gone.
const SLACK: u64 = 16 << 20;

struct Options {
    server: bool,
    seconds: u64,
    clients: usize,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let mut options = Options { server: false, seconds: 60, clients: 2000, seed: clock % 1_000_000 };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
        let number = || match value.parse::<u64>() {
            Ok(number) => Ok(number),
            Err(_) => Err(format!("{name}: {value:?} is no number")),
        };
        match name.as_str() {
            "--seconds" => options.seconds = number()?,
            "--clients" => options.clients = number()? as usize,
            "--seed" => options.seed = number()?,
            // How the program starts itself as the server.
            "--role" if value == "server" => options.server = true,
            _ => return Err(format!("{name}: no such option; there are --seconds, --clients, --seed")),
        }
    }
    let limit = process::raise_descriptor_limit().map_err(|error| error.to_string())?;
    match options.clients {
        0 => Err("--clients must be at least 1".to_owned()),
        many if many.saturating_add(SPARE_DESCRIPTORS) > limit => {
            Err(format!("--clients {many}: a process may have {limit} descriptors here"))
        }
        _ => Ok(options),
    }
}

fn main() -> ExitCode {
    let result = match options() {
        Ok(options) if options.server => server::run(options.clients, options.seed).map(|()| true),
        Ok(options) => soak(&options),
        Err(message) => {
            let _ = writeln!(io::stderr(), "soak: {message}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A line for whoever reads; who reads no further has seen enough.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

struct Soak {
    server: Server,
    load: Load,
    ledger: Ledger,
    stats: HashMap<String, u64>,
    end: HashMap<String, u64>,
    begun: Instant,
    said: u64,
    exhaustions: u64,
}

/// Runs the soak. Returns whether all was well.
fn soak(options: &Options) -> io::Result<bool> {
    say(&format!("seed {}; {} clients for {} s", options.seed, options.clients, options.seconds));
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone())?;
    let server = Server::start(options.clients, options.seed)?;
    let base = server.descriptors()?;
    let mut soak = Soak {
        load: Load::new(server.addr, options.seed)?,
        server,
        ledger: Ledger::default(),
        stats: HashMap::new(),
        end: HashMap::new(),
        begun: Instant::now(),
        said: 0,
        exhaustions: 0,
    };
    let warm = soak.run(options, &interrupted)?;
    soak.drain()?;
    let resident = soak.audit(base, warm)?;
    soak.summarize(resident, warm);
    Ok(soak.ledger.wrong == 0)
}

impl Soak {
    /// The load. Returns the most memory that the server held during the warm-up, a quarter of it.
    fn run(&mut self, options: &Options, interrupted: &AtomicBool) -> io::Result<u64> {
        let mut rng = Rng::new(!options.seed);
        let length = Duration::from_secs(options.seconds);
        let mut exhaust_at = Duration::from_secs(3);
        let mut restore_at = None;
        let mut warm = 0;
        while self.begun.elapsed() < length && !interrupted.load(Ordering::Relaxed) {
            self.pass(options.clients)?;
            let elapsed = self.begun.elapsed();
            if elapsed > exhaust_at {
                self.server.exhaust_descriptors()?;
                self.exhaustions += 1;
                restore_at = Some(elapsed + Duration::from_millis(rng.between(100, 1000)));
                exhaust_at = elapsed + Duration::from_millis(rng.between(5000, 15_000));
            }
            if restore_at.is_some_and(|at| elapsed > at) {
                self.server.restore_descriptors()?;
                restore_at = None;
            }
            if self.second()? && elapsed < length / 4 {
                warm = warm.max(self.server.resident()?);
            }
        }
        self.server.restore_descriptors()?;
        Ok(warm)
    }

    /// No new clients: waits until the last is gone and the server says that it has none.
    fn drain(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + TAIL;
        let over = |soak: &Self| {
            soak.load.present() == 0
                && soak.ledger.unreported() == 0
                && soak.stats.get("connections") == Some(&0)
        };
        // The server speaks once a second: what it said before the last client left is too old.
        self.stats.clear();
        while !over(self) && Instant::now() < deadline {
            self.pass(0)?;
            self.second()?;
        }
        Ok(())
    }

    fn pass(&mut self, wanted: usize) -> io::Result<()> {
        self.load.pass(wanted, &mut self.ledger)?;
        self.listen();
        match self.server.ended()? {
            Some(status) => Err(io::Error::other(format!("the server is gone: {status}"))),
            None => Ok(()),
        }
    }

    /// Takes in what the server has said.
    fn listen(&mut self) {
        while let Ok(line) = self.server.lines.try_recv() {
            self.take_in(line);
        }
    }

    fn take_in(&mut self, line: Result<Line, String>) {
        match line {
            Ok(Line::Closed(report)) => self.ledger.reported(load::number(report.peer), report),
            Ok(Line::Stats(stats)) => self.stats = stats,
            Ok(Line::End(end)) => self.end = end,
            Err(line) => self.ledger.complain(format!("the server said {line:?}")),
        }
    }

    /// Says how things stand, once a second. Returns whether it did.
    fn second(&mut self) -> io::Result<bool> {
        let elapsed = self.begun.elapsed().as_secs();
        if elapsed == self.said {
            return Ok(false);
        }
        self.said = elapsed;
        let reasons: Vec<_> = self.ledger.reasons.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        say(&format!(
            "{elapsed:4} s: {} connections of {}, {} messages, {} faults, {} wrong | {} | rss {} MiB, {} fds",
            self.load.present(),
            self.load.started,
            self.load.messages,
            self.load.bad + self.exhaustions,
            self.ledger.wrong,
            reasons.join(", "),
            self.server.resident()? >> 20,
            self.server.descriptors()?,
        ));
        Ok(true)
    }

    /// Everybody is gone: the server must be as it was. Then it is ended, and its books are
    /// compared. Returns the memory that it held.
    fn audit(&mut self, base: usize, warm: u64) -> io::Result<u64> {
        let (descriptors, resident) = (self.server.descriptors()?, self.server.resident()?);
        let (present, unreported) = (self.load.present(), self.ledger.unreported());
        let connections = self.stats.get("connections").copied();
        let queued = self.stats.get("queued").copied();
        let mut check = |holds: bool, what: String| {
            if !holds {
                self.ledger.complain(what);
            }
        };
        check(present == 0, format!("{present} clients are not done"));
        check(unreported == 0, format!("the connections of {unreported} clients were not reported"));
        check(connections == Some(0), format!("leaked: the server has {connections:?} connections"));
        check(queued == Some(0), format!("leaked: the server has {queued:?} bytes queued"));
        check(descriptors == base, format!("leaked: {descriptors} descriptors, at first there were {base}"));
        check(
            resident <= warm + SLACK,
            format!("leaked: {} MiB resident, after the warm-up {}", resident >> 20, warm >> 20),
        );
        let status = self.server.stop(Duration::from_secs(10))?;
        check(
            status.is_some_and(|status| status.success()),
            format!("SIGTERM: the server ended with {status:?}"),
        );
        // The last of what it said, up to the end of its output.
        while let Ok(line) = self.server.lines.recv_timeout(Duration::from_secs(1)) {
            self.take_in(line);
        }
        self.ledger.close(&self.stats, &self.end);
        Ok(resident)
    }

    fn summarize(&self, resident: u64, warm: u64) {
        let Self { load, ledger, stats, .. } = self;
        let stat = |name: &str| stats.get(name).copied().unwrap_or(0);
        say("");
        for (behaviour, count) in &ledger.behaviours {
            say(&format!("{count:>9}  {behaviour:?}{}", if behaviour.is_good() { " (good)" } else { "" }));
        }
        say("");
        for (reason, count) in &ledger.reasons {
            say(&format!("{count:>9}  {reason}"));
        }
        say(&format!(
            "\n{} connections, {} reported and judged, {} gone before they were taken in; {} good clients served",
            load.started, ledger.judged, ledger.unknown, ledger.served
        ));
        say(&format!(
            "{} messages; {} MiB in, {} MiB out, {} partial writes, {} met a cap, {} MiB queued at most",
            load.messages,
            stat("bytes_in") >> 20,
            stat("bytes_out") >> 20,
            stat("partial_writes"),
            stat("overflows"),
            stat("queued_peak") >> 20,
        ));
        say(&format!(
            "{} MiB reported as unsent and {} MiB as unacknowledged, all of them of clients that asked for it",
            ledger.unsent >> 20,
            ledger.unacked >> 20,
        ));
        say(&format!(
            "{} times out of descriptors, {} pauses of accepting; longest turn {} ms; {} MiB resident at the end, {} after the warm-up",
            self.exhaustions,
            stat("accept_pauses"),
            stat("longest_turn_us") / 1000,
            resident >> 20,
            warm >> 20,
        ));
        for complaint in &ledger.complaints {
            say(&format!("WRONG: {complaint}"));
        }
        match ledger.wrong {
            0 => say("nothing lost, nothing leaked"),
            wrong => say(&format!("{wrong} WRONG")),
        }
    }
}
