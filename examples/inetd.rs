//! cargo run --release --example inetd -- 127.0.0.1:7011 -- sort
//! printf 'b\na\n' | nc -N 127.0.0.1 7011
//!
//! Serves each client by a program of its own, as inetd does: what the client sends is the program's
//! standard input, what the program writes goes to the client. Half-closes pass through both ways, so
//! that `sort` sees the end of its input and the client the end of the answer; so does backpressure.
//! A client that goes breaks the program's pipe, a program that breaks off resets the client, and
//! neither takes anybody else with it.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use unbroken::{ChildId, CloseReport, Config, ConnId, Handler, Net, PerConn, PerId, Reactor, Sent, Via};

/// A client and the program that serves it.
struct Session {
    client: ConnId,
    program: ConnId,
    output_ended: bool,
    status: Option<ExitStatus>,
}

struct Inetd {
    command: Command,
    sessions: PerId<ChildId, Session>,
    /// Whose session each connection belongs to.
    children: PerConn<ChildId>,
}

impl Inetd {
    fn partner(&self, conn: ConnId) -> Option<ConnId> {
        let session = self.sessions.get(*self.children.get(conn)?)?;
        Some(if conn == session.client { session.program } else { session.client })
    }

    /// Once the output has ended and the program's status is known, the client's answer is at its end:
    /// cut off with a reset when the program was killed, so that nobody takes it for a whole one.
    fn finish(&mut self, net: &mut Net, child: ChildId) {
        let Some(Session { client, output_ended: true, status: Some(status), .. }) = self.sessions.get(child)
        else {
            return;
        };
        match status.signal() {
            Some(_) => net.abort(*client),
            None => net.close(*client),
        }
        self.sessions.remove(child);
    }
}

impl Handler for Inetd {
    fn on_open(&mut self, net: &mut Net, client: ConnId, via: Via) {
        if via == Via::Child {
            return;
        }
        match net.spawn(&mut self.command) {
            Ok((program, child)) => {
                self.sessions.insert(child, Session { client, program, output_ended: false, status: None });
                self.children.insert(client, child);
                self.children.insert(program, child);
            }
            Err(error) => {
                log::error!("{:?}: {error}", self.command.get_program());
                net.abort(client);
            }
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let Some(partner) = self.partner(conn) else { return data.len() };
        match net.send(partner, data) {
            Ok(Sent::Queued) => {}
            Ok(Sent::Congested) => net.pause_reading(conn),
            // A program that wants no more input may still have an answer.
            Err(error) => log::debug!("{partner}: {error}"),
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        if let Some(partner) = self.partner(conn) {
            net.resume_reading(partner);
        }
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        match self.partner(conn) {
            Some(program) if net.via(conn) != Some(Via::Child) => net.close_write(program),
            _ => net.close(conn),
        }
    }

    fn on_exit(&mut self, net: &mut Net, child: ChildId, status: ExitStatus) {
        let Some(session) = self.sessions.get_mut(child) else { return };
        log::info!("{}: the program ended: {status}", session.client);
        session.status = Some(status);
        self.finish(net, child);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        let Some(child) = self.children.remove(conn) else { return };
        let Some(session) = self.sessions.get_mut(child) else { return log::info!("{conn}: {report}") };
        if conn == session.program {
            log::debug!("{}: its program: {report}", session.client);
            session.output_ended = true;
            return self.finish(net, child);
        }
        // Nobody wants the answer: the program's next write will tell it.
        log::info!("{conn}: {report}");
        net.abort(session.program);
    }
}

fn serve(addr: &str, command: Command) -> io::Result<()> {
    let mut reactor = Reactor::new(Config::default())?;
    let listener = reactor.net().listen(addr)?;
    if let Some(addr) = reactor.net().local_addr(listener) {
        // Nobody may be reading: that is no reason not to serve.
        let _ = writeln!(io::stdout(), "listening on {addr}");
    }
    reactor.run(&mut Inetd { command, sessions: PerId::new(), children: PerConn::new() })
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let mut args = std::env::args().skip(1);
    let served = match (args.next(), args.next().as_deref(), args.next()) {
        (Some(addr), Some("--"), Some(program)) => {
            let mut command = Command::new(program);
            command.args(args);
            serve(&addr, command).map_err(|error| format!("{addr}: {error}"))
        }
        _ => Err("usage: inetd ADDR -- PROGRAM [ARGUMENT]...".to_owned()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inetd: {error}");
            ExitCode::from(2)
        }
    }
}
