//! The chat's web port, spoken to byte by byte: WebSockets and HTTP as hostile, careless and strict
//! clients speak them.

#[path = "../chat/mod.rs"]
mod chat;
mod frames;
mod http;
mod order;
#[path = "../util/mod.rs"]
mod util;
