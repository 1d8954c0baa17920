//! Configurations of TLS from files of PEM, for the examples. (The tests have such files, made by the
//! line in `tests/tls/files/README`.)

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A server's: its certificates, its own first, its key, and the protocols that it speaks.
#[allow(dead_code)]
pub fn server(cert: &Path, key: &Path, protocols: &[&str]) -> Result<Arc<ServerConfig>, String> {
    let certs = certificates(cert)?;
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", key.display());
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| told(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key));
    let mut config = config.map_err(|error| format!("{}: {error}", cert.display()))?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    // A client that only writes leaves tickets unread, and loses by it what it had still to send.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client's: who is trusted stands in a file, or is what this machine trusts.
#[allow(dead_code)]
pub fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for cert in certificates(path)? {
                roots.add(cert).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine trusts nobody: name a file with --ca".to_owned());
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certs = CertificateDer::pem_file_iter(path).map_err(|error| told(&error))?;
    let certs: Vec<_> = certs.collect::<Result<_, _>>().map_err(|error| told(&error))?;
    match certs.is_empty() {
        true => Err(told(&"no certificate in it")),
        false => Ok(certs),
    }
}
