//! The table that is printed in the end.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use super::Plan;

/// How a figure compares with what it must reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    NotMet,
    /// A tool is missing, or the machine does not allow it.
    NotMeasured,
    /// The measurement itself went wrong.
    Failed,
}

/// A line of the table, with what is worth telling beside it.
pub struct Row {
    what: String,
    measured: String,
    must: String,
    verdict: Verdict,
    notes: Vec<String>,
}

impl Row {
    pub fn new(what: &str, measured: String, must: &str, met: bool) -> Self {
        let verdict = if met { Verdict::Met } else { Verdict::NotMet };
        Self { what: what.to_owned(), measured, must: must.to_owned(), verdict, notes: Vec::new() }
    }

    pub fn not_measured(what: &str, must: &str, why: &str) -> Self {
        Self { verdict: Verdict::NotMeasured, ..Self::new(what, format!("not measured: {why}"), must, false) }
    }

    pub fn failed(what: &str, error: &io::Error) -> Self {
        Self { verdict: Verdict::Failed, ..Self::new(what, format!("failed: {error}"), "", false) }
    }

    #[must_use]
    pub fn note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }
}

/// All rows, each with the name of its figure.
#[derive(Default)]
pub struct Table(Vec<(&'static str, Row)>);

impl Table {
    pub fn add(&mut self, name: &'static str, rows: Vec<Row>) {
        self.0.extend(rows.into_iter().map(|row| (name, row)));
    }

    pub fn has_failures(&self) -> bool {
        self.0.iter().any(|(_, row)| row.verdict == Verdict::Failed)
    }

    pub fn render(&self, machine: &str, took: Duration, plan: Plan) -> String {
        let mut lines =
            vec![["figure", "what", "measured: median [min–max]", "must reach", ""].map(str::to_owned)];
        for (name, row) in &self.0 {
            let verdict = match row.verdict {
                Verdict::Met => "met",
                Verdict::NotMet => "NOT MET",
                Verdict::NotMeasured => "-",
                Verdict::Failed => "FAILED",
            };
            let cells = [*name, &row.what, &row.measured, &row.must, verdict];
            lines.push(cells.map(str::to_owned));
        }
        let mut widths = [0; 5];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        lines.insert(1, widths.map(|width| "-".repeat(width)));
        let mut text = String::from("\n");
        for line in &lines {
            let cells: Vec<String> =
                line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        }
        text.push('\n');
        for (name, row) in &self.0 {
            for note in &row.notes {
                let _ = writeln!(text, "{name}: {note}");
            }
        }
        let care = plan.pick("", "; --quick: short rounds, take the full run for a verdict");
        let _ = writeln!(text, "\n{machine}\ntook {:.0} s{care}", took.as_secs_f64());
        text
    }
}
