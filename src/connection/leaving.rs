//! A connection that moves: what goes along with its descriptor, out of one reactor and into another.

use bytes::Bytes;

use super::{Connection, Context, State, Via, UNKNOWN};
use crate::close::CloseReason;
use crate::read_buffer::ReadBuffer;
use crate::send::Data;
use crate::transport::Transport;

/// What a connection that moves has with it besides its socket.
#[derive(Debug, Default)]
pub(crate) struct Luggage {
    /// Input that was received and not used.
    pub(crate) unread: Vec<u8>,
    /// Output that was not handed to the kernel.
    pub(crate) unsent: Vec<Bytes>,
    /// Our stream is to end behind that.
    pub(crate) write_closed: bool,
    pub(crate) received: u64,
    pub(crate) handed: u64,
}

impl Connection {
    /// Established or about to be, but taken in from elsewhere: the handler has not been told.
    pub(crate) fn is_arriving(&self) -> bool {
        self.state == State::Connecting && self.origin.via() != Via::Connect
    }

    /// Whether it is in a state that another reactor could go on from: open in one direction at least, with
    /// nothing lost, and without a session that only this process knows.
    pub(crate) fn may_leave(&self) -> bool {
        self.is_delivering() && !self.is_broken() && !self.secured()
    }

    /// Ends here in order to go on elsewhere.
    pub(crate) fn leave<T: Transport>(&mut self, socket: &T, cx: &mut Context<'_>) -> Luggage {
        self.unacked = self.unacked_now(socket).unwrap_or(UNKNOWN);
        let unread = std::mem::take(&mut self.input).view().to_vec();
        let mut unsent = Vec::new();
        if let Some(mut out) = self.out.take() {
            self.unsent += out.len() as u64;
            unsent = out.take_all();
            cx.pool.give(out);
        }
        self.waiting = false;
        self.set_congested(false);
        self.set_drain_due(false);
        self.state = State::Dead;
        self.reason = Some(CloseReason::Detached);
        let (received, handed) = (self.received, self.handed);
        Luggage { unread, unsent, write_closed: self.fin_wanted(), received, handed }
    }

    /// Arrived from elsewhere: what it has with it comes before anything new. It was within somebody's caps
    /// before, and is not refused here.
    pub(crate) fn unpack<T: Transport>(&mut self, luggage: Luggage, socket: &mut T, cx: &mut Context<'_>) {
        if !luggage.unread.is_empty() {
            let mut input = ReadBuffer::default();
            input.append(&luggage.unread);
            self.input = input;
            self.set_show_again(true);
        }
        for bytes in luggage.unsent {
            self.push(Data::Shared(bytes), socket, cx);
        }
        self.set_fin_wanted(luggage.write_closed);
    }
}
