//! Questions about channels: who is in one, and which there are.

use std::collections::BTreeSet;

use unbroken::Net;

use crate::caps::{MULTI_PREFIX, USERHOST_IN_NAMES};
use crate::channel::Channel;
use crate::commands::Asker;
use crate::irc::{self, fold, shown};
use crate::server::Chat;
use crate::settings::TOPIC;

/// Channels of one question at most.
pub const MOST_CHANNELS: usize = 8;
/// Members that are listed for who names no channel, but for those of the last one.
const MOST_LISTED: usize = 1000;

/// What a channel must be like to be listed (the letters of `ELIST`).
struct Filter<'a> {
    masks: Vec<&'a str>,
    not: Vec<&'a str>,
    users: (usize, usize),
    /// Seconds since 1970 that it was founded in, and that its topic was set in.
    founded: (u64, u64),
    topic: Option<(u64, u64)>,
}

impl<'a> Filter<'a> {
    fn parse(words: &'a str, now: u64) -> Self {
        let mut filter = Self {
            masks: Vec::new(),
            not: Vec::new(),
            users: (0, usize::MAX),
            founded: (0, u64::MAX),
            topic: None,
        };
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let (front, number) =
                word.split_at(word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len()));
            let count = number.parse::<u64>().ok();
            let minutes = |count: u64| now.saturating_sub(count.saturating_mul(60));
            match (front, count) {
                (">", Some(count)) => filter.users.0 = (count as usize).saturating_add(1),
                ("<", Some(count)) => filter.users.1 = (count as usize).saturating_sub(1),
                // Longer ago than, and less long ago than so many minutes.
                ("C>", Some(count)) => filter.founded.1 = minutes(count),
                ("C<", Some(count)) => filter.founded.0 = minutes(count),
                ("T>", Some(count)) => filter.topic.get_or_insert((0, u64::MAX)).1 = minutes(count),
                ("T<", Some(count)) => filter.topic.get_or_insert((0, u64::MAX)).0 = minutes(count),
                _ => match word.strip_prefix('!') {
                    Some(mask) => filter.not.push(mask),
                    None => filter.masks.push(word),
                },
            }
        }
        filter
    }

    fn fits(&self, channel: &Channel) -> bool {
        let within = |(from, to): (u64, u64), at: u64| from <= at && at <= to;
        let set = channel.settings.value(TOPIC).map(|topic| topic.when);
        (self.masks.is_empty() || self.masks.iter().any(|mask| irc::matches(mask, &channel.name)))
            && !self.not.iter().any(|mask| irc::matches(mask, &channel.name))
            && (self.users.0..=self.users.1).contains(&channel.members.len())
            && within(self.founded, channel.born.seconds())
            && self.topic.is_none_or(|span| set.is_some_and(|set| within(span, set)))
    }
}

impl Chat {
    pub fn names(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        match params.first() {
            Some(name) if !name.contains(',') => self.show_names(net, asker, shown(name)),
            // Several have one end.
            Some(names) => {
                let mut shown_already = BTreeSet::new();
                for name in names.split(',').filter(|name| !name.is_empty()).take(MOST_CHANNELS) {
                    let channel =
                        self.state.channel(name).filter(|channel| self.state.knows(asker.user, channel));
                    if let Some(channel) = channel.filter(|channel| shown_already.insert(fold(&channel.name)))
                    {
                        self.show_members(net, asker, channel);
                    }
                }
                let names = if names.contains(' ') { "*" } else { irc::truncate(names, 300) };
                self.numeric(net, asker.conn, 366, &format!("{names} :End of /NAMES list"));
            }
            // Of all that the asker may know of, as far as they fit.
            None => {
                let mut listed = 0;
                for channel in self.state.channels().filter(|channel| self.state.knows(asker.user, channel)) {
                    if listed >= MOST_LISTED {
                        break;
                    }
                    listed += channel.members.len();
                    self.show_members(net, asker, channel);
                }
                self.numeric(net, asker.conn, 366, "* :End of /NAMES list");
            }
        }
    }

    pub fn show_names(&self, net: &mut Net, asker: Asker, name: &str) {
        let mut name = name;
        if let Some(channel) =
            self.state.channel(name).filter(|channel| self.state.knows(asker.user, channel))
        {
            name = &channel.name;
            self.show_members(net, asker, channel);
        }
        self.numeric(net, asker.conn, 366, &format!("{name} :End of /NAMES list"));
    }

    fn show_members(&self, net: &mut Net, asker: Asker, channel: &Channel) {
        let (name, inside) = (&channel.name, channel.members.contains_key(&asker.user));
        let all = self.has_cap(asker.user, MULTI_PREFIX);
        let whole = self.has_cap(asker.user, USERHOST_IN_NAMES);
        let names = channel.members.keys().filter_map(|id| {
            let user = self.state.user(*id)?;
            let seen = inside || self.state.sees(asker.user, *id);
            let name = if whole { user.source() } else { user.nick.clone() };
            seen.then(|| format!("{}{name}", channel.marks(*id, all)))
        });
        let symbol = if channel.settings.has('s') { '@' } else { '=' };
        self.long_reply(net, asker.conn, 353, &format!("{symbol} {name} :"), names);
    }

    pub fn list(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        self.numeric(net, asker.conn, 321, "Channel :Users  Name");
        let filter = Filter::parse(params.first().copied().unwrap_or_default(), self.now());
        let known = self.state.channels().filter(|channel| self.state.knows(asker.user, channel));
        for channel in known.filter(|channel| filter.fits(channel)) {
            let topic = channel.settings.value(TOPIC).map_or("", |topic| &topic.text);
            let text = format!("{} {} :{topic}", channel.name, channel.members.len());
            self.numeric(net, asker.conn, 322, &text);
        }
        self.numeric(net, asker.conn, 323, ":End of /LIST");
    }
}
