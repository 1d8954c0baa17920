//! Counters of a reactor.

use std::time::Duration;

use crate::close::CloseReason;

/// What a reactor has done since it was made, and how it stands now. Counts only grow; what may
/// fall is marked "now".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted, those turned away at `max_connections` included.
    pub accepted: u64,
    /// Connections asked for with `connect`.
    pub connects: u64,
    /// Clients accepted here and handed to another reactor of the group.
    pub handed_out: u64,
    /// Connections taken in that were made elsewhere.
    pub adopted: u64,
    /// Connections handed to `on_open`.
    pub opened: u64,
    /// Connections ended, for whatever reason; each had its `on_close`.
    pub closed: u64,
    /// Connections alive now, those connecting and closing included.
    pub connections: usize,
    /// Connections now in the course of closing.
    pub closing: usize,
    /// Connections whose TLS handshake is under way now.
    pub handshaking: usize,
    /// TLS handshakes done.
    pub handshakes: u64,
    /// TLS handshakes that failed: nothing was agreed on, or somebody objected to something.
    pub handshake_failures: u64,
    /// Clients turned away in the middle of a handshake that got nowhere, when there was no other place
    /// for the next.
    pub handshakes_shed: u64,
    /// Connections now congested.
    pub congested: usize,
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes handed to the kernel.
    pub bytes_out: u64,
    /// Reads that brought bytes or the end of a stream.
    pub reads: u64,
    /// Writes of which the kernel took at least a byte.
    pub writes: u64,
    /// Writes of which the kernel took only a part.
    pub partial_writes: u64,
    /// Writes that were put off because the kernel's buffer was full (EAGAIN).
    pub write_eagains: u64,
    /// Reads that found nothing (EAGAIN).
    pub read_eagains: u64,
    /// Queues whose sending was taken up again after it had been put off.
    pub resumed_writes: u64,
    /// Bytes queued now, in all connections together.
    pub queued: usize,
    /// Bytes now that handlers left unused, in all connections together.
    pub unused: usize,
    /// The most bytes that were ever queued.
    pub queued_peak: usize,
    /// Sends that met a cap.
    pub overflows: u64,
    /// Sends to identifiers that no longer, or not any more, take any.
    pub stale_sends: u64,
    /// Events of the kernel for connections or listeners that were gone.
    pub stale_events: u64,
    /// Errors of `accept` that cost one client or none.
    pub accept_errors: u64,
    /// Times accepting was put off for want of file descriptors or memory.
    pub accept_pauses: u64,
    /// Clients turned away with the reserved file descriptor.
    pub shed: u64,
    /// Commands from other threads carried out.
    pub commands: u64,
    /// Turns made.
    pub turns: u64,
    /// The longest turn, the wait for events not counted.
    pub longest_turn: Duration,
    pub(crate) closed_by: [u64; CloseReason::COUNT],
}

impl Stats {
    /// Connections that ended for `reason`.
    pub fn closed_by(&self, reason: CloseReason) -> u64 {
        self.closed_by.get(reason.index()).copied().unwrap_or(0)
    }

    /// Adds those of another reactor.
    pub(crate) fn add(&mut self, other: &Self) {
        // All by name: none that is added later is forgotten.
        let Self {
            accepted,
            connects,
            handed_out,
            adopted,
            opened,
            closed,
            connections,
            closing,
            handshaking,
            handshakes,
            handshake_failures,
            handshakes_shed,
            congested,
            bytes_in,
            bytes_out,
            reads,
            writes,
            partial_writes,
            write_eagains,
            read_eagains,
            resumed_writes,
            queued,
            unused,
            queued_peak,
            overflows,
            stale_sends,
            stale_events,
            accept_errors,
            accept_pauses,
            shed,
            commands,
            turns,
            longest_turn,
            closed_by,
        } = self;
        for (sum, part) in [
            (accepted, other.accepted),
            (connects, other.connects),
            (handed_out, other.handed_out),
            (adopted, other.adopted),
            (opened, other.opened),
            (closed, other.closed),
            (handshakes, other.handshakes),
            (handshake_failures, other.handshake_failures),
            (handshakes_shed, other.handshakes_shed),
            (bytes_in, other.bytes_in),
            (bytes_out, other.bytes_out),
            (reads, other.reads),
            (writes, other.writes),
            (partial_writes, other.partial_writes),
            (write_eagains, other.write_eagains),
            (read_eagains, other.read_eagains),
            (resumed_writes, other.resumed_writes),
            (overflows, other.overflows),
            (stale_sends, other.stale_sends),
            (stale_events, other.stale_events),
            (accept_errors, other.accept_errors),
            (accept_pauses, other.accept_pauses),
            (shed, other.shed),
            (commands, other.commands),
            (turns, other.turns),
        ] {
            *sum += part;
        }
        for (sum, part) in [
            (connections, other.connections),
            (closing, other.closing),
            (handshaking, other.handshaking),
            (congested, other.congested),
            (queued, other.queued),
            (unused, other.unused),
            (queued_peak, other.queued_peak),
        ] {
            *sum += part;
        }
        *longest_turn = other.longest_turn.max(*longest_turn);
        for (sum, part) in closed_by.iter_mut().zip(other.closed_by) {
            *sum += part;
        }
    }

    pub(crate) fn count_close(&mut self, reason: CloseReason) {
        self.closed += 1;
        if let Some(count) = self.closed_by.get_mut(reason.index()) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_close_is_counted_under_its_reason() {
        let mut stats = Stats::default();
        for reason in CloseReason::ALL {
            stats.count_close(reason);
        }
        stats.count_close(CloseReason::Reset);
        assert_eq!(stats.closed, CloseReason::COUNT as u64 + 1);
        assert_eq!(stats.closed_by(CloseReason::Reset), 2);
        assert_eq!(stats.closed_by(CloseReason::Finished), 1);
    }
}
