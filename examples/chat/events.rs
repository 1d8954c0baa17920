//! What servers tell each other, as JSON through Redis. Whatever comes from there was written by
//! anybody: an event that is not sound in all its parts is none.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::channel::Rank;
use crate::irc::{is_channel, is_nick};
use crate::settings::{Value, FLAGS, LISTS, TOPIC, VALUES};
use crate::stamp::{ServerId, Stamp};

/// Longest nick of any server, and longest text, in bytes.
const NICK: usize = 64;
const TEXT: usize = 510;
/// Longest tags: those of a client, and what servers add.
const TAGS: usize = 4300;
/// Channels of one user, and settings of one channel, at most.
const MOST: usize = 2000;

/// A text that is known to be sound.
macro_rules! sound {
    ($name:ident, $is:expr, $what:literal) => {
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(pub String);

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let is: fn(&str) -> bool = $is;
                if is(&text) {
                    Ok(Self(text))
                } else {
                    Err(concat!("not ", $what))
                }
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }
    };
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT && !text.contains(['\r', '\n', '\0'])
}

/// Whether it stays one word, and not the last, wherever it stands in a line.
pub fn is_word(text: &str) -> bool {
    let odd = |character: char| character.is_control() || character == ' ';
    !text.is_empty() && text.len() <= 200 && !text.starts_with(':') && !text.contains(odd)
}

sound!(Nick, |text| is_nick(text, NICK), "a nick");
sound!(ChannelName, is_channel, "a channel");
sound!(Text, is_text, "a text of one line");
sound!(Tags, |text| text.len() <= TAGS && !text.contains(|c: char| c == ' ' || c.is_control()), "tags");
sound!(Word, is_word, "a word");
sound!(Part, |text| is_word(text) && text.len() <= 64 && !text.contains(['!', '@']), "a part of a source");

/// A user: its server, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference(pub ServerId, pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub channel: ChannelName,
    pub born: Stamp,
    #[serde(default)]
    pub operator: bool,
    #[serde(default)]
    pub voice: bool,
}

impl Membership {
    pub fn rank(&self) -> Rank {
        Rank { operator: self.operator, voice: self.voice }
    }
}

/// All that is known of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub user: u64,
    pub nick: Nick,
    pub claim: Stamp,
    pub username: Part,
    pub host: Part,
    pub realname: Text,
    pub account: Option<Part>,
    pub away: Option<Text>,
    pub invisible: bool,
    #[serde(default)]
    pub operator: bool,
    pub since: u64,
    pub active: u64,
    pub channels: Vec<Membership>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub letter: char,
    pub mask: String,
    pub at: Stamp,
    pub value: Option<Value>,
}

impl Setting {
    fn is_sound(&self) -> bool {
        let mask = match LISTS.contains(self.letter) {
            true => is_word(&self.mask),
            false => self.mask.is_empty(),
        };
        let text = |value: &Value| match self.letter {
            'l' => value.text.parse::<u32>().is_ok(),
            'k' => is_word(&value.text) && !value.text.contains(','),
            _ => is_text(&value.text),
        };
        let known = self.letter == TOPIC || [FLAGS, VALUES, LISTS].concat().contains(self.letter);
        known && mask && self.value.as_ref().is_none_or(|value| text(value) && is_word(&value.by))
    }
}

/// Settings of a channel: all, or those that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub channel: ChannelName,
    pub born: Stamp,
    pub settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    User(Reference),
    Channel(ChannelName),
}

/// What happened. `user` is one of the server that tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Somebody is new, or back: all tell their state.
    Hello,
    /// Who has said something since the last time, and when.
    Alive {
        active: Vec<(u64, u64)>,
    },
    Bye,
    Ask {
        whom: ServerId,
    },
    State {
        users: Vec<Person>,
        channels: Vec<Settings>,
    },
    User(Person),
    Nick {
        user: u64,
        nick: Nick,
        claim: Stamp,
    },
    Quit {
        user: u64,
        text: Text,
    },
    /// A membership is new, or another than before; `by` whom its rank was given.
    Join {
        user: u64,
        membership: Membership,
        by: Option<Reference>,
    },
    /// A user left a channel, or was thrown out.
    Part {
        user: u64,
        channel: ChannelName,
        text: Text,
        by: Option<Reference>,
    },
    Set {
        user: u64,
        settings: Settings,
    },
    Message {
        user: u64,
        to: Target,
        command: Command,
        text: Text,
        tags: Tags,
    },
    /// A user of another server is to get a rank, be thrown out, be invited, be killed: its own server
    /// does it, or does not.
    AskRank {
        user: u64,
        whom: Reference,
        channel: ChannelName,
        born: Stamp,
        letter: char,
        on: bool,
    },
    AskKick {
        user: u64,
        whom: Reference,
        channel: ChannelName,
        born: Stamp,
        text: Text,
    },
    Invite {
        user: u64,
        whom: Reference,
        channel: ChannelName,
    },
    Kill {
        user: u64,
        whom: Reference,
        text: Text,
    },
    Wallops {
        user: u64,
        text: Text,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    Privmsg,
    Notice,
    Tagmsg,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Self::Privmsg => "PRIVMSG",
            Self::Notice => "NOTICE",
            Self::Tagmsg => "TAGMSG",
        }
    }
}

/// An event with its sender: the server, what it is called, and how many events it has told before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    pub server: ServerId,
    pub name: Word,
    pub number: u64,
    #[serde(flatten)]
    pub event: Event,
}

impl Letter {
    /// Reads what came from Redis.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let letter: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match &letter.event {
            Event::State { channels, .. } if !channels.iter().all(Settings::is_sound) => {
                Err("not settings of a channel".to_owned())
            }
            Event::Set { settings, .. } if !settings.is_sound() => {
                Err("not settings of a channel".to_owned())
            }
            Event::AskRank { letter, .. } if !matches!(letter, 'o' | 'v') => Err("not a rank".to_owned()),
            Event::User(person) if person.channels.len() > MOST => Err("too many channels".to_owned()),
            _ => Ok(letter),
        }
    }

    pub fn text(&self) -> String {
        // Strings and numbers: nothing that JSON does not have.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Settings {
    fn is_sound(&self) -> bool {
        self.settings.len() <= MOST && self.settings.iter().all(Setting::is_sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{json, Value as Json};

    fn letter(event: Json) -> Json {
        let mut letter = json!({ "server": "00000000000000ff", "name": "one", "number": 1 });
        letter.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        letter
    }

    fn parse(letter: &Json) -> Result<Letter, String> {
        Letter::parse(letter.to_string().as_bytes())
    }

    fn examples() -> Vec<Json> {
        let stamp = json!({ "at": 7, "server": "00000000000000ff" });
        let topic = json!({ "letter": "T", "mask": "", "at": stamp,
            "value": { "text": "t", "by": "a!b@c", "when": 5 } });
        vec![
            letter(json!({ "kind": "hello" })),
            letter(json!({ "kind": "alive", "active": [[1, 2]] })),
            letter(json!({ "kind": "nick", "user": 1, "nick": "anna", "claim": stamp })),
            letter(json!({ "kind": "quit", "user": 1, "text": "bye" })),
            letter(json!({ "kind": "set", "user": 1,
                "settings": { "channel": "#a", "born": stamp, "settings": [topic] } })),
            letter(
                json!({ "kind": "message", "user": 1, "to": "#a", "command": "NOTICE", "text": "x", "tags": "" }),
            ),
            letter(json!({ "kind": "user", "user": 1, "nick": "anna", "claim": stamp, "username": "~a",
                "host": "127.0.0.1", "realname": "A B", "account": null, "away": null, "invisible": false,
                "since": 1, "active": 1, "channels": [{ "channel": "#a", "born": stamp }] })),
        ]
    }

    #[test]
    fn what_is_sound_is_taken_and_written_as_it_was_read() {
        for example in examples() {
            let letter = parse(&example).unwrap_or_else(|why| panic!("{example}: {why}"));
            assert_eq!(Letter::parse(letter.text().as_bytes()), Ok(letter));
        }
    }

    /// All strings in a value, one after the other, with something else in their place.
    fn spoilt(value: &Json, by: &str) -> Vec<Json> {
        match value {
            Json::String(_) => vec![json!(by)],
            Json::Array(all) => {
                let one = |n: usize| spoilt(&all[n], by).into_iter().map(move |other| (n, other));
                let replace = |(n, other): (usize, Json)| {
                    let mut all = all.clone();
                    all[n] = other;
                    Json::Array(all)
                };
                (0..all.len()).flat_map(one).map(replace).collect()
            }
            Json::Object(all) => {
                let one = |key: &String| {
                    spoilt(&all[key], by).into_iter().map(|other| (key.clone(), other)).collect()
                };
                let replace = |(key, other): (String, Json)| {
                    let mut all = all.clone();
                    all.insert(key, other);
                    Json::Object(all)
                };
                all.keys().flat_map(|key: &String| -> Vec<(String, Json)> { one(key) }).map(replace).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn nothing_that_holds_a_line_break_gets_in() {
        for example in examples() {
            for by in ["a\r\nQUIT", "a\nb", "a\0b"] {
                for spoilt in spoilt(&example, by) {
                    assert!(parse(&spoilt).is_err(), "{spoilt}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let _ = Letter::parse(&bytes);
            for example in examples() {
                let text = example.to_string();
                let mut mixed = text.as_bytes()[..cut.min(text.len())].to_vec();
                mixed.extend(&bytes);
                let _ = Letter::parse(&mixed);
            }
        }
    }
}
