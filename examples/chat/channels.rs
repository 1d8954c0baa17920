//! Commands about channels. What changes one is done in two steps: the command asks whether it
//! may, the deed changes the state, tells the members, and tells the other servers. Deeds of
//! users of other servers come to the second step alone.

use unbroken::Net;

use crate::channel::{Change, Rank};
use crate::commands::Asker;
use crate::events::{ChannelName, Event, Text};
use crate::irc::{self, is_channel};
use crate::modes::mode_lines;
use crate::server::Chat;
use crate::settings::{Entry, Key, Value, TOPIC};
use crate::stamp::ServerId;
use crate::state::{User, UserId};

/// Longest topic and longest words of a kick or a part, in bytes.
pub const TEXT_LENGTH: usize = 300;

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
        let mut keys = params.get(1).copied().unwrap_or_default().split(',');
        for name in params[0].split(',').filter(|name| !name.is_empty()) {
            let key = keys.next().unwrap_or_default();
            if !is_channel(name) {
                self.no_channel(net, asker.conn, name);
            } else if self.state.is_member(asker.user, name) {
                continue;
            } else if let Err((number, why)) = self.may_join(asker.user, name, key) {
                self.numeric(net, asker.conn, number, &format!("{name} :{why}"));
            } else {
                self.joined(net, asker.user, name);
                self.show_topic(net, asker, name);
                self.show_names(net, asker, name);
            }
        }
    }

    fn may_join(&self, id: UserId, name: &str, key: &str) -> Result<(), (u16, &'static str)> {
        let Some(user) = self.state.user(id) else { return Ok(()) };
        let too_many = Err((405, "You, your address or all together have too many channels"));
        if user.channels.len() >= self.options.max_channels_per_client.get() {
            return too_many;
        }
        let Some(channel) = self.state.channel(name) else {
            let founded = self.state.founded_at(&user.host);
            let full = self.state.channel_count() >= self.options.max_channels.get()
                || founded >= self.options.max_channels_per_address.get();
            return if full { too_many } else { Ok(()) };
        };
        let (settings, invited) = (&channel.settings, channel.invited.contains(&id));
        let limit = settings.value('l').and_then(|value| value.text.parse().ok()).unwrap_or(usize::MAX);
        match () {
            () if invited => Ok(()),
            () if settings.has('i') => Err((473, "Cannot join channel (+i)")),
            () if settings.value('k').is_some_and(|wanted| wanted.text != key) => {
                Err((475, "Cannot join channel (+k)"))
            }
            () if channel.members.len() >= limit => Err((471, "Cannot join channel (+l)")),
            () if is_banned(settings, user) => Err((474, "Cannot join channel (+b)")),
            () => Ok(()),
        }
    }

    /// A user of ours comes into a channel, which it may found.
    pub fn joined(&mut self, net: &mut Net, id: UserId, name: &str) {
        let (born, rank) = match self.state.channel(name) {
            Some(channel) => (channel.born, Rank::default()),
            None => (self.stamp(), Rank { operator: true, voice: false }),
        };
        if self.state.join(id, name, born, rank) {
            self.show_join(net, id, name);
            self.relay_join(net, id, name, None);
        }
    }

    /// Members hear of a new one.
    pub fn show_join(&mut self, net: &mut Net, id: UserId, name: &str) {
        self.audiences.forget(name);
        let Some(user) = self.state.user(id) else { return };
        let (source, away) = (user.source(), user.away.is_some());
        let Some(channel) = self.state.channel(name).map(|channel| channel.name.clone()) else { return };
        self.deliver_to_channel(net, format!(":{source} JOIN {channel}"), name, None);
        if away {
            let members = self.state.channel(name).into_iter().flat_map(|channel| channel.members.keys());
            let others: Vec<UserId> = members.copied().filter(|member| *member != id).collect();
            self.show_away(net, id, others);
        }
    }

    /// The members of a channel are told what is different, if something is; `source` is said to have
    /// done it. Our members of what turned out to be a younger channel become the older one's.
    pub fn settle(&mut self, net: &mut Net, name: &str, source: &str) {
        for id in self.state.adopt(name) {
            self.relay_join(net, id, name, None);
        }
        let Some(channel) = self.state.channel_mut(name) else { return };
        let (name, changes) = (channel.name.clone(), channel.changes());
        let mut modes = Vec::new();
        for change in changes {
            match change {
                Change::Mode(on, letter, argument) => modes.push((on, letter, argument)),
                Change::Rank(on, letter, id) => {
                    let nick = self.state.user(id).map(|user| user.nick.clone());
                    modes.extend(nick.map(|nick| (on, letter, Some(nick))));
                }
                Change::Topic(topic) => {
                    let text = topic.map_or(String::new(), |topic| topic.text);
                    self.deliver_to_channel(net, format!(":{source} TOPIC {name} :{text}"), &name, None);
                }
            }
        }
        for line in mode_lines(source, &name, &modes) {
            self.deliver_to_channel(net, line, &name, None);
        }
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

    /// A user of ours goes out of a channel.
    pub fn parted(&mut self, net: &mut Net, id: UserId, name: &str, words: &str) {
        self.leave_channel(net, id, name, words, None);
        self.relay_part(net, id, name, words, None);
    }

    /// A member goes, or is thrown out by somebody.
    pub fn leave_channel(&mut self, net: &mut Net, id: UserId, name: &str, words: &str, by: Option<String>) {
        let (Some(user), Some(channel)) = (self.state.user(id), self.state.channel(name)) else { return };
        if !channel.members.contains_key(&id) {
            return;
        }
        let behind = if words.is_empty() { String::new() } else { format!(" :{words}") };
        let line = match by {
            Some(by) => format!(":{by} KICK {} {}{behind}", channel.name, user.nick),
            None => format!(":{} PART {}{behind}", user.source(), channel.name),
        };
        self.deliver_to_channel(net, line, name, None);
        self.state.part(id, name);
        self.audiences.forget(name);
        self.histories.forget_ended(&self.state, [&irc::fold(name)]);
        self.ask_if_aged(net);
    }

    /// The last member of an older channel is gone: what the younger one is like has to be asked for.
    pub fn ask_if_aged(&mut self, net: &mut Net) {
        if std::mem::take(&mut self.state.aged) {
            let peers: Vec<ServerId> = self.relay.peers.keys().copied().collect();
            peers.into_iter().for_each(|whom| self.publish(net, Event::Ask { whom }));
        }
    }

    pub fn topic(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let (name, user) = (params[0], asker.user);
        let known =
            |chat: &Self| chat.state.channel(name).is_some_and(|channel| chat.state.knows(user, channel));
        let Some(channel) = self.state.channel(name).filter(|_| known(self)) else {
            return self.no_channel(net, asker.conn, name);
        };
        if !channel.members.contains_key(&user) {
            return self.not_inside(net, asker.conn, name);
        }
        let Some(text) = params.get(1) else {
            if channel.settings.value(TOPIC).is_none() {
                return self.numeric(net, asker.conn, 331, &format!("{} :No topic is set", channel.name));
            }
            return self.show_topic(net, asker, name);
        };
        if channel.settings.has('t') && !channel.is_operator(user) {
            return self.not_operator(net, asker.conn, name);
        }
        let text = irc::truncate(text, TEXT_LENGTH);
        self.set(user, name, (TOPIC, String::new()), Some(text).filter(|text| !text.is_empty()));
        self.settings_set(net, user, name, &[(TOPIC, String::new())]);
    }

    /// Changes one setting of a channel, or takes it away.
    pub fn set(&mut self, by: UserId, name: &str, key: Key, text: Option<&str>) {
        let Some(by) = self.state.user(by).map(User::source) else { return };
        let (now, when) = (self.stamp(), self.now());
        let Some(channel) = self.state.channel_mut(name) else { return };
        let at = now.later_than(channel.settings.changed(&key));
        let value = text.map(|text| Value { text: text.to_owned(), by, when });
        channel.settings.merge(key, Entry { at, value });
    }

    /// A user of ours has changed settings: the members, and the other servers, are told.
    pub fn settings_set(&mut self, net: &mut Net, by: UserId, name: &str, keys: &[Key]) {
        self.relay_settings(net, by, name, keys);
        if let Some(source) = self.state.user(by).map(User::source) {
            self.settle(net, name, &source);
        }
    }

    pub fn show_topic(&self, net: &mut Net, asker: Asker, name: &str) {
        let Some(channel) = self.state.channel(name) else { return };
        if let Some(Value { text, by, when }) = channel.settings.value(TOPIC) {
            self.numeric(net, asker.conn, 332, &format!("{} :{text}", channel.name));
            self.numeric(net, asker.conn, 333, &format!("{} {by} {when}", channel.name));
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
        if !channel.members.contains_key(&asker.user) {
            return self.not_inside(net, asker.conn, name);
        }
        if !channel.is_operator(asker.user) {
            return self.not_operator(net, asker.conn, name);
        }
        match self.state.find(nick) {
            None => self.no_nick(net, asker.conn, nick),
            Some(id) if !self.state.is_member(id, name) => self.not_member(net, asker.conn, nick, name),
            Some(id) => self.kicked(net, asker.user, id, name, words),
        }
    }

    /// A member is thrown out, by its own server.
    pub fn kicked(&mut self, net: &mut Net, by: UserId, id: UserId, name: &str, words: &str) {
        let (Some(source), Some(whom)) = (self.state.user(by).map(User::source), self.reference(id)) else {
            return;
        };
        let Some(channel) = self.state.channel(name) else { return };
        if self.is_local(id) {
            self.leave_channel(net, id, name, words, Some(source));
            self.relay_part(net, id, name, words, Some(by));
        } else {
            let (born, channel) = (channel.born, ChannelName(channel.name.clone()));
            self.publish(
                net,
                Event::AskKick { user: by.0, whom, channel, born, text: Text(words.to_owned()) },
            );
        }
    }

    pub fn invite(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let (nick, name, conn) = (params[0], params[1], asker.conn);
        let Some(id) = self.state.find(nick) else { return self.no_nick(net, conn, nick) };
        let Some(channel) = self.state.channel(name) else { return self.no_channel(net, conn, name) };
        if !channel.members.contains_key(&asker.user) {
            return self.not_inside(net, conn, name);
        }
        if channel.settings.has('i') && !channel.is_operator(asker.user) {
            return self.not_operator(net, conn, name);
        }
        let (Some(user), name) = (self.state.user(id), channel.name.clone()) else { return };
        let nick = user.nick.clone();
        if channel.members.contains_key(&id) {
            return self.numeric(net, conn, 443, &format!("{nick} {name} :is already on channel"));
        }
        self.numeric(net, conn, 341, &format!("{nick} {name}"));
        if let Some(words) = &user.away {
            self.numeric(net, conn, 301, &format!("{nick} :{words}"));
        }
        match (self.is_local(id), self.reference(id)) {
            (false, Some(whom)) => {
                self.publish(net, Event::Invite { user: asker.user.0, whom, channel: ChannelName(name) });
            }
            _ => self.invited(net, asker.user, id, &name),
        }
    }

    /// One of our users is invited.
    pub fn invited(&mut self, net: &mut Net, by: UserId, id: UserId, name: &str) {
        let Some(source) = self.state.user(by).map(User::source) else { return };
        let Some(nick) = self.state.user(id).map(|user| user.nick.clone()) else { return };
        let Some(channel) = self.state.channel_mut(name).filter(|channel| channel.members.contains_key(&by))
        else {
            return;
        };
        channel.invited.insert(id);
        let line = format!(":{source} INVITE {nick} {}", channel.name);
        self.deliver(net, line, [id]);
    }
}

/// Whether a mask of bans fits a user, and none of exceptions does.
pub fn is_banned(settings: &crate::settings::Settings, user: &User) -> bool {
    let source = user.source();
    let listed = |letter| settings.list(letter).any(|(mask, _)| irc::matches(mask, &source));
    listed('b') && !listed('e')
}
