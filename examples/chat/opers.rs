//! Operators of the server: who may become one, and what they may do.

use unbroken::{ConnId, Net};

use crate::commands::Asker;
use crate::events::{Event, Text};
use crate::irc::{self, shown};
use crate::server::Chat;
use crate::state::{User, UserId};

impl Chat {
    pub fn oper(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let known = self.operators.as_ref().is_some_and(|passwords| passwords.accepts(params[0], params[1]));
        if !known {
            log::warn!("{}: OPER {} was refused", asker.conn, shown(params[0]));
            return self.numeric(net, asker.conn, 464, ":Password incorrect");
        }
        let Some(user) = self.state.user_mut(asker.user) else { return };
        user.operator = true;
        let line = format!(":{0} MODE {0} +o", user.nick);
        log::warn!("{}: {} is an operator by {}", asker.conn, user.nick, shown(params[0]));
        self.numeric(net, asker.conn, 381, ":You are now an IRC operator");
        self.send(net, asker.conn, &line);
        self.relay_user(net, asker.user);
    }

    /// Whether the asker is one; it is told if not.
    fn is_oper(&self, net: &mut Net, asker: Asker) -> bool {
        let operator = self.state.user(asker.user).is_some_and(|user| user.operator);
        if !operator {
            self.numeric(net, asker.conn, 481, ":Permission denied: you're not an IRC operator");
        }
        operator
    }

    pub fn kill(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        if !self.is_oper(net, asker) {
            return;
        }
        let Some(id) = self.state.find(params[0]) else { return self.no_nick(net, asker.conn, params[0]) };
        let words = irc::truncate(params[1], 200);
        match self.reference(id).filter(|_| !self.is_local(id)) {
            Some(whom) => {
                self.publish(net, Event::Kill { user: asker.user.0, whom, text: Text(words.to_owned()) });
            }
            None => self.killed(net, asker.user, id, words),
        }
    }

    /// One of our users is thrown out.
    pub fn killed(&mut self, net: &mut Net, by: UserId, id: UserId, words: &str) {
        let Some(by) = self.state.user(by) else { return };
        let (Some(user), Some(conn)) = (self.state.user(id), self.conns.get(&id).copied()) else { return };
        let line = format!(":{} KILL {} :{words}", by.source(), user.nick);
        let why = format!("Killed ({} ({words}))", by.nick);
        log::warn!("{conn}: {} was killed by {}: {words}", user.nick, by.nick);
        self.send(net, conn, &line);
        self.end(net, conn, &why);
    }

    pub fn wallops(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let Some(source) = self.state.user(asker.user).map(User::source) else { return };
        if self.is_oper(net, asker) {
            self.wallops_from(net, &source, params[0]);
            self.publish(net, Event::Wallops { user: asker.user.0, text: Text(params[0].to_owned()) });
        }
    }

    /// Words for operators, and for those who want to hear them.
    pub fn wallops_from(&mut self, net: &mut Net, source: &str, words: &str) {
        let hears = |id: &&UserId| self.state.user(**id).is_some_and(|user| user.operator || user.wallops);
        let hearers: Vec<UserId> = self.conns.keys().filter(hears).copied().collect();
        self.deliver(net, format!(":{source} WALLOPS :{words}"), hearers);
    }

    /// `AUTHENTICATE`: SASL's PLAIN, before registering
    /// (<https://ircv3.net/specs/extensions/sasl-3.1>).
    pub fn authenticate(&mut self, net: &mut Net, conn: ConnId, params: &[&str]) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        if client.account.is_some() {
            return self.numeric(net, conn, 907, ":You have already authenticated");
        }
        let (asked, tries) = (std::mem::take(&mut client.authenticating), client.tries);
        match params[0] {
            _ if self.accounts.is_none() || client.user.is_some() || tries >= MOST_TRIES => {
                self.numeric(net, conn, 904, ":SASL authentication failed");
            }
            "*" => self.numeric(net, conn, 906, ":SASL authentication aborted"),
            mechanism if !asked => match mechanism.eq_ignore_ascii_case("PLAIN") {
                true => {
                    client.authenticating = true;
                    self.send(net, conn, "AUTHENTICATE +");
                }
                false => {
                    self.numeric(net, conn, 908, "PLAIN :are available SASL mechanisms");
                    self.numeric(net, conn, 904, ":SASL authentication failed");
                }
            },
            // As much as is possible comes in one piece: longer names and passwords there are none.
            words if words.len() >= 400 => self.numeric(net, conn, 905, ":SASL message too long"),
            words => self.log_in(net, conn, words),
        }
    }

    fn log_in(&mut self, net: &mut Net, conn: ConnId, words: &str) {
        let decoded = data_encoding::BASE64.decode(words.as_bytes()).unwrap_or_default();
        let parts: Vec<&str> =
            decoded.split(|byte| *byte == 0).map(|part| std::str::from_utf8(part).unwrap_or("")).collect();
        let (Some(accounts), Some(client)) = (&self.accounts, self.clients.get_mut(conn)) else { return };
        client.tries += 1;
        match parts[..] {
            [as_whom, account, password]
                if (as_whom.is_empty() || as_whom == account) && accounts.accepts(account, password) =>
            {
                client.account = Some(account.to_owned());
                let source = format!("{}!*@{}", client.nick.as_deref().unwrap_or("*"), client.host);
                self.numeric(
                    net,
                    conn,
                    900,
                    &format!("{source} {account} :You are now logged in as {account}"),
                );
                self.numeric(net, conn, 903, ":SASL authentication successful");
            }
            _ => self.numeric(net, conn, 904, ":SASL authentication failed"),
        }
    }
}

/// Passwords that a connection may try: each costs the time of a hash.
const MOST_TRIES: u8 = 3;
