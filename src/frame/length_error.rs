//! What can be wrong with a length.

use std::error::Error;
use std::fmt;

/// Why the rest of a stream cannot be divided into frames: its latest length is not one.
///
/// Where the next frame begins is unknown from then on, and mostly the peer speaks another protocol.
/// The text says what stood in place of the length; bytes that are printable are shown:
///
/// ```
/// use unbroken::frame::LengthPrefix;
///
/// let mut frames = LengthPrefix::be::<u32>().max(1 << 20);
/// let error = frames.next_in(&mut b"GET / HTTP/1.1\r\n".as_slice()).unwrap().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "a frame of 1195725856 bytes, at most 1048576 are allowed; as text its length reads \"GET \""
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthError {
    pub(super) kind: LengthErrorKind,
    pub(super) field: Field,
    /// The payload's length, as the decoder computed it.
    pub(super) length: i128,
    pub(super) max: usize,
}

/// The kinds of [`LengthError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LengthErrorKind {
    /// The frame would be longer than `max`.
    TooLong,
    /// The frame would have fewer than no bytes: the length does not even count what it must count.
    Negative,
    /// A varint that goes on after its tenth byte, or does not fit into 64 bits.
    Malformed,
}

impl LengthError {
    /// What is wrong.
    pub fn kind(&self) -> LengthErrorKind {
        self.kind
    }

    /// The bytes that stand where the length should.
    pub fn field(&self) -> &[u8] {
        self.field.as_slice()
    }
}

impl fmt::Display for LengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, length, max, .. } = self;
        match kind {
            LengthErrorKind::TooLong => write!(f, "a frame of {length} bytes, at most {max} are allowed")?,
            LengthErrorKind::Negative => write!(f, "a frame of {length} bytes")?,
            LengthErrorKind::Malformed => f.write_str("a length of more than 64 bits")?,
        }
        if self.field().iter().all(|byte| matches!(byte, b' '..=b'~')) {
            write!(f, "; as text its length reads \"{}\"", self.field().escape_ascii())?;
        }
        Ok(())
    }
}

impl Error for LengthError {}

/// Why a payload cannot be framed. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// It is longer than `max`: a peer that goes by the same rules would refuse it.
    TooLong {
        /// Its length.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// The length, adjusted, is negative or more than the field can hold.
    OutOfRange {
        /// What would have to stand in the field.
        value: i128,
    },
    /// It is shorter than what has to stand in front of the length.
    TooShort {
        /// Its length.
        length: usize,
        /// What [`offset`](crate::frame::LengthPrefix::offset) asks for.
        offset: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "a payload of {length} bytes, at most {max} are allowed")
            }
            Self::OutOfRange { value } => write!(f, "a length of {value} does not fit into its field"),
            Self::TooShort { length, offset } => {
                write!(f, "{length} bytes, where {offset} have to stand in front of the length")
            }
        }
    }
}

impl Error for EncodeError {}

/// The bytes of a length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Field {
    bytes: [u8; Field::MAX],
    len: u8,
}

impl Field {
    /// A varint of 64 bits has so many bytes at most.
    pub(super) const MAX: usize = 10;

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// More than fits is cut off.
impl FromIterator<u8> for Field {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        let mut field = Self::default();
        for (place, byte) in field.bytes.iter_mut().zip(bytes) {
            *place = byte;
            field.len += 1;
        }
        field
    }
}
