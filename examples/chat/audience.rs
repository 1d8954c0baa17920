//! Who hears a channel, ready to be sent to: the connections of its members by reactor and by the form that
//! each takes lines in. A list is made when it is first needed, and forgotten when a member comes or goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use unbroken::{ConnId, Net};

use crate::clients::{ClientId, STATE};
use crate::irc::fold;
use crate::mail::Order;
use crate::server::Chat;
use crate::state::UserId;
use crate::wire::{is_tagged, Line};

/// The connections of one reactor that take one variant of a line.
struct Hearers {
    reactor: usize,
    variant: usize,
    conns: Arc<[ConnId]>,
}

#[derive(Default)]
pub struct Audiences(HashMap<String, Vec<Hearers>>);

impl Audiences {
    /// The members of a channel are others than before.
    pub fn forget(&mut self, channel: &str) {
        self.0.remove(&fold(channel));
    }

    /// A member of these channels takes lines in another form, or is gone.
    pub fn forget_all<'a>(&mut self, channels: impl IntoIterator<Item = &'a String>) {
        for channel in channels {
            self.0.remove(channel);
        }
    }
}

impl Chat {
    /// Sends a line to all members of a channel, but one perhaps.
    pub fn deliver_to_channel(&mut self, net: &mut Net, text: String, channel: &str, but: Option<UserId>) {
        let line = Line::new(text, "", (self.clock)());
        self.deliver_line(net, line, channel, but, false);
    }

    /// The same, or for those alone who take tags.
    pub fn deliver_line(
        &mut self,
        net: &mut Net,
        mut line: Line,
        channel: &str,
        but: Option<UserId>,
        tagged_only: bool,
    ) {
        let name = fold(channel);
        if !self.audiences.0.contains_key(&name) {
            let Some(audience) = self.audience(&name) else { return };
            self.audiences.0.insert(name.clone(), audience);
        }
        let Some(audience) = self.audiences.0.get(&name) else { return };
        let but = but.and_then(|user| self.conns.get(&user)).copied();
        // To whoever asked for it with a label it is an answer.
        let asker = self.answered().filter(|asker| Some(*asker) != but);
        let is_hearer = |id: ClientId| {
            audience.iter().any(|hearers| hearers.reactor == id.reactor && hearers.conns.contains(&id.conn))
        };
        if let Some(asker) = asker.filter(|asker| is_hearer(*asker)) {
            self.is_answer(asker, "", line.text());
        }
        for Hearers { reactor, variant, conns } in audience {
            if tagged_only && !is_tagged(*variant) {
                continue;
            }
            let bytes = line.variant(*variant);
            let there = |id: Option<ClientId>| id.filter(|id| id.reactor == *reactor).map(|id| id.conn);
            let but = [there(but), there(asker)];
            match *reactor {
                STATE => self.ports.news_for(net, conns, but, bytes),
                _ => self.far.post(*reactor, Order::NewsFor(conns.clone(), but, bytes)),
            }
        }
    }

    fn audience(&self, name: &str) -> Option<Vec<Hearers>> {
        let mut lists = BTreeMap::<_, Vec<_>>::new();
        for user in self.state.channel(name)?.members.keys() {
            let Some(conn) = self.conns.get(user) else { continue };
            let Some(client) = self.clients.get(*conn) else { continue };
            if let Some(form) = client.form {
                lists.entry((conn.reactor, client.variant(form))).or_default().push(conn.conn);
            }
        }
        let hearers =
            |((reactor, variant), conns): (_, Vec<_>)| Hearers { reactor, variant, conns: conns.into() };
        Some(lists.into_iter().map(hearers).collect())
    }
}
