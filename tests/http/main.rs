//! The example `http`, by raw sockets, in virtual time, and by the programs that people use: whatever a
//! client sends, asks for or leaves unread, it gets the right answer or a clear end, and costs nobody else
//! anything.

mod programs;
mod requests;
mod server;
mod streams;
mod times;
#[path = "../util/mod.rs"]
mod util;
