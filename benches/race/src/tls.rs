//! What the rows under TLS need: certificates, the load's configuration, the cost of the cryptography
//! alone, and what a thousand handshakes at once do to those who are in.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::time::{clock_gettime, ClockId};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection, SideData,
};

use crate::load::{connect, latencies, Echo, Game, Latencies, Line, Poll, Tls};
use crate::peers::Peer;
use crate::rounds::Rounds;
use crate::special::{text, HEALTHY};
use crate::Plan;

/// What the role of a server begins with that speaks TLS.
pub const PREFIX: &str = "tls-";

fn file(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tls/files").join(format!("p256.{kind}.pem"))
}

/// What a server is started as. One that speaks TLS is told its certificate and its key.
pub fn role(name: &str, secured: bool) -> Vec<String> {
    match secured {
        false => vec![name.to_owned()],
        true => {
            let files = ["cert", "key"].map(|kind| file(kind).display().to_string());
            [format!("{PREFIX}{name}")].into_iter().chain(files).collect()
        }
    }
}

fn certificate() -> io::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(file("cert")).map_err(io::Error::other)
}

/// The load's: TLS 1.3, and each handshake a full one.
pub fn client(secured: bool) -> io::Result<Tls> {
    if !secured {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    roots.add(certificate()?).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Some(Arc::new(config)))
}

fn server() -> io::Result<Arc<ServerConfig>> {
    let key = PrivateKeyDer::from_pem_file(file("key")).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate()?], key);
    config.map(Arc::new).map_err(io::Error::other)
}

/// A block of the row that it is held against.
const BLOCK: usize = 1 << 20;
/// What a server reads of it at once.
const PIECE: usize = 32 << 10;

/// Microseconds of processor to open a block of 1 MiB and to seal it again, in memory: what no server
/// can do without.
pub fn bare(plan: Plan) -> io::Result<Rounds> {
    let tls = client(true)?.ok_or(ErrorKind::NotFound)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut client = ClientConnection::new(tls, name).map_err(io::Error::other)?;
    let mut server = ServerConnection::new(server()?).map_err(io::Error::other)?;
    let (mut wire, mut plain) = (Vec::new(), vec![0; 2 * PIECE]);
    while client.is_handshaking() || server.is_handshaking() {
        carry(&mut client, &mut server, &mut wire, &mut plain)?;
        carry(&mut server, &mut client, &mut wire, &mut plain)?;
    }
    carry(&mut server, &mut client, &mut wire, &mut plain)?;
    client.set_buffer_limit(None);
    server.set_buffer_limit(None);
    let mut rounds = Vec::new();
    for round in 0..=plan.rounds * plan.turns {
        let mut nanos = 0;
        // In pieces as a server has them, which stay in the cache: whole blocks would cost more than a
        // server pays, and flatter it.
        for _ in 0..BLOCK / PIECE {
            client.writer().write_all(&plain[..PIECE])?;
            wire.clear();
            send(&mut client, &mut wire)?;
            let begun = clock_gettime(ClockId::ThreadCPUTime);
            let count = receive(&mut server, &wire, &mut plain)?;
            server.writer().write_all(&plain[..count])?;
            wire.clear();
            send(&mut server, &mut wire)?;
            let end = clock_gettime(ClockId::ThreadCPUTime);
            if count != PIECE {
                return Err(io::Error::other("a piece was not opened whole"));
            }
            nanos += (end.tv_sec - begun.tv_sec) * 1_000_000_000 + (end.tv_nsec - begun.tv_nsec);
        }
        // The first warms up. What the client is sent is forgotten: it counts its records apart.
        if round > 0 {
            rounds.push(nanos as f64 / 1e3);
        }
    }
    Ok(Rounds::new(rounds))
}

fn send<D: SideData>(from: &mut ConnectionCommon<D>, wire: &mut Vec<u8>) -> io::Result<()> {
    while from.wants_write() {
        from.write_tls(wire)?;
    }
    Ok(())
}

fn receive<D: SideData>(
    to: &mut ConnectionCommon<D>,
    mut wire: &[u8],
    plain: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    while !wire.is_empty() {
        to.read_tls(&mut wire)?;
        to.process_new_packets().map_err(io::Error::other)?;
        loop {
            match to.reader().read(&mut plain[filled..]) {
                Ok(count) if count > 0 => filled += count,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => break,
            }
        }
    }
    Ok(filled)
}

fn carry<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    wire: &mut Vec<u8>,
    plain: &mut [u8],
) -> io::Result<()> {
    wire.clear();
    send(from, wire)?;
    receive(to, wire, plain).map(drop)
}

/// Handshakes that arrive at once.
pub const STORM: usize = 1000;

/// What they do to 50 connections that are open.
pub struct Storm {
    pub calm: Latencies,
    pub stormy: Latencies,
    /// The 99th percentile while they go on, by that before.
    pub ratio: Rounds,
    /// From the first ClientHello to the last answer.
    pub lasted: Duration,
}

/// The clients are connected before, and their first flights made: what is measured is the server's
/// doing, not that of a load that has to make keys meanwhile. All of them end their handshakes later.
pub fn storm(peer: &Peer, plan: Plan) -> Result<Storm, String> {
    let server = peer.start(&role("echo", true), &[])?;
    let rounds = if plan.quick { 3 } else { 7 };
    let measure = || -> io::Result<Storm> {
        let tls = client(true)?;
        let mut beside = Echo::open(server.addr, HEALTHY, &tls)?;
        beside.play(plan.slice * 5, &mut latencies())?;
        let mut storm =
            Storm { calm: latencies(), stormy: latencies(), ratio: Rounds::new([]), lasted: Duration::ZERO };
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let mut calm = latencies();
            for _ in 0..10 {
                beside.play(plan.slice, &mut calm)?;
            }
            let (stormy, lasted) = round(server.addr, &tls, &mut beside, plan.slice)?;
            ratios.push(stormy.value_at_quantile(0.99) as f64 / calm.value_at_quantile(0.99) as f64);
            storm.calm += calm;
            storm.stormy += stormy;
            storm.lasted = storm.lasted.max(lasted);
        }
        storm.ratio = Rounds::new(ratios);
        Ok(storm)
    };
    measure().map_err(text)
}

fn round(
    addr: std::net::SocketAddr,
    tls: &Tls,
    beside: &mut Echo,
    slice: Duration,
) -> io::Result<(Latencies, Duration)> {
    let (mut lines, mut poll) = (Vec::new(), Poll::new()?);
    for n in 0..STORM {
        let line = Line::begin(connect(addr, n, None)?, tls)?;
        poll.add(&line, n, EventFlags::IN)?;
        lines.push(line);
    }
    let begun = std::time::Instant::now();
    lines.iter_mut().try_for_each(Line::flush)?;
    let (mut latencies, mut answered, mut ready) = (latencies(), vec![false; STORM], Vec::new());
    while answered.contains(&false) {
        beside.play(slice, &mut latencies)?;
        loop {
            poll.wait(Duration::ZERO, &mut ready)?;
            ready.iter().for_each(|slot| answered[*slot] = true);
            if ready.is_empty() {
                break;
            }
        }
    }
    let lasted = begun.elapsed();
    lines.iter_mut().try_for_each(|line| line.ask(&[b'x'; 64]))?;
    lines.iter().map(Line::stream).for_each(crate::load::reset);
    Ok((latencies, lasted))
}
