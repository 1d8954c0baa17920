//! What the figures rest on.

use std::time::Duration;

use serde_json::{json, Value};

use crate::rounds::Rounds;
use crate::{baseline, check, json, latency, million, readme};

#[test]
fn the_median_of_an_even_number_lies_between_the_middle_two() {
    assert_eq!(Rounds::new([4.0, 1.0, 3.0, 2.0]).median(), 2.5);
    assert_eq!(Rounds::new([3.0, 1.0, 2.0]).median(), 2.0);
}

#[test]
fn the_interval_of_fifteen_rounds_leaves_out_three_on_either_side() {
    // The tables of the sign test have it so: 15 values, the 4th and the 12th, 96.5 %.
    assert_eq!(Rounds::new((1..=15).map(f64::from)).interval(), (4.0, 12.0));
}

#[test]
fn few_rounds_give_the_whole_range() {
    assert_eq!(Rounds::new([1.0, 2.0, 3.0]).interval(), (1.0, 3.0));
}

fn rounds(median: f64, low: f64, high: f64) -> Value {
    json!({ "median": median, "interval_95": [low, high] })
}

#[test]
fn a_schedule_has_the_rate_that_was_asked_for_and_is_the_same_each_time() {
    let schedule = latency::schedule(50_000.0, Duration::from_secs(2), 3);
    assert!((98_000..102_000).contains(&schedule.len()), "{}", schedule.len());
    assert!(schedule.is_sorted());
    assert_eq!(schedule, latency::schedule(50_000.0, Duration::from_secs(2), 3));
    assert_ne!(schedule, latency::schedule(50_000.0, Duration::from_secs(2), 4));
}

#[test]
fn a_figure_lies_outside_when_the_intervals_do_not_meet() {
    let stored = json!({ "http": { "cpu_ratio": rounds(0.8, 0.7, 0.9) }, "machine": "m" });
    let compare = |now| baseline::compare(&stored, &json!({ "http": { "cpu_ratio": now } }));
    assert!(compare(rounds(1.0, 0.95, 1.1)).contains("+25.0 % | **outside** |"));
    assert!(compare(rounds(1.0, 0.85, 1.1)).contains("+25.0 % |  |"));
}

#[test]
fn members_of_a_list_are_compared_by_what_they_are_called() {
    let row = |command: &str, median: f64| json!({ "command": command, "ratio": rounds(median, 0.0, 9.0) });
    let stored = json!({ "redis": { "rows": [row("GET", 1.0), row("SET", 2.0)] } });
    let text = baseline::compare(&stored, &json!({ "redis": { "rows": [row("SET", 3.0)] } }));
    assert!(text.contains("SET, ratio | 2.000 | 3.000 | +50.0 %"), "{text}");
    assert!(!text.contains("GET"), "{text}");
}

#[test]
fn more_than_three_percent_more_is_growth_and_less_is_not() {
    let stored = json!({ "per_message": { "echo_50": { "instructions": 1000.0, "system_calls": 2.0 } } });
    let grown = |instructions, calls| {
        check::compare(&[("echo_50", [("instructions", instructions), ("system_calls", calls)])], &stored)
    };
    assert_eq!(grown(1029.0, 2.05), 0);
    assert_eq!(grown(1031.0, 2.05), 1);
    assert_eq!(grown(1031.0, 2.07), 2);
    assert_eq!(grown(500.0, 1.0), 0);
}

#[test]
fn what_was_not_measured_again_stays_in_a_merged_report() {
    let target = |what: &str, met: bool| json!({ "what": what, "must": "≤ 1", "met": met });
    let old = json!({
        "seconds": 10, "scenarios": { "echo_50": 1, "churn": 2 }, "http": { "a": 1 }, "idle": {},
        "targets": [target("a", false), target("b", false)],
    });
    let mut new = json!({
        "seconds": 5, "scenarios": { "churn": 3 }, "http": null, "idle": { "x": 1 },
        "targets": [target("b", true), target("c", true)],
    });
    json::merge(&mut new, old);
    assert_eq!(new["seconds"], 15);
    assert_eq!(new["scenarios"], json!({ "echo_50": 1, "churn": 3 }));
    assert_eq!((&new["http"], &new["idle"]), (&json!({ "a": 1 }), &json!({ "x": 1 })));
    assert_eq!(new["targets"], json!([target("a", false), target("b", true), target("c", true)]));
}

#[test]
fn a_section_is_put_between_its_marks_and_nothing_else_changes() {
    let page = "before\n<!-- a -->\nold\n<!-- a: end -->\nafter\n";
    let put = readme::put(page, "a", "new\n").unwrap();
    assert_eq!(put, "before\n<!-- a -->\n\nnew\n\n<!-- a: end -->\nafter\n");
    assert_eq!(readme::put(&put, "a", "new\n").unwrap(), put);
    assert_eq!(readme::put(page, "b", "new"), None);
}

#[test]
fn without_crowds_nothing_is_said_of_a_million() {
    assert_eq!(million::render(&json!({ "scale": null })), None);
}
