//! What is different about a connection whose two directions are two descriptors, or that has only one.

use super::{Connection, Halves, Origin};
use crate::timers::Time;

impl Connection {
    /// It is a pipe from here on. `readable` when input may be there without an event to say so.
    pub(crate) fn be_pipe(&mut self, halves: Halves, readable: bool) {
        self.origin = Origin::pipe(halves);
        self.readable = readable;
        self.more_hint = readable;
        if halves == Halves::ReadOnly {
            self.set_fin_wanted(true);
            self.fin_sent = true;
        }
    }

    #[inline]
    pub(super) fn halves(&self) -> Option<Halves> {
        self.origin.halves()
    }

    /// Its write half is broken, and its read half knows nothing of that: a child that does not want its
    /// input any more may still have a lot to say.
    pub(super) fn goes_on_reading(&self) -> bool {
        self.halves() == Some(Halves::Both)
            && self.errno == libc::EPIPE
            && !self.saw_fin()
            && !self.is_closing()
    }

    /// The end of our stream waits until the reader has taken what is before it, of which no event tells.
    pub(super) fn awaits_reader(&self) -> bool {
        self.fin_wanted() && !self.fin_sent && self.out.is_none() && self.halves().is_some()
    }

    /// It is looked for soon at first.
    pub(super) fn begin_to_await_reader(&mut self, now: Time) {
        if self.halves().is_some() && !self.waiting {
            self.progress = now;
        }
    }

    /// Our stream has ended. Where that was the only one, all has.
    pub(super) fn pipe_has_ended(&mut self) {
        if self.halves() == Some(Halves::WriteOnly) {
            self.readable |= !self.saw_fin();
        }
    }
}
