//! Bytes that the handler has been shown and has not used.

/// Input kept for the next [`on_data`](crate::Handler::on_data). It owns no memory while empty.
///
/// Invariant: `start` is at most the length of `bytes`, and both are 0 when nothing is kept.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    /// Bytes at the front that have been used.
    start: usize,
}

impl ReadBuffer {
    /// Bytes kept.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is kept, oldest first.
    pub(crate) fn view(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Keeps `data` after what is kept already.
    pub(crate) fn append(&mut self, data: &[u8]) {
        // Used bytes are dropped when they outweigh the rest: each byte is moved once on average.
        if self.start > self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    /// Forgets the first `count` bytes: the handler has used them.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.is_empty() {
            *self = Self::default();
        } else if self.bytes.capacity() > 4 * self.len().max(1024) {
            self.bytes = self.view().to_vec();
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // N4
    #[test]
    fn an_emptied_buffer_owns_no_memory() {
        let mut buffer = ReadBuffer::default();
        buffer.append(&[1; 1 << 20]);
        buffer.consume((1 << 20) - 1);
        assert_eq!(buffer.view(), [1]);
        buffer.consume(1);
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn using_more_than_there_is_uses_all() {
        let mut buffer = ReadBuffer::default();
        buffer.append(b"abc");
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
    }

    #[test]
    fn used_bytes_do_not_pile_up() {
        let mut buffer = ReadBuffer::default();
        for _ in 0..1000 {
            buffer.append(&[0; 1000]);
            buffer.consume(if buffer.len() > 1000 { 1000 } else { 0 });
        }
        assert_eq!(buffer.len(), 1000);
        assert!(buffer.bytes.capacity() < 16_000);
    }

    proptest! {
        #[test]
        fn every_byte_is_shown_until_it_is_used(
            steps in proptest::collection::vec((0usize..200, 0usize..200), 1..60)
        ) {
            let mut buffer = ReadBuffer::default();
            let (mut appended, mut used) = (0usize, 0usize);
            for (add, take) in steps {
                let data: Vec<u8> = (appended..appended + add).map(|i| (i % 251) as u8).collect();
                buffer.append(&data);
                appended += add;
                let expected: Vec<u8> = (used..appended).map(|i| (i % 251) as u8).collect();
                prop_assert_eq!(buffer.view(), expected);
                let take = take.min(buffer.len());
                buffer.consume(take);
                used += take;
                prop_assert_eq!(buffer.len(), appended - used);
            }
        }
    }
}
