//! TLS: the promises that hold without it, and those of its own.

mod attacks;
#[path = "../../examples/certificates/mod.rs"]
mod certificates;
mod closes;
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
