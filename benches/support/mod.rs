//! What the figures share: the arguments, the order of events, the closing table.

mod cost;
mod count;
mod fairness;
mod load;
mod memory;
// The race uses it as well, and other parts of it; so with `rounds`.
#[allow(dead_code)]
mod process;
mod quiet;
mod raw_mio;
#[allow(dead_code)]
mod rounds;
mod servers;
mod table;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use self::table::{Row, Table};

/// How much care is taken.
#[derive(Clone, Copy)]
pub struct Plan {
    pub quick: bool,
}

impl Plan {
    /// The one number or the other.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick {
            quick
        } else {
            full
        }
    }
}

/// A figure: a row or two of the table.
struct Figure {
    name: &'static str,
    what: &'static str,
    measure: fn(Plan) -> io::Result<Vec<Row>>,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "echo_cpu",
        what: "server CPU per message, against a hand-written mio echo",
        measure: cost::echo_cpu,
    },
    Figure {
        name: "coalescing",
        what: "system calls for 16 sends in one callback",
        measure: cost::coalescing,
    },
    Figure { name: "syscalls", what: "system calls per echo, 1,000 connections", measure: cost::syscalls },
    Figure { name: "idle_memory", what: "memory per idle connection", measure: memory::idle },
    Figure { name: "wakeups", what: "wake-ups while 1,000 connections wait", measure: quiet::wakeups },
    Figure { name: "unread_memory", what: "memory for clients that never read", measure: memory::unread },
    Figure { name: "fairness", what: "latency beside clients that misbehave", measure: fairness::latency },
];

pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role] = args.as_slice() {
        if flag == "--role" {
            return finish(servers::run(role));
        }
    }
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and only wants to know
    // whether this starts.
    if args.iter().any(|arg| arg == "--test") || !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is measured without `cargo bench`");
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg == "--list") {
        for figure in FIGURES {
            println!("{:14} {}", figure.name, figure.what);
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let chosen: Vec<&Figure> = FIGURES
        .iter()
        .filter(|figure| wanted.is_empty() || wanted.iter().any(|name| figure.name.contains(name.as_str())))
        .collect();
    if chosen.is_empty() {
        eprintln!("no figure has such a name; `cargo bench -- --list` tells them");
        return ExitCode::FAILURE;
    }
    finish(measure(&chosen, Plan { quick: args.iter().any(|arg| arg == "--quick") }))
}

fn measure(chosen: &[&Figure], plan: Plan) -> io::Result<()> {
    let begun = Instant::now();
    process::raise_descriptor_limit()?;
    process::pin(process::Side::Load)?;
    let mut table = Table::default();
    for (n, figure) in chosen.iter().enumerate() {
        eprintln!("[{}/{}] {}: {}", n + 1, chosen.len(), figure.name, figure.what);
        let begun = Instant::now();
        // What cannot be measured here must not hide what can.
        let rows = (figure.measure)(plan).unwrap_or_else(|error| vec![Row::failed(figure.what, &error)]);
        eprintln!("    {:.1} s", begun.elapsed().as_secs_f64());
        table.add(figure.name, rows);
    }
    print!("{}", table.render(&process::machine(), begun.elapsed(), plan));
    match table.has_failures() {
        true => Err(io::Error::other("a measurement went wrong: see the table")),
        false => Ok(()),
    }
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}
