//! A promise that was broken, and how it came to it.

use std::error::Error;
use std::fmt;

/// A promise that was broken, with the seed that shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation {
    pub(super) seed: u64,
    pub(super) what: String,
    pub(super) trace: Vec<String>,
}

impl Violation {
    /// What was wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What happened up to then, a line each, if [`Sim::record`](super::Sim::record) was called.
    pub fn trace(&self) -> &[String] {
        &self.trace
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{self}")?;
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Error for Violation {}
