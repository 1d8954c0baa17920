//! cargo run --release --example embed -- 127.0.0.1:7010
//! nc 127.0.0.1 7010   # and type something here, and there
//!
//! A reactor inside an event loop of one's own: here a `poll(2)` loop that also watches standard
//! input. Clients get back what they send; every line typed goes to all of them; the end of the
//! input shuts the server down, and what is still queued is delivered first.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use unbroken::{Bytes, Config, ConnId, Handler, Net, Reactor, Turn};

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }
}

/// What the loop waits for besides the reactor.
struct Input {
    open: bool,
}

impl Input {
    /// Standard input is readable: passes on what is there, without ever waiting for more.
    fn read(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        let mut buf = [0; 4096];
        let count = rustix::io::read(io::stdin(), &mut buf)?;
        let typed = buf.get(..count).unwrap_or_default();
        let net = reactor.net();
        if typed.is_empty() {
            self.open = false;
            net.shutdown(Duration::from_secs(5));
            return Ok(());
        }
        // One buffer, however many clients there are.
        let everybody: Vec<ConnId> = net.connections().collect();
        net.broadcast(everybody, Bytes::copy_from_slice(typed));
        Ok(())
    }
}

/// Waits until the reactor or standard input has something to do. Returns which of them has.
fn wait(reactor: &Reactor, input: &Input) -> io::Result<(bool, bool)> {
    // The reactor's deadlines are not seen in its descriptor: they bound the wait.
    let timeout = reactor.next_timeout().and_then(|time| Timespec::try_from(time).ok());
    let stdin = io::stdin();
    let mut fds = vec![PollFd::from_borrowed_fd(reactor.as_fd(), PollFlags::IN)];
    if input.open {
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
    }
    match poll(&mut fds, timeout.as_ref()) {
        Ok(0) | Err(Errno::INTR) => Ok((true, false)),
        Ok(_) => {
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            Ok((ready(0), ready(1)))
        }
        Err(error) => Err(error.into()),
    }
}

fn serve(addr: &str) -> io::Result<()> {
    let mut reactor = Reactor::new(Config::default())?;
    let listener = reactor.net().listen(addr)?;
    if let Some(addr) = reactor.net().local_addr(listener) {
        let _ = writeln!(io::stdout(), "listening on {addr}");
    }
    let mut input = Input { open: true };
    loop {
        let (reactor_ready, input_ready) = wait(&reactor, &input)?;
        if input_ready {
            input.read(&mut reactor)?;
        }
        // What was sent between two turns leaves in the next one.
        if (reactor_ready || input_ready) && reactor.turn(&mut Echo, Some(Duration::ZERO))? == Turn::Stopped {
            return Ok(());
        }
    }
}

fn main() -> ExitCode {
    env_logger::init();
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7010".to_owned());
    match serve(&addr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {addr}: {error}");
            ExitCode::from(2)
        }
    }
}
