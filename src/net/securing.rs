//! TLS: which connections are secured, from when on, and by what.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::{Entry, Net};
use crate::addr::IntoAddr;
use crate::connect_options::ConnectOptions;
use crate::connection::State;
use crate::id::{ConnId, ListenerId};
use crate::listen_options::ListenOptions;
use crate::tls::{without_early_data, Session, Tls, TlsInfo};

/// The session of a connection that is not established yet.
#[derive(Debug)]
pub(super) struct Pending {
    session: Box<dyn Session>,
    /// Bytes that were queued before it was asked for.
    clear: usize,
}

/// TLS (feature `tls`). The handler does not change: it sends and receives plaintext, and all figures
/// count plaintext. `on_open` comes after the handshake; what is sent before it is queued.
///
/// The program brings its configuration, and with it the provider of cryptography: the library chooses
/// none, and installs none.
impl Net {
    /// Listens on `addr` for clients that speak TLS from the first byte on.
    ///
    /// A client has [`handshake_timeout`](crate::Config::handshake_timeout) for its handshake. One that
    /// fails is told the alert, and ends as [`Tls`](crate::CloseReason::Tls); no `on_open` comes for it.
    ///
    /// Set [`send_tls13_tickets`](ServerConfig::send_tls13_tickets) to 0 unless clients come again and
    /// again: a client that only writes leaves the tickets unread, and when it closes its kernel throws away what
    /// it had still to send.
    ///
    /// # Errors
    ///
    /// As [`listen`](Self::listen).
    pub fn listen_tls(&mut self, addr: impl IntoAddr, tls: Arc<ServerConfig>) -> io::Result<ListenerId> {
        self.listen_tls_with(addr, &ListenOptions::default(), tls)
    }

    /// Listens as [`listen_tls`](Self::listen_tls) does, with settings of this listener's own.
    ///
    /// # Errors
    ///
    /// As [`listen_with`](Self::listen_with).
    pub fn listen_tls_with(
        &mut self,
        addr: impl IntoAddr,
        options: &ListenOptions,
        tls: Arc<ServerConfig>,
    ) -> io::Result<ListenerId> {
        let id = self.listen_with(addr, options)?;
        self.set_tls(id, tls);
        Ok(id)
    }

    /// Gives a listener, whether it has one or not, another configuration of TLS: for the clients that
    /// it accepts from now on.
    pub fn set_tls(&mut self, listener: ListenerId, tls: Arc<ServerConfig>) {
        self.secure_listener(listener, Tls::Server(without_early_data(tls)));
    }

    pub(crate) fn secure_listener(&mut self, listener: ListenerId, tls: Tls) {
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.tls = Some(tls);
        }
    }

    /// Connects to `addr`, an address or a host's name, and speaks TLS from the first byte on. The
    /// certificate of the server has to be for `name`.
    ///
    /// [`connect_timeout`](crate::Config::connect_timeout) covers the connection,
    /// [`handshake_timeout`](crate::Config::handshake_timeout) what follows.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and `InvalidInput` for a configuration that allows no handshake.
    pub fn connect_tls(
        &mut self,
        addr: impl IntoAddr,
        name: ServerName<'static>,
        tls: Arc<ClientConfig>,
    ) -> io::Result<ConnId> {
        self.connect_tls_with(addr, &ConnectOptions::default(), name, tls)
    }

    /// Connects as [`connect_tls`](Self::connect_tls) does, with what `options` ask for.
    ///
    /// # Errors
    ///
    /// As [`connect_with`](Self::connect_with) and [`connect_tls`](Self::connect_tls).
    pub fn connect_tls_with(
        &mut self,
        addr: impl IntoAddr,
        options: &ConnectOptions,
        name: ServerName<'static>,
        tls: Arc<ClientConfig>,
    ) -> io::Result<ConnId> {
        let session = Tls::Client(tls, name).session()?;
        let id = self.connect_with(addr, options)?;
        self.secure_when_established(id, session);
        Ok(id)
    }

    /// Goes over to TLS on a connection that is open, or that is being established (STARTTLS, a PROXY
    /// header). What is queued so far goes out as it is. What has come in and
    /// [`on_data`](crate::Handler::on_data) leaves unused is taken to be the peer's part of the handshake:
    /// a command that was slipped in behind the one that asks for TLS makes it fail, as it must.
    ///
    /// The connection is [`Handshaking`](State::Handshaking) until that is done. `on_open` comes once for
    /// each connection, so one that is open already hears of nothing; what it sends meanwhile is queued, and
    /// [`tls`](Self::tls) tells when it has been done.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a connection that is gone, closing, or at the end of either stream;
    /// `InvalidInput` for one that is secured already, and for a configuration that allows no handshake.
    pub fn start_tls(&mut self, conn: ConnId, tls: Tls) -> io::Result<()> {
        let entry = self.conns.get(conn);
        let Some(Entry { conn: state, .. }) = entry.filter(|entry| entry.conn.may_be_secured()) else {
            let message = "the connection is not open in both directions";
            return Err(io::Error::new(ErrorKind::NotConnected, message));
        };
        if state.is_secured() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the connection is secured already"));
        }
        let (clear, established) = (state.queued(), state.state() != State::Connecting);
        let session = tls.session()?;
        self.secure_when_established(conn, session);
        if let Some(pending) = self.sessions.get_mut(conn) {
            pending.clear = clear;
        }
        if established {
            self.tick();
            self.secure(conn);
            self.touch(conn, |conn, stream, cx| {
                if let Some(secured) = stream.session_mut() {
                    secured.feed(conn.unused_input());
                }
                conn.begin_handshake(true, stream, cx);
            });
            self.mark_dirty(conn);
        }
        Ok(())
    }

    /// What was agreed on with the peer: `None` for a connection that has no TLS, or whose handshake is
    /// not done, or that is gone.
    pub fn tls(&self, conn: ConnId) -> Option<&TlsInfo> {
        self.conns.get(conn)?.stream.session()?.info()
    }

    /// Puts a session above the socket of a client that has come in, if its listener asks for one.
    /// Returns whether it does.
    pub(crate) fn secure_client(&mut self, id: ConnId, listener: ListenerId) -> bool {
        let tls = self.listeners.get(listener).and_then(|listener| listener.tls.clone());
        let Some(tls) = tls else { return false };
        match tls.session() {
            Ok(session) => {
                // Not by way of those who wait, whose map has a place for every connection there is.
                self.put_above(id, Pending { session, clear: 0 });
                self.greeters.push_back(id);
                self.touch(id, |conn, stream, cx| conn.begin_handshake(false, stream, cx));
            }
            Err(error) => {
                log::error!("listener {listener}: {error}");
                self.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
            }
        }
        true
    }

    fn secure_when_established(&mut self, id: ConnId, session: Box<dyn Session>) {
        if let Some(Entry { conn, .. }) = self.conns.get_mut(id) {
            conn.will_be_secured();
            self.sessions.insert(id, Pending { session, clear: 0 });
        }
    }

    /// Puts the session that waits for it above the socket of an established connection.
    pub(crate) fn secure(&mut self, id: ConnId) {
        if let Some(pending) = self.sessions.remove(id) {
            self.put_above(id, pending);
        }
    }

    fn put_above(&mut self, id: ConnId, Pending { session, clear }: Pending) {
        if let Some(entry) = self.conns.get_mut(id) {
            entry.stream.secure(session, clear, self.config.allow_missing_close_notify);
        }
    }

    /// Bytes that a handler left unused when it had gone over to TLS.
    pub(crate) fn feed_session(&mut self, id: ConnId, raw: &[u8]) {
        if let Some(secured) = self.conns.get_mut(id).and_then(|entry| entry.stream.session_mut()) {
            secured.feed(raw);
        }
    }
}
