//! What a client can ask for beyond the protocol of 1993 (IRCv3's capabilities), and the line that
//! negotiates it.

use unbroken::Net;

use crate::clients::ClientId;
use crate::irc::shown;
use crate::server::Chat;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps(u16);

pub const AWAY_NOTIFY: Caps = Caps(1);
pub const BATCH: Caps = Caps(1 << 1);
pub const CHATHISTORY: Caps = Caps(1 << 2);
pub const ECHO_MESSAGE: Caps = Caps(1 << 3);
pub const LABELED_RESPONSE: Caps = Caps(1 << 4);
pub const MESSAGE_TAGS: Caps = Caps(1 << 5);
pub const MULTI_PREFIX: Caps = Caps(1 << 6);
pub const SASL: Caps = Caps(1 << 7);
pub const SERVER_TIME: Caps = Caps(1 << 8);
pub const USERHOST_IN_NAMES: Caps = Caps(1 << 9);

const NAMES: [(&str, Caps); 10] = [
    ("away-notify", AWAY_NOTIFY),
    ("batch", BATCH),
    ("draft/chathistory", CHATHISTORY),
    ("echo-message", ECHO_MESSAGE),
    ("labeled-response", LABELED_RESPONSE),
    ("message-tags", MESSAGE_TAGS),
    ("multi-prefix", MULTI_PREFIX),
    ("sasl", SASL),
    ("server-time", SERVER_TIME),
    ("userhost-in-names", USERHOST_IN_NAMES),
];

impl Caps {
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn set(&mut self, other: Self, on: bool) {
        if on {
            self.0 |= other.0;
        } else {
            self.0 &= !other.0;
        }
    }
}

impl Chat {
    /// What is offered: nothing that the settings do not provide for.
    fn offered(&self) -> impl Iterator<Item = (&'static str, Caps)> + '_ {
        NAMES.into_iter().filter(|(_, cap)| match *cap {
            CHATHISTORY => self.options.history > 0,
            SASL => self.accounts.is_some(),
            _ => true,
        })
    }

    pub fn cap(&mut self, net: &mut Net, conn: ClientId, params: &[&str]) {
        let offered: Vec<(&str, Caps)> = self.offered().collect();
        let Some(client) = self.clients.get_mut(conn) else { return };
        let unregistered = client.user.is_none();
        let reply = match params[0].to_ascii_uppercase().as_str() {
            "LS" => {
                client.negotiating |= unregistered;
                // From version 302 on capabilities have values.
                let values = params.get(1).and_then(|version| version.parse().ok()).unwrap_or(0u32) >= 302;
                let shown = offered.iter().map(|(name, cap)| match *cap {
                    SASL if values => format!("{name}=PLAIN"),
                    _ => (*name).to_owned(),
                });
                format!("LS :{}", shown.collect::<Vec<_>>().join(" "))
            }
            "LIST" => {
                let on = offered.iter().filter(|(_, cap)| client.caps.has(*cap)).map(|(name, _)| *name);
                format!("LIST :{}", on.collect::<Vec<_>>().join(" "))
            }
            "REQ" => {
                client.negotiating |= unregistered;
                let asked = params.get(1).copied().unwrap_or_default();
                let find = |name: &str| {
                    let (bare, on) = name.strip_prefix('-').map_or((name, true), |name| (name, false));
                    offered.iter().find(|(known, _)| *known == bare).map(|(_, cap)| (*cap, on))
                };
                match asked.split_whitespace().map(find).collect::<Option<Vec<_>>>() {
                    Some(changes) => {
                        changes.into_iter().for_each(|(cap, on)| client.caps.set(cap, on));
                        if let Some(user) = client.user.and_then(|user| self.state.user(user)) {
                            self.audiences.forget_all(&user.channels);
                        }
                        format!("ACK :{asked}")
                    }
                    None => format!("NAK :{asked}"),
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
        let line = format!(":{} CAP {} {reply}", self.options.name, self.nick_of(conn));
        self.send(net, conn, &line);
    }
}
