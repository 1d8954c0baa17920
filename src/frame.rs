//! Frames out of a stream: lines, delimited parts, length prefixes.
//!
//! A stream has no borders: what one side sends in three pieces arrives in one, or in twenty. The
//! decoders here find where messages end in what [`on_data`](crate::Handler::on_data) shows. They are
//! pure: no input or output, and no copy of what they look at.
//!
//! | decoder | a frame ends |
//! |---|---|
//! | [`Lines`] | at LF or CRLF |
//! | [`Delimited`] | at bytes of your choice, such as the empty line behind the head of an HTTP request |
//! | [`LengthPrefix`] | where the length in front of it says; it also encodes |
//!
//! `on_data` shows unused bytes again in front of what follows. A search that begins at the front
//! each time looks at two thousand million bytes before it has a line of 64 KiB that came byte by
//! byte. A decoder remembers how far it looked, and looks at each byte once. So it is **state of one
//! connection**: give each its own, for example in a [`PerConn`](crate::PerConn).
//!
//! # In a handler
//!
//! `frames` makes an iterator over what was shown. Its `used` is what `on_data` returns:
//!
//! ```
//! use unbroken::frame::{Frame, Lines};
//! use unbroken::{CloseReport, ConnId, Handler, Net, PerConn, Sent, Via};
//!
//! #[derive(Default)]
//! struct Echo {
//!     lines: PerConn<Lines>,
//! }
//!
//! impl Handler for Echo {
//!     fn on_open(&mut self, _: &mut Net, conn: ConnId, _: Via) {
//!         self.lines.insert(conn, Lines::new().max(510).keep_end());
//!     }
//!
//!     fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
//!         let Some(lines) = self.lines.get_mut(conn) else { return data.len() };
//!         let mut frames = lines.frames(data);
//!         for frame in frames.by_ref() {
//!             let answer = match frame {
//!                 Frame::Whole(line) => line,
//!                 Frame::TooLong { .. } => b"that line was too long\n",
//!             };
//!             // Stopping halfway is allowed: the rest is shown again when the queue has drained.
//!             if net.send(conn, answer) != Ok(Sent::Queued) {
//!                 break;
//!             }
//!         }
//!         frames.used()
//!     }
//!
//!     fn on_close(&mut self, _: &mut Net, conn: ConnId, _: &CloseReport) {
//!         self.lines.remove(conn);
//!     }
//! }
//! ```
//!
//! The iterator borrows the decoder. Where a frame is dealt with by a method that wants all of
//! `self`, take one frame at a time with `next_in` (here [`Lines::next_in`]): it moves the front of
//! a slice forward, and borrows nothing between two calls.
//!
//! ```
//! # use unbroken::frame::{Frame, Lines};
//! # use unbroken::{ConnId, Net, PerConn};
//! # struct Server { lines: PerConn<Lines> }
//! # impl Server {
//! # fn command(&mut self, net: &mut Net, conn: ConnId, line: &[u8]) {}
//! fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
//!     let mut rest = data;
//!     // The loop also ends when a command has removed the connection's state.
//!     while let Some(frame) = self.lines.get_mut(conn).and_then(|lines| lines.next_in(&mut rest)) {
//!         match frame {
//!             Frame::Whole(line) => self.command(net, conn, line),
//!             Frame::TooLong { .. } => {
//!                 net.close(conn);
//!                 break;
//!             }
//!         }
//!     }
//!     data.len() - rest.len()
//! }
//! # }
//! ```
//!
//! Behind a frame, what is no frame can be taken off the front of `rest` by hand, such as the body
//! behind the head of a request.
//!
//! A [`LengthPrefix`] says whether a length was one. The answers to what came before leave first: a
//! send behind `close` is refused.
//!
//! ```
//! # use unbroken::frame::LengthPrefix;
//! # use unbroken::{ConnId, Net, PerConn};
//! const RPC: LengthPrefix = LengthPrefix::be::<u32>().max(1 << 20);
//!
//! # struct Server { decoders: PerConn<LengthPrefix> }
//! # impl Server {
//! fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
//!     let mut answers = Vec::new();
//!     let mut frames = self.decoders[conn].frames(data);
//!     let broken = frames.by_ref().find_map(|frame| match frame {
//!         Ok(request) => RPC.frame_into(request, &mut answers).err().map(|error| error.to_string()),
//!         Err(error) => Some(error.to_string()),
//!     });
//!     let _ = net.send(conn, &answers);
//!     if let Some(why) = broken {
//!         log::info!("{conn}: {why}");
//!         net.close(conn);
//!     }
//!     frames.used()
//! }
//! # }
//! ```
//!
//! # The contract
//!
//! * Return what the decoder used, no more and no less. A frame that was handed out is used, also
//!   when you break off behind it.
//! * Show each decoder one stream, in order, as `on_data` does. The same bytes may be shown any
//!   number of times, with or without new ones behind them.
//! * How the stream was cut never matters: any pieces of it make the same frames.
//! * Every decoder has a `max`, counted without line ends, delimiters and headers. The engine must be
//!   able to keep an unfinished frame: let [`max_read_buffer`](crate::Config::max_read_buffer) be at
//!   least `max` and what ends or heads it, or the connection ends as
//!   [`InputOverflow`](crate::CloseReason::InputOverflow) before the decoder has its say. The
//!   defaults fit each other: 64 KiB, headers and ends included.
//! * At the end of the stream an unfinished frame is not handed out: a command whose end did not come
//!   may well be half a command. `is_unfinished` tells in [`on_eof`](crate::Handler::on_eof) whether
//!   the stream ended inside one.

mod delimited;
mod length_error;
mod length_prefix;
mod lines;
mod search;
#[cfg(test)]
mod tests;

use std::iter::FusedIterator;

pub use self::delimited::Delimited;
pub use self::length_error::{EncodeError, LengthError, LengthErrorKind};
pub use self::length_prefix::{LengthPrefix, Width};
pub use self::lines::Lines;

/// An unfinished frame, its header or all but the last byte of its end included, is this long at
/// most by default: what the engine keeps by default.
const KEPT: usize = 64 << 10;

/// What [`Lines`] and [`Delimited`] find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'d> {
    /// A frame, without what ended it (unless it was asked for).
    Whole(&'d [u8]),
    /// A frame longer than the decoder's `max`. It is told once, as soon as it is certain; the rest
    /// of the frame is used and skipped, however much that is, and the next one is whole again.
    TooLong {
        /// Its first bytes, as many as `max` says.
        start: &'d [u8],
    },
}

impl<'d> Frame<'d> {
    /// `out` is what is handed out, if `frame` is not too long.
    #[inline]
    fn new(frame: &'d [u8], out: &'d [u8], max: usize) -> Self {
        match frame.len() <= max {
            true => Self::Whole(out),
            false => Self::TooLong { start: frame.get(..max).unwrap_or_default() },
        }
    }
}

/// The frames in what a handler is shown: an iterator, made by `frames` of each decoder.
///
/// It can be left at any time, also before it says `None`. What it did not hand out is found again
/// when the same bytes are shown again.
#[derive(Debug)]
#[must_use = "the frames are found by iterating; `used` is what on_data returns"]
pub struct Frames<'s, 'd, D> {
    decoder: &'s mut D,
    shown: usize,
    rest: &'d [u8],
}

impl<'s, 'd, D> Frames<'s, 'd, D> {
    fn new(decoder: &'s mut D, data: &'d [u8]) -> Self {
        Self { decoder, shown: data.len(), rest: data }
    }

    /// Bytes used so far, counted from the front of what was shown; never more than that. Return it
    /// from [`on_data`](crate::Handler::on_data).
    pub fn used(&self) -> usize {
        self.shown - self.rest.len()
    }

    /// The bytes that are not used so far: what follows the frame that was handed out last. Useful
    /// when what follows it is not frames any more.
    pub fn rest(&self) -> &'d [u8] {
        self.rest
    }
}

macro_rules! iterators {
    ($($decoder:ty => $item:ty;)*) => {$(
        impl<'d> Iterator for Frames<'_, 'd, $decoder> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<Self::Item> {
                self.decoder.next_in(&mut self.rest)
            }
        }

        // A search that found nothing remembers that it did.
        impl FusedIterator for Frames<'_, '_, $decoder> {}
    )*};
}

iterators! {
    Lines => Frame<'d>;
    Delimited => Frame<'d>;
    LengthPrefix => Result<&'d [u8], LengthError>;
}
