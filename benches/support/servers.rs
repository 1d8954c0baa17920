//! The servers under test, each a role of this program in a process of its own.

use std::io::{self, Write};
use std::net::SocketAddr;

use unbroken::{Config, ConnId, Handler, Net, Reactor};

use super::{process, raw_mio};

/// `examples/echo`, without its log.
pub const ECHO: &str = "unbroken-echo";
/// Answers each message with 16 of its like, in one callback.
pub const BURST: &str = "unbroken-burst";
/// Echoes; a connection whose input begins with [`PAUSE`] is paused instead.
pub const HOLD: &str = "unbroken-hold";
/// The same without a limit on how long a peer may stop reading.
pub const HOLD_NO_STALL: &str = "unbroken-hold-no-stall";
/// The hand-written echo that reads until nothing is left, as mio's documentation teaches.
pub const MIO: &str = "mio-echo";
/// The same, but taking a short read for the last: what an expert writes on Linux.
pub const MIO_SHORT: &str = "mio-echo-short";

pub const PAUSE: u8 = b'P';

/// Sends of one callback of [`BURST`].
pub const BURST_SENDS: usize = 16;

/// Runs a role until the process is killed.
pub fn run(role: &str) -> io::Result<()> {
    process::begin_server()?;
    let config = Config::default();
    match role {
        ECHO => serve(config, Echo),
        BURST => serve(config, Burst),
        HOLD => serve(small_buffers(config), Hold),
        HOLD_NO_STALL => {
            let mut config = small_buffers(config);
            config.write_stall = None;
            serve(config, Hold)
        }
        MIO => raw_mio::serve(raw_mio::Reading::UntilWouldBlock, announce),
        MIO_SHORT => raw_mio::serve(raw_mio::Reading::UntilShort, announce),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no role {role:?}"))),
    }
}

/// A thousand full connections must not take gigabytes of the kernel's memory.
fn small_buffers(mut config: Config) -> Config {
    config.send_buffer = Some(16 << 10);
    config.recv_buffer = Some(16 << 10);
    config
}

fn announce(addr: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{}{addr}", process::LISTENING)?;
    out.flush()
}

fn serve(config: Config, mut handler: impl Handler) -> io::Result<()> {
    let mut reactor = Reactor::new(config)?;
    let listener = reactor.net().listen("127.0.0.1:0")?;
    let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp());
    announce(addr.ok_or_else(|| io::Error::other("the listener has no address"))?)?;
    reactor.run(&mut handler)
}

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }
}

struct Burst;

impl Handler for Burst {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        for _ in 0..BURST_SENDS {
            let _ = net.send(conn, data);
        }
        data.len()
    }
}

struct Hold;

impl Handler for Hold {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        match data.first() {
            Some(&PAUSE) => net.pause_reading(conn),
            _ => {
                let _ = net.send(conn, data);
            }
        }
        data.len()
    }
}
