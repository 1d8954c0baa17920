//! What the servers do, and how they tell where.

use std::io::{self, Write};
use std::net::SocketAddr;

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends back what comes.
    Echo,
    /// Takes frames of 64 bytes. One that begins with `S` makes the connection a subscriber and is
    /// sent back to it; one that begins with `M` is sent to every subscriber.
    Fanout,
    /// Joins each client with a connection of its own to the address, both ways, half-closes too.
    Proxy(SocketAddr),
}

/// A subscriber for which more than this waits is dropped, by the peers that look.
pub const SUBSCRIBER_CAP: usize = 1 << 20;

/// Tells the harness where to connect.
pub fn announce(addr: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "listening on {addr}")?;
    out.flush()
}
