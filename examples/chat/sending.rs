//! Lines on their way to clients, and what becomes of one that does not take them.

use std::time::SystemTime;

use unbroken::{Bytes, CloseReason, ConnId, Net};

use crate::caps::SERVER_TIME;
use crate::irc;
use crate::server::Chat;
use crate::state::UserId;
use crate::wire::{encode, Line};

impl Chat {
    /// Sends one line to one connection.
    pub fn send(&self, net: &mut Net, conn: ConnId, line: &str) {
        self.send_with(net, conn, (self.clock)(), "", line);
    }

    /// The same with tags; the time is put before them for who wants it.
    pub fn send_with(&self, net: &mut Net, conn: ConnId, time: SystemTime, tags: &str, line: &str) {
        let Some(client) = self.clients.get(conn) else { return };
        let timed = client.caps.has(SERVER_TIME) && client.user.is_some();
        let time = if timed { format!("time={}", irc::timestamp(time)) } else { String::new() };
        let tags =
            [time.as_str(), tags].into_iter().filter(|tags| !tags.is_empty()).collect::<Vec<_>>().join(";");
        if !self.is_answer(conn, &tags, line) {
            self.send_tagged(net, conn, &tags, line);
        }
    }

    /// Sends a line with these tags and no others.
    pub fn send_tagged(&self, net: &mut Net, conn: ConnId, tags: &str, line: &str) {
        let Some(client) = self.clients.get(conn) else { return };
        let Some(form) = client.form() else { return };
        let line = irc::truncate(line, irc::MAX_LINE);
        let bytes = match tags {
            "" => encode(form, line),
            tags => encode(form, &format!("@{tags} {line}")),
        };
        // What cannot be taken any more stands in the report.
        let _ = net.send_bytes(conn, bytes);
        let queued = net.queued(conn);
        if queued > self.options.high_water() {
            client.asked_for.set(queued);
        }
    }

    /// Queues bytes for a client. One for whom too much waits already does not read.
    pub fn push(&self, net: &mut Net, conn: ConnId, bytes: Bytes) {
        let _ = net.send_bytes(conn, bytes);
        self.drop_if_slow(net, conn);
    }

    /// Ends a connection for which more waits than is allowed.
    pub fn drop_if_slow(&self, net: &mut Net, conn: ConnId) {
        let asked_for = self.clients.get(conn).map_or(0, |client| client.asked_for.get());
        if net.queued(conn) > self.options.send_queue as usize + asked_for {
            net.abort_as(conn, CloseReason::SlowConsumer);
        }
    }

    /// Sends a line to users, as far as they are this server's.
    pub fn deliver(&mut self, net: &mut Net, text: String, to: impl IntoIterator<Item = UserId>) {
        let mut line = Line::new(text.clone(), "", (self.clock)());
        for user in to {
            let Some(conn) = self.conns.get(&user) else { continue };
            let Some(client) = self.clients.get(*conn) else { continue };
            let Some(form) = client.form() else { continue };
            if self.is_answer(*conn, "", &text) {
                continue;
            }
            let bytes = line.variant(client.variant(form));
            self.push(net, *conn, bytes);
            self.counters.deliveries += 1;
        }
    }
}
