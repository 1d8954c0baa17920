//! A client that has done its handshake by rustls and from then on seals what the test says, well-formed
//! or not: what no honest library sends.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};

use crate::peer::{only, Client};
use crate::util::Server;

pub struct Forger {
    pub socket: TcpStream,
    sealer: Box<dyn MessageEncrypter>,
    next: u64,
}

impl Forger {
    /// In one version of the protocol alone.
    pub fn ready(server: &Server, version: &str) -> Self {
        let mut config = ClientConfig::clone(&only(version));
        config.enable_secret_extraction = true;
        let mut client = Client::with(server, Arc::new(config));
        client.shake_hands();
        let suite = client.session.negotiated_cipher_suite().expect("a suite");
        let Client { session, socket } = client;
        let secrets = session.dangerous_extract_secrets().expect("the handshake is done");
        let (next, secrets) = secrets.tx;
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            panic!("another suite");
        };
        let sealer = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                let (salt, explicit) = iv.as_ref().split_at(fixed);
                suite.aead_alg.encrypter(key, salt, explicit)
            }
        };
        Self { socket, sealer, next }
    }

    /// One record of this type.
    pub fn seal(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let plain = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.sealer.encrypt(plain, self.next).expect("it is sealed");
        self.next += 1;
        sealed.encode()
    }

    pub fn send(&mut self, typ: ContentType, payload: &[u8]) {
        let record = self.seal(typ, payload);
        self.socket.write_all(&record).expect("a write");
    }
}
