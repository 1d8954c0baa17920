//! The chat server with clients that nobody here wrote, with a crowd of them, with those that
//! misbehave, and as a program with flags, signals and inherited sockets.
//!
//! `UNBROKEN_THREADS=2` has all servers run on two reactors; what must not differ there is in `reactors`.
//! `UNBROKEN_LONG=1` lets the crowd talk for 30 seconds instead of 5.

#[path = "../chat/mod.rs"]
mod chat;
mod crowd;
mod flags;
mod peers;
mod programs;
mod reactors;
mod secured;
mod service;
#[path = "../util/mod.rs"]
mod util;
