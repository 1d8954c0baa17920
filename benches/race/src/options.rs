//! What the race is asked for.

use std::io;
use std::path::PathBuf;

use crate::{Plan, FULL, QUICK};

pub const HELP: &str = "there are --quick, --rounds=N, --only=PEERS, --with=NAME=PROGRAM, --merge, \
                        --baseline=REPORT, --list, --check, --check=renew, --readme and --readme=write";

/// One of these things is done.
pub enum Task {
    Race,
    /// Tells the names of what can be measured.
    List,
    /// Instructions and system calls, against stored ones or to be stored.
    Check {
        renew: bool,
    },
    /// The README's section out of the last report: shown, or put where it belongs.
    Readme {
        write: bool,
    },
}

pub struct Options {
    pub task: Task,
    pub plan: Plan,
    /// Parts of the names of what is measured; all of it without any.
    pub words: Vec<String>,
    pub only: Option<String>,
    pub with: Vec<String>,
    /// What was not measured this time stays in the report as it was.
    pub merge: bool,
    /// A stored report, to be compared with.
    pub baseline: Option<PathBuf>,
}

impl Options {
    pub fn parse(args: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut options = Self {
            task: Task::Race,
            plan: FULL,
            words: Vec::new(),
            only: None,
            with: Vec::new(),
            merge: false,
            baseline: None,
        };
        let (mut rounds, mut args) = (None, args);
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            match (name, value) {
                // What `cargo bench` passes on.
                ("--bench", None) => {}
                ("--quick", None) => options.plan = QUICK,
                ("--rounds", Some(value)) => rounds = Some(value),
                ("--only", Some(value)) => options.only = Some(value),
                ("--with", Some(value)) => options.with.push(value),
                ("--merge", None) => options.merge = true,
                ("--baseline", value) => options.baseline = value.or_else(|| args.next()).map(PathBuf::from),
                ("--list", None) => options.task = Task::List,
                ("--check", None) => options.task = Task::Check { renew: false },
                ("--check", Some(how)) if how == "renew" => options.task = Task::Check { renew: true },
                ("--readme", None) => options.task = Task::Readme { write: false },
                ("--readme", Some(how)) if how == "write" => options.task = Task::Readme { write: true },
                _ if name.starts_with("--") => {
                    return Err(io::Error::other(format!("there is no option {arg}; {HELP}")));
                }
                _ => options.words.push(arg),
            }
        }
        if let Some(rounds) = rounds {
            options.plan.rounds = rounds.parse().map_err(|_| io::Error::other("--rounds takes a number"))?;
        }
        Ok(options)
    }

    /// Whether this is to be measured.
    pub fn wants(&self, id: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| id.contains(word.as_str()))
    }
}
