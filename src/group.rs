//! Several reactors, a thread and a handler each: a server on all cores.

mod handles;
mod running;

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::addr::{Addr, IntoAddr};
use crate::config::Config;
use crate::handler::Handler;
use crate::id::ListenerId;
use crate::listen_options::ListenOptions;
use crate::loads::Loads;
use crate::net::{Net, Seat};
use crate::reactor::Reactor;

use handles::Shared;
pub use handles::{GroupHandle, GroupStats, Peers};

/// So many threads are no group any more.
const MOST: usize = 1024;

/// Several reactors, each with a thread and a handler of its own, that serve the same listeners.
///
/// Nothing is shared between them but their mailboxes and a few counters. The first reactor accepts, and
/// hands each client to the one that has the fewest connections: with few clients that stay long, as in a
/// chat, the kernel's own ways of spreading them are lumpy (`SO_REUSEPORT` hashes, and the busiest of four
/// listeners has half as many again as the mean at 16 connections; waiting on one socket serves whoever is
/// idle). A client is served by one reactor for all of its life, so that a handler needs no locks.
///
/// ```no_run
/// use unbroken::{Config, ConnId, Group, Handler, Net, Peers};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
///         let _ = net.send(conn, data);
///         data.len()
///     }
/// }
///
/// fn main() -> std::io::Result<()> {
///     let mut group = Group::new(Config::default(), 4)?;
///     group.listen("127.0.0.1:7007")?;
///     group.run(|_: Peers| Echo)
/// }
/// ```
///
/// # Limits
///
/// [`max_connections`](Config::max_connections) holds for the group as a whole.
/// [`total_write_buffer`](Config::total_write_buffer) is divided among the reactors evenly. All else holds for
/// each reactor.
///
/// # Listeners
///
/// A listener has the same identifier, the same address and the same settings in all reactors, so that
/// [`Via::Listener`](crate::Via::Listener) means the same everywhere. Listen before the reactors get listeners
/// of their own.
///
/// With [`ListenOptions::reuse_port`] each reactor listens for itself, and nothing is handed out: for very many
/// short connections, which spread evenly by their number. What waits in the queue of such a listener when it
/// closes is reset by the kernel, unless `net.ipv4.tcp_migrate_req` is set; a shutdown takes in whoever waits.
#[derive(Debug)]
pub struct Group {
    reactors: Vec<Reactor>,
    shared: Arc<Shared>,
    name: String,
    cores: Vec<usize>,
}

impl Group {
    /// Makes a group of so many reactors; [`std::thread::available_parallelism`] tells how many make sense.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for none or more than 1,024, and for a configuration that cannot work, with the reason;
    /// otherwise those of making the polls.
    pub fn new(config: Config, reactors: usize) -> io::Result<Self> {
        if !(1..=MOST).contains(&reactors) {
            let message = format!("a group has 1 to {MOST} reactors, and not {reactors}");
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        let loads = Arc::new(Loads::new(reactors, config.max_connections));
        let mut each = config;
        each.max_connections = None;
        each.total_write_buffer /= reactors;
        let mut reactors: Vec<_> =
            (0..reactors).map(|_| Reactor::new(each.clone())).collect::<io::Result<_>>()?;
        let mailboxes: Arc<[_]> = reactors.iter_mut().map(|reactor| reactor.net().mailbox.clone()).collect();
        for (index, reactor) in reactors.iter_mut().enumerate() {
            reactor.net().seat = Some(Seat::new(index, loads.clone(), mailboxes.clone()));
        }
        let handles = reactors.iter_mut().map(|reactor| reactor.net().handle()).collect();
        let shared = Arc::new(Shared::new(handles, loads));
        Ok(Self { reactors, shared, name: "unbroken".to_owned(), cores: Vec::new() })
    }

    /// Listens on `addr`, as [`Net::listen`] does.
    ///
    /// # Errors
    ///
    /// As [`Net::listen`].
    pub fn listen(&mut self, addr: impl IntoAddr) -> io::Result<ListenerId> {
        self.listen_with(addr, &ListenOptions::default())
    }

    /// Listens on `addr` with settings of this listener's own, as [`Net::listen_with`] does. With
    /// [`reuse_port`](ListenOptions::reuse_port) every reactor listens.
    ///
    /// # Errors
    ///
    /// As [`Net::listen_with`].
    pub fn listen_with(&mut self, addr: impl IntoAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        let addr = addr.into_addr()?;
        let settings = options.settings.clone();
        let first = self.first()?;
        let id = first.listen_with(addr, options)?;
        let addr = address_of(first, id)?;
        self.everywhere(id, !options.reuse_port, |net| match options.reuse_port {
            true => net.listen_with(&addr, options),
            false => net.listen_elsewhere(addr.clone(), settings.clone()),
        })
    }

    /// Listens on a socket that is listening already, as [`Net::listen_from`] does: inherited from a service
    /// manager, or handed over by the process that this one replaces.
    ///
    /// # Errors
    ///
    /// As [`Net::listen_from`].
    pub fn listen_from(&mut self, fd: impl Into<OwnedFd>) -> io::Result<ListenerId> {
        let first = self.first()?;
        let id = first.listen_from(fd)?;
        let addr = address_of(first, id)?;
        self.everywhere(id, true, |net| net.listen_elsewhere(addr.clone(), None))
    }

    /// Listens on `addr` for clients that speak TLS, as [`Net::listen_tls_with`] does. Their handshakes are
    /// made by the reactors that serve them.
    ///
    /// # Errors
    ///
    /// As [`Net::listen_tls_with`].
    #[cfg(feature = "tls")]
    pub fn listen_tls_with(
        &mut self,
        addr: impl IntoAddr,
        options: &ListenOptions,
        tls: Arc<rustls::ServerConfig>,
    ) -> io::Result<ListenerId> {
        let id = self.listen_with(addr, options)?;
        self.set_tls(id, tls);
        Ok(id)
    }

    /// Gives a listener a configuration of TLS, as [`Net::set_tls`] does, in all reactors. While the group runs,
    /// [`GroupHandle::run_on`] does it in each.
    #[cfg(feature = "tls")]
    pub fn set_tls(&mut self, listener: ListenerId, tls: Arc<rustls::ServerConfig>) {
        for reactor in &mut self.reactors {
            reactor.net().set_tls(listener, tls.clone());
        }
    }

    fn first(&mut self) -> io::Result<&mut Net> {
        let first = self.reactors.first_mut().map(Reactor::net);
        first.ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    /// Has the others know a listener of the first by the same identifier.
    fn everywhere(
        &mut self,
        id: ListenerId,
        hands_out: bool,
        mut listen: impl FnMut(&mut Net) -> io::Result<ListenerId>,
    ) -> io::Result<ListenerId> {
        let mut made = Vec::new();
        for reactor in self.reactors.iter_mut().skip(1) {
            let outcome = listen(reactor.net());
            made.push(match outcome {
                Ok(theirs) if theirs == id => Ok(theirs),
                Ok(theirs) => {
                    reactor.net().close_listener(theirs);
                    let message = "the reactors have listeners of their own: listen with the group first";
                    Err(io::Error::new(ErrorKind::InvalidInput, message))
                }
                Err(error) => Err(error),
            });
        }
        if let Some(error) = made.into_iter().find_map(Result::err) {
            for reactor in &mut self.reactors {
                reactor.net().close_listener(id);
            }
            return Err(error);
        }
        if let Some(listener) = self.first()?.listeners.get_mut(id) {
            listener.hands_out = hands_out;
        }
        Ok(id)
    }

    /// The address that a listener is bound to.
    pub fn local_addr(&self, listener: ListenerId) -> Option<Addr> {
        self.reactors.first()?.net_ref().local_addr(listener)
    }

    /// The net of one reactor, to set things up before the group runs: timers, outbound connections. `None`
    /// when there is no such reactor.
    pub fn net(&mut self, reactor: usize) -> Option<&mut Net> {
        Some(self.reactors.get_mut(reactor)?.net())
    }

    /// Names the threads: `NAME-0`, `NAME-1` and so on. Default: `unbroken`. The system shows 15 bytes of a
    /// name.
    pub fn set_name(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    /// Pins each thread to a core, the first to the first of `cores` and so on, beginning again when there are
    /// more threads. Linux only; elsewhere [`run`](Self::run) says that it is `Unsupported`. Default: the
    /// system's scheduler knows best, as it does unless the machine has nothing else to do.
    pub fn pin_to(&mut self, cores: impl IntoIterator<Item = usize>) {
        self.cores = cores.into_iter().collect();
    }

    /// Reaches the group from other threads.
    pub fn handle(&self) -> GroupHandle {
        GroupHandle::new(self.shared.clone())
    }

    /// Runs until a shutdown has been carried out by all. `make` is called once on each thread, and makes its
    /// handler, which never leaves it.
    ///
    /// A shutdown is asked for with [`GroupHandle::shutdown`]. [`Net::shutdown`] in a callback of the first
    /// reactor, which accepts, is one of the whole group; in a callback of another it stops that reactor, and
    /// the rest go on.
    ///
    /// # Errors
    ///
    /// Those of starting the threads and of pinning them, and of a poll; the others are shut down then.
    ///
    /// # Panics
    ///
    /// Passes on the first panic of a handler, unless [`Config::catch_panics`] is set: there is never a dead
    /// core that nobody notices. The reactor it came from is dropped, with its connections; the others are shut
    /// down in good order, for 5 seconds at most.
    pub fn run<H, F>(self, make: F) -> io::Result<()>
    where
        H: Handler,
        F: Fn(Peers) -> H + Send + Sync,
    {
        let Self { reactors, shared, name, cores } = self;
        running::run(reactors, &shared, &name, &cores, &make)
    }
}

fn address_of(net: &Net, id: ListenerId) -> io::Result<Addr> {
    net.local_addr(id).ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}
