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
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use self::tls::Line;
use unbroken::{Addr, CloseReport, Config, ConnId, Handler, Net, Reactor, Sent, TimerId, Via};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// A connection that lived this long was a good one: the next back-off begins anew.
const GOOD: Duration = Duration::from_secs(5);

struct Client {
    addr: Addr,
    line: Line,
    /// Standard input, a connection that can only be read from.
    stdin: ConnId,
    /// Established, and not ended since.
    conn: Option<ConnId>,
    input_ended: bool,
    backoff: Duration,
    failed: bool,
}

impl Client {
    fn new(addr: Addr, line: Line, stdin: ConnId) -> Self {
        Self { addr, line, stdin, conn: None, input_ended: false, backoff: FIRST_BACKOFF, failed: false }
    }

    /// Passes input on. What no connection takes stays unused, and is shown again when one does.
    fn send(&mut self, net: &mut Net, data: &[u8]) -> usize {
        match self.conn.map(|conn| net.send(conn, data)) {
            Some(Ok(Sent::Queued)) => data.len(),
            Some(Ok(Sent::Congested)) => {
                net.pause_reading(self.stdin);
                data.len()
            }
            Some(Err(_)) | None => {
                net.pause_reading(self.stdin);
                0
            }
        }
    }

    fn end_input(&mut self, net: &mut Net) {
        self.input_ended = true;
        if let Some(conn) = self.conn {
            net.close_write(conn);
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
        if conn != self.stdin {
            eprintln!("client: connected to {}", self.addr);
            self.conn = Some(conn);
            net.resume_reading(self.stdin);
        } else if self.conn.is_none() {
            net.pause_reading(conn);
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if conn == self.stdin {
            return self.send(net, data);
        }
        let mut out = io::stdout().lock();
        if out.write_all(data).and_then(|()| out.flush()).is_err() {
            // Nobody reads our output any more: there is nothing left to do.
            net.abort(conn);
            net.shutdown(Duration::ZERO);
        }
        data.len()
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        if conn == self.stdin {
            return self.end_input(net);
        }
        net.close(conn);
    }

    fn on_drain(&mut self, net: &mut Net, _: ConnId) {
        net.resume_reading(self.stdin);
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        self.connect(net);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if conn == self.stdin {
            if !report.reason.is_clean() {
                eprintln!("client: standard input: {report}");
                self.end_input(net);
            }
            return;
        }
        self.conn = None;
        // What is read from here on, and its end, is for the next connection.
        net.pause_reading(self.stdin);
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

fn run(addr: Addr, line: Line) -> io::Result<bool> {
    let mut reactor = Reactor::new(Config::default())?;
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let stdin = reactor.net().pipe(Some(stdin), None)?;
    let mut client = Client::new(addr, line, stdin);
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
