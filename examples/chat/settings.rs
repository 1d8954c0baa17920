//! The settings of a channel: its modes, its lists, its topic. Each is changed for itself, and of two
//! changes the later one holds: so all servers come to the same settings, whatever they hear first,
//! and however often.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// What a setting is about: the letter of its mode, and of a list's entry the mask.
pub type Key = (char, String);

/// The topic, among the modes.
pub const TOPIC: char = 'T';

/// The modes that are on or off.
pub const FLAGS: &str = "imnst";
/// On in a channel where nobody has said anything about them.
const USUAL: &str = "nt";
/// Those that have a value.
pub const VALUES: &str = "kl";
/// Those that are lists of masks.
pub const LISTS: &str = "be";

/// Entries of lists that were taken away and are remembered, so that older news do not bring them back.
const MOST_TAKEN: usize = 200;

/// Who set something, when, and to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    pub text: String,
    pub by: String,
    /// Seconds since 1970.
    pub when: u64,
}

/// The latest change of a setting; without a value it was taken away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub at: Stamp,
    pub value: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<Key, Entry>);

impl Settings {
    /// Takes a change in, unless a later one is known.
    pub fn merge(&mut self, key: Key, entry: Entry) {
        match self.0.get_mut(&key) {
            Some(known) if *known >= entry => return,
            Some(known) => *known = entry,
            None => drop(self.0.insert(key, entry)),
        }
        self.forget_taken();
    }

    fn forget_taken(&mut self) {
        let taken = |key: &Key, entry: &Entry| LISTS.contains(key.0) && entry.value.is_none();
        while self.0.iter().filter(|(key, entry)| taken(key, entry)).count() > MOST_TAKEN {
            let all = self.0.iter().filter(|(key, entry)| taken(key, entry));
            let Some(key) = all.min_by_key(|(_, entry)| entry.at).map(|(key, _)| key.clone()) else { return };
            self.0.remove(&key);
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.0.iter()
    }

    /// When a setting was last changed.
    pub fn changed(&self, key: &Key) -> Option<Stamp> {
        self.0.get(key).map(|entry| entry.at)
    }

    pub fn value(&self, letter: char) -> Option<&Value> {
        self.0.get(&(letter, String::new()))?.value.as_ref()
    }

    /// Whether a mode is on.
    pub fn has(&self, letter: char) -> bool {
        let known = self.0.get(&(letter, String::new()));
        known.map_or(USUAL.contains(letter), |entry| entry.value.is_some())
    }

    /// The entries of a list.
    pub fn list(&self, letter: char) -> impl Iterator<Item = (&str, &Value)> {
        let from = self.0.range((letter, String::new())..);
        let entries = from.take_while(move |(key, _)| key.0 == letter);
        entries.filter_map(|(key, entry)| Some((key.1.as_str(), entry.value.as_ref()?)))
    }

    /// All that holds: what each setting is.
    pub fn holding(&self) -> BTreeMap<Key, String> {
        let usual = USUAL.chars().filter(|letter| self.has(*letter));
        let mut all: BTreeMap<Key, String> =
            usual.map(|letter| ((letter, String::new()), String::new())).collect();
        for (key, entry) in &self.0 {
            if let Some(value) = &entry.value {
                let text = if FLAGS.contains(key.0) || LISTS.contains(key.0) { "" } else { &value.text };
                all.insert(key.clone(), text.to_owned());
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::ServerId;
    use proptest::prelude::*;

    fn changes() -> impl Strategy<Value = Vec<(Key, Entry)>> {
        let change = (0usize..6, 0u64..4, 0u64..3, proptest::option::of(0u8..3));
        proptest::collection::vec(change, 1..30).prop_map(|changes| {
            let keys = [('n', ""), ('k', ""), ('b', "*!*@a"), ('b', "*!*@b"), (TOPIC, ""), ('i', "")];
            let changes = changes.into_iter().map(|(key, at, server, value)| {
                let value = value.map(|value| super::Value { text: value.to_string(), ..Default::default() });
                let entry = Entry { at: Stamp { at, server: ServerId(server) }, value };
                ((keys[key].0, keys[key].1.to_owned()), entry)
            });
            changes.collect()
        })
    }

    proptest! {
        #[test]
        fn changes_in_any_order_and_number_come_to_the_same(
            (changes, shuffled) in changes().prop_flat_map(|changes| {
                let twice = [changes.clone(), changes.clone()].concat();
                (Just(changes), Just(twice).prop_shuffle())
            })
        ) {
            let (mut one, mut other) = (Settings::default(), Settings::default());
            changes.iter().for_each(|(key, entry)| one.merge(key.clone(), entry.clone()));
            shuffled.iter().for_each(|(key, entry)| other.merge(key.clone(), entry.clone()));
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(one.holding(), other.holding());
        }
    }

    #[test]
    fn bans_that_come_and_go_are_not_remembered_without_end() {
        let mut settings = Settings::default();
        for at in 0..1000 {
            let entry = Entry { at: Stamp { at, server: ServerId(1) }, value: None };
            settings.merge(('b', format!("*!*@{at}")), entry);
        }
        assert_eq!(settings.entries().count(), MOST_TAKEN);
        assert!(settings.entries().all(|(_, entry)| entry.at.at >= 800));
    }
}
