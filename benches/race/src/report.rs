//! The report for people.

use std::fmt::Write as _;

use crate::cores::Goal;
use crate::measure::{Cell, Data};
use crate::peers::{ENGINE, REFERENCE, SECURED_REFERENCE};
use crate::rounds::Rounds;
use crate::scenarios::Scenario;
use crate::{report_under_load, targets, Results, Special};

/// A row of a table: its head, and one cell for each peer.
type Row = (String, Vec<String>);

/// What the engine came to, for the progress.
pub fn summary(scenario: &Scenario, cells: &[Cell]) -> String {
    match cells.iter().find(|cell| cell.peer == ENGINE).map(|cell| &cell.outcome) {
        Some(Ok(engine)) if engine.ratio.len() == 0 => "no reference".to_owned(),
        Some(Ok(engine)) => format!(
            "{:.2} µs of processor per {}, {} of {}",
            engine.cpu.median(),
            scenario.unit,
            engine.ratio.show_interval(),
            scenario.reference(),
        ),
        Some(Err(why)) => why.clone(),
        None => "without the engine".to_owned(),
    }
}

fn ratio(rounds: &Rounds) -> String {
    rounds.show(2, "")
}

/// A number with as many digits as say something.
fn number(value: f64) -> String {
    match value {
        v if !v.is_finite() => "–".to_owned(),
        v if v >= 100_000.0 => format!("{:.0} k", v / 1000.0),
        v if v >= 1000.0 => format!("{:.1} k", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn table(text: &mut String, corner: &str, peers: &[&str], rows: &[Row]) {
    let _ = writeln!(text, "| {corner} | {} |", peers.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(peers.len()));
    for (head, cells) in rows {
        let _ = writeln!(text, "| {head} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

/// One row for each scenario.
fn scenario_rows(results: &Results, show: impl Fn(&Scenario, &str, &Data) -> Option<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (scenario, cells) in &results.scenarios {
        let shown: Vec<Option<String>> = cells
            .iter()
            .map(|cell| cell.outcome.as_ref().ok().and_then(|data| show(scenario, cell.peer, data)))
            .collect();
        if shown.iter().any(Option::is_some) {
            let head = format!("{}, per {}", scenario.title, scenario.unit);
            rows.push((head, shown.into_iter().map(|cell| cell.unwrap_or("–".to_owned())).collect()));
        }
    }
    rows
}

fn special_row<T>(head: &str, results: &Results, list: &Special<T>, show: impl Fn(&T) -> String) -> Row {
    let cell = |peer: &&str| match list.iter().find(|(name, _)| name == peer) {
        Some((_, Ok(figure))) => show(figure),
        _ => "–".to_owned(),
    };
    (head.to_owned(), results.peers.iter().map(cell).collect())
}

pub fn render(results: &Results) -> String {
    let mut text = String::from("# The race\n\n");
    let _ = writeln!(text, "{}\n", results.machine);
    let care = match results.plan.quick {
        true => "A short run: take the full one for a verdict. ",
        false => "",
    };
    let _ = writeln!(
        text,
        "{care}Each cell is the median of {} rounds, with the least and the greatest. In a round the peers take \
         {} turns of {} ms, the median of which counts, and ratios are taken within the round. The server has \
         one processor, the load the other. Where the ranges of two cells overlap widely, neither is ahead. \
         Took {:.0} s.\n",
        results.plan.rounds,
        results.plan.turns,
        results.plan.slice.as_millis(),
        results.took.as_secs_f64(),
    );
    verdicts(&mut text, results);
    scenarios(&mut text, results);
    specials(&mut text, results);
    redis(&mut text, results);
    chat(&mut text, results);
    http(&mut text, results);
    report_under_load::scale(&mut text, results.scale.as_ref());
    report_under_load::latency(&mut text, results.latency.as_ref());
    absent(&mut text, results);
    text
}

fn verdicts(text: &mut String, results: &Results) {
    let targets = targets::judge(results);
    if targets.is_empty() {
        return;
    }
    text.push_str("## What the engine must reach\n\n| what | measured | must be | |\n|---|---|---|---|\n");
    for target in targets {
        let verdict = if target.met { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {} | {} | {} | {verdict} |", target.what, target.measured, target.must);
    }
    text.push('\n');
    let compared = results.cores.iter().flatten().flatten().filter(|verdict| verdict.goal == Goal::None);
    for verdict in compared {
        let _ = writeln!(text, "For comparison: {}: {}.\n", verdict.what, verdict.ratio.show_interval());
    }
}

fn scenarios(text: &mut String, results: &Results) {
    if results.scenarios.is_empty() {
        return;
    }
    text.push_str("## Server processor time, as a ratio to raw epoll of the same round\n\n");
    let rows = scenario_rows(results, |scenario, peer, data| match peer {
        REFERENCE => Some(format!("{} µs", number(data.cpu.median()))),
        _ => (!scenario.tls).then(|| ratio(&data.ratio)),
    });
    table(text, "scenario", &results.peers, &rows);
    let rows = scenario_rows(results, |scenario, peer, data| match peer {
        SECURED_REFERENCE if scenario.tls => Some(format!("{} µs", number(data.cpu.median()))),
        _ => scenario.tls.then(|| ratio(&data.ratio)),
    });
    if !rows.is_empty() {
        text.push_str("Under TLS, as a ratio to tokio and tokio-rustls, tuned:\n\n");
        table(text, "scenario", &results.peers, &rows);
    }

    let mut part = |title: &str, show: &dyn Fn(&Data) -> Option<String>| {
        let rows = scenario_rows(results, |_, _, data| show(data));
        if !rows.is_empty() {
            let _ = writeln!(text, "## {title}\n");
            table(text, "scenario", &results.peers, &rows);
        }
    };
    part("Server processor time in microseconds: all (in user space)", &|data| {
        let all = data.cpu.median();
        Some(format!(
            "{} ({})",
            number(all),
            data.user_share.map_or("?".to_owned(), |share| number(all * share))
        ))
    });
    part("System calls", &|data| Some(format!("{:.3}", data.calls.as_ref()?.per_unit)));
    part("Instructions in user space", &|data| Some(number(data.instructions?)));
    part("Units a second", &|data| Some(number(data.rate.median())));
    part("Latency in microseconds, p50 / p99 / p99.9", &|data| {
        let at = |share| number(data.latencies.value_at_quantile(share) as f64 / 1000.0);
        (!data.latencies.is_empty()).then(|| format!("{} / {} / {}", at(0.5), at(0.99), at(0.999)))
    });
    part("Resident memory of the server in MiB", &|data| {
        Some(format!("{:.1}", data.resident as f64 / f64::from(1 << 20)))
    });
    calls(text, results);
}

/// Which system calls they were, for the engine and the reference.
fn calls(text: &mut String, results: &Results) {
    let mut lines = String::new();
    for (scenario, cells) in &results.scenarios {
        for cell in cells.iter().filter(|cell| cell.peer == ENGINE || cell.peer == scenario.reference()) {
            if let Some(calls) = cell.outcome.as_ref().ok().and_then(|data| data.calls.as_ref()) {
                let _ =
                    writeln!(lines, "- {}, {} ({}): {}", scenario.title, cell.peer, calls.tool, calls.detail);
            }
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "Which calls:\n\n{lines}");
    }
}

fn specials(text: &mut String, results: &Results) {
    let mut rows = Vec::new();
    if !results.idle.is_empty() {
        let many = results.plan.idle;
        let row = |head: String, show: &dyn Fn(&crate::special::IdleCost) -> String| {
            special_row(&head, results, &results.idle, show)
        };
        rows.push(row(format!("{many} idle: bytes of memory each"), &|idle| number(idle.fresh)));
        rows.push(row(format!("{many} idle: the same once used"), &|idle| number(idle.used)));
        rows.push(row(format!("echo beside {many} idle, µs of processor"), &|idle| number(idle.cpu)));
        rows.push(row(format!("echo beside {many} idle, p50 / p99 µs"), &|idle| {
            let at = |share| number(idle.latencies.value_at_quantile(share) as f64 / 1000.0);
            format!("{} / {}", at(0.5), at(0.99))
        }));
    }
    if !results.greedy.is_empty() {
        let row = |head: &str, show: &dyn Fn(&crate::special::GreedyCost) -> String| {
            special_row(head, results, &results.greedy, show)
        };
        rows.push(row("10 that never read: messages/s of 50 healthy", &|greedy| {
            number(greedy.rate.median())
        }));
        rows.push(row("… ÷ the same without them", &|greedy| ratio(&greedy.ratio)));
        rows.push(row("… growth of the server's memory, MiB", &|greedy| {
            format!("{:.1}", greedy.growth as f64 / f64::from(1 << 20))
        }));
    }
    if !results.emfile.is_empty() {
        let row = |head: &str, show: &dyn Fn(&crate::special::Famine) -> String| {
            special_row(head, results, &results.emfile, show)
        };
        rows.push(row("out of descriptors: share of a processor", &|famine| format!("{:.2}", famine.busy)));
        rows.push(row("… recovery, ms", &|famine| number(famine.recovery.as_secs_f64() * 1e3)));
    }
    if !results.tls_idle.is_empty() {
        let row = |head: &str, show: &dyn Fn(&crate::special::IdleCost) -> String| {
            special_row(head, results, &results.tls_idle, show)
        };
        rows.push(row("TLS, idle: bytes of memory each", &|idle| number(idle.fresh)));
        rows.push(row("… the same once used", &|idle| number(idle.used)));
    }
    if !results.tls_storm.is_empty() {
        let row = |head: &str, show: &dyn Fn(&crate::tls::Storm) -> String| {
            special_row(head, results, &results.tls_storm, show)
        };
        let p99 =
            |latencies: &crate::load::Latencies| number(latencies.value_at_quantile(0.99) as f64 / 1000.0);
        rows.push(row("TLS, echo of 50, p99 µs: alone / beside 1,000 handshakes", &|storm| {
            format!("{} / {}", p99(&storm.calm), p99(&storm.stormy))
        }));
        rows.push(row("… their ratio in a round", &|storm| ratio(&storm.ratio)));
        rows.push(row("… how long the handshakes lasted, ms", &|storm| {
            number(storm.lasted.as_secs_f64() * 1e3)
        }));
    }
    if !rows.is_empty() {
        text.push_str("## Crowds, clients that never read, and want of descriptors\n\n");
        table(text, "scenario", &results.peers, &rows);
    }
}

fn redis(text: &mut String, results: &Results) {
    let Some(outcome) = &results.redis else { return };
    text.push_str("## `redis-benchmark -c 50`: the example `resp` and `redis-server`\n\n");
    match outcome {
        Err(why) => {
            let _ = writeln!(text, "Not measured: {why}.\n");
        }
        Ok(redis) => {
            text.push_str(
                "| command | resp, requests/s | redis-server, requests/s | ratio | resp, µs of processor | \
                 redis-server, µs | ratio |\n|---|---|---|---|---|---|---|\n",
            );
            for row in &redis.rows {
                let _ = writeln!(
                    text,
                    "| {} -P {} | {} | {} | {} | {:.2} | {:.2} | {} |",
                    row.command,
                    row.depth,
                    number(row.ours.median()),
                    number(row.theirs.median()),
                    row.ratio.show_interval(),
                    row.our_cpu.median(),
                    row.their_cpu.median(),
                    row.cpu_ratio.show_interval(),
                );
            }
            text.push_str(
                "\nThe benchmark is one thread on one processor, and busy: of servers that are faster than it, the \
                 requests a second differ little.\n\n",
            );
        }
    }
}

fn chat(text: &mut String, results: &Results) {
    let Some(outcome) = &results.chat else { return };
    text.push_str("## The chat server\n\n");
    let _ = match outcome {
        Err(why) => writeln!(text, "Not measured: {why}.\n"),
        Ok(chat) => {
            for delivery in &chat.deliveries {
                let _ = writeln!(
                    text,
                    "Delivery of a line of 64 B to 1,000 members of a channel, {} at a time: {:.2} µs of processor, \
                     {} of the bare engine's fan-out in as many pieces.\n",
                    delivery.in_flight,
                    delivery.chat.median(),
                    ratio(&delivery.ratio),
                );
            }
            writeln!(text, "{} idle clients: {:.0} B of memory each.\n", chat.clients, chat.idle)
        }
    };
}

fn http(text: &mut String, results: &Results) {
    let Some(outcome) = &results.http else { return };
    let _ = writeln!(text, "## `wrk -c {}`: the example `http` and hyper\n", crate::http::CONNECTIONS);
    let _ = match outcome {
        Err(why) => writeln!(text, "Not measured: {why}.\n"),
        Ok(http) => writeln!(
            text,
            "A file of some hundred bytes, connections kept, server processor time for a request: {:.2} µs, hyper \
             {:.2} µs, ratio {}; {} requests a second, hyper {}. `wrk` is one thread on one processor, and busy.\n",
            http.ours.median(),
            http.theirs.median(),
            ratio(&http.ratio),
            number(http.our_rate.median()),
            number(http.their_rate.median()),
        ),
    };
}

/// Why a cell is empty, or an entry is missing.
fn absent(text: &mut String, results: &Results) {
    let scenarios = results.scenarios.iter().flat_map(|(scenario, cells)| {
        cells
            .iter()
            .filter_map(|cell| Some((cell.peer, scenario.title, cell.outcome.as_ref().err()?.as_str())))
    });
    fn failures<'a, T>(
        title: &'static str,
        list: &'a Special<T>,
    ) -> impl Iterator<Item = (&'static str, &'static str, &'a str)> {
        list.iter().filter_map(move |(peer, outcome)| Some((*peer, title, outcome.as_ref().err()?.as_str())))
    }
    let all: Vec<(&str, &str, &str)> = scenarios
        .chain(failures("idle connections", &results.idle))
        .chain(failures("TLS, idle connections", &results.tls_idle))
        .chain(failures("TLS, handshakes at once", &results.tls_storm))
        .chain(failures("clients that never read", &results.greedy))
        .chain(failures("out of descriptors", &results.emfile))
        .collect();
    if all.is_empty() {
        return;
    }
    text.push_str("## What is missing, and why\n\n");
    let mut told = Vec::new();
    for (peer, _, why) in &all {
        let (peer, why) = (*peer, *why);
        if told.contains(&(peer, why)) {
            continue;
        }
        told.push((peer, why));
        let titles: Vec<&str> =
            all.iter().filter(|entry| (entry.0, entry.2) == (peer, why)).map(|entry| entry.1).collect();
        let what = if titles.len() > 8 { "everything".to_owned() } else { titles.join("; ") };
        let _ = writeln!(text, "- {peer}: {why} ({what})");
    }
}
