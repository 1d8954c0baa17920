//! cargo run --release --example client -- localhost:7007
//! cargo run --release --example echo   # something to talk to, in another terminal
//!
//! A TCP client done right: it sends what it reads from standard input and prints what it receives.
//! When the connection ends it says why and exactly what was not delivered, and connects again with
//! exponential back-off and jitter, so that a thousand clients do not come back at one moment. It
//! sends nothing twice by itself: only the program knows whether that would be right. With `--tls` it
//! speaks TLS, and believes whom this machine believes, or the certificates in `--ca FILE`.

mod tls;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use self::tls::Line;
use unbroken::{Addr, Bytes, CloseReport, Config, ConnId, Handle, Handler, Net, Reactor, Sent, TimerId, Via};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// A connection that lived this long was a good one: the next back-off begins anew.
const GOOD: Duration = Duration::from_secs(5);

struct Client {
    addr: Addr,
    line: Line,
    /// Established, and not ended since.
    conn: Option<ConnId>,
    congested: bool,
    /// Chunks of standard input. It holds only a few: when the peer is slow, the reader waits.
    input: Receiver<Bytes>,
    /// A chunk that no connection took.
    unsent: Option<Bytes>,
    input_ended: bool,
    backoff: Duration,
    failed: bool,
}

impl Client {
    fn new(addr: Addr, line: Line, input: Receiver<Bytes>) -> Self {
        Self {
            addr,
            line,
            conn: None,
            congested: false,
            input,
            unsent: None,
            input_ended: false,
            backoff: FIRST_BACKOFF,
            failed: false,
        }
    }

    /// Sends input as long as there is some and the queue has room. While there is no connection
    /// it stays where it is.
    fn pump(&mut self, net: &mut Net) {
        let Some(conn) = self.conn else { return };
        while !self.congested {
            let chunk = match self.unsent.take().map_or_else(|| self.input.try_recv(), Ok) {
                Ok(chunk) => chunk,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.input_ended = true;
                    return net.close_write(conn);
                }
            };
            match net.send_bytes(conn, chunk.clone()) {
                Ok(sent) => self.congested = sent == Sent::Congested,
                // The connection is ending. It took nothing of this chunk: the next one may.
                Err(_) => {
                    self.unsent = Some(chunk);
                    return;
                }
            }
        }
    }

    fn connect(&mut self, net: &mut Net) {
        // An address that parsed is never refused; failures come to `on_close`.
        if let Err(error) = self.line.connect(net, &self.addr) {
            eprintln!("client: {}: {error}", self.addr);
        }
    }

    /// Waits for a random part of the back-off ("full jitter") and doubles it.
    fn reconnect_later(&mut self, net: &mut Net) {
        let random = RandomState::new().build_hasher().finish();
        let delay = self.backoff.mul_f64(random as f64 / u64::MAX as f64);
        eprintln!("client: connecting again in {} ms", delay.as_millis());
        self.backoff = (self.backoff * 2).min(LAST_BACKOFF);
        net.set_timer(delay);
    }
}

impl Handler for Client {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        eprintln!("client: connected to {}", self.addr);
        self.conn = Some(conn);
        self.congested = false;
        self.pump(net);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut out = io::stdout().lock();
        if out.write_all(data).and_then(|()| out.flush()).is_err() {
            // Nobody reads our output any more: there is nothing left to do.
            net.abort(conn);
            net.shutdown(Duration::ZERO);
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, _: ConnId) {
        self.congested = false;
        self.pump(net);
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.pump(net);
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        self.connect(net);
    }

    fn on_close(&mut self, net: &mut Net, _: ConnId, report: &CloseReport) {
        self.conn = None;
        eprintln!("client: {report}");
        if report.lost_bytes() {
            let unacked = report.unacked.map_or("an unknown number of".to_owned(), |n| n.to_string());
            eprintln!(
                "client: not delivered: {} bytes never sent, {unacked} sent and not acknowledged",
                report.unsent
            );
        }
        if self.input_ended {
            self.failed = !report.reason.is_clean();
            return net.shutdown(Duration::ZERO);
        }
        if report.duration >= GOOD {
            self.backoff = FIRST_BACKOFF;
        }
        self.reconnect_later(net);
    }
}

/// Reads standard input on a thread of its own, for that may block.
fn read_input(chunks: SyncSender<Bytes>, handle: Handle) {
    let mut stdin = io::stdin().lock();
    let mut buf = vec![0; 16 << 10];
    loop {
        match stdin.read(&mut buf) {
            Ok(0) => break,
            Ok(count) => {
                let Some(chunk) = buf.get(..count) else { break };
                let chunk = Bytes::copy_from_slice(chunk);
                if chunks.send(chunk).is_err() || handle.wake().is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                eprintln!("client: standard input: {error}");
                break;
            }
        }
    }
    drop(chunks);
    // The end of the input is news as well. If the reactor is gone, nobody waits for it.
    let _ = handle.wake();
}

fn run(addr: Addr, line: Line) -> io::Result<bool> {
    let mut reactor = Reactor::new(Config::default())?;
    let (chunks, input) = sync_channel(4);
    let handle = reactor.net().handle();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || read_input(chunks, handle))?;
    let mut client = Client::new(addr, line, input);
    client.connect(reactor.net());
    reactor.run(&mut client)?;
    Ok(!client.failed)
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).collect();
    let line = Line::take(&mut args).map_err(|error| error.to_string());
    let addr: Result<Addr, String> = match args.as_slice() {
        [] => Ok(Addr::Tcp(([127, 0, 0, 1], 7007).into())),
        [addr] => addr.parse().map_err(|error| format!("{error}")),
        _ => Err("usage: client [ADDR] [--tls [--ca FILE]]".to_owned()),
    };
    let (addr, line) = match (addr, line) {
        (Ok(addr), Ok(line)) => (addr, line),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("client: {error}");
            return ExitCode::from(2);
        }
    };
    match run(addr, line) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}
