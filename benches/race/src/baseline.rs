//! This run beside a stored one: what changed, and what of that is more than the rounds vary by.

use std::fmt::Write as _;

use serde_json::Value;

use crate::peers::ENGINE;

/// Figures without an interval have changed when they differ by more than this share.
const CHANGED: f64 = 0.03;

/// A figure of both runs.
struct Row {
    name: String,
    before: f64,
    now: f64,
    /// Whether the intervals do not meet.
    outside: bool,
}

/// The part of the report that says so.
pub fn compare(stored: &Value, new: &Value) -> String {
    let mut rows = Vec::new();
    for (id, scenario) in new["scenarios"].as_object().into_iter().flatten() {
        let cell = &scenario["peers"][ENGINE];
        let before = &stored["scenarios"][id]["peers"][ENGINE];
        for part in ["cpu_ratio", "system_calls_per_unit", "instructions_per_unit", "resident_bytes"] {
            walk(&format!("{id}: {part}"), &before[part], &cell[part], &mut rows);
        }
    }
    for part in ["idle", "tls_idle", "greedy", "emfile", "tls_storm"] {
        walk(part, &stored[part][ENGINE], &new[part][ENGINE], &mut rows);
    }
    for part in ["redis", "chat", "http", "cores", "scale", "latency"] {
        walk(part, &stored[part], &new[part], &mut rows);
    }
    let mut text = String::from("## Beside the stored run\n\n");
    let _ = writeln!(text, "Stored: {}\n", stored["machine"].as_str().unwrap_or("?"));
    if rows.is_empty() {
        text.push_str("They have no figure in common.\n\n");
        return text;
    }
    let outside = rows.iter().filter(|row| row.outside).count();
    let _ = writeln!(
        text,
        "{outside} of {} figures lie outside: their intervals (95 %) do not meet, or they have none and differ by \
         more than {:.0} %.\n",
        rows.len(),
        CHANGED * 100.0
    );
    text.push_str("| figure | stored | now | change | |\n|---|---|---|---|---|\n");
    for row in rows {
        let change = (row.now / row.before - 1.0) * 100.0;
        let mark = if row.outside { "**outside**" } else { "" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {change:+.1} % | {mark} |",
            row.name,
            digits(row.before),
            digits(row.now)
        );
    }
    text.push('\n');
    text
}

fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Everything that both have at the same place.
fn walk(name: &str, before: &Value, now: &Value, rows: &mut Vec<Row>) {
    let pair = |key: &str| before[key].as_f64().zip(now[key].as_f64());
    match (before, now) {
        (Value::Object(_), Value::Object(_)) if now["median"].is_number() => {
            let Some((before_median, median)) = pair("median") else { return };
            let interval = |value: &Value| {
                let bound = |n: usize| value["interval_95"][n].as_f64();
                bound(0).zip(bound(1))
            };
            let Some((old, new)) = interval(before).zip(interval(now)) else { return };
            let outside = new.0 > old.1 || new.1 < old.0;
            rows.push(Row { name: name.to_owned(), before: before_median, now: median, outside });
        }
        (Value::Object(before), Value::Object(now)) => {
            for (key, now) in now {
                // Percentiles of all rounds together vary by nobody knows how much.
                if let Some(before) = before.get(key).filter(|_| !key.contains("latency")) {
                    walk(&format!("{name}, {key}"), before, now, rows);
                }
            }
        }
        (Value::Array(before), Value::Array(now)) => {
            for now in now {
                let label = label(now);
                if let Some(before) = before.iter().find(|before| self::label(before) == label) {
                    walk(&format!("{name}, {label}"), before, now, rows);
                }
            }
        }
        (Value::Number(before), Value::Number(now)) => {
            let (Some(before), Some(now)) = (before.as_f64(), now.as_f64()) else { return };
            let label = LABELS.iter().any(|label| name.ends_with(label)) || name.ends_with("idle_clients");
            if !label && before != 0.0 {
                let outside = (now / before - 1.0).abs() > CHANGED;
                rows.push(Row { name: name.to_owned(), before, now, outside });
            }
        }
        _ => {}
    }
}

/// What tells the members of a list apart.
const LABELS: [&str; 7] = ["command", "pipeline", "in_flight", "connections", "percent", "receivers", "what"];

fn label(value: &Value) -> String {
    let parts = LABELS.iter().filter_map(|label| match &value[*label] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(format!("{} {value}", label.replace('_', " "))),
    });
    parts.collect::<Vec<_>>().join(" ")
}
