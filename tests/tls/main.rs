//! TLS: the promises that hold without it, and those of its own.

mod attacks;
mod closes;
#[path = "../../examples/tls/mod.rs"]
mod example_tls;
mod examples;
mod forged;
mod handshakes;
mod limits;
mod peer;
mod programs;
mod rows_ends;
mod rows_pressure;
mod rows_resets;
mod rows_writing;
mod starttls;
mod states;
mod talk;
mod traps;
#[path = "../util/mod.rs"]
mod util;
