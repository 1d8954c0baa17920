//! Who hears a channel, ready to be sent to: the connections of its members by the form that each
//! takes lines in. A list is made when it is first needed, and forgotten when a member comes or goes.

use std::collections::HashMap;

use unbroken::{Broadcast, ConnId, Net};

use crate::irc::fold;
use crate::server::Chat;
use crate::state::UserId;
use crate::wire::{is_tagged, Line, VARIANTS};

/// The connections for each variant of a line.
type Lists = [Vec<ConnId>; VARIANTS];

#[derive(Default)]
pub struct Audiences(HashMap<String, Lists>);

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
            let Some(lists) = self.audience(&name) else { return };
            self.audiences.0.insert(name.clone(), lists);
        }
        let Some(lists) = self.audiences.0.get(&name) else { return };
        let but = but.and_then(|user| self.conns.get(&user)).copied();
        // To whoever asked for it with a label it is an answer.
        let asker = self.answered().filter(|asker| Some(*asker) != but);
        if asker.is_some_and(|asker| lists.iter().flatten().any(|conn| *conn == asker)) {
            asker.map(|asker| self.is_answer(asker, "", line.text()));
        }
        let mut congested = Vec::new();
        for (n, conns) in lists.iter().enumerate().filter(|(_, conns)| !conns.is_empty()) {
            if tagged_only && !is_tagged(n) {
                continue;
            }
            let bytes = line.variant(n);
            let receivers = conns.iter().copied().filter(|conn| Some(*conn) != but && Some(*conn) != asker);
            let outcome: Broadcast = net.broadcast(receivers, bytes);
            self.counters.deliveries += outcome.queued as u64;
            if outcome.congested > 0 {
                congested.extend_from_slice(conns);
            }
        }
        for conn in congested {
            self.drop_if_slow(net, conn);
        }
    }

    fn audience(&self, name: &str) -> Option<Lists> {
        let mut lists = Lists::default();
        for user in self.state.channel(name)?.members.keys() {
            let Some(conn) = self.conns.get(user) else { continue };
            let Some(client) = self.clients.get(*conn) else { continue };
            if let Some(form) = client.form() {
                lists[client.variant(form)].push(*conn);
            }
        }
        Some(lists)
    }
}
