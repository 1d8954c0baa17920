//! The language of the soak: frames whose every byte both sides can foretell.
//!
//! A frame is a header of eight bytes (kind, length, tag) and a payload, which is a piece of one
//! table of noise that begins where the tag says. An answer that is cut, swapped with another, or
//! sent to the wrong client differs in its tag or in its payload.

use std::sync::LazyLock;

use unbroken::Bytes;

pub const HEADER: usize = 8;

/// The longest payload.
pub const LONGEST: usize = 256 << 10;

/// Where in the table a payload may begin.
const STARTS: usize = 64 << 10;

static TABLE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut rng = Rng::new(0);
    let words = (STARTS + LONGEST) / 8;
    (0..words).flat_map(|_| rng.next().to_le_bytes()).collect::<Vec<u8>>().into()
});

/// What a frame asks for, or is the answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Is sent back as it came.
    Echo,
    /// The same, but by another thread of the server, through a `Handle`.
    Remote,
    /// Has no payload of its own; the answer has one of the length it names.
    Push,
    /// The same, but the server does not heed its full queue.
    Heedless,
    /// Is swallowed.
    Sink,
    /// From now on broadcasts are wanted.
    Join,
    /// A broadcast. The tags count up.
    Broadcast,
    /// The server is to close the connection.
    Close,
}

const KINDS: [(u8, Kind); 8] = [
    (b'E', Kind::Echo),
    (b'R', Kind::Remote),
    (b'P', Kind::Push),
    (b'H', Kind::Heedless),
    (b'S', Kind::Sink),
    (b'J', Kind::Join),
    (b'B', Kind::Broadcast),
    (b'C', Kind::Close),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub len: usize,
    pub tag: u32,
}

impl Frame {
    pub fn header(self) -> [u8; HEADER] {
        let letter = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or(0, |(letter, _)| *letter);
        let [_, len @ ..] = (self.len as u32).to_be_bytes();
        let tag = self.tag.to_be_bytes();
        [letter, len[0], len[1], len[2], tag[0], tag[1], tag[2], tag[3]]
    }

    pub fn parse(header: [u8; HEADER]) -> Option<Self> {
        let [letter, l0, l1, l2, tag @ ..] = header;
        let (_, kind) = KINDS.iter().find(|(known, _)| *known == letter)?;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        (len <= LONGEST).then_some(Self { kind: *kind, len, tag: u32::from_be_bytes(tag) })
    }

    /// Bytes of payload behind the header, on the way from the client.
    pub fn asked(self) -> usize {
        match self.kind {
            Kind::Echo | Kind::Remote | Kind::Sink => self.len,
            _ => 0,
        }
    }

    /// The payload, by reference to the table.
    pub fn payload(self) -> Bytes {
        let start = self.tag as usize % STARTS;
        TABLE.slice(start..start + self.len)
    }

    /// The payload's bytes from `from` on, at most `len` of them.
    fn part(self, from: usize, len: usize) -> &'static [u8] {
        let start = self.tag as usize % STARTS + from;
        TABLE.get(start..start + len.min(self.len - from)).unwrap_or_default()
    }

    /// What remains to be written of the frame when `written` bytes of it are: header and payload.
    pub fn rest(self, header: &[u8; HEADER], written: usize) -> [&[u8]; 2] {
        let payload = written.saturating_sub(HEADER);
        let rest = self.asked().saturating_sub(payload);
        [header.get(written..).unwrap_or_default(), self.part(payload.min(self.len), rest)]
    }
}

/// Takes a stream apart into frames and compares the payloads.
#[derive(Default)]
pub struct Checker {
    header: [u8; HEADER],
    have: usize,
    frame: Option<Frame>,
    /// Bytes of the present frame's payload that have been compared.
    compared: usize,
}

impl Checker {
    /// Whether the stream stands between two frames.
    pub fn is_whole(&self) -> bool {
        self.have == 0 && self.frame.is_none()
    }

    /// Compares `data`, the next bytes of the stream. `expected` judges each header; the error
    /// says what is wrong.
    pub fn feed(
        &mut self,
        mut data: &[u8],
        mut expected: impl FnMut(Frame) -> Result<(), String>,
    ) -> Result<(), String> {
        while !data.is_empty() {
            let Some(frame) = self.frame else {
                let part = data.len().min(HEADER - self.have);
                self.header[self.have..self.have + part].copy_from_slice(&data[..part]);
                self.have += part;
                data = &data[part..];
                if self.have == HEADER {
                    self.have = 0;
                    let frame =
                        Frame::parse(self.header).ok_or_else(|| format!("no frame: {:?}", self.header))?;
                    expected(frame)?;
                    self.frame = (frame.len > 0).then_some(frame);
                    self.compared = 0;
                }
                continue;
            };
            let wanted = frame.part(self.compared, data.len());
            if data.get(..wanted.len()) != Some(wanted) {
                return Err(format!("the payload of {frame:?} differs behind byte {}", self.compared));
            }
            self.compared += wanted.len();
            data = &data[wanted.len()..];
            if self.compared == frame.len {
                self.frame = None;
            }
        }
        Ok(())
    }
}

/// Numbers that look random and come again with the same seed: splitmix64.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of at least `least` and at most `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }
}
