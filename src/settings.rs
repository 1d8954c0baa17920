//! The settings that one connection, or all of one listener, may have apart from the others.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

/// Shorter spans are not measured well enough.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// What happens to a send that would pass a cap of the write buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// At the cap of one connection it is ended as [`SlowConsumer`](crate::CloseReason::SlowConsumer). At
    /// the cap of all together the one goes that has held memory for longest without getting on; when
    /// everybody gets on, nobody is ended and the send is refused.
    Close,
    /// The send is refused with [`SendError::Full`](crate::SendError::Full); nothing else happens. (Input
    /// that is unused cannot be refused: it may end a connection all the same.)
    Refuse,
}

/// A limit that may be passed for a while, after the model of Redis's output buffer limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftLimit {
    /// Bytes queued in one connection.
    pub bytes: usize,
    /// How long they may stay at or above `bytes`, without a dip, before the connection ends as
    /// [`SlowConsumer`](crate::CloseReason::SlowConsumer).
    pub duration: Duration,
}

/// What may differ from one connection to the next. It begins as the [`Config`](crate::Config) has it:
///
/// ```
/// use std::time::Duration;
/// use unbroken::Config;
///
/// // Uploads may be slow, and lines long; everybody else keeps to the configuration.
/// let mut uploads = Config::default().settings();
/// uploads.idle_timeout = Some(Duration::from_secs(300));
/// uploads.max_read_buffer = 1 << 20;
/// # let _ = uploads;
/// ```
///
/// [`Net::set_settings`](crate::Net::set_settings) gives them to a connection,
/// [`ListenOptions::settings`](crate::ListenOptions::settings) to all that a listener brings,
/// [`ConnectOptions::settings`](crate::ConnectOptions::settings) to one that is asked for. Each
/// field means what the field of the same name means in [`Config`](crate::Config).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// See [`Config::high_water`](crate::Config::high_water).
    pub high_water: usize,
    /// See [`Config::low_water`](crate::Config::low_water).
    pub low_water: usize,
    /// See [`Config::max_write_buffer`](crate::Config::max_write_buffer).
    pub max_write_buffer: usize,
    /// What happens at that cap; see [`Config::overflow`](crate::Config::overflow). At the budget of all connections together it
    /// is the sender's own policy that counts.
    pub overflow: Overflow,
    /// See [`Config::soft_limit`](crate::Config::soft_limit).
    pub soft_limit: Option<SoftLimit>,
    /// See [`Config::read_while_congested`](crate::Config::read_while_congested).
    pub read_while_congested: bool,
    /// See [`Config::max_read_buffer`](crate::Config::max_read_buffer).
    pub max_read_buffer: usize,
    /// See [`Config::idle_timeout`](crate::Config::idle_timeout).
    pub idle_timeout: Option<Duration>,
    /// See [`Config::half_close_timeout`](crate::Config::half_close_timeout).
    pub half_close_timeout: Option<Duration>,
    /// See [`Config::write_stall`](crate::Config::write_stall).
    pub write_stall: Option<Duration>,
}

/// What is kept unused is counted in 32 bits.
const MAX_READ_BUFFER: usize = 1 << 31;

impl Settings {
    /// Checks that the settings can work together, with so many bytes for all connections.
    pub(crate) fn validate(&self, total_write_buffer: usize) -> Result<(), ConfigError> {
        check(self.high_water > 0, || "high_water must be at least 1".to_owned())?;
        check(self.low_water < self.high_water, || {
            format!("low_water ({}) must be below high_water ({})", self.low_water, self.high_water)
        })?;
        // Nobody would be told to stop before the cap.
        for (name, cap) in
            [("max_write_buffer", self.max_write_buffer), ("total_write_buffer", total_write_buffer)]
        {
            check(self.high_water < cap, || {
                format!("high_water ({}) must be below {name} ({cap})", self.high_water)
            })?;
        }
        check((1..=MAX_READ_BUFFER).contains(&self.max_read_buffer), || {
            format!("max_read_buffer ({}) must lie between 1 and {MAX_READ_BUFFER}", self.max_read_buffer)
        })?;
        if let Some(soft) = self.soft_limit {
            check(soft.bytes > 0 && soft.bytes <= self.max_write_buffer, || {
                format!(
                    "soft_limit.bytes ({}) must lie between 1 and max_write_buffer ({})",
                    soft.bytes, self.max_write_buffer
                )
            })?;
            check(soft.duration >= SHORTEST, || {
                format!("soft_limit.duration ({:?}) must be at least 1 ms", soft.duration)
            })?;
        }
        for (name, time) in [
            ("idle_timeout", self.idle_timeout),
            ("half_close_timeout", self.half_close_timeout),
            ("write_stall", self.write_stall),
        ] {
            check(time.is_none_or(|time| time >= SHORTEST), || {
                format!("{name} ({:?}) must be at least 1 ms", time.unwrap_or_default())
            })?;
        }
        Ok(())
    }
}

pub(crate) fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError { message: message() })
}

/// A setting that cannot be met; its text says which and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ConfigError {}

impl From<ConfigError> for io::Error {
    fn from(error: ConfigError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_settings_of_a_connection_begin_as_the_configuration_has_them() {
        let mut config = Config::default();
        (config.high_water, config.idle_timeout) = (77_777, Some(Duration::from_secs(7)));
        let settings = config.settings();
        assert_eq!((settings.high_water, settings.idle_timeout), (77_777, Some(Duration::from_secs(7))));
        assert_eq!(settings.validate(config.total_write_buffer), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_for_one_connection_as_for_all() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Config::default().settings();
            change(&mut settings);
            settings.validate(1 << 20).expect_err("this cannot work").to_string()
        };
        assert!(refused(|s| s.high_water = 0).starts_with("high_water"));
        assert!(refused(|s| s.high_water = 1 << 20).contains("total_write_buffer"));
        assert!(refused(|s| s.max_write_buffer = s.high_water).contains("max_write_buffer"));
        assert!(refused(|s| s.max_read_buffer = usize::MAX).starts_with("max_read_buffer"));
        assert!(refused(|s| s.write_stall = Some(Duration::ZERO)).starts_with("write_stall"));
    }
}
