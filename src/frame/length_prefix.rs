//! Frames with their length in front.

use bytes::Bytes;

use super::length_error::{EncodeError, Field, LengthError, LengthErrorKind};
use super::{Frames, KEPT};

/// Finds and makes frames that begin with their length.
///
/// A frame is a header and a payload. The header ends with the length field; what stands in front
/// of the field, such as a type, is announced with [`offset`](Self::offset). By default the length
/// is the payload's, and the payload is what is handed out.
///
/// State of one connection; see the [module](crate::frame) for how it is used. The rules of a
/// protocol fit into a constant; each use of it is a new decoder:
///
/// ```
/// use unbroken::frame::LengthPrefix;
///
/// const RPC: LengthPrefix = LengthPrefix::be::<u32>().max(1 << 20);
///
/// let request = RPC.frame(b"ping")?;
/// assert_eq!(request, b"\0\0\0\x04ping".as_slice());
///
/// let mut decoder = RPC;
/// let mut frames = decoder.frames(&request);
/// assert_eq!(frames.next(), Some(Ok(b"ping".as_slice())));
/// assert_eq!(frames.used(), 8);
/// # Ok::<(), unbroken::frame::EncodeError>(())
/// ```
///
/// Others, by name:
///
/// ```
/// # use unbroken::frame::LengthPrefix;
/// // DNS over TCP (RFC 1035, 4.2.2).
/// const DNS: LengthPrefix = LengthPrefix::be::<u16>();
/// // PostgreSQL: a type of one byte, then a length that counts itself but not the type.
/// const POSTGRES: LengthPrefix = LengthPrefix::be::<u32>().offset(1).includes_itself().keep_header();
/// // BGP (RFC 4271, 4.1): a marker of 16 bytes, then a length that counts all from the marker on.
/// const BGP: LengthPrefix = LengthPrefix::be::<u16>().offset(16).includes_itself().adjust(-16);
/// // MySQL: three bytes of length; the sequence number behind them is not counted.
/// const MYSQL: LengthPrefix = LengthPrefix::le::<[u8; 3]>().adjust(1);
/// // Protocol Buffers, one message behind the other.
/// const PROTOBUF: LengthPrefix = LengthPrefix::varint();
/// ```
///
/// A length that cannot be ends the division into frames, for nothing tells where the next one
/// begins: the error is told once, and everything that follows is used and skipped. What is left to
/// do is to send the answers to what came before, and to close.
#[derive(Clone, Debug)]
pub struct LengthPrefix {
    form: Form,
    includes_itself: bool,
    keep_header: bool,
    /// A length could not be: it has been told, and there are no frames any more.
    failed: bool,
    /// What was shown last ended inside a frame.
    unfinished: bool,
    offset: usize,
    adjust: i64,
    max: Option<usize>,
    /// What the next frame has to have before more can be said.
    needed: usize,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Big(u8),
    Little(u8),
    Varint,
}

/// The unsigned integers that a length can be: `u8`, `u16`, `u32`, `u64`, and `[u8; N]` for any
/// other number of bytes up to eight.
pub trait Width: sealed::Sealed {}

mod sealed {
    pub trait Sealed: Sized {}
}

macro_rules! widths {
    ($($width:ty)*) => {$(
        impl sealed::Sealed for $width {}
        impl Width for $width {}
    )*};
}

widths! { u8 u16 u32 u64 [u8; 1] [u8; 2] [u8; 3] [u8; 4] [u8; 5] [u8; 6] [u8; 7] [u8; 8] }

/// How long a frame is, as far as its front tells.
enum Measured {
    /// At least so long.
    AtLeast(usize),
    Exactly {
        header: usize,
        whole: usize,
    },
}

impl LengthPrefix {
    /// A big-endian length (network byte order): `be::<u32>()` is one of four bytes, `be::<[u8; 3]>()`
    /// one of three.
    pub const fn be<W: Width>() -> Self {
        Self::new(Form::Big(size_of::<W>() as u8))
    }

    /// A little-endian length.
    pub const fn le<W: Width>() -> Self {
        Self::new(Form::Little(size_of::<W>() as u8))
    }

    /// A length in LEB128: seven bits a byte, the lowest first, and all bytes but the last have the
    /// highest bit set. Forms that are longer than need be are taken; one of more than 64 bits is
    /// [`Malformed`](LengthErrorKind::Malformed).
    pub const fn varint() -> Self {
        Self::new(Form::Varint)
    }

    const fn new(form: Form) -> Self {
        let mut new = Self {
            form,
            includes_itself: false,
            keep_header: false,
            failed: false,
            unfinished: false,
            offset: 0,
            adjust: 0,
            max: None,
            needed: 0,
        };
        new.needed = new.least_header();
        new
    }

    /// The longest payload, in bytes and without the header. A longer one is an error, on either
    /// side. By default a frame of 65,537 bytes, header included, is the longest.
    ///
    /// [`max_read_buffer`](crate::Config::max_read_buffer) must be at least `max` and the header's
    /// length.
    #[must_use]
    pub const fn max(mut self, max: usize) -> Self {
        self.max = Some(max);
        self
    }

    /// The length counts its own field as well. What stands in front of the field is not counted:
    /// see [`adjust`](Self::adjust).
    #[must_use]
    pub const fn includes_itself(mut self) -> Self {
        self.includes_itself = true;
        self
    }

    /// So many bytes of the header stand in front of the length.
    #[must_use]
    pub const fn offset(mut self, bytes: usize) -> Self {
        self.offset = bytes;
        self.needed = self.least_header();
        self
    }

    /// What has to be added to the length to get the number of bytes that follow it: negative for a
    /// length that counts more than these, positive for one that counts less.
    #[must_use]
    pub const fn adjust(mut self, bytes: i64) -> Self {
        self.adjust = bytes;
        self
    }

    /// Frames are handed out whole, from the header's first byte on. `max` goes on to count without.
    #[must_use]
    pub const fn keep_header(mut self) -> Self {
        self.keep_header = true;
        self
    }

    /// The frames in `data`: what was left unused before, and what follows it.
    pub fn frames<'d>(&mut self, data: &'d [u8]) -> Frames<'_, 'd, Self> {
        Frames::new(self, data)
    }

    /// The next frame of `rest`, whose front is moved behind it. `None` when there is no whole frame;
    /// what is in `rest` then has to be shown again.
    ///
    /// # Errors
    ///
    /// A length that cannot be, once. All of `rest` is used then, and all that comes later.
    #[inline]
    pub fn next_in<'d>(&mut self, rest: &mut &'d [u8]) -> Option<Result<&'d [u8], LengthError>> {
        if self.failed {
            *rest = &[];
            return None;
        }
        let (header, whole) = match self.measure(rest) {
            Ok(Measured::Exactly { header, whole }) => (header, whole),
            Ok(Measured::AtLeast(length)) => (0, length),
            Err(error) => {
                *rest = &[];
                (self.failed, self.unfinished, self.needed) = (true, false, 0);
                return Some(Err(error));
            }
        };
        match rest.split_at_checked(whole) {
            Some((frame, after)) if header > 0 => {
                *rest = after;
                (self.unfinished, self.needed) = (false, self.least_header());
                Some(Ok(frame.get(if self.keep_header { 0 } else { header }..).unwrap_or_default()))
            }
            _ => {
                (self.unfinished, self.needed) = (!rest.is_empty(), whole);
                None
            }
        }
    }

    /// How many unused bytes there have to be before another look makes sense: the length of the
    /// next frame, or of its header while that is not known. What has come already counts. 0 after
    /// an error: there are no frames any more.
    pub const fn needed(&self) -> usize {
        self.needed
    }

    /// Whether what was shown last ended inside a frame. In [`on_eof`](crate::Handler::on_eof) it
    /// means that the peer's last frame was cut off.
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Makes a frame of a payload. With an [`offset`](Self::offset) the first so many bytes of
    /// `payload` are those that stand in front of the length, and do not count as payload.
    ///
    /// ```
    /// # use unbroken::frame::LengthPrefix;
    /// let postgres = LengthPrefix::be::<u32>().offset(1).includes_itself();
    /// // "Ready for query", idle.
    /// assert_eq!(postgres.frame(b"ZI")?, b"Z\0\0\0\x05I".as_slice());
    /// # Ok::<(), unbroken::frame::EncodeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the payload is longer than [`max`](Self::max), or its length cannot be written.
    pub fn frame(&self, payload: &[u8]) -> Result<Bytes, EncodeError> {
        let mut frame = Vec::with_capacity(payload.len().saturating_add(Field::MAX));
        self.frame_into(payload, &mut frame)?;
        Ok(frame.into())
    }

    /// Appends a frame to `out`, so that several can leave in one send.
    ///
    /// # Errors
    ///
    /// As [`frame`](Self::frame); `out` is left as it was.
    pub fn frame_into(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Some((front, payload)) = payload.split_at_checked(self.offset) else {
            return Err(EncodeError::TooShort { length: payload.len(), offset: self.offset });
        };
        if payload.len() > self.most() {
            return Err(EncodeError::TooLong { length: payload.len(), max: self.most() });
        }
        let field = self.field(payload.len())?;
        out.reserve(front.len() + field.as_slice().len() + payload.len());
        out.extend_from_slice(front);
        out.extend_from_slice(field.as_slice());
        out.extend_from_slice(payload);
        Ok(())
    }

    /// The longest payload.
    fn most(&self) -> usize {
        let field = match self.form {
            Form::Big(width) | Form::Little(width) => usize::from(width),
            Form::Varint => Field::MAX,
        };
        self.max.unwrap_or_else(|| (KEPT + 1).saturating_sub(self.offset).saturating_sub(field))
    }

    const fn least_header(&self) -> usize {
        let field = match self.form {
            Form::Big(width) | Form::Little(width) => width as usize,
            Form::Varint => 1,
        };
        self.offset.saturating_add(field)
    }

    fn measure(&self, data: &[u8]) -> Result<Measured, LengthError> {
        let from_field = data.get(self.offset..).unwrap_or_default();
        let (width, value) = match self.form {
            Form::Big(width) | Form::Little(width) => {
                let width = usize::from(width);
                let Some(bytes) = from_field.get(..width) else {
                    return Ok(Measured::AtLeast(self.least_header()));
                };
                let number = |value, byte: &u8| value << 8 | u64::from(*byte);
                (
                    width,
                    Some(match self.form {
                        Form::Little(_) => bytes.iter().rev().fold(0, number),
                        _ => bytes.iter().fold(0, number),
                    }),
                )
            }
            Form::Varint => {
                let last = from_field.iter().take(Field::MAX).position(|byte| byte & 0x80 == 0);
                if last.is_none() && from_field.len() < Field::MAX {
                    return Ok(Measured::AtLeast(self.least_header().saturating_add(from_field.len())));
                }
                (
                    last.map_or(Field::MAX, |last| last + 1),
                    last.and_then(|last| from_leb128(from_field.get(..=last)?)),
                )
            }
        };
        let error = |kind, length| {
            let field = from_field.iter().copied().take(width).collect();
            Err(LengthError { kind, field, length, max: self.most() })
        };
        let Some(value) = value else { return error(LengthErrorKind::Malformed, 0) };
        // 128 bits hold every sum.
        let itself = if self.includes_itself { width as i128 } else { 0 };
        let length = i128::from(value) + i128::from(self.adjust) - itself;
        if length < 0 {
            return error(LengthErrorKind::Negative, length);
        }
        let header = self.offset.saturating_add(width);
        let payload = usize::try_from(length).ok().filter(|payload| *payload <= self.most());
        // What is longer than the address space is longer than any limit.
        match payload.and_then(|payload| payload.checked_add(header)) {
            Some(whole) => Ok(Measured::Exactly { header, whole }),
            None => error(LengthErrorKind::TooLong, length),
        }
    }

    /// The length field in front of a payload.
    fn field(&self, payload: usize) -> Result<Field, EncodeError> {
        let value = payload as i128 - i128::from(self.adjust);
        let counted = |width: usize| value + if self.includes_itself { width as i128 } else { 0 };
        match self.form {
            Form::Big(width) | Form::Little(width) => {
                let width = usize::from(width);
                let value = counted(width);
                let fits = u64::try_from(value)
                    .ok()
                    .filter(|number| number.leading_zeros() as usize >= 64 - 8 * width);
                let Some(number) = fits else { return Err(EncodeError::OutOfRange { value }) };
                Ok(match self.form {
                    Form::Little(_) => number.to_le_bytes().into_iter().take(width).collect(),
                    _ => number.to_be_bytes().into_iter().skip(8 - width).collect(),
                })
            }
            Form::Varint => {
                // A length that counts itself can grow by a byte for that.
                let number = (1..=Field::MAX).find_map(|width| {
                    let number = u64::try_from(counted(width)).ok()?;
                    (leb128_width(number) == width).then_some(number)
                });
                match number {
                    Some(number) => Ok(to_leb128(number)),
                    None => Err(EncodeError::OutOfRange { value: counted(1) }),
                }
            }
        }
    }
}

/// Bytes of a number in LEB128.
fn leb128_width(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()).div_ceil(7).max(1) as usize
}

fn to_leb128(number: u64) -> Field {
    let width = leb128_width(number);
    let digits = (0..width).map(|place| (number >> (7 * place)) as u8 & 0x7f);
    digits.enumerate().map(|(place, digit)| if place + 1 < width { digit | 0x80 } else { digit }).collect()
}

/// The number, unless it has more than 64 bits.
fn from_leb128(bytes: &[u8]) -> Option<u64> {
    bytes.iter().rev().try_fold(0u64, |value, byte| Some(value.checked_mul(1 << 7)? | u64::from(byte & 0x7f)))
}
