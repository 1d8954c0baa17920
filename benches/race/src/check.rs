//! Instructions and system calls for each message, held against stored figures: they depend on the
//! compiler and on nothing that happens on the machine meanwhile, so that growth is a change of ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{json, Map, Value};

use crate::callgrind;
use crate::count::{self, Tool};
use crate::load::Held;
use crate::peers::{self, Peer};
use crate::process::Server;

/// What may grow, and not more than by this share.
const GROWTH: f64 = 0.03;
/// Rounds of the two runs, the difference of which is without the start and the end.
const FEW: u64 = 20;
const MANY: u64 = 220;

/// The command that stores the figures anew.
pub const RENEW: &str = "cargo bench --bench race -- --check=renew";

struct Case {
    id: &'static str,
    role: &'static str,
    open: fn(&Server) -> io::Result<Held>,
}

const CASES: [Case; 3] = [
    Case { id: "echo_50", role: "echo", open: |server| Held::echo(server.addr, 50, 64, 1) },
    Case { id: "pipelined", role: "echo", open: |server| Held::echo(server.addr, 50, 16 * 64, 16) },
    Case { id: "fanout_100_many", role: "fanout", open: |server| Held::fanout(server.addr, 100, 16) },
];

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../baseline.json")
}

/// What the figures hold for.
fn toolchain() -> io::Result<Vec<(&'static str, String)>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).arg("--version").output()?;
    // SAFETY: it returns a string that lives as long as the program.
    let library = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    Ok(vec![
        ("compiler", String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        ("c_library", library.to_string_lossy().into_owned()),
        ("architecture", std::env::consts::ARCH.to_owned()),
    ])
}

/// Measures, and compares with the stored figures or stores these. Fails when one has grown.
pub fn run(renew: bool) -> io::Result<()> {
    let engine = peers::engine()?;
    let mut measured = Vec::new();
    for case in &CASES {
        let figures =
            [("instructions", instructions(&engine, case)?), ("system_calls", calls(&engine, case)?)];
        eprintln!(
            "{}: {:.1} instructions, {:.3} system calls a message",
            case.id, figures[0].1, figures[1].1
        );
        measured.push((case.id, figures));
    }
    if renew {
        let mut value = Map::new();
        value.insert("renewed_by".to_owned(), json!(RENEW));
        value.extend(toolchain()?.into_iter().map(|(what, version)| (what.to_owned(), json!(version))));
        let round = |value: f64| json!((value * 1e4).round() / 1e4);
        let rows = measured.iter().map(|(id, figures)| {
            let figures: Map<_, _> =
                figures.iter().map(|(what, n)| ((*what).to_owned(), round(*n))).collect();
            ((*id).to_owned(), Value::Object(figures))
        });
        value.insert("per_message".to_owned(), Value::Object(rows.collect()));
        fs::write(file(), format!("{:#}\n", Value::Object(value)))?;
        println!("stored in {}", file().canonicalize()?.display());
        return Ok(());
    }
    let stored: Value = serde_json::from_str(&fs::read_to_string(file())?).map_err(io::Error::other)?;
    let other: Vec<String> = toolchain()?
        .into_iter()
        .filter(|(what, version)| stored[*what].as_str() != Some(version.as_str()))
        .map(|(what, version)| format!("{what} {version}, stored with {}", stored[what]))
        .collect();
    let grown = compare(&measured, &stored);
    match (grown, other.is_empty()) {
        (0, true) => Ok(()),
        (grown, true) => Err(io::Error::other(format!(
            "grown by more than {:.0} %: {grown} of the figures above; if that is meant: {RENEW}",
            GROWTH * 100.0
        ))),
        (_, false) => {
            println!("No verdict, for the figures belong to another toolchain: {}.", other.join("; "));
            println!("Where they are taken anew: {RENEW}");
            Ok(())
        }
    }
}

/// Prints a line for each figure, and returns how many have grown too much.
pub fn compare(measured: &[(&str, [(&str, f64); 2])], stored: &Value) -> usize {
    println!("| scenario | a message | stored | now | change | |\n|---|---|---|---|---|---|");
    let mut count = 0;
    for (id, figures) in measured {
        for (what, now) in figures {
            let before = stored["per_message"][*id][*what].as_f64();
            let (before, verdict) = match before {
                None => ("–".to_owned(), "– | not stored yet".to_owned()),
                Some(before) => {
                    let change = now / before - 1.0;
                    let verdict = match change {
                        change if change > GROWTH => "**grown**",
                        change if change < -GROWTH => "less: worth storing",
                        _ => "",
                    };
                    count += usize::from(change > GROWTH);
                    (format!("{before:.3}"), format!("{:+.1} % | {verdict}", change * 100.0))
                }
            };
            println!("| {id} | {} | {before} | {now:.3} | {verdict} |", what.replace('_', " "));
        }
    }
    count
}

fn instructions(engine: &Peer, case: &Case) -> io::Result<f64> {
    let run = |rounds| {
        callgrind::collect(engine, &[case.role.to_owned()], |server| {
            (case.open)(server)?.play(server, rounds)
        })
    };
    let (few, many) = (run(FEW)?, run(MANY)?);
    Ok((many.1 as f64 - few.1 as f64) / (many.0 - few.0) as f64)
}

fn calls(engine: &Peer, case: &Case) -> io::Result<f64> {
    let server = engine.start(&[case.role.to_owned()], &[]).map_err(io::Error::other)?;
    let mut game = (case.open)(&server)?;
    game.play(&server, FEW)?;
    let counted = count::during(server.pid(), &[Tool::Strace], || game.play(&server, MANY))?;
    let (units, counts) = counted.ok_or_else(|| io::Error::other("strace is missing, or may not count"))?;
    Ok(counts.total as f64 / units as f64)
}
