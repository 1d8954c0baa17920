//! Frames that are too long, and the cost of looking.

use super::*;
use crate::config::Config;

fn lines(max: usize, pieces: &[&str]) -> Vec<Seen> {
    Stream::of(&Lines::new().max(max), usize::MAX, pieces.iter().map(|piece| piece.as_bytes())).seen
}

#[test]
fn max_is_met_exactly() {
    for end in ["\n", "\r\n"] {
        assert_eq!(lines(5, &["12345", end]), [whole("12345")]);
        assert_eq!(lines(5, &["12345", "", end]), [whole("12345")]);
        assert_eq!(lines(5, &[&format!("12345{end}12345{end}")]), [whole("12345"), whole("12345")]);
        assert_eq!(lines(0, &[end, end]), [whole(""), whole("")]);
    }
}

#[test]
fn one_byte_more_than_max_is_too_long() {
    for end in ["\n", "\r\n"] {
        assert_eq!(lines(5, &["123456", end]), [too_long("12345")]);
        assert_eq!(lines(5, &["12345", "6", end, "a", end]), [too_long("12345"), whole("a")]);
        // With its end in the same segment.
        assert_eq!(lines(5, &[&format!("123456{end}a{end}")]), [too_long("12345"), whole("a")]);
    }
    assert_eq!(lines(0, &["a", "\n", "\n"]), [too_long(""), whole("")]);
}

#[test]
fn a_cr_at_the_limit_may_belong_to_the_end() {
    assert_eq!(lines(5, &["12345\r", "\n"]), [whole("12345")]);
    assert_eq!(lines(5, &["12345\r", "6"]), [too_long("12345")]);
    assert_eq!(lines(5, &["1234\r", "\n"]), [whole("1234")]);
    assert_eq!(lines(5, &["12345\r", "\r\n"]), [too_long("12345")]);
    assert_eq!(lines(5, &["1234\r\r\n"]), [whole("1234\r")]);
    assert_eq!(lines(5, &["12345\r"]), []);
}

#[test]
fn one_long_line_is_told_once() {
    assert_eq!(lines(2, &["abc", "def", "", "g\r", "\rh"]), [too_long("ab")]);
    let mut decoder = Lines::new().max(2);
    let mut frames = decoder.frames(b"abcdef");
    assert_eq!((frames.next(), frames.used()), (Some(Frame::TooLong { start: b"ab" }), 6));
    assert_eq!(frames.next(), None);
}

#[test]
fn lines_go_on_behind_one_that_was_too_long() {
    assert_eq!(
        lines(2, &["abc", "d\nab\nabcd\n\nabc", "\nabc"]),
        [too_long("ab"), whole("ab"), too_long("ab"), whole(""), too_long("ab"), too_long("ab")]
    );
}

#[test]
fn the_end_of_a_skipped_frame_may_be_cut_anywhere() {
    let decoder = Delimited::new("aab").max(1);
    let stream = Stream::of(&decoder, 1, ["xyza", "a", "aa", "bxaa", "b"].map(str::as_bytes));
    assert_eq!(stream.seen, [too_long("x"), whole("x")]);
}

#[test]
fn a_gigabyte_without_an_end_is_skipped_and_nothing_kept() {
    let segment = vec![b'x'; 1 << 20];
    let (mut lines, mut parts) = (Stream::new(&Lines::new()), Stream::new(&Delimited::new("\r\n\r\n")));
    for _ in 0..1 << 10 {
        lines.arrive(&segment);
        parts.arrive(&segment);
        assert!(lines.unused.is_empty() && parts.unused.is_empty());
    }
    lines.arrive(b"\nnext\n");
    parts.arrive(b"\r\n\r\nnext\r\n\r\n");
    for seen in [lines.seen, parts.seen] {
        assert!(matches!(&seen[0], Seen::TooLong(start) if start.len() < 1 << 16));
        assert_eq!(seen[1..], [whole("next")]);
    }
}

/// An unfinished frame that is as long as may be must not end the connection.
#[test]
fn by_default_the_engine_keeps_what_a_decoder_leaves() {
    let kept = Config::default().max_read_buffer;
    assert_eq!(kept, KEPT);
    let long = [vec![b'x'; kept - 1], b"\r\n".to_vec()].concat();
    let stream = Stream::of(&Lines::new(), usize::MAX, long.chunks(1));
    assert_eq!(stream.kept, kept);
    assert_eq!(stream.seen, [whole(&long[..kept - 1])]);
    let mut long = vec![b'x'; kept - 3];
    long.extend(b"\r\n\r\n");
    let stream = Stream::of(&Delimited::new("\r\n\r\n"), usize::MAX, long.chunks(1));
    assert_eq!(stream.kept, kept);
    assert_eq!(stream.seen, [whole(&long[..kept - 3])]);
    for decoder in [LengthPrefix::be::<u16>(), LengthPrefix::le::<u64>().offset(3), LengthPrefix::varint()] {
        let frame = (0..2 * kept).rev().find_map(|len| decoder.frame(&vec![b'x'; len]).ok()).unwrap();
        let stream = Stream::of(&decoder, usize::MAX, frame.chunks(1));
        assert!((kept - 10..=kept).contains(&stream.kept), "{}", stream.kept);
        assert!(matches!(stream.seen[..], [Seen::Whole(_)]));
    }
}

/// Shows `input` byte by byte, as the engine does: all that is unused each time. Returns the bytes
/// that were looked at.
fn examined<D: Decoder>(decoder: &D, input: &[u8]) -> usize {
    counting::take();
    let (mut decoder, mut seen, mut used) = (decoder.clone(), Vec::new(), 0);
    for end in 1..=input.len() {
        used += decoder.take(&input[used..end], usize::MAX, &mut seen).0;
    }
    assert!(!seen.is_empty());
    counting::take()
}

#[test]
fn a_long_line_byte_by_byte_is_looked_at_once() {
    let mut line = vec![b'x'; 64 << 10];
    line.push(b'\n');
    for max in [0, 100, 1 << 20] {
        let count = examined(&Lines::new().max(max), &line);
        assert!(count >= line.len() && count < 4 * line.len(), "{count}");
    }
}

#[test]
fn a_delimiter_that_overlaps_itself_takes_linear_time() {
    let delimiter = [vec![b'a'; 200], vec![b'b']].concat();
    let almost = [vec![b'a'; 199], vec![b'c']].concat();
    let halves = [vec![b'a'; 100], vec![b'b']].concat();
    for (part, delimiter) in [
        (b"a".as_slice(), b"aab".as_slice()),
        (b"\r\n\r", b"\r\n\r\n"),
        (b"a", &delimiter),
        (&almost, &delimiter),
        (&halves, &delimiter),
        (b"abcabcabd", b"abcabcabdabcabcabe"),
    ] {
        let mut input = part.repeat((64 << 10) / part.len());
        input.extend_from_slice(delimiter);
        for max in [0, 100, 1 << 20] {
            let count = examined(&Delimited::new(delimiter).max(max), &input);
            assert!(count >= input.len() && count < 4 * input.len(), "{count} of {}", input.len());
        }
        // In one piece.
        counting::take();
        Delimited::new(delimiter).frames(&input).for_each(drop);
        assert!(counting::take() < 4 * input.len());
    }
}

#[test]
#[should_panic(expected = "a delimiter has at least one byte")]
fn a_delimiter_without_bytes_is_refused() {
    let _ = Delimited::new("");
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<Lines>() <= 24);
    assert!(size_of::<Delimited>() <= 48);
    assert!(size_of::<LengthPrefix>() <= 56);
}
