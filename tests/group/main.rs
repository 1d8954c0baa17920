//! Several reactors serve the same listeners: whom a client goes to, what holds for all together, and how they
//! end.

#[path = "../util/mod.rs"]
mod util;

mod balance;
mod ends;
mod limits;
mod stage;
mod talk;
