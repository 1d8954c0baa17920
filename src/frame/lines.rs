//! Lines, ended by LF or CRLF.

use super::search::find;
use super::{Frame, Frames, KEPT};

/// Finds lines: LF ends one, and a CR right in front of the LF belongs to the end. A CR anywhere else
/// is data.
///
/// State of one connection, 24 bytes; see the [module](crate::frame) for how it is used.
///
/// ```
/// use unbroken::frame::{Frame, Lines};
///
/// let mut lines = Lines::new();
/// let mut frames = lines.frames(b"one\r\ntwo\n\nthr");
/// assert_eq!(frames.next(), Some(Frame::Whole(b"one")));
/// assert_eq!(frames.next(), Some(Frame::Whole(b"two")));
/// assert_eq!(frames.next(), Some(Frame::Whole(b"")));
/// assert_eq!(frames.next(), None);
/// assert_eq!(frames.used(), 10);
///
/// // What was not used is shown again, with what came meanwhile behind it.
/// let mut frames = lines.frames(b"three\n");
/// assert_eq!(frames.next(), Some(Frame::Whole(b"three")));
/// assert_eq!(frames.used(), 6);
/// ```
#[derive(Clone, Debug)]
pub struct Lines {
    max: usize,
    /// Bytes from the first unused one on that are known not to be LF. 0 while skipping.
    searched: usize,
    /// In a line that was too long: it has been told, and its end has not come.
    skipping: bool,
    keep_end: bool,
}

impl Lines {
    /// Lines of 65,535 bytes at most, without their ends.
    pub const fn new() -> Self {
        Self { max: KEPT - 1, searched: 0, skipping: false, keep_end: false }
    }

    /// The longest line, in bytes and without its end. A longer one is [`Frame::TooLong`].
    ///
    /// Until it ends, a line of this length is kept by the engine together with a CR:
    /// [`max_read_buffer`](crate::Config::max_read_buffer) must be greater than `max`.
    #[must_use]
    pub const fn max(mut self, max: usize) -> Self {
        self.max = max;
        self
    }

    /// Lines are handed out with their ends, for whoever passes them on as they are. `max` goes on
    /// to count without.
    #[must_use]
    pub const fn keep_end(mut self) -> Self {
        self.keep_end = true;
        self
    }

    /// The lines in `data`: what was left unused before, and what follows it.
    pub fn frames<'d>(&mut self, data: &'d [u8]) -> Frames<'_, 'd, Self> {
        Frames::new(self, data)
    }

    /// The next line of `rest`, whose front is moved behind it. `None` when there is no whole line;
    /// what is in `rest` then has to be shown again.
    #[inline]
    pub fn next_in<'d>(&mut self, rest: &mut &'d [u8]) -> Option<Frame<'d>> {
        if self.skipping {
            let Some(end) = find(b'\n', rest) else {
                *rest = &[];
                return None;
            };
            *rest = rest.get(end + 1..).unwrap_or_default();
            self.skipping = false;
        }
        // Should less be shown than before, all of it is known.
        match find(b'\n', rest.get(self.searched..).unwrap_or_default()) {
            Some(end) => {
                let (whole, after) = rest.split_at_checked(self.searched + end + 1)?;
                *rest = after;
                self.searched = 0;
                let line = without_end(whole);
                Some(Frame::new(line, if self.keep_end { whole } else { line }, self.max))
            }
            None => {
                self.searched = rest.len();
                // A CR at the end may belong to the line's end.
                let line = rest.strip_suffix(b"\r").unwrap_or(rest);
                if line.len() <= self.max {
                    return None;
                }
                *rest = &[];
                self.searched = 0;
                self.skipping = true;
                Some(Frame::new(line, line, self.max))
            }
        }
    }

    /// Whether what was shown last ended inside a line, one that was too long included. In
    /// [`on_eof`](crate::Handler::on_eof) it means that the peer's last line has no end. A CR alone
    /// is not one.
    pub const fn is_unfinished(&self) -> bool {
        self.searched > 0 || self.skipping
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

/// A line that ends with LF, without LF and CRLF.
fn without_end(whole: &[u8]) -> &[u8] {
    let line = whole.strip_suffix(b"\n").unwrap_or(whole);
    line.strip_suffix(b"\r").unwrap_or(line)
}
