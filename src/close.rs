//! Why a connection ended, and the account of what became of its bytes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Which deadline ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// The connection was not established within `connect_timeout`.
    Connect,
    /// No byte came or went for `idle_timeout`, or `half_close_timeout` once one direction had ended.
    Idle,
    /// Bytes were queued and the peer's kernel acknowledged none for `write_stall`.
    WriteStall,
    /// A closing connection met one of its caps: `linger_idle`, `linger_total`, `linger_bytes` or `max_lingering`.
    Linger,
    /// The kernel gave the peer up (ETIMEDOUT): keepalive probes or `TCP_USER_TIMEOUT`.
    Kernel,
    /// The TLS handshake was not done within `handshake_timeout`.
    Handshake,
}

/// Why a connection ended.
///
/// [`name`](Self::name) gives a fixed word for programs and metrics, `Display` words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// We closed, all of our bytes reached the peer's kernel, and the peer's end of stream was seen.
    Finished,
    /// The peer ended its stream first, we then closed, and all of our bytes reached its kernel.
    PeerClosed,
    /// Bytes of ours met a peer that had closed (EPIPE): a write failed, or bytes handed over stay unacknowledged.
    BrokenPipe,
    /// The peer reset the connection (ECONNRESET).
    Reset,
    /// The peer's end of stream was seen and its reset came later, with nothing of ours in flight.
    ResetAfterFin,
    /// The program called `abort`, or closed before the connection was established with nothing queued.
    Aborted,
    /// The local kernel gave the connection up (ECONNABORTED), as an administrator's `ss -K` makes it.
    KernelAborted,
    /// The connection could not be established; the report's `errno` says why.
    ConnectFailed,
    /// A deadline passed: the engine's own, or the kernel's.
    TimedOut(Timeout),
    /// The peer read too slowly: a send would have passed a cap of the write buffers, or the soft limit stood too long.
    SlowConsumer,
    /// The handler left more input unused than `max_read_buffer` allows.
    InputOverflow,
    /// The connection came while `max_connections` were open and was turned away.
    Refused,
    /// The deadline of a graceful shutdown cut the connection off.
    Shutdown,
    /// The handler panicked in a callback for this connection.
    HandlerPanic,
    /// The peer ended its stream without ending its TLS session: what came may be less than it sent,
    /// cut off by anybody on the way. All of our bytes reached its kernel.
    Truncated,
    /// It did not end: [`Net::detach`](crate::Net::detach) gave it away, with all that had not been used
    /// or handed over yet.
    Detached,
    /// TLS failed: a certificate was not accepted, a record was forged, nothing was agreed on. The
    /// report's `alert` says who objected, its `tls_error` to what.
    Tls,
    /// Any other error; the report's `errno` says which.
    Io,
}

impl CloseReason {
    /// Every reason, in a fixed order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Finished,
        Self::PeerClosed,
        Self::BrokenPipe,
        Self::Reset,
        Self::ResetAfterFin,
        Self::Aborted,
        Self::KernelAborted,
        Self::ConnectFailed,
        Self::TimedOut(Timeout::Connect),
        Self::TimedOut(Timeout::Idle),
        Self::TimedOut(Timeout::WriteStall),
        Self::TimedOut(Timeout::Linger),
        Self::TimedOut(Timeout::Kernel),
        Self::SlowConsumer,
        Self::InputOverflow,
        Self::Refused,
        Self::Shutdown,
        Self::HandlerPanic,
        Self::TimedOut(Timeout::Handshake),
        Self::Truncated,
        Self::Tls,
        Self::Detached,
        Self::Io,
    ];

    pub(crate) const COUNT: usize = 23;

    /// The place of this reason in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        Self::ALL.iter().position(|reason| *reason == self).unwrap_or(Self::COUNT - 1)
    }

    /// A fixed word for programs, logs and metrics, such as `broken_pipe` or `write_stall`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::PeerClosed => "peer_closed",
            Self::BrokenPipe => "broken_pipe",
            Self::Reset => "reset",
            Self::ResetAfterFin => "reset_after_fin",
            Self::Aborted => "aborted",
            Self::KernelAborted => "kernel_aborted",
            Self::ConnectFailed => "connect_failed",
            Self::TimedOut(Timeout::Connect) => "connect_timeout",
            Self::TimedOut(Timeout::Idle) => "idle_timeout",
            Self::TimedOut(Timeout::WriteStall) => "write_stall",
            Self::TimedOut(Timeout::Linger) => "linger_timeout",
            Self::TimedOut(Timeout::Kernel) => "kernel_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::InputOverflow => "input_overflow",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
            Self::HandlerPanic => "handler_panic",
            Self::TimedOut(Timeout::Handshake) => "handshake_timeout",
            Self::Truncated => "truncated",
            Self::Tls => "tls",
            Self::Detached => "detached",
            Self::Io => "io",
        }
    }

    /// Whether both streams ended in good order and none of our bytes was lost on the way to the
    /// peer's kernel: [`Finished`](Self::Finished) or [`PeerClosed`](Self::PeerClosed).
    pub fn is_clean(self) -> bool {
        matches!(self, Self::Finished | Self::PeerClosed)
    }

    /// The level at which the end of a connection is logged. What a peer can do at will stays at
    /// debug, so that no peer can fill a log; what calls for somebody's attention stands higher.
    pub(crate) fn log_level(self) -> log::Level {
        match self {
            Self::HandlerPanic => log::Level::Error,
            Self::Io => log::Level::Info,
            _ => log::Level::Debug,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "finished",
            Self::PeerClosed => "closed by the peer",
            Self::BrokenPipe => "broken pipe",
            Self::Reset => "connection reset by peer",
            Self::ResetAfterFin => "reset by the peer after its end of stream",
            Self::Aborted => "aborted",
            Self::KernelAborted => "aborted by the local kernel",
            Self::ConnectFailed => "could not connect",
            Self::TimedOut(Timeout::Connect) => "connecting took too long",
            Self::TimedOut(Timeout::Idle) => "idle for too long",
            Self::TimedOut(Timeout::WriteStall) => "the peer stopped reading",
            Self::TimedOut(Timeout::Linger) => "the peer did not finish closing in time",
            Self::TimedOut(Timeout::Kernel) => "connection timed out",
            Self::SlowConsumer => "slow consumer",
            Self::InputOverflow => "too much unused input",
            Self::Refused => "refused: too many connections",
            Self::Shutdown => "cut off by the shutdown",
            Self::HandlerPanic => "the handler panicked",
            Self::TimedOut(Timeout::Handshake) => "the handshake took too long",
            Self::Truncated => "cut short: the tls session was not ended",
            Self::Tls => "tls failed",
            Self::Detached => "given away",
            Self::Io => "input/output error",
        })
    }
}

/// What a connection had seen when its first error is judged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Circumstances {
    /// It was still connecting.
    pub(crate) connecting: bool,
    /// The peer's end of stream was seen.
    pub(crate) saw_fin: bool,
    /// A write failed, or bytes stay queued or unacknowledged.
    pub(crate) lost: bool,
}

/// Turns the first error of a connection into the reason of its end.
pub(crate) fn reason_for(errno: i32, seen: Circumstances) -> CloseReason {
    if seen.connecting {
        return CloseReason::ConnectFailed;
    }
    match errno {
        libc::EPIPE if seen.saw_fin && !seen.lost => CloseReason::ResetAfterFin,
        libc::EPIPE => CloseReason::BrokenPipe,
        libc::ECONNRESET => CloseReason::Reset,
        libc::ECONNABORTED => CloseReason::KernelAborted,
        libc::ETIMEDOUT => CloseReason::TimedOut(Timeout::Kernel),
        // macOS answers a send during the peer's teardown with EPROTOTYPE, and some VPN
        // drivers for ever: it means a reset, and must not be retried (libuv#3413).
        #[cfg(target_vendor = "apple")]
        libc::EPROTOTYPE => CloseReason::Reset,
        _ => CloseReason::Io,
    }
}

/// A try to reach one address that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// Where to.
    pub addr: SocketAddr,
    /// What became of it: the system's error (an errno), ETIMEDOUT when the time for connecting was
    /// up, EINPROGRESS when the program gave up first.
    pub errno: i32,
}

/// Who sent a TLS alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// We did.
    Local,
    /// The peer did.
    Peer,
}

/// A TLS alert that ended a session (RFC 8446, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Alert {
    /// Who objected.
    pub by: Side,
    /// Its number, such as 42 for a bad certificate.
    pub code: u8,
}

/// The account of one connection, handed to [`Handler::on_close`](crate::Handler::on_close).
///
/// Every byte that a send took is in exactly one place: `handed` to the kernel or `unsent`. Of
/// those handed over, `unacked` had not been acknowledged by the peer's kernel at the end. What
/// was acknowledged has reached the peer's kernel; whether its program read it, only an answer
/// of the program's own can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Why it ended.
    pub reason: CloseReason,
    /// The first error that the system reported (an errno), if any did.
    pub errno: Option<i32>,
    /// Whether the peer's end of stream was seen.
    pub saw_fin: bool,
    /// Bytes read from the socket, those discarded while closing included.
    pub received: u64,
    /// Bytes that the kernel accepted for sending.
    pub handed: u64,
    /// Bytes that a send took and that were never handed to the kernel.
    pub unsent: u64,
    /// Bytes handed to the kernel that the peer's kernel had not acknowledged: on Linux, for TCP;
    /// `None` elsewhere and for Unix-domain sockets. An upper bound while acknowledgements are on
    /// their way.
    pub unacked: Option<u64>,
    /// Time from accept, or from the call of `connect`, to the end.
    pub duration: Duration,
    /// The addresses that were tried in vain, in that order: all of them when the connection could not
    /// be established; otherwise those before the one that could. None, as a rule.
    pub attempts: Box<[Attempt]>,
    /// What the resolver said when it gave no address for the host's name.
    pub lookup_error: Option<Box<str>>,
    /// The TLS alert that ended the connection, if one did.
    pub alert: Option<Alert>,
    /// What was wrong when TLS failed.
    pub tls_error: Option<Box<str>>,
}

impl CloseReport {
    /// Whether bytes of ours are known not to have reached the peer's kernel. Those of a connection that
    /// was given away left with it, and are not lost.
    pub fn lost_bytes(&self) -> bool {
        self.reason != CloseReason::Detached && self.is_short()
    }

    fn is_short(&self) -> bool {
        self.unsent > 0 || self.unacked.is_some_and(|bytes| bytes > 0)
    }
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if let Some(errno) = self.errno {
            write!(f, " (errno {errno})")?;
        }
        write!(f, "; received {}, handed {}, unsent {}", self.received, self.handed, self.unsent)?;
        if let Some(unacked) = self.unacked {
            write!(f, ", unacked {unacked}")?;
        }
        write!(f, "; after {:?}", self.duration)?;
        if let Some(error) = &self.tls_error {
            write!(f, "; tls: {error}")?;
        }
        if let Some(Alert { by, code }) = self.alert {
            write!(f, " (alert {code}, sent by {})", if by == Side::Local { "us" } else { "the peer" })?;
        }
        if let Some(error) = &self.lookup_error {
            write!(f, "; the lookup: {error}")?;
        }
        for (place, attempt) in self.attempts.iter().enumerate() {
            let error = std::io::Error::from_raw_os_error(attempt.errno);
            write!(f, "{} {}: {error}", if place == 0 { "; tried" } else { "," }, attempt.addr)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const SEEN: Circumstances = Circumstances { connecting: false, saw_fin: true, lost: false };

    #[test]
    fn every_reason_has_its_own_name_words_and_place() {
        let names: HashSet<_> = CloseReason::ALL.iter().map(|r| r.name()).collect();
        let words: HashSet<_> = CloseReason::ALL.iter().map(|r| r.to_string()).collect();
        assert_eq!(names.len(), CloseReason::COUNT);
        assert_eq!(words.len(), CloseReason::COUNT);
        for (place, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
            let text = reason.to_string();
            assert_eq!(text, text.to_lowercase());
        }
    }

    #[test]
    fn a_broken_pipe_with_nothing_in_flight_is_a_reset_after_fin() {
        assert_eq!(reason_for(libc::EPIPE, SEEN), CloseReason::ResetAfterFin);
        let lost = Circumstances { lost: true, ..SEEN };
        assert_eq!(reason_for(libc::EPIPE, lost), CloseReason::BrokenPipe);
        let unseen = Circumstances { saw_fin: false, ..SEEN };
        assert_eq!(reason_for(libc::EPIPE, unseen), CloseReason::BrokenPipe);
    }

    #[test]
    fn each_errno_has_its_reason() {
        for (errno, reason) in [
            (libc::ECONNRESET, CloseReason::Reset),
            (libc::ECONNABORTED, CloseReason::KernelAborted),
            (libc::ETIMEDOUT, CloseReason::TimedOut(Timeout::Kernel)),
            (libc::EHOSTUNREACH, CloseReason::Io),
        ] {
            assert_eq!(reason_for(errno, SEEN), reason);
            let connecting = Circumstances { connecting: true, ..SEEN };
            assert_eq!(reason_for(errno, connecting), CloseReason::ConnectFailed);
        }
    }

    #[test]
    fn no_peer_can_fill_the_log() {
        for reason in CloseReason::ALL {
            let ours = matches!(reason, CloseReason::HandlerPanic | CloseReason::Io);
            assert_eq!(reason.log_level() < log::Level::Debug, ours, "{reason}");
        }
    }
}
