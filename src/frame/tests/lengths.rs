//! Lengths of every form, and those that cannot be.

use super::*;

fn decode(decoder: &LengthPrefix, input: &[u8]) -> Vec<Seen> {
    let seen = Stream::of(decoder, usize::MAX, [input]).seen;
    assert_eq!(Stream::of(decoder, 1, input.chunks(1)).seen, seen, "byte by byte");
    seen
}

/// The one error of an input, its kind and text; what follows it is used, and gives nothing.
fn error(decoder: &LengthPrefix, input: &[u8]) -> (LengthErrorKind, String) {
    let mut stream = Stream::of(decoder, usize::MAX, [input]);
    for more in [b"\0\0\0\0\0\0\0\0".as_slice(), input] {
        stream.arrive(more);
        assert!(stream.unused.is_empty());
    }
    assert_eq!((stream.decoder.needed(), stream.decoder.is_unfinished()), (0, false));
    match stream.seen[..] {
        [Seen::Bad(error)] => (error.kind(), error.to_string()),
        _ => panic!("{:?}", stream.seen),
    }
}

#[test]
fn every_width_in_either_order_is_read_and_written() {
    let forms = [
        (LengthPrefix::be::<u8>(), b"\x02".as_slice()),
        (LengthPrefix::le::<u8>(), b"\x02"),
        (LengthPrefix::be::<u16>(), b"\0\x02"),
        (LengthPrefix::le::<u16>(), b"\x02\0"),
        (LengthPrefix::be::<[u8; 3]>(), b"\0\0\x02"),
        (LengthPrefix::le::<[u8; 3]>(), b"\x02\0\0"),
        (LengthPrefix::be::<u32>(), b"\0\0\0\x02"),
        (LengthPrefix::le::<u32>(), b"\x02\0\0\0"),
        (LengthPrefix::be::<[u8; 5]>(), b"\0\0\0\0\x02"),
        (LengthPrefix::le::<[u8; 6]>(), b"\x02\0\0\0\0\0"),
        (LengthPrefix::be::<[u8; 7]>(), b"\0\0\0\0\0\0\x02"),
        (LengthPrefix::be::<u64>(), b"\0\0\0\0\0\0\0\x02"),
        (LengthPrefix::le::<u64>(), b"\x02\0\0\0\0\0\0\0"),
        (LengthPrefix::varint(), b"\x02"),
    ];
    for (form, field) in forms {
        let frame = [field, b"ab"].concat();
        assert_eq!(form.frame(b"ab").unwrap(), frame);
        assert_eq!(decode(&form, &frame.repeat(2)), [whole("ab"), whole("ab")]);
        assert_eq!(decode(&form.clone().keep_header(), &frame), [whole(&frame)]);
    }
    // Both bytes of a length count, each in its place.
    let long = [0; 0x0201];
    assert_eq!(LengthPrefix::be::<u16>().frame(&long).unwrap()[..2], [2, 1]);
    assert_eq!(LengthPrefix::le::<u16>().frame(&long).unwrap()[..2], [1, 2]);
    assert_eq!(LengthPrefix::varint().frame(&long).unwrap()[..2], [0x81, 0x04]);
}

#[test]
fn frames_of_no_bytes_are_frames() {
    assert_eq!(decode(&LengthPrefix::be::<u16>(), &[0; 6]), [whole(""), whole(""), whole("")]);
    assert_eq!(decode(&LengthPrefix::be::<u16>().max(0), &[0; 2]), [whole("")]);
    assert_eq!(decode(&LengthPrefix::varint().keep_header(), b"\0\0"), [whole("\0"), whole("\0")]);
    assert_eq!(LengthPrefix::le::<u16>().frame(b"").unwrap(), b"\0\0".as_slice());
}

#[test]
fn max_is_met_exactly_and_by_one_more_is_an_error() {
    let decoder = LengthPrefix::be::<u8>().max(3);
    assert_eq!(decode(&decoder, b"\x03abc"), [whole("abc")]);
    assert_eq!(
        error(&decoder, b"\x04abcd"),
        (LengthErrorKind::TooLong, "a frame of 4 bytes, at most 3 are allowed".into())
    );
    // What was whole before it is handed out.
    assert!(matches!(decode(&decoder, b"\x01a\x04abcd\x01a")[..], [Seen::Whole(_), Seen::Bad(_)]));
}

#[test]
fn the_largest_length_of_all_is_an_error_and_no_overflow() {
    let most = [0xff; 16];
    for decoder in [
        LengthPrefix::be::<u64>(),
        LengthPrefix::be::<u64>().max(usize::MAX),
        LengthPrefix::le::<u64>().max(usize::MAX).includes_itself().offset(1),
        LengthPrefix::be::<u64>().max(usize::MAX).adjust(i64::MAX).offset(8),
        LengthPrefix::le::<u64>().max(usize::MAX).adjust(-1),
    ] {
        assert_eq!(error(&decoder, &most).0, LengthErrorKind::TooLong, "{decoder:?}");
    }
    // The frame just fits the address space, but will hardly come.
    let mut decoder = LengthPrefix::be::<u64>().max(usize::MAX).includes_itself();
    assert_eq!(decoder.next_in(&mut (usize::MAX as u64).to_be_bytes().as_slice()), None);
    assert_eq!(decoder.needed(), usize::MAX);
    let (kind, text) = error(&LengthPrefix::be::<u64>(), &most);
    assert_eq!(kind, LengthErrorKind::TooLong);
    assert_eq!(text, "a frame of 18446744073709551615 bytes, at most 65529 are allowed");
    // An offset out of all reason only waits.
    assert_eq!(decode(&LengthPrefix::be::<u64>().offset(usize::MAX), &most), []);
}

#[test]
fn a_length_that_does_not_even_count_itself_is_an_error() {
    let decoder = LengthPrefix::be::<u32>().includes_itself();
    assert_eq!(decode(&decoder, b"\0\0\0\x04\0\0\0\x05a"), [whole(""), whole("a")]);
    assert_eq!(error(&decoder, b"\0\0\0\x03"), (LengthErrorKind::Negative, "a frame of -1 bytes".into()));
    let decoder = LengthPrefix::le::<u16>().adjust(i64::MIN);
    assert_eq!(error(&decoder, b"\xff\xff").0, LengthErrorKind::Negative);
}

#[test]
fn another_protocol_shows_in_the_error() {
    let (_, text) = error(&LengthPrefix::be::<u32>(), b"GET / HTTP/1.1\r\n\r\n");
    assert!(text.ends_with("; as text its length reads \"GET \""), "{text}");
    let (_, text) = error(&LengthPrefix::le::<u32>().offset(1), b"xHTTP");
    assert!(text.ends_with("reads \"HTTP\""), "{text}");
    let (_, text) = error(&LengthPrefix::be::<u32>(), b"\x16\x03\x01\x02");
    assert!(!text.contains("text"), "{text}");
}

#[test]
fn an_offset_is_skipped_or_kept() {
    let postgres = LengthPrefix::be::<u32>().offset(1).includes_itself();
    let stream = b"Q\0\0\0\x07abcS\0\0\0\x04";
    assert_eq!(decode(&postgres, stream), [whole("abc"), whole("")]);
    assert_eq!(
        decode(&postgres.clone().keep_header(), stream),
        [whole("Q\0\0\0\x07abc"), whole("S\0\0\0\x04")]
    );
    assert_eq!(postgres.frame(b"Qabc").unwrap(), stream[..8]);
    assert_eq!(postgres.frame(b""), Err(EncodeError::TooShort { length: 0, offset: 1 }));
    // MySQL: the byte behind the length is not counted.
    let mysql = LengthPrefix::le::<[u8; 3]>().adjust(1);
    assert_eq!(decode(&mysql, b"\x01\0\0\x07a"), [whole("\x07a")]);
    assert_eq!(mysql.frame(b"\x07a").unwrap(), b"\x01\0\0\x07a".as_slice());
}

#[test]
fn varints_of_every_length_come_and_go() {
    let decoder = LengthPrefix::varint().max(1 << 20);
    for (length, field) in [
        (0, b"\0".as_slice()),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (16384, b"\x80\x80\x01"),
    ] {
        let frame = decoder.frame(&vec![b'x'; length]).unwrap();
        assert_eq!(frame[..field.len()], *field);
        assert_eq!(decode(&decoder, &frame), [whole(vec![b'x'; length])]);
    }
    // Longer than need be.
    assert_eq!(decode(&decoder, b"\x81\x80\0a"), [whole("a")]);
    assert_eq!(decode(&decoder, b"\x81\x80\x80\x80\x80\x80\x80\x80\x80\0a"), [whole("a")]);
    // The most that 64 bits hold; one bit more; and one that does not end.
    assert_eq!(error(&decoder, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").0, LengthErrorKind::TooLong);
    assert_eq!(error(&decoder, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02").0, LengthErrorKind::Malformed);
    assert_eq!(
        error(&decoder, &[0x80; 11]),
        (LengthErrorKind::Malformed, "a length of more than 64 bits".to_owned())
    );
    // One that counts itself grows by a byte where that makes it longer.
    let itself = LengthPrefix::varint().includes_itself();
    for length in [0, 1, 125, 126, 127, 128, 16381, 16382, 16383] {
        let frame = itself.frame(&vec![b'x'; length]).unwrap();
        assert_eq!(decode(&itself, &frame), [whole(vec![b'x'; length])]);
    }
}

#[test]
fn what_a_frame_needs_is_known_as_soon_as_it_can_be() {
    let mut decoder = LengthPrefix::be::<u16>().offset(1);
    assert_eq!(decoder.needed(), 3);
    for (shown, needed) in
        [(b"x\0".as_slice(), 3), (b"x\0\x05", 8), (b"x\0\x05abcd", 8), (b"x\0\x05abcde", 3)]
    {
        decoder.frames(shown).for_each(drop);
        assert_eq!(decoder.needed(), needed);
    }
    // Who breaks off behind a frame needs the next header.
    assert_eq!(decoder.next_in(&mut b"x\0\x05ab".as_slice()), None);
    assert!(decoder.next_in(&mut b"x\0\x05abcdex\0\x01a".as_slice()).is_some());
    assert_eq!(decoder.needed(), 3);
    let mut decoder = LengthPrefix::varint();
    for (shown, needed) in [(b"".as_slice(), 1), (b"\x80", 2), (b"\x80\x01", 130)] {
        decoder.frames(shown).for_each(drop);
        assert_eq!(decoder.needed(), needed);
    }
}

#[test]
fn a_payload_that_does_not_fit_is_refused_and_nothing_written() {
    let mut out = b"before".to_vec();
    for (decoder, len, expected) in [
        (LengthPrefix::be::<u8>(), 256, EncodeError::OutOfRange { value: 256 }),
        (LengthPrefix::be::<u8>().includes_itself(), 255, EncodeError::OutOfRange { value: 256 }),
        (LengthPrefix::be::<u8>().adjust(3), 2, EncodeError::OutOfRange { value: -1 }),
        (LengthPrefix::varint().adjust(3), 2, EncodeError::OutOfRange { value: -1 }),
        (LengthPrefix::varint().includes_itself().adjust(2), 0, EncodeError::OutOfRange { value: -1 }),
        (LengthPrefix::le::<u16>().max(9), 10, EncodeError::TooLong { length: 10, max: 9 }),
        (LengthPrefix::be::<u32>(), 1 << 17, EncodeError::TooLong { length: 1 << 17, max: (64 << 10) - 3 }),
        (LengthPrefix::be::<[u8; 7]>().adjust(i64::MIN), 1, EncodeError::OutOfRange { value: 1 + (1 << 63) }),
    ] {
        assert_eq!(decoder.frame_into(&vec![0; len], &mut out), Err(expected));
    }
    assert_eq!(out, b"before");
    assert_eq!(LengthPrefix::be::<u8>().frame(&[7; 255]).unwrap().len(), 256);
    assert_eq!(
        EncodeError::OutOfRange { value: 256 }.to_string(),
        "a length of 256 does not fit into its field"
    );
}
