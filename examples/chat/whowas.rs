//! Who was here: the last ones to have given up a nick.

use std::collections::VecDeque;

use unbroken::Net;

use crate::commands::Asker;
use crate::irc::{fold, shown};
use crate::server::Chat;
use crate::state::User;

/// Remembered at most.
const MOST: usize = 200;

/// Somebody under a nick that they have no more.
pub struct Past {
    nick: String,
    user: String,
    host: String,
    realname: String,
    /// Seconds since 1970.
    until: u64,
}

impl Past {
    pub fn of(user: &User, nick: &str, until: u64) -> Self {
        let User { user, host, realname, .. } = user.clone();
        Self { nick: nick.to_owned(), user, host, realname, until }
    }
}

/// The latest first.
#[derive(Default)]
pub struct Whowas(VecDeque<Past>);

impl Whowas {
    pub fn remember(&mut self, past: Past) {
        self.0.truncate(MOST - 1);
        self.0.push_front(past);
    }
}

impl Chat {
    pub fn show_whowas(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        let Some(nicks) = params.first().filter(|nicks| !nicks.is_empty()) else {
            return self.numeric(net, asker.conn, 431, ":No nickname given");
        };
        // Nothing, and what is not positive, means all.
        let most = params.get(1).and_then(|most| most.parse().ok()).filter(|most| *most > 0).unwrap_or(MOST);
        for nick in nicks.split(',').filter(|nick| !nick.is_empty()).take(4) {
            let known = self.whowas.0.iter().filter(|past| fold(&past.nick) == fold(nick));
            let known: Vec<&Past> = known.take(most).collect();
            if known.is_empty() {
                let text = format!("{} :There was no such nickname", shown(nick));
                self.numeric(net, asker.conn, 406, &text);
            }
            for Past { nick, user, host, realname, until } in known {
                self.numeric(net, asker.conn, 314, &format!("{nick} {user} {host} * :{realname}"));
                let when =
                    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(*until));
                self.numeric(net, asker.conn, 312, &format!("{nick} {} :{when}", self.options.name));
            }
            self.numeric(net, asker.conn, 369, &format!("{} :End of WHOWAS", shown(nick)));
        }
    }
}
