//! The end of a reactor: asked for once, carried out by the phases of its turns.

use std::time::Duration;

use super::{Deadline, Net};
use crate::timers::Time;

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopping {
    No,
    /// Asked for.
    Asked,
    /// Every connection has been told to close; the accept queues are being emptied.
    Draining,
}

impl Net {
    /// Shuts the reactor down, the last thing that is done with it: every connection is closed as by
    /// [`close`](Self::close), clients that wait in the backlog are taken in and closed likewise
    /// (as far as `max_connections` and file descriptors allow), the listeners close, and what is not
    /// done `deadline` after this call is cut off as [`Shutdown`](crate::CloseReason::Shutdown), though not
    /// before everybody has been flushed once. Then [`run`](crate::Reactor::run) returns. A second call
    /// can only bring the deadline forward.
    pub fn shutdown(&mut self, deadline: Duration) {
        let now = self.tick();
        #[cfg(feature = "sim")]
        self.note_shutdown(deadline);
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
        }
        let earlier = self.stop.is_some_and(|(since, limit)| since.plus(limit) <= now.plus(deadline));
        if !earlier {
            self.stop = Some((now, deadline));
            self.deadlines.arm_single(now.plus(deadline), Deadline::Shutdown);
        }
    }

    /// When a shutdown cuts off what is left.
    pub(crate) fn stop_at(&self) -> Time {
        self.stop.map_or(Time::NEVER, |(since, limit)| self.lapses.end_of(since, limit))
    }
}
