//! When no packet is under way and nobody is about to do anything, whatever is still open must be idle
//! for a reason: nothing that could be read is left unread, nothing that could be written unwritten,
//! nothing that could be told untold.

use std::collections::BTreeMap;

use super::hearing;
use super::watch::Book;
use crate::config::Config;
use crate::connection::{Connection, State};
use crate::id::ConnId;
use crate::net::{Entry, Net};
use crate::simnet::{Kernel, Phase, Sock};
use crate::socket::Stream;
use crate::transport::Transport;

pub(super) fn check(net: &Net, kernel: &Kernel, books: &BTreeMap<ConnId, Book>) -> Result<(), String> {
    let mut world = kernel.world();
    let world = &mut *world;
    for (id, Entry { conn, stream }) in net.conns.iter() {
        let Stream::Sim(below) = stream.bottom() else { continue };
        let Some(sock) = world.socks.get_mut(&below.sock).filter(|sock| !sock.sealed) else { continue };
        let own = stream.has_own() && sock.phase == Phase::Open && sock.level().output;
        let own = own.then(|| "bytes of its session wait, and the kernel has room".to_owned());
        if let Some(what) = own.or_else(|| stall(conn, sock, books.get(&id), &net.config_of(id))) {
            return Err(format!("{id}: stalls: {what} ({:?})", conn.state()));
        }
    }
    for (id, listener) in &world.listeners {
        let full = net.config().max_connections.is_some_and(|most| net.conns.len() >= most);
        let exhausted = world.descriptor_limit.is_some_and(|limit| world.descriptors >= limit);
        let waiting = listener.queue.len();
        if waiting > 0 && !full && !exhausted && net.deadlines.next().is_none() {
            return Err(format!("listener {id}: stalls: {waiting} clients wait and nobody accepts them"));
        }
    }
    Ok(())
}

/// What one connection waits for without a reason.
fn stall(conn: &Connection, sock: &mut Sock, book: Option<&Book>, config: &Config) -> Option<String> {
    if conn.state() == State::Connecting {
        return (sock.phase != Phase::Connecting)
            .then(|| "the connect has an outcome, and nobody looks".to_owned());
    }
    if conn.is_congested() && conn.queued() <= config.low_water {
        return Some("the queue has drained, and nobody was told".to_owned());
    }
    if sock.has_unread() && hearing::is_wanted(conn, sock, book, config) {
        return Some("input waits in the kernel and is not read".to_owned());
    }
    if conn.queued() > 0 && conn.state() != State::Handshaking && sock.level().output {
        return Some(format!("{} bytes queued, and the kernel has room", conn.queued()));
    }
    let book = book.filter(|_| conn.is_delivering())?;
    if conn.is_paused() != sock.paused {
        return Some(format!("paused: {}, asked for: {}", conn.is_paused(), sock.paused));
    }
    if sock.paused {
        return None;
    }
    if book.told_eof {
        return None;
    }
    if sock.toy.is_some() && conn.is_congested() && !config.read_while_congested {
        return None;
    }
    let kept = book.kept(sock);
    let owed = kept > book.unused() || (kept > 0 && (sock.resumed || book.drained));
    if owed && (kept >= sock.want || sock.is_ended()) {
        return Some("unused input is not shown (again)".to_owned());
    }
    let held_back = kept > 0 && conn.is_congested();
    if sock.is_ended() && sock.is_through() && !held_back {
        return Some("the peer's stream has ended, and nobody was told".to_owned());
    }
    None
}
