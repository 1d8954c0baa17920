//! Questions about users.

use unbroken::Net;

use crate::caps::MULTI_PREFIX;
use crate::clients::ClientId;
use crate::commands::Asker;
use crate::irc::{self, fold, shown};
use crate::server::Chat;
use crate::state::{User, UserId};

/// Room for the parameters of a reply: the rest of the line is its head.
const REPLY_ROOM: usize = 400;
/// Nicks of one USERHOST.
const MOST_HOSTS: usize = 5;

impl Chat {
    pub fn who(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        let mask = params.first().copied().unwrap_or("*");
        let operators_only = params.get(1) == Some(&"o");
        let all = self.has_cap(asker.user, MULTI_PREFIX);
        let line = |id: UserId, channel: &str, marks: &str| {
            let user = self.state.user(id).filter(|user| !operators_only || user.operator)?;
            let (User { nick, user: name, host, realname, .. }, server) = (user, self.server_of(user));
            let flags = if user.away.is_some() { "G" } else { "H" };
            let star = if user.operator { "*" } else { "" };
            Some(format!("{channel} {name} {host} {server} {nick} {flags}{star}{marks} :0 {realname}"))
        };
        let mut lines = Vec::new();
        if let Some(channel) =
            self.state.channel(mask).filter(|channel| self.state.knows(asker.user, channel))
        {
            let inside = channel.members.contains_key(&asker.user);
            let seen = channel.members.keys().filter(|id| inside || self.state.sees(asker.user, **id));
            lines.extend(seen.filter_map(|id| line(*id, &channel.name, channel.marks(*id, all))));
        } else if !mask.starts_with('#') {
            let matching = self.state.users().filter(|(id, user)| {
                let exact = fold(mask) == fold(&user.nick);
                let by_mask = irc::matches(mask, &user.nick) || irc::matches(mask, &user.host) || mask == "0";
                exact || (by_mask && self.state.sees(asker.user, *id))
            });
            lines.extend(matching.filter_map(|(id, _)| line(id, "*", "")));
        }
        for line in lines {
            self.numeric(net, asker.conn, 352, &line);
        }
        self.numeric(net, asker.conn, 315, &format!("{} :End of /WHO list", shown(mask)));
    }

    /// The server of a user, as others see it.
    fn server_of<'a>(&'a self, user: &'a User) -> &'a str {
        user.server.map_or(&self.options.name, |server| self.relay.name_of(server))
    }

    pub fn whois(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        // With two parameters the first is the server that is to answer.
        let Some(asked) = params.get(1).or(params.first()).filter(|nick| !nick.is_empty()) else {
            return self.numeric(net, asker.conn, 431, ":No nickname given");
        };
        let conn = asker.conn;
        let Some((id, user)) = self.state.find(asked).and_then(|id| Some((id, self.state.user(id)?))) else {
            self.no_nick(net, conn, asked);
            return self.numeric(net, conn, 318, &format!("{} :End of /WHOIS list", shown(asked)));
        };
        let nick = &user.nick;
        self.numeric(net, conn, 311, &format!("{nick} {} {} * :{}", user.user, user.host, user.realname));
        let (visible, all) = (self.state.sees(asker.user, id), self.has_cap(asker.user, MULTI_PREFIX));
        let channels = user.channels.iter().filter_map(|name| self.state.channel(name));
        let channels = channels.filter(|channel| visible && self.state.knows(asker.user, channel));
        let channels = channels.map(|channel| format!("{}{}", channel.marks(id, all), channel.name));
        self.long_reply(net, conn, 319, &format!("{nick} :"), channels);
        let server = self.server_of(user);
        self.numeric(net, conn, 312, &format!("{nick} {server} :{}", self.options.network));
        if user.operator {
            self.numeric(net, conn, 313, &format!("{nick} :is an IRC operator"));
        }
        if let Some(account) = &user.account {
            self.numeric(net, conn, 330, &format!("{nick} {account} :is logged in as"));
        }
        if let Some(words) = &user.away {
            self.numeric(net, conn, 301, &format!("{nick} :{words}"));
        }
        let idle = self.now().saturating_sub(user.active);
        self.numeric(net, conn, 317, &format!("{nick} {idle} {} :seconds idle, signon time", user.since));
        self.numeric(net, conn, 318, &format!("{nick} :End of /WHOIS list"));
    }

    pub fn userhost(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        let nicks = params.iter().flat_map(|nicks| nicks.split(' ')).take(MOST_HOSTS);
        let known = nicks.filter_map(|nick| self.state.user(self.state.find(nick)?));
        let shown = known.map(|User { nick, user, host, operator, away, .. }| {
            let (star, sign) = (if *operator { "*" } else { "" }, if away.is_some() { '-' } else { '+' });
            format!("{nick}{star}={sign}{user}@{host}")
        });
        let shown = shown.collect::<Vec<_>>().join(" ");
        self.numeric(net, asker.conn, 302, &format!(":{shown}"));
    }

    pub fn ison(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        let nicks = params.iter().flat_map(|nicks| nicks.split(' ')).filter(|nick| !nick.is_empty());
        let known = nicks.filter_map(|nick| Some(self.state.user(self.state.find(nick)?)?.nick.as_str()));
        let known = known.collect::<Vec<_>>().join(" ");
        self.numeric(net, asker.conn, 303, &format!(":{known}"));
    }

    /// Words for one reply, on as many lines as they need; none for no words.
    pub fn long_reply(
        &self,
        net: &mut Net,
        conn: ClientId,
        number: u16,
        head: &str,
        words: impl Iterator<Item = String>,
    ) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && line.len() + word.len() > REPLY_ROOM - head.len().min(REPLY_ROOM / 2) {
                self.numeric(net, conn, number, &format!("{head}{line}"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        if !line.is_empty() {
            self.numeric(net, conn, number, &format!("{head}{line}"));
        }
    }
}
