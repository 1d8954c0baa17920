//! Real sessions of rustls over the simulated network and its faults, world by world: each drawn from a
//! seed. What the peers can read, what the reports say and what was queued must agree, in plaintext.
//! `UNBROKEN_SEEDS=N` plays so many, `UNBROKEN_SEED=N` one.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig};
use unbroken::sim::{End, Faults, PeerId, Script, Sim};
use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, PerConn};

#[path = "../examples/tls/mod.rs"]
mod example_tls;

/// What became of a connection's plaintext at our end.
#[derive(Clone, Default)]
struct Books {
    sent: usize,
    came: usize,
}

/// Sends everything back, and closes by itself after so many bytes.
struct Echo {
    books: PerConn<Books>,
    most: usize,
}

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let Some(books) = self.books.get_or_default(conn) else { return data.len() };
        let expected = (books.came..books.came + data.len()).map(byte);
        assert!(data.iter().copied().eq(expected), "something else came");
        books.came += data.len();
        if net.send(conn, data).is_ok() {
            books.sent += data.len();
        }
        if books.came > self.most {
            net.close(conn);
        }
        data.len()
    }

    fn on_close(&mut self, _: &mut Net, conn: ConnId, report: &CloseReport) {
        let books = self.books.get(conn).cloned().unwrap_or_default();
        assert_eq!(report.handed + report.unsent, books.sent as u64, "{report}");
        // What came after our close was read, and shown to nobody.
        assert!(report.received >= books.came as u64, "{report}");
        self.books.remove(conn);
    }
}

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Last {
    /// It ends its session, and then the stream.
    End,
    /// It ends the stream alone.
    Cut,
    Reset,
    /// It waits for the server to end.
    Wait,
}

/// A client: rustls at the other end of the simulated network.
struct Client {
    peer: PeerId,
    session: ClientConnection,
    /// Wire bytes that the session has seen.
    fed: usize,
    /// Pieces still to be sent.
    pieces: Vec<usize>,
    said: usize,
    echoed: usize,
    last: Last,
    done: bool,
    saw_end_of_session: bool,
    broken: bool,
}

impl Client {
    fn act(&mut self, sim: &mut Sim<Echo>) {
        let wire = sim.received(self.peer);
        let mut news = wire.get(self.fed..).unwrap_or_default();
        self.fed = wire.len();
        while !news.is_empty() && !self.broken {
            match self.session.read_tls(&mut news) {
                Ok(1..) => {}
                _ => break,
            }
            let Ok(state) = self.session.process_new_packets() else {
                self.broken = true;
                break;
            };
            self.saw_end_of_session |= state.peer_has_closed();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.session.reader().read_exact(&mut plain).expect("plaintext");
            let expected = (self.echoed..self.echoed + plain.len()).map(byte);
            assert!(plain.iter().copied().eq(expected), "something else came back");
            self.echoed += plain.len();
        }
        if self.done || self.broken {
            return;
        }
        let mut script = Script::new();
        if !self.session.is_handshaking() {
            // A piece at a time, each behind the answer to the one before.
            match self.pieces.pop() {
                Some(_) if self.echoed < self.said => {}
                Some(piece) => {
                    let plain: Vec<u8> = (self.said..self.said + piece).map(byte).collect();
                    self.session.writer().write_all(&plain).expect("memory");
                    self.said += piece;
                }
                None => self.done = true,
            }
            if self.done && self.last == Last::End {
                self.session.send_close_notify();
            }
        }
        let mut bytes = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut bytes).expect("memory");
        }
        if !bytes.is_empty() {
            script = script.send(bytes);
        }
        if self.done {
            script = match self.last {
                Last::End | Last::Cut => script.half_close(),
                Last::Reset => script.reset(),
                Last::Wait => script,
            };
        }
        sim.perform(self.peer, script);
    }
}

/// Numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

fn play(seed: u64, server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> [usize; 4] {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let faults = if seed % 4 == 0 { Faults::none() } else { Faults::from_seed(seed) };
    let calm = faults == Faults::none();
    let handler = Echo { books: PerConn::new(), most: 20_000 + dice.below(400_000) };
    let most = handler.most;
    let mut sim = Sim::with_faults(seed, faults, Config::default(), handler).expect("a world");
    sim.buffers(500 + dice.below(2_000), 4_000 + dice.below(60_000));
    sim.net().listen_tls("10.0.0.1:443", server.clone()).expect("a port");
    let mut clients: Vec<_> = (0..1 + dice.below(3))
        .map(|_| {
            let mut session =
                ClientConnection::new(client.clone(), ServerName::try_from("localhost").expect("a name"))
                    .expect("a session");
            session.set_buffer_limit(None);
            Client {
                peer: sim.client("10.0.0.1:443", Script::new()),
                session,
                fed: 0,
                pieces: (0..dice.below(8)).map(|_| 1 + dice.below(60_000)).collect(),
                said: 0,
                echoed: 0,
                last: [Last::End, Last::End, Last::Cut, Last::Reset, Last::Wait][dice.below(5)],
                done: false,
                saw_end_of_session: false,
                broken: false,
            }
        })
        .collect();
    for _ in 0..4_000 {
        for client in &mut clients {
            client.act(&mut sim);
        }
        sim.run_for(Duration::from_millis(3)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        if clients.iter().all(|client| client.done && sim.end(client.peer).is_some()) {
            break;
        }
    }
    sim.run_for(Duration::from_secs(900)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    let mut ends = [0; 4];
    for client in &mut clients {
        client.act(&mut sim);
        let Some(report) = sim.report_of(client.peer).cloned() else {
            assert!(!calm || client.last == Last::Wait, "seed {seed}: {:?} has no report", client.last);
            continue;
        };
        let told = format!(
            "seed {seed}: {:?}, {} said, {} echoed: {report}",
            client.last, client.said, client.echoed
        );
        assert!(client.echoed as u64 <= report.handed, "{told}");
        assert!(report.received <= client.said as u64, "{told}");
        if let Some(unacked) = report.unacked {
            assert!(client.last == Last::Reset || client.echoed as u64 + unacked >= report.handed, "{told}");
        }
        match report.reason {
            CloseReason::PeerClosed => {
                ends[0] += 1;
                // A reset that meets nothing but the end of our session harms nobody.
                assert!(client.last == Last::End && (client.saw_end_of_session || !calm), "{told}");
                assert_eq!((client.echoed, report.received), (client.said, client.said as u64), "{told}");
            }
            CloseReason::Finished => {
                ends[1] += 1;
                assert!(client.said > most && client.echoed as u64 == report.handed, "{told}");
            }
            CloseReason::Truncated => {
                ends[2] += 1;
                assert!(!report.saw_fin && (!calm || client.last == Last::Cut), "{told}");
            }
            _ => {
                ends[3] += 1;
                assert!(!calm || client.last == Last::Reset, "{told}");
            }
        }
        assert!(
            sim.end(client.peer) != Some(End::Eof) || client.broken || report.handed > 0 || client.said == 0,
            "{told}"
        );
    }
    sim.finish().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    ends
}

#[test]
fn sessions_of_rustls_keep_their_books_whatever_the_network_does() {
    let file =
        |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/files").join(name);
    let server =
        example_tls::server(&file("ed25519.cert.pem"), &file("ed25519.key.pem"), &[]).expect("files");
    let client = example_tls::client(Some(&file("ed25519.cert.pem"))).expect("files");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("UNBROKEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("UNBROKEN_SEEDS").unwrap_or(150_u64).min(5_000),
    };
    let mut ends = [0; 4];
    for seed in seeds.clone() {
        let more = play(seed, &server, &client);
        ends.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    if seeds.end - seeds.start > 100 {
        assert!(ends.iter().all(|count| *count > 5), "not every end was seen: {ends:?}");
    }
}
