//! A TLS session as a transport above a transport.
//!
//! Everybody else counts a byte as sent when it has been sealed, and from then on it is in nobody's
//! account. Here it counts as taken when the last byte of its record is with the transport below:
//! until then the queue above keeps it. So what is queued, handed over and unsent is exact, and a
//! record that was cut counts as unsent, which it is: the peer cannot read it.
//!
//! No more is decrypted than is asked for: what a read did not take stays sealed.

use std::cell::{Cell, OnceCell};
use std::io::{self, ErrorKind, IoSlice};

use super::rare::{Rare, Record};
use super::session::{Session, TlsInfo};
use crate::transport::{LastHeard, SessionError, Transport};

/// Plaintext is sealed while less than this waits to be sent below, so that no more than 64 KiB is held
/// twice: enough for the next write.
const AHEAD: usize = 48 << 10;

/// Plaintext in a record at most (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;

/// The part of a read's buffer that raw bytes are read into is not made smaller than this.
const LEAST_READ: usize = 4 << 10;

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

/// A session and the transport it stands on. There are as many as connections, and most are idle: what
/// those do not need is elsewhere.
#[derive(Debug)]
pub(crate) struct Secured<S> {
    below: S,
    session: Box<dyn Session>,
    /// What few sessions have at a time: none of it is there while this is not.
    rare: Option<Box<Rare>>,
    /// The oldest record that is sealed and not wholly handed over below; nothing is left of it when there
    /// is none.
    front: Record,
    /// Bytes that it and those behind it have left. What else is sealed is the session's own.
    recorded: u32,
    /// Plaintext sealed and not yet counted as taken, and the part of it that is handed over.
    sealed: u32,
    done: u32,
    reading: Reading,
    has_failed: bool,
    /// The last read below emptied it.
    is_dry: bool,
    end_sealed: bool,
    /// The stream below has been ended: the session has nothing more to say.
    is_shut: bool,
    /// Bytes handed over below, whatever is in them; and those that were since the last whole record.
    sent: u64,
    sent_behind: u32,
    /// How many of them the peer had taken when that was last asked.
    told_taken: Cell<u64>,
    has_taken: Cell<bool>,
    /// Bytes were handed over below, or read from there, since that was last asked.
    has_moved: Cell<bool>,
    /// The peer may end its stream without ending its session.
    allow_truncation: bool,
    /// The stream below ended, and the session had not.
    truncated: bool,
    info: OnceCell<Box<TlsInfo>>,
}

impl<S: Transport> Secured<S> {
    /// A session above `below`. So many bytes of the queue above are older than it.
    pub(crate) fn new(below: S, session: Box<dyn Session>, clear: usize, allow_truncation: bool) -> Self {
        Self {
            below,
            session,
            rare: (clear > 0).then(|| Box::new(Rare::with_clear(clear))),
            front: Record::default(),
            recorded: 0,
            sealed: 0,
            done: 0,
            reading: Reading::Open,
            has_failed: false,
            is_dry: false,
            end_sealed: false,
            is_shut: false,
            sent: 0,
            sent_behind: 0,
            told_taken: Cell::new(0),
            has_taken: Cell::new(false),
            has_moved: Cell::new(false),
            allow_truncation,
            truncated: false,
            info: OnceCell::new(),
        }
    }

    pub(crate) fn below(&self) -> &S {
        &self.below
    }

    pub(crate) fn below_mut(&mut self) -> &mut S {
        &mut self.below
    }

    /// What was agreed on, once the handshake is done.
    pub(crate) fn info(&self) -> Option<&TlsInfo> {
        if self.info.get().is_none() && !self.session.is_handshaking() {
            let info = Box::new(self.session.info()?);
            return Some(self.info.get_or_init(|| info));
        }
        self.info.get().map(|info| &**info)
    }

    /// Bytes that came before the session began, and are its first.
    pub(crate) fn feed(&mut self, raw: &[u8]) {
        if !raw.is_empty() {
            self.rare.get_or_insert_default().feed(raw);
        }
    }

    /// Hands the session what is in the backlog, as much as it takes.
    fn absorb_backlog(&mut self) {
        let absorbed = self.session.absorb(self.rare.as_ref().map_or(&[], |rare| rare.backlog()));
        let taken = self.after_absorbing(absorbed);
        if let Some(rare) = &mut self.rare {
            rare.drop_backlog(taken);
            self.forget_rare();
        }
    }

    /// What was read below and not taken in.
    fn backlog(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |rare| rare.backlog())
    }

    fn forget_backlog(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.forget_backlog();
            self.forget_rare();
        }
    }

    /// It owns no memory while there is none of it.
    fn forget_rare(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.is_idle()) {
            self.rare = None;
        }
    }

    fn clear(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.clear)
    }

    fn after_absorbing(&mut self, absorbed: Result<usize, SessionError>) -> usize {
        absorbed.unwrap_or_else(|error| {
            self.has_failed = true;
            self.rare.get_or_insert_default().failure = Some(error);
            self.forget_backlog();
            0
        })
    }

    /// The session is of no use any more. Its alert is still to be sent; what the peer sends is not.
    fn take_failure(&mut self) -> io::Result<()> {
        match self.rare.as_mut().and_then(|rare| rare.failure.take()) {
            Some(error) => {
                self.forget_rare();
                self.reading = Reading::Discarding;
                Err(io::Error::new(ErrorKind::InvalidData, error))
            }
            None => Ok(()),
        }
    }

    /// One read below, into `raw`, all of which goes to the session or into the backlog. As much of it
    /// as there is room for becomes plaintext at once. Returns how much, or `None` at the end of the
    /// stream below.
    fn read_below(&mut self, raw: &mut [u8], plain: &mut [u8]) -> io::Result<Option<usize>> {
        let count = self.below.read(raw)?;
        if count == 0 {
            self.reading = Reading::Over;
            return Ok(None);
        }
        self.has_moved.set(true);
        self.is_dry = count < raw.len() && self.below.short_read_empties();
        let mut rest = raw.get(..count).unwrap_or_default();
        let mut opened = 0;
        while !rest.is_empty() && !self.has_failed {
            let absorbed = self.session.absorb(rest);
            let taken = self.after_absorbing(absorbed);
            rest = rest.get(taken..).unwrap_or_default();
            let more = self.session.open(plain.get_mut(opened..).unwrap_or_default());
            opened += more;
            if taken == 0 && more == 0 {
                break;
            }
        }
        if !self.has_failed {
            self.feed(rest);
        }
        Ok(Some(opened))
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
        // What an earlier read found out is no news: this one asks.
        self.is_dry = false;
        let count = self.below.read(buf)?;
        match count {
            0 => self.reading = Reading::Over,
            _ => {
                self.has_moved.set(true);
                self.is_dry = count < buf.len() && self.below.short_read_empties();
            }
        }
        Ok(count)
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

    fn count_sent(&mut self, sent: usize) {
        self.sent += sent as u64;
        self.has_moved.set(true);
        // Far below 4 GiB: of records there is at most as much as is sealed ahead. What is more of a
        // session's own makes the bound loose.
        let mut sent = u32::try_from(sent).unwrap_or(u32::MAX);
        self.sent_behind = self.sent_behind.saturating_add(sent);
        while self.front.left > 0 {
            let left = self.front.left;
            if sent < left {
                self.front.left -= sent;
                self.recorded -= sent;
                return;
            }
            sent -= left;
            self.sent_behind = sent;
            self.recorded -= left;
            self.done += self.front.plain;
            self.front = self.rare.as_mut().and_then(|rare| rare.behind.pop_front()).unwrap_or_default();
        }
        self.forget_rare();
    }

    /// Seals what follows in `slices` behind what is sealed already, a record at a time.
    fn seal(&mut self, slices: &[IoSlice<'_>], offered: usize) {
        while self.offers_more(offered) && self.session.sealed() < AHEAD {
            let skip = self.sealed as usize;
            let plain = self.session.seal(slices, skip, RECORD.min(offered - skip)) as u32;
            if plain == 0 {
                return;
            }
            self.sealed += plain;
            // The session's own bytes go before the record, and with it. A record, and what was before it, is
            // far below 4 GiB.
            let left = self.session.sealed() as u32 - self.recorded;
            self.recorded += left;
            let record = Record { plain, left };
            match self.front.left {
                0 => self.front = record,
                _ => self.rare.get_or_insert_default().behind.push_back(record),
            }
        }
    }

    /// Whether more is offered than has been sealed.
    fn offers_more(&self, offered: usize) -> bool {
        (self.sealed as usize) < offered
    }
}

impl<S: Transport> Transport for Secured<S> {
    /// Plaintext; `Ok(0)` when the peer ended its session, or the stream below it.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.reading != Reading::Open {
            return self.discard(buf);
        }
        self.is_dry = false;
        let (mut filled, mut fruitless) = (0, false);
        loop {
            filled += self.session.open(buf.get_mut(filled..).unwrap_or_default());
            if filled == buf.len() {
                return Ok(filled);
            }
            // Plaintext comes first, then what stopped it.
            if filled > 0 && (self.has_failed || self.session.is_ended() || self.backlog().is_empty()) {
                return Ok(filled);
            }
            self.take_failure()?;
            if self.session.is_ended() {
                self.reading = Reading::Discarding;
                self.forget_backlog();
                return Ok(0);
            }
            if !self.backlog().is_empty() {
                self.absorb_backlog();
                continue;
            }
            if self.is_dry {
                return Err(ErrorKind::WouldBlock.into());
            }
            // A peer may send records without plaintext for ever: others have their turn in between.
            if std::mem::replace(&mut fruitless, true) {
                return Err(ErrorKind::Interrupted.into());
            }
            // The raw bytes stand behind the place of their plaintext, which is shorter.
            let half = if buf.len() >= 2 * LEAST_READ { buf.len() / 2 } else { 0 };
            let (plain, raw) = buf.split_at_mut(half);
            match self.read_below(raw, plain)? {
                Some(opened) => filled = opened,
                None => {
                    self.end_below();
                    return Ok(0);
                }
            }
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if let Some(rare) = &mut self.rare {
            if rare.clear > 0 {
                return self.write_clear(slices);
            }
            if let Some(error) = rare.write_error.take() {
                self.forget_rare();
                return Err(error);
            }
        }
        let mut sent = self.transmit();
        let mut is_spent = false;
        // More is sealed as long as all that was went out.
        while sent.is_ok() && self.offers_more(offered) && !self.has_failed && !is_spent {
            let before = self.sealed;
            self.seal(slices, offered);
            sent = self.transmit();
            is_spent = self.sealed == before;
        }
        let taken = (self.done as usize).min(offered);
        if taken == 0 {
            sent?;
            if is_spent {
                let text = "the keys of the session are used up".into();
                return Err(io::Error::new(ErrorKind::InvalidData, SessionError { alert: None, text }));
            }
            return Err(ErrorKind::WouldBlock.into());
        }
        if let Some(error) = sent.err().filter(|error| error.kind() != ErrorKind::WouldBlock) {
            self.rare.get_or_insert_default().write_error = Some(error);
        }
        self.done -= taken as u32;
        self.sealed -= taken as u32;
        Ok(taken)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.end_sealed, true) && !self.has_failed {
            // Without its end of the handshake, nothing that comes is of any use.
            if self.session.is_handshaking() && self.reading == Reading::Open {
                self.reading = Reading::Discarding;
                self.forget_backlog();
            }
            self.session.end();
        }
        self.transmit()?;
        self.is_shut = true;
        self.below.shutdown_write()
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        self.below.take_error()
    }

    /// The kernel counts sealed bytes: an upper bound is a record more than those. What is behind the last
    /// record is in no account, but for the end of the stream, which counts as one.
    fn unacknowledged(&self) -> Option<u64> {
        let pending = self.below.unacknowledged();
        // The same look tells whether the peer gets on: the kernel is asked once.
        let taken = self.sent - pending.unwrap_or(0).min(self.sent);
        if taken > self.told_taken.replace(taken) {
            self.has_taken.set(true);
        }
        let pending = pending?;
        let end = u64::from(self.is_shut && pending > 0);
        match pending - end > u64::from(self.sent_behind) {
            true => Some(pending + RECORD as u64),
            false => Some(end),
        }
    }

    fn last_heard(&self) -> Option<LastHeard> {
        self.below.last_heard()
    }

    fn unread(&self) -> Option<usize> {
        let kept = self.session.opened() + self.backlog().len();
        self.below.unread().map(|unread| unread + kept)
    }

    /// Only when the session keeps nothing back either: no event tells of that.
    fn short_read_empties(&self) -> bool {
        let kept = self.session.opened() > 0 || !self.backlog().is_empty();
        let has_failure = self.rare.as_ref().is_some_and(|rare| rare.failure.is_some());
        let told = self.reading != Reading::Open || !(self.session.is_ended() || has_failure);
        self.is_dry && !kept && told
    }

    fn reset_on_close(&mut self) {
        self.below.reset_on_close();
    }

    fn has_own(&self) -> bool {
        self.clear() == 0 && !self.is_shut && self.session.sealed() > self.recorded as usize
    }

    fn send_own(&mut self) -> io::Result<()> {
        match self.clear() == 0 && !self.is_shut {
            true => self.transmit(),
            false => Ok(()),
        }
    }

    fn shake_hands(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        // What an earlier read found out is no news: there may be more by now.
        self.is_dry = false;
        if self.session.is_handshaking() && !self.backlog().is_empty() {
            self.absorb_backlog();
        }
        if self.session.is_handshaking() && !self.has_failed && self.read_below(buf, &mut [])?.is_none() {
            self.end_below();
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // What failed behind the handshake is told behind the data that came before it.
        match self.session.is_handshaking() {
            true => self.take_failure().map(|()| false),
            false => Ok(true),
        }
    }

    /// What the last read below found out holds while the poll has not been asked since.
    fn read_kept(&mut self, buf: &mut [u8]) -> Option<usize> {
        let count = self.session.open(buf);
        (count > 0).then_some(count)
    }

    fn takes_data(&self) -> bool {
        self.clear() > 0 || !self.session.is_handshaking()
    }

    fn committed(&self) -> usize {
        self.clear() + self.sealed as usize
    }

    fn has_taken_below(&self) -> bool {
        self.has_taken.replace(false)
    }

    fn has_moved_below(&self) -> bool {
        self.has_moved.replace(false)
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
        let Some(rare) = &mut self.rare else { return Ok(0) };
        let taken = self.below.write(&rare.clear_part(slices))?;
        rare.clear -= taken.min(rare.clear);
        self.forget_rare();
        self.sent += taken as u64;
        self.has_moved.set(true);
        Ok(taken)
    }
}
