//! `MONITOR`: who wants to be told when somebody comes or goes
//! (<https://ircv3.net/specs/extensions/monitor>).

use std::collections::{BTreeSet, HashMap};

use unbroken::Net;

use crate::clients::ClientId;
use crate::commands::Asker;
use crate::irc::{fold, is_nick};
use crate::server::Chat;

/// Nicks that one client may watch.
pub const MOST_WATCHED: usize = 100;

/// Those who watch a nick, by folded nick.
#[derive(Default)]
pub struct Monitors(HashMap<String, Vec<ClientId>>);

impl Monitors {
    fn forget(&mut self, conn: ClientId, nick: &str) {
        if let Some(watchers) = self.0.get_mut(nick) {
            watchers.retain(|watcher| *watcher != conn);
            if watchers.is_empty() {
                self.0.remove(nick);
            }
        }
    }

    /// A connection is gone.
    pub fn forget_all(&mut self, conn: ClientId, nicks: &BTreeSet<String>) {
        nicks.iter().for_each(|nick| self.forget(conn, nick));
    }
}

impl Chat {
    pub fn monitor(&mut self, net: &mut Net, asker: Asker, params: &[&str]) {
        let nicks = params.get(1).copied().unwrap_or_default().split(',').filter(|nick| !nick.is_empty());
        match params[0].to_ascii_uppercase().as_str() {
            "+" => self.watch(net, asker.conn, nicks.collect()),
            "-" => {
                for nick in nicks.map(fold) {
                    self.monitors.forget(asker.conn, &nick);
                    if let Some(client) = self.clients.get_mut(asker.conn) {
                        client.watched.remove(&nick);
                    }
                }
            }
            "C" => {
                let Some(client) = self.clients.get_mut(asker.conn) else { return };
                let watched = std::mem::take(&mut client.watched);
                self.monitors.forget_all(asker.conn, &watched);
            }
            "L" => {
                let watched = self.watched(asker.conn);
                self.long_list(net, asker.conn, 732, watched);
                self.numeric(net, asker.conn, 733, ":End of MONITOR list");
            }
            "S" => {
                let watched = self.watched(asker.conn);
                self.show_presence(net, asker.conn, watched);
            }
            _ => {}
        }
    }

    fn watched(&self, conn: ClientId) -> Vec<String> {
        self.clients.get(conn).map_or(Vec::new(), |client| client.watched.iter().cloned().collect())
    }

    fn watch(&mut self, net: &mut Net, conn: ClientId, nicks: Vec<&str>) {
        let mut taken = Vec::new();
        for (n, nick) in nicks.iter().enumerate() {
            let Some(client) = self.clients.get_mut(conn) else { return };
            if !is_nick(nick, 64) || client.watched.contains(&fold(nick)) {
                continue;
            }
            if client.watched.len() >= MOST_WATCHED {
                let rest = nicks[n..].join(",");
                self.numeric(net, conn, 734, &format!("{MOST_WATCHED} {rest} :Monitor list is full"));
                break;
            }
            client.watched.insert(fold(nick));
            self.monitors.0.entry(fold(nick)).or_default().push(conn);
            taken.push((*nick).to_owned());
        }
        self.show_presence(net, conn, taken);
    }

    /// Which of these nicks are there, and which are not.
    fn show_presence(&self, net: &mut Net, conn: ClientId, nicks: Vec<String>) {
        let source = |nick: &String| Some(self.state.user(self.state.find(nick)?)?.source());
        let (here, away): (Vec<String>, Vec<String>) =
            nicks.into_iter().partition(|nick| source(nick).is_some());
        self.long_list(net, conn, 730, here.iter().filter_map(source).collect());
        self.long_list(net, conn, 731, away);
    }

    /// Words with commas between them, on as many lines as they need.
    fn long_list(&self, net: &mut Net, conn: ClientId, number: u16, words: Vec<String>) {
        let mut line = String::new();
        for word in words {
            if !line.is_empty() && line.len() + word.len() > 350 {
                self.numeric(net, conn, number, &format!(":{line}"));
                line.clear();
            }
            line = if line.is_empty() { word } else { line + "," + &word };
        }
        if !line.is_empty() {
            self.numeric(net, conn, number, &format!(":{line}"));
        }
    }

    /// Somebody has come, or is gone: whoever watches the nick is told.
    pub fn monitored(&self, net: &mut Net, source: &str, here: bool) {
        let nick = source.split('!').next().unwrap_or_default();
        let watchers = self.monitors.0.get(&fold(nick));
        for conn in watchers.into_iter().flatten() {
            match here {
                true => self.numeric(net, *conn, 730, &format!(":{source}")),
                false => self.numeric(net, *conn, 731, &format!(":{nick}")),
            }
        }
    }
}
