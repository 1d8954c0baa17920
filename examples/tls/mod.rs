//! TLS by a flag, for the examples: `--tls CERT KEY` for servers, `--tls [--ca FILE]` for clients, all of
//! them files of PEM. (The line in `tests/tls/files/README` makes such files.)

use std::fmt::Display;
use std::io::{Error, ErrorKind, Result as IoResult, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use unbroken::{Addr, ConnId, Group, IntoAddr, ListenerId, Net};

/// What a server speaks with its clients.
#[derive(Clone, Debug, Default)]
pub struct Front(Option<Arc<ServerConfig>>);

#[allow(dead_code)]
impl Front {
    /// Takes the flag out of the arguments, if it is there. `protocols` are those for ALPN.
    pub fn take(args: &mut Vec<String>, protocols: &[&str]) -> IoResult<Self> {
        let Some(at) = args.iter().position(|arg| arg == "--tls") else { return Ok(Self(None)) };
        let files = args
            .get(at + 1)
            .zip(args.get(at + 2))
            .ok_or_else(|| Error::other("--tls wants two files: CERT KEY"))?;
        let config = server(Path::new(files.0), Path::new(files.1), protocols)?;
        args.drain(at..at + 3);
        Ok(Self(Some(config)))
    }

    /// Listens, and says on standard output where.
    pub fn open(&self, net: &mut Net, addr: &str) -> IoResult<ListenerId> {
        let listener = self.listen(net, addr)?;
        if let Some(addr) = net.local_addr(listener) {
            // Nobody may be reading: that is no reason not to serve.
            let _ = writeln!(std::io::stdout(), "listening on {addr}");
        }
        Ok(listener)
    }

    /// Has a group's listener speak TLS, if that is asked for.
    pub fn secure(&self, group: &mut Group, listener: ListenerId) {
        if let Some(config) = &self.0 {
            group.set_tls(listener, config.clone());
        }
    }

    pub fn listen(&self, net: &mut Net, addr: impl IntoAddr) -> IoResult<ListenerId> {
        match &self.0 {
            Some(config) => net.listen_tls(addr, config.clone()),
            None => net.listen(addr),
        }
    }
}

/// What a client speaks with its server.
#[derive(Clone, Debug)]
pub struct Line(Option<Arc<ClientConfig>>);

#[allow(dead_code)]
impl Line {
    /// Takes the flags out of the arguments, if they are there.
    pub fn take(args: &mut Vec<String>) -> IoResult<Self> {
        let Some(at) = args.iter().position(|arg| arg == "--tls") else { return Ok(Self(None)) };
        args.remove(at);
        let Some(at) = args.iter().position(|arg| arg == "--ca") else {
            return Ok(Self(Some(client(None)?)));
        };
        let file = args.get(at + 1).ok_or_else(|| Error::other("--ca wants a file"))?;
        let config = client(Some(Path::new(file)))?;
        args.drain(at..at + 2);
        Ok(Self(Some(config)))
    }

    /// The certificate has to be for what was asked for: a host's name, or an address.
    pub fn connect(&self, net: &mut Net, addr: &Addr) -> IoResult<ConnId> {
        let Some(config) = &self.0 else { return net.connect(addr) };
        let name = match addr {
            Addr::Tcp(addr) => Ok(ServerName::from(addr.ip())),
            Addr::Host(host) => ServerName::try_from(host.name().to_owned()),
            _ => ServerName::try_from("localhost"),
        };
        let name = name.map_err(|error| Error::new(ErrorKind::InvalidInput, error))?;
        net.connect_tls(addr, name, config.clone())
    }
}

/// A server's: its certificates, its own first, its key, and the protocols that it speaks.
#[allow(dead_code)]
pub fn server(cert: &Path, key: &Path, protocols: &[&str]) -> IoResult<Arc<ServerConfig>> {
    let certs = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key));
    let mut config = config.map_err(|error| in_file(cert, error))?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    // A client that only writes leaves tickets unread, and loses by it what it had still to send.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client's: who is trusted stands in a file, or is what this machine trusts.
#[allow(dead_code)]
pub fn client(ca: Option<&Path>) -> IoResult<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for cert in certificates(path)? {
                roots.add(cert).map_err(|error| in_file(path, error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Error::other("this machine trusts nobody: name a file with --ca"));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn certificates(path: &Path) -> IoResult<Vec<CertificateDer<'static>>> {
    let certs = CertificateDer::pem_file_iter(path).map_err(|error| in_file(path, error))?;
    let certs: Vec<_> = certs.collect::<Result<_, _>>().map_err(|error| in_file(path, error))?;
    match certs.is_empty() {
        true => Err(in_file(path, "no certificate in it")),
        false => Ok(certs),
    }
}

fn in_file(path: &Path, error: impl Display) -> Error {
    Error::other(format!("{}: {error}", path.display()))
}
