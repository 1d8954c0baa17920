//! What a program does with its connections.

use std::io;
use std::process::ExitStatus;

use bytes::Bytes;

use crate::close::CloseReport;
use crate::connection::Via;
use crate::id::{ChildId, ConnId, ListenerId, TimerId, WatchId};
use crate::net::{Net, Ready};

/// What a program does with its connections: the reactor calls, the program answers through [`Net`].
///
/// Only [`on_data`](Self::on_data) must be written. The rules:
///
/// 1. A call of [`Net`] never calls back: callbacks do not nest.
/// 2. [`on_close`](Self::on_close) comes exactly once for every [`ConnId`] ever handed out, and
///    nothing for that id comes after it. After `close` or `abort` no `on_data` comes.
/// 3. An id is never confused with a later one.
/// 4. A send takes all of the bytes or none, and never blocks.
/// 5. [`on_drain`](Self::on_drain) comes once each time a queue falls from high to low water.
/// 6. A handler that panics leaves the reactor usable.
/// 7. What is sent to a connection that is still connecting is queued.
pub trait Handler {
    /// A connection is open: a client came in, or a call of [`Net::connect`] succeeded.
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        let _ = (net, conn, via);
    }

    /// Bytes came in. Returns how many of them were used; the rest is kept, and shown again in
    /// front of what follows. A number greater than `data.len()` means all.
    ///
    /// Unused bytes are also shown again, without anything new, after
    /// [`resume_reading`](Net::resume_reading) and after [`on_drain`](Self::on_drain): a handler
    /// that stops halfway because it cannot answer more goes on there. Leaving more than
    /// [`max_read_buffer`](crate::Config::max_read_buffer) unused ends the connection.
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize;

    /// The peer finished sending. It may well be waiting for an answer: the default closes, which
    /// sends what is queued first. While input that `on_data` left unused is held back by a pause or a
    /// full queue, the end waits behind it. What is still unused now will not be completed and is shown no
    /// more: [`Net::unused`] gives it, an unfinished last line for one, and after this callback it is gone.
    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        net.close(conn);
    }

    /// The connection's queue, which had reached high water, fell to low water.
    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        let _ = (net, conn);
    }

    /// A timer fired.
    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        let _ = (net, timer);
    }

    /// The deadline that [`Net::set_deadline`] gave this connection has passed, and whatever came in by
    /// then was delivered. It is gone: set another to be called again. The default closes the connection.
    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        net.close(conn);
    }

    /// A shutdown was asked for, and everybody is about to be closed: what is sent from here still
    /// goes out before. It comes once.
    fn on_shutdown(&mut self, net: &mut Net) {
        let _ = net;
    }

    /// A message came: from the handler of another reactor of the group, which `from` names, or from outside
    /// ([`GroupHandle::broadcast`](crate::GroupHandle::broadcast)). Those of one sender come in their order.
    fn on_message(&mut self, net: &mut Net, from: Option<usize>, message: Bytes) {
        let _ = (net, from, message);
    }

    /// Another thread called [`Handle::wake`](crate::Handle::wake).
    fn on_wake(&mut self, net: &mut Net) {
        let _ = net;
    }

    /// A send from another thread, taken by [`Handle::send`](crate::Handle::send), could not be
    /// queued: the connection closed in the meantime, or a cap would have been passed. Nothing of
    /// `data` was sent. It comes before the connection's `on_close`.
    fn on_refused(&mut self, net: &mut Net, conn: ConnId, data: Bytes) {
        let _ = (net, conn, data);
    }

    /// A listener failed for good and is gone; the connections it brought are not touched.
    fn on_listener_error(&mut self, net: &mut Net, listener: ListenerId, error: &io::Error) {
        let _ = (net, listener, error);
    }

    /// A child that [`Net::spawn`](crate::Net::spawn) started has ended, and has been waited for. Its connection
    /// has an end of its own, before this or after: what it wrote last is still delivered, and a grandchild may
    /// hold its output open.
    fn on_exit(&mut self, net: &mut Net, child: ChildId, status: ExitStatus) {
        let _ = (net, child, status);
    }

    /// A descriptor that [`Net::watch`](crate::Net::watch) watches is ready for something that was asked for. It
    /// comes again in the next turn for as long as that is so.
    fn on_ready(&mut self, net: &mut Net, watch: WatchId, ready: Ready) {
        let _ = (net, watch, ready);
    }

    /// A connection has ended; the report says why, and what became of every byte. It also comes
    /// for a connection that never opened: a `connect` that failed, a client that was refused.
    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        let _ = (net, conn, report);
    }
}
