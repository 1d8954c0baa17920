//! The report's parts on scale and on latency under load.

use std::fmt::Write as _;

use crate::latency::{self, QUANTILES};
use crate::peers::REFERENCE;
use crate::scale;

pub fn scale(text: &mut String, outcome: Option<&Result<scale::Outcome, String>>) {
    let Some(outcome) = outcome else { return };
    text.push_str("## As connections become many\n\n");
    let scale = match outcome {
        Ok(scale) => scale,
        Err(why) => {
            let _ = writeln!(text, "Not measured: {why}.\n");
            return;
        }
    };
    text.push_str(
        "Server processor time for a message, and memory for each connection once used:\n\n\
         | connections | busy | raw epoll | unbroken | ratio | bytes each, raw epoll | unbroken | kernel, each end \
         |\n|---|---|---|---|---|---|---|---|\n",
    );
    for point in &scale.points {
        let bytes = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.0}"));
        for busy in &point.busy {
            let _ = writeln!(
                text,
                "| {} | {} % | {:.2} µs | {:.2} µs | {} | {} | {} | {} |",
                point.connections,
                busy.percent,
                busy.cpu[0].median(),
                busy.cpu[1].median(),
                busy.ratio.show_interval(),
                bytes(point.memory.map(|memory| memory[0])),
                bytes(point.memory.map(|memory| memory[1])),
                bytes(point.kernel),
            );
        }
    }
    text.push_str(
        "\nA message to a crowd that does nothing else: until the last has it, what one client waits who asks \
         meanwhile, processor time for each receiver, and the engine's longest turn since its start:\n\n\
         | receivers | server | last, ms | longest wait, ms | µs each | longest turn, ms |\n|---|---|---|---|---|---|\n",
    );
    for cast in &scale.broadcasts {
        for (n, cost) in cast.servers.iter().enumerate() {
            let (name, turn) = match n {
                0 => (REFERENCE, "–".to_owned()),
                _ => ("unbroken", format!("{:.1}", cast.longest_turn.as_secs_f64() * 1e3)),
            };
            let _ = writeln!(
                text,
                "| {} | {name} | {} | {} | {:.2} | {turn} |",
                cast.receivers,
                cost.last.show(1, ""),
                cost.wait.show(1, ""),
                cost.cpu.median(),
            );
        }
    }
    text.push('\n');
}

pub fn latency(text: &mut String, outcome: Option<&Result<latency::Outcome, String>>) {
    let Some(outcome) = outcome else { return };
    text.push_str("## Latency under load\n\n");
    let latency = match outcome {
        Ok(latency) => latency,
        Err(why) => {
            let _ = writeln!(text, "Not measured: {why}.\n");
            return;
        }
    };
    let _ = writeln!(
        text,
        "Messages become due by a schedule, and latency counts from then. Raw epoll's capacity: {:.0} messages a \
         second in a closed loop. Microseconds, and the ratio to raw epoll's of the same round:\n",
        latency.capacity.median()
    );
    let heads: Vec<String> = QUANTILES.iter().map(|(name, _)| format!("{name} | ratio")).collect();
    let _ = writeln!(text, "| load | server | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|---|".repeat(QUANTILES.len()));
    for load in &latency.loads {
        for (peer, outcome) in &load.peers {
            let cells: Vec<String> = match outcome {
                Ok(tails) => tails
                    .iter()
                    .map(|tail| format!("{:.0} | {}", tail.micros.median(), tail.ratio.show_interval()))
                    .collect(),
                Err(why) => vec![format!("{why} |"); QUANTILES.len()],
            };
            let _ = writeln!(text, "| {} % | {peer} | {} |", load.percent, cells.join(" | "));
        }
    }
    text.push('\n');
}
