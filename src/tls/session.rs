//! What a secured transport needs of a TLS session, and rustls as one.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, Connection, Error, HandshakeKind,
    ProtocolVersion, ServerConfig, ServerConnection,
};

#[cfg(feature = "sim")]
use super::toy::Toy;
use crate::close::{Alert, Side};
use crate::transport::SessionError;

/// How bytes are sealed and opened. It does no input or output of its own.
pub(crate) trait Session: fmt::Debug + Send {
    /// Takes in bytes from the peer, until it has so much plaintext that some must be opened first.
    /// Returns how many.
    fn absorb(&mut self, raw: &[u8]) -> Result<usize, SessionError>;

    /// Moves plaintext out. What came before an error can still be had.
    fn open(&mut self, plain: &mut [u8]) -> usize;

    /// Plaintext that is ready to be opened.
    fn opened(&self) -> usize;

    /// Seals up to `most` bytes of `plain`, from `skip` on, into one record. Returns how many.
    fn seal(&mut self, plain: &[IoSlice<'_>], skip: usize, most: usize) -> usize;

    /// Seals the end of our direction.
    fn end(&mut self);

    /// Bytes that are ready to be sent to the peer.
    fn sealed(&self) -> usize;

    /// Has `send` take the front of them, and forgets what it took.
    fn transmit(&mut self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize>;

    /// Whether application data cannot be sent or received yet.
    fn is_handshaking(&self) -> bool;

    /// Whether the peer ended its direction and all plaintext before that has been opened.
    fn is_ended(&self) -> bool;

    /// What was agreed on, once it has been.
    fn info(&self) -> Option<TlsInfo>;

    /// Whether a simulation can read what is sealed.
    #[cfg(feature = "sim")]
    fn is_toy(&self) -> bool {
        false
    }
}

/// How a connection is to be secured: which end of the session it is, and with which configuration.
#[derive(Clone)]
#[non_exhaustive]
pub enum Tls {
    /// The server's end.
    Server(Arc<ServerConfig>),
    /// The client's end, with the name that the server's certificate must be for.
    Client(Arc<ClientConfig>, ServerName<'static>),
    /// The server's end of the simulator's own session, which has no cryptography: simulated peers speak
    /// it from [`Script::secure`](crate::sim::Script::secure) on.
    #[cfg(feature = "sim")]
    SimServer,
    /// The client's end of that.
    #[cfg(feature = "sim")]
    SimClient,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(_) => f.write_str("Server(..)"),
            Self::Client(_, name) => f.debug_tuple("Client").field(name).finish_non_exhaustive(),
            #[cfg(feature = "sim")]
            Self::SimServer => f.write_str("SimServer"),
            #[cfg(feature = "sim")]
            Self::SimClient => f.write_str("SimClient"),
        }
    }
}

impl Tls {
    pub(crate) fn session(self) -> io::Result<Box<dyn Session>> {
        let connection = match self {
            Self::Server(config) => ServerConnection::new(without_early_data(config)).map(Connection::Server),
            Self::Client(config, name) => ClientConnection::new(config, name).map(Connection::Client),
            #[cfg(feature = "sim")]
            Self::SimServer => return Ok(Box::new(Toy::server())),
            #[cfg(feature = "sim")]
            Self::SimClient => return Ok(Box::new(Toy::client())),
        };
        let connection = connection.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
        Ok(Box::new(Rustls::new(connection)))
    }
}

/// What a client sends ahead of the handshake would come apart from all else, and whoever heard it before
/// may send it again: it is refused, whereupon the client sends it in its place.
pub(crate) fn without_early_data(config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    if config.max_early_data_size == 0 {
        return config;
    }
    let mut config = ServerConfig::clone(&config);
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// What the two ends of a TLS session agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version of the protocol.
    pub version: ProtocolVersion,
    /// The cipher suite.
    pub suite: CipherSuite,
    /// The application protocol (ALPN), if one was agreed on.
    pub alpn: Option<Vec<u8>>,
    /// The server name that the client asked for (SNI), at the server's end.
    pub server_name: Option<String>,
    /// The certificates that the peer presented, its own first.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// The session goes on from an earlier one.
    pub resumed: bool,
}

/// So much plaintext is opened ahead: a record's worth, at which rustls takes no more in.
const FULL: usize = 16 << 10;

/// Over the buffered interface of rustls 0.23.
struct Rustls {
    connection: Connection,
    /// Bytes in its queue to be sent. It tells of that when it has processed something.
    sealed: usize,
    opened: usize,
    peer_ended: bool,
    /// It told an error, and how much plaintext is before that it did not tell.
    failed: bool,
    /// Our direction has been ended.
    ended: bool,
}

impl fmt::Debug for Rustls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rustls")
            .field("sealed", &self.sealed)
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}

impl Rustls {
    fn new(connection: Connection) -> Self {
        let mut session =
            Self { connection, sealed: 0, opened: 0, peer_ended: false, failed: false, ended: false };
        // How much is sealed ahead is bounded where it is sealed.
        session.connection.set_buffer_limit(None);
        // A client has its first flight ready.
        let _ = session.process();
        session
    }

    fn process(&mut self) -> Result<(), SessionError> {
        // Behind our end it has no alert to send any more, and with debug assertions panics about it.
        let processed = match self.ended {
            false => Some(self.connection.process_new_packets()),
            true => catch_unwind(AssertUnwindSafe(|| self.connection.process_new_packets())).ok(),
        };
        let Some(processed) = processed else {
            self.failed = true;
            return Err(SessionError { alert: None, text: "what came behind our end is no message".into() });
        };
        match processed {
            Ok(state) => {
                self.sealed = state.tls_bytes_to_write();
                self.opened = state.plaintext_bytes_to_read();
                self.peer_ended = state.peer_has_closed();
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// It has an alert ready, if it was the one to object. How long that is shows when it is sent.
    fn failed(&mut self, error: Error) -> SessionError {
        let objects = self.connection.wants_write() && !self.ended;
        if objects {
            self.sealed += 1;
        }
        self.failed = true;
        self.opened = self.opened.max(1);
        let alert = match &error {
            Error::AlertReceived(alert) => Some(Alert { by: Side::Peer, code: u8::from(*alert) }),
            error => {
                let alert = alert_for(error).filter(|_| objects);
                alert.map(|alert| Alert { by: Side::Local, code: u8::from(alert) })
            }
        };
        SessionError { alert, text: error.to_string().into() }
    }
}

/// The alert that rustls sends for an error of its own finding, as far as it tells.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::InvalidCertificate(error) => Some(error.clone().into()),
        Error::InvalidMessage(error) => Some((*error).into()),
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::NoApplicationProtocol => Some(AlertDescription::NoApplicationProtocol),
        Error::NoCertificatesPresented => Some(AlertDescription::CertificateRequired),
        Error::PeerIncompatible(_) => Some(AlertDescription::HandshakeFailure),
        Error::PeerMisbehaved(_) => Some(AlertDescription::IllegalParameter),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            Some(AlertDescription::UnexpectedMessage)
        }
        _ => None,
    }
}

/// Up to `most` bytes of `slices`, from `skip` on, in the pieces that they stand in.
fn parts<'a>(slices: &'a [IoSlice<'_>], skip: usize, most: usize) -> impl Iterator<Item = &'a [u8]> {
    let (mut skip, mut left) = (skip, most);
    let parts = slices.iter().map(move |slice| {
        let rest = slice.get(skip.min(slice.len())..).unwrap_or_default();
        skip = skip.saturating_sub(slice.len());
        let part = rest.get(..left).unwrap_or(rest);
        left -= part.len();
        part
    });
    parts.filter(|part| !part.is_empty())
}

/// Writes by the slices that rustls has ready.
struct Sink<'a> {
    send: &'a mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    /// How many bytes were offered in all.
    offered: usize,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.offered = slices.iter().map(|slice| slice.len()).sum();
        (self.send)(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session for Rustls {
    fn absorb(&mut self, raw: &[u8]) -> Result<usize, SessionError> {
        let mut rest = raw;
        while !rest.is_empty() && self.opened < FULL {
            match self.connection.read_tls(&mut rest) {
                // Behind the peer's end nothing is taken in any more.
                Ok(0) => return Ok(raw.len()),
                Ok(_) => {}
                // Full of plaintext, or of what is no message.
                Err(_) if self.opened > 0 => break,
                Err(error) => {
                    return Err(SessionError { alert: None, text: error.to_string().into() });
                }
            }
            self.process()?;
        }
        Ok(raw.len() - rest.len())
    }

    fn open(&mut self, plain: &mut [u8]) -> usize {
        if self.opened == 0 || plain.is_empty() {
            return 0;
        }
        let count = self.connection.reader().read(plain).unwrap_or(0);
        self.opened = match count {
            0 => 0,
            _ => self.opened.saturating_sub(count).max(usize::from(self.failed)),
        };
        count
    }

    fn opened(&self) -> usize {
        self.opened
    }

    fn seal(&mut self, plain: &[IoSlice<'_>], skip: usize, most: usize) -> usize {
        let before = self.sealed;
        let mut parts = parts(plain, skip, most);
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let mut writer = self.connection.writer();
        let sealed = match second {
            // As is usual: no list is needed.
            None => writer.write(first),
            Some(second) => {
                let all = [first, second].into_iter().chain(parts).map(IoSlice::new);
                writer.write_vectored(&all.collect::<Vec<_>>())
            }
        };
        let sealed = sealed.unwrap_or(0);
        // It tells how long the record is.
        let _ = self.process();
        // When its keys are used up it says that it took what it dropped.
        match self.sealed < before + sealed {
            true => 0,
            false => sealed,
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.connection.send_close_notify();
        let _ = self.process();
    }

    fn sealed(&self) -> usize {
        self.sealed
    }

    fn transmit(&mut self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut sink = Sink { send, offered: 0 };
        let sent = self.connection.write_tls(&mut sink)?;
        self.sealed = match self.connection.wants_write() {
            true => self.sealed.max(sink.offered) - sent,
            false => 0,
        };
        Ok(sent)
    }

    fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    fn is_ended(&self) -> bool {
        self.peer_ended && self.opened == 0
    }

    fn info(&self) -> Option<TlsInfo> {
        let connection = &self.connection;
        Some(TlsInfo {
            version: connection.protocol_version()?,
            suite: connection.negotiated_cipher_suite()?.suite(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            server_name: match connection {
                Connection::Server(server) => server.server_name().map(str::to_owned),
                Connection::Client(_) => None,
            },
            peer_certificates: connection.peer_certificates().unwrap_or_default().to_vec(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}
