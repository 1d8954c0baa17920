//! The engine played by `Stream`: unused bytes are shown again in front of what follows.

mod cutting;
mod lengths;
mod limits;

use super::search::counting;
use super::*;

/// What a decoder handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Whole(Vec<u8>),
    TooLong(Vec<u8>),
    Bad(LengthError),
}

impl From<Frame<'_>> for Seen {
    fn from(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Whole(frame) => Self::Whole(frame.to_vec()),
            Frame::TooLong { start } => Self::TooLong(start.to_vec()),
        }
    }
}

impl From<Result<&[u8], LengthError>> for Seen {
    fn from(frame: Result<&[u8], LengthError>) -> Self {
        frame.map_or_else(Self::Bad, |frame| Self::Whole(frame.to_vec()))
    }
}

fn whole(frame: impl AsRef<[u8]>) -> Seen {
    Seen::Whole(frame.as_ref().to_vec())
}

fn too_long(start: impl AsRef<[u8]>) -> Seen {
    Seen::TooLong(start.as_ref().to_vec())
}

/// What all decoders have in common.
trait Decoder: Clone {
    /// Takes `most` frames out of `data`. Returns the bytes used, and whether all frames were taken.
    fn take(&mut self, data: &[u8], most: usize, seen: &mut Vec<Seen>) -> (usize, bool);
    fn is_unfinished(&self) -> bool;
}

macro_rules! decoders {
    ($($decoder:ty)*) => {$(
        impl Decoder for $decoder {
            fn take(&mut self, data: &[u8], most: usize, seen: &mut Vec<Seen>) -> (usize, bool) {
                let before = seen.len();
                let mut frames = self.frames(data);
                seen.extend(frames.by_ref().take(most).map(Seen::from));
                let all = seen.len() - before < most;
                assert!(frames.used() <= data.len());
                assert_eq!(&data[frames.used()..], frames.rest());
                if all {
                    assert!(frames.next().is_none(), "it ended, and went on");
                }
                (frames.used(), all)
            }

            fn is_unfinished(&self) -> bool {
                self.is_unfinished()
            }
        }
    )*};
}

decoders! { Lines Delimited LengthPrefix }

/// One connection: its decoder, and what the engine keeps for it.
struct Stream<D> {
    decoder: D,
    unused: Vec<u8>,
    seen: Vec<Seen>,
    /// The handler breaks off after so many frames.
    most: usize,
    /// The most that was ever left unused.
    kept: usize,
}

impl<D: Decoder> Stream<D> {
    fn new(decoder: &D) -> Self {
        Self { decoder: decoder.clone(), unused: Vec::new(), seen: Vec::new(), most: usize::MAX, kept: 0 }
    }

    /// New bytes come in. What the handler stops at is shown again until it has dealt with all of it.
    fn arrive(&mut self, data: &[u8]) {
        self.unused.extend_from_slice(data);
        loop {
            let (used, all) = self.decoder.take(&self.unused, self.most, &mut self.seen);
            self.unused.drain(..used);
            if all {
                break;
            }
        }
        self.kept = self.kept.max(self.unused.len());
    }

    /// What was handed out of `input` when it came in these pieces.
    fn of<'p>(decoder: &D, most: usize, pieces: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let mut stream = Self::new(decoder);
        stream.most = most;
        pieces.into_iter().for_each(|piece| stream.arrive(piece));
        stream
    }
}

/// `input` cut behind each byte whose bit in `cuts` is set.
fn pieces(input: &[u8], cuts: u32) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    (0..input.len()).filter_map(move |n| {
        let end = n + 1;
        let cut = end == input.len() || cuts & (1 << n) != 0;
        cut.then(|| &input[std::mem::replace(&mut from, end)..end])
    })
}

/// Every input over an alphabet of up to so many bytes.
fn inputs(alphabet: &'static [u8], most: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..=most).flat_map(move |len| {
        (0..alphabet.len().pow(len)).map(move |mut number| {
            let mut byte = || {
                let byte = alphabet[number % alphabet.len()];
                number /= alphabet.len();
                byte
            };
            (0..len).map(|_| byte()).collect()
        })
    })
}

/// What stands in a stream, said in the simplest way: frames up to each end.
fn divide(input: &[u8], end: &[u8], max: usize, keep: bool, lines: bool) -> (Vec<Seen>, bool) {
    let (mut seen, mut rest) = (Vec::new(), input);
    while let Some(at) = rest.windows(end.len()).position(|window| window == end) {
        let (frame, after) = rest.split_at(at + end.len());
        rest = after;
        let mut content = &frame[..at];
        if lines {
            content = content.strip_suffix(b"\r").unwrap_or(content);
        }
        seen.push(match content.len() > max {
            true => too_long(&content[..max]),
            false => whole(if keep { frame } else { content }),
        });
    }
    // The least that the unfinished frame has, whatever follows.
    let end: &[u8] = if lines { b"\r\n" } else { end };
    let common = (0..end.len()).rev().find(|len| rest.ends_with(&end[..*len])).unwrap_or(0);
    if rest.len() - common > max {
        seen.push(too_long(&rest[..max]));
    }
    (seen, !rest.is_empty())
}
