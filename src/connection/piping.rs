//! What is different about a connection whose two directions are two descriptors, or that has only one.

use super::{Connection, Halves, Origin, State};
use crate::settings::Settings;
use crate::timers::Time;

/// How the poll tells of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Once for all that is there.
    Once,
    /// Again and again, as long as anything is there.
    Always,
    Never,
}

/// How a pipe's input is told of at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Not at all: it may be there without an event to say so.
    Unwatched,
    /// Once, as everybody's is.
    Watched,
    /// Once, and the poll can be asked for more.
    Retold,
}

impl Connection {
    /// It is a pipe from here on.
    pub(crate) fn be_pipe(&mut self, halves: Halves, input: Input) {
        self.origin = Origin::pipe(halves);
        self.set_readable(input == Input::Unwatched);
        self.set_more_hint(self.is_readable());
        self.retold = input == Input::Retold;
        self.set_told_once(self.retold);
        if halves == Halves::ReadOnly {
            self.set_fin_wanted(true);
            self.fin_sent = true;
        }
    }

    #[inline]
    pub(super) fn halves(&self) -> Option<Halves> {
        self.origin.halves()
    }

    /// How the poll is to tell of input from here on, if otherwise than before.
    ///
    /// Whoever is told again and again need not read until nothing is left: one read a message is saved, and
    /// still nothing stays behind a short one (a pipe in packet mode stops at each packet, and nobody who
    /// reads can know that it is in that mode). But what is not wanted must not be told of for ever, nor the
    /// end of the stream, which stays there to be told of once it has been read.
    #[inline]
    pub(crate) fn new_telling(&mut self, defaults: &Settings) -> Option<Telling> {
        if self.retold {
            self.telling(defaults)
        } else {
            None
        }
    }

    fn telling(&mut self, defaults: &Settings) -> Option<Telling> {
        if self.state == State::Dead || (self.saw_fin() && !self.secured()) {
            self.retold = false;
            self.set_told_once(false);
            return Some(Telling::Never);
        }
        let wanted = self.wants_input(defaults);
        let once = match self.told_once() {
            // A session reads for purposes of its own, and until nothing is left.
            _ if self.secured() => true,
            true => self.is_readable() || !wanted,
            false => self.is_readable() && !wanted,
        };
        if once == self.told_once() {
            return None;
        }
        self.set_told_once(once);
        Some(if once { Telling::Once } else { Telling::Always })
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
            self.set_readable(self.is_readable() | !self.saw_fin());
        }
    }
}
