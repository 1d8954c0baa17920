//! Frames of 64 bytes, put together again when the stream has cut them.

pub const FRAME: usize = 64;

/// What stands in a run of frames.
pub enum Run<'a> {
    /// One frame: its sender wants to be a subscriber.
    Subscribe(&'a [u8]),
    /// One frame or more, one behind the other, for all subscribers.
    Publish(&'a [u8]),
}

/// Cuts whole frames into runs of one kind, as long as they can be.
pub fn runs(frames: &[u8]) -> impl Iterator<Item = Run<'_>> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let subscribe = *rest.first()? == b'S';
        let count = match subscribe {
            true => 1,
            false => rest.chunks(FRAME).take_while(|frame| frame[0] != b'S').count(),
        };
        let (run, after) = rest.split_at(rest.len().min(count * FRAME));
        rest = after;
        Some(if subscribe { Run::Subscribe(run) } else { Run::Publish(run) })
    })
}

/// The frame at the end of what came that is not whole yet.
#[derive(Default)]
pub struct Rest(Vec<u8>);

impl Rest {
    /// The whole frames in what was left over and `data`. What remains is left over for the next
    /// time. When nothing was or is left over, as is usual, nothing is copied.
    pub fn complete<'a>(&mut self, data: &'a [u8], joined: &'a mut Vec<u8>) -> &'a [u8] {
        let data = if self.0.is_empty() {
            data
        } else {
            joined.clear();
            joined.append(&mut self.0);
            joined.extend_from_slice(data);
            joined.as_slice()
        };
        let (whole, rest) = data.split_at(data.len() - data.len() % FRAME);
        self.0.extend_from_slice(rest);
        whole
    }
}
