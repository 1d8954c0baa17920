//! Coming in: a nick, a name, perhaps an account.

use unbroken::Net;

use crate::between::Told;
use crate::clients::ClientId;
use crate::irc::{self, is_nick, shown};
use crate::server::Chat;
use crate::state::User;

impl Chat {
    pub fn nick(&mut self, net: &mut Net, conn: ClientId, params: &[&str]) {
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
        let Some(id) = user else {
            if let Some(client) = self.clients.get_mut(conn) {
                client.nick = Some(nick.to_owned());
            }
            return self.register(net, conn);
        };
        if self.state.user(id).is_some_and(|user| user.wish != nick) {
            let renamed = self.state.claim(id, nick, self.stamp());
            self.renamed(net, renamed);
            self.relay_nick(net, id);
        }
    }

    pub fn user(&mut self, net: &mut Net, conn: ClientId, params: &[&str]) {
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
    pub fn register(&mut self, net: &mut Net, conn: ClientId) {
        let (now, stamp) = (self.now(), self.stamp());
        let Some(client) = self.clients.get_mut(conn) else { return };
        if client.negotiating || client.user.is_some() {
            return;
        }
        let (Some(nick), Some((name, realname))) = (client.nick.clone(), client.names.clone()) else {
            return;
        };
        if self.state.find(&nick).is_some() {
            // Somebody was faster.
            client.nick = None;
            return self.numeric(net, conn, 433, &format!("{nick} :Nickname is already in use"));
        }
        let user = User {
            wish: nick,
            claim: stamp,
            user: name,
            host: client.host.clone(),
            realname,
            account: client.account.clone(),
            since: now,
            active: now,
            ..User::default()
        };
        let (id, renamed) = self.state.add(user);
        client.user = Some(id);
        self.conns.insert(id, conn);
        self.renamed(net, renamed);
        self.most_users = self.most_users.max(self.conns.len());
        self.arrived(net, id);
        self.tell(net, conn, Told::Registered);
        self.welcome(net, conn, id);
        self.relay_user(net, id);
    }
}
