//! The usual case of each step: open, whole, and nothing about the connection but the bytes that
//! come and go. One look tells it from all others, which take the steps of the other files; what is
//! done here is what they would do.

use std::io::{self, IoSlice};

use super::marks::Marks;
use super::{Connection, State, WRITE_THROUGH};
use crate::send::Data;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::timers::Time;
use crate::transport::Transport;
use crate::write_buffer::BufferPool;

/// What a calm flush has come to.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// It was not tried.
    No,
    /// The kernel took all of it, so many bytes; and whether the connection is at rest.
    Whole(usize, bool),
    /// The result of a write of so many bytes, which is still to be dealt with.
    Otherwise(io::Result<usize>, usize),
}

impl Connection {
    /// Open and plain, with no end, error, congestion, unused input or verdict in sight.
    #[inline]
    fn is_calm(&self) -> bool {
        self.marks.is_empty()
            && self.state == State::Open
            && !self.listed.due
            && self.errno == 0
            && self.input.is_empty()
    }

    /// Whether new input is all there is to see to, and goes to the handler as it comes.
    #[inline]
    pub(crate) fn only_reads(&self) -> bool {
        self.readable && !self.paused && self.out.is_none() && self.want == 0 && self.is_calm()
    }

    /// Whether so many bytes more leave the queue well below high water and its cap, and nothing else about
    /// the connection changes.
    #[inline]
    pub(crate) fn takes_calmly(&self, len: usize, defaults: &Settings) -> bool {
        let in_the_way = self.marks.any_of(Marks::IN_THE_WAY) || self.errno != 0;
        if in_the_way || self.state != State::Open || len == 0 || len >= WRITE_THROUGH {
            return false;
        }
        let settings = self.settings(defaults);
        // One more like it would have to fit as well.
        self.queued() + 2 * len < settings.high_water.min(settings.max_write_buffer)
    }

    /// Queues bytes of which [`takes_calmly`](Self::takes_calmly) says that they are taken.
    #[inline(always)]
    pub(crate) fn push_calmly(&mut self, data: Data<'_>, pool: &mut BufferPool) {
        self.grew = true;
        self.append(data, pool);
    }

    /// Writes a queue that is one slice.
    #[inline]
    pub(crate) fn flush_calmly<T: Transport>(
        &mut self,
        socket: &mut T,
        budget: usize,
        now: Time,
        defaults: &Settings,
        pool: &mut BufferPool,
        stats: &mut Stats,
    ) -> Flushed {
        if !(self.writable && self.is_calm() && self.ranked == Time::NEVER) {
            return Flushed::No;
        }
        let Some(mut out) = self.out.take() else { return Flushed::No };
        // All of it, within the budget of a flush.
        let Some(slice) = out.only_slice(budget).filter(|slice| slice.len() == out.len()) else {
            self.out = Some(out);
            return Flushed::No;
        };
        let offered = slice.len();
        match socket.write(&[IoSlice::new(slice)]) {
            Ok(taken) if taken == offered => {}
            outcome => {
                self.out = Some(out);
                return Flushed::Otherwise(outcome, offered);
            }
        }
        out.advance(offered);
        pool.give(out);
        self.note_written(offered, now, stats);
        self.waiting = false;
        self.standing_since = Time::NEVER;
        Flushed::Whole(offered, self.is_at_rest(defaults))
    }
}
