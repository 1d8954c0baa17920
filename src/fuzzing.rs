//! The two buffers under any sequence of calls, each held against a plain vector: driven by `fuzz/`.

use std::io::IoSlice;

use bytes::Bytes;

use crate::read_buffer::ReadBuffer;
use crate::write_buffer::{WriteBuffer, GATHER};

#[cfg(feature = "tls")]
pub use session::session;

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

#[cfg(feature = "tls")]
mod session {
    use std::collections::VecDeque;
    use std::io::{self, ErrorKind, IoSlice, Write};
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, ServerConfig};

    use super::Input;
    use crate::tls::{Secured, Tls};
    use crate::transport::{LastHeard, Transport};

    /// What the peer sent, which comes in pieces, and what goes to it.
    #[derive(Debug, Default)]
    struct Wire {
        incoming: VecDeque<u8>,
        outgoing: Vec<u8>,
        piece: usize,
        ended: bool,
    }

    impl Transport for Wire {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = self.incoming.len().min(buf.len()).min(self.piece);
            if count == 0 {
                return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
            }
            for (place, byte) in buf.iter_mut().zip(self.incoming.drain(..count)) {
                *place = byte;
            }
            Ok(count)
        }

        fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let before = self.outgoing.len();
            slices.iter().for_each(|slice| self.outgoing.extend_from_slice(slice));
            Ok(self.outgoing.len() - before)
        }

        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn take_error(&mut self) -> io::Result<Option<io::Error>> {
            Ok(None)
        }

        fn unacknowledged(&self) -> Option<u64> {
            Some(0)
        }

        fn last_heard(&self) -> Option<LastHeard> {
            None
        }

        fn unread(&self) -> Option<usize> {
            Some(self.incoming.len())
        }

        fn short_read_empties(&self) -> bool {
            false
        }

        fn reset_on_close(&mut self) {}
    }

    /// A client of rustls talks to a session of ours; what it sends is cut, damaged and added to.
    ///
    /// # Panics
    ///
    /// When something is shown that the client did not send, or the session does not come to an end.
    pub fn session(data: &[u8], server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) {
        let mut input = Input(data);
        let Ok(session) = Tls::Server(server.clone()).session() else { return };
        let Ok(name) = ServerName::try_from("localhost") else { return };
        let Ok(mut peer) = ClientConnection::new(client.clone(), name) else { return };
        let mut ours = Secured::new(Wire::default(), session, 0, false);
        let (mut sent, mut came, mut buf) = (Vec::new(), 0, vec![0; 3000]);
        for _ in 0..60 {
            let (Some(op), Some(len)) = (input.byte(), input.length()) else { break };
            ours.below_mut().piece = 1 + len;
            if !peer.is_handshaking() && op % 3 == 0 {
                let plain: Vec<u8> = (sent.len()..sent.len() + len).map(|at| (at % 251) as u8).collect();
                sent.extend_from_slice(&plain);
                let _ = peer.writer().write_all(&plain);
            }
            let mut bytes = Vec::new();
            while peer.wants_write() && peer.write_tls(&mut bytes).is_ok() {}
            match op {
                200.. => {
                    let place = if bytes.is_empty() { 0 } else { len % bytes.len() };
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte ^= op;
                    }
                }
                190.. => bytes.extend((0..len).map(|at| (at as u8).wrapping_mul(op))),
                185.. => ours.below_mut().ended = true,
                _ => {}
            }
            ours.below_mut().incoming.extend(bytes);
            // A record of sixteen kilobytes in pieces of a byte each, at most.
            for _ in 0..100_000 {
                let is_open = ours.takes_data() && !ours.has_tail();
                let step = match ours.takes_data() {
                    false => ours.shake_hands(&mut buf).map(|_| 1),
                    true => ours.read(&mut buf),
                };
                match step {
                    Ok(0) => break,
                    Ok(count) if is_open && !ours.has_tail() => {
                        let shown = buf.get(..count).unwrap_or_default();
                        let is_sent = sent.get(came..).is_some_and(|rest| rest.starts_with(shown));
                        assert!(is_sent, "something was shown that was not sent");
                        came += count;
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let _ = ours.send_own();
            let answer = std::mem::take(&mut ours.below_mut().outgoing);
            let mut rest = answer.as_slice();
            while !rest.is_empty() && peer.read_tls(&mut rest).is_ok_and(|count| count > 0) {
                if peer.process_new_packets().is_err() {
                    return;
                }
            }
        }
    }
}
