//! What a client may ask for, and who carries it out.

use unbroken::Net;

use crate::clients::ClientId;
use crate::events::Command;
use crate::irc::{self, shown, Message};
use crate::server::Chat;
use crate::state::UserId;

/// Who asks: a connection, and its user once registered.
#[derive(Clone, Copy)]
pub struct Asker {
    pub conn: ClientId,
    pub user: UserId,
}

impl Chat {
    /// Carries out one command.
    pub fn command(&mut self, net: &mut Net, conn: ClientId, message: &Message<'_>) {
        let command = message.command.to_ascii_uppercase();
        let params = &message.params;
        let Some(client) = self.clients.get(conn) else { return };
        let user = client.user;
        let least = match command.as_str() {
            "USER" => 4,
            "KICK" | "INVITE" | "OPER" | "KILL" => 2,
            "CAP" | "AUTHENTICATE" | "JOIN" | "PART" | "TOPIC" | "MODE" | "USERHOST" | "ISON" | "MONITOR"
            | "WALLOPS" | "CHATHISTORY" => 1,
            _ => 0,
        };
        let before = matches!(command.as_str(), "USER" | "CAP" | "AUTHENTICATE");
        if params.len() < least && (user.is_some() || before) {
            return self.numeric(net, conn, 461, &format!("{command} :Not enough parameters"));
        }
        match command.as_str() {
            "CAP" => return self.cap(net, conn, params),
            "AUTHENTICATE" => return self.authenticate(net, conn, params),
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
            "INVITE" => self.invite(net, asker, params),
            "MODE" => self.mode(net, asker, params),
            "PRIVMSG" => self.message(net, asker, params, Command::Privmsg, message.tags),
            "NOTICE" => self.message(net, asker, params, Command::Notice, message.tags),
            "TAGMSG" => self.message(net, asker, params, Command::Tagmsg, message.tags),
            "AWAY" => self.away(net, asker, params),
            "MONITOR" => self.monitor(net, asker, params),
            "CHATHISTORY" if self.options.history > 0 => self.chat_history(net, asker, params),
            "OPER" => self.oper(net, asker, params),
            "KILL" => self.kill(net, asker, params),
            "WALLOPS" => self.wallops(net, asker, params),
            _ => self.question(net, asker, &command, params, message.command),
        }
    }

    /// What is only asked, and changes nothing.
    fn question(&self, net: &mut Net, asker: Asker, command: &str, params: &[&str], written: &str) {
        match command {
            "NAMES" => self.names(net, asker, params),
            "LIST" => self.list(net, asker, params),
            "WHO" => self.who(net, asker, params),
            "WHOIS" => self.whois(net, asker, params),
            "WHOWAS" => self.show_whowas(net, asker, params),
            "USERHOST" => self.userhost(net, asker, params),
            "ISON" => self.ison(net, asker, params),
            "LUSERS" => self.lusers(net, asker.conn),
            "MOTD" | "INFO" | "VERSION" | "TIME" => {
                // These can be asked of a server; only this one answers.
                let name = params.first().filter(|name| !irc::matches(name, &self.options.name));
                if let Some(name) = name.filter(|name| self.state.find(name).is_none()) {
                    return self.numeric(net, asker.conn, 402, &format!("{} :No such server", shown(name)));
                }
                match command {
                    "MOTD" => self.motd(net, asker.conn),
                    "INFO" => self.info(net, asker.conn),
                    "VERSION" => self.version(net, asker.conn),
                    _ => self.time(net, asker.conn),
                }
            }
            _ => self.numeric(net, asker.conn, 421, &format!("{} :Unknown command", shown(written))),
        }
    }

    /// A numeric reply: `:server NNN nick rest`.
    pub fn numeric(&self, net: &mut Net, conn: ClientId, number: u16, rest: &str) {
        let line = format!(":{} {number:03} {} {rest}", self.options.name, self.nick_of(conn));
        self.send(net, conn, &line);
    }

    pub fn no_nick(&self, net: &mut Net, conn: ClientId, nick: &str) {
        self.numeric(net, conn, 401, &format!("{} :No such nick", shown(nick)));
    }

    pub fn no_channel(&self, net: &mut Net, conn: ClientId, name: &str) {
        self.numeric(net, conn, 403, &format!("{} :No such channel", shown(name)));
    }

    pub fn not_member(&self, net: &mut Net, conn: ClientId, nick: &str, name: &str) {
        self.numeric(net, conn, 441, &format!("{nick} {name} :They aren't on that channel"));
    }

    pub fn not_inside(&self, net: &mut Net, conn: ClientId, name: &str) {
        self.numeric(net, conn, 442, &format!("{name} :You're not on that channel"));
    }

    pub fn not_operator(&self, net: &mut Net, conn: ClientId, name: &str) {
        self.numeric(net, conn, 482, &format!("{name} :You're not channel operator"));
    }

    fn ping(&self, net: &mut Net, conn: ClientId, params: &[&str]) {
        match params.first() {
            Some(token) => {
                let server = &self.options.name;
                self.send(net, conn, &format!(":{server} PONG {server} :{token}"));
            }
            None => self.numeric(net, conn, 461, "PING :Not enough parameters"),
        }
    }
}
