//! Every callback, looked at before the handler under test gets it: what it is told is true, in order,
//! and told once.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::{audit, hearing, verdicts};
use crate::close::CloseReport;
use crate::connection::Via;
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId, TimerId};
use crate::net::{Entry, Net};
use crate::simnet::{Kernel, PeerState, Sock, SockId, World, MILLI, NOBODY};
use crate::socket::Stream;

/// What is known of one connection.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) sock: Option<SockId>,
    pub(super) peer: Option<usize>,
    pub(super) opened: bool,
    pub(super) closed: bool,
    /// The handler was told of the end of the peer's stream.
    pub(super) told_eof: bool,
    /// Bytes of the peer's stream that the handler has used.
    used: usize,
    /// How far into it the handler has been shown.
    shown: usize,
    drains: u64,
    /// It was told of a drain, and has not been shown any input since.
    pub(super) drained: bool,
    /// All that was sent, of a connection that ended in good order.
    pub(super) promised: Option<Vec<u8>>,
}

impl Book {
    /// A session stands above its socket: of the bytes there only the peer can tell what they were.
    pub(super) fn is_sealed(&self, world: &World) -> bool {
        self.sock.and_then(|sock| world.socks.get(&sock)).is_some_and(|sock| sock.sealed)
    }

    /// Its peer has no address, and acknowledges nothing.
    fn is_pipe(&self, world: &World) -> bool {
        self.sock.is_some_and(|sock| world.is_pipe(sock))
    }

    /// Its peer does not speak what the session above its socket does.
    pub(super) fn is_misunderstood(&self, world: &World) -> bool {
        let sock = self.sock.and_then(|sock| world.socks.get(&sock));
        let peer = self.peer.and_then(|peer| world.peers.get(peer));
        sock.is_some_and(|sock| sock.toy.is_some()) && !peer.is_some_and(PeerState::is_secured)
    }

    /// Bytes that were shown and not used.
    pub(super) fn unused(&self) -> usize {
        self.shown - self.used
    }

    /// The same, with what is kept until more of it has come.
    pub(super) fn kept(&self, sock: &Sock) -> usize {
        (sock.came() as usize).saturating_sub(self.used)
    }
}

/// The kinds of callbacks, each of which may be begun once or so after a turn's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Wake,
    Refused,
    Open,
    Data,
    Eof,
    Drain,
    Timer,
    Deadline,
    Shutdown,
    Close,
    Listener,
}

/// How many kinds there are.
pub(super) const KINDS: usize = 11;

/// A callback that takes less is not worth a turn's end.
const LONG: u64 = MILLI;

/// Passes every callback on to the handler under test, and looks at it first.
pub(super) struct Watch<H> {
    pub(super) inner: H,
    pub(super) kernel: Kernel,
    pub(super) books: BTreeMap<ConnId, Book>,
    pub(super) reports: Vec<(ConnId, CloseReport)>,
    /// Of the present turn: callbacks, and those of each kind that took long and were begun when its
    /// time was over.
    pub(super) callbacks: usize,
    pub(super) overtime: [usize; KINDS],
}

pub(super) fn sock_of(net: &Net, conn: ConnId) -> Option<SockId> {
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
            overtime: [0; KINDS],
        }
    }

    /// The connection with a peer.
    pub(super) fn conn_of(&self, peer: usize) -> Option<ConnId> {
        self.books.iter().find(|(_, book)| book.peer == Some(peer)).map(|(id, _)| *id)
    }

    /// Passes a callback on, and sees how long it takes. The process may be stopped before and after.
    fn pass_on<R>(&mut self, net: &mut Net, kind: Kind, call: impl FnOnce(&mut H, &mut Net) -> R) -> R {
        self.callbacks += 1;
        let (began, late) = {
            let mut world = self.kernel.world();
            world.stop_in_turn(1);
            let now = world.now;
            world.witness.called = now;
            let slice = u64::try_from(net.config().turn_slice.as_nanos()).unwrap_or(u64::MAX);
            (now, now > world.witness.began.saturating_add(slice))
        };
        let result = call(&mut self.inner, net);
        let mut world = self.kernel.world();
        if late && world.now - began >= LONG {
            if let Some(count) = self.overtime.get_mut(kind as usize) {
                *count += 1;
            }
        }
        world.stop_in_turn(1);
        result
    }

    /// Every callback for a connection comes through here.
    fn see<'a>(
        books: &'a mut BTreeMap<ConnId, Book>,
        world: &mut World,
        net: &Net,
        conn: ConnId,
        callback: &str,
    ) -> &'a mut Book {
        let sock = sock_of(net, conn);
        let book = books.entry(conn).or_default();
        book.sock = book.sock.or(sock);
        if let Some(sock) = book.sock.and_then(|sock| world.socks.get(&sock)) {
            book.peer = book.peer.or(sock.peer);
        }
        if book.closed {
            world.accuse(|| format!("{conn}: {callback} came after on_close"));
        }
        let addr = book.peer.and_then(|peer| world.peers.get(peer)).map(|peer| peer.addr);
        let told = net.peer_addr(conn).and_then(|addr| addr.as_tcp());
        if addr.is_some() && told != addr && told != Some(NOBODY) && !book.is_pipe(world) {
            world.accuse(|| format!("{conn}: its peer is {addr:?}, peer_addr says {told:?}"));
        }
        world.note(|_| match book.peer {
            Some(peer) => format!("{callback} of {conn}, peer {peer}"),
            None => format!("{callback} of {conn}"),
        });
        book
    }
}

fn sock_in<'a>(world: &'a mut World, book: &Book) -> Option<&'a mut Sock> {
    world.socks.get_mut(&book.sock?)
}

/// Whether input may be shown now, and this input.
fn check_data(world: &mut World, net: &Net, conn: ConnId, book: &Book, data: &[u8]) -> Result<(), String> {
    let sent = book.peer.and_then(|peer| world.peers.get(peer)).map(|peer| &peer.sent);
    let (used, end) = (book.used, book.used + data.len());
    let sealed = book.is_sealed(world);
    if !sealed && sent.is_none_or(|sent| sent.get(used..end) != Some(data)) {
        let len = data.len();
        return Err(format!("the {len} bytes shown at offset {used} are not what the peer sent there"));
    }
    let Some(Entry { conn: state, .. }) = net.conns.get(conn) else {
        return Err("on_data of a connection that is gone".to_owned());
    };
    if state.is_paused() {
        return Err("on_data of a connection that is paused".to_owned());
    }
    if !book.opened || !state.is_delivering() {
        return Err("on_data of a connection that is not open".to_owned());
    }
    let Some(sock) = sock_in(world, book) else { return Ok(()) };
    let fresh = end > book.shown;
    if book.told_eof {
        return Err("on_data after on_eof".to_owned());
    }
    if data.len() < sock.want && !sock.is_ended() {
        return Err(format!("{} bytes are shown, {} were wanted", data.len(), sock.want));
    }
    // What was wanted will not come any more: what is there is shown.
    let completed = std::mem::take(&mut sock.want) > 0 && sock.is_ended();
    if !(fresh || completed || sock.resumed || book.drained) {
        return Err("on_data again with nothing new, no resume and no drain".to_owned());
    }
    let congested = state.is_congested() && !net.config_of(conn).read_while_congested;
    // What was kept back was read at some other time.
    if fresh && congested && !sealed && sock.toy.is_none() && !sock.read_was_granted && !sock.held {
        return Err("a congested connection was read from although its queue grows by it".to_owned());
    }
    Ok(())
}

/// The end of the stream is told behind all that came before it.
fn check_eof(world: &mut World, book: &Book) -> Result<(), String> {
    if book.told_eof {
        return Err("on_eof came twice".to_owned());
    }
    let Some(sock) = sock_in(world, book) else { return Ok(()) };
    let (ended, came, shown) = (sock.is_through(), sock.came() as usize, book.shown);
    match sock.sealed || (ended && shown == came) {
        true => Ok(()),
        false => Err(format!("on_eof; the stream ended and was read: {ended}, came: {came}, shown: {shown}")),
    }
}

impl<H: Handler> Handler for Watch<H> {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        {
            let world = &mut *self.kernel.world();
            let book = Self::see(&mut self.books, world, net, conn, "on_open");
            if std::mem::replace(&mut book.opened, true) {
                world.accuse(|| format!("{conn}: on_open came twice"));
            }
            let now = world.now;
            if let Some(sock) = sock_in(world, book) {
                // It could not be offered what is queued before.
                sock.times.soft = sock.times.soft.map(|_| now);
            }
        }
        self.pass_on(net, Kind::Open, |inner, net| inner.on_open(net, conn, via));
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        {
            let world = &mut *self.kernel.world();
            let book = Self::see(&mut self.books, world, net, conn, "on_data");
            if let Err(what) = check_data(world, net, conn, book, data) {
                world.accuse(|| format!("{conn}: {what}"));
            }
            book.shown = book.shown.max(book.used + data.len());
            book.drained = false;
            let now = world.now;
            if let Some(sock) = sock_in(world, book) {
                sock.resumed = false;
                if sock.toy.is_some() {
                    // What its session had is as good as what the kernel has.
                    sock.times.looked = now;
                }
            }
        }
        let used = self.pass_on(net, Kind::Data, |inner, net| inner.on_data(net, conn, data));
        if let Some(book) = self.books.get_mut(&conn) {
            book.used += used.min(data.len());
            // It has just seen what it leaves: a pause that it ended itself shows it nothing new.
            if let Some(sock) = sock_in(&mut self.kernel.world(), book) {
                sock.resumed = false;
                sock.held &= sock.want > 0 || book.shown < sock.came() as usize;
            }
        }
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        {
            let world = &mut *self.kernel.world();
            let book = Self::see(&mut self.books, world, net, conn, "on_eof");
            if let Err(what) = check_eof(world, book) {
                world.accuse(|| format!("{conn}: {what}"));
            }
            book.told_eof = true;
        }
        self.pass_on(net, Kind::Eof, |inner, net| inner.on_eof(net, conn));
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        {
            let world = &mut *self.kernel.world();
            let book = Self::see(&mut self.books, world, net, conn, "on_drain");
            book.drains += 1;
            book.drained = true;
            let drains = book.drains;
            let now = world.now;
            let crossings = sock_in(world, book).map_or(0, |sock| {
                sock.granted = true;
                sock.times.freed = now;
                sock.crossings
            });
            if drains > crossings {
                world.accuse(|| {
                    format!("{conn}: on_drain for the {drains}th time, after {crossings} crossings")
                });
            }
            let (low, queued) = (net.config_of(conn).low_water, net.queued(conn));
            // What drained because it was offered when a budget was met may have been added to since.
            if queued > low && net.stats().overflows == 0 {
                world.accuse(|| format!("{conn}: on_drain with {queued} bytes queued"));
            }
        }
        self.pass_on(net, Kind::Drain, |inner, net| inner.on_drain(net, conn));
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        {
            let world = &mut *self.kernel.world();
            world.note(|_| format!("on_timer of {timer}"));
            if let Err(what) = hearing::timer_fires(net, world, &self.books, timer) {
                world.accuse(|| format!("timer {timer}: {what}"));
            }
        }
        self.pass_on(net, Kind::Timer, |inner, net| inner.on_timer(net, timer));
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        {
            let world = &mut *self.kernel.world();
            let book = Self::see(&mut self.books, world, net, conn, "on_deadline");
            if let Err(what) = hearing::deadline_passes(net, world, book, conn) {
                world.accuse(|| format!("{conn}: {what}"));
            }
        }
        self.pass_on(net, Kind::Deadline, |inner, net| inner.on_deadline(net, conn));
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.pass_on(net, Kind::Shutdown, |inner, net| inner.on_shutdown(net));
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.pass_on(net, Kind::Wake, |inner, net| inner.on_wake(net));
    }

    fn on_refused(&mut self, net: &mut Net, conn: ConnId, data: Bytes) {
        {
            let world = &mut *self.kernel.world();
            Self::see(&mut self.books, world, net, conn, "on_refused");
            let sends = world.witness.sends.entry(conn).or_default();
            sends.refused += 1;
            let sends = *sends;
            if sends.refused + sends.queued > sends.taken {
                world.accuse(|| format!("{conn}: {sends:?}: more given back than taken"));
            }
        }
        self.pass_on(net, Kind::Refused, |inner, net| inner.on_refused(net, conn, data));
    }

    fn on_listener_error(&mut self, net: &mut Net, listener: ListenerId, error: &io::Error) {
        self.pass_on(net, Kind::Listener, |inner, net| inner.on_listener_error(net, listener, error));
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        {
            let world = &mut *self.kernel.world();
            let book = Self::see(&mut self.books, world, net, conn, "on_close");
            book.closed = true;
            world.witness.alarms.remove(&conn);
            world.note(|_| format!("{conn} closed: {report}"));
            let death = world.witness.deaths.remove(&conn);
            let just = match &death {
                Some(_) if book.is_sealed(world) || book.is_misunderstood(world) || book.is_pipe(world) => {
                    Ok(())
                }
                Some(death) => verdicts::check(conn, death, book, &net.config_of(conn), &world.witness),
                None => Ok(()),
            };
            let occasion = death.map(|death| death.occasion);
            let checked = just
                .and_then(|()| audit::commands(conn, &world.witness))
                .and_then(|()| audit::report(book, report, occasion, world));
            if let Err(what) = checked {
                world.accuse(|| format!("{conn}: {what}; the report: {report:?}"));
            }
        }
        self.reports.push((conn, report.clone()));
        self.pass_on(net, Kind::Close, |inner, net| inner.on_close(net, conn, report));
    }
}
