//! The peers of the race that are written in Rust: one program, one server a run.
//!
//! race-peer PEER echo|fanout|proxy [UPSTREAM]
//! race-peer unbroken|tokio-taught|tokio-tuned tls-echo|tls-fanout CERT KEY
//! race-peer hyper http DIR
//!
//! The engine's rows without TLS are played by another program (engine/), in which it is built without.
//!
//! Every server listens on a free port of 127.0.0.1 and says which. What it has to do stands at
//! [`Role`]. Each is written as somebody would who knows its library well.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

#[cfg(target_os = "linux")]
mod epoll;
mod frames;
mod handwritten;
mod hyper;
mod message_io;
mod mio;
#[cfg(target_os = "linux")]
mod monoio;
mod role;
mod several;
mod smol;
mod tokio_taught;
mod tokio_tls;
mod tokio_tuned;
mod unbroken;
mod unbroken_tls;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};

pub use self::role::{announce, Role, SUBSCRIBER_CAP};

/// The listener of every peer that takes one ready-made: non-blocking, with a long backlog, and
/// without Nagle's delay, which what it accepts inherits.
pub fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// One of several at the same address, among which the kernel spreads the clients.
pub fn listen_beside(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// What a peer answers when it has no server of that kind.
pub fn no_such_role() -> io::Error {
    io::Error::new(ErrorKind::Unsupported, "this peer has no server of that kind")
}

/// What all of them speak TLS by: the same provider, and no tickets, for every handshake is a full one.
fn secured(cert: &str, key: &str) -> io::Result<Arc<ServerConfig>> {
    let cert = CertificateDer::from_pem_file(cert).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![cert], key))
        .map_err(io::Error::other)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn run(args: &[String]) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(ErrorKind::InvalidInput, what);
    let (peer, role) = match args {
        // What the others are, it is not: it takes part in one row.
        [peer, role, dir] if peer == "hyper" && role == "http" => return hyper::serve(Path::new(dir)),
        // On several cores, or on two pipes: rows of their own.
        [peer, role, threads] if peer.starts_with("several-") => return several::serve(peer, role, threads),
        [peer, role] if role == "pipe" => return several::pipe(peer),
        [peer, role] if role == "echo" => (peer, Role::Echo),
        [peer, role] if role == "fanout" => (peer, Role::Fanout),
        [peer, role, upstream] if role == "proxy" => {
            let upstream = upstream.parse().map_err(|_| invalid(format!("{upstream} is no address")))?;
            (peer, Role::Proxy(upstream))
        }
        [peer, role, cert, key] => {
            let tls = secured(cert, key)?;
            let role = match role.as_str() {
                "tls-echo" => Role::Echo,
                "tls-fanout" => Role::Fanout,
                _ => return Err(no_such_role()),
            };
            return match peer.as_str() {
                "unbroken" => unbroken_tls::serve(role, tls),
                "tokio-taught" => tokio_tls::serve(role, tls, false),
                "tokio-tuned" => tokio_tls::serve(role, tls, true),
                _ => Err(no_such_role()),
            };
        }
        _ => return Err(invalid("usage: race-peer PEER echo|fanout|proxy [UPSTREAM]".to_owned())),
    };
    match peer.as_str() {
        #[cfg(target_os = "linux")]
        "epoll" => handwritten::serve::<epoll::Epoll>(role),
        "mio" => handwritten::serve::<mio::Mio>(role),
        "unbroken" => unbroken::serve(role),
        "tokio-taught" => tokio_taught::serve(role),
        "tokio-tuned" => tokio_tuned::serve(role),
        "smol" => smol::serve(role),
        "message-io" => message_io::serve(role),
        #[cfg(target_os = "linux")]
        "monoio" => monoio::serve(role),
        _ => Err(invalid(format!("there is no peer {peer:?}"))),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("race-peer {}: {error}", args.join(" "));
            ExitCode::from(2)
        }
    }
}
