//! Listening, and what can be asked of the sockets of listeners and connections.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Deadline, Net};
use crate::addr::{Addr, IntoAddr};
use crate::id::{ConnId, ListenerId};
use crate::listen_options::ListenOptions;
use crate::listener::Listener;
use crate::settings::Settings;
use crate::socket::{Acceptor, Credentials};

impl Net {
    /// Listens on `addr`: an address, or its text (`127.0.0.1:7007`, `unix:/run/x.sock`, on Linux also
    /// `unix:@name`). Port 0 lets the system choose; [`local_addr`](Self::local_addr) tells the choice.
    ///
    /// The path of a Unix-domain socket is removed when the listener goes, unless it has become
    /// somebody else's, and by this process only: a forked child's copy leaves it alone. One that a
    /// dead server has left behind is replaced. Those who start at the same time take turns, by a
    /// lock of the path's folder: one listens, the others hear `AddrInUse`. When somebody keeps that
    /// lock, the call waits for it for a second, and goes on without.
    ///
    /// # Errors
    ///
    /// Those of `socket`, `bind` and `listen`: `AddrInUse` when somebody listens there already, or is
    /// about to, or the path leads to something else than a socket. `InvalidInput` for what is no
    /// address, host names among it (the error says what to write instead); `ConnectionAborted`
    /// during a shutdown.
    pub fn listen(&mut self, addr: impl IntoAddr) -> io::Result<ListenerId> {
        self.listen_with(addr, &ListenOptions::default())
    }

    /// Listens on `addr` with settings of this listener's own: side by side with other addresses or
    /// other processes, or with a mode for its path.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a setting that does not fit the address, or cannot be met; otherwise as
    /// [`listen`](Self::listen), and those of `setsockopt` and `chmod`.
    pub fn listen_with(&mut self, addr: impl IntoAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        let addr = addr.into_addr()?;
        options.fit(&addr)?;
        self.refuse_while_stopping()?;
        if let Some(settings) = &options.settings {
            settings.validate(self.config.total_write_buffer)?;
            self.has_soft_limits |= settings.soft_limit.is_some();
        }
        let acceptor = self.system.bind(&addr, options, &self.config)?;
        let settings = options.settings.clone().map(Arc::new);
        self.add_listener(acceptor, settings)
    }

    /// Listens on a socket that is listening already: inherited from a service manager, or handed
    /// over by the process that this one replaces. It is made as one of our own would be: not left to
    /// children (close-on-exec), non-blocking, its options as in the configuration, those that are
    /// off there included. (Only `send_buffer` and `recv_buffer` leave it as it is when they are
    /// `None`.) A path that it is bound to stays when the listener goes.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, and which it is, for a descriptor that is no socket, or a socket that is not a
    /// stream (datagrams, `SOCK_SEQPACKET`), neither TCP nor Unix-domain, a connection, or not
    /// listening (macOS does not tell; there `on_listener_error` does). Errors of the system's calls;
    /// `ConnectionAborted` during a shutdown.
    pub fn listen_from(&mut self, fd: impl Into<OwnedFd>) -> io::Result<ListenerId> {
        // It may be shared: nothing is done to it unless it is taken.
        self.refuse_while_stopping()?;
        let acceptor = self.system.adopt(fd.into(), &self.config)?;
        self.add_listener(acceptor, None)
    }

    /// Takes a listener of a group's acceptor for its own: there is none to accept from here, but its address,
    /// its settings and its identifier are the same in all reactors.
    pub(crate) fn listen_elsewhere(
        &mut self,
        addr: Addr,
        settings: Option<Settings>,
    ) -> io::Result<ListenerId> {
        self.add_listener(Acceptor::Elsewhere(addr), settings.map(Arc::new))
    }

    fn add_listener(
        &mut self,
        mut acceptor: Acceptor,
        settings: Option<Arc<Settings>>,
    ) -> io::Result<ListenerId> {
        let registry = &self.system.registry;
        let mut result = Ok(());
        let id = self.listeners.insert_with(|id: ListenerId| {
            result = acceptor.register(registry, id.token());
            Listener::new(acceptor, settings)
        });
        if let Err(error) = result {
            self.listeners.remove(id);
            return Err(error);
        }
        Ok(id)
    }

    /// The address that a listener is bound to.
    pub fn local_addr(&self, listener: ListenerId) -> Option<Addr> {
        self.listeners.get(listener)?.acceptor.local_addr().ok()
    }

    /// A listener's file descriptor, to be handed over to another process. The path of a Unix-domain
    /// socket is not removed with the listener any more: it belongs to the other.
    ///
    /// Once the other process accepts from it, call [`close_listener`](Self::close_listener) here
    /// before [`shutdown`](Self::shutdown): a shutdown takes in the clients that still wait, which the other could serve.
    pub fn listener_fd(&self, listener: ListenerId) -> Option<BorrowedFd<'_>> {
        self.listeners.get(listener)?.acceptor.share_fd()
    }

    /// Stops listening. Clients that still wait in the backlog are reset by the kernel, unless
    /// another process shares the socket; [`shutdown`](Self::shutdown) takes them in first.
    pub fn close_listener(&mut self, listener: ListenerId) {
        #[cfg(feature = "sim")]
        self.note_by_hand(true);
        self.drop_listener(listener);
        #[cfg(feature = "sim")]
        self.note_by_hand(false);
    }

    /// Something was freed that a listener may wait for. Returns whether it has a try to make up for.
    pub(crate) fn listener_may_go_on(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.listeners.get_mut(id) else { return false };
        let (retry, owed) = (listener.retry_at(), listener.on_freed());
        // Under churn at the limit there is a pause for each connection that ends: none of those
        // that were cut short is to wake anybody when it would have been over.
        self.deadlines.disarm_single(retry, Deadline::Listener(id));
        owed
    }

    pub(crate) fn drop_listener(&mut self, listener: ListenerId) {
        if let Some(mut listener) = self.listeners.remove(listener) {
            listener.acceptor.deregister(&self.system.registry);
        }
    }

    /// The address of our end of a connection: which of the machine's a client came in at, or which
    /// the system chose for an outbound connection. A Unix-domain socket that has no name has an
    /// empty path. `None` for a connection that is gone, and while there is no socket yet.
    pub fn local_addr_of(&self, conn: ConnId) -> Option<Addr> {
        self.conns.get(conn)?.stream.local_addr()
    }

    /// The process at the other end of a Unix-domain connection, on Linux and Android. `None`
    /// elsewhere, for other connections, and for one that is gone.
    pub fn peer_credentials(&self, conn: ConnId) -> Option<Credentials> {
        self.conns.get(conn)?.stream.peer_credentials()
    }
}
