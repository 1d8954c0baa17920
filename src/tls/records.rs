//! What a simulated kernel makes of the bytes of a toy session that pass by in one direction: which
//! plaintext is in them, and where it is whole.

use super::toy::{DATA, END, HEADER, TAG};

#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Bytes of the stream that have passed by, and plaintext in them, that of the present record included.
    wire: u64,
    plain: u64,
    /// Up to here the stream is plaintext: it is older than the session.
    clear: u64,
    header: Vec<u8>,
    /// Bytes of the present record behind its header: of its body, and of its tag.
    body: usize,
    tag: usize,
    /// Where each record that carries plaintext ended, and how much there had been up to there.
    ends: Vec<(u64, u64)>,
    /// Where the record ended that ends the session.
    ended: Option<u64>,
}

impl Records {
    /// From `wire` bytes of the stream on, all of them plaintext; the next `clear` bytes still are.
    pub(crate) fn new(wire: u64, clear: u64) -> Self {
        Self { wire, plain: wire, clear: wire + clear, ..Self::default() }
    }

    /// Bytes pass by. Returns the plaintext in them.
    pub(crate) fn feed(&mut self, bytes: impl Iterator<Item = u8>) -> Vec<u8> {
        let mut plain = Vec::new();
        for byte in bytes {
            self.wire += 1;
            if self.wire <= self.clear {
                plain.push(byte);
                continue;
            }
            if self.body > 0 {
                self.body -= 1;
                if self.header.first() == Some(&DATA) {
                    plain.push(!byte);
                }
            } else if self.tag > 0 {
                self.tag -= 1;
                if self.tag == 0 {
                    self.end_record(self.plain + plain.len() as u64);
                }
            } else {
                self.header.push(byte);
                if let [_, a, b, c, d] = *self.header.as_slice() {
                    (self.body, self.tag) = (u32::from_be_bytes([a, b, c, d]) as usize, TAG);
                }
            }
        }
        self.plain += plain.len() as u64;
        plain
    }

    fn end_record(&mut self, plain: u64) {
        match self.header.first() {
            Some(&DATA) => self.ends.push((self.wire, plain)),
            Some(&END) => self.ended = self.ended.or(Some(self.wire)),
            _ => {}
        }
        self.header.clear();
    }

    /// Plaintext that has passed by, whether its record is whole or not.
    pub(crate) fn plain(&self) -> u64 {
        self.plain
    }

    /// Plaintext of whole records in the first `wire` bytes of the stream.
    pub(crate) fn whole(&self, wire: u64) -> u64 {
        if wire <= self.clear {
            return wire;
        }
        let count = self.ends.partition_point(|(end, _)| *end <= wire);
        let last = count.checked_sub(1).and_then(|last| self.ends.get(last));
        last.map_or(self.clear, |(_, plain)| *plain)
    }

    /// Whether the session ended within the first `wire` bytes.
    pub(crate) fn has_ended(&self, wire: u64) -> bool {
        self.ended.is_some_and(|ended| ended <= wire)
    }
}

const _: () = assert!(HEADER == 5 && TAG > 0);
