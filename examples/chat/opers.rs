//! Operators of the server: who may become one, and what they may do.

use unbroken::Net;

use crate::commands::Asker;
use crate::events::{Event, Text};
use crate::irc::{self, shown};
use crate::sasl::MOST_TRIES;
use crate::server::Chat;
use crate::state::{User, UserId};

impl Chat {
    pub fn oper(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let Some(client) = self.clients.get_mut(asker.conn) else { return };
        let known = client.tries < MOST_TRIES
            && self.operators.as_ref().is_some_and(|passwords| passwords.accepts(params[0], params[1]));
        if !known {
            client.tries = client.tries.saturating_add(1);
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
}
