//! A channel: its members, their ranks, its settings. Where two servers founded one at the same time,
//! or in a split, the older one holds: ranks and settings of the younger count no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::settings::{Entry, Key, Settings, Value, FLAGS, LISTS, TOPIC, VALUES};
use crate::stamp::Stamp;
use crate::state::UserId;

/// What a member may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rank {
    pub operator: bool,
    pub voice: bool,
}

/// A membership. Only the server of the user changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    rank: Rank,
    /// The channel that the rank was given in: in an older one it is none.
    pub born: Stamp,
    /// The rank that the other members were told of.
    shown: Rank,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// As its founder wrote it.
    pub name: String,
    pub born: Stamp,
    pub members: BTreeMap<UserId, Member>,
    pub settings: Settings,
    /// The settings that the members were told of.
    shown: BTreeMap<Key, String>,
    /// Who may come in although only the invited may.
    pub invited: BTreeSet<UserId>,
    /// Where its founder came from, if this server knows: it counts against that address.
    pub founder: String,
}

/// What the members have to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// On or off, the letter, and what stands behind it.
    Mode(bool, char, Option<String>),
    /// The rank of a member.
    Rank(bool, char, UserId),
    /// A topic, or none.
    Topic(Option<Value>),
}

impl Channel {
    pub fn new(name: &str, born: Stamp, founder: &str) -> Self {
        let settings = Settings::default();
        let shown = settings.holding();
        Self {
            name: name.to_owned(),
            born,
            members: BTreeMap::new(),
            settings,
            shown,
            invited: BTreeSet::new(),
            founder: founder.to_owned(),
        }
    }

    /// Takes a member in, or takes news of a membership. What its own server made of it is all there is.
    /// Whoever founds the channel is known to be its operator.
    pub fn admit(&mut self, id: UserId, born: Stamp, rank: Rank, founds: bool) {
        if born < self.born {
            self.born = born;
            self.settings = Settings::default();
        }
        let shown = match self.members.get(&id) {
            Some(member) => member.shown,
            None if founds => rank,
            None => Rank::default(),
        };
        self.members.insert(id, Member { rank, born, shown });
        self.invited.remove(&id);
    }

    /// After a member has gone: whether what is left is a younger channel than it was. Its settings
    /// are not known then.
    pub fn has_aged(&mut self) -> bool {
        if self.members.values().any(|member| member.born == self.born) {
            return false;
        }
        let Some(born) = self.members.values().map(|member| member.born).min() else { return false };
        self.born = born;
        self.settings = Settings::default();
        true
    }

    /// What a member may do; nothing, for who is none.
    pub fn rank(&self, id: UserId) -> Rank {
        match self.members.get(&id) {
            Some(member) if member.born == self.born => member.rank,
            _ => Rank::default(),
        }
    }

    pub fn is_operator(&self, id: UserId) -> bool {
        self.rank(id).operator
    }

    /// The marks before a name: the highest, or all.
    pub fn marks(&self, id: UserId, all: bool) -> &'static str {
        match self.rank(id) {
            Rank { operator: true, voice: true } if all => "@+",
            Rank { operator: true, .. } => "@",
            Rank { voice: true, .. } => "+",
            Rank { .. } => "",
        }
    }

    /// Gives one of our own members a rank. Returns whether it is another than before.
    pub fn set_rank(&mut self, id: UserId, letter: char, on: bool) -> bool {
        let (born, mut rank) = (self.born, self.rank(id));
        let before = rank;
        match letter {
            'o' => rank.operator = on,
            _ => rank.voice = on,
        }
        if let Some(member) = self.members.get_mut(&id) {
            (member.rank, member.born) = (rank, born);
        }
        rank != before
    }

    /// Takes a change of a setting in, if it is of this channel and not of a younger or older one.
    pub fn merge(&mut self, born: Stamp, key: Key, entry: Entry) {
        if born == self.born {
            self.settings.merge(key, entry);
        }
    }

    /// The modes with their values, which only members are told.
    pub fn modes(&self, inside: bool) -> String {
        let mut modes = String::from("+");
        modes.extend(FLAGS.chars().filter(|letter| self.settings.has(*letter)));
        let mut values = String::new();
        for letter in VALUES.chars() {
            if let Some(value) = self.settings.value(letter) {
                modes.push(letter);
                values.push(' ');
                values.push_str(if inside || letter != 'k' { &value.text } else { "*" });
            }
        }
        modes + &values
    }

    /// What is different from what the members were told; from now on they are told.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let holding = self.settings.holding();
        for (key, text) in &self.shown {
            if !holding.contains_key(key) {
                changes.push(match key.0 {
                    TOPIC => Change::Topic(None),
                    letter if LISTS.contains(letter) => Change::Mode(false, letter, Some(key.1.clone())),
                    'k' => Change::Mode(false, 'k', Some(text.clone())),
                    letter => Change::Mode(false, letter, None),
                });
            }
        }
        for (key, text) in &holding {
            if self.shown.get(key) != Some(text) {
                changes.push(match key.0 {
                    TOPIC => Change::Topic(self.settings.value(TOPIC).cloned()),
                    letter if LISTS.contains(letter) => Change::Mode(true, letter, Some(key.1.clone())),
                    letter if VALUES.contains(letter) => Change::Mode(true, letter, Some(text.clone())),
                    letter => Change::Mode(true, letter, None),
                });
            }
        }
        self.shown = holding;
        let ids: Vec<UserId> = self.members.keys().copied().collect();
        for id in ids {
            let rank = self.rank(id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            let shown = std::mem::replace(&mut member.shown, rank);
            if shown.operator != rank.operator {
                changes.push(Change::Rank(rank.operator, 'o', id));
            }
            if shown.voice != rank.voice {
                changes.push(Change::Rank(rank.voice, 'v', id));
            }
        }
        changes
    }
}
