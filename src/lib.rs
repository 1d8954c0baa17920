//! draft
#![deny(missing_docs, missing_debug_implementations, unreachable_pub, unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod addr;
mod close;
mod config;
mod connection;
mod handle;
mod handler;
mod id;
mod listener;
mod mailbox;
mod net;
mod reactor;
mod read_buffer;
mod send;
mod socket;
mod stats;
mod table;
mod timers;
mod transport;
mod write_buffer;

pub use crate::addr::{Addr, IntoAddr};
pub use crate::close::{CloseReason, CloseReport, Timeout};
pub use crate::config::{AtLimit, Config, ConfigError, Keepalive, Overflow, SoftLimit, UserTimeout};
pub use crate::connection::{State, Via};
pub use crate::handle::{Handle, HandleError};
pub use crate::handler::Handler;
pub use crate::id::{ConnId, ListenerId, TimerId};
pub use crate::net::Net;
pub use crate::reactor::{Reactor, Turn};
pub use crate::send::{Broadcast, SendError, Sent};
pub use crate::stats::Stats;
pub use bytes::Bytes;
