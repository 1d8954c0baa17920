//! Configurations of sessions at their limits.

use std::sync::{mpsc, Arc};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};
use unbroken::{Config, Handler};

use crate::peer::{client_config, file};
use crate::util::{serve_with, Custom, Echo, Server};

/// With keys that are good for so many records.
pub fn serve_with_few_keys(records: u64) -> Server {
    let mut provider = rustls::crypto::ring::default_provider();
    for suite in &mut provider.cipher_suites {
        *suite = with_limit(*suite, records);
    }
    serve(server(provider), Custom::default())
}

fn with_limit(suite: SupportedCipherSuite, records: u64) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let mut common = common(&suite.common);
            common.confidentiality_limit = records;
            let suite = Tls12CipherSuite {
                common,
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: suite.aead_alg,
            };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls13(suite) => {
            let mut common = common(&suite.common);
            common.confidentiality_limit = records;
            let suite = Tls13CipherSuite {
                common,
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: suite.quic,
            };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
    }
}

fn common(of: &rustls::crypto::CipherSuiteCommon) -> rustls::crypto::CipherSuiteCommon {
    rustls::crypto::CipherSuiteCommon {
        suite: of.suite,
        hash_provider: of.hash_provider,
        confidentiality_limit: of.confidentiality_limit,
    }
}

/// Which takes data in a client's first flight.
pub fn serve_with_early_data() -> Server {
    let mut config = server(rustls::crypto::ring::default_provider());
    config.max_early_data_size = 1000;
    config.send_tls13_tickets = 2;
    serve(config, Echo)
}

pub fn early_client() -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&client_config());
    config.enable_early_data = true;
    Arc::new(config)
}

fn server(provider: CryptoProvider) -> ServerConfig {
    let cert = CertificateDer::from_pem_file(file("ed25519.cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(file("ed25519.key.pem")).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let mut config = builder.with_single_cert(vec![cert], key).expect("they fit");
    config.send_tls13_tickets = 0;
    config
}

/// A server on a thread of its own, with a configuration of TLS of its own.
pub fn serve<H: Handler + Send + 'static>(tls: ServerConfig, handler: H) -> Server {
    serve_configured(Config::default(), tls, handler)
}

pub fn serve_configured<H: Handler + Send + 'static>(
    config: Config,
    tls: ServerConfig,
    handler: H,
) -> Server {
    let (told, addr) = mpsc::channel();
    let mut server = serve_with(config, handler, move |net| {
        let listener = net.listen_tls("127.0.0.1:0", Arc::new(tls)).expect("a port");
        let addr = net.local_addr(listener).and_then(|addr| addr.as_tcp());
        told.send(addr.expect("an address")).expect("the test waits");
    });
    server.addr = addr.recv().expect("an address");
    server
}
