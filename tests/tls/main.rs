//! TLS: the promises that hold without it, and those of its own.

mod closes;
#[path = "../../examples/tls/mod.rs"]
mod example_tls;
mod examples;
mod handshakes;
mod peer;
mod talk;
#[path = "../util/mod.rs"]
mod util;
