//! What clients ask for, and what they are told: registration, questions, messages. What changes
//! channels stands in `channels`.

use unbroken::{ConnId, Net};

use crate::irc::{self, fold, is_nick, shown, Message};
use crate::server::Chat;
use crate::state::{User, UserId};

/// What `CAP` offers.
const CAPABILITIES: [&str; 3] = ["echo-message", "multi-prefix", "server-time"];

/// Targets of one message at most.
pub const MOST_TARGETS: usize = 4;

/// Room for the parameters of a reply: the rest of the line is its head.
const REPLY_ROOM: usize = 400;

/// Who asks: a connection, and its user once registered.
#[derive(Clone, Copy)]
pub struct Asker {
    pub conn: ConnId,
    pub user: UserId,
}

impl Chat {
    /// Carries out one command.
    pub fn command(&mut self, net: &mut Net, conn: ConnId, message: &Message<'_>) {
        let command = message.command.to_ascii_uppercase();
        let params = &message.params;
        let Some(client) = self.clients.get(conn) else { return };
        let user = client.user;
        let least = match command.as_str() {
            "USER" => 4,
            "KICK" => 2,
            "CAP" | "JOIN" | "PART" | "TOPIC" | "MODE" => 1,
            _ => 0,
        };
        if params.len() < least && (user.is_some() || matches!(command.as_str(), "USER" | "CAP")) {
            return self.numeric(net, conn, 461, &format!("{command} :Not enough parameters"));
        }
        match command.as_str() {
            "CAP" => return self.cap(net, conn, params),
            "NICK" => return self.nick(net, conn, params),
            "USER" => return self.user(net, conn, params),
            "PING" => return self.ping(net, conn, params),
            "PONG" | "ERROR" => return,
            "PASS" if user.is_none() => return,
            "PASS" => return self.numeric(net, conn, 462, ":You may not reregister"),
            "QUIT" => {
                // The mark tells a user's words from the server's own.
                let words = params.first().filter(|words| !words.is_empty());
                let why = words.map_or("Client quit".to_owned(), |words| format!("Quit: {words}"));
                return self.end(net, conn, &why);
            }
            _ => {}
        }
        let Some(user) = user else {
            return self.numeric(net, conn, 451, ":You have not registered");
        };
        let asker = Asker { conn, user };
        match command.as_str() {
            "JOIN" => self.join(net, asker, params),
            "PART" => self.part(net, asker, params),
            "TOPIC" => self.topic(net, asker, params),
            "KICK" => self.kick(net, asker, params),
            "MODE" => self.mode(net, asker, params),
            "NAMES" => self.names(net, asker, params),
            "LIST" => self.list(net, asker, params),
            "PRIVMSG" => self.message(net, asker, params, "PRIVMSG"),
            "NOTICE" => self.message(net, asker, params, "NOTICE"),
            "WHO" => self.who(net, asker, params),
            "WHOIS" => self.whois(net, asker, params),
            "MOTD" => self.motd(net, conn),
            "LUSERS" => self.lusers(net, conn),
            _ => {
                self.numeric(net, conn, 421, &format!("{} :Unknown command", shown(message.command)));
            }
        }
    }

    /// A numeric reply: `:server NNN nick rest`.
    pub fn numeric(&self, net: &mut Net, conn: ConnId, number: u16, rest: &str) {
        let line = format!(":{} {number:03} {} {rest}", self.options.name, self.nick_of(conn));
        self.send(net, conn, &line);
    }

    pub fn no_nick(&self, net: &mut Net, conn: ConnId, nick: &str) {
        self.numeric(net, conn, 401, &format!("{} :No such nick", shown(nick)));
    }

    pub fn no_channel(&self, net: &mut Net, conn: ConnId, name: &str) {
        self.numeric(net, conn, 403, &format!("{} :No such channel", shown(name)));
    }

    pub fn not_member(&self, net: &mut Net, conn: ConnId, nick: &str, name: &str) {
        self.numeric(net, conn, 441, &format!("{nick} {name} :They aren't on that channel"));
    }

    pub fn not_inside(&self, net: &mut Net, conn: ConnId, name: &str) {
        self.numeric(net, conn, 442, &format!("{name} :You're not on that channel"));
    }

    pub fn not_operator(&self, net: &mut Net, conn: ConnId, name: &str) {
        self.numeric(net, conn, 482, &format!("{name} :You're not channel operator"));
    }

    fn cap(&mut self, net: &mut Net, conn: ConnId, params: &[&str]) {
        let server = self.options.name.clone();
        let nick = self.nick_of(conn);
        let Some(client) = self.clients.get_mut(conn) else { return };
        let unregistered = client.user.is_none();
        let reply = match params[0].to_ascii_uppercase().as_str() {
            "LS" => {
                client.negotiating |= unregistered;
                format!("LS :{}", CAPABILITIES.join(" "))
            }
            "LIST" => {
                let on = [client.echo_message, client.multi_prefix, client.server_time];
                let on = CAPABILITIES.into_iter().zip(on);
                let on: Vec<&str> = on.filter(|(_, on)| *on).map(|(name, _)| name).collect();
                format!("LIST :{}", on.join(" "))
            }
            "REQ" => {
                client.negotiating |= unregistered;
                let asked = params.get(1).copied().unwrap_or_default();
                let known = |name: &str| CAPABILITIES.contains(&name.strip_prefix('-').unwrap_or(name));
                if asked.split_whitespace().all(known) {
                    for name in asked.split_whitespace() {
                        let (name, on) = name.strip_prefix('-').map_or((name, true), |name| (name, false));
                        match name {
                            "echo-message" => client.echo_message = on,
                            "multi-prefix" => client.multi_prefix = on,
                            _ => client.server_time = on,
                        }
                    }
                    if let Some(user) = client.user.and_then(|user| self.state.user(user)) {
                        self.audiences.forget_all(&user.channels);
                    }
                    format!("ACK :{asked}")
                } else {
                    format!("NAK :{asked}")
                }
            }
            "END" => {
                client.negotiating = false;
                return self.register(net, conn);
            }
            other => {
                return self.numeric(net, conn, 410, &format!("{} :Invalid CAP command", shown(other)));
            }
        };
        self.send(net, conn, &format!(":{server} CAP {nick} {reply}"));
    }

    fn nick(&mut self, net: &mut Net, conn: ConnId, params: &[&str]) {
        let Some(nick) = params.first().copied().filter(|nick| !nick.is_empty()) else {
            return self.numeric(net, conn, 431, ":No nickname given");
        };
        if !is_nick(nick, self.options.nick_length as usize) {
            return self.numeric(net, conn, 432, &format!("{} :Erroneous nickname", shown(nick)));
        }
        let user = self.clients.get(conn).and_then(|client| client.user);
        if self.state.find(nick).is_some_and(|holder| Some(holder) != user) {
            return self.numeric(net, conn, 433, &format!("{nick} :Nickname is already in use"));
        }
        match user {
            Some(user) => self.rename(net, user, nick),
            None => {
                if let Some(client) = self.clients.get_mut(conn) {
                    client.nick = Some(nick.to_owned());
                }
                self.register(net, conn);
            }
        }
    }

    /// A user takes another nick, which is free.
    pub fn rename(&mut self, net: &mut Net, id: UserId, nick: &str) {
        let Some(user) = self.state.user(id) else { return };
        if user.nick == nick {
            return;
        }
        let line = format!(":{} NICK {nick}", user.source());
        let mut hearers = self.state.neighbours(id);
        hearers.insert(id);
        if self.state.rename(id, nick) {
            self.deliver(net, line, hearers);
            self.relay_nick(net, id);
        }
    }

    fn user(&mut self, net: &mut Net, conn: ConnId, params: &[&str]) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        if client.user.is_some() {
            return self.numeric(net, conn, 462, ":You may not reregister");
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let name: String = params[0].chars().filter(allowed).take(18).collect();
        if params[0].is_empty() || params[3].is_empty() {
            return self.numeric(net, conn, 461, "USER :Not enough parameters");
        }
        if name.is_empty() {
            return self.numeric(net, conn, 468, ":Your user name needs letters or digits");
        }
        // It was not looked up by an ident server: that is what the mark says.
        client.names = Some((format!("~{name}"), irc::truncate(params[3], 150).to_owned()));
        self.register(net, conn);
    }

    /// Takes a client in once all is known.
    fn register(&mut self, net: &mut Net, conn: ConnId) {
        let now = self.now();
        let Some(client) = self.clients.get_mut(conn) else { return };
        if client.negotiating || client.user.is_some() {
            return;
        }
        let (Some(nick), Some((name, realname))) = (client.nick.clone(), client.names.clone()) else {
            return;
        };
        let user = User {
            nick: nick.clone(),
            user: name,
            host: client.host.clone(),
            realname,
            invisible: false,
            server: String::new(),
            since: now,
            active: now,
            number: 0,
            channels: Default::default(),
        };
        let Some(id) = self.state.add(user) else {
            // Somebody was faster.
            client.nick = None;
            return self.numeric(net, conn, 433, &format!("{nick} :Nickname is already in use"));
        };
        client.user = Some(id);
        self.conns.insert(id, conn);
        self.most_users = self.most_users.max(self.conns.len());
        self.count_all();
        self.heard(net, conn);
        self.welcome(net, conn, id);
        self.relay_user(net, id);
    }

    fn ping(&self, net: &mut Net, conn: ConnId, params: &[&str]) {
        match params.first() {
            Some(token) => {
                let server = &self.options.name;
                self.send(net, conn, &format!(":{server} PONG {server} :{token}"));
            }
            None => self.numeric(net, conn, 461, "PING :Not enough parameters"),
        }
    }

    /// `PRIVMSG` and `NOTICE`; to the latter no error is ever answered (RFC 2812, 3.3.2).
    fn message(&mut self, net: &mut Net, asker: Asker, params: &[&str], command: &str) {
        let (notice, now) = (command == "NOTICE", self.now());
        let refuse = |chat: &Self, net: &mut Net, number: u16, rest: &str| {
            if !notice {
                chat.numeric(net, asker.conn, number, rest);
            }
        };
        let Some(targets) = params.first().filter(|targets| !targets.is_empty()) else {
            return refuse(self, net, 411, &format!(":No recipient given ({command})"));
        };
        let Some(text) = params.get(1).copied().filter(|text| !text.is_empty()) else {
            return refuse(self, net, 412, ":No text to send");
        };
        for (n, target) in targets.split(',').enumerate() {
            if n >= MOST_TARGETS {
                let target = shown(target);
                return refuse(self, net, 407, &format!("{target} :Too many targets; the rest is not sent"));
            }
            let Some(source) = self.state.user(asker.user).map(User::source) else { return };
            if target.starts_with('#') {
                let Some(channel) = self.state.channel(target) else {
                    if !notice {
                        self.no_channel(net, asker.conn, target);
                    }
                    continue;
                };
                if channel.no_external && !channel.members.contains_key(&asker.user) {
                    refuse(self, net, 404, &format!("{target} :Cannot send to channel (+n)"));
                    continue;
                }
                let line = format!(":{source} {command} {} :{text}", channel.name);
                self.echo(net, asker, &line);
                self.deliver_to_channel(net, line, target, Some(asker.user));
            } else {
                let Some(id) = self.state.find(target) else {
                    if !notice {
                        self.no_nick(net, asker.conn, target);
                    }
                    continue;
                };
                let nick = self.state.user(id).map_or(target.to_owned(), |user| user.nick.to_owned());
                let line = format!(":{source} {command} {nick} :{text}");
                self.echo(net, asker, &line);
                // To oneself it comes in either case; who asked for echoes gets both.
                self.deliver(net, line, [id]);
            }
            if let Some(user) = self.state.user_mut(asker.user) {
                user.active = now;
            }
            self.counters.messages += 1;
            self.relay_message(net, asker.user, command, target, text);
        }
    }

    /// Sends what was taken back to a sender who wants that.
    fn echo(&self, net: &mut Net, asker: Asker, line: &str) {
        if self.clients.get(asker.conn).is_some_and(|client| client.echo_message) {
            self.send(net, asker.conn, line);
        }
    }

    fn who(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        let mask = params.first().copied().unwrap_or("*");
        let line = |id: UserId, channel: &str, operator: bool| {
            let user = self.state.user(id)?;
            let operator = if operator { "@" } else { "" };
            let (User { nick, user: name, host, realname, .. }, server) = (user, self.server_of(user));
            Some(format!("{channel} {name} {host} {server} {nick} H{operator} :0 {realname}"))
        };
        let mut lines = Vec::new();
        if let Some(channel) = self.state.channel(mask) {
            let inside = channel.members.contains_key(&asker.user);
            let seen = channel.members.iter().filter(|(id, _)| inside || self.state.sees(asker.user, **id));
            lines.extend(seen.filter_map(|(id, operator)| line(*id, &channel.name, *operator)));
        } else if !mask.starts_with('#') {
            let matching = self.state.users().filter(|(id, user)| {
                let exact = fold(mask) == fold(&user.nick);
                let by_mask = irc::matches(mask, &user.nick) || irc::matches(mask, &user.host) || mask == "0";
                exact || (by_mask && self.state.sees(asker.user, *id))
            });
            lines.extend(matching.filter_map(|(id, _)| line(id, "*", false)));
        }
        for line in lines {
            self.numeric(net, asker.conn, 352, &line);
        }
        self.numeric(net, asker.conn, 315, &format!("{} :End of /WHO list", shown(mask)));
    }

    /// The server of a user, as others see it.
    fn server_of<'a>(&'a self, user: &'a User) -> &'a str {
        match user.is_local() {
            true => &self.options.name,
            false => self.relay.name_of(&user.server),
        }
    }

    fn whois(&self, net: &mut Net, asker: Asker, params: &[&str]) {
        // With two parameters the first is the server that is to answer.
        let Some(asked) = params.get(1).or(params.first()).filter(|nick| !nick.is_empty()) else {
            return self.numeric(net, asker.conn, 431, ":No nickname given");
        };
        let conn = asker.conn;
        let Some((id, user)) = self.state.find(asked).and_then(|id| Some((id, self.state.user(id)?))) else {
            self.no_nick(net, conn, asked);
            return self.numeric(net, conn, 318, &format!("{} :End of /WHOIS list", shown(asked)));
        };
        let nick = &user.nick;
        self.numeric(net, conn, 311, &format!("{nick} {} {} * :{}", user.user, user.host, user.realname));
        let visible = self.state.sees(asker.user, id);
        let channels =
            user.channels.iter().filter_map(|name| self.state.channel(name)).filter_map(|channel| {
                let mark = if *channel.members.get(&id)? { "@" } else { "" };
                visible.then(|| format!("{mark}{}", channel.name))
            });
        self.long_reply(net, conn, 319, &format!("{nick} :"), channels);
        let server = self.server_of(user);
        self.numeric(net, conn, 312, &format!("{nick} {server} :{}", self.options.network));
        let idle = self.now().saturating_sub(user.active);
        self.numeric(net, conn, 317, &format!("{nick} {idle} {} :seconds idle, signon time", user.since));
        self.numeric(net, conn, 318, &format!("{nick} :End of /WHOIS list"));
    }

    /// Words for one reply, on as many lines as they need; none for no words.
    pub fn long_reply(
        &self,
        net: &mut Net,
        conn: ConnId,
        number: u16,
        head: &str,
        words: impl Iterator<Item = String>,
    ) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && line.len() + word.len() > REPLY_ROOM - head.len().min(REPLY_ROOM / 2) {
                self.numeric(net, conn, number, &format!("{head}{line}"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        if !line.is_empty() {
            self.numeric(net, conn, number, &format!("{head}{line}"));
        }
    }
}
