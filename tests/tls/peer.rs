//! The other end: rustls on a plain socket, one call at a time, so that a test decides what goes out
//! when.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{mpsc, Arc};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ServerConfig};
use unbroken::{Config, Handler, Net};

use crate::example_tls as certificates;
use crate::util::{serve_with, Server};

/// A file that the tests have.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/files").join(name)
}

pub fn server_config() -> Arc<ServerConfig> {
    certificates::server(&file("ed25519.cert.pem"), &file("ed25519.key.pem"), &["h2", "http/1.1"])
        .expect("files")
}

pub fn client_config() -> Arc<ClientConfig> {
    certificates::client(Some(&file("ed25519.cert.pem"))).expect("files")
}

/// One version of the protocol alone.
pub fn only(version: &str) -> Arc<ClientConfig> {
    let version = if version == "1.2" { &TLS12 } else { &TLS13 };
    let mut roots = rustls::RootCertStore::empty();
    let cert = CertificateDer::from_pem_file(file("ed25519.cert.pem")).expect("a certificate");
    roots.add(cert).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    Arc::new(builder.expect("a version").with_root_certificates(roots).with_no_client_auth())
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

pub fn configured(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

/// A server of TLS on a thread of its own.
pub fn serve_tls<H: Handler + Send + 'static>(config: Config, handler: H) -> Server {
    serve_tls_with(config, handler, |_| {})
}

pub fn serve_tls_with<H: Handler + Send + 'static>(
    config: Config,
    handler: H,
    set_up: impl FnOnce(&mut Net) + Send + 'static,
) -> Server {
    let (told, addr) = mpsc::channel();
    let mut server = serve_with(config, handler, move |net| {
        let listener = net.listen_tls("127.0.0.1:0", server_config()).expect("a port");
        let addr = net.local_addr(listener).and_then(|addr| addr.as_tcp());
        told.send(addr.expect("an address")).expect("the test waits");
        set_up(net);
    });
    server.addr = addr.recv().expect("an address");
    server
}

/// A client's session on a socket.
pub struct Client {
    pub session: ClientConnection,
    pub socket: TcpStream,
}

impl Client {
    /// Nothing of it has been sent yet.
    pub fn of(server: &Server) -> Self {
        Self::with(server, client_config())
    }

    pub fn with(server: &Server, config: Arc<ClientConfig>) -> Self {
        Self::on(server.client(), config)
    }

    pub fn on(socket: TcpStream, config: Arc<ClientConfig>) -> Self {
        // A test that speaks by turns is not to wait for delayed acknowledgements.
        let _ = socket.set_nodelay(true);
        let mut session = ClientConnection::new(config, name()).expect("a session");
        session.set_buffer_limit(None);
        Self { session, socket }
    }

    /// The handshake is done.
    pub fn ready(server: &Server) -> Self {
        let mut client = Self::of(server);
        client.shake_hands();
        client
    }

    /// It has sent all but the last of its handshake, which is that.
    pub fn at_the_end_of_its_handshake(server: &Server) -> (Self, Vec<u8>) {
        let mut client = Self::of(server);
        let hello = client.sealed();
        client.socket.write_all(&hello).expect("a write");
        while client.session.is_handshaking() {
            client.session.read_tls(&mut client.socket).expect("a read");
            client.session.process_new_packets().expect("records");
        }
        let last = client.sealed();
        (client, last)
    }

    pub fn shake_hands(&mut self) {
        while self.session.is_handshaking() || self.session.wants_write() {
            self.session.complete_io(&mut self.socket).expect("a handshake");
        }
    }

    /// The bytes that the session has ready.
    pub fn sealed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    /// A record, not sent.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        self.session.writer().write_all(plain).expect("memory");
        self.sealed()
    }

    pub fn send(&mut self, plain: &[u8]) {
        let sealed = self.seal(plain);
        self.socket.write_all(&sealed).expect("a write");
    }

    /// Ends its session and the stream, in good order.
    pub fn end(&mut self) {
        self.session.send_close_notify();
        let bytes = self.sealed();
        self.socket.write_all(&bytes).expect("a write");
        self.socket.shutdown(std::net::Shutdown::Write).expect("shutdown");
    }

    /// Reads so many bytes of plaintext.
    pub fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut plain = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.session.reader().read(&mut plain[filled..]) {
                Ok(0) => panic!("the end of the session after {filled} bytes of {count}"),
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let read = self.session.read_tls(&mut self.socket).expect("a read");
                    assert!(read > 0, "the end of the stream after {filled} bytes of {count}");
                    self.session.process_new_packets().expect("records");
                }
                Err(error) => panic!("{error}"),
            }
        }
        plain
    }

    /// All there is up to the end, and whether the session was ended before the stream.
    pub fn receive_all(&mut self) -> (Vec<u8>, bool) {
        let (plain, ended) = self.receive_until_end();
        (plain, ended.expect("a read"))
    }

    /// The same, or the error that the stream ended in.
    pub fn receive_until_end(&mut self) -> (Vec<u8>, Result<bool, ErrorKind>) {
        let mut plain = Vec::new();
        loop {
            let read = match self.session.read_tls(&mut self.socket) {
                Ok(read) => read,
                Err(error) => return (plain, Err(error.kind())),
            };
            let state = self.session.process_new_packets().expect("records");
            let mut part = vec![0; state.plaintext_bytes_to_read()];
            self.session.reader().read_exact(&mut part).expect("plaintext");
            plain.append(&mut part);
            if read == 0 || state.peer_has_closed() {
                return (plain, Ok(state.peer_has_closed()));
            }
        }
    }
}
