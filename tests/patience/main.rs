//! Time, patience and edges: whom the engine waits for, for how long, and what nobody pays for.
//!
//! Each test is named after the promise that it holds. The letters beside the tests are those of
//! issue 10.

// A handler is put together step by step, where the steps need what was made before.
#![allow(clippy::field_reassign_with_default)]

mod budget;
mod closing;
mod congestion;
mod crowds;
mod deadlines;
mod events;
mod goodbye;
#[allow(dead_code)]
#[path = "../lab/harness.rs"]
mod harness;
mod heard;
mod long_turns;
mod outside;
#[allow(dead_code)]
#[path = "../corners/probe.rs"]
mod probe;
mod settings;
mod slices;
mod stage;
mod stopped;
mod timers;
#[path = "../util/mod.rs"]
mod util;
