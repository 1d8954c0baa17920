//! The two buffers under any sequence of calls, each held against a plain vector: driven by `fuzz/`.

use std::io::IoSlice;

use bytes::Bytes;

use crate::read_buffer::ReadBuffer;
use crate::write_buffer::{WriteBuffer, GATHER};

/// Takes numbers out of the input of a fuzzer.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Mostly small; often next to where something changes (a chunk begins with 64 bytes, ends with
    /// 4,096, and from 512 on bytes are shared); now and then larger than a chunk.
    fn length(&mut self) -> Option<usize> {
        let byte = usize::from(self.byte()?);
        Some(match byte {
            0..160 => byte,
            160..220 => {
                let edges = [64, 128, 256, 512, 1024, 2048, 4096, 4096 - 64, 4096 - 512, 8192];
                edges[(byte - 160) / 6] + (byte - 160) % 6 - 3
            }
            _ => (byte - 220) * 600,
        })
    }
}

fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|place| (place % 251) as u8).collect()
}

/// Queues, gathers and advances as the input says.
///
/// # Panics
///
/// When the buffer and the model differ.
#[allow(clippy::panic)]
pub fn write_buffer(data: &[u8]) {
    let (mut input, mut buffer, mut model, mut pushed) = (Input(data), WriteBuffer::default(), Vec::new(), 0);
    while let (Some(op), Some(len)) = (input.byte(), input.length()) {
        match op % 5 {
            0 | 1 => {
                let piece = pattern(pushed, len);
                pushed += len;
                model.extend_from_slice(&piece);
                match op % 5 {
                    0 => buffer.push_copy(&piece),
                    _ => buffer.push_shared(Bytes::from(piece)),
                }
            }
            2 | 3 => {
                let mut slices = [IoSlice::new(&[]); GATHER];
                let filled = buffer.gather(&mut slices, len);
                let front: Vec<u8> =
                    slices.iter().take(filled).flat_map(|slice| slice.iter().copied()).collect();
                assert!(front.len() <= len && model.starts_with(&front), "gathered something else");
                assert!(len == 0 || model.is_empty() || !front.is_empty(), "nothing gathered");
                if let Some(only) = buffer.only_slice(len) {
                    assert_eq!(only, front);
                }
                let taken = if op % 5 == 2 { front.len() } else { front.len() / 2 };
                buffer.advance(taken);
                model.drain(..taken);
            }
            _ if len % 7 == 0 => {
                assert_eq!(buffer.clear(), model.len());
                model.clear();
            }
            _ => {}
        }
        assert_eq!((buffer.len(), buffer.is_empty()), (model.len(), model.is_empty()));
        let mut slices = [IoSlice::new(&[]); GATHER];
        let filled = buffer.gather(&mut slices, usize::MAX);
        let mut rest = model.as_slice();
        for slice in slices.iter().take(filled) {
            assert!(!slice.is_empty() && rest.starts_with(slice), "something else is queued");
            rest = &rest[slice.len()..];
        }
        assert!(filled == GATHER || rest.is_empty(), "something is missing");
    }
}

/// Appends, views and consumes as the input says.
///
/// # Panics
///
/// When the buffer and the model differ.
#[allow(clippy::panic)]
pub fn read_buffer(data: &[u8]) {
    let (mut input, mut buffer, mut model, mut came) = (Input(data), ReadBuffer::default(), Vec::new(), 0);
    while let (Some(op), Some(len)) = (input.byte(), input.length()) {
        match op % 2 {
            0 => {
                let piece = pattern(came, len);
                came += len;
                model.extend_from_slice(&piece);
                buffer.append(&piece);
            }
            _ => {
                buffer.consume(len);
                model.drain(..len.min(model.len()));
            }
        }
        assert_eq!((buffer.view(), buffer.len()), (model.as_slice(), model.len()));
    }
}
