//! Who is here, and in which channels: pure state without a socket, the same for users of this
//! server and of others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::irc::fold;

/// Names a user for as long as the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u64);

/// Somebody who has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub nick: String,
    pub user: String,
    pub host: String,
    pub realname: String,
    pub invisible: bool,
    /// The server whose user it is, and its number there; empty and 0 for this one.
    pub server: String,
    pub number: u64,
    /// When it came, and last said something, in seconds since 1970.
    pub since: u64,
    pub active: u64,
    /// The channels, by folded name.
    pub channels: BTreeSet<String>,
}

impl User {
    /// `nick!user@host`, the source of what the user says.
    pub fn source(&self) -> String {
        format!("{}!{}@{}", self.nick, self.user, self.host)
    }

    pub fn is_local(&self) -> bool {
        self.server.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub text: String,
    pub by: String,
    pub at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// As its founder wrote it.
    pub name: String,
    pub topic: Option<Topic>,
    /// The members, and whether each is an operator.
    pub members: BTreeMap<UserId, bool>,
    /// `+n`: who is not in it cannot speak in it.
    pub no_external: bool,
    /// `+t`: only operators set the topic.
    pub topic_locked: bool,
    pub since: u64,
    /// Where its founder came from, if this server knows: it counts against that address.
    pub founder: String,
}

impl Channel {
    pub fn modes(&self) -> String {
        let mut modes = String::from("+");
        modes.extend(self.no_external.then_some('n'));
        modes.extend(self.topic_locked.then_some('t'));
        modes
    }
}

/// All users and channels.
#[derive(Debug, Default)]
pub struct State {
    users: HashMap<UserId, User>,
    nicks: HashMap<String, UserId>,
    channels: BTreeMap<String, Channel>,
    last: u64,
}

impl State {
    /// Takes a user in. `None` when the nick is taken.
    pub fn add(&mut self, user: User) -> Option<UserId> {
        let nick = fold(&user.nick);
        if self.nicks.contains_key(&nick) {
            return None;
        }
        self.last += 1;
        let id = UserId(self.last);
        self.nicks.insert(nick, id);
        self.users.insert(id, user);
        Some(id)
    }

    pub fn user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id)
    }

    pub fn user_mut(&mut self, id: UserId) -> Option<&mut User> {
        self.users.get_mut(&id)
    }

    pub fn users(&self) -> impl Iterator<Item = (UserId, &User)> {
        self.users.iter().map(|(id, user)| (*id, user))
    }

    pub fn user_count(&self) -> usize {
        self.users.len()
    }

    /// Who has this nick.
    pub fn find(&self, nick: &str) -> Option<UserId> {
        self.nicks.get(&fold(nick)).copied()
    }

    /// Gives a user another nick; `false` when somebody else has it.
    pub fn rename(&mut self, id: UserId, nick: &str) -> bool {
        let Some(user) = self.users.get_mut(&id) else { return false };
        if self.nicks.get(&fold(nick)).is_some_and(|holder| *holder != id) {
            return false;
        }
        self.nicks.remove(&fold(&user.nick));
        self.nicks.insert(fold(nick), id);
        nick.clone_into(&mut user.nick);
        true
    }

    /// Takes a user out, of all channels too.
    pub fn remove(&mut self, id: UserId) -> Option<User> {
        let user = self.users.remove(&id)?;
        self.nicks.remove(&fold(&user.nick));
        for channel in &user.channels {
            self.drop_member(channel, id);
        }
        Some(user)
    }

    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.get(&fold(name))
    }

    pub fn channel_mut(&mut self, name: &str) -> Option<&mut Channel> {
        self.channels.get_mut(&fold(name))
    }

    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.values()
    }

    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// How many channels somebody at this host founded.
    pub fn founded_at(&self, host: &str) -> usize {
        self.channels.values().filter(|channel| channel.founder == host).count()
    }

    pub fn is_member(&self, id: UserId, channel: &str) -> bool {
        self.channel(channel).is_some_and(|channel| channel.members.contains_key(&id))
    }

    /// Puts a user into a channel, which comes to be with its first member; `false` when the user
    /// is in it already.
    pub fn join(&mut self, id: UserId, name: &str, operator: bool, now: u64) -> bool {
        let Some(user) = self.users.get_mut(&id) else { return false };
        let channel = self.channels.entry(fold(name)).or_insert_with(|| Channel {
            name: name.to_owned(),
            topic: None,
            members: BTreeMap::new(),
            no_external: true,
            topic_locked: true,
            since: now,
            founder: if user.is_local() { user.host.clone() } else { String::new() },
        });
        if channel.members.contains_key(&id) {
            return false;
        }
        channel.members.insert(id, operator);
        user.channels.insert(fold(name));
        true
    }

    /// Takes a user out of a channel, which ends with its last member.
    pub fn part(&mut self, id: UserId, name: &str) -> bool {
        let name = fold(name);
        let was_in = self.users.get_mut(&id).is_some_and(|user| user.channels.remove(&name));
        if was_in {
            self.drop_member(&name, id);
        }
        was_in
    }

    fn drop_member(&mut self, name: &str, id: UserId) {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.members.remove(&id);
            if channel.members.is_empty() {
                self.channels.remove(name);
            }
        }
    }

    /// Everybody who shares a channel with a user, each once, the user not among them.
    pub fn neighbours(&self, id: UserId) -> BTreeSet<UserId> {
        let channels = self.users.get(&id).into_iter().flat_map(|user| &user.channels);
        let mut all: BTreeSet<UserId> = channels
            .filter_map(|name| self.channels.get(name))
            .flat_map(|channel| channel.members.keys().copied())
            .collect();
        all.remove(&id);
        all
    }

    /// Whether one user may see another in lists: who is invisible is seen by neighbours.
    pub fn sees(&self, viewer: UserId, id: UserId) -> bool {
        let Some(user) = self.users.get(&id) else { return false };
        viewer == id || !user.invisible || user.channels.iter().any(|name| self.is_member(viewer, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(nick: &str) -> User {
        User {
            nick: nick.to_owned(),
            user: "u".to_owned(),
            host: "h".to_owned(),
            realname: String::new(),
            invisible: false,
            server: String::new(),
            number: 0,
            since: 0,
            active: 0,
            channels: BTreeSet::new(),
        }
    }

    impl State {
        /// What must hold whatever happened.
        pub(crate) fn check(&self) {
            assert_eq!(self.nicks.len(), self.users.len());
            for (id, user) in &self.users {
                assert_eq!(self.nicks.get(&fold(&user.nick)), Some(id));
                for name in &user.channels {
                    assert!(self.channels[name].members.contains_key(id), "{name}");
                }
            }
            for (name, channel) in &self.channels {
                assert_eq!(*name, fold(&channel.name));
                assert!(!channel.members.is_empty(), "an empty channel is none");
                for member in channel.members.keys() {
                    assert!(self.users[member].channels.contains(name));
                }
            }
        }
    }

    #[test]
    fn a_nick_belongs_to_one_whatever_its_case() {
        let mut state = State::default();
        let anna = state.add(user("Anna")).unwrap();
        assert_eq!(state.add(user("anna")), None);
        let bert = state.add(user("bert")).unwrap();
        assert!(!state.rename(bert, "ANNA"));
        assert!(state.rename(anna, "anna"), "one's own in another case");
        assert_eq!(state.find("ANNA"), Some(anna));
        state.remove(anna);
        assert!(state.rename(bert, "Anna"));
        state.check();
    }

    #[test]
    fn a_channel_lives_from_its_first_member_to_its_last() {
        let mut state = State::default();
        let (a, b) = (state.add(user("a")).unwrap(), state.add(user("b")).unwrap());
        assert!(state.join(a, "#X", true, 7) && !state.join(a, "#x", false, 8));
        assert!(state.join(b, "#x", false, 9));
        assert_eq!(state.channel("#x").map(|channel| channel.since), Some(7));
        let operators = state.channel("#x").map(|channel| (channel.members[&a], channel.members[&b]));
        assert_eq!(operators, Some((true, false)));
        assert_eq!(state.neighbours(a), BTreeSet::from([b]));
        assert!(state.part(a, "#X") && !state.part(a, "#x"));
        state.remove(b);
        assert!(state.channel("#x").is_none());
        state.check();
    }

    #[test]
    fn who_is_invisible_is_seen_by_neighbours_only() {
        let mut state = State::default();
        let ids: Vec<UserId> = ["a", "b", "c"].iter().map(|nick| state.add(user(nick)).unwrap()).collect();
        state.user_mut(ids[0]).unwrap().invisible = true;
        state.join(ids[0], "#x", true, 0);
        state.join(ids[1], "#x", false, 0);
        assert!(state.sees(ids[1], ids[0]) && !state.sees(ids[2], ids[0]) && state.sees(ids[0], ids[0]));
    }

    proptest! {
        #[test]
        fn the_two_sides_of_a_membership_always_agree(
            steps in proptest::collection::vec((0u8..5, 0usize..6, 0usize..4), 1..120)
        ) {
            let mut state = State::default();
            let mut ids: Vec<UserId> = Vec::new();
            for (what, who, which) in steps {
                let (nick, channel) = (format!("n{who}"), format!("#{which}"));
                let id = ids.get(who).copied().unwrap_or(UserId(0));
                match what {
                    0 => ids.extend(state.add(user(&nick))),
                    1 => { state.join(id, &channel, which == 0, 0); }
                    2 => { state.part(id, &channel); }
                    3 => { state.rename(id, &nick); }
                    _ => { state.remove(id); }
                }
                state.check();
            }
        }
    }
}
