//! What becomes of users: they come, take other names, are away, leave; and who is told.

use unbroken::Net;

use crate::caps::AWAY_NOTIFY;
use crate::commands::Asker;
use crate::irc::{self, fold};
use crate::server::Chat;
use crate::state::{Renamed, UserId};
use crate::whowas::Past;

/// Longest words of somebody who is away, in bytes.
pub const AWAY_LENGTH: usize = 200;

impl Chat {
    /// Somebody has come, here or elsewhere.
    pub fn arrived(&mut self, net: &mut Net, id: UserId) {
        self.most_all = self.most_all.max(self.state.user_count());
        if let Some(source) = self.state.user(id).map(|user| user.source()) {
            self.monitored(net, &source, true);
        }
    }

    /// Users are shown under other nicks now: who sees them is told.
    pub fn renamed(&mut self, net: &mut Net, renamed: Vec<Renamed>) {
        for Renamed { id, source } in renamed {
            let Some(user) = self.state.user(id) else { continue };
            let (line, new) = (format!(":{source} NICK {}", user.nick), user.source());
            let before = source.split('!').next().unwrap_or_default();
            let moved = fold(before) != fold(&user.nick);
            if moved {
                let past = Past::of(user, before, self.now());
                self.whowas.remember(past);
            }
            let displaced = user.is_local() && user.is_displaced();
            let nick = user.nick.clone();
            let mut hearers = self.state.neighbours(id);
            hearers.insert(id);
            self.deliver(net, line, hearers);
            if moved {
                self.monitored(net, &source, false);
                self.monitored(net, &new, true);
            }
            if displaced {
                // Its own nick is what was made up for it: from now on it has a right to that.
                let more = self.state.claim(id, &nick, self.stamp());
                self.relay_nick(net, id);
                self.renamed(net, more);
            }
        }
    }

    /// A user is gone, and all who share a channel hear of it.
    pub fn quit(&mut self, net: &mut Net, id: UserId, why: &str) {
        let hearers = self.state.neighbours(id);
        self.relay_quit(net, id, why);
        let Some((user, renamed)) = self.state.remove(id) else { return };
        self.audiences.forget_all(&user.channels);
        self.histories.forget_ended(&self.state, &user.channels);
        self.whowas.remember(Past::of(&user, &user.nick, self.now()));
        self.deliver(net, format!(":{} QUIT :{why}", user.source()), hearers);
        self.monitored(net, &user.source(), false);
        self.renamed(net, renamed);
        self.ask_if_aged(net);
    }

    pub fn away(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let words = params.first().filter(|words| !words.is_empty());
        let words = words.map(|words| irc::truncate(words, AWAY_LENGTH).to_owned());
        match words {
            Some(_) => self.numeric(net, asker.conn, 306, ":You have been marked as being away"),
            None => self.numeric(net, asker.conn, 305, ":You are no longer marked as being away"),
        }
        self.away_set(net, asker.user, words);
        self.relay_user(net, asker.user);
    }

    /// A user is away, or here again: those who asked for it are told.
    pub fn away_set(&mut self, net: &mut Net, id: UserId, words: Option<String>) {
        let Some(user) = self.state.user_mut(id) else { return };
        if user.away == words {
            return;
        }
        user.away = words;
        let hearers = self.state.neighbours(id);
        self.show_away(net, id, hearers);
    }

    /// Tells those among some users who asked for it whether one is away.
    pub fn show_away(&mut self, net: &mut Net, id: UserId, hearers: impl IntoIterator<Item = UserId>) {
        let Some(user) = self.state.user(id) else { return };
        let line = match &user.away {
            Some(words) => format!(":{} AWAY :{words}", user.source()),
            None => format!(":{} AWAY", user.source()),
        };
        let asked: Vec<UserId> = hearers.into_iter().filter(|id| self.has_cap(*id, AWAY_NOTIFY)).collect();
        self.deliver(net, line, asked);
    }
}
