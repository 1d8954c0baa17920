//! What must hold whatever happens: checked in every callback, after every turn, when the world is
//! quiet, and at the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use bytes::Bytes;

use super::ages::Ages;
use crate::close::{CloseReason, CloseReport, Timeout};
use crate::connection::{State, Via};
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId, TimerId};
use crate::net::{Entry, Net, Stopping};
use crate::simnet::{Faults, Kernel, Phase, SockId, World, NOBODY};
use crate::socket::Stream;

/// What is known of one connection.
#[derive(Debug, Default)]
struct Book {
    sock: Option<SockId>,
    peer: Option<usize>,
    opened: bool,
    closed: bool,
    /// Bytes of the peer's stream that the handler has used.
    used: usize,
    /// How far into it the handler has been shown.
    shown: usize,
    drains: u64,
    /// All that was sent, of a connection that ended in good order.
    promised: Option<Vec<u8>>,
}

/// Passes every callback on to the handler under test, and looks at it first.
pub(super) struct Watch<H> {
    pub(super) inner: H,
    kernel: Kernel,
    books: BTreeMap<ConnId, Book>,
    pub(super) reports: Vec<(ConnId, CloseReport)>,
    pub(super) callbacks: usize,
    /// Who was told of the end of the peer's stream.
    pub(super) told_eof: BTreeSet<ConnId>,
}

fn sock_of(net: &Net, conn: ConnId) -> Option<SockId> {
    match net.conns.get(conn)?.stream.bottom() {
        Stream::Sim(stream) => Some(stream.sock),
        _ => None,
    }
}

impl<H> Watch<H> {
    pub(super) fn new(inner: H, kernel: Kernel) -> Self {
        Self {
            inner,
            kernel,
            books: BTreeMap::new(),
            reports: Vec::new(),
            callbacks: 0,
            told_eof: BTreeSet::new(),
        }
    }

    /// The connection with a peer.
    pub(super) fn conn_of(&self, peer: usize) -> Option<ConnId> {
        self.books.iter().find(|(_, book)| book.peer == Some(peer)).map(|(id, _)| *id)
    }

    /// Every callback for a connection comes through here.
    fn see(&mut self, net: &Net, conn: ConnId, callback: &str) -> &mut Book {
        self.callbacks += 1;
        let mut world = self.kernel.world();
        let sock = sock_of(net, conn);
        let book = self.books.entry(conn).or_default();
        book.sock = book.sock.or(sock);
        if let Some(sock) = book.sock.and_then(|sock| world.socks.get(&sock)) {
            book.peer = book.peer.or(sock.peer);
        }
        if book.closed {
            world.accuse(|| format!("{conn}: {callback} came after on_close"));
        }
        let addr = book.peer.and_then(|peer| world.peers.get(peer)).map(|peer| peer.addr);
        let told = net.peer_addr(conn).and_then(|addr| addr.as_tcp());
        if addr.is_some() && told != addr && told != Some(NOBODY) {
            world.accuse(|| format!("{conn}: its peer is {addr:?}, peer_addr says {told:?}"));
        }
        world.note(|_| match book.peer {
            Some(peer) => format!("{callback} of {conn}, peer {peer}"),
            None => format!("{callback} of {conn}"),
        });
        book
    }

    /// Whether anybody read something else than what clean reports said was delivered.
    pub(super) fn undelivered(&self, world: &World) -> Option<String> {
        self.books.iter().find_map(|(conn, book)| {
            let (promised, peer) = (book.promised.as_ref()?, book.peer?);
            let received = &world.peers.get(peer)?.received;
            // A peer that stopped reading leaves the rest in its own kernel.
            let wrong = !promised.starts_with(received);
            wrong.then(|| format!("{conn}: peer {peer} read something else than what was sent"))
        })
    }
}

impl<H: Handler> Handler for Watch<H> {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        let book = self.see(net, conn, "on_open");
        if std::mem::replace(&mut book.opened, true) {
            self.kernel.world().accuse(|| format!("{conn}: on_open came twice"));
        }
        self.inner.on_open(net, conn, via);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let kernel = self.kernel.clone();
        let book = self.see(net, conn, "on_data");
        let mut world = kernel.world();
        let sent = book.peer.and_then(|peer| world.peers.get(peer)).map(|peer| &peer.sent);
        let (used, end) = (book.used, book.used + data.len());
        let sealed = net.conns.get(conn).is_some_and(|entry| entry.conn.is_secured());
        if !sealed && sent.is_none_or(|sent| sent.get(used..end) != Some(data)) {
            let len = data.len();
            world.accuse(|| {
                format!("{conn}: the {len} bytes shown at offset {used} are not what the peer sent there")
            });
        }
        let state = net.conns.get(conn).map(|entry| &entry.conn);
        if state.is_some_and(|state| state.is_paused()) {
            world.accuse(|| format!("{conn}: on_data of a connection that is paused"));
        }
        if !book.opened || !state.is_some_and(|state| state.is_delivering()) {
            world.accuse(|| format!("{conn}: on_data of a connection that is not open"));
        }
        book.shown = book.shown.max(end);
        if let Some(sock) = book.sock.and_then(|sock| world.socks.get_mut(&sock)) {
            sock.resumed = false;
        }
        drop(world);
        let used = self.inner.on_data(net, conn, data);
        if let Some(book) = self.books.get_mut(&conn) {
            book.used += used.min(data.len());
        }
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        let kernel = self.kernel.clone();
        let book = self.see(net, conn, "on_eof");
        let mut world = kernel.world();
        if let Some(sock) = book.sock.and_then(|sock| world.socks.get(&sock)) {
            let (ended, left, read, shown) = (sock.fin_in, sock.input.len(), sock.read as usize, book.shown);
            if !sock.sealed && (!ended || left > 0 || shown != read) {
                world.accuse(|| {
                    format!("{conn}: on_eof; the stream ended: {ended}, unread: {left}, read: {read}, shown: {shown}")
                });
            }
        }
        drop(world);
        self.told_eof.insert(conn);
        self.inner.on_eof(net, conn);
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        let kernel = self.kernel.clone();
        let book = self.see(net, conn, "on_drain");
        book.drains += 1;
        let mut world = kernel.world();
        let crossings = book.sock.and_then(|sock| world.socks.get(&sock)).map_or(0, |sock| sock.crossings);
        let drains = book.drains;
        if drains > crossings {
            world.accuse(|| format!("{conn}: on_drain for the {drains}th time, after {crossings} crossings"));
        }
        drop(world);
        let (low, queued) = (net.config().low_water, net.queued(conn));
        if queued > low {
            self.kernel.world().accuse(|| format!("{conn}: on_drain with {queued} bytes queued"));
        }
        self.inner.on_drain(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        self.callbacks += 1;
        self.inner.on_timer(net, timer);
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        self.see(net, conn, "on_deadline");
        self.inner.on_deadline(net, conn);
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.callbacks += 1;
        self.inner.on_shutdown(net);
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.callbacks += 1;
        self.inner.on_wake(net);
    }

    fn on_refused(&mut self, net: &mut Net, conn: ConnId, data: Bytes) {
        self.callbacks += 1;
        self.inner.on_refused(net, conn, data);
    }

    fn on_listener_error(&mut self, net: &mut Net, listener: ListenerId, error: &io::Error) {
        self.callbacks += 1;
        self.inner.on_listener_error(net, listener, error);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        let kernel = self.kernel.clone();
        let book = self.see(net, conn, "on_close");
        book.closed = true;
        let mut world = kernel.world();
        world.note(|_| format!("{conn} closed: {report}"));
        let occasion = net.conns.get(conn).and_then(|entry| entry.conn.occasion);
        if let Err(what) = audit(book, report, occasion, &world) {
            world.accuse(|| format!("{conn}: {what}; the report: {report:?}"));
        }
        drop(world);
        self.reports.push((conn, report.clone()));
        self.inner.on_close(net, conn, report);
    }
}

/// Holds a report against the kernel's own books.
fn audit(
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
        // What the bytes of a session were only its peer can tell.
        return Ok(());
    }
    same("received", report.received, sock.read)?;
    same("handed", report.handed, sock.written)?;
    same("handed and unsent", report.handed + report.unsent, sock.promised.len() as u64)?;
    let unacked = report.unacked.ok_or("unacked is not known")?;
    // Acknowledgements may have come since it was asked for.
    if unacked < sock.written - sock.acked || unacked > sock.written {
        return Err(format!("unacked: {unacked} reported, {} counted", sock.written - sock.acked));
    }
    if report.saw_fin && !sock.fin_in {
        return Err("the peer's end of stream was reported, and never came".to_owned());
    }
    match report.reason {
        CloseReason::Finished | CloseReason::PeerClosed => {
            let sent = book.peer.and_then(|peer| world.peers.get(peer)).map_or(0, |peer| peer.sent.len());
            if report.lost_bytes() || !report.saw_fin || report.errno.is_some() {
                return Err("called clean, although something was lost".to_owned());
            }
            same("received of all that the peer sent", report.received, sent as u64)?;
            book.promised = Some(sock.promised.clone());
        }
        CloseReason::Reset
        | CloseReason::ResetAfterFin
        | CloseReason::BrokenPipe
        | CloseReason::TimedOut(Timeout::Kernel) => {
            if sock.phase != Phase::Closed {
                return Err("no reset came".to_owned());
            }
            // An abort, or a deadline, may come while the handler does not read.
            if occasion == Some(CloseReason::Io) && !sock.input.is_empty() {
                return Err(format!("{} bytes that came before the reset were not read", sock.input.len()));
            }
        }
        _ => {}
    }
    Ok(())
}

/// A read, a flush before it and one behind it, a large send or two of the handler's.
const MOST_FRUITLESS: usize = 12;

/// After every turn: caps and books.
pub(super) fn after_turn(net: &Net, kernel: &Kernel, ages: &mut Ages) -> Result<(), String> {
    let config = net.config();
    let (mut queued, mut unused, mut congested, mut closing) = (0, 0, 0, 0);
    for (conn, Entry { conn: state, .. }) in net.conns.iter() {
        queued += state.queued();
        unused += state.unused();
        congested += usize::from(state.is_congested());
        closing += usize::from(state.is_closing());
        if state.queued() > config.max_write_buffer {
            return Err(format!("{conn}: {} bytes queued, above the cap", state.queued()));
        }
    }
    let stats = net.stats();
    for (what, told, counted) in [
        ("queued", stats.queued, queued),
        ("unused", stats.unused, unused),
        ("congested", stats.congested, congested),
        ("closing", stats.closing, closing),
        ("connections", stats.connections, net.conns.len()),
    ] {
        if told != counted {
            return Err(format!("stats.{what} is {told}, counted: {counted}"));
        }
    }
    if net.stopping != Stopping::Draining && closing > config.max_lingering {
        return Err(format!("{closing} connections are closing, above max_lingering"));
    }
    if queued + unused > config.total_write_buffer {
        return Err(format!("{queued} bytes queued and {unused} unused in all, above the cap"));
    }
    let world = kernel.world();
    let most_read = config.read_budget + config.read_size;
    for (id, work) in &world.work.socks {
        let (read, fruitless) = (work.read, work.would_block);
        if read > most_read {
            return Err(format!("{}: {read} bytes read in one turn", world.name(*id)));
        }
        if fruitless > MOST_FRUITLESS {
            return Err(format!(
                "{}: {fruitless} calls in one turn that found nothing to do",
                world.name(*id)
            ));
        }
    }
    let most = 2 * config.accepts_per_turn * (net.listeners.len() + 1);
    // Clients that are turned away with the reserved descriptor are accepted beyond the budget.
    if net.stopping == Stopping::No && !config.shed_when_exhausted && world.work.accepts > most {
        return Err(format!("{} accepts in one turn", world.work.accepts));
    }
    ages.check(net, &world)
}

/// When no packet is under way and nobody is about to do anything, whatever is still open must be
/// idle for a reason: nothing that could be read is left unread, nothing that could be written
/// unwritten.
pub(super) fn at_rest(net: &Net, kernel: &Kernel, told_eof: &BTreeSet<ConnId>) -> Result<(), String> {
    let mut world = kernel.world();
    let world = &mut *world;
    for (conn, Entry { conn: state, stream }) in net.conns.iter() {
        let Stream::Sim(stream) = stream else { continue };
        let Some(sock) = world.socks.get_mut(&stream.sock) else { continue };
        if state.state() == State::Connecting {
            if sock.phase != Phase::Connecting {
                return Err(format!("{conn}: stalls: the connect has an outcome, and nobody looks"));
            }
            continue;
        }
        if state.is_congested() && state.queued() <= net.config().low_water {
            return Err(format!("{conn}: stalls: the queue has drained, and nobody was told"));
        }
        if state.is_delivering() && state.is_paused() != sock.paused {
            return Err(format!("{conn}: stalls: paused: {}, asked for: {}", state.is_paused(), sock.paused));
        }
        if sock.resumed && state.is_delivering() && !state.is_paused() && state.has_unused_input() {
            return Err(format!("{conn}: stalls: unused input is not shown again after a resume"));
        }
        let held_back = state.has_unused_input() && (state.is_paused() || state.is_congested());
        if state.is_delivering() && state.saw_end() && !held_back && !told_eof.contains(&conn) {
            return Err(format!("{conn}: stalls: the peer's stream has ended, and nobody was told"));
        }
        let level = sock.level();
        if level.input && state.wants_input(&net.defaults) {
            return Err(format!(
                "{conn}: stalls: input waits in the kernel and is not read ({:?})",
                state.state()
            ));
        }
        if state.queued() > 0 && level.output {
            let queued = state.queued();
            return Err(format!(
                "{conn}: stalls: {queued} bytes queued, and the kernel has room ({:?})",
                state.state()
            ));
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

/// After a shutdown: everybody was told, and nothing is left over.
pub(super) fn at_end<H>(net: &Net, watch: &Watch<H>, world: &World) -> Result<(), String> {
    if let Some((conn, _)) = watch.books.iter().find(|(_, book)| !book.closed) {
        return Err(format!("{conn}: on_close never came"));
    }
    let stats = net.stats();
    let told = watch.reports.len() as u64;
    if stats.closed != told || stats.accepted + stats.connects != told {
        return Err(format!(
            "{} accepted and {} connects, {} counted as closed, {told} reported",
            stats.accepted, stats.connects, stats.closed
        ));
    }
    if world.abandoned > 0 && world.faults == Faults::none() && net.config().max_connections.is_none() {
        return Err(format!("{} clients that waited were reset by the shutdown", world.abandoned));
    }
    // Of somebody who is gone an entry may stand in a list: it means nothing.
    let live = |ids: &VecDeque<ConnId>| ids.iter().filter(|id| net.conns.get(**id).is_some()).count();
    let left = [
        ("connections", net.conns.len()),
        ("ready list", live(&net.ready)),
        ("dirty list", live(&net.dirty)),
        ("dead list", net.dead.len()),
        ("inbox", net.inbox.len()),
        ("undelivered", net.undelivered.len()),
        ("queued bytes", stats.queued),
        ("congested", stats.congested),
    ];
    match left.iter().find(|(_, count)| *count > 0) {
        Some((what, count)) => Err(format!("left over at the end: {what}: {count}")),
        None => Ok(()),
    }
}
