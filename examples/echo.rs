//! cargo run --release --example echo -- 127.0.0.1:7007
//! nc 127.0.0.1 7007
//!
//! Sends back whatever a client sends, and says on standard error how each connection ended
//! (`RUST_LOG=debug` for the rest). A client that does not read is not read from.

use std::io::{self, Write};
use std::process::ExitCode;

use unbroken::{CloseReport, Config, ConnId, Handler, Net, Reactor};

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        // All of it is taken or, when the connection is ending anyway, reported by `on_close`.
        let _ = net.send(conn, data);
        data.len()
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        let peer = net.peer_addr(conn).map_or("?".to_owned(), |peer| peer.to_string());
        log::info!("{conn} {peer}: {report}");
    }
}

fn serve(addr: &str) -> io::Result<()> {
    let mut reactor = Reactor::new(Config::default())?;
    let listener = reactor.net().listen(addr)?;
    if let Some(addr) = reactor.net().local_addr(listener) {
        // Nobody may be reading: that is no reason not to serve.
        let _ = writeln!(io::stdout(), "listening on {addr}");
    }
    reactor.run(&mut Echo)
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7007".to_owned());
    match serve(&addr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {addr}: {error}");
            ExitCode::from(2)
        }
    }
}
