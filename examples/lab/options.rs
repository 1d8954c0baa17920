//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use crate::tls::Front;
use unbroken::{Addr, Config, Keepalive, Overflow, UserTimeout};

pub const HELP: &str = "\
usage: lab [OPTIONS]
  --listen ADDR                        IP:PORT (port 0: any) or unix:PATH; may be repeated [127.0.0.1:0]
  --keepalive IDLE/INTERVAL/COUNT|off  seconds, seconds, probes
  --user-timeout DUR|off|auto          auto: idle + interval x count of the keepalive [auto]
  --write-stall DUR|off                --idle DUR|off
  --linger-idle DUR                    --linger-total DUR      --linger-bytes SIZE
  --high-water SIZE                    --low-water SIZE
  --max-write-buffer SIZE              --total-write-buffer SIZE
  --max-read-buffer SIZE               --overflow close|refuse [close]
  --sndbuf SIZE                        --rcvbuf SIZE
  --max-connections N                  further clients wait in the backlog
  --tls CERT KEY                       clients speak TLS; files of PEM
  --drain DUR                          deadline of the shutdown that SIGTERM and SIGINT start [5s]
SIZE: bytes, or with k or m (x 1024). DUR: 500ms, 1.5s, 2m.
";

#[derive(Debug)]
pub struct Options {
    pub listen: Vec<Addr>,
    pub config: Config,
    pub front: Front,
    pub drain: Duration,
}

#[derive(Debug)]
pub enum Parsed {
    Run(Box<Options>),
    Help,
}

/// Reads the arguments. An error is one line that names the option and says what is wrong.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let args = args.map(|argument| argument.into_string().map_err(|it| format!("{it:?} is not UTF-8")));
    let mut args = args.collect::<Result<Vec<_>, _>>()?;
    let front = Front::take(&mut args, &[]).map_err(|error| error.to_string())?;
    let mut args = args.into_iter();
    let mut config = Config::default();
    config.catch_panics = true;
    let mut options = Options { listen: Vec::new(), config, front, drain: Duration::from_secs(5) };
    let mut given = Vec::new();
    while let Some(argument) = args.next() {
        if matches!(argument.as_str(), "--help" | "-h") {
            return Ok(Parsed::Help);
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if !name.starts_with("--") {
            return Err(format!("unexpected argument {name:?}; --help lists the options"));
        }
        let value = value.map_or_else(|| args.next(), Some);
        let mut value = || value.clone().ok_or("it wants a value".to_owned());
        set(&mut options, &name, &mut value).map_err(|error| format!("{name}: {error}"))?;
        given.push(name);
    }
    fit_watermarks(&mut options.config, &given);
    if options.listen.is_empty() {
        options.listen.push(Addr::Tcp(([127, 0, 0, 1], 0).into()));
    }
    Ok(Parsed::Run(Box::new(options)))
}

fn set(
    options: &mut Options,
    name: &str,
    value: &mut dyn FnMut() -> Result<String, String>,
) -> Result<(), String> {
    let config = &mut options.config;
    match name {
        "--listen" => options.listen.push(value()?.parse().map_err(|error| format!("{error}"))?),
        "--keepalive" => config.keepalive = or_off(&value()?, keepalive)?,
        "--user-timeout" => {
            config.user_timeout = match value()?.as_str() {
                "auto" => UserTimeout::Auto,
                "off" => UserTimeout::Off,
                time => UserTimeout::After(duration(time)?),
            }
        }
        "--write-stall" => config.write_stall = or_off(&value()?, duration)?,
        "--idle" => config.idle_timeout = or_off(&value()?, duration)?,
        "--linger-idle" => config.linger_idle = duration(&value()?)?,
        "--linger-total" => config.linger_total = duration(&value()?)?,
        "--linger-bytes" => config.linger_bytes = size(&value()?)? as u64,
        "--high-water" => config.high_water = size(&value()?)?,
        "--low-water" => config.low_water = size(&value()?)?,
        "--max-write-buffer" => config.max_write_buffer = size(&value()?)?,
        "--total-write-buffer" => config.total_write_buffer = size(&value()?)?,
        "--max-read-buffer" => config.max_read_buffer = size(&value()?)?,
        "--overflow" => {
            config.overflow = match value()?.as_str() {
                "close" => Overflow::Close,
                "refuse" => Overflow::Refuse,
                other => return Err(format!("{other:?} is neither close nor refuse")),
            }
        }
        "--sndbuf" => config.send_buffer = Some(size(&value()?)?),
        "--rcvbuf" => config.recv_buffer = Some(size(&value()?)?),
        "--max-connections" => config.max_connections = Some(whole(&value()?)?),
        "--drain" => options.drain = duration(&value()?)?,
        _ => return Err("no such option; --help lists them".to_owned()),
    }
    Ok(())
}

/// A cap or a mark that was given alone draws the marks below it along, so that the defaults do
/// not contradict it. What was given itself stays as it is, and is refused if it cannot work.
fn fit_watermarks(config: &mut Config, given: &[String]) {
    let is_given = |name: &str| given.iter().any(|other| other == name);
    if !is_given("--high-water") {
        let cap = config.max_write_buffer.min(config.total_write_buffer);
        if config.high_water >= cap {
            config.high_water = (cap - cap / 4).min(cap.saturating_sub(1)).max(1);
        }
    }
    if !is_given("--low-water") {
        config.low_water = config.low_water.min(config.high_water / 4);
    }
}

fn or_off<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match text {
        "off" => Ok(None),
        text => read(text).map(Some),
    }
}

fn keepalive(text: &str) -> Result<Keepalive, String> {
    let parts: Vec<_> = text.split('/').map(whole).collect::<Result<_, _>>()?;
    let &[idle, interval, count] = parts.as_slice() else {
        return Err(format!("{text:?} is not IDLE/INTERVAL/COUNT"));
    };
    let count = u32::try_from(count).map_err(|_| format!("{count} probes are too many"))?;
    let seconds = |number: usize| Duration::from_secs(number as u64);
    Ok(Keepalive { idle: seconds(idle), interval: seconds(interval), count })
}

fn whole(text: &str) -> Result<usize, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(format!("{text:?} is not a whole number that fits")),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    whole(number)
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no size (bytes, or with k or m)"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no duration (500ms, 1.5s, 2m)");
    let (number, seconds) = [("ms", 0.001), ("s", 1.0), ("m", 60.0)]
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)))
        .ok_or_else(invalid)?;
    let plain = number.starts_with(|first: char| first.is_ascii_digit())
        && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().map_err(|_| invalid())?;
    match plain {
        true => Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid()),
        false => Err(invalid()),
    }
}
