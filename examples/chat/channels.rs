//! Commands about channels. What changes one is done in two steps: the command asks whether it
//! may, the deed changes the state, tells the members, and tells the other servers. Deeds of
//! users of other servers come to the second step alone.

use std::collections::BTreeSet;

use unbroken::Net;

use crate::commands::Asker;
use crate::irc::{self, fold, is_channel, shown};
use crate::server::Chat;
use crate::state::{Topic, User, UserId};

/// Longest topic and longest words of a kick or a part, in bytes.
pub const TEXT_LENGTH: usize = 300;

/// A mode that is to be set or taken away, of a member when it is `o`.
pub type Mode = (bool, char, Option<UserId>);

/// Channels of one question at most.
pub const MOST_CHANNELS: usize = 8;

impl Chat {
    pub fn join(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        if params[0] == "0" {
            let channels = self.state.user(asker.user).map(|user| user.channels.clone());
            for name in channels.unwrap_or_default() {
                self.parted(net, asker.user, &name, "Left all channels");
            }
            return;
        }
        if params[0].is_empty() {
            return self.numeric(net, asker.conn, 461, "JOIN :Not enough parameters");
        }
        for name in params[0].split(',').filter(|name| !name.is_empty()) {
            if !is_channel(name) {
                self.no_channel(net, asker.conn, name);
                continue;
            }
            let joined = self.state.user(asker.user).map_or(0, |user| user.channels.len());
            let is_new = self.state.channel(name).is_none();
            let full = is_new
                && (self.state.channel_count() >= self.options.max_channels.get()
                    || self.has_founded_enough(asker.user));
            if self.state.is_member(asker.user, name) {
                continue;
            }
            if joined >= self.options.max_channels_per_client.get() || full {
                self.numeric(
                    net,
                    asker.conn,
                    405,
                    &format!("{name} :You, your address or all together have too many channels"),
                );
                continue;
            }
            self.joined(net, asker.user, name, is_new);
            self.show_topic(net, asker, name);
            self.show_names(net, asker, name);
        }
    }

    /// Whether a user's address has used up its share of the channels.
    fn has_founded_enough(&self, id: UserId) -> bool {
        let founded = self.state.user(id).map_or(0, |user| self.state.founded_at(&user.host));
        founded >= self.options.max_channels_per_address.get()
    }

    /// A user comes into a channel.
    pub fn joined(&mut self, net: &mut Net, id: UserId, name: &str, operator: bool) {
        let now = self.now();
        if !self.state.join(id, name, operator, now) {
            return;
        }
        self.audiences.forget(name);
        let Some(source) = self.state.user(id).map(User::source) else { return };
        let Some(channel) = self.state.channel(name).map(|channel| channel.name.clone()) else { return };
        self.deliver_to_channel(net, format!(":{source} JOIN {channel}"), name, None);
        self.relay_join(net, id, &channel, operator);
    }

    pub fn part(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let words = irc::truncate(params.get(1).copied().unwrap_or_default(), TEXT_LENGTH);
        for name in params[0].split(',').filter(|name| !name.is_empty()) {
            if self.state.channel(name).is_none() {
                self.no_channel(net, asker.conn, name);
            } else if !self.state.is_member(asker.user, name) {
                self.not_inside(net, asker.conn, name);
            } else {
                self.parted(net, asker.user, name, words);
            }
        }
    }

    /// A user goes out of a channel.
    pub fn parted(&mut self, net: &mut Net, id: UserId, name: &str, words: &str) {
        let Some(source) = self.state.user(id).map(User::source) else { return };
        let Some(channel) = self.state.channel(name).map(|channel| channel.name.clone()) else { return };
        let behind = if words.is_empty() { String::new() } else { format!(" :{words}") };
        self.deliver_to_channel(net, format!(":{source} PART {channel}{behind}"), name, None);
        self.state.part(id, name);
        self.audiences.forget(name);
        self.relay_part(net, id, &channel, words);
    }

    /// A user is gone, and all who share a channel hear of it.
    pub fn quit(&mut self, net: &mut Net, id: UserId, why: &str) {
        let hearers = self.state.neighbours(id);
        self.relay_quit(net, id, why);
        let Some(user) = self.state.remove(id) else { return };
        self.audiences.forget_all(&user.channels);
        self.deliver(net, format!(":{} QUIT :{why}", user.source()), hearers);
    }

    pub fn topic(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let name = params[0];
        let Some(channel) = self.state.channel(name) else {
            return self.no_channel(net, asker.conn, name);
        };
        let operator = channel.members.get(&asker.user).copied();
        let Some(text) = params.get(1) else {
            if operator.is_none() {
                return self.not_inside(net, asker.conn, name);
            }
            if channel.topic.is_none() {
                return self.numeric(net, asker.conn, 331, &format!("{} :No topic is set", channel.name));
            }
            return self.show_topic(net, asker, name);
        };
        match operator {
            None => self.not_inside(net, asker.conn, name),
            Some(false) if channel.topic_locked => {
                self.not_operator(net, asker.conn, name);
            }
            Some(_) => {
                let Some(by) = self.state.user(asker.user).map(User::source) else { return };
                let text = irc::truncate(text, TEXT_LENGTH).to_owned();
                self.topic_set(net, asker.user, name, Topic { text, by, at: self.now() });
            }
        }
    }

    /// A channel has another topic; an empty one is none.
    pub fn topic_set(&mut self, net: &mut Net, by: UserId, name: &str, topic: Topic) {
        let Some(source) = self.state.user(by).map(User::source) else { return };
        let Some(channel) = self.state.channel_mut(name) else { return };
        channel.topic = (!topic.text.is_empty()).then(|| topic.clone());
        let line = format!(":{source} TOPIC {} :{}", channel.name, topic.text);
        self.deliver_to_channel(net, line, name, None);
        self.relay_topic(net, by, name, &topic);
    }

    fn show_topic(&self, net: &mut Net, asker: Asker, name: &str) {
        let Some(channel) = self.state.channel(name) else { return };
        if let Some(topic) = &channel.topic {
            self.numeric(net, asker.conn, 332, &format!("{} :{}", channel.name, topic.text));
            self.numeric(net, asker.conn, 333, &format!("{} {} {}", channel.name, topic.by, topic.at));
        }
    }

    /// One channel and any number of users, or as many channels as users (RFC 2812, 3.2.8).
    pub fn kick(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let channels: Vec<&str> = params[0].split(',').filter(|name| !name.is_empty()).collect();
        let nicks: Vec<&str> = params[1].split(',').filter(|nick| !nick.is_empty()).collect();
        let own = self.nick_of(asker.conn);
        let words = params.get(2).copied().filter(|words| !words.is_empty()).unwrap_or(&own);
        let words = irc::truncate(words, TEXT_LENGTH);
        match channels[..] {
            [channel] => nicks.iter().for_each(|nick| self.kick_one(net, asker, channel, nick, words)),
            _ if channels.len() == nicks.len() => {
                for (channel, nick) in channels.iter().zip(&nicks) {
                    self.kick_one(net, asker, channel, nick, words);
                }
            }
            _ => self.numeric(net, asker.conn, 461, "KICK :Not enough parameters"),
        }
    }

    fn kick_one(&mut self, net: &mut Net, asker: Asker, name: &str, nick: &str, words: &str) {
        let Some(channel) = self.state.channel(name) else {
            return self.no_channel(net, asker.conn, name);
        };
        match (channel.members.get(&asker.user), self.state.find(nick)) {
            (None, _) => self.not_inside(net, asker.conn, name),
            (Some(false), _) => {
                self.not_operator(net, asker.conn, name);
            }
            (_, None) => self.no_nick(net, asker.conn, nick),
            (_, Some(id)) if !self.state.is_member(id, name) => {
                self.not_member(net, asker.conn, nick, name);
            }
            (_, Some(id)) => self.kicked(net, asker.user, id, name, words),
        }
    }

    /// A member is thrown out.
    pub fn kicked(&mut self, net: &mut Net, by: UserId, id: UserId, name: &str, words: &str) {
        let (Some(by_user), Some(user)) = (self.state.user(by), self.state.user(id)) else { return };
        let Some(channel) = self.state.channel(name) else { return };
        let line = format!(":{} KICK {} {} :{words}", by_user.source(), channel.name, user.nick);
        self.deliver_to_channel(net, line, name, None);
        self.state.part(id, name);
        self.audiences.forget(name);
        self.relay_kick(net, by, id, name, words);
    }

    pub fn mode(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        match params[0].starts_with('#') {
            true => self.channel_mode(net, asker, params),
            false => self.user_mode(net, asker, params),
        }
    }

    fn user_mode(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        match self.state.find(params[0]) {
            None => return self.no_nick(net, asker.conn, params[0]),
            Some(id) if id != asker.user => {
                return self.numeric(net, asker.conn, 502, ":Cannot change mode for other users");
            }
            Some(_) => {}
        }
        let Some(user) = self.state.user_mut(asker.user) else { return };
        let Some(changes) = params.get(1) else {
            let modes = if user.invisible { "+i" } else { "+" };
            return self.numeric(net, asker.conn, 221, modes);
        };
        let (mut on, mut unknown, before) = (true, false, user.invisible);
        for mode in changes.chars() {
            match mode {
                '+' => on = true,
                '-' => on = false,
                'i' => user.invisible = on,
                _ => unknown = true,
            }
        }
        let (nick, after) = (user.nick.clone(), user.invisible);
        if after != before {
            let sign = if after { '+' } else { '-' };
            self.send(net, asker.conn, &format!(":{nick} MODE {nick} {sign}i"));
            self.relay_user(net, asker.user);
        }
        if unknown {
            self.numeric(net, asker.conn, 501, ":Unknown MODE flag");
        }
    }

    fn channel_mode(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let name = params[0];
        let Some(channel) = self.state.channel(name) else {
            return self.no_channel(net, asker.conn, name);
        };
        let Some(changes) = params.get(1) else {
            self.numeric(net, asker.conn, 324, &format!("{} {}", channel.name, channel.modes()));
            return self.numeric(net, asker.conn, 329, &format!("{} {}", channel.name, channel.since));
        };
        // To ask for the list of bans is everybody's right; there are none.
        if matches!(*changes, "b" | "+b") && params.len() == 2 {
            return self.numeric(net, asker.conn, 368, &format!("{} :End of channel ban list", channel.name));
        }
        if channel.members.get(&asker.user) != Some(&true) {
            return self.not_operator(net, asker.conn, name);
        }
        let (mut on, mut arguments, mut wanted) = (true, params[2..].iter(), Vec::new());
        for mode in changes.chars() {
            match mode {
                '+' => on = true,
                '-' => on = false,
                'n' | 't' => wanted.push((on, mode, None)),
                'o' => {
                    let Some(nick) = arguments.next() else {
                        self.numeric(net, asker.conn, 461, "MODE :Not enough parameters");
                        continue;
                    };
                    match self.state.find(nick) {
                        None => self.no_nick(net, asker.conn, nick),
                        Some(id) if !self.state.is_member(id, name) => {
                            self.not_member(net, asker.conn, nick, name);
                        }
                        Some(id) => wanted.push((on, mode, Some(id))),
                    }
                }
                other => {
                    let text = format!("{} :is unknown mode char to me", shown(&other.to_string()));
                    self.numeric(net, asker.conn, 472, &text);
                }
            }
        }
        self.modes_set(net, asker.user, name, &wanted);
    }

    /// Modes of a channel, or of members of it, are others than before: the members are told of all
    /// in one line.
    pub fn modes_set(&mut self, net: &mut Net, by: UserId, name: &str, wanted: &[Mode]) {
        let (mut letters, mut whom, mut sign) = (String::new(), String::new(), None);
        for (on, mode, of) in wanted {
            if !self.set_mode(name, *on, *mode, *of) {
                continue;
            }
            if sign.replace(*on) != Some(*on) {
                letters.push(if *on { '+' } else { '-' });
            }
            letters.push(*mode);
            if let Some(user) = of.and_then(|id| self.state.user(id)) {
                whom.push(' ');
                whom.push_str(&user.nick);
            }
            self.relay_mode(net, by, name, *on, *mode, *of);
        }
        let Some(source) = self.state.user(by).map(User::source) else { return };
        let Some(channel) = self.state.channel(name).map(|channel| channel.name.clone()) else { return };
        if !letters.is_empty() {
            self.deliver_to_channel(net, format!(":{source} MODE {channel} {letters}{whom}"), name, None);
        }
    }

    /// Returns whether it is another than before.
    fn set_mode(&mut self, name: &str, on: bool, mode: char, of: Option<UserId>) -> bool {
        let Some(channel) = self.state.channel_mut(name) else { return false };
        let flag = match (mode, of) {
            ('n', _) => Some(&mut channel.no_external),
            ('t', _) => Some(&mut channel.topic_locked),
            ('o', Some(id)) => channel.members.get_mut(&id),
            _ => None,
        };
        flag.is_some_and(|flag| std::mem::replace(flag, on) != on)
    }

    pub fn names(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        match params.first() {
            Some(names) => {
                let mut shown_already = BTreeSet::new();
                for name in names.split(',').filter(|name| !name.is_empty()).take(MOST_CHANNELS) {
                    if shown_already.insert(fold(name)) {
                        self.show_names(net, asker, shown(name));
                    }
                }
            }
            None => self.numeric(net, asker.conn, 366, "* :End of /NAMES list"),
        }
    }

    fn show_names(&self, net: &mut Net, asker: Asker, name: &str) {
        let mut name = name;
        if let Some(channel) = self.state.channel(name) {
            name = &channel.name;
            let inside = channel.members.contains_key(&asker.user);
            let names = channel.members.iter().filter_map(|(id, operator)| {
                let user = self.state.user(*id)?;
                let seen = inside || self.state.sees(asker.user, *id);
                seen.then(|| format!("{}{}", if *operator { "@" } else { "" }, user.nick))
            });
            self.long_reply(net, asker.conn, 353, &format!("= {name} :"), names);
        }
        self.numeric(net, asker.conn, 366, &format!("{name} :End of /NAMES list"));
    }

    pub fn list(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        self.numeric(net, asker.conn, 321, "Channel :Users  Name");
        let wanted: Option<Vec<String>> =
            params.first().map(|names| names.split(',').map(irc::fold).collect());
        for channel in self.state.channels() {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&irc::fold(&channel.name))) {
                continue;
            }
            let topic = channel.topic.as_ref().map_or("", |topic| &topic.text);
            let text = format!("{} {} :{topic}", channel.name, channel.members.len());
            self.numeric(net, asker.conn, 322, &text);
        }
        self.numeric(net, asker.conn, 323, ":End of /LIST");
    }
}
