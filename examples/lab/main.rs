//! cargo run --release --example lab -- --listen 127.0.0.1:7008
//! nc 127.0.0.1 7008   # then type: SEND 100000, or ECHO, STREAM, HALF 1000, PANIC, STATS, ...
//!
//! The broken-pipe laboratory: a server that misbehaves on request. The first line of a client
//! chooses what its connection does (`commands.rs`); every event is told in one JSON line on
//! standard output (`events.rs`). `--help` lists the options. Try each cause of a broken pipe with
//! a client of your own and see what the engine makes of it.

mod commands;
mod events;
mod lab;
mod options;
#[path = "../tls/mod.rs"]
mod tls;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use unbroken::{Handle, Reactor};

use crate::events::Events;
use crate::lab::Lab;
use crate::options::{Options, Parsed};

fn main() -> ExitCode {
    env_logger::init();
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help) => {
            // Whoever reads no further has seen enough: `print!` would panic.
            let _ = io::stdout().write_all(options::HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(message) => return refuse(&message),
    };
    let mut reactor = match Reactor::new(options.config.clone()) {
        Ok(reactor) => reactor,
        Err(error) => return refuse(&error.to_string()),
    };
    // From here on a signal means a shutdown, also while the listeners are being made.
    if let Err(error) = stop_on_signals(reactor.net().handle(), options.drain) {
        return refuse(&format!("signals: {error}"));
    }
    match serve(&mut reactor, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => refuse(&message),
    }
}

fn refuse(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "lab: {}", message.replace('\n', " "));
    ExitCode::from(2)
}

fn serve(reactor: &mut Reactor, options: &Options) -> Result<(), String> {
    let mut listeners = Vec::new();
    for addr in &options.listen {
        let listener = options.front.listen(reactor.net(), addr);
        listeners.push(listener.map_err(|error| format!("cannot listen on {addr}: {error}"))?);
    }
    let mut events = Events::new();
    for listener in listeners {
        let addr = reactor.net().local_addr(listener);
        events.listening(&addr.ok_or("a listener has no address")?);
    }
    if events.nobody_listens() {
        return Ok(());
    }
    reactor.run(&mut Lab::new(events)).map_err(|error| error.to_string())
}

/// The first signal starts the drain, the next one ends it.
///
/// The signals are blocked in all threads, and one of them waits for them: nothing has to be done
/// in a signal handler, and no self-pipe is written to.
fn stop_on_signals(handle: Handle, drain: Duration) -> io::Result<()> {
    let stop = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    stop.thread_block()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut deadline = drain;
        while stop.wait().is_ok() && handle.shutdown(deadline).is_ok() {
            deadline = Duration::ZERO;
        }
    })?;
    Ok(())
}
