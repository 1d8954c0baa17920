//! cargo run --release --example echo -- 127.0.0.1:7007
//! nc 127.0.0.1 7007
//!
//! Sends back whatever a client sends, and says on standard error how each connection ended
//! (`RUST_LOG=debug` for the rest). A client that does not read is not read from. With `--tls CERT KEY` it
//! speaks TLS, with `--threads N` it uses N cores, and its handler is the same.

mod cores;
mod tls;

use std::io;
use std::process::ExitCode;

use self::cores::{take_threads, Service};
use self::tls::Front;
use unbroken::{CloseReport, Config, ConnId, Handler, Net};

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

fn serve(addr: &str, threads: usize, front: &Front) -> io::Result<()> {
    Service::open(Config::default(), threads, front, addr)?.run(|_| Echo)
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let mut args = std::env::args().skip(1).collect();
    let front = Front::take(&mut args, &[]);
    let threads = take_threads(&mut args);
    let addr = match args.as_slice() {
        [] => "127.0.0.1:7007",
        [addr] => addr,
        _ => return refuse("usage: echo [ADDR] [--threads N] [--tls CERT KEY]"),
    };
    match front.and_then(|front| serve(addr, threads?, &front)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("{addr}: {error}")),
    }
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("echo: {error}");
    ExitCode::from(2)
}
