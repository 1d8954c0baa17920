//! Timers, and the deadline that a handler sets for a connection.

use std::time::Duration;

use super::Net;
use crate::id::{ConnId, TimerId};
use crate::timers::Time;

impl Net {
    /// Calls `on_timer` once, `after` the moment of this call; zero means the next turn.
    ///
    /// What had come in when a timer fell due is delivered before it fires, as far as a turn reads from a
    /// connection, so that a heartbeat that waits in the kernel is seen before it is missed: for
    /// [`turn_slice`](crate::Config::turn_slice) at most, on a reactor that has more to do than it can. If
    /// the process was stopped meanwhile, or kept by one callback, that is made up for once.
    pub fn set_timer(&mut self, after: Duration) -> TimerId {
        let at = self.tick().plus(after);
        let alarms = &mut self.alarms;
        let timer = self.user_timers.insert_with(|id| alarms.arm(at, id));
        #[cfg(feature = "sim")]
        self.note_timer(timer, after);
        timer
    }

    /// Cancels a timer. Returns whether it was still to come.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        let Some(armed) = self.user_timers.remove(timer) else { return false };
        self.alarms.disarm(armed, timer);
        #[cfg(feature = "sim")]
        self.note_cancel(timer);
        true
    }

    /// Has [`on_deadline`](crate::Handler::on_deadline) called for this connection, `after` the moment of
    /// this call, unless it is moved, [cleared](Self::clear_deadline) or the connection closed before. Each
    /// connection has one such deadline; setting it again moves it, which costs next to nothing.
    ///
    /// Whatever came in by then is delivered first: a request or a heartbeat that arrives in time can
    /// move the deadline, however busy the reactor is.
    pub fn set_deadline(&mut self, conn: ConnId, after: Duration) {
        let at = self.tick().plus(after);
        #[cfg(feature = "sim")]
        self.note_alarm(conn, Some(after));
        self.move_deadline(conn, at);
    }

    /// The connection's deadline is not to come.
    pub fn clear_deadline(&mut self, conn: ConnId) {
        #[cfg(feature = "sim")]
        self.note_alarm(conn, None);
        self.move_deadline(conn, Time::NEVER);
    }

    fn move_deadline(&mut self, conn: ConnId, at: Time) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.conn.set_alarm(at);
            // What is being served is settled after its callbacks anyway.
            if self.serving != Some(conn) {
                self.settle(conn);
            }
        }
    }
}
