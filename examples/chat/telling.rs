//! What this server tells the others: of its own users, and never of theirs.

use unbroken::Net;

use crate::channel::Channel;
use crate::events::{ChannelName, Event, Membership, Nick, Part, Person, Reference, Setting, Settings, Text};
use crate::server::Chat;
use crate::settings::{Entry, Key};
use crate::state::{User, UserId};

impl Chat {
    pub fn is_local(&self, id: UserId) -> bool {
        self.state.user(id).is_some_and(User::is_local)
    }

    /// Whether the other servers are to hear what this user does: it is one of ours, and they can be
    /// reached.
    fn is_told(&self, id: UserId) -> bool {
        self.relay.is_up() && self.is_local(id)
    }

    /// A user as all servers name it.
    pub fn reference(&self, id: UserId) -> Option<Reference> {
        let user = self.state.user(id)?;
        Some(Reference(user.server.unwrap_or(self.relay.id), user.number))
    }

    fn membership(&self, id: UserId, name: &str) -> Option<Membership> {
        let channel = self.state.channel(name)?;
        let (rank, born) = (channel.rank(id), channel.members.get(&id)?.born);
        let channel = ChannelName(channel.name.clone());
        Some(Membership { channel, born, operator: rank.operator, voice: rank.voice })
    }

    fn person(&self, id: UserId) -> Option<Person> {
        let user = self.state.user(id)?;
        Some(Person {
            user: user.number,
            nick: Nick(user.wish.clone()),
            claim: user.claim,
            username: Part(user.user.clone()),
            host: Part(user.host.clone()),
            realname: Text(user.realname.clone()),
            account: user.account.clone().map(Part),
            away: user.away.clone().map(Text),
            invisible: user.invisible,
            operator: user.operator,
            since: user.since,
            active: user.active,
            channels: user.channels.iter().filter_map(|name| self.membership(id, name)).collect(),
        })
    }

    /// Everything that this server knows of its own, and the settings of all channels.
    pub fn publish_state(&mut self, net: &mut Net) {
        let users = self.conns.keys().filter_map(|id| self.person(*id)).collect();
        let channels = self.state.channels().map(|channel| settings(channel, channel.settings.entries()));
        let event = Event::State { users, channels: channels.collect() };
        self.publish(net, event);
    }

    pub fn relay_user(&mut self, net: &mut Net, id: UserId) {
        if !self.is_told(id) {
            return;
        }
        if let Some(person) = self.person(id) {
            self.publish(net, Event::User(person));
        }
    }

    pub fn relay_nick(&mut self, net: &mut Net, id: UserId) {
        if let (true, Some(user)) = (self.is_told(id), self.state.user(id)) {
            let event = Event::Nick { user: user.number, nick: Nick(user.wish.clone()), claim: user.claim };
            self.publish(net, event);
        }
    }

    pub fn relay_quit(&mut self, net: &mut Net, id: UserId, why: &str) {
        if self.is_told(id) {
            self.publish(net, Event::Quit { user: id.0, text: Text(why.to_owned()) });
        }
    }

    /// A membership is new, or another than before.
    pub fn relay_join(&mut self, net: &mut Net, id: UserId, channel: &str, by: Option<UserId>) {
        if let (true, Some(membership)) = (self.is_told(id), self.membership(id, channel)) {
            let by = by.and_then(|by| self.reference(by));
            self.publish(net, Event::Join { user: id.0, membership, by });
        }
    }

    pub fn relay_part(&mut self, net: &mut Net, id: UserId, channel: &str, words: &str, by: Option<UserId>) {
        if self.is_told(id) {
            let (by, text) = (by.and_then(|by| self.reference(by)), Text(words.to_owned()));
            self.publish(net, Event::Part { user: id.0, channel: ChannelName(channel.to_owned()), text, by });
        }
    }

    pub fn relay_settings(&mut self, net: &mut Net, by: UserId, channel: &str, keys: &[Key]) {
        let Some(channel) = self.state.channel(channel).filter(|_| self.is_told(by) && !keys.is_empty())
        else {
            return;
        };
        let settings = settings(channel, channel.settings.entries().filter(|(key, _)| keys.contains(key)));
        self.publish(net, Event::Set { user: by.0, settings });
    }
}

fn settings<'a>(channel: &Channel, entries: impl Iterator<Item = (&'a Key, &'a Entry)>) -> Settings {
    let setting = |(key, entry): (&Key, &Entry)| Setting {
        letter: key.0,
        mask: key.1.clone(),
        at: entry.at,
        value: entry.value.clone(),
    };
    Settings {
        channel: ChannelName(channel.name.clone()),
        born: channel.born,
        settings: entries.map(setting).collect(),
    }
}
