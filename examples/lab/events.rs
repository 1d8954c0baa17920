//! What the lab says: one JSON object a line, each line flushed.

use std::fmt::Display;
use std::io::{self, Write};

use unbroken::{Addr, CloseReport, ConnId, Stats};

/// Standard output, as long as somebody reads it.
pub struct Events {
    gone: bool,
}

impl Events {
    pub fn new() -> Self {
        Self { gone: false }
    }

    /// Whether standard output was closed: no reason to panic, and none to go on.
    pub fn nobody_listens(&self) -> bool {
        self.gone
    }

    fn line(&mut self, line: String) {
        if self.gone {
            return;
        }
        let mut out = io::stdout().lock();
        self.gone = out.write_all((line + "\n").as_bytes()).and_then(|()| out.flush()).is_err();
    }

    pub fn listening(&mut self, addr: &Addr) {
        self.line(format!(r#"{{"event":"listening","addr":{}}}"#, string(addr)));
    }

    pub fn open(&mut self, conn: ConnId, peer: Option<Addr>) {
        self.line(format!(r#"{{"event":"open","conn":"{conn}","peer":{}}}"#, optional(peer)));
    }

    pub fn eof(&mut self, conn: ConnId) {
        self.line(format!(r#"{{"event":"eof","conn":"{conn}"}}"#));
    }

    pub fn congested(&mut self, conn: ConnId, queued: usize) {
        self.line(format!(r#"{{"event":"congested","conn":"{conn}","queued":{queued}}}"#));
    }

    pub fn drain(&mut self, conn: ConnId, queued: usize) {
        self.line(format!(r#"{{"event":"drain","conn":"{conn}","queued":{queued}}}"#));
    }

    pub fn close(&mut self, conn: ConnId, peer: Option<Addr>, report: &CloseReport) {
        let number = |number: Option<String>| number.unwrap_or("null".to_owned());
        self.line(format!(
            concat!(
                r#"{{"event":"close","conn":"{}","peer":{},"reason":"{}","errno":{},"saw_fin":{},"#,
                r#""received":{},"handed":{},"unsent":{},"unacked":{},"duration_ms":{}}}"#
            ),
            conn,
            optional(peer),
            report.reason.name(),
            number(report.errno.map(|errno| errno.to_string())),
            report.saw_fin,
            report.received,
            report.handed,
            report.unsent,
            number(report.unacked.map(|bytes| bytes.to_string())),
            report.duration.as_millis(),
        ));
    }
}

/// The engine's counters as one line, for a client that asks.
pub fn stats(stats: &Stats) -> String {
    let counters: &[(&str, u64)] = &[
        ("accepted", stats.accepted),
        ("opened", stats.opened),
        ("closed", stats.closed),
        ("connections", stats.connections as u64),
        ("closing", stats.closing as u64),
        ("congested", stats.congested as u64),
        ("bytes_in", stats.bytes_in),
        ("bytes_out", stats.bytes_out),
        ("reads", stats.reads),
        ("writes", stats.writes),
        ("partial_writes", stats.partial_writes),
        ("resumed_writes", stats.resumed_writes),
        ("write_eagains", stats.write_eagains),
        ("read_eagains", stats.read_eagains),
        ("queued", stats.queued as u64),
        ("queued_peak", stats.queued_peak as u64),
        ("overflows", stats.overflows),
        ("stale_sends", stats.stale_sends),
        ("stale_events", stats.stale_events),
        ("accept_errors", stats.accept_errors),
        ("accept_pauses", stats.accept_pauses),
        ("turns", stats.turns),
        ("longest_turn_us", u64::try_from(stats.longest_turn.as_micros()).unwrap_or(u64::MAX)),
    ];
    let fields: Vec<_> = counters.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    format!("{{{}}}\n", fields.join(","))
}

/// A JSON string: a path may hold anything.
fn string(text: impl Display) -> String {
    serde_json::Value::from(text.to_string()).to_string()
}

fn optional(addr: Option<Addr>) -> String {
    addr.map_or("null".to_owned(), string)
}
