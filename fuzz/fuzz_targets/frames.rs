//! The decoders: no input panics, and however it is cut, and wherever the handler breaks off, the
//! frames are the same as in one piece.
#![no_main]

use unbroken::frame::{Delimited, Frame, LengthError, LengthPrefix, Lines};

/// Frames as text: what is compared.
trait Decoder: Clone {
    fn next(&mut self, rest: &mut &[u8]) -> Option<String>;
    fn is_unfinished(&self) -> bool;
    /// Bytes that have to be there before another look makes sense, where the decoder can tell.
    fn needed(&self) -> usize {
        usize::MAX
    }
}

fn frame(frame: Frame<'_>) -> String {
    format!("{frame:?}")
}

fn counted(frame: Result<&[u8], LengthError>) -> String {
    if let Err(error) = frame {
        assert!(!error.to_string().is_empty() && error.field().len() <= 10);
    }
    format!("{frame:?}")
}

macro_rules! decoders {
    ($($decoder:ty, $text:ident, { $($more:tt)* })*) => {$(
        impl Decoder for $decoder {
            fn next(&mut self, rest: &mut &[u8]) -> Option<String> {
                self.next_in(rest).map($text)
            }
            fn is_unfinished(&self) -> bool {
                self.is_unfinished()
            }
            $($more)*
        }
    )*};
}

decoders! {
    Lines, frame, {}
    Delimited, frame, {}
    LengthPrefix, counted, { fn needed(&self) -> usize { self.needed() } }
}

/// What comes out of a stream that is cut after so many bytes each (not at all, without a number). The
/// handler breaks off after `most` frames, and leaves `kept` bytes at most.
fn read(
    mut decoder: impl Decoder,
    input: &[u8],
    cuts: &[u8],
    most: usize,
    kept: usize,
) -> (Vec<String>, bool) {
    let (mut frames, mut begin, mut end) = (Vec::new(), 0, 0);
    let mut cuts = cuts.iter().cycle();
    while end < input.len() {
        end = cuts.next().map_or(input.len(), |cut| input.len().min(end + 1 + usize::from(*cut)));
        loop {
            let shown = &input[begin..end];
            let mut rest = shown;
            let taken = std::iter::from_fn(|| decoder.next(&mut rest)).take(most);
            let before = frames.len();
            frames.extend(taken);
            assert!(shown.ends_with(rest));
            begin = end - rest.len();
            if frames.len() - before < most {
                break;
            }
        }
        assert!(end - begin <= kept, "{} are kept", end - begin);
        assert!(decoder.needed() > end - begin || begin == end, "another look is of use already");
    }
    (frames, decoder.is_unfinished())
}

/// In one piece, in other pieces, and in pieces with breaks.
fn compare(decoder: impl Decoder, input: &[u8], cuts: &[u8], kept: usize) -> Vec<String> {
    let whole = read(decoder.clone(), input, &[], usize::MAX, usize::MAX);
    assert_eq!(whole, read(decoder.clone(), input, cuts, usize::MAX, kept));
    assert_eq!(whole, read(decoder.clone(), input, cuts, 2, kept));
    assert_eq!(whole, read(decoder, input, &[0], 1, kept));
    whole.0
}

fn lines_or_parts(kind: u8, max: usize, delimiter: &[u8], input: &[u8], cuts: &[u8]) {
    if kind % 2 == 0 {
        let mut lines = Lines::new().max(max);
        if kind & 2 != 0 {
            lines = lines.keep_end();
        }
        compare(lines, input, cuts, max + 1);
    } else if !delimiter.is_empty() {
        let mut parts = Delimited::new(delimiter).max(max);
        if kind & 2 != 0 {
            parts = parts.keep_delimiter();
        }
        let found = compare(parts, input, cuts, max + delimiter.len() - 1);
        let ends = found.len();
        let mut rest = input;
        let mut there = 0;
        while let Some(at) = rest.windows(delimiter.len()).position(|window| window == delimiter) {
            rest = &rest[at + delimiter.len()..];
            there += 1;
        }
        // The last may be too long already without its end.
        assert!(ends == there || ends == there + 1, "{ends} frames, {there} delimiters");
    }
}

fn lengths(kind: u8, max: usize, adjust: i8, input: &[u8], cuts: &[u8]) {
    let decoder = match kind % 8 {
        0 => LengthPrefix::be::<u8>(),
        1 => LengthPrefix::le::<u16>(),
        2 => LengthPrefix::be::<[u8; 3]>(),
        3 => LengthPrefix::le::<u32>(),
        4 => LengthPrefix::be::<[u8; 5]>(),
        5 => LengthPrefix::le::<[u8; 7]>(),
        6 => LengthPrefix::be::<u64>(),
        _ => LengthPrefix::varint(),
    };
    let offset = usize::from(kind >> 3 & 3);
    let mut decoder = decoder.max(max).adjust(adjust.into()).offset(offset);
    if kind & 0x20 != 0 {
        decoder = decoder.includes_itself();
    }
    if kind & 0x40 != 0 {
        decoder = decoder.keep_header();
    }
    compare(decoder.clone(), input, cuts, offset + 10 + max);
    // What is encoded is decoded.
    if let Ok(encoded) = decoder.frame(input) {
        let mut rest = &encoded[..];
        let header = encoded.len() - (input.len() - offset);
        let expected = if kind & 0x40 != 0 { &encoded[..] } else { &encoded[header..] };
        assert_eq!(decoder.next_in(&mut rest), Some(Ok(expected)));
        assert!(rest.is_empty());
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [kind, max, adjust, cuts, delimiter, input @ ..] = data else { return };
    let (cuts, input) = input.split_at(input.len().min(usize::from(*cuts % 16)));
    if kind & 0x80 == 0 {
        return lengths(*kind, usize::from(*max) * 8, *adjust as i8, input, cuts);
    }
    let (delimiter, input) = input.split_at(input.len().min(usize::from(*delimiter % 8)));
    lines_or_parts(*kind, usize::from(*max), delimiter, input, cuts);
});
