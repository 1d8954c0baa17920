//! The threads of a group.

use std::any::Any;
use std::io;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::handles::Shared;
use super::{GroupHandle, Peers};
use crate::handler::Handler;
use crate::reactor::Reactor;
use crate::socket::pin_to_core;

/// How long the others have for their connections when one of them is lost.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What became of one thread.
type Outcome = Result<io::Result<()>, Box<dyn Any + Send>>;

/// Runs all of them until each has stopped.
pub(super) fn run<H: Handler, F: Fn(Peers) -> H + Send + Sync>(
    reactors: Vec<Reactor>,
    shared: &Arc<Shared>,
    name: &str,
    cores: &[usize],
    make: &F,
) -> io::Result<()> {
    shared.start();
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> = reactors
            .into_iter()
            .enumerate()
            .map(|(index, reactor)| {
                let core = cores.get(index % cores.len().max(1)).copied();
                let serve = move || serve(index, reactor, shared, core, make);
                let started =
                    thread::Builder::new().name(format!("{name}-{index}")).spawn_scoped(scope, serve);
                if started.is_err() {
                    shared.stop_others(index, Duration::ZERO);
                }
                started
            })
            .collect();
        let join = |thread: io::Result<thread::ScopedJoinHandle<'_, Outcome>>| match thread {
            Ok(thread) => thread.join().unwrap_or_else(Err),
            Err(error) => Ok(Err(error)),
        };
        threads.into_iter().map(join).collect()
    });
    let mut result = Ok(());
    for outcome in outcomes {
        match outcome {
            Ok(ended) => result = result.and(ended),
            Err(panic) => resume_unwind(panic),
        }
    }
    result
}

fn serve<H: Handler, F: Fn(Peers) -> H>(
    index: usize,
    mut reactor: Reactor,
    shared: &Arc<Shared>,
    core: Option<usize>,
    make: &F,
) -> Outcome {
    let group = GroupHandle::new(shared.clone());
    shared.has_started(index);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if let Some(core) = core {
            pin_to_core(core)?;
        }
        let mut handler = make(Peers::new(index, group.clone()));
        reactor.run(&mut handler)
    }));
    let stats = reactor.net().stats().clone();
    // Its mailbox takes nothing more: who would have been handed to it goes elsewhere.
    drop(reactor);
    match &outcome {
        Ok(_) => shared.has_ended(index, stats),
        Err(_) => group.has_panicked(index),
    }
    if !matches!(outcome, Ok(Ok(()))) {
        shared.stop_others(index, LAST_WORDS);
    }
    outcome
}
