//! What other servers tell, and what this one makes of it. Each is believed of its own users alone.

use unbroken::Net;

use crate::events::{Event, Letter, Membership, Person, Reference, Settings, Target};
use crate::irc::fold;
use crate::messages::Spoken;
use crate::server::Chat;
use crate::settings::Entry;
use crate::stamp::ServerId;
use crate::state::{User, UserId};

impl Chat {
    /// Something that another server published. Whatever is heard twice, or late, counts once; behind a
    /// gap nothing counts until the whole state has come.
    pub fn letter(&mut self, net: &mut Net, letter: Letter) {
        let (own, tick) = (self.relay.id, self.tick);
        let Some(peer) = self.relay.peer_of(&letter, tick) else { return };
        let Letter { server, number, event, .. } = letter;
        if number <= peer.applied {
            return;
        }
        let fresh = number > peer.latest;
        peer.latest = peer.latest.max(number);
        let next = peer.whole && peer.applied + 1 == number;
        let is_state = matches!(event, Event::State { .. });
        let missed = peer.whole && !next && !is_state;
        if next || is_state {
            (peer.applied, peer.whole) = (number, true);
        } else {
            peer.whole = false;
        }
        match event {
            Event::Hello => self.publish_state(net),
            Event::Ask { whom } if whom == own => self.publish_state(net),
            Event::Bye => return self.peer_gone(net, server),
            Event::State { users, channels } => return self.peer_state(net, server, users, channels),
            // Somebody speaks, whatever else was missed.
            event @ Event::Message { .. } if fresh => self.deed(net, server, event),
            Event::Message { .. } => {}
            Event::Alive { .. } if !next && !missed => self.publish(net, Event::Ask { whom: server }),
            event if next => self.deed(net, server, event),
            _ => {}
        }
        if missed {
            self.publish(net, Event::Ask { whom: server });
        }
    }

    fn known(&self, server: ServerId, number: u64) -> Option<UserId> {
        match server == self.relay.id {
            true => Some(UserId(number)).filter(|id| self.is_local(*id)),
            false => self.relay.peers.get(&server)?.users.get(&number).copied(),
        }
    }

    pub fn dereference(&self, reference: Reference) -> Option<UserId> {
        self.known(reference.0, reference.1)
    }

    /// One of our users, by reference.
    fn ours(&self, reference: Reference) -> Option<UserId> {
        self.dereference(reference).filter(|id| self.is_local(*id))
    }

    /// What is said to have done something: a user, or else a server.
    fn source_of(&self, server: ServerId, by: Option<UserId>) -> String {
        let user = by.and_then(|id| self.state.user(id));
        user.map_or_else(|| self.relay.name_of(server).to_owned(), User::source)
    }

    /// What a user of another server did.
    fn deed(&mut self, net: &mut Net, server: ServerId, event: Event) {
        let who = |chat: &Self, user: u64| chat.known(server, user);
        match event {
            Event::Alive { active } => {
                for (user, at) in active {
                    if let Some(user) = who(self, user).and_then(|id| self.state.user_mut(id)) {
                        user.active = at;
                    }
                }
            }
            Event::User(person) => {
                for channel in self.person_told(net, server, person) {
                    self.settle(net, &channel, &self.source_of(server, None));
                }
            }
            Event::Nick { user, nick, claim } => {
                let Some(id) = who(self, user) else { return };
                let renamed = self.state.claim(id, &nick, claim);
                self.renamed(net, renamed);
            }
            Event::Quit { user, text } => {
                let Some(id) = who(self, user) else { return };
                if let Some(peer) = self.relay.peers.get_mut(&server) {
                    peer.users.remove(&user);
                }
                self.quit(net, id, &text);
            }
            Event::Join { user, membership, by } => {
                let Some(id) = who(self, user) else { return };
                let channel = self.membership_told(net, id, &membership);
                let by = by.and_then(|by| self.dereference(by));
                self.settle(net, &channel, &self.source_of(server, by));
            }
            Event::Part { user, channel, text, by } => {
                let Some(id) = who(self, user) else { return };
                let kicked = by.map(|by| self.source_of(server, self.dereference(by)));
                self.leave_channel(net, id, &channel, &text, kicked);
            }
            Event::Set { user, settings } => {
                self.settings_told(&settings);
                self.settle(net, &settings.channel, &self.source_of(server, who(self, user)));
            }
            Event::Message { user, to, command, text, tags } => {
                if let Some(id) = who(self, user) {
                    let spoken = Spoken { command, text: &text, tags: &tags, time: (self.clock)() };
                    self.peer_message(net, id, to, &spoken);
                }
            }
            Event::AskRank { user, whom, channel, born, letter, on } => {
                let (Some(by), Some(whom)) = (who(self, user), self.ours(whom)) else { return };
                if self.may_ask(by, &channel, born) {
                    self.rank_set(net, by, whom, &channel, letter, on);
                }
            }
            Event::AskKick { user, whom, channel, born, text } => {
                let (Some(by), Some(whom)) = (who(self, user), self.ours(whom)) else { return };
                if self.may_ask(by, &channel, born) {
                    self.kicked(net, by, whom, &channel, &text);
                }
            }
            Event::Invite { user, whom, channel } => {
                if let (Some(by), Some(whom)) = (who(self, user), self.ours(whom)) {
                    self.invited(net, by, whom, &channel);
                }
            }
            Event::Kill { user, whom, text } => {
                let (Some(by), Some(whom)) = (who(self, user), self.ours(whom)) else { return };
                if self.state.user(by).is_some_and(|user| user.operator) {
                    self.killed(net, by, whom, &text);
                }
            }
            Event::Wallops { user, text } => {
                let Some(by) = who(self, user).and_then(|id| self.state.user(id)) else { return };
                if by.operator {
                    let source = by.source();
                    self.wallops_from(net, &source, &text);
                }
            }
            Event::Hello | Event::Bye | Event::Ask { .. } | Event::State { .. } => {}
        }
    }

    /// Whether a user of another server may have something done to a member of ours.
    fn may_ask(&self, by: UserId, channel: &str, born: crate::stamp::Stamp) -> bool {
        let channel = self.state.channel(channel);
        channel.is_some_and(|channel| channel.born == born && channel.is_operator(by))
    }

    fn peer_message(&mut self, net: &mut Net, from: UserId, to: Target, spoken: &Spoken<'_>) {
        match to {
            Target::Channel(name) => self.say_to_channel(net, from, &name, spoken),
            Target::User(reference) => {
                if let Some(id) = self.ours(reference) {
                    self.say_to_user(net, from, id, spoken);
                }
            }
        }
    }

    /// Another server's whole state: who is not in it any more has left.
    fn peer_state(&mut self, net: &mut Net, server: ServerId, users: Vec<Person>, channels: Vec<Settings>) {
        let present: std::collections::HashSet<u64> = users.iter().map(|person| person.user).collect();
        let Some(peer) = self.relay.peers.get_mut(&server) else { return };
        let name = peer.name.clone();
        let gone: Vec<u64> = peer.users.keys().copied().filter(|number| !present.contains(number)).collect();
        let gone: Vec<UserId> = gone.iter().filter_map(|number| peer.users.remove(number)).collect();
        for id in gone {
            self.quit(net, id, &format!("{} {name}", self.options.name));
        }
        let mut touched = std::collections::BTreeSet::new();
        for person in users {
            touched.extend(self.person_told(net, server, person));
        }
        for settings in channels {
            self.settings_told(&settings);
            touched.insert(fold(&settings.channel));
        }
        for channel in touched {
            self.settle(net, &channel, &name);
        }
    }

    fn settings_told(&mut self, told: &Settings) {
        let Some(channel) = self.state.channel_mut(&told.channel) else { return };
        for setting in &told.settings {
            let entry = Entry { at: setting.at, value: setting.value.clone() };
            channel.merge(told.born, (setting.letter, setting.mask.clone()), entry);
        }
    }

    /// A membership, new or not. Returns the channel, which has to be settled.
    fn membership_told(&mut self, net: &mut Net, id: UserId, told: &Membership) -> String {
        if self.state.join(id, &told.channel, told.born, told.rank()) {
            self.show_join(net, id, &told.channel);
        }
        fold(&told.channel)
    }

    /// One user of another server, with all that belongs to it. Returns the channels that have to be settled.
    fn person_told(&mut self, net: &mut Net, server: ServerId, told: Person) -> Vec<String> {
        let user = User {
            wish: told.nick.0,
            claim: told.claim,
            user: told.username.0,
            host: told.host.0,
            realname: told.realname.0,
            account: told.account.map(|account| account.0),
            away: told.away.map(|away| away.0),
            invisible: told.invisible,
            operator: told.operator,
            server: Some(server),
            number: told.user,
            since: told.since,
            active: told.active,
            ..User::default()
        };
        let id = match self.known(server, told.user) {
            Some(id) => {
                let renamed = self.state.claim(id, &user.wish, user.claim);
                self.renamed(net, renamed);
                if let Some(known) = self.state.user_mut(id) {
                    (known.invisible, known.operator, known.active) =
                        (user.invisible, user.operator, user.active);
                    known.account = user.account;
                }
                self.away_set(net, id, user.away);
                id
            }
            None => {
                let (id, renamed) = self.state.add(user);
                if let Some(peer) = self.relay.peers.get_mut(&server) {
                    peer.users.insert(told.user, id);
                }
                self.renamed(net, renamed);
                self.arrived(net, id);
                id
            }
        };
        let mut touched: Vec<String> =
            told.channels.iter().map(|membership| self.membership_told(net, id, membership)).collect();
        let known = self.state.user(id).map(|user| user.channels.clone()).unwrap_or_default();
        for name in known {
            if !touched.contains(&name) {
                self.leave_channel(net, id, &name, "", None);
            }
        }
        touched.dedup();
        touched
    }
}
