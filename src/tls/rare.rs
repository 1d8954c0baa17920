//! What a session has at times only. Sessions are many, and most of them idle: this is in a box, which
//! is there while there is something in it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::transport::SessionError;

/// A record on its way: plaintext in it, and bytes of it still to be handed over below, those of the
/// session's own before it included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    pub(super) plain: u32,
    pub(super) left: u32,
}

/// What a session has for a while, or never.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Bytes of the queue above that are older than the session: they go out as they are, before
    /// anything of the session does.
    pub(super) clear: usize,
    /// Records behind the oldest.
    pub(super) behind: VecDeque<Record>,
    /// Read below and not taken in by the session, from `taken_in` on.
    backlog: Vec<u8>,
    taken_in: usize,
    /// Why the session failed, until it has been told: what came before that is read first.
    pub(super) failure: Option<SessionError>,
    /// An error of the transport below, behind bytes that it took: the next write tells it.
    pub(super) write_error: Option<io::Error>,
}

impl Rare {
    /// So many bytes of the queue above are older than the session.
    pub(super) fn with_clear(clear: usize) -> Self {
        Self { clear, ..Self::default() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.clear == 0
            && self.behind.is_empty()
            && self.backlog.is_empty()
            && self.failure.is_none()
            && self.write_error.is_none()
    }

    /// Of what is to be sent, as much as is older than the session.
    pub(super) fn clear_part<'a>(&self, slices: &'a [IoSlice<'_>]) -> Vec<IoSlice<'a>> {
        let mut left = self.clear;
        let parts = slices.iter().map(|slice| {
            let part = slice.get(..left).unwrap_or(slice);
            left -= part.len();
            IoSlice::new(part)
        });
        parts.filter(|part| !part.is_empty()).collect()
    }

    pub(super) fn feed(&mut self, raw: &[u8]) {
        self.backlog.extend_from_slice(raw);
    }

    /// What was read below and not taken in.
    pub(super) fn backlog(&self) -> &[u8] {
        self.backlog.get(self.taken_in..).unwrap_or_default()
    }

    /// The session has taken in so much of it.
    pub(super) fn drop_backlog(&mut self, taken: usize) {
        self.taken_in += taken;
        if self.taken_in >= self.backlog.len() {
            self.forget_backlog();
        }
    }

    pub(super) fn forget_backlog(&mut self) {
        (self.backlog, self.taken_in) = (Vec::new(), 0);
    }
}
