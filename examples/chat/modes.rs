//! `MODE`: of a channel, of a member, of oneself.

use unbroken::Net;

use crate::commands::Asker;
use crate::events::{is_word, ChannelName, Event};
use crate::irc::shown;
use crate::server::Chat;
use crate::settings::{Key, FLAGS, LISTS};
use crate::state::{User, UserId};

/// Entries of the lists of a channel at most.
pub const LIST_LENGTH: usize = 100;
/// Longest key, in bytes.
pub const KEY_LENGTH: usize = 23;
/// Modes with something behind them in one line.
const MOST_ARGUMENTS: usize = 4;

/// On or off, the letter, and what stands behind it.
pub type Mode = (bool, char, Option<String>);

/// Changes of modes, on as many lines as they need.
pub fn mode_lines(source: &str, channel: &str, modes: &[Mode]) -> Vec<String> {
    let (mut lines, mut letters, mut arguments, mut sign, mut count) =
        (Vec::new(), String::new(), String::new(), None, 0);
    for (on, letter, argument) in modes {
        let length = argument.as_ref().map_or(0, String::len);
        if count == MOST_ARGUMENTS || letters.len() + arguments.len() + length > 300 {
            lines.push(format!(":{source} MODE {channel} {letters}{arguments}"));
            (letters, arguments, sign, count) = (String::new(), String::new(), None, 0);
        }
        if sign != Some(*on) {
            letters.push(if *on { '+' } else { '-' });
            sign = Some(*on);
        }
        letters.push(*letter);
        if let Some(argument) = argument {
            count += 1;
            arguments.push(' ');
            arguments.push_str(argument);
        }
    }
    if !letters.is_empty() {
        lines.push(format!(":{source} MODE {channel} {letters}{arguments}"));
    }
    lines
}

/// `nick!user@host`, with stars where a mask says less.
fn whole_mask(mask: &str) -> String {
    let (nick, rest) = match mask.split_once('!') {
        Some((nick, rest)) => (nick, rest),
        None if mask.contains('@') => ("", mask),
        None => (mask, ""),
    };
    let (user, host) = rest.split_once('@').unwrap_or((rest, ""));
    let star = |part: &str| if part.is_empty() { "*".to_owned() } else { part.to_owned() };
    format!("{}!{}@{}", star(nick), star(user), star(host))
}

impl Chat {
    pub fn mode(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        match params[0].starts_with('#') {
            true => self.channel_mode(net, asker, params),
            false => self.user_mode(net, asker, params),
        }
    }

    fn user_mode(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        match self.state.find(params[0]) {
            None => return self.no_nick(net, asker.conn, params[0]),
            Some(id) if id != asker.user => {
                return self.numeric(net, asker.conn, 502, ":Cannot change mode for other users");
            }
            Some(_) => {}
        }
        let modes = |user: &User| [(user.invisible, 'i'), (user.operator, 'o'), (user.wallops, 'w')];
        let Some(user) = self.state.user_mut(asker.user) else { return };
        let before = modes(user);
        let Some(changes) = params.get(1) else {
            let on: String = before.iter().filter(|(on, _)| *on).map(|(_, letter)| *letter).collect();
            return self.numeric(net, asker.conn, 221, &format!("+{on}"));
        };
        let (mut on, mut unknown) = (true, false);
        for mode in changes.chars() {
            match mode {
                '+' => on = true,
                '-' => on = false,
                'i' => user.invisible = on,
                'w' => user.wallops = on,
                // It is given by OPER alone.
                'o' => user.operator &= on,
                _ => unknown = true,
            }
        }
        let (nick, after) = (user.nick.clone(), modes(user));
        let changed = before.iter().zip(after).filter(|(before, after)| **before != *after);
        let changed: Vec<Mode> = changed.map(|(_, (on, letter))| (on, letter, None)).collect();
        for line in mode_lines(&nick, &nick, &changed) {
            self.send(net, asker.conn, &line);
        }
        if !changed.is_empty() {
            self.relay_user(net, asker.user);
        }
        if unknown {
            self.numeric(net, asker.conn, 501, ":Unknown MODE flag");
        }
    }

    fn channel_mode(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let (name, user) = (params[0], asker.user);
        let Some(channel) = self.state.channel(name).filter(|channel| self.state.knows(user, channel)) else {
            return self.no_channel(net, asker.conn, name);
        };
        let name = channel.name.clone();
        let Some(changes) = params.get(1) else {
            let modes = channel.modes(channel.members.contains_key(&user));
            let since = channel.born.seconds();
            self.numeric(net, asker.conn, 324, &format!("{name} {modes}"));
            return self.numeric(net, asker.conn, 329, &format!("{name} {since}"));
        };
        let operator = channel.is_operator(user);
        let (mut on, mut arguments, mut keys) = (true, params[2..].iter().copied(), Vec::new());
        let mut refused = false;
        for letter in changes.chars() {
            match letter {
                '+' => on = true,
                '-' => on = false,
                // To ask for a list is everybody's right.
                _ if LISTS.contains(letter) && arguments.len() == 0 => {
                    self.show_list(net, asker, &name, letter)
                }
                _ if !operator => refused = true,
                'o' | 'v' => match arguments.next() {
                    Some(nick) => self.rank_asked(net, asker, &name, letter, on, nick),
                    None => self.numeric(net, asker.conn, 461, "MODE :Not enough parameters"),
                },
                _ if FLAGS.contains(letter) => {
                    self.set(user, &name, (letter, String::new()), on.then_some(""));
                    keys.push((letter, String::new()));
                }
                'k' | 'l' => {
                    // A key is named when it is taken away, too, but nobody has to know it for that.
                    let argument = if on || letter == 'k' { arguments.next() } else { None };
                    keys.extend(self.value_set(net, asker, &name, letter, on, argument));
                }
                _ if LISTS.contains(letter) => {
                    let mask = arguments.next().unwrap_or_default();
                    keys.extend(self.list_set(net, asker, &name, letter, on, mask));
                }
                other => {
                    let text = format!("{} :is unknown mode char to me", shown(&other.to_string()));
                    self.numeric(net, asker.conn, 472, &text);
                }
            }
        }
        if refused {
            self.not_operator(net, asker.conn, &name);
        }
        self.settings_set(net, user, &name, &keys);
    }

    fn value_set(
        &mut self,
        net: &mut Net,
        asker: Asker,
        name: &str,
        letter: char,
        on: bool,
        argument: Option<&str>,
    ) -> Option<Key> {
        let key = (letter, String::new());
        let good = |text: &str| match letter {
            'l' => text.parse::<u32>().is_ok_and(|limit| limit > 0),
            _ => is_word(text) && !text.contains(',') && text.len() <= KEY_LENGTH,
        };
        match argument {
            _ if !on => self.set(asker.user, name, key.clone(), None),
            None => {
                self.numeric(net, asker.conn, 461, "MODE :Not enough parameters");
                return None;
            }
            Some(text) if good(text) => self.set(asker.user, name, key.clone(), Some(text)),
            Some(text) => {
                // A key is nobody else's business, even a bad one.
                let shown = if letter == 'k' { "*" } else { shown(text) };
                let text = format!("{name} {letter} {shown} :Invalid mode parameter");
                self.numeric(net, asker.conn, 696, &text);
                return None;
            }
        }
        Some(key)
    }

    fn list_set(
        &mut self,
        net: &mut Net,
        asker: Asker,
        name: &str,
        letter: char,
        on: bool,
        mask: &str,
    ) -> Option<Key> {
        let settings = &self.state.channel(name)?.settings;
        let (whole, count) = (whole_mask(mask), settings.list(letter).count());
        if !is_word(&whole) {
            let text = format!("{name} {letter} {} :Invalid mode parameter", shown(mask));
            self.numeric(net, asker.conn, 696, &text);
            return None;
        }
        let known = settings.list(letter).any(|(known, _)| known == whole);
        if on && !known && count >= LIST_LENGTH {
            self.numeric(net, asker.conn, 478, &format!("{name} {letter} :Channel list is full"));
            return None;
        }
        if known == on {
            return None;
        }
        let key = (letter, whole);
        self.set(asker.user, name, key.clone(), on.then_some(""));
        Some(key)
    }

    fn show_list(&self, net: &mut Net, asker: Asker, name: &str, letter: char) {
        let Some(channel) = self.state.channel(name) else { return };
        let (entry, end, what) = if letter == 'b' { (367, 368, "ban") } else { (348, 349, "exception") };
        for (mask, value) in channel.settings.list(letter) {
            self.numeric(net, asker.conn, entry, &format!("{name} {mask} {} {}", value.by, value.when));
        }
        self.numeric(net, asker.conn, end, &format!("{name} :End of channel {what} list"));
    }

    fn rank_asked(&mut self, net: &mut Net, asker: Asker, name: &str, letter: char, on: bool, nick: &str) {
        match self.state.find(nick) {
            None => self.no_nick(net, asker.conn, nick),
            Some(id) if !self.state.is_member(id, name) => self.not_member(net, asker.conn, nick, name),
            Some(id) => self.rank_set(net, asker.user, id, name, letter, on),
        }
    }

    /// A member gets another rank, from its own server.
    pub fn rank_set(&mut self, net: &mut Net, by: UserId, id: UserId, name: &str, letter: char, on: bool) {
        let (local, Some(whom)) = (self.is_local(id), self.reference(id)) else { return };
        let Some(channel) = self.state.channel_mut(name) else { return };
        if !local {
            let (born, channel) = (channel.born, ChannelName(channel.name.clone()));
            return self.publish(net, Event::AskRank { user: by.0, whom, channel, born, letter, on });
        }
        if channel.set_rank(id, letter, on) {
            self.relay_join(net, id, name, Some(by));
            if let Some(source) = self.state.user(by).map(User::source) {
                self.settle(net, name, &source);
            }
        }
    }
}
