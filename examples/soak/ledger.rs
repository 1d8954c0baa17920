//! The audit: what each client saw must agree with what the server reported of its connection, and
//! the server's counters with the sum of its reports.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::process::Report;
use crate::script::{Behaviour, Ending};

/// Complaints that are kept; the others are counted.
const KEPT: usize = 20;

/// How the connection ended, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It read the end of the server's stream.
    Eof,
    /// It read to the error that ended the connection.
    Broken,
    /// It left without having read to the end.
    Left,
}

/// What a client has to tell when it is gone.
#[derive(Debug)]
pub struct Farewell {
    pub n: u64,
    pub behaviour: Behaviour,
    pub ending: Ending,
    pub end: End,
    /// Bytes that its kernel took.
    pub sent: u64,
    pub got: u64,
    /// Every answer that it asked for has come.
    pub answered: bool,
    /// What it got ends with a whole frame.
    pub whole: bool,
    /// What was wrong with the answers, or with the time they took.
    pub wrong: Option<String>,
}

#[derive(Default)]
pub struct Ledger {
    /// Clients that are gone and whose connection has not been reported.
    farewells: HashMap<u64, Farewell>,
    /// Connections that were reported and whose client is not gone.
    reports: HashMap<u64, Report>,
    /// Clients that are still there.
    present: HashSet<u64>,
    pub judged: u64,
    /// Good clients that got everything.
    pub served: u64,
    /// Clients that left before anybody took them in: the kernel forgot them.
    pub unknown: u64,
    pub reasons: BTreeMap<String, u64>,
    pub behaviours: BTreeMap<Behaviour, u64>,
    received: u64,
    handed: u64,
    pub unsent: u64,
    pub unacked: u64,
    reported: u64,
    /// Complaints: the first of them, and how many there were.
    pub complaints: Vec<String>,
    pub wrong: u64,
}

impl Ledger {
    pub fn complain(&mut self, what: String) {
        self.wrong += 1;
        if self.complaints.len() < KEPT {
            self.complaints.push(what);
        }
    }

    /// A client has begun to connect.
    pub fn came(&mut self, n: u64, behaviour: Behaviour) {
        self.present.insert(n);
        *self.behaviours.entry(behaviour).or_default() += 1;
    }

    /// A client is gone.
    pub fn left(&mut self, farewell: Farewell) {
        self.present.remove(&farewell.n);
        match self.reports.remove(&farewell.n) {
            Some(report) => self.judge(&farewell, &report),
            None => {
                self.farewells.insert(farewell.n, farewell);
            }
        }
    }

    /// A connection was reported, that of client `n`.
    pub fn reported(&mut self, n: Option<u64>, report: Report) {
        self.reported += 1;
        self.received += report.received;
        self.handed += report.handed;
        self.unsent += report.unsent;
        self.unacked += report.unacked;
        *self.reasons.entry(report.reason.clone()).or_default() += 1;
        let Some(n) = n else {
            return self.complain(format!("a report of somebody else's client: {report:?}"));
        };
        match self.farewells.remove(&n) {
            Some(farewell) => self.judge(&farewell, &report),
            None if self.present.contains(&n) => {
                if let Some(first) = self.reports.insert(n, report) {
                    self.complain(format!("client {n} was reported twice; first: {first:?}"));
                }
            }
            None => self.complain(format!("client {n} was reported twice, or never came; now: {report:?}")),
        }
    }

    /// Clients that are gone and whose connection has not been reported, those not counted of
    /// whom the server may never have heard.
    pub fn unreported(&self) -> usize {
        self.farewells.values().filter(|farewell| !may_be_unknown(farewell)).count()
    }

    fn judge(&mut self, client: &Farewell, report: &Report) {
        self.judged += 1;
        let faults = faults(client, report);
        if faults.is_empty() {
            self.served += u64::from(client.behaviour.is_good());
            return;
        }
        self.complain(format!(
            "client {}: {}\n    it: {client:?}\n    the server: {report:?}",
            client.n,
            faults.join("; ")
        ));
    }

    /// When all is over: nobody may be missing, and the counters must be the sum of the reports.
    pub fn close(&mut self, stats: &HashMap<String, u64>, end: &HashMap<String, u64>) {
        for (n, farewell) in std::mem::take(&mut self.farewells) {
            if may_be_unknown(&farewell) {
                self.unknown += 1;
            } else {
                self.complain(format!("client {n} was never reported: {farewell:?}"));
            }
        }
        let sums = [
            ("accepted", stats, self.reported),
            ("opened", stats, self.reported),
            ("closed", stats, self.reported),
            ("connections", stats, 0),
            ("queued", stats, 0),
            ("bytes_in", stats, self.received),
            ("bytes_out", stats, self.handed),
            ("taken", end, self.handed + self.unsent),
            ("garbled", end, 0),
            ("members", end, 0),
        ];
        for (name, counters, expected) in sums {
            let counter = counters.get(name).copied();
            if counter != Some(expected) {
                self.complain(format!("the server's {name} is {counter:?}, and ought to be {expected}"));
            }
        }
    }
}

/// A client that left at once may never have come out of the kernel's queue.
fn may_be_unknown(client: &Farewell) -> bool {
    client.end == End::Left && client.got == 0 && !client.behaviour.is_good()
}

/// What does not fit together.
fn faults(client: &Farewell, report: &Report) -> Vec<String> {
    let mut faults: Vec<String> = client.wrong.iter().cloned().collect();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    let sum = report.handed + report.unsent;
    check(sum >= report.taken, "bytes that a send took are neither handed over nor unsent");
    check(sum <= report.taken + report.others, "more bytes are accounted for than were sent");
    check(report.unacked <= report.handed, "more bytes are unacknowledged than were handed over");
    check(report.received <= client.sent, "the server received what the client did not send");
    check(client.got <= report.handed, "the client got what the server did not send");
    match client.end {
        // A stream that was cut must not look whole.
        End::Eof => {
            check(report.unsent == 0, "the client saw a clean end, and bytes were left unsent");
            check(client.got == report.handed, "the client saw a clean end, and did not get everything");
            check(client.whole, "the client saw a clean end in the middle of a frame");
        }
        End::Broken => {
            check(!report.clean, "the client saw an error, and the report is clean");
            let reached = report.handed - report.unacked.min(report.handed);
            check(client.got >= reached, "bytes reported as acknowledged did not reach the client");
        }
        End::Left => {}
    }
    if report.clean {
        check(report.saw_fin, "clean without the client's end of stream");
        check(report.errno == 0, "clean in spite of an error");
        check(report.unsent == 0 && report.unacked == 0, "clean, and bytes were lost");
        check(report.received == client.sent, "clean, and not everything that the client sent was read");
    }
    if client.behaviour.is_good() {
        check(client.end == End::Eof && client.answered, "lost: a good client did not get everything");
        let reason = match client.ending {
            Ending::AskClose => "finished",
            _ => "peer_closed",
        };
        check(report.reason == reason, "a good client, and another reason than its own end");
    }
    faults
}
