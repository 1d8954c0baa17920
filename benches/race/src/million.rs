//! What a million connections would need, on paper: the greatest crowd's figures carried on.

use std::fmt::Write as _;

use serde_json::Value;

use crate::peers::{ENGINE, REFERENCE};

const MILLION: f64 = 1e6;

/// A table, or nothing when the crowds were not measured.
pub fn render(report: &Value) -> Option<String> {
    let scale = &report["scale"];
    let point = scale["points"].as_array()?.last()?;
    let casts = scale["broadcasts"].as_array()?;
    let (small, great) = (casts.first()?, casts.last()?);
    let connections = point["connections"].as_f64()?;
    let receivers = great["receivers"].as_f64()?;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Measured with {connections:.0} connections and carried on in proportion; the second column is raw \
         epoll's.\n\n| of a million connections | {ENGINE} | {REFERENCE} | from |\n|---|---|---|---|"
    );
    let mut row = |what: &str, ours: String, theirs: String, from: String| {
        let _ = writeln!(text, "| {what} | {ours} | {theirs} | {from} |");
    };

    let bytes = |server: &str| point["bytes_each"][server].as_f64();
    if let (Some(ours), Some(theirs)) = (bytes(ENGINE), bytes(REFERENCE)) {
        let from = format!("{ours:.0} and {theirs:.0} B each, once used");
        row("memory of the server", size(ours), size(theirs), from);
    }
    if let Some(kernel) = point["kernel_bytes_each_end"].as_f64() {
        let from = format!(
            "{kernel:.0} B for an end that is at rest: slab and socket buffers of the whole machine ÷ the ends of \
             both servers' connections"
        );
        row("memory of the kernel for its ends", size(kernel), size(kernel), from);
    }
    for busy in point["busy"].as_array().into_iter().flatten() {
        let cpu = |server: &str| busy["cpu_us"][server]["median"].as_f64();
        let (Some(ours), Some(theirs), Some(percent)) =
            (cpu(ENGINE), cpu(REFERENCE), busy["percent"].as_f64())
        else {
            continue;
        };
        let share = percent / 100.0;
        row(
            &format!("a message of {percent:.0} % of them: processor time"),
            seconds(ours * share),
            seconds(theirs * share),
            format!("{ours:.1} and {theirs:.1} µs a message"),
        );
    }
    let cast = |server: &str, figure: &str| great[server][figure]["median"].as_f64();
    if let (Some(ours), Some(theirs)) = (cast(ENGINE, "cpu_us_each"), cast(REFERENCE, "cpu_us_each")) {
        let from = format!("{ours:.1} and {theirs:.1} µs a receiver");
        row("a message to all: processor time", seconds(ours), seconds(theirs), from);
    }
    let times = MILLION / receivers;
    for (what, figure) in [("until the last has it", "last_ms"), ("longest wait of one who asks", "wait_ms")]
    {
        if let (Some(ours), Some(theirs)) = (cast(ENGINE, figure), cast(REFERENCE, figure)) {
            let from = format!("{ours:.0} and {theirs:.0} ms with {receivers:.0}");
            let carried = |ms: f64| seconds(ms * times / 1e3);
            row(&format!("a message to all: {what}"), carried(ours), carried(theirs), from);
        }
    }
    let turn = |cast: &Value| cast["longest_turn_ms"].as_f64().zip(cast["receivers"].as_f64());
    if let (Some((less, few)), Some((more, many))) = (turn(small), turn(great)) {
        let slope = ((more - less) / (many - few)).max(0.0);
        let from =
            format!("{less:.1} ms with {few:.0} receivers, {more:.1} ms with {many:.0}: on a straight line");
        row("longest turn", format!("{:.0} ms", more + slope * (MILLION - many)), "–".to_owned(), from);
    }
    if let Some(keepalive) = unbroken::Config::default().keepalive {
        let rate = MILLION / keepalive.idle.as_secs_f64();
        let from = format!("one after {} s of silence, by the kernel's timers", keepalive.idle.as_secs());
        row("keepalive probes a second", format!("{rate:.0}"), "0".to_owned(), from);
    }
    Some(text)
}

fn size(bytes_each: f64) -> String {
    let mib = bytes_each * MILLION / f64::from(1 << 20);
    if mib >= 1024.0 {
        format!("{:.1} GiB", mib / 1024.0)
    } else {
        format!("{mib:.0} MiB")
    }
}

/// Of microseconds, a million times.
fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}
