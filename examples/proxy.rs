//! cargo run --release --example proxy -- 127.0.0.1:7009 127.0.0.1:7007
//! nc 127.0.0.1 7009
//!
//! A TCP proxy: every client of the first address gets a connection of its own to the second.
//! Backpressure passes through: who sends faster than the other side takes is not read from, so
//! that memory stays flat. So do half-closes: the end of one stream becomes the end of the other,
//! and the opposite direction goes on. A connection that breaks breaks its partner, with a reset:
//! neither side can take a cut stream for a whole one.

mod tls;

use std::io;
use std::process::ExitCode;

use self::tls::Front;
use unbroken::{Addr, CloseReport, Config, ConnId, Handler, Net, PerConn, Reactor, Sent, Via};

struct Proxy {
    upstream: Addr,
    /// The other side of each connection.
    partners: PerConn<ConnId>,
}

impl Handler for Proxy {
    fn on_open(&mut self, net: &mut Net, client: ConnId, via: Via) {
        if via == Via::Connect {
            return;
        }
        // What the client sends meanwhile is queued; that the upstream cannot be reached comes to
        // `on_close`.
        match net.connect(&self.upstream) {
            Ok(upstream) => {
                self.partners.insert(client, upstream);
                self.partners.insert(upstream, client);
            }
            Err(error) => {
                log::error!("{}: {error}", self.upstream);
                net.abort(client);
            }
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let Some(&partner) = self.partners.get(conn) else { return data.len() };
        match net.send(partner, data) {
            Ok(Sent::Queued) => {}
            Ok(Sent::Congested) => net.pause_reading(conn),
            // The partner is ending, and its end will be ours.
            Err(error) => log::debug!("{partner}: {error}"),
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        if let Some(&partner) = self.partners.get(conn) {
            net.resume_reading(partner);
        }
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        // Once both streams have ended, both connections close by themselves.
        match self.partners.get(conn) {
            Some(&partner) => net.close_write(partner),
            None => net.close(conn),
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        log::info!("{conn}: {report}");
        let Some(partner) = self.partners.remove(conn) else { return };
        // A partner left alone has nobody to talk to. After a clean end its own streams have ended
        // too, and it is on its way.
        self.partners.remove(partner);
        if !report.reason.is_clean() {
            net.abort(partner);
        }
    }
}

fn serve(listen: &str, upstream: &str, front: &Front) -> io::Result<()> {
    let upstream = upstream.parse()?;
    let mut reactor = Reactor::new(Config::default())?;
    front.open(reactor.net(), listen)?;
    reactor.run(&mut Proxy { upstream, partners: PerConn::new() })
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let mut args = std::env::args().skip(1).collect();
    let front = Front::take(&mut args, &[]);
    let (listen, upstream) = match args.as_slice() {
        [] => ("127.0.0.1:7009", "127.0.0.1:7007"),
        [listen] => (listen.as_str(), "127.0.0.1:7007"),
        [listen, upstream] => (listen.as_str(), upstream.as_str()),
        _ => return refuse("usage: proxy [LISTEN_ADDR [UPSTREAM_ADDR]] [--tls CERT KEY]"),
    };
    match front.and_then(|front| serve(listen, upstream, &front)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("proxy: {error}");
    ExitCode::from(2)
}
