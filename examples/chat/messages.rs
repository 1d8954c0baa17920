//! What users say to each other.

use std::time::SystemTime;

use unbroken::Net;

use crate::between::Told;
use crate::caps::{ECHO_MESSAGE, MESSAGE_TAGS};
use crate::channels::is_banned;
use crate::commands::Asker;
use crate::events::{ChannelName, Command, Event, Tags, Target, Text};
use crate::history::Said;
use crate::irc::{shown, timestamp, truncate, MAX_LINE};
use crate::server::Chat;
use crate::state::{User, UserId};
use crate::wire::Line;

/// Targets of one message at most.
pub const MOST_TARGETS: usize = 4;

/// The tags of a client's that others may see: its own, and no more of them than may be sent.
fn client_tags(tags: &str) -> String {
    let good = |tag: &&str| tag.starts_with('+') && tag.len() > 1 && !tag.contains(|c: char| c.is_control());
    tags.split(';').filter(good).collect::<Vec<_>>().join(";")
}

/// What was said, and when: the same for all who hear it.
pub struct Spoken<'a> {
    pub command: Command,
    pub text: &'a str,
    pub tags: &'a str,
    pub time: SystemTime,
}

impl Chat {
    /// `PRIVMSG`, `NOTICE`, `TAGMSG`; to a notice no error is ever answered (RFC 2812, 3.3.2).
    pub fn message(&mut self, net: &mut Net, asker: Asker, params: &[&str], command: Command, tags: &str) {
        let refuse = |chat: &Self, net: &mut Net, number: u16, rest: &str| {
            if command != Command::Notice {
                chat.numeric(net, asker.conn, number, rest);
            }
        };
        let name = command.name();
        let Some(targets) = params.first().filter(|targets| !targets.is_empty()) else {
            return refuse(self, net, 411, &format!(":No recipient given ({name})"));
        };
        let text = params.get(1).copied().unwrap_or_default();
        if text.is_empty() && command != Command::Tagmsg {
            return refuse(self, net, 412, ":No text to send");
        }
        let tagged = self.clients.get(asker.conn).is_some_and(|client| client.caps.has(MESSAGE_TAGS));
        let tags = if tagged { client_tags(tags) } else { String::new() };
        if command == Command::Tagmsg && tags.is_empty() {
            return;
        }
        let now = self.now();
        if let Some(user) = self.state.user_mut(asker.user).filter(|_| command != Command::Tagmsg) {
            user.active = now;
            if self.relay.is_up() {
                self.relay.active.insert(asker.user);
            }
        }
        for (n, target) in targets.split(',').enumerate() {
            if n >= MOST_TARGETS {
                let target = shown(target);
                return refuse(self, net, 407, &format!("{target} :Too many targets; the rest is not sent"));
            }
            let tags = self.with_id(&tags);
            let spoken = Spoken { command, text, tags: &tags, time: (self.clock)() };
            let to = match target.starts_with('#') {
                true => match self.may_say(asker.user, target) {
                    Ok(channel) => {
                        self.say_to_channel(net, asker.user, &channel, &spoken);
                        Some(Target::Channel(ChannelName(channel)))
                    }
                    Err((number, why)) => {
                        refuse(self, net, number, &format!("{} :{why}", shown(target)));
                        continue;
                    }
                },
                false => {
                    let Some(id) = self.state.find(target) else {
                        refuse(self, net, 401, &format!("{} :No such nick", shown(target)));
                        continue;
                    };
                    self.say_to_user(net, asker.user, id, &spoken);
                    if let Some(User { nick, away: Some(words), .. }) = self.state.user(id) {
                        if command == Command::Privmsg {
                            refuse(self, net, 301, &format!("{nick} :{words}"));
                        }
                    }
                    self.reference(id).filter(|_| !self.is_local(id)).map(Target::User)
                }
            };
            self.counters.messages += 1;
            if let Some(to) = to.filter(|_| self.relay.is_up()) {
                let (text, tags) = (Text(text.to_owned()), Tags(tags));
                self.publish(net, Event::Message { user: asker.user.0, to, command, text, tags });
            }
        }
    }

    /// The channel as it is written, if a user may speak there.
    fn may_say(&self, id: UserId, target: &str) -> Result<String, (u16, &'static str)> {
        let user = self.state.user(id).ok_or((404, "You are not here"))?;
        let channel = self.state.channel(target).ok_or((403, "No such channel"))?;
        let (rank, member) = (channel.rank(id), channel.members.contains_key(&id));
        match &channel.settings {
            settings if settings.has('n') && !member => Err((404, "Cannot send to channel (+n)")),
            _ if rank.operator || rank.voice => Ok(channel.name.clone()),
            settings if settings.has('m') => Err((404, "Cannot send to channel (+m)")),
            settings if is_banned(settings, user) => Err((404, "Cannot send to channel (+b)")),
            _ => Ok(channel.name.clone()),
        }
    }

    /// Tags with the name of the message among them, the same on all servers.
    fn with_id(&mut self, tags: &str) -> String {
        self.counters.named += 1;
        let id = format!("msgid={:?}-{:x}-{:x}", self.relay.id, self.started, self.counters.named);
        if tags.is_empty() {
            id
        } else {
            format!("{tags};{id}")
        }
    }

    /// The line of a message; nothing stands behind the target of one that is all tags.
    fn line_of(&self, from: UserId, target: &str, spoken: &Spoken<'_>) -> Option<String> {
        let (source, name) = (self.state.user(from)?.source(), spoken.command.name());
        Some(match spoken.command {
            Command::Tagmsg => format!(":{source} {name} {target}"),
            _ => format!(":{source} {name} {target} :{}", spoken.text),
        })
    }

    /// A user of any server says something to the members of a channel.
    pub fn say_to_channel(&mut self, net: &mut Net, from: UserId, name: &str, spoken: &Spoken<'_>) {
        let Some(channel) = self.state.channel(name).map(|channel| channel.name.clone()) else { return };
        let Some(line) = self.line_of(from, &channel, spoken) else { return };
        self.echo(net, from, &line, spoken);
        let silent = spoken.command == Command::Tagmsg;
        if !silent && self.options.history > 0 {
            let line = truncate(&line, MAX_LINE).to_owned();
            let said = Said { time: timestamp(spoken.time), tags: spoken.tags.to_owned(), line };
            self.histories.keep(&channel, said, self.options.history);
        }
        let line = Line::new(line, spoken.tags, spoken.time);
        self.deliver_line(net, line, &channel, Some(from), silent);
    }

    /// A user of any server says something to one of ours, or one of ours to anybody.
    pub fn say_to_user(&mut self, net: &mut Net, from: UserId, to: UserId, spoken: &Spoken<'_>) {
        let Some(nick) = self.state.user(to).map(|user| user.nick.clone()) else { return };
        let Some(line) = self.line_of(from, &nick, spoken) else { return };
        self.echo(net, from, &line, spoken);
        let takes = spoken.command != Command::Tagmsg || self.has_cap(to, MESSAGE_TAGS);
        let Some(conn) = self.conns.get(&to).copied().filter(|_| takes) else { return };
        // To oneself it comes in either case; who asked for echoes gets both, and only the echo is the
        // answer to a question.
        let Some(client) = self.clients.get(conn) else { return };
        let Some(form) = client.form else { return };
        let variant = client.variant(form);
        let bytes = Line::new(line, spoken.tags, spoken.time).variant(variant);
        self.tell(net, conn, Told::News(bytes));
    }

    /// Sends what was taken back to a sender who wants that.
    fn echo(&self, net: &mut Net, from: UserId, line: &str, spoken: &Spoken<'_>) {
        let Some(conn) = self.conns.get(&from) else { return };
        let Some(client) = self.clients.get(*conn).filter(|client| client.caps.has(ECHO_MESSAGE)) else {
            return;
        };
        let tagged = client.caps.has(MESSAGE_TAGS);
        if tagged || spoken.command != Command::Tagmsg {
            self.send_with(net, *conn, spoken.time, if tagged { spoken.tags } else { "" }, line);
        }
    }
}
