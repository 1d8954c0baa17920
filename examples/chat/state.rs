//! Who is here, and in which channels: pure state without a socket, the same for users of this
//! server and of others.
//!
//! A nick that two servers gave out stays with whoever took it first. The other one is shown under a
//! nick that every server makes up in the same way, until its own server has given it that.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use crate::channel::{Channel, Rank};
use crate::irc::{fold, truncate};
use crate::stamp::{ServerId, Stamp};

/// Names a user for as long as the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u64);

/// Somebody who has registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Under which it is shown.
    pub nick: String,
    /// Which it took, and when.
    pub wish: String,
    pub claim: Stamp,
    pub user: String,
    pub host: String,
    pub realname: String,
    pub account: Option<String>,
    pub away: Option<String>,
    pub invisible: bool,
    /// `+o`: an operator of its server, and `+w`: it wants to hear them.
    pub operator: bool,
    pub wallops: bool,
    /// The server whose user it is, none for this one, and its number there.
    pub server: Option<ServerId>,
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
        self.server.is_none()
    }

    /// Whether it is shown under another nick than it took.
    pub fn is_displaced(&self) -> bool {
        self.nick != self.wish
    }
}

/// Somebody is shown under another nick now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    pub id: UserId,
    /// Its source before.
    pub source: String,
}

/// All users and channels.
#[derive(Debug, Default)]
pub struct State {
    users: HashMap<UserId, User>,
    nicks: HashMap<String, UserId>,
    channels: BTreeMap<String, Channel>,
    displaced: BTreeSet<UserId>,
    /// Some channel turned out to be younger than it was, with settings that are not known.
    pub aged: bool,
    last: u64,
}

impl State {
    /// Takes a user in, whose nick is its wish. Others may have to be renamed.
    pub fn add(&mut self, mut user: User) -> (UserId, Vec<Renamed>) {
        self.last += 1;
        let id = UserId(self.last);
        if user.is_local() {
            user.number = id.0;
        }
        let (wish, claim) = (user.wish.clone(), user.claim);
        user.nick = wish.clone();
        self.users.insert(id, user);
        (id, self.claim(id, &wish, claim).into_iter().filter(|renamed| renamed.id != id).collect())
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

    /// A user takes a nick, at this moment. Returns who is shown under another one for it.
    pub fn claim(&mut self, id: UserId, nick: &str, at: Stamp) -> Vec<Renamed> {
        let mut renamed = Vec::new();
        let Some(user) = self.users.get_mut(&id) else { return renamed };
        (user.wish, user.claim) = (nick.to_owned(), at);
        let before = fold(&user.nick);
        let held = self.nicks.get(&before) == Some(&id);
        if held {
            self.nicks.remove(&before);
        }
        self.place(id, &mut renamed);
        if held {
            self.restore(before, &mut renamed);
        }
        renamed
    }

    /// The right to the nick that a user wishes for: the smaller the better.
    fn right(&self, id: UserId, nick: &str) -> Option<(Stamp, u64)> {
        let user = self.users.get(&id).filter(|user| fold(&user.wish) == nick)?;
        Some((user.claim, user.number))
    }

    /// Gives a user the nick it wishes for, or one that is made up if somebody has the better right.
    fn place(&mut self, id: UserId, renamed: &mut Vec<Renamed>) {
        let Some(wish) = self.users.get(&id).map(|user| user.wish.clone()) else { return };
        let key = fold(&wish);
        match self.nicks.get(&key).copied().filter(|holder| *holder != id) {
            // Whoever stands there by a nick that was made up has no right to it.
            Some(holder)
                if self.right(holder, &key).is_some_and(|held| Some(held) < self.right(id, &key)) =>
            {
                self.make_up(id, renamed);
            }
            Some(holder) => {
                self.show(id, wish, renamed);
                self.make_up(holder, renamed);
            }
            None => self.show(id, wish, renamed),
        }
    }

    fn show(&mut self, id: UserId, nick: String, renamed: &mut Vec<Renamed>) {
        self.nicks.insert(fold(&nick), id);
        let Some(user) = self.users.get_mut(&id) else { return };
        let source = user.source();
        if std::mem::replace(&mut user.nick, nick) != user.nick {
            renamed.push(Renamed { id, source });
        }
        match user.is_displaced() {
            true => self.displaced.insert(id),
            false => self.displaced.remove(&id),
        };
    }

    fn make_up(&mut self, id: UserId, renamed: &mut Vec<Renamed>) {
        let Some(user) = self.users.get(&id) else { return };
        let mut attempt = 0u32;
        let nick = loop {
            let mut hasher = DefaultHasher::new();
            (user.claim.server, user.number, &user.wish, attempt).hash(&mut hasher);
            let nick = format!("{}_{:05}", truncate(&user.wish, 20), hasher.finish() % 100_000);
            if !self.nicks.contains_key(&fold(&nick)) {
                break nick;
            }
            attempt += 1;
        };
        self.show(id, nick, renamed);
    }

    /// A nick is free: of those who wish for it the first gets it.
    fn restore(&mut self, nick: String, renamed: &mut Vec<Renamed>) {
        let mut free = vec![nick];
        while let Some(nick) = free.pop() {
            if self.nicks.contains_key(&nick) {
                continue;
            }
            let wishing = self.displaced.iter().copied().filter_map(|id| Some((self.right(id, &nick)?, id)));
            let Some((_, id)) = wishing.min() else { continue };
            let Some(user) = self.users.get(&id) else { continue };
            let (wish, before) = (user.wish.clone(), fold(&user.nick));
            self.nicks.remove(&before);
            self.show(id, wish, renamed);
            free.push(before);
        }
    }

    /// Takes a user out, of all channels too.
    pub fn remove(&mut self, id: UserId) -> Option<(User, Vec<Renamed>)> {
        let user = self.users.remove(&id)?;
        self.nicks.remove(&fold(&user.nick));
        self.displaced.remove(&id);
        for channel in &user.channels {
            self.drop_member(channel, id);
        }
        for channel in self.channels.values_mut().filter(|channel| !channel.invited.is_empty()) {
            channel.invited.remove(&id);
        }
        let mut renamed = Vec::new();
        self.restore(fold(&user.nick), &mut renamed);
        Some((user, renamed))
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

    /// Puts a user into a channel, which comes to be with its first member, or takes news of a
    /// membership; `true` when it is new.
    pub fn join(&mut self, id: UserId, name: &str, born: Stamp, rank: Rank) -> bool {
        let Some(user) = self.users.get_mut(&id) else { return false };
        let founder = if user.is_local() { user.host.as_str() } else { "" };
        let founds = !self.channels.contains_key(&fold(name));
        let channel = self.channels.entry(fold(name)).or_insert_with(|| Channel::new(name, born, founder));
        channel.admit(id, born, rank, founds);
        user.channels.insert(fold(name))
    }

    /// Our own members of a channel that turned out to be older than they knew: they belong to it from
    /// now on, without a rank.
    pub fn adopt(&mut self, name: &str) -> Vec<UserId> {
        let Some(channel) = self.channels.get_mut(&fold(name)) else { return Vec::new() };
        let (users, born) = (&self.users, channel.born);
        let is_ours = |id: &UserId| users.get(id).is_some_and(User::is_local);
        let strangers = channel.members.iter().filter(|(id, member)| member.born != born && is_ours(id));
        let strangers: Vec<UserId> = strangers.map(|(id, _)| *id).collect();
        for id in &strangers {
            channel.admit(*id, born, Rank::default(), false);
        }
        strangers
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
            self.aged |= channel.has_aged();
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

    /// Whether a user may know of a channel: of a secret one only its members do.
    pub fn knows(&self, viewer: UserId, channel: &Channel) -> bool {
        !channel.settings.has('s') || channel.members.contains_key(&viewer)
    }
}
