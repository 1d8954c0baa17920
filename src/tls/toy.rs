//! A session of fixed sizes, for tests and simulations: a header of five bytes, the plaintext with each
//! byte turned over, a tag of seventeen. Its handshake is one record from the client, two from the server,
//! one from the client.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::session::{Session, TlsInfo};
use crate::close::{Alert, Side};
use crate::transport::SessionError;

pub(crate) const HEADER: usize = 5;
pub(crate) const TAG: usize = 17;

/// Plaintext in a record at most.
const MOST: usize = 16 << 10;

/// Kinds of records.
const HELLO: u8 = 1;
pub(crate) const DATA: u8 = 2;
pub(crate) const END: u8 = 3;
const ALERT: u8 = 4;

#[derive(Debug)]
pub(crate) struct Toy {
    is_client: bool,
    /// Records of the peer's handshake that are still to come.
    awaited: usize,
    incoming: Vec<u8>,
    opened: VecDeque<u8>,
    outgoing: VecDeque<u8>,
    ended: bool,
    failed: bool,
}

impl Toy {
    pub(crate) fn client() -> Self {
        let mut toy = Self::of(true, 2);
        toy.record(HELLO, &[7; 40]);
        toy
    }

    pub(crate) fn server() -> Self {
        Self::of(false, 2)
    }

    fn of(is_client: bool, awaited: usize) -> Self {
        Self {
            is_client,
            awaited,
            incoming: Vec::new(),
            opened: VecDeque::new(),
            outgoing: VecDeque::new(),
            ended: false,
            failed: false,
        }
    }

    fn record(&mut self, kind: u8, body: &[u8]) {
        self.outgoing.push_back(kind);
        self.outgoing.extend((body.len() as u32).to_be_bytes());
        self.outgoing.extend(body.iter().map(|byte| !byte));
        self.outgoing.extend([0xAA; TAG]);
    }

    /// The first whole record, if there is one; of one that is too long, its header.
    fn take_record(&mut self) -> Option<(u8, Vec<u8>, bool)> {
        let (header, rest) = self.incoming.split_first_chunk::<HEADER>()?;
        let [kind, a, b, c, d] = *header;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > MOST {
            return Some((kind, Vec::new(), false));
        }
        let body = rest.get(..len)?.iter().map(|byte| !byte).collect();
        let is_sound = rest.get(len..len + TAG)? == [0xAA; TAG];
        self.incoming.drain(..HEADER + len + TAG);
        Some((kind, body, is_sound))
    }

    fn fail(&mut self, by: Side, code: u8) -> SessionError {
        if by == Side::Local && !std::mem::replace(&mut self.failed, true) {
            self.record(ALERT, &[code]);
        }
        self.failed = true;
        SessionError { alert: Some(Alert { by, code }), text: "the toy is broken".into() }
    }

    fn take_in(&mut self, kind: u8, body: &[u8]) -> Result<(), SessionError> {
        match kind {
            HELLO if self.awaited > 0 => {
                self.awaited -= 1;
                match (self.is_client, self.awaited) {
                    (true, 0) => self.record(HELLO, &[9; 30]),
                    (false, 1) => {
                        self.record(HELLO, &[8; 90]);
                        self.record(HELLO, &[8; 300]);
                    }
                    _ => {}
                }
                Ok(())
            }
            DATA if self.awaited == 0 => {
                self.opened.extend(body);
                Ok(())
            }
            END => {
                self.ended = true;
                Ok(())
            }
            ALERT => Err(self.fail(Side::Peer, body.first().copied().unwrap_or(0))),
            _ => Err(self.fail(Side::Local, 10)),
        }
    }
}

impl Session for Toy {
    fn absorb(&mut self, raw: &[u8]) -> Result<usize, SessionError> {
        if self.failed {
            return Err(self.fail(Side::Local, 10));
        }
        let mut count = 0;
        while count < raw.len() && self.opened.len() < MOST && !self.ended {
            let part = raw.get(count..raw.len().min(count + 1000)).unwrap_or_default();
            self.incoming.extend_from_slice(part);
            count += part.len();
            while let Some((kind, body, is_sound)) = self.take_record() {
                match is_sound {
                    true => self.take_in(kind, &body)?,
                    false => return Err(self.fail(Side::Local, 20)),
                }
            }
        }
        Ok(if self.ended { raw.len() } else { count })
    }

    fn open(&mut self, plain: &mut [u8]) -> usize {
        let count = self.opened.len().min(plain.len());
        for (place, byte) in plain.iter_mut().zip(self.opened.drain(..count)) {
            *place = byte;
        }
        count
    }

    fn opened(&self) -> usize {
        self.opened.len()
    }

    fn seal(&mut self, plain: &[IoSlice<'_>], skip: usize, most: usize) -> usize {
        let bytes = plain.iter().flat_map(|slice| slice.iter().copied());
        let body: Vec<u8> = bytes.skip(skip).take(most).collect();
        self.record(DATA, &body);
        body.len()
    }

    fn end(&mut self) {
        self.record(END, &[]);
    }

    fn sealed(&self) -> usize {
        self.outgoing.len()
    }

    fn transmit(&mut self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let (front, back) = self.outgoing.as_slices();
        let sent = send(&[IoSlice::new(front), IoSlice::new(back)])?;
        self.outgoing.drain(..sent);
        Ok(sent)
    }

    fn is_handshaking(&self) -> bool {
        self.awaited > 0
    }

    fn is_ended(&self) -> bool {
        self.ended && self.opened.is_empty()
    }

    fn info(&self) -> Option<TlsInfo> {
        None
    }

    #[cfg(feature = "sim")]
    fn is_toy(&self) -> bool {
        true
    }
}
