//! TLS: the promises that hold without it, and those of its own.

#[path = "../../examples/certificates/mod.rs"]
mod certificates;
mod closes;
mod handshakes;
mod peer;
mod talk;
#[path = "../util/mod.rs"]
mod util;
