//! `AUTHENTICATE`: whose account a client's is, by SASL's PLAIN
//! (<https://ircv3.net/specs/extensions/sasl-3.1>).

use unbroken::Net;

use crate::clients::ClientId;
use crate::server::Chat;

/// Wrong passwords of one connection at most: each costs the time of a hash.
pub const MOST_TRIES: u8 = 3;
/// Bytes of one piece, and of all pieces together at most.
const PIECE: usize = 400;
const MOST_BYTES: usize = 3 * PIECE;

impl Chat {
    pub fn authenticate(&mut self, net: &mut Net, conn: ClientId, params: &[&str]) {
        let Some(client) = self.clients.get_mut(conn) else { return };
        let (words, known) = (params[0], client.authenticating.take());
        if self.accounts.is_none() || client.tries >= MOST_TRIES {
            return self.numeric(net, conn, 904, ":SASL authentication failed");
        }
        match (known, words) {
            (_, "*") => self.numeric(net, conn, 906, ":SASL authentication aborted"),
            (_, words) if words.len() > PIECE => self.numeric(net, conn, 905, ":SASL message too long"),
            (None, mechanism) if mechanism.eq_ignore_ascii_case("PLAIN") => {
                client.authenticating = Some(String::new());
                self.send(net, conn, "AUTHENTICATE +");
            }
            (None, _) => {
                self.numeric(net, conn, 908, "PLAIN :are available SASL mechanisms");
                self.numeric(net, conn, 904, ":SASL authentication failed");
            }
            (Some(known), words) if known.len() + words.len() > MOST_BYTES => {
                self.numeric(net, conn, 904, ":SASL authentication failed");
            }
            // A whole piece is followed by another, or by the mark that there is none.
            (Some(known), words) if words.len() == PIECE => client.authenticating = Some(known + words),
            (Some(known), "+") => self.log_in(net, conn, &known),
            (Some(known), words) => self.log_in(net, conn, &(known + words)),
        }
    }

    fn log_in(&mut self, net: &mut Net, conn: ClientId, words: &str) {
        let decoded = data_encoding::BASE64.decode(words.as_bytes()).unwrap_or_default();
        let text = String::from_utf8(decoded).unwrap_or_default();
        let parts: Vec<&str> = text.split('\0').collect();
        let (Some(accounts), Some(client)) = (&self.accounts, self.clients.get_mut(conn)) else { return };
        let account = match parts[..] {
            [as_whom, account, password] if as_whom.is_empty() || as_whom == account => {
                Some(account).filter(|account| accounts.accepts(account, password))
            }
            _ => None,
        };
        let Some(account) = account else {
            client.tries += 1;
            log::warn!("{conn}: a password was refused");
            return self.numeric(net, conn, 904, ":SASL authentication failed");
        };
        client.account = Some(account.to_owned());
        let mut source = format!("{}!*@{}", client.nick.as_deref().unwrap_or("*"), client.host);
        let id = client.user;
        if let Some(user) = id.and_then(|id| self.state.user_mut(id)) {
            user.account = Some(account.to_owned());
            source = user.source();
        }
        self.numeric(net, conn, 900, &format!("{source} {account} :You are now logged in as {account}"));
        self.numeric(net, conn, 903, ":SASL authentication successful");
        if let Some(id) = id {
            self.relay_user(net, id);
        }
    }
}
