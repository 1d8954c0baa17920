//! Lines on their way to clients, of this reactor or another.

use std::time::SystemTime;

use unbroken::{Bytes, Net};

use crate::between::Told;
use crate::caps::SERVER_TIME;
use crate::clients::ClientId;
use crate::irc;
use crate::server::Chat;
use crate::state::UserId;
use crate::wire::{encode, Line};

impl Chat {
    /// Sends one line to one connection.
    pub fn send(&self, net: &mut Net, conn: ClientId, line: &str) {
        self.send_with(net, conn, (self.clock)(), "", line);
    }

    /// The same with tags; the time is put before them for who wants it.
    pub fn send_with(&self, net: &mut Net, conn: ClientId, time: SystemTime, tags: &str, line: &str) {
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
    pub fn send_tagged(&self, net: &mut Net, conn: ClientId, tags: &str, line: &str) {
        let Some(client) = self.clients.get(conn) else { return };
        let Some(form) = client.form else { return };
        let line = irc::truncate(line, irc::MAX_LINE);
        let bytes = match tags {
            "" => encode(form, line),
            tags => encode(form, &format!("@{tags} {line}")),
        };
        self.answer(net, conn, bytes);
    }

    /// Sends a client what it asked for.
    pub fn answer(&self, net: &mut Net, conn: ClientId, bytes: Bytes) {
        match conn.is_near() {
            true => self.ports.answer(net, conn.conn, bytes),
            false => self.far.answer(conn, bytes),
        }
    }

    /// Has a client's reactor do something for it.
    pub fn tell(&mut self, net: &mut Net, conn: ClientId, told: Told) {
        match conn.is_near() {
            true => self.ports.told(net, conn.conn, told),
            false => self.far.tell(conn, told),
        }
    }

    /// Sends a line to users, as far as they are this server's.
    pub fn deliver(&mut self, net: &mut Net, text: String, to: impl IntoIterator<Item = UserId>) {
        let mut line = Line::new(text.clone(), "", (self.clock)());
        for user in to {
            let Some(conn) = self.conns.get(&user).copied() else { continue };
            let Some(client) = self.clients.get(conn) else { continue };
            let Some(form) = client.form else { continue };
            if self.is_answer(conn, "", &text) {
                continue;
            }
            let bytes = line.variant(client.variant(form));
            self.tell(net, conn, Told::News(bytes));
        }
    }
}
