//! What the other ends of the connections do: scripts, in plain steps.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::socket::SockId;

/// How a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Whatever comes, at once.
    Eager,
    /// So many bytes at a time, so often.
    Slow {
        /// Bytes of one read.
        bytes: usize,
        /// Time between two.
        every: Duration,
    },
    /// Not at all: its kernel's buffer fills up, and then ours.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Bytes),
    SendSlowly {
        data: Bytes,
        piece: usize,
        every: Duration,
    },
    Wait(Duration),
    AwaitBytes(usize),
    AwaitEnd,
    Read(Reading),
    HalfClose,
    Close,
    Reset,
    Vanish,
    Return,
    Reboot,
    #[cfg(feature = "tls")]
    Secure {
        is_polite: bool,
    },
}

/// What a peer does, step by step. It reads [eagerly](Reading::Eager) unless told otherwise, and
/// closes once its script is done and it has read the end of the stream.
///
/// ```
/// use std::time::Duration;
/// use unbroken::sim::{Reading, Script};
///
/// // Asks, ends its stream, reads slowly, and leaves before the end with a reset.
/// let script = Script::new()
///     .read(Reading::Slow { bytes: 100, every: Duration::from_millis(5) })
///     .send("GET /\n")
///     .half_close()
///     .await_bytes(10_000)
///     .reset();
/// # let _ = script;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub(crate) steps: VecDeque<Step>,
}

impl Script {
    /// Does nothing but read.
    pub fn new() -> Self {
        Self::default()
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    /// Sends `data`, waiting for room as a blocking program would.
    pub fn send(self, data: impl Into<Bytes>) -> Self {
        self.then(Step::Send(data.into()))
    }

    /// Sends `data` in pieces of `piece` bytes, with a pause of `every` behind each.
    pub fn send_slowly(self, data: impl Into<Bytes>, piece: usize, every: Duration) -> Self {
        self.then(Step::SendSlowly { data: data.into(), piece: piece.max(1), every })
    }

    /// Does nothing for a while; reading goes on.
    pub fn wait(self, time: Duration) -> Self {
        self.then(Step::Wait(time))
    }

    /// Waits until so many bytes have been read in all, or none can come any more.
    pub fn await_bytes(self, count: usize) -> Self {
        self.then(Step::AwaitBytes(count))
    }

    /// Waits until the end of the stream, or an error, has been read.
    pub fn await_end(self) -> Self {
        self.then(Step::AwaitEnd)
    }

    /// Reads in this way from here on.
    pub fn read(self, reading: Reading) -> Self {
        self.then(Step::Read(reading))
    }

    /// Ends its stream and goes on reading: `shutdown(SHUT_WR)`.
    pub fn half_close(self) -> Self {
        self.then(Step::HalfClose)
    }

    /// Closes as a program does that ends: with input unread this is a reset.
    pub fn close(self) -> Self {
        self.then(Step::Close)
    }

    /// Resets the connection: `SO_LINGER` with a time of zero, then `close`.
    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// Its machine drops off the network: nothing arrives there and nothing comes.
    pub fn vanish(self) -> Self {
        self.then(Step::Vanish)
    }

    /// The network heals: what was on its way arrives after all.
    pub fn come_back(self) -> Self {
        self.then(Step::Return)
    }

    /// Speaks the simulator's own session from here on, the server's end of it at a
    /// [`Remote`](crate::sim::Remote): what it sends and reads are plaintext. It ends its session before its stream.
    #[cfg(feature = "tls")]
    pub fn secure(self) -> Self {
        self.then(Step::Secure { is_polite: true })
    }

    /// The same, without ever ending its session, as programs do that do not care.
    #[cfg(feature = "tls")]
    pub fn secure_without_end(self) -> Self {
        self.then(Step::Secure { is_polite: false })
    }

    /// The machine is back and knows nothing of the connection: whatever arrives is answered with a reset.
    pub fn reboot(self) -> Self {
        self.then(Step::Reboot)
    }
}

/// How the stream ended that a peer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a clean end of stream.
    Eof,
    /// With this error (an errno).
    Error(i32),
}

/// What stands at an address that the handler connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A server: each connection is accepted and met with this script.
    Serves(Script),
    /// A machine where nobody listens: connection refused.
    Refuses,
    /// Nothing that answers.
    Silent,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct PeerState {
    pub(crate) addr: SocketAddr,
    /// The listener it connects to; none for a remote server.
    pub(crate) server: Option<SocketAddr>,
    pub(crate) sock: Option<SockId>,
    pub(crate) script: Script,
    pub(crate) reading: Reading,
    pub(crate) next_read: u64,
    /// When it comes back for what is left to be read.
    pub(crate) returns_at: u64,
    /// A write took the socket's error: no read will tell it.
    pub(crate) write_error: Option<i32>,
    /// Where its present step stands: bytes sent of it, or when its wait is over.
    pub(crate) offset: usize,
    pub(crate) until: Option<u64>,
    pub(crate) scheduled: bool,
    /// Off the network: packets to and from it are held back, or answered with resets.
    pub(crate) dark: bool,
    pub(crate) sent: Vec<u8>,
    pub(crate) received: Vec<u8>,
    pub(crate) end: Option<End>,
    pub(crate) tries: u32,
    #[cfg(feature = "tls")]
    pub(super) secured: Option<Box<super::securing::Secured>>,
    /// The stream it reads ended, and the session above it had not.
    pub(crate) was_cut: bool,
}

impl PeerState {
    pub(crate) fn new(addr: SocketAddr, server: Option<SocketAddr>, script: Script) -> Self {
        Self {
            addr,
            server,
            sock: None,
            script,
            reading: Reading::Eager,
            next_read: 0,
            returns_at: 0,
            write_error: None,
            offset: 0,
            until: None,
            scheduled: false,
            dark: false,
            sent: Vec::new(),
            received: Vec::new(),
            end: None,
            tries: 0,
            #[cfg(feature = "tls")]
            secured: None,
            was_cut: false,
        }
    }
}

/// Nobody speaks it.
#[cfg(not(feature = "tls"))]
impl PeerState {
    pub(crate) fn is_secured(&self) -> bool {
        false
    }

    pub(super) fn is_handshaking(&self) -> bool {
        false
    }

    pub(super) fn is_cut(&self) -> bool {
        false
    }

    pub(super) fn end_session(&mut self) {}

    pub(super) fn open(&mut self, raw: &[u8]) -> Result<(), String> {
        self.received.extend_from_slice(raw);
        Ok(())
    }
}
