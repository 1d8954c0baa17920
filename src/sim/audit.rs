//! The accounts: a report held against the simulated kernel's books, the commands of other threads,
//! and what is left over at the end.

use super::watch::{Book, Watch};
use crate::close::{CloseReason, CloseReport, Timeout};
use crate::fifo::Fifo;
use crate::id::ConnId;
use crate::net::Net;
use crate::simnet::{PeerState, Phase, Witness, World};

/// Holds a report against the kernel's own books.
pub(super) fn report(
    book: &mut Book,
    report: &CloseReport,
    occasion: Option<CloseReason>,
    world: &World,
) -> Result<(), String> {
    let same = |what: &str, told: u64, counted: u64| match told == counted {
        true => Ok(()),
        false => Err(format!("{what}: {told} reported, {counted} counted by the kernel")),
    };
    let Some(sock) = book.sock.and_then(|sock| world.socks.get(&sock)) else {
        return same("received", report.received, 0).and_then(|()| same("handed", report.handed, 0));
    };
    if sock.sealed {
        return Ok(());
    }
    match sock.toy.is_some() {
        // What a session has opened may be left there, of a connection that did not want it.
        true if report.received > sock.came() => return same("received", report.received, sock.came()),
        true => {}
        false => same("received", report.received, sock.read)?,
    }
    same("handed", report.handed, sock.handed())?;
    same("handed and unsent", report.handed + report.unsent, sock.promised.len() as u64)?;
    let unacked = report.unacked.ok_or("unacked is not known")?;
    // Acknowledgements may have come since it was asked for.
    let counted = sock.handed() - sock.arrived();
    if unacked < counted || unacked > sock.handed() {
        return Err(format!("unacked: {unacked} reported, {counted} counted"));
    }
    // Behind our own close it is all the same how the peer ends.
    let closing = sock.times.closing > 0 && sock.fin_in;
    if report.saw_fin && !sock.came_to_end() && !closing {
        return Err("the peer's end of stream was reported, and never came".to_owned());
    }
    match report.reason {
        CloseReason::Finished | CloseReason::PeerClosed => {
            let peer = book.peer.and_then(|peer| world.peers.get(peer));
            // What a peer has sealed, and closed before it was with its kernel, is not there.
            let sent = peer.map_or(0, |peer| peer.sent.len() as u64).min(sock.came_in_all());
            if report.lost_bytes() || !report.saw_fin || report.errno.is_some() {
                return Err("called clean, although something was lost".to_owned());
            }
            // Who speaks no TLS to one who does reads what it does not understand; and what comes before a
            // handshake is done is of no use when it never will be.
            if sock.toy.is_some() && !(book.opened && peer.is_some_and(PeerState::is_secured)) {
                return Ok(());
            }
            same("received of all that the peer sent", report.received, sent)?;
            book.promised = Some(sock.promised.clone());
        }
        CloseReason::Reset
        | CloseReason::ResetAfterFin
        | CloseReason::BrokenPipe
        | CloseReason::TimedOut(Timeout::Kernel) => {
            if sock.phase != Phase::Closed && !sock.is_deserted() {
                return Err("no reset came".to_owned());
            }
            // An abort, or a deadline, may come while the handler does not read.
            if occasion == Some(CloseReason::Io) && !sock.input.is_empty() && sock.pipe.is_none() {
                return Err(format!("{} bytes that came before the reset were not read", sock.input.len()));
            }
        }
        CloseReason::Truncated if !sock.fin_in || (book.opened && sock.came_to_end()) => {
            return Err("called truncated, although it was not".to_owned());
        }
        // Of peers that speak the same.
        CloseReason::Tls
            if book.peer.and_then(|peer| world.peers.get(peer)).is_some_and(PeerState::is_secured) =>
        {
            return Err("the session failed, although both ends speak the same".to_owned());
        }
        _ => {}
    }
    Ok(())
}

/// Every send of a handle that was taken for a connection has been queued or given back by the time it
/// is reported closed.
pub(super) fn commands(conn: ConnId, witness: &Witness) -> Result<(), String> {
    let Some(sends) = witness.sends.get(&conn) else { return Ok(()) };
    match sends.taken == sends.queued + sends.refused {
        true => Ok(()),
        false => Err(format!("on_close, with sends of a handle not accounted for: {sends:?}")),
    }
}

impl<H> Watch<H> {
    /// Whether anybody read something else than what clean reports said was delivered.
    pub(super) fn undelivered(&self, world: &World) -> Option<String> {
        self.books.iter().find_map(|(conn, book)| {
            let (promised, peer) = (book.promised.as_ref()?, book.peer?);
            let received = &world.peers.get(peer)?.received;
            // A peer that stopped reading leaves the rest in its own kernel.
            if !promised.starts_with(received) {
                return Some(format!("{conn}: peer {peer} read something else than what was sent"));
            }
            let was_cut = world.peers.get(peer)?.was_cut;
            was_cut.then(|| format!("{conn}: ended in good order, but the session of peer {peer} did not"))
        })
    }
}

/// After a shutdown: everybody was told, and nothing is left over.
pub(super) fn at_end<H>(net: &Net, watch: &Watch<H>, world: &World) -> Result<(), String> {
    if let Some((conn, _)) = watch.books.iter().find(|(_, book)| !book.closed) {
        return Err(format!("{conn}: on_close never came"));
    }
    let stats = net.stats();
    let told = watch.reports.len() as u64;
    if stats.closed != told || stats.accepted + stats.connects + stats.adopted != told {
        return Err(format!(
            "{} accepted, {} connects and {} adopted, {} counted as closed, {told} reported",
            stats.accepted, stats.connects, stats.adopted, stats.closed
        ));
    }
    let witness = &world.witness;
    if stats.commands != witness.commands {
        return Err(format!("{} commands taken, {} carried out", witness.commands, stats.commands));
    }
    // As far as the limit, and the file descriptors, allow.
    let refused = net.config().max_connections.is_some()
        || world.faults.accept_error > 0
        || world.faults.exhaustion > 0;
    if witness.abandoned > 0 && !refused {
        return Err(format!("{} clients that waited were reset by the shutdown", witness.abandoned));
    }
    // Of somebody who is gone an entry may stand in a list: it means nothing.
    let live = |ids: &Fifo<ConnId>| ids.iter().filter(|id| net.conns.get(**id).is_some()).count();
    let left = [
        ("connections", net.conns.len()),
        ("ready list", live(&net.ready)),
        ("dirty list", live(&net.dirty)),
        ("dead list", net.dead.len()),
        ("inbox", net.inbox.len()),
        ("undelivered", net.undelivered.len()),
        ("queued bytes", stats.queued),
        ("unused bytes", stats.unused),
        ("congested", stats.congested),
    ];
    match left.iter().find(|(_, count)| *count > 0) {
        Some((what, count)) => Err(format!("left over at the end: {what}: {count}")),
        None => Ok(()),
    }
}
