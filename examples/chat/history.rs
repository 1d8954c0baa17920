//! What was said in the channels, as far as it is kept: the last lines of each, while it lasts
//! (<https://ircv3.net/specs/extensions/chathistory>).

use std::collections::{BTreeMap, VecDeque};

use unbroken::Net;

use crate::caps::{BATCH, MESSAGE_TAGS, SERVER_TIME};
use crate::commands::Asker;
use crate::irc::{fold, shown};
use crate::server::Chat;
use crate::state::State;

/// A line of a channel.
#[derive(Clone)]
pub struct Said {
    /// When, as clients read it: the order of the texts is that of the times.
    pub time: String,
    /// `msgid=…` and what clients put before it.
    pub tags: String,
    pub line: String,
}

impl Said {
    fn id(&self) -> &str {
        self.tags.split(';').find_map(|tag| tag.strip_prefix("msgid=")).unwrap_or_default()
    }
}

/// The lines of each channel, by folded name.
#[derive(Default)]
pub struct Histories(BTreeMap<String, VecDeque<Said>>);

impl Histories {
    pub fn keep(&mut self, channel: &str, said: Said, most: usize) {
        if most > 0 {
            let lines = self.0.entry(fold(channel)).or_default();
            lines.push_back(said);
            lines.drain(..lines.len().saturating_sub(most));
        }
    }

    /// These channels may have ended.
    pub fn forget_ended<'a>(&mut self, state: &State, names: impl IntoIterator<Item = &'a String>) {
        for name in names.into_iter().filter(|name| state.channel(name).is_none()) {
            self.0.remove(name);
        }
    }
}

/// A place in a history.
enum Place<'a> {
    Time(&'a str),
    Id(&'a str),
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        match text.split_once('=')? {
            ("timestamp", time) if time.len() == 24 && time.ends_with('Z') => Some(Self::Time(time)),
            ("msgid", id) if !id.is_empty() => Some(Self::Id(id)),
            _ => None,
        }
    }

    /// How many lines are before this place, and how many are not behind it.
    fn around(&self, lines: &[Said]) -> (usize, usize) {
        match self {
            Self::Time(time) => (
                lines.partition_point(|said| said.time.as_str() < *time),
                lines.partition_point(|said| said.time.as_str() <= *time),
            ),
            Self::Id(id) => match lines.iter().position(|said| said.id() == *id) {
                Some(at) => (at, at + 1),
                None => (0, lines.len()),
            },
        }
    }
}

/// The lines that a question asks for; `None` when it makes no sense.
fn chosen<'a>(lines: &'a [Said], verb: &str, places: &[&str], limit: usize) -> Option<&'a [Said]> {
    let place = |n: usize| Place::parse(places.get(n)?);
    let last = |lines: &'a [Said]| &lines[lines.len().saturating_sub(limit)..];
    let first = |lines: &'a [Said]| &lines[..lines.len().min(limit)];
    Some(match verb {
        "LATEST" if places.first() == Some(&"*") => last(lines),
        "LATEST" => last(&lines[place(0)?.around(lines).1..]),
        "BEFORE" => last(&lines[..place(0)?.around(lines).0]),
        "AFTER" => first(&lines[place(0)?.around(lines).1..]),
        "AROUND" => {
            let middle = place(0)?.around(lines).0;
            let begin = middle.saturating_sub(limit / 2);
            first(&lines[begin..])
        }
        "BETWEEN" => {
            let (a, b) = (place(0)?.around(lines), place(1)?.around(lines));
            // From the first place towards the second, whichever is earlier.
            match a.0 <= b.0 {
                true => first(&lines[a.1.min(b.0)..b.0]),
                false => last(&lines[b.1.min(a.0)..a.0]),
            }
        }
        _ => return None,
    })
}

impl Chat {
    pub fn chat_history(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let fail = |chat: &Self, net: &mut Net, code: &str, about: &str, why: &str| {
            let line = format!(":{} FAIL CHATHISTORY {code} {about} :{why}", chat.options.name);
            chat.send(net, asker.conn, &line);
        };
        let verb = params[0].to_ascii_uppercase();
        let places = match verb.as_str() {
            "LATEST" | "BEFORE" | "AFTER" | "AROUND" => 1,
            "BETWEEN" | "TARGETS" => 2,
            _ => return fail(self, net, "INVALID_PARAMS", shown(params[0]), "Unknown command"),
        };
        let targets = usize::from(verb != "TARGETS");
        let [places @ .., limit] = params.get(1 + targets..2 + targets + places).unwrap_or_default() else {
            return fail(self, net, "INVALID_PARAMS", shown(&verb), "Insufficient parameters");
        };
        let Ok(limit) = limit.parse::<usize>() else {
            return fail(self, net, "INVALID_PARAMS", &verb, "The limit is no number");
        };
        let limit = limit.min(self.options.history);
        if verb == "TARGETS" {
            return self.history_targets(net, asker, places, limit);
        }
        let target = params[1];
        if !self.state.is_member(asker.user, target) {
            return fail(
                self,
                net,
                "INVALID_TARGET",
                &format!("{verb} {}", shown(target)),
                "No history of that",
            );
        }
        let lines: Vec<Said> = self.histories.0.get(&fold(target)).into_iter().flatten().cloned().collect();
        let Some(chosen) = chosen(&lines, &verb, places, limit) else {
            return fail(self, net, "INVALID_PARAMS", &verb, "No place in a history");
        };
        let channel = self.state.channel(target).map_or(target.to_owned(), |channel| channel.name.clone());
        self.send_batch(net, asker, &format!("chathistory {channel}"), chosen);
    }

    fn send_batch(&mut self, net: &mut Net, asker: Asker, kind: &str, lines: &[Said]) {
        let Some(caps) = self.clients.get(asker.conn).map(|client| client.caps) else { return };
        let (server, batch) = (self.options.name.clone(), self.batch());
        if caps.has(BATCH) {
            self.send(net, asker.conn, &format!(":{server} BATCH +{batch} {kind}"));
        }
        for said in lines {
            let mut tags = Vec::new();
            tags.extend(caps.has(BATCH).then(|| format!("batch={batch}")));
            tags.extend(caps.has(SERVER_TIME).then(|| format!("time={}", said.time)));
            tags.extend((caps.has(MESSAGE_TAGS) && !said.tags.is_empty()).then(|| said.tags.clone()));
            self.send_tagged(net, asker.conn, &tags.join(";"), &said.line);
        }
        if caps.has(BATCH) {
            self.send(net, asker.conn, &format!(":{server} BATCH -{batch}"));
        }
    }

    /// The asker's channels in which something was said between two times.
    fn history_targets(&mut self, net: &mut Net, asker: Asker, places: &[&str], limit: usize) {
        let times: Vec<&str> = places.iter().filter_map(|place| place.strip_prefix("timestamp=")).collect();
        let &[a, b] = &times[..] else { return };
        let (from, to) = (a.min(b), a.max(b));
        let latest = |name: &String| self.histories.0.get(name).and_then(VecDeque::back);
        let channels = self.state.user(asker.user).map(|user| user.channels.clone()).unwrap_or_default();
        let mut found: Vec<(String, String)> = channels
            .iter()
            .filter_map(|name| Some((latest(name)?.time.clone(), self.state.channel(name)?.name.clone())))
            .filter(|(time, _)| from < time.as_str() && time.as_str() < to)
            .collect();
        found.sort();
        found.truncate(limit);
        let lines: Vec<Said> = found
            .into_iter()
            .map(|(time, name)| {
                let line = format!(":{} CHATHISTORY TARGETS {name} {time}", self.options.name);
                Said { time, tags: String::new(), line }
            })
            .collect();
        self.send_batch(net, asker, "draft/chathistory-targets", &lines);
    }
}
