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
    /// Whether new input is all there is to see to, and goes to the handler as it comes.
    #[inline]
    pub(crate) fn only_reads(&self) -> bool {
        self.marks.are_to_read() && self.is_whole() && self.out.is_none() && self.want == 0
    }

    /// Whether so many bytes more leave the queue well below high water, and so below its cap, and nothing else
    /// about the connection changes.
    #[inline]
    pub(crate) fn takes_calmly(&self, len: usize, defaults: &Settings) -> bool {
        let in_the_way = self.marks.any_of(Marks::IN_THE_WAY) || self.errno != 0;
        if in_the_way || self.state != State::Open || len == 0 || len >= WRITE_THROUGH {
            return false;
        }
        // One more like it would have to fit as well.
        self.queued() + 2 * len < self.settings(defaults).high_water
    }

    /// Queues bytes of which [`takes_calmly`](Self::takes_calmly) says that they are taken.
    #[inline(always)]
    pub(crate) fn push_calmly(&mut self, data: Data<'_>, pool: &mut BufferPool) {
        self.grew = true;
        self.append(data, pool);
    }

    /// Writes a queue that is one slice.
    #[inline(always)]
    pub(crate) fn flush_calmly<T: Transport>(
        &mut self,
        socket: &mut T,
        budget: usize,
        now: Time,
        defaults: &Settings,
        pool: &mut BufferPool,
        stats: &mut Stats,
    ) -> Flushed {
        if !(self.marks.are_to_write() && self.is_whole() && self.ranked == Time::NEVER) {
            return Flushed::No;
        }
        let Some(mut out) = self.out.take() else { return Flushed::No };
        let Some(slice) = out.whole().filter(|slice| slice.len() <= budget) else {
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
        out.empty();
        pool.give(out);
        self.note_written(offered, now, stats);
        self.waiting = false;
        self.standing_since = Time::NEVER;
        // What else rest means held before the write, and it takes none of it away.
        Flushed::Whole(offered, !self.marks.any_of(Marks::UNREST) && self.is_within_its_time(defaults))
    }
}
