//! How a stream was cut never matters.

use proptest::prelude::*;

use super::*;

/// Holds a decoder to what an input contains, over every way to cut it, with a handler that takes
/// all frames and with one that breaks off after each.
fn every_way<D: Decoder>(decoder: &D, input: &[u8], expected: &(Vec<Seen>, bool)) {
    for cuts in 0..1u32 << input.len().saturating_sub(1) {
        for most in [usize::MAX, 1] {
            let stream = Stream::of(decoder, most, pieces(input, cuts));
            let found = (stream.seen, stream.decoder.is_unfinished());
            assert_eq!(&found, expected, "{} cut by {cuts:b}, {most} at a time", input.escape_ascii());
        }
    }
}

#[test]
fn every_split_of_every_input_gives_the_same_lines() {
    for max in 0..3 {
        let decoder = Lines::new().max(max);
        for input in inputs(b"a\r\n", 6) {
            every_way(&decoder, &input, &divide(&input, b"\n", max, false, true));
        }
    }
    for input in inputs(b"a\r\n", 5) {
        every_way(&Lines::new().keep_end().max(1), &input, &divide(&input, b"\n", 1, true, true));
    }
}

#[test]
fn every_split_of_every_input_gives_the_same_delimited_frames() {
    for delimiter in ["a", "aa", "ab", "aab", "aba", "abab", "aabaa"] {
        for (max, keep) in [(0, false), (1, true), (3, false)] {
            let mut decoder = Delimited::new(delimiter).max(max);
            if keep {
                decoder = decoder.keep_delimiter();
            }
            for input in inputs(b"ab", 8) {
                every_way(&decoder, &input, &divide(&input, delimiter.as_bytes(), max, keep, false));
            }
        }
    }
}

/// What stands in a stream of lengths of one byte each, behind `offset` bytes.
fn counted(input: &[u8], offset: usize, adjust: i64, max: usize) -> (Vec<Seen>, bool) {
    let (mut seen, mut rest) = (Vec::new(), input);
    while let Some(length) = rest.get(offset) {
        let payload = i64::from(*length) + adjust;
        let kind = match usize::try_from(payload) {
            Err(_) => LengthErrorKind::Negative,
            Ok(payload) if payload > max => LengthErrorKind::TooLong,
            Ok(payload) => {
                let Some(frame) = rest.get(offset + 1..offset + 1 + payload) else { break };
                seen.push(whole(frame));
                rest = &rest[offset + 1 + payload..];
                continue;
            }
        };
        let field = std::iter::once(*length).collect();
        seen.push(Seen::Bad(LengthError { kind, field, length: payload.into(), max }));
        return (seen, false);
    }
    (seen, !rest.is_empty())
}

#[test]
fn every_split_of_every_input_gives_the_same_counted_frames() {
    for (offset, adjust, max) in [(0, 0, 3), (0, 0, 2), (1, 0, 3), (0, -1, 3), (2, 1, 3)] {
        for decoder in [LengthPrefix::be::<u8>(), LengthPrefix::le::<u8>(), LengthPrefix::varint()] {
            let decoder = decoder.offset(offset).adjust(adjust).max(max);
            for input in inputs(b"\0\x01\x02\x03", 5) {
                every_way(&decoder, &input, &counted(&input, offset, adjust, max));
            }
        }
    }
}

#[test]
fn cr_and_lf_in_two_segments_are_one_end() {
    let stream = Stream::of(&Lines::new(), usize::MAX, [b"one\r".as_slice(), b"\ntwo\r", b"x\n\r", b"\n"]);
    assert_eq!(stream.seen, [whole("one"), whole("two\rx"), whole("")]);
}

#[test]
fn what_is_shown_again_without_anything_new_gives_nothing_new() {
    let mut lines = Lines::new();
    for data in [b"one".as_slice(), b"one", b"one\r", b"one\r"] {
        let mut frames = lines.frames(data);
        assert_eq!((frames.next(), frames.used()), (None, 0));
    }
    assert_eq!(lines.next_in(&mut b"one\r\n".as_slice()), Some(Frame::Whole(b"one")));
}

#[test]
fn less_may_be_shown_than_before() {
    let (mut lines, mut parts) = (Lines::new(), Delimited::new("aab"));
    for shown in ["xaa", "xa", "", "xaa"] {
        assert_eq!(lines.next_in(&mut shown.as_bytes()), None);
        assert_eq!(parts.next_in(&mut shown.as_bytes()), None);
    }
    assert_eq!(lines.next_in(&mut b"xaa\n".as_slice()), Some(Frame::Whole(b"xaa")));
    assert_eq!(parts.next_in(&mut b"xaab".as_slice()), Some(Frame::Whole(b"x")));
    let mut parts = Delimited::new("aa");
    for shown in ["xa", "x", "xa"] {
        assert_eq!(parts.next_in(&mut shown.as_bytes()), None);
    }
}

#[test]
fn who_breaks_off_halfway_goes_on_there() {
    let mut lines = Lines::new();
    let mut frames = lines.frames(b"one\ntwo\nthree\nfo");
    assert_eq!(frames.next(), Some(Frame::Whole(b"one")));
    assert_eq!((frames.used(), frames.rest()), (4, b"two\nthree\nfo".as_slice()));
    let mut frames = lines.frames(b"two\nthree\nfour\n");
    assert_eq!(frames.by_ref().count(), 3);
    assert_eq!(frames.used(), 15);
}

#[test]
fn who_takes_nothing_uses_nothing() {
    let mut lines = Lines::new();
    assert_eq!(lines.frames(b"one\n").used(), 0);
    assert_eq!(lines.next_in(&mut b"one\n".as_slice()), Some(Frame::Whole(b"one")));
}

#[test]
fn the_end_of_the_stream_inside_a_frame_can_be_told() {
    let mut lines = Lines::new().max(2);
    for (shown, unfinished) in [("a\n", false), ("a", true), ("a\r", true), ("a\r\n", false)] {
        lines.frames(shown.as_bytes()).for_each(drop);
        assert_eq!(lines.is_unfinished(), unfinished, "{shown:?}");
    }
    lines.frames(b"long").for_each(drop);
    assert!(lines.is_unfinished());
    let mut counted = LengthPrefix::be::<u16>();
    for (shown, unfinished) in
        [(b"".as_slice(), false), (b"\0", true), (b"\0\x01", true), (b"\0\x01a", false)]
    {
        counted.frames(shown).for_each(drop);
        assert_eq!(counted.is_unfinished(), unfinished, "{shown:?}");
    }
}

/// Frames of any length, some of them too long, cut anywhere.
fn long_streams() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let run = prop_oneof![Just(0usize), 0usize..40, 0usize..1000];
    let frame =
        (run, prop_oneof![Just("\n"), Just("\r\n"), Just("\r"), Just("--aab-"), Just("--aab--aab--aab--")]);
    let stream = proptest::collection::vec(frame, 0..40).prop_map(|frames| {
        let frame = |(run, end): (usize, &str)| [vec![b'x'; run], end.into()].concat();
        frames.into_iter().flat_map(frame).collect()
    });
    (stream, proptest::collection::vec(1usize..300, 1..100))
}

/// Cuts after so many bytes each, over and over.
fn cut<'d>(input: &'d [u8], sizes: &'d [usize]) -> impl Iterator<Item = &'d [u8]> {
    let mut rest = input;
    sizes.iter().cycle().map_while(move |size| {
        let (piece, after) = rest.split_at(rest.len().min(*size));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

proptest! {
    #[test]
    fn long_streams_are_divided_the_same_however_they_are_cut(
        (input, sizes) in long_streams(), most in 1usize..5, max in 0usize..1000
    ) {
        let lines = Stream::of(&Lines::new().max(max), most, cut(&input, &sizes));
        prop_assert_eq!((lines.seen, lines.decoder.is_unfinished()), divide(&input, b"\n", max, false, true));
        prop_assert!(lines.kept <= max + 1);
        let delimiter = b"--aab--aab--";
        let decoder = Delimited::new(delimiter).max(max);
        let parts = Stream::of(&decoder, most, cut(&input, &sizes));
        prop_assert_eq!((parts.seen, parts.decoder.is_unfinished()), divide(&input, delimiter, max, false, false));
        prop_assert!(parts.kept < max + delimiter.len());
    }

    #[test]
    fn what_was_encoded_is_decoded_however_it_is_cut(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        sizes in proptest::collection::vec(1usize..100, 1..50),
        (form, offset, itself, adjust, keep) in (0usize..7, 0usize..3, any::<bool>(), -3i64..4, any::<bool>()),
    ) {
        let mut decoder = [
            LengthPrefix::be::<u16>(), LengthPrefix::le::<u16>(), LengthPrefix::be::<[u8; 3]>(),
            LengthPrefix::le::<u32>(), LengthPrefix::be::<[u8; 7]>(), LengthPrefix::le::<u64>(), LengthPrefix::varint(),
        ][form].clone().offset(offset).adjust(adjust);
        decoder = if itself { decoder.includes_itself() } else { decoder };
        decoder = if keep { decoder.keep_header() } else { decoder };
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for payload in &payloads {
            let before = stream.len();
            match decoder.frame_into(payload, &mut stream) {
                Ok(()) if keep => expected.push(whole(&stream[before..])),
                Ok(()) => expected.push(whole(&payload[offset..])),
                Err(_) => {
                    prop_assert_eq!(stream.len(), before);
                    prop_assert!(payload.len() < offset + 4, "only what is shorter than the adjustment");
                }
            }
        }
        let found = Stream::of(&decoder, 2, cut(&stream, &sizes));
        prop_assert_eq!(found.seen, expected);
        prop_assert!(!found.decoder.is_unfinished());
    }
}
