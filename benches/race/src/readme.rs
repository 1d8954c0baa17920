//! The race's tables in README and NOTES, made of the stored report: no figure in them is typed.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::peers::{ENGINE, REFERENCE};
use crate::{json, million};

/// The peers that README has columns for.
const PEERS: [&str; 8] =
    [REFERENCE, ENGINE, "raw mio", "tokio tuned", "tokio taught", "libevent", "libuv", "uvloop"];
const SECURED_PEERS: [&str; 4] = [ENGINE, "tokio tuned", "tokio taught", "libevent"];
const PLOTS: [&str; 2] = ["cpu.svg", "scale.svg"];

/// Shows the README's section, or writes it, the tables of NOTES and the plots where they belong.
pub fn run(target: &Path, write: bool) -> io::Result<()> {
    let report = json::load(&target.join("report.json"))?;
    let section = section(&report);
    if !write {
        println!("{section}");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    replace(&root.join("README.md"), "the race", &section)?;
    let notes = root.join("benches/NOTES.md");
    replace(&notes, "the targets", &targets(&report, |_| true))?;
    if let Some(million) = million::render(&report) {
        replace(&notes, "a million", &million)?;
    }
    for plot in PLOTS.iter().filter(|plot| target.join(plot).is_file()) {
        fs::copy(target.join(plot), root.join("benches/plots").join(plot))?;
    }
    println!("written to README.md, benches/NOTES.md and benches/plots");
    Ok(())
}

fn replace(file: &Path, name: &str, text: &str) -> io::Result<()> {
    let put = put(&fs::read_to_string(file)?, name, text);
    fs::write(
        file,
        put.ok_or_else(|| io::Error::other(format!("{} has no place for {name}", file.display())))?,
    )
}

/// `page` with `text` between its lines `<!-- NAME -->` and `<!-- NAME: end -->`.
pub fn put(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- {name}: end -->"));
    let (head, rest) = page.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{}\n\n{end}{tail}", text.trim()))
}

fn section(report: &Value) -> String {
    let mut text = String::new();
    let care = match report["quick"].as_bool() {
        Some(true) => "**A short run, to see that it works: no verdict.** ",
        _ => "",
    };
    let _ = writeln!(
        text,
        "{care}Server processor time as a ratio to a minimal hand-written epoll server's of the same round: the median, \
         less is better, the best in bold; the engine's with the 95 % interval. The last column says whether the \
         engine is level with raw epoll.\n"
    );
    scenarios(&mut text, report, false);
    text.push_str("Under TLS 1.3, as a ratio to tokio with tokio-rustls, tuned; what has to be reached stands last:\n\n");
    scenarios(&mut text, report, true);
    absolute(&mut text, report);
    scale(&mut text, report);
    redis(&mut text, report);
    rest(&mut text, report);
    let all = report["targets"].as_array().map_or(0, Vec::len);
    let missed = |target: &Value| target["met"] == false;
    let count = report["targets"].as_array().into_iter().flatten().filter(|target| missed(target)).count();
    let _ = writeln!(text, "Of {all} goals {count} are **not met**{}\n", if count == 0 { "." } else { ":" });
    if count > 0 {
        text.push_str(&targets(report, missed));
    }
    let _ = writeln!(
        text,
        "\n{}; {} rounds, {} min. What differs by less than 0.05 is alike.",
        report["machine"].as_str().unwrap_or("?"),
        report["rounds"],
        report["seconds"].as_u64().unwrap_or(0).div_ceil(60),
    );
    text
}

/// A number with as many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => format!("{:.1} k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn interval(rounds: &Value) -> String {
    let bound = |n: usize| rounds["interval_95"][n].as_f64().unwrap_or(f64::NAN);
    format!("[{:.2}–{:.2}]", bound(0), bound(1))
}

/// A line of cells, the least of which is bold. What is shown beside a value stays as it is.
fn line(text: &mut String, head: &str, cells: &[Option<(f64, String, String)>], tail: &str) {
    let shown = |cell: &(f64, String, String)| cell.1.clone();
    let least = cells.iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0)).map(shown);
    let cells = cells.iter().map(|cell| match cell {
        None => "–".to_owned(),
        Some((_, value, beside)) if Some(value) == least.as_ref() => format!("**{value}**{beside}"),
        Some((_, value, beside)) => format!("{value}{beside}"),
    });
    let _ = writeln!(text, "| {head} | {}{tail} |", cells.collect::<Vec<_>>().join(" | "));
}

fn heads(text: &mut String, corner: &str, peers: &[&str], last: Option<&str>) {
    let names = peers.iter().copied().chain(last).collect::<Vec<_>>();
    let _ = writeln!(text, "| {corner} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
}

/// Those of `peers` that have a figure in some scenario.
fn present<'a>(report: &Value, peers: &[&'a str]) -> Vec<&'a str> {
    let scenarios = || report["scenarios"].as_object().into_iter().flatten();
    let has =
        |peer: &&str| scenarios().any(|(_, one)| one["peers"][*peer]["cpu_ratio"]["median"].is_number());
    peers.iter().copied().filter(has).collect()
}

/// One line a scenario.
fn scenarios(text: &mut String, report: &Value, secured: bool) {
    let peers = present(report, if secured { &SECURED_PEERS } else { &PEERS });
    heads(text, "scenario", &peers, Some(if secured { "must be" } else { "level?" }));
    for (id, scenario) in report["scenarios"].as_object().into_iter().flatten() {
        if id.starts_with("tls_") != secured {
            continue;
        }
        let (title, reference) = (scenario["title"].as_str().unwrap_or(id), &scenario["reference"]);
        let cell = |peer: &&str| {
            let data = &scenario["peers"][*peer];
            let ratio = data["cpu_ratio"]["median"].as_f64()?;
            let beside = match *peer {
                peer if reference == peer => {
                    format!(" ({} µs)", number(data["cpu_us_per_unit"]["median"].as_f64()?))
                }
                ENGINE => format!(" {}", interval(&data["cpu_ratio"])),
                _ => String::new(),
            };
            Some((ratio, number(ratio), beside))
        };
        let goal = format!("{title}: processor time ÷ ");
        let goal = report["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|target| target["what"].as_str().is_some_and(|what| what.starts_with(&goal)));
        let verdict = match goal {
            None => "–".to_owned(),
            Some(goal) => {
                let met = if goal["met"] == true { "yes" } else { "**no**" };
                let must = goal["must"].as_str().unwrap_or("").replace("median ", "");
                if secured {
                    format!("{must}: {met}")
                } else {
                    met.to_owned()
                }
            }
        };
        let cells: Vec<_> = peers.iter().map(cell).collect();
        line(text, title, &cells, &format!(" | {verdict}"));
    }
    text.push('\n');
}

/// Figures that are not ratios, one line each.
fn absolute(text: &mut String, report: &Value) {
    let peers = present(report, &PEERS);
    text.push_str("In figures of their own, less is better:\n\n");
    heads(text, "what", &peers, None);
    let mut row = |head: &str, figure: &dyn Fn(&str) -> Option<f64>| {
        let cell = |peer: &&str| figure(peer).map(|value| (value, number(value), String::new()));
        let cells: Vec<_> = peers.iter().map(cell).collect();
        if cells.iter().any(Option::is_some) {
            line(text, head, &cells, "");
        }
    };
    let idle = &report["idle"];
    let head = format!("bytes for each of {} idle connections, once used", idle[ENGINE]["connections"]);
    row(&head, &|peer| idle[peer]["bytes_used"].as_f64());
    row("MiB for 10 clients that send and never read", &|peer| {
        Some(report["greedy"][peer]["growth_bytes"].as_f64()? / f64::from(1 << 20))
    });
    let cell = |id: &str, peer: &str| report["scenarios"][id]["peers"][peer].clone();
    row("system calls an echo (50 connections)", &|peer| {
        cell("echo_50", peer)["system_calls_per_unit"]["total"].as_f64()
    });
    row("instructions an echo (50 connections)", &|peer| {
        cell("echo_50", peer)["instructions_per_unit"].as_f64()
    });
    row("instructions a delivery (fan-out to 100, 16 in flight)", &|peer| {
        cell("fanout_100_many", peer)["instructions_per_unit"].as_f64()
    });
    for load in report["latency"]["loads"].as_array().into_iter().flatten() {
        for (quantile, _) in crate::latency::QUANTILES {
            let head = format!("{quantile} in µs at {} % of raw epoll's capacity", load["percent"]);
            row(&head, &|peer| load["peers"][peer][quantile]["us"]["median"].as_f64());
        }
    }
    text.push('\n');
}

fn scale(text: &mut String, report: &Value) {
    let Some(points) = report["scale"]["points"].as_array() else { return };
    text.push_str("As connections become many, the ratio to raw epoll:\n\n| connections |");
    for point in points {
        let _ = write!(text, " {} |", point["connections"]);
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(points.len()));
    let busy = points.first().and_then(|point| point["busy"].as_array()).map_or(0, Vec::len);
    for n in 0..busy {
        let _ = write!(text, "| {} % of them busy |", points[0]["busy"][n]["percent"]);
        for point in points {
            let ratio = &point["busy"][n]["ratio"];
            let _ = write!(
                text,
                " {} {} |",
                number(ratio["median"].as_f64().unwrap_or(f64::NAN)),
                interval(ratio)
            );
        }
        text.push('\n');
    }
    text.push_str("| bytes each |");
    for point in points {
        let bytes = point["bytes_each"][ENGINE].as_f64();
        let _ = write!(text, " {} |", bytes.map_or("–".to_owned(), number));
    }
    text.push_str("\n\n![As connections become many](benches/plots/scale.svg)\n\n");
}

fn redis(text: &mut String, report: &Value) {
    let Some(rows) = report["redis"]["rows"].as_array() else { return };
    text.push_str(
        "The example `resp` under `redis-benchmark -c 50`, as a ratio to redis-server:\n\n\
         | command | requests a second (more is better) | processor time a request (less is better) |\n|---|---|---|\n",
    );
    for row in rows {
        let ratio = |name: &str, more: f64| {
            let rounds = &row[name];
            let median = rounds["median"].as_f64().unwrap_or(f64::NAN);
            let bold = if (median - 1.0) * more > 0.0 { "**" } else { "" };
            format!("{bold}{}{bold} {}", number(median), interval(rounds))
        };
        let command = row["command"].as_str().unwrap_or("?");
        let _ = writeln!(
            text,
            "| {command} -P {} | {} | {} |",
            row["pipeline"],
            ratio("ratio", 1.0),
            ratio("cpu_ratio", -1.0)
        );
    }
    text.push('\n');
}

/// Ratios to others that have a row of their own.
fn rest(text: &mut String, report: &Value) {
    let cores =
        report["cores"].as_array().into_iter().flatten().filter_map(|verdict| verdict["what"].as_str());
    let cores: Vec<&str> = cores.collect();
    let own = |target: &Value| {
        let what = target["what"].as_str().unwrap_or("");
        what.starts_with("chat,") || what.starts_with("http,") || cores.contains(&what)
    };
    let table = targets(report, own);
    if !table.is_empty() {
        let _ = writeln!(text, "On several cores, between pipes, and of two examples:\n\n{table}");
    }
    for verdict in report["cores"].as_array().into_iter().flatten() {
        if let Some(compared) = verdict["compared"].as_str() {
            let _ =
                writeln!(text, "For comparison: {}: {compared}.\n", verdict["what"].as_str().unwrap_or(""));
        }
    }
}

/// A table of some of the goals, or nothing.
fn targets(report: &Value, which: impl Fn(&Value) -> bool) -> String {
    let mut text = String::new();
    for target in report["targets"].as_array().into_iter().flatten().filter(|target| which(target)) {
        if text.is_empty() {
            text.push_str("| what | measured | must be | |\n|---|---|---|---|\n");
        }
        let part = |name: &str| target[name].as_str().unwrap_or("?");
        let verdict = if target["met"] == true { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {} | {} | {} | {verdict} |", part("what"), part("measured"), part("must"));
    }
    text
}
