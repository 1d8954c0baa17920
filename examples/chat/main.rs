//! cargo run --release --example chat
//! irssi -c 127.0.0.1        # or a browser at http://127.0.0.1:8080, or: nc 127.0.0.1 6667
//!
//! A chat server for real clients: IRC on one port; a web page, WebSockets, `/metrics` and
//! `/health` on another; one reactor and one thread for all of it. `--threads N` spreads the clients over
//! N cores, `--redis HOST:PORT` joins any number of such servers into one. `--help` tells the rest.
//!
//! `server` is what the engine calls, `commands` what clients may ask for, `state` who is where, `ports`
//! the connections and what they speak, `web` the pages, `crew` the reactors, `relay` the other servers.

mod audience;
mod between;
mod caps;
mod channel;
mod channels;
mod clients;
mod commands;
mod crew;
mod events;
mod far;
mod front;
mod history;
mod irc;
mod labels;
mod lists;
mod mail;
mod messages;
mod metrics;
mod modes;
mod monitor;
mod opers;
mod options;
mod pace;
mod pages;
mod passwords;
mod people;
mod ports;
mod registration;
mod relay;
mod remote;
mod request;
mod sasl;
mod sending;
mod server;
mod settings;
mod stamp;
mod state;
mod telling;
#[path = "../tls/mod.rs"]
mod tls;
mod users;
mod web;
mod websocket;
mod welcome;
mod whowas;
mod wire;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Parser;
use rustls::ServerConfig;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use unbroken::{Group, GroupHandle, ListenerId, Net};

use clients::STATE;
use crew::Crew;
use options::Options;
use pace::TICK;
use passwords::Passwords;
use relay::Relay;
use server::Chat;

/// The first descriptor that systemd hands over (`sd_listen_fds`).
const FIRST_FD: RawFd = 3;

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    let options = match Options::try_parse() {
        Ok(options) => options,
        // What was asked for: the help, or the version.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("chat: {}; --help tells the flags", line.trim_start_matches("error: "));
            return ExitCode::from(2);
        }
    };
    // Before anything is opened: the numbers are all that says whose descriptors these are.
    match handed_over().and_then(|sockets| run(options, sockets)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: Options, sockets: Vec<(OwnedFd, String)>) -> io::Result<()> {
    let relay = match options.redis.clone() {
        Some(addr) => Relay::new(addr, &options.name),
        None => Relay::none(),
    };
    let threads = usize::from(options.threads);
    let mut group = Group::new(server::config(&options), threads)?;
    group.set_name("chat");
    let mut chat = Chat::new(options, relay, SystemTime::now);
    let passwords = |path: &Option<PathBuf>| path.as_deref().map(Passwords::read).transpose();
    chat.accounts = passwords(&chat.options.accounts)?;
    chat.operators = passwords(&chat.options.operators)?;
    let shared = !sockets.is_empty();
    let certificates = Certificates::of(&chat.options);
    let secured = certificates.as_ref().map(Certificates::read).transpose()?;
    let (irc, ircs, web) = listeners(&mut group, &chat.options, sockets)?;
    chat.serve(&[Some(irc), ircs].into_iter().flatten().collect::<Vec<_>>(), web, shared);
    let mut out = io::stdout();
    // Nobody may be reading: that is no reason not to serve.
    for (listener, what) in [(Some(irc), "IRC   irc://"), (ircs, "IRC   ircs://")] {
        if let Some(addr) = listener.and_then(|listener| group.local_addr(listener)) {
            let _ = writeln!(out, "{what}{addr}");
        }
    }
    if let Some(addr) = group.local_addr(web) {
        let _ = writeln!(out, "Web   {}://{addr}/", if secured.is_some() { "https" } else { "http" });
    }
    let _ = out.flush();
    for reactor in 0..threads {
        let Some(net) = group.net(reactor) else { continue };
        if let Some(secured) = &secured {
            secured.use_for(net, ircs, web);
        }
        net.set_timer(TICK);
        if reactor == STATE {
            chat.relay_connect(net);
        }
    }

    let (handle, drain) = (group.handle(), chat.options.drain);
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match (signal, &certificates) {
                (SIGHUP, None) => {}
                (SIGHUP, Some(certificates)) => match certificates.read() {
                    Ok(secured) => secured.use_everywhere(&handle, ircs, web),
                    // What is in force stays so.
                    Err(error) => log::error!("{error}"),
                },
                _ => drop(handle.shutdown(drain)),
            }
        }
    });
    let crew = Crew::new(chat, threads);
    group.run(|peers| crew.part(peers))
}

/// The files of TLS.
struct Certificates {
    cert: PathBuf,
    key: PathBuf,
}

/// What was read from them: for IRC, and for the web.
#[derive(Clone)]
struct Secured {
    irc: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
}

impl Certificates {
    fn of(options: &Options) -> Option<Self> {
        let (cert, key) = options.cert.clone().zip(options.key.clone())?;
        Some(Self { cert, key })
    }

    fn read(&self) -> io::Result<Secured> {
        let config = |protocol| tls::server(&self.cert, &self.key, &[protocol]);
        Ok(Secured { irc: config("irc")?, web: config("http/1.1")? })
    }
}

impl Secured {
    fn use_for(&self, net: &mut Net, ircs: Option<ListenerId>, web: ListenerId) {
        if let Some(ircs) = ircs {
            net.set_tls(ircs, self.irc.clone());
        }
        net.set_tls(web, self.web.clone());
    }

    /// The same, in all reactors while they run.
    fn use_everywhere(&self, handle: &GroupHandle, ircs: Option<ListenerId>, web: ListenerId) {
        for reactor in 0..handle.len() {
            let secured = self.clone();
            // One that has shut down has no use for it.
            let _ = handle.run_on(reactor, move |net| secured.use_for(net, ircs, web));
        }
    }
}

/// The listeners for IRC, for IRC with TLS, and for the web: handed over by systemd (`LISTEN_FDS`), or our own.
fn listeners(
    group: &mut Group,
    options: &Options,
    sockets: Vec<(OwnedFd, String)>,
) -> io::Result<(ListenerId, Option<ListenerId>, ListenerId)> {
    let (mut irc, mut ircs, mut web) = (None, None, None);
    for (n, (fd, name)) in sockets.into_iter().enumerate() {
        let place = match name.as_str() {
            "irc" => &mut irc,
            "ircs" if options.cert.is_some() => &mut ircs,
            "ircs" => return Err(unusable("LISTEN_FDNAMES: ircs wants --cert".to_owned())),
            "web" => &mut web,
            _ if n == 0 => &mut irc,
            _ => &mut web,
        };
        if place.is_some() {
            return Err(unusable(format!(
                "LISTEN_FDNAMES: descriptor {} is a second one for {name}",
                FIRST_FD + n as RawFd
            )));
        }
        let listener =
            group.listen_from(fd).map_err(|error| named(descriptor(FIRST_FD + n as RawFd), error))?;
        *place = Some(listener);
    }
    let irc = match irc {
        Some(irc) => irc,
        None => group.listen(options.irc).map_err(|error| named(options.irc, error))?,
    };
    let web = match web {
        Some(web) => web,
        None => group.listen(options.web).map_err(|error| named(options.web, error))?,
    };
    if ircs.is_none() && options.cert.is_some() {
        ircs = Some(group.listen(options.ircs).map_err(|error| named(options.ircs, error))?);
    }
    Ok((irc, ircs, web))
}

fn unusable(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}

fn named(what: impl Display, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn descriptor(fd: RawFd) -> String {
    format!("descriptor {fd} of LISTEN_FDS")
}

/// Listening sockets from systemd, with their names.
fn handed_over() -> io::Result<Vec<(OwnedFd, String)>> {
    let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
    // What is there and means nothing is a mistake: to overlook it would be to serve elsewhere.
    let number = |name: &str| match variable(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(unusable(format!("{name} is {text:?}: a number is wanted"))),
        },
    };
    let (count, pid) = (number("LISTEN_FDS")?, number("LISTEN_PID")?);
    let Some(count) = count.filter(|count| *count > 0) else { return Ok(Vec::new()) };
    // Meant for another process: they were inherited by accident.
    if pid.is_some_and(|pid| pid != std::process::id()) {
        return Ok(Vec::new());
    }
    if count > 3 {
        let what = format!("LISTEN_FDS is {count}: a socket each for irc, ircs and web is of use");
        return Err(unusable(what));
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    if !names.is_empty() && names.split(':').count() != count as usize {
        return Err(unusable(format!("LISTEN_FDNAMES is {names:?}: a name for each of {count} is wanted")));
    }
    let mut names = names.split(':');
    let fds = (FIRST_FD..FIRST_FD + count as RawFd).map(|fd| {
        // SAFETY: it is only asked whether it is open, and nothing was opened yet that it could be
        // confused with.
        let open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) });
        open.map_err(|error| named(descriptor(fd), error.into()))?;
        // SAFETY: it is open, whoever set LISTEN_FDS for this process gave it to us, and nothing
        // else here owns it.
        Ok((unsafe { OwnedFd::from_raw_fd(fd) }, names.next().unwrap_or_default().to_owned()))
    });
    fds.collect()
}
