//! Events between servers: what this one tells the others, and what it makes of theirs.
//!
//! A nick that two servers gave out at the same time, or while they could not reach each other,
//! stays with whoever registered first (at a tie with the server whose name sorts first); the
//! other user is renamed by its own server.

use serde_json::{json, Value};
use unbroken::Net;

use crate::irc::{is_channel, is_nick};
use crate::relay::Peer;
use crate::server::Chat;
use crate::state::{Topic, User, UserId};

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    // What came through Redis must not become several lines.
    event[key].as_str().filter(|text| !text.contains(['\r', '\n', '\0'])).unwrap_or_default()
}

impl Chat {
    fn is_local(&self, id: UserId) -> bool {
        self.state.user(id).is_some_and(User::is_local)
    }

    /// Whether the other servers are to hear what this user does: it is one of ours, and they can be
    /// reached.
    fn is_told(&self, id: UserId) -> bool {
        self.relay.is_up() && self.is_local(id)
    }

    /// A user as other servers name it: its server and its number there.
    fn reference(&self, id: UserId) -> Value {
        match self.state.user(id) {
            Some(user) if user.is_local() => json!([self.relay.id, id.0]),
            Some(user) => json!([user.server, user.number]),
            None => Value::Null,
        }
    }

    fn described(&self, id: UserId) -> Option<Value> {
        let user = self.state.user(id)?;
        let channels: Vec<Value> = user
            .channels
            .iter()
            .filter_map(|name| self.state.channel(name))
            .map(|channel| json!([channel.name, channel.members.get(&id)]))
            .collect();
        Some(json!({
            "user": id.0, "nick": user.nick, "username": user.user, "host": user.host,
            "realname": user.realname, "invisible": user.invisible, "since": user.since, "channels": channels,
        }))
    }

    /// Everything that this server knows of its own.
    pub fn publish_state(&mut self, net: &mut Net) {
        let users: Vec<Value> = self.conns.keys().filter_map(|id| self.described(*id)).collect();
        let topics: Vec<Value> = self
            .state
            .channels()
            .filter_map(|channel| {
                let topic = channel.topic.as_ref()?;
                Some(json!([channel.name, topic.text, topic.by, topic.at]))
            })
            .collect();
        self.publish(net, "state", json!({ "users": users, "topics": topics }));
    }

    pub fn relay_user(&mut self, net: &mut Net, id: UserId) {
        if !self.is_told(id) {
            return;
        }
        if let Some(user) = self.described(id) {
            self.publish(net, "user", user);
        }
    }

    pub fn relay_nick(&mut self, net: &mut Net, id: UserId) {
        if let (true, Some(user)) = (self.is_told(id), self.state.user(id)) {
            let event = json!({ "user": id.0, "nick": user.nick });
            self.publish(net, "nick", event);
        }
    }

    pub fn relay_quit(&mut self, net: &mut Net, id: UserId, why: &str) {
        if self.is_told(id) {
            self.publish(net, "quit", json!({ "user": id.0, "text": why }));
        }
    }

    pub fn relay_join(&mut self, net: &mut Net, id: UserId, channel: &str, operator: bool) {
        if self.is_told(id) {
            self.publish(net, "join", json!({ "user": id.0, "channel": channel, "operator": operator }));
        }
    }

    pub fn relay_part(&mut self, net: &mut Net, id: UserId, channel: &str, words: &str) {
        if self.is_told(id) {
            self.publish(net, "part", json!({ "user": id.0, "channel": channel, "text": words }));
        }
    }

    pub fn relay_topic(&mut self, net: &mut Net, by: UserId, channel: &str, topic: &Topic) {
        if self.is_told(by) {
            let event = json!({
                "user": by.0, "channel": channel, "text": topic.text, "by": topic.by, "at": topic.at,
            });
            self.publish(net, "topic", event);
        }
    }

    pub fn relay_kick(&mut self, net: &mut Net, by: UserId, whom: UserId, channel: &str, words: &str) {
        if self.is_told(by) {
            let whom = self.reference(whom);
            self.publish(
                net,
                "kick",
                json!({ "user": by.0, "channel": channel, "whom": whom, "text": words }),
            );
        }
    }

    pub fn relay_mode(
        &mut self,
        net: &mut Net,
        by: UserId,
        channel: &str,
        on: bool,
        mode: char,
        of: Option<UserId>,
    ) {
        if self.is_told(by) {
            let whom = of.map_or(Value::Null, |id| self.reference(id));
            let event = json!({
                "user": by.0, "channel": channel, "on": on, "mode": mode.to_string(), "whom": whom,
            });
            self.publish(net, "mode", event);
        }
    }

    /// A message to a channel goes to all servers, one to a user to that user's.
    pub fn relay_message(&mut self, net: &mut Net, by: UserId, command: &str, target: &str, words: &str) {
        if !self.is_told(by) {
            return;
        }
        let to = match self.state.find(target) {
            _ if target.starts_with('#') => json!(target),
            Some(id) if !self.is_local(id) => self.reference(id),
            _ => return,
        };
        self.publish(net, "message", json!({ "user": by.0, "command": command, "to": to, "text": words }));
    }

    /// Something that another server published.
    pub fn relay_event(&mut self, net: &mut Net, event: &Value) {
        let (server, kind, number) = (text(event, "server"), text(event, "kind"), event["number"].as_u64());
        let Some(number) = number.filter(|_| !server.is_empty() && server != self.relay.id) else { return };
        let (tick, name) = (self.tick, text(event, "name").to_owned());
        let peer = self.relay.peers.entry(server.to_owned()).or_insert_with(|| Peer {
            name,
            heard: tick,
            last: None,
            users: Default::default(),
        });
        peer.heard = tick;
        match kind {
            "hello" => return self.publish_state(net),
            "bye" => return self.peer_gone(net, server),
            "ask" if text(event, "whom") == self.relay.id => self.publish_state(net),
            "state" => {
                peer.last = Some(number);
                return self.peer_state(net, server, event);
            }
            _ => {}
        }
        let Some(peer) = self.relay.peers.get_mut(server) else { return };
        if peer.last.is_none_or(|last| last + 1 != number) {
            // Something was missed, or came before we were here.
            let asked = peer.last.is_none() && kind != "alive";
            peer.last = None;
            if !asked {
                self.publish(net, "ask", json!({ "whom": server }));
            }
            return;
        }
        peer.last = Some(number);
        if kind == "user" {
            return self.peer_user(net, server, event);
        }
        let Some(id) = event["user"].as_u64().and_then(|number| self.known(server, number)) else { return };
        self.deed(net, server, id, kind, event);
    }

    fn known(&self, server: &str, number: u64) -> Option<UserId> {
        match server == self.relay.id {
            true => Some(UserId(number)).filter(|id| self.is_local(*id)),
            false => self.relay.peers.get(server)?.users.get(&number).copied(),
        }
    }

    fn dereference(&self, reference: &Value) -> Option<UserId> {
        self.known(reference[0].as_str()?, reference[1].as_u64()?)
    }

    /// What a user of another server did.
    fn deed(&mut self, net: &mut Net, server: &str, id: UserId, kind: &str, event: &Value) {
        let (channel, words) = (text(event, "channel"), text(event, "text"));
        match kind {
            "nick" => {
                let nick = text(event, "nick").to_owned();
                let since = self.state.user(id).map_or(0, |user| user.since);
                let free = self.free_nick(net, server, since, &nick, Some(id));
                self.rename(net, id, &free);
            }
            "quit" => {
                let number = self.state.user(id).map_or(0, |user| user.number);
                if let Some(peer) = self.relay.peers.get_mut(server) {
                    peer.users.remove(&number);
                }
                self.quit(net, id, words);
            }
            "join" if is_channel(channel) => {
                let operator =
                    event["operator"].as_bool().unwrap_or(false) && self.state.channel(channel).is_none();
                self.joined(net, id, channel, operator);
            }
            "part" => self.parted(net, id, channel, words),
            "topic" => {
                let at = event["at"].as_u64().unwrap_or_default();
                let topic = Topic { text: words.to_owned(), by: text(event, "by").to_owned(), at };
                self.topic_set(net, id, channel, topic);
            }
            "kick" => {
                if let Some(whom) = self.dereference(&event["whom"]) {
                    self.kicked(net, id, whom, channel, words);
                }
            }
            "mode" => {
                let on = event["on"].as_bool().unwrap_or(false);
                let whom = self.dereference(&event["whom"]);
                if let Some(mode) = text(event, "mode").chars().next() {
                    self.modes_set(net, id, channel, &[(on, mode, whom)]);
                }
            }
            "message" => self.peer_message(net, id, event),
            _ => {}
        }
    }

    fn peer_message(&mut self, net: &mut Net, from: UserId, event: &Value) {
        let command = if text(event, "command") == "NOTICE" { "NOTICE" } else { "PRIVMSG" };
        let (Some(source), words) = (self.state.user(from).map(User::source), text(event, "text")) else {
            return;
        };
        match event["to"].as_str() {
            Some(name) => {
                let Some(channel) = self.state.channel(name) else { return };
                let line = format!(":{source} {command} {} :{words}", channel.name);
                self.deliver_to_channel(net, line, name, None);
            }
            None => {
                let Some(id) = self.dereference(&event["to"]) else { return };
                let Some(nick) = self.state.user(id).map(|user| user.nick.clone()) else { return };
                self.deliver(net, format!(":{source} {command} {nick} :{words}"), [id]);
            }
        }
    }

    /// Another server's whole state: who is not in it any more has left.
    fn peer_state(&mut self, net: &mut Net, server: &str, event: &Value) {
        let users = event["users"].as_array().map_or(&[][..], Vec::as_slice);
        let present: Vec<u64> = users.iter().filter_map(|user| user["user"].as_u64()).collect();
        let Some(peer) = self.relay.peers.get_mut(server) else { return };
        let name = peer.name.clone();
        let gone: Vec<u64> = peer.users.keys().copied().filter(|number| !present.contains(number)).collect();
        let gone: Vec<UserId> = gone.iter().filter_map(|number| peer.users.remove(number)).collect();
        for id in gone {
            self.quit(net, id, &format!("{} {name}", self.options.name));
        }
        for user in users {
            self.peer_user(net, server, user);
        }
        for topic in event["topics"].as_array().map_or(&[][..], Vec::as_slice) {
            let (Some(channel), Some(words)) = (topic[0].as_str(), topic[1].as_str()) else { continue };
            let (by, at) = (topic[2].as_str().unwrap_or_default(), topic[3].as_u64().unwrap_or_default());
            let Some(channel) = self.state.channel_mut(channel) else { continue };
            if channel.topic.as_ref().is_none_or(|known| known.at < at) && !words.contains(['\r', '\n']) {
                channel.topic = Some(Topic { text: words.to_owned(), by: by.to_owned(), at });
                let line = format!(":{name} TOPIC {} :{words}", channel.name);
                let channel = channel.name.clone();
                self.deliver_to_channel(net, line, &channel, None);
            }
        }
    }

    /// One user of another server, with all that belongs to it.
    fn peer_user(&mut self, net: &mut Net, server: &str, described: &Value) {
        let Some(number) = described["user"].as_u64() else { return };
        let (nick, since) = (text(described, "nick"), described["since"].as_u64().unwrap_or_default());
        if !is_nick(nick, 64) {
            return;
        }
        let invisible = described["invisible"].as_bool().unwrap_or(false);
        let id = match self.known(server, number) {
            Some(id) => {
                let nick = self.free_nick(net, server, since, nick, Some(id));
                self.rename(net, id, &nick);
                id
            }
            None => {
                let nick = self.free_nick(net, server, since, nick, None);
                let part = |key: &str| text(described, key).split(' ').next().unwrap_or_default().to_owned();
                let user = User {
                    nick,
                    user: part("username"),
                    host: part("host"),
                    realname: text(described, "realname").to_owned(),
                    invisible,
                    server: server.to_owned(),
                    number,
                    since,
                    active: since,
                    channels: Default::default(),
                };
                let Some(id) = self.state.add(user) else { return };
                self.count_all();
                if let Some(peer) = self.relay.peers.get_mut(server) {
                    peer.users.insert(number, id);
                }
                id
            }
        };
        if let Some(user) = self.state.user_mut(id) {
            user.invisible = invisible;
        }
        let channels = described["channels"].as_array().map_or(&[][..], Vec::as_slice);
        let present: Vec<&str> = channels.iter().filter_map(|channel| channel[0].as_str()).collect();
        let known = self.state.user(id).map(|user| user.channels.clone()).unwrap_or_default();
        for name in known {
            if !present.iter().any(|channel| channel.eq_ignore_ascii_case(&name)) {
                self.parted(net, id, &name, "");
            }
        }
        for channel in channels {
            let Some(name) = channel[0].as_str().filter(|name| is_channel(name)) else { continue };
            self.joined(net, id, name, channel[1].as_bool().unwrap_or(false));
        }
    }

    /// The nick that a user of another server gets here: its own, unless somebody has the better
    /// right to it. A user of ours who has not is renamed first.
    fn free_nick(
        &mut self,
        net: &mut Net,
        server: &str,
        since: u64,
        nick: &str,
        user: Option<UserId>,
    ) -> String {
        let Some(holder) = self.state.find(nick).filter(|holder| Some(*holder) != user) else {
            return nick.to_owned();
        };
        let ours = self.state.user(holder).map_or((0, ""), |user| {
            (user.since, if user.is_local() { self.relay.id.as_str() } else { user.server.as_str() })
        });
        if self.is_local(holder) && (since, server) < ours {
            let guest = self.guest(nick);
            self.rename(net, holder, &guest);
            return nick.to_owned();
        }
        // Its own server comes to the same verdict, and will rename it.
        self.guest(nick)
    }

    /// A free nick like the one that was wanted.
    fn guest(&self, nick: &str) -> String {
        let base = crate::irc::truncate(nick, self.options.nick_length.saturating_sub(4) as usize);
        (2u32..)
            .map(|n| format!("{base}_{n}"))
            .find(|nick| self.state.find(nick).is_none())
            .unwrap_or_else(|| nick.to_owned())
    }
}
