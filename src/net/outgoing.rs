//! Sending: the caps, and what happens at them.

use bytes::Bytes;

use super::{Entry, Net};
use crate::close::CloseReason;
use crate::config::Overflow;
use crate::id::ConnId;
use crate::send::{Broadcast, Data, SendError, Sent};
#[cfg(feature = "sim")]
use crate::socket::Stream;
use crate::write_buffer::BY_REFERENCE;

impl Net {
    /// Queues a copy of `data`: all of it or, with an error, nothing. It never blocks.
    ///
    /// What is queued in one callback leaves in one system call when it fits; a large slice that
    /// finds the queue empty may leave at once, without the copy. What could not be delivered in
    /// the end stands in the close report.
    ///
    /// # Errors
    ///
    /// [`Closed`](SendError::Closed) when the connection is gone, closing or broken,
    /// [`WriteClosed`](SendError::WriteClosed) after `close_write`, and
    /// [`Full`](SendError::Full) when a cap of the write buffers would be passed, whereupon
    /// [`Config::overflow`](crate::Config::overflow) decides what else happens.
    pub fn send(&mut self, conn: ConnId, data: &[u8]) -> Result<Sent, SendError> {
        self.send_data(conn, Data::Slice(data))
    }

    /// Queues `data` by reference, however large and for however many connections. (A few hundred
    /// bytes are copied all the same: that is cheaper than the reference.)
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_bytes(&mut self, conn: ConnId, data: Bytes) -> Result<Sent, SendError> {
        self.send_data(conn, Data::Shared(data))
    }

    /// Queues the same bytes for many connections: one buffer, shared by all.
    pub fn broadcast(&mut self, conns: impl IntoIterator<Item = ConnId>, data: Bytes) -> Broadcast {
        let mut outcome = Broadcast::default();
        // What is copied anyway needs no reference counted up and down for each receiver.
        let copied = data.len() < BY_REFERENCE;
        for conn in conns {
            let data = if copied { Data::Slice(&data) } else { Data::Shared(data.clone()) };
            match self.send_data(conn, data) {
                Ok(sent) => {
                    outcome.queued += 1;
                    outcome.congested += usize::from(sent == Sent::Congested);
                }
                Err(_) => outcome.failed += 1,
            }
        }
        outcome
    }

    /// Inlined, so that each of its callers has the code for its kind of data alone.
    #[inline(always)]
    fn send_data(&mut self, id: ConnId, data: Data<'_>) -> Result<Sent, SendError> {
        self.try_reserve(id, data.len())?;
        #[cfg(feature = "sim")]
        let congested = self.note_sent(id, data.as_slice());
        // What is being served is flushed after its callbacks anyway.
        let serving = self.serving == Some(id);
        let pushed = self.touch(id, |conn, stream, cx| {
            let sent = conn.push(data, stream, cx);
            (sent, !serving && !std::mem::replace(&mut conn.listed.dirty, true))
        });
        let Some((sent, newly_dirty)) = pushed else { return Err(SendError::Closed) };
        if newly_dirty {
            self.dirty.push_back(id);
        }
        #[cfg(feature = "sim")]
        if sent == Sent::Congested && !congested {
            self.note_crossing(id);
        }
        Ok(sent)
    }

    /// Asks whether a send of `len` bytes would be taken, before they are made. A refusal has the
    /// consequences that the send would have had.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    #[inline]
    pub fn try_reserve(&mut self, conn: ConnId, len: usize) -> Result<(), SendError> {
        let entry = self.conns.get(conn).ok_or(SendError::Closed);
        let sendable = entry.and_then(|Entry { conn, .. }| conn.check_sendable().map(|()| conn.queued()));
        match sendable {
            Ok(queued)
                if queued.saturating_add(len) <= self.config.max_write_buffer
                    && self.stats.queued.saturating_add(len) <= self.config.total_write_buffer =>
            {
                Ok(())
            }
            Ok(queued) => self.make_room(conn, queued, len),
            Err(error) => {
                self.stats.stale_sends += 1;
                Err(error)
            }
        }
    }

    /// A cap would be passed: somebody has to go, or the send is refused.
    #[cold]
    fn make_room(&mut self, conn: ConnId, queued: usize, len: usize) -> Result<(), SendError> {
        if len == 0 {
            return Ok(());
        }
        if queued.saturating_add(len) > self.config.max_write_buffer {
            return self.overflow(conn);
        }
        while self.stats.queued.saturating_add(len) > self.config.total_write_buffer {
            let holder = match self.config.overflow {
                Overflow::Close => self.largest_holder(conn, len),
                Overflow::Refuse => conn,
            };
            if holder == conn {
                return self.overflow(conn);
            }
            self.stats.overflows += 1;
            self.kill(holder, CloseReason::SlowConsumer);
        }
        Ok(())
    }

    fn overflow(&mut self, conn: ConnId) -> Result<(), SendError> {
        self.stats.overflows += 1;
        if self.config.overflow == Overflow::Close {
            self.kill(conn, CloseReason::SlowConsumer);
        }
        Err(SendError::Full)
    }

    /// The connection that holds most of the common budget, `len` more bytes for `conn` included:
    /// whoever reads must not pay for those who do not.
    fn largest_holder(&self, conn: ConnId, len: usize) -> ConnId {
        let holdings = self.conns.iter().map(|(id, entry)| {
            let more = if id == conn { len } else { 0 };
            (entry.conn.queued().saturating_add(more), id == conn, id)
        });
        holdings.max().map_or(conn, |(_, _, id)| id)
    }
}

/// What a simulation holds the engine to.
#[cfg(feature = "sim")]
impl Net {
    /// Returns whether the connection is congested before the send.
    fn note_sent(&self, id: ConnId, data: &[u8]) -> bool {
        let Some(Entry { conn, stream }) = self.conns.get(id) else { return false };
        if let Stream::Sim(stream) = stream {
            stream.promise(data);
        }
        conn.is_congested()
    }

    fn note_crossing(&self, id: ConnId) {
        if let Some(Entry { conn, stream: Stream::Sim(stream) }) = self.conns.get(id) {
            stream.crossed(conn.is_congested());
        }
    }
}
