//! Frames ended by any bytes.

use std::sync::Arc;

use super::search::{examined, find};
use super::{Frame, Frames, KEPT};

/// Finds frames that end with a delimiter of one byte or more.
///
/// State of one connection; see the [module](crate::frame) for how it is used. The delimiter is
/// shared: make one, and [`clone`](Clone::clone) it for each connection. The search is Knuth, Morris
/// and Pratt's: no delimiter and no input make it look at a byte more than twice.
///
/// ```
/// use unbroken::frame::{Delimited, Frame};
///
/// let mut heads = Delimited::new(b"\r\n\r\n").max(16 << 10).keep_delimiter();
/// let mut frames = heads.frames(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody");
/// assert_eq!(frames.next(), Some(Frame::Whole(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")));
/// // What follows the head is no head: it is left to somebody else.
/// assert_eq!(frames.rest(), b"body");
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    pattern: Arc<[Step]>,
    max: usize,
    /// Bytes from the first unused one on that have been looked at. 0 while skipping.
    searched: usize,
    /// How much of the delimiter the last of the bytes looked at have in common with its front.
    matched: usize,
    /// In a frame that was too long: it has been told, and its end has not come.
    skipping: bool,
    keep_delimiter: bool,
}

/// One byte of a delimiter.
#[derive(Clone, Copy, Debug)]
struct Step {
    byte: u8,
    /// When the bytes up to this one matched and it does not: how many of them at their end are
    /// the delimiter's front all the same.
    fallback: usize,
}

impl Delimited {
    /// Frames ended by `delimiter`, together with it 65,537 bytes long at most.
    ///
    /// # Panics
    ///
    /// When the delimiter is empty.
    #[track_caller]
    pub fn new(delimiter: impl AsRef<[u8]>) -> Self {
        let delimiter = delimiter.as_ref();
        assert!(!delimiter.is_empty(), "a delimiter has at least one byte");
        Self {
            pattern: pattern(delimiter),
            max: (KEPT + 1).saturating_sub(delimiter.len()),
            searched: 0,
            matched: 0,
            skipping: false,
            keep_delimiter: false,
        }
    }

    /// The longest frame, in bytes and without its delimiter. A longer one is [`Frame::TooLong`].
    ///
    /// [`max_read_buffer`](crate::Config::max_read_buffer) must be at least `max` and the
    /// delimiter's length.
    #[must_use]
    pub const fn max(mut self, max: usize) -> Self {
        self.max = max;
        self
    }

    /// Frames are handed out with their delimiters. `max` goes on to count without.
    #[must_use]
    pub const fn keep_delimiter(mut self) -> Self {
        self.keep_delimiter = true;
        self
    }

    /// The frames in `data`: what was left unused before, and what follows it.
    pub fn frames<'d>(&mut self, data: &'d [u8]) -> Frames<'_, 'd, Self> {
        Frames::new(self, data)
    }

    /// The next frame of `rest`, whose front is moved behind it. `None` when there is no whole frame;
    /// what is in `rest` then has to be shown again.
    pub fn next_in<'d>(&mut self, rest: &mut &'d [u8]) -> Option<Frame<'d>> {
        if self.skipping {
            let Some(end) = self.search(rest) else {
                // How much of the delimiter has come is remembered, what it stood in is not needed.
                self.searched = 0;
                *rest = &[];
                return None;
            };
            *rest = rest.get(end..).unwrap_or_default();
            self.skipping = false;
        }
        if self.searched > rest.len() {
            // Less is shown than before: how much of it matches has to be found again.
            (self.searched, self.matched) = (0, 0);
        }
        match self.search(rest) {
            Some(end) => {
                let (whole, after) = rest.split_at_checked(end)?;
                *rest = after;
                let frame = whole.get(..end.saturating_sub(self.pattern.len()))?;
                Some(Frame::new(frame, if self.keep_delimiter { whole } else { frame }, self.max))
            }
            None => {
                // What matched so far may belong to the delimiter.
                let frame = rest.get(..rest.len().saturating_sub(self.matched))?;
                if frame.len() <= self.max {
                    return None;
                }
                *rest = &[];
                self.searched = 0;
                self.skipping = true;
                Some(Frame::new(frame, frame, self.max))
            }
        }
    }

    /// Whether what was shown last ended inside a frame, one that was too long included. In
    /// [`on_eof`](crate::Handler::on_eof) it means that the peer's last frame has no end.
    pub const fn is_unfinished(&self) -> bool {
        self.searched > 0 || self.skipping
    }

    /// Goes on to look at `data` and gives the place behind the delimiter. Behind it the search
    /// begins anew.
    fn search(&mut self, data: &[u8]) -> Option<usize> {
        let first = self.pattern.first()?.byte;
        let mut at = self.searched;
        while let Some(rest @ [byte, ..]) = data.get(at..) {
            if self.matched == 0 && *byte != first {
                at += find(first, rest).unwrap_or(rest.len());
                continue;
            }
            at += 1;
            self.matched = advance(&self.pattern, self.matched, *byte);
            if self.matched == self.pattern.len() {
                (self.searched, self.matched) = (0, 0);
                return Some(at);
            }
        }
        self.searched = data.len();
        None
    }
}

/// How much of the delimiter the input ends with, when `matched` bytes of it were in front of `byte`.
fn advance(pattern: &[Step], mut matched: usize, byte: u8) -> usize {
    while let Some(step) = pattern.get(matched) {
        examined(1);
        if step.byte == byte {
            return matched + 1;
        }
        if matched == 0 {
            break;
        }
        matched = step.fallback;
    }
    0
}

/// The bytes of a delimiter, each with its fallback: what matches when a delimiter is looked for in
/// itself, from its second byte on.
fn pattern(delimiter: &[u8]) -> Arc<[Step]> {
    let mut steps: Vec<Step> = Vec::with_capacity(delimiter.len());
    let mut fallback = 0;
    for byte in delimiter {
        let is_first = steps.is_empty();
        steps.push(Step { byte: *byte, fallback });
        if !is_first {
            fallback = advance(&steps, fallback, *byte);
        }
    }
    steps.into()
}
