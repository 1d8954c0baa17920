//! Every number the engine goes by: its default, its unit, the reason for it.

use std::time::Duration;

use crate::dial::Family;
use crate::settings::{check, ConfigError, Overflow, Settings, SoftLimit, SHORTEST};

/// TCP keepalive (tcp(7): `SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`): when to probe
/// an idle peer, and when to give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, 1 to 32,767.
    pub idle: Duration,
    /// Time between probes; whole seconds, 1 to 32,767.
    pub interval: Duration,
    /// Unanswered probes that end the connection; 1 to 127.
    pub count: u32,
}

/// `TCP_USER_TIMEOUT`: how long bytes may stay unacknowledged (RFC 5482; Linux only, ignored
/// elsewhere). Keepalive is silent while data is in flight, this is silent while none is, and it
/// overrides the probe count: a server wants both, and wants them to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserTimeout {
    /// `idle + interval × count` of the keepalive in force; off when keepalive is off.
    Auto,
    /// The kernel's own limit: about 15 minutes of retransmissions.
    Off,
    /// This long: 1 ms to 2,147,483,647 ms. It also ends live peers that read nothing for that long, so
    /// it must not be short: with keepalive on, less than `idle + 3 × interval` is refused.
    After(Duration),
}

/// What happens to clients beyond `max_connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// They wait in the backlog until a connection ends.
    Wait,
    /// They are reset at once and reported as [`Refused`](crate::CloseReason::Refused).
    Refuse,
}

/// The settings of a reactor. Change what differs from [`Config::default`]:
///
/// ```
/// let mut config = unbroken::Config::default();
/// config.max_connections = Some(1000);
/// config.idle_timeout = Some(std::time::Duration::from_secs(300));
/// assert!(config.validate().is_ok());
/// ```
///
/// Sizes are in bytes, and like all counts at least 1, where nothing else is said; spans are at least 1 ms.
/// The number at the end of a description is the default. [`Reactor::new`](crate::Reactor::new) refuses
/// what cannot work, and names the first setting that does not.
///
/// Those that are fields of [`Settings`] as well can differ from one connection to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// A connection is congested from this many queued bytes on: [`Sent::Congested`](crate::Sent::Congested). 64 KiB:
    /// enough to keep a fast peer busy for a turn. It is congested earlier where the message just taken
    /// would not fit a second time below `max_write_buffer`. Below both caps.
    pub high_water: usize,
    /// A congested connection that falls to this is drained: [`on_drain`](crate::Handler::on_drain). 16 KiB:
    /// a quarter of the high mark, so that producers do not stop and go at every segment. Below it; 0 is
    /// an empty queue.
    pub low_water: usize,
    /// Bytes queued in one connection at most. A single message above it is refused, and nobody is
    /// ended. 16 MiB.
    pub max_write_buffer: usize,
    /// Bytes held for all connections together at most: queued, or received and left unused by the
    /// handler. Shared buffers count once for each connection that waits for them. What the
    /// kernel buffers is not counted. 256 MiB.
    pub total_write_buffer: usize,
    /// What happens at either of these two caps. Default: [`Overflow::Close`].
    pub overflow: Overflow,
    /// A lower limit that may be passed for a while. Default: none.
    pub soft_limit: Option<SoftLimit>,
    /// Read from a congested connection whatever happens to its queue. Default: no. Then it is read
    /// from as long as its own queue does not grow by it: one read at a time, and no further one when
    /// something was queued for it since the last. So a client which sends but never reads costs the
    /// high mark and a read or two, with no code in the handler, while two ends that both send before
    /// they read do not hold each other up. Should both answer all that they read as well, one read has to
    /// let the other's queue fall to its low mark: `read_size` is to be no less than lies between the marks
    /// and the answers to one read together. Whose connections are written to for others' sake, as in a
    /// chat, may want to hear them all the same.
    pub read_while_congested: bool,
    /// Input that a handler may leave unused before the connection ends as
    /// [`InputOverflow`](crate::CloseReason::InputOverflow): the longest line or frame. At most 2 GiB. 64 KiB.
    pub max_read_buffer: usize,

    /// Time for an outbound connection to be established, the lookup of a host's name and all attempts
    /// to reach its addresses included; [`ConnectOptions`](crate::ConnectOptions) may say otherwise. 10 s:
    /// a SYN that is lost, sent again after a second (RFC 6298, 2.1), may be lost a second time.
    pub connect_timeout: Duration,
    /// How long an attempt to reach one of a host's addresses is given before the next address is
    /// tried as well; the attempt goes on. 10 ms to 2 s. 250 ms (RFC 8305, section 8).
    pub attempt_delay: Duration,
    /// Time for a TLS handshake, from the connection on. 10 s.
    pub handshake_timeout: Duration,
    /// Steps of TLS handshakes in a turn at most: a signature costs as much as a hundred short echoes, and
    /// who is in is served first. What has come with the end of a handshake is delivered in its last step. 2.
    pub handshakes_per_turn: usize,
    /// A peer may end its stream without having ended its TLS session (close_notify), as many HTTP clients
    /// do, and the close counts as clean. Then anybody on the way can cut a stream short unnoticed: for
    /// protocols only that tell by themselves where a message ends. Default: no.
    pub allow_missing_close_notify: bool,
    /// Which of a host's addresses are tried. Default: those of both families, by turns.
    pub family: Family,
    /// An open connection with no byte in either direction for this long is ended, at the latest an
    /// eighth of it after that. What the peer acknowledges counts, at the moment when it did. A
    /// connection that is not read from is judged by what the kernel knows: while the handler has
    /// paused it and input waits, the silence is ours; while it is congested, data that arrives counts
    /// (on Linux; elsewhere, and for Unix-domain sockets, input that waits does). Default: off.
    pub idle_timeout: Option<Duration>,
    /// The same, from when either direction has ended or a write has failed: nobody may hold half a
    /// connection for ever. The shorter of the two counts. 5 min.
    pub half_close_timeout: Option<Duration>,
    /// Bytes are queued and the peer's kernel acknowledged none of ours for this long: the peer is
    /// taken to have stopped reading. Where the system cannot tell (Unix-domain sockets, and all
    /// but Linux) bytes that the kernel accepts count instead. It holds for a close as well: while
    /// bytes of ours are queued or unacknowledged nothing else ends one, except the deadline of a
    /// shutdown. (Without it `half_close_timeout` does for a close.) 60 s.
    pub write_stall: Option<Duration>,
    /// A closing connection whose peer has all of our bytes and only owes the end of its stream is cut
    /// after so long a silence. 5 s, as nginx's `lingering_timeout`.
    pub linger_idle: Duration,
    /// It is cut after this long, silent or not. 30 s, as nginx's `lingering_time`. A shutdown, whose
    /// deadline is the only clock, heeds neither.
    pub linger_total: Duration,
    /// Input discarded at most in that time; likewise what is still read from a connection whose write
    /// half is broken. 0 is none. 64 MiB.
    pub linger_bytes: u64,
    /// Connections closing at one time. One more cuts the oldest of those that only owe their end or,
    /// when there are none, one of those that still receive. A shutdown, which closes all at once and
    /// has its own deadline, is not bound by it. 10,000.
    pub max_lingering: usize,

    /// Keepalive for TCP. Default: 60 s, 10 s, 6 probes: below the idle eviction of common
    /// middleboxes (AWS: 350 s).
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`. Default: [`UserTimeout::Auto`], 120 s with the default keepalive.
    pub user_timeout: UserTimeout,
    /// `TCP_NODELAY`. Default: on; the engine coalesces small pieces itself.
    pub nodelay: bool,
    /// `SO_SNDBUF`, the kernel's send buffer: Linux doubles the number, up to what
    /// `net.core.wmem_max` allows (socket(7)). Default: the system's, which tunes itself.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF`, the kernel's receive buffer, likewise (`net.core.rmem_max`). Default: the system's,
    /// which tunes itself.
    pub recv_buffer: Option<usize>,

    /// Length of the accept queue asked for, in clients; the system caps it (listen(2),
    /// `net.core.somaxconn`). 1024: a burst beyond it waits a second for its SYN to be sent again.
    pub backlog: u32,
    /// Accepts per listener and turn at most. 64: a flood of clients cannot starve those who are in.
    pub accepts_per_turn: usize,
    /// Connections at most. Outbound ones, and those still connecting or closing, are counted too, though
    /// only accepting heeds it. Default: no limit.
    pub max_connections: Option<usize>,
    /// What happens to clients beyond it. Default: [`AtLimit::Wait`].
    pub at_limit: AtLimit,
    /// Hold one file descriptor in reserve, and when there are no others use it to turn waiting
    /// clients away at once instead of leaving them in the backlog. Default: no.
    pub shed_when_exhausted: bool,

    /// How long a turn goes on before it looks for new events; what is left is done in the next ones,
    /// in fair order. 10 ms: nobody waits longer than that for somebody who is busy. A callback is
    /// never cut short, so that one which takes longer makes the turn longer. 100 µs to 10 s.
    pub turn_slice: Duration,
    /// The buffer all reads go through; one read takes at most this, which is at most 1 GiB. 64 KiB.
    pub read_size: usize,
    /// Bytes read from one connection in a turn, rounded up to whole reads. 128 KiB: more would
    /// let one busy peer hold up the others.
    pub read_budget: usize,
    /// Bytes handed to the kernel for one connection in a flush; what is left goes in the next turn. 256 KiB.
    pub write_budget: usize,
    /// Events taken from the kernel in one call; it is asked again as long as there are more. At most
    /// 1,048,576. 1024.
    pub events_per_turn: usize,
    /// Commands from other threads carried out in a turn at most. 1024.
    pub commands_per_turn: usize,
    /// Commands from other threads that wait to be carried out at most; one more is refused with
    /// [`HandleError::Full`](crate::HandleError::Full), except a shutdown. 65,536.
    pub max_commands: usize,
    /// Bytes in waiting sends from other threads at most; a single one that is larger may wait alone. 64 MiB.
    pub max_command_bytes: usize,

    /// Catch a panic of the handler: its connection is reset and reported as
    /// [`HandlerPanic`](crate::CloseReason::HandlerPanic), and the reactor goes on. Otherwise the
    /// panic goes on to the caller of `run` or `turn`, who may catch it and call again. Default: no,
    /// for a handler that panicked halfway may have broken its own state.
    pub catch_panics: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            high_water: 64 << 10,
            low_water: 16 << 10,
            max_write_buffer: 16 << 20,
            total_write_buffer: 256 << 20,
            overflow: Overflow::Close,
            soft_limit: None,
            read_while_congested: false,
            max_read_buffer: 64 << 10,
            connect_timeout: Duration::from_secs(10),
            attempt_delay: Duration::from_millis(250),
            handshake_timeout: Duration::from_secs(10),
            handshakes_per_turn: 2,
            allow_missing_close_notify: false,
            family: Family::Both,
            idle_timeout: None,
            half_close_timeout: Some(Duration::from_secs(300)),
            write_stall: Some(Duration::from_secs(60)),
            linger_idle: Duration::from_secs(5),
            linger_total: Duration::from_secs(30),
            linger_bytes: 64 << 20,
            max_lingering: 10_000,
            keepalive: Some(Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(10),
                count: 6,
            }),
            user_timeout: UserTimeout::Auto,
            nodelay: true,
            send_buffer: None,
            recv_buffer: None,
            backlog: 1024,
            accepts_per_turn: 64,
            max_connections: None,
            at_limit: AtLimit::Wait,
            shed_when_exhausted: false,
            turn_slice: Duration::from_millis(10),
            read_size: 64 << 10,
            read_budget: 128 << 10,
            write_budget: 256 << 10,
            events_per_turn: 1024,
            commands_per_turn: 1024,
            max_commands: 65_536,
            max_command_bytes: 64 << 20,
            catch_panics: false,
        }
    }
}

/// More makes no sense, and memory for it is taken at once.
const MAX_READ_SIZE: usize = 1 << 30;
const MAX_EVENTS: usize = 1 << 20;

/// What the kernel takes for a number of seconds in `TCP_KEEPIDLE` and `TCP_KEEPINTVL`.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);
/// `MAX_TCP_KEEPCNT`.
const MAX_PROBES: u32 = 127;

impl Config {
    /// The `TCP_USER_TIMEOUT` in force: `None` leaves it to the kernel.
    pub fn effective_user_timeout(&self) -> Option<Duration> {
        match (self.user_timeout, self.keepalive) {
            (UserTimeout::After(timeout), _) => Some(timeout),
            (UserTimeout::Auto, Some(keepalive)) => {
                Some(keepalive.idle.saturating_add(keepalive.interval.saturating_mul(keepalive.count)))
            }
            (UserTimeout::Auto, None) | (UserTimeout::Off, _) => None,
        }
    }

    /// The settings that a connection may have apart from the others, as they are for all.
    pub fn settings(&self) -> Settings {
        Settings {
            high_water: self.high_water,
            low_water: self.low_water,
            max_write_buffer: self.max_write_buffer,
            overflow: self.overflow,
            soft_limit: self.soft_limit,
            read_while_congested: self.read_while_congested,
            max_read_buffer: self.max_read_buffer,
            idle_timeout: self.idle_timeout,
            half_close_timeout: self.half_close_timeout,
            write_stall: self.write_stall,
        }
    }

    /// Checks that the settings can work together.
    ///
    /// # Errors
    ///
    /// Names the first setting that cannot be met and says why.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.settings().validate(self.total_write_buffer)?;
        self.validate_times()?;
        self.validate_keepalive()?;
        for (name, value) in [
            ("backlog", self.backlog as usize),
            ("accepts_per_turn", self.accepts_per_turn),
            ("handshakes_per_turn", self.handshakes_per_turn),
            ("max_lingering", self.max_lingering),
            ("read_size", self.read_size),
            ("read_budget", self.read_budget),
            ("write_budget", self.write_budget),
            ("events_per_turn", self.events_per_turn),
            ("commands_per_turn", self.commands_per_turn),
            ("max_commands", self.max_commands),
            ("max_command_bytes", self.max_command_bytes),
            ("max_connections", self.max_connections.unwrap_or(1)),
            ("send_buffer", self.send_buffer.unwrap_or(1)),
            ("recv_buffer", self.recv_buffer.unwrap_or(1)),
        ] {
            check(value > 0, || format!("{name} must be at least 1"))?;
        }
        let most = i32::MAX as usize;
        for (name, value, most) in [
            ("backlog", self.backlog as usize, most),
            ("send_buffer", self.send_buffer.unwrap_or(1), most),
            ("recv_buffer", self.recv_buffer.unwrap_or(1), most),
            ("read_size", self.read_size, MAX_READ_SIZE),
            ("events_per_turn", self.events_per_turn, MAX_EVENTS),
        ] {
            check(value <= most, || format!("{name} ({value}) is more than can be had ({most})"))?;
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        for (name, time) in [
            ("connect_timeout", self.connect_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("linger_idle", self.linger_idle),
            ("linger_total", self.linger_total),
        ] {
            check(time >= SHORTEST, || format!("{name} ({time:?}) must be at least 1 ms"))?;
        }
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(2));
        check((least..=most).contains(&self.attempt_delay), || {
            format!("attempt_delay ({:?}) must lie between 10 ms and 2 s", self.attempt_delay)
        })?;
        let (least, most) = (Duration::from_micros(100), Duration::from_secs(10));
        check((least..=most).contains(&self.turn_slice), || {
            format!("turn_slice ({:?}) must lie between 100 µs and 10 s", self.turn_slice)
        })
    }

    fn validate_keepalive(&self) -> Result<(), ConfigError> {
        if let Some(keepalive) = self.keepalive {
            for (name, time) in [("idle", keepalive.idle), ("interval", keepalive.interval)] {
                check(time.subsec_nanos() == 0 && !time.is_zero() && time <= MAX_KEEPALIVE, || {
                    format!("keepalive.{name} ({time:?}) must be whole seconds, 1 to 32767")
                })?;
            }
            check((1..=MAX_PROBES).contains(&keepalive.count), || {
                format!("keepalive.count ({}) must lie between 1 and {MAX_PROBES}", keepalive.count)
            })?;
        }
        let Some(timeout) = self.effective_user_timeout() else { return Ok(()) };
        check(timeout >= Duration::from_millis(1) && timeout.as_millis() <= i32::MAX as u128, || {
            format!("user_timeout ({timeout:?}) must lie between 1 ms and {} ms", i32::MAX)
        })?;
        let (Some(keepalive), UserTimeout::After(_)) = (self.keepalive, self.user_timeout) else {
            return Ok(());
        };
        let least = keepalive.idle + keepalive.interval * 3;
        check(timeout >= least, || {
            format!(
                "user_timeout ({timeout:?}) must be at least keepalive idle + 3 × interval ({least:?}): \
                 it overrides the probe count, and a single lost probe would end a live connection"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        let error = config.validate().expect_err("this cannot work");
        let io = io::Error::from(error.clone());
        assert_eq!(io.kind(), io::ErrorKind::InvalidInput);
        error.to_string()
    }

    #[test]
    fn the_defaults_work_together() {
        assert_eq!(Config::default().validate(), Ok(()));
        let timeout = Config::default().effective_user_timeout();
        assert_eq!(timeout, Some(Duration::from_secs(120)));
    }

    // D11
    #[test]
    fn a_user_timeout_that_one_lost_probe_would_trip_is_refused() {
        let short = |c: &mut Config| c.user_timeout = UserTimeout::After(Duration::from_secs(89));
        assert!(refused(short).contains("idle + 3 × interval (90s)"));
        let ninety = UserTimeout::After(Duration::from_secs(90));
        let mut config = Config { user_timeout: ninety, ..Config::default() };
        assert_eq!(config.validate(), Ok(()));
        config.user_timeout = UserTimeout::After(Duration::from_secs(3));
        config.keepalive = None;
        assert_eq!(config.validate(), Ok(()));
        config.user_timeout = UserTimeout::Auto;
        assert_eq!(config.effective_user_timeout(), None);
    }

    #[test]
    fn every_impossible_combination_names_its_setting() {
        type Change = fn(&mut Config);
        let cases: &[(&str, Change)] = &[
            ("high_water", |c| c.high_water = 0),
            ("low_water", |c| c.low_water = c.high_water),
            ("high_water", |c| c.high_water = c.max_write_buffer + 1),
            ("high_water", |c| c.high_water = c.max_write_buffer),
            ("high_water", |c| c.total_write_buffer = c.high_water),
            ("max_read_buffer", |c| c.max_read_buffer = 0),
            ("connect_timeout", |c| c.connect_timeout = Duration::ZERO),
            ("handshake_timeout", |c| c.handshake_timeout = Duration::ZERO),
            ("handshakes_per_turn", |c| c.handshakes_per_turn = 0),
            ("idle_timeout", |c| c.idle_timeout = Some(Duration::ZERO)),
            ("half_close_timeout", |c| c.half_close_timeout = Some(Duration::ZERO)),
            ("write_stall", |c| c.write_stall = Some(Duration::ZERO)),
            ("linger_idle", |c| c.linger_idle = Duration::ZERO),
            ("linger_total", |c| c.linger_total = Duration::ZERO),
            ("max_lingering", |c| c.max_lingering = 0),
            ("backlog", |c| c.backlog = 0),
            ("backlog", |c| c.backlog = u32::MAX),
            ("accepts_per_turn", |c| c.accepts_per_turn = 0),
            ("max_connections", |c| c.max_connections = Some(0)),
            ("send_buffer", |c| c.send_buffer = Some(0)),
            ("recv_buffer", |c| c.recv_buffer = Some(usize::MAX)),
            ("idle_timeout", |c| c.idle_timeout = Some(Duration::from_micros(999))),
            ("attempt_delay", |c| c.attempt_delay = Duration::from_millis(9)),
            ("attempt_delay", |c| c.attempt_delay = Duration::from_millis(2001)),
            ("turn_slice", |c| c.turn_slice = Duration::ZERO),
            ("turn_slice", |c| c.turn_slice = Duration::MAX),
            ("read_size", |c| c.read_size = 0),
            ("read_size", |c| c.read_size = usize::MAX),
            ("events_per_turn", |c| c.events_per_turn = usize::MAX),
            // One more than the kernel takes.
            ("events_per_turn", |c| c.events_per_turn = 178_956_971),
            ("read_budget", |c| c.read_budget = 0),
            ("write_budget", |c| c.write_budget = 0),
            ("events_per_turn", |c| c.events_per_turn = 0),
            ("commands_per_turn", |c| c.commands_per_turn = 0),
            ("max_commands", |c| c.max_commands = 0),
            ("max_command_bytes", |c| c.max_command_bytes = 0),
            ("user_timeout", |c| c.user_timeout = UserTimeout::After(Duration::ZERO)),
            ("user_timeout", |c| c.user_timeout = UserTimeout::After(Duration::MAX)),
        ];
        for (name, change) in cases {
            let message = refused(change);
            assert!(message.starts_with(name), "{name}: {message}");
        }
    }

    #[test]
    fn keepalive_the_kernel_would_refuse_is_refused_here() {
        let keepalive = |idle_ms, interval_ms, count| {
            refused(|c| {
                c.keepalive = Some(Keepalive {
                    idle: Duration::from_millis(idle_ms),
                    interval: Duration::from_millis(interval_ms),
                    count,
                });
            })
        };
        assert!(keepalive(0, 1000, 3).starts_with("keepalive.idle"));
        assert!(keepalive(1500, 1000, 3).starts_with("keepalive.idle"));
        assert!(keepalive(1000, 40_000_000, 3).starts_with("keepalive.interval"));
        assert!(keepalive(1000, 1000, 0).starts_with("keepalive.count"));
        assert!(keepalive(1000, 1000, 128).starts_with("keepalive.count"));
    }

    #[test]
    fn a_soft_limit_must_lie_below_the_cap() {
        let soft = |bytes, millis| {
            let duration = Duration::from_millis(millis);
            refused(|c| c.soft_limit = Some(SoftLimit { bytes, duration }))
        };
        assert!(soft(0, 1).starts_with("soft_limit.bytes"));
        assert!(soft(17 << 20, 1).starts_with("soft_limit.bytes"));
        assert!(soft(1, 0).starts_with("soft_limit.duration"));
    }
}
