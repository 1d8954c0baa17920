//! The laboratory as its contract says: every command, every option, every line, every exit
//! status, checked on the built binary with plain sockets.

mod commands;
mod harness;
mod lines;
mod options;
mod process;
mod senders;
#[path = "../util/mod.rs"]
mod util;
