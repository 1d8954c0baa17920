//! A TLS session as a transport above a transport.
//!
//! Everybody else counts a byte as sent when it has been sealed, and from then on it is in nobody's
//! account. Here it counts as taken when the last byte of its record is with the transport below:
//! until then the queue above keeps it. So what is queued, handed over and unsent is exact, and a
//! record that was cut counts as unsent, which it is: the peer cannot read it.
//!
//! No more is decrypted than is asked for: what a read did not take stays sealed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

use super::session::{Session, TlsInfo};
use crate::transport::{LastHeard, SessionError, Transport};

/// Plaintext is sealed while less than this waits to be sent below: enough for the next write.
const AHEAD: usize = 64 << 10;

/// Plaintext in a record at most (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;

/// A record on its way: plaintext in it, and bytes of it still to be handed over below, those of the
/// session's own before it included.
#[derive(Debug)]
struct Record {
    plain: usize,
    left: usize,
}

/// Where reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The session goes on.
    Open,
    /// The peer ended its session, or the session failed: what comes behind is thrown away.
    Discarding,
    /// The stream below has ended.
    Over,
}

/// A session and the transport it stands on.
#[derive(Debug)]
pub(crate) struct Secured<S> {
    below: S,
    session: Box<dyn Session>,
    /// Bytes of the queue above that are older than the session: they go out as they are, before
    /// anything of the session does.
    clear: usize,
    /// Sealed, and not wholly handed over below; oldest first.
    records: VecDeque<Record>,
    /// Plaintext sealed and not yet counted as taken, and the part of it that is handed over.
    sealed: usize,
    done: usize,
    /// Read below and not taken in by the session, from `taken_in` on.
    backlog: Vec<u8>,
    taken_in: usize,
    reading: Reading,
    /// The last read below emptied it.
    is_dry: bool,
    end_sealed: bool,
    /// The peer may end its stream without ending its session.
    allow_truncation: bool,
    /// The stream below ended, and the session had not.
    truncated: bool,
}

impl<S: Transport> Secured<S> {
    /// A session above `below`. So many bytes of the queue above are older than it.
    pub(crate) fn new(below: S, session: Box<dyn Session>, clear: usize, allow_truncation: bool) -> Self {
        Self {
            below,
            session,
            clear,
            records: VecDeque::new(),
            sealed: 0,
            done: 0,
            backlog: Vec::new(),
            taken_in: 0,
            reading: Reading::Open,
            is_dry: false,
            end_sealed: false,
            allow_truncation,
            truncated: false,
        }
    }

    pub(crate) fn below(&self) -> &S {
        &self.below
    }

    pub(crate) fn below_mut(&mut self) -> &mut S {
        &mut self.below
    }

    pub(crate) fn info(&self) -> Option<TlsInfo> {
        self.session.info()
    }

    /// Bytes that came before the session began, and are its first.
    pub(crate) fn feed(&mut self, raw: &[u8]) {
        self.backlog.extend_from_slice(raw);
    }

    /// Hands the session what is in the backlog, as much as it takes.
    fn absorb_backlog(&mut self) -> io::Result<()> {
        let rest = self.backlog.get(self.taken_in..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let absorbed = self.session.absorb(rest);
        self.taken_in += self.after_absorbing(absorbed)?;
        if self.taken_in >= self.backlog.len() {
            // It owns no memory while empty.
            self.backlog = Vec::new();
            self.taken_in = 0;
        }
        Ok(())
    }

    fn after_absorbing(&mut self, absorbed: Result<usize, SessionError>) -> io::Result<usize> {
        match absorbed {
            Ok(count) => Ok(count),
            Err(error) => {
                // Its alert is still to be sent. What the peer sends is of no use any more.
                self.reading = Reading::Discarding;
                self.backlog = Vec::new();
                self.taken_in = 0;
                Err(io::Error::new(ErrorKind::InvalidData, error))
            }
        }
    }

    /// One read below, into `raw`, all of which goes to the session or into the backlog. False at the
    /// end of the stream below.
    fn read_below(&mut self, raw: &mut [u8]) -> io::Result<bool> {
        let count = self.below.read(raw)?;
        if count == 0 {
            self.reading = Reading::Over;
            return Ok(false);
        }
        self.is_dry = count < raw.len() && self.below.short_read_empties();
        let raw = raw.get(..count).unwrap_or_default();
        let absorbed = self.session.absorb(raw);
        let taken = self.after_absorbing(absorbed)?;
        self.backlog.extend_from_slice(raw.get(taken..).unwrap_or_default());
        Ok(true)
    }

    /// The stream below has ended while the session had not.
    fn end_below(&mut self) {
        self.truncated = !self.session.is_ended() && !self.allow_truncation;
    }

    /// Reads behind the end of the session, to throw it away. `Ok(0)` at the end of the stream below.
    fn discard(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.reading == Reading::Over {
            return Ok(0);
        }
        match self.below.read(buf)? {
            0 => {
                self.reading = Reading::Over;
                Ok(0)
            }
            // There may be more, and nobody is to see it.
            _ => Err(ErrorKind::Interrupted.into()),
        }
    }

    /// Hands sealed bytes over below, as far as they go, and counts the records that went.
    fn transmit(&mut self) -> io::Result<()> {
        while self.session.sealed() > 0 {
            let below = &mut self.below;
            let sent = self.session.transmit(&mut |slices| below.write(slices))?;
            if sent == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            self.count_sent(sent);
        }
        Ok(())
    }

    fn count_sent(&mut self, mut sent: usize) {
        while let Some(record) = self.records.front_mut() {
            if sent < record.left {
                record.left -= sent;
                return;
            }
            sent -= record.left;
            self.done += record.plain;
            self.records.pop_front();
        }
    }

    /// Seals what follows in `slices` behind what is sealed already, a record at a time.
    fn seal(&mut self, slices: &[IoSlice<'_>], offered: usize) {
        let counted: usize = self.records.iter().map(|record| record.left).sum();
        // The session's own bytes go before the record, and with it.
        let mut own = self.session.sealed() - counted;
        while self.sealed < offered && self.session.sealed() < AHEAD {
            let before = self.session.sealed() - own;
            let plain = self.session.seal(slices, self.sealed, RECORD.min(offered - self.sealed));
            if plain == 0 {
                return;
            }
            self.sealed += plain;
            self.records.push_back(Record { plain, left: self.session.sealed() - before });
            own = 0;
        }
    }
}

impl<S: Transport> Transport for Secured<S> {
    /// Plaintext; `Ok(0)` when the peer ended its session, or the stream below it.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.reading != Reading::Open {
            return self.discard(buf);
        }
        self.is_dry = false;
        let mut filled = 0;
        loop {
            filled += self.session.open(buf.get_mut(filled..).unwrap_or_default());
            if filled == buf.len() {
                return Ok(filled);
            }
            if self.session.is_ended() {
                if filled == 0 {
                    self.reading = Reading::Discarding;
                    self.backlog = Vec::new();
                }
                return Ok(filled);
            }
            if !self.backlog.is_empty() {
                match self.absorb_backlog() {
                    // What was whole comes first; the session tells its error once more.
                    Err(_) if filled > 0 => return Ok(filled),
                    absorbed => absorbed?,
                }
                continue;
            }
            if filled > 0 {
                return Ok(filled);
            }
            if self.is_dry {
                return Err(ErrorKind::WouldBlock.into());
            }
            // The raw bytes stand behind the place of their plaintext, which is shorter.
            let half = buf.len() / 2;
            let raw = if half >= 4096 { buf.get_mut(half..) } else { Some(&mut *buf) };
            if !self.read_below(raw.unwrap_or_default())? {
                self.end_below();
                return Ok(0);
            }
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.clear > 0 {
            return self.write_clear(slices);
        }
        let mut sent = self.transmit();
        // More is sealed as long as all that was went out.
        while sent.is_ok() && self.sealed < offered {
            let before = self.sealed;
            self.seal(slices, offered);
            sent = self.transmit();
            if self.sealed == before {
                break;
            }
        }
        let taken = self.done.min(offered);
        if taken == 0 {
            // An error that came behind bytes that went shows in the next call.
            sent?;
            return Err(ErrorKind::WouldBlock.into());
        }
        self.done -= taken;
        self.sealed -= taken;
        Ok(taken)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.end_sealed, true) {
            self.session.end();
        }
        self.transmit()?;
        self.below.shutdown_write()
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        self.below.take_error()
    }

    /// The kernel counts sealed bytes: an upper bound is a record more than those.
    fn unacknowledged(&self) -> Option<u64> {
        match self.below.unacknowledged()? {
            0 => Some(0),
            pending => Some(pending + RECORD as u64),
        }
    }

    fn last_heard(&self) -> Option<LastHeard> {
        self.below.last_heard()
    }

    fn unread(&self) -> Option<usize> {
        let kept = self.session.opened() + self.backlog.len() - self.taken_in;
        self.below.unread().map(|unread| unread + kept)
    }

    /// Only when the session keeps nothing back either: no event tells of that.
    fn short_read_empties(&self) -> bool {
        self.is_dry && self.backlog.is_empty() && self.session.opened() == 0
    }

    fn reset_on_close(&mut self) {
        self.below.reset_on_close();
    }

    fn has_own(&self) -> bool {
        self.clear == 0 && self.session.sealed() > self.records.iter().map(|record| record.left).sum()
    }

    fn send_own(&mut self) -> io::Result<()> {
        match self.clear {
            0 => self.transmit(),
            _ => Ok(()),
        }
    }

    fn shake_hands(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        if self.session.is_handshaking() && !self.backlog.is_empty() {
            self.absorb_backlog()?;
        }
        if self.session.is_handshaking() && !self.read_below(buf)? {
            self.end_below();
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(!self.session.is_handshaking())
    }

    fn is_truncated(&self) -> bool {
        self.truncated
    }

    fn has_tail(&self) -> bool {
        self.reading == Reading::Discarding
    }
}

impl<S: Transport> Secured<S> {
    /// What was queued before the session began, and nothing behind it.
    fn write_clear(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut left = self.clear;
        let mut clear = Vec::with_capacity(slices.len());
        for slice in slices {
            let part = slice.get(..left).unwrap_or(slice);
            left -= part.len();
            if !part.is_empty() {
                clear.push(IoSlice::new(part));
            }
        }
        let taken = self.below.write(&clear)?;
        self.clear -= taken.min(self.clear);
        Ok(taken)
    }
}
