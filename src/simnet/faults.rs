//! Which faults a simulated kernel makes, and how often.

use std::time::Duration;

use super::rng::Rng;

/// How often each fault happens, in a thousand chances; 0 is never.
///
/// [`Faults::none`] is a kernel on its best behaviour, [`Faults::from_seed`] a mixture of its own
/// for each seed. Every fault is one that a kernel or a network may make: an engine that loses a
/// byte under them is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// A write takes only part of what it could, at any byte.
    pub short_write: u16,
    /// A read gives only part of what is there, at any byte. While this is not 0, the sockets do not
    /// promise that a short read empties them.
    pub short_read: u16,
    /// A read, write or accept finds nothing, although there is something; an event follows.
    pub would_block: u16,
    /// A system call, the poll among them, is interrupted (EINTR).
    pub interrupt: u16,
    /// The connection is reset by somebody on the way, at any read or write.
    pub reset: u16,
    /// An accept fails: with the error of one client (ECONNABORTED, EPROTO…), or ENOBUFS.
    pub accept_error: u16,
    /// A connect fails at once (ENETUNREACH, EADDRNOTAVAIL).
    pub connect_error: u16,
    /// An event comes up to 5 ms late.
    pub event_delay: u16,
    /// The events of a poll are shuffled.
    pub event_shuffle: u16,
    /// An event comes that nothing called for: of a live connection, or of one that is gone.
    pub event_spurious: u16,
    /// File descriptors run out for up to half a second (EMFILE), without a later edge.
    pub exhaustion: u16,
    /// The process is stopped for a while where it waits for events, or between two turns.
    pub pause: u16,
    /// The process is stopped for a while in the middle of a turn, before or after a callback.
    pub stop: u16,
    /// How long at most, in either case.
    pub longest_pause: Duration,
}

impl Faults {
    /// No faults at all: only what the peers do.
    pub const fn none() -> Self {
        Self {
            short_write: 0,
            short_read: 0,
            would_block: 0,
            interrupt: 0,
            reset: 0,
            accept_error: 0,
            connect_error: 0,
            event_delay: 0,
            event_shuffle: 0,
            event_spurious: 0,
            exhaustion: 0,
            pause: 0,
            stop: 0,
            longest_pause: Duration::from_secs(2),
        }
    }

    /// A mixture drawn from a seed: about half of the kinds, each more or less often.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed, u64::from_be_bytes(*b"..faults"));
        let mut faults = Self::none();
        for (_, chance, most) in faults.kinds() {
            if rng.chance(500) {
                *chance = rng.between(1, usize::from(most)) as u16;
            }
        }
        faults
    }

    /// Every kind with its name and the most that makes sense of it.
    pub(crate) fn kinds(&mut self) -> [(&'static str, &mut u16, u16); 13] {
        [
            ("short_write", &mut self.short_write, 500),
            ("short_read", &mut self.short_read, 500),
            ("would_block", &mut self.would_block, 200),
            ("interrupt", &mut self.interrupt, 200),
            ("reset", &mut self.reset, 10),
            ("accept_error", &mut self.accept_error, 200),
            ("connect_error", &mut self.connect_error, 200),
            ("event_delay", &mut self.event_delay, 300),
            ("event_shuffle", &mut self.event_shuffle, 500),
            ("event_spurious", &mut self.event_spurious, 200),
            ("exhaustion", &mut self.exhaustion, 10),
            ("pause", &mut self.pause, 10),
            ("stop", &mut self.stop, 5),
        ]
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}
