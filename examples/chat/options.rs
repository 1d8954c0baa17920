//! The flags.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use unbroken::Addr;

use crate::request::{is_host, is_origin};

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if seconds > 0.0 && seconds <= 86_400.0 => Ok(duration),
        _ => Err("more than 0 and at most 86400 seconds are possible".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("more than 0 and at most 1000000 a second are possible".to_owned()),
    }
}

fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    match !text.is_empty() && text.len() <= 63 && text.bytes().all(good) {
        true => Ok(text.to_owned()),
        false => Err("letters, digits, dots and hyphens are possible, 63 of them at most".to_owned()),
    }
}

fn history(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(lines) if lines <= 10_000 => Ok(lines),
        _ => Err("at most 10000 lines are possible".to_owned()),
    }
}

fn motd(text: &str) -> Result<String, String> {
    let odd = |character: char| character.is_control() && character != '\n';
    match text.contains(odd) {
        true => Err("control characters are not possible, but for line feeds".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn origin(text: &str) -> Result<String, String> {
    match is_origin(text) {
        true => Ok(text.to_owned()),
        false => Err("scheme://host or scheme://host:port is wanted, with nothing behind it".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    match is_host(text) {
        true => Ok(text.to_owned()),
        false => Err("the name of a host is wanted, without scheme and port".to_owned()),
    }
}

/// A chat server: IRC on one port, a web page and WebSockets on another.
#[derive(Clone, Debug, Parser)]
#[command(name = "chat", version, max_term_width = 100)]
pub struct Options {
    /// Address for IRC clients; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6667")]
    pub irc: SocketAddr,
    /// Address for browsers, /metrics and /health; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub web: SocketAddr,
    /// Certificates for TLS, this server's own first: IRC clients get it on --ircs, browsers on --web,
    /// which then speaks nothing else. Read anew at SIGHUP, for those who come then
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of the first certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Address for IRC clients that speak TLS; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6697", requires = "cert")]
    pub ircs: SocketAddr,
    /// Threads, a reactor each: the first keeps the state, all serve clients
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// Name of this server, as clients see it
    #[arg(long, value_name = "NAME", default_value = "chat.local", value_parser = name)]
    pub name: String,
    /// Name of the network
    #[arg(long, value_name = "NAME", default_value = "unbroken", value_parser = name)]
    pub network: String,
    /// Message of the day
    #[arg(long, value_name = "TEXT", default_value = "Welcome. Nobody here dies of a broken pipe.", value_parser = motd)]
    pub motd: String,
    /// Joins this server with all others at the same Redis
    #[arg(long, value_name = "HOST:PORT")]
    pub redis: Option<Addr>,
    /// Origin of web pages that may connect, besides this server's own (may be repeated)
    #[arg(long = "origin", value_name = "ORIGIN", value_parser = origin)]
    pub origins: Vec<String>,
    /// Name under which browsers may reach the WebSocket, besides localhost and numeric addresses
    /// (may be repeated)
    #[arg(long = "host", value_name = "HOST", value_parser = host)]
    pub hosts: Vec<String>,

    /// Clients at one time
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_clients: NonZeroUsize,
    /// Clients from one IP address
    #[arg(long, value_name = "N", default_value = "1000")]
    pub max_clients_per_address: NonZeroUsize,
    /// Channels at one time
    #[arg(long, value_name = "N", default_value = "1000")]
    pub max_channels: NonZeroUsize,
    /// Channels of one client
    #[arg(long, value_name = "N", default_value = "50")]
    pub max_channels_per_client: NonZeroUsize,
    /// Channels that clients of one IP address founded
    #[arg(long, value_name = "N", default_value = "100")]
    pub max_channels_per_address: NonZeroUsize,
    /// Longest line, in bytes with its end, tags not counted
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = clap::value_parser!(u32).range(64..=512))]
    pub max_line: u32,
    /// Messages a second of one client; more wait
    #[arg(long, value_name = "N", default_value = "5", value_parser = rate)]
    pub rate: f64,
    /// Messages that one client may send at once
    #[arg(long, value_name = "N", default_value = "30")]
    pub burst: NonZeroUsize,
    /// Longest nick, in bytes
    #[arg(long, value_name = "BYTES", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nick_length: u32,
    /// Lines of each channel that are kept for those who come later, for as long as it lasts
    #[arg(long, value_name = "N", default_value = "0", value_parser = history)]
    pub history: usize,
    /// File of names and hashed passwords of those who may log in: a line name:hash each, the hash by
    /// `openssl passwd -6`
    #[arg(long, value_name = "FILE")]
    pub accounts: Option<PathBuf>,
    /// File of names and hashed passwords of those who may become operators of this server
    #[arg(long, value_name = "FILE")]
    pub operators: Option<PathBuf>,
    /// Bytes queued for one client at most: beyond them it is dropped as a slow consumer
    #[arg(long, value_name = "BYTES", default_value = "262144", value_parser = clap::value_parser!(u32).range(8192..=67_108_864))]
    pub send_queue: u32,

    /// Time to register, or to send an HTTP request, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub register_timeout: Duration,
    /// Silence of a client before it is asked for a sign of life, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub ping_interval: Duration,
    /// Time to give it, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub ping_timeout: Duration,
    /// Time for a shutdown to deliver what is queued, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain: Duration,
    /// How often the servers at one Redis tell each other that they are alive, in seconds; one that has
    /// not for three times as long is gone, and its users with it
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub announce: Duration,
}

impl Options {
    /// From so many queued bytes on a client is behind: half of what it may be.
    pub fn high_water(&self) -> usize {
        self.send_queue as usize / 2
    }
}
