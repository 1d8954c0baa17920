//! The clients: what the state knows of each, and who may come in.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use unbroken::{ConnId, PerConn};

use crate::caps::{Caps, MESSAGE_TAGS, SERVER_TIME};
use crate::server::Chat;
use crate::state::UserId;
use crate::wire::Form;

/// The reactor that has the state.
pub const STATE: usize = 0;

/// A connection, of whichever reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId {
    pub reactor: usize,
    pub conn: ConnId,
}

impl ClientId {
    /// A connection of the state's own reactor.
    pub fn near(conn: ConnId) -> Self {
        Self { reactor: STATE, conn }
    }

    pub fn is_near(self) -> bool {
        self.reactor == STATE
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_near() {
            true => self.conn.fmt(f),
            false => write!(f, "{} of reactor {}", self.conn, self.reactor),
        }
    }
}

/// A client. What its connection needs is with its reactor, in `ports`.
pub struct Client {
    /// How it takes lines; `None` while it speaks HTTP.
    pub form: Option<Form>,
    pub host: String,
    addr: Option<IpAddr>,
    /// Set once it has registered.
    pub user: Option<UserId>,
    pub nick: Option<String>,
    /// User name and real name, as `USER` gave them.
    pub names: Option<(String, String)>,
    /// `CAP` has begun and not ended.
    pub negotiating: bool,
    pub caps: Caps,
    /// The account it proved to be its own, what it has said of one so far, and how often it was wrong.
    pub account: Option<String>,
    pub authenticating: Option<String>,
    pub tries: u8,
    /// Nicks that it watches, folded.
    pub watched: BTreeSet<String>,
    /// It is on its way out.
    pub leaving: bool,
}

impl Client {
    /// One that has just come.
    fn new(addr: Option<IpAddr>, form: Option<Form>) -> Self {
        Self {
            form,
            host: host(addr),
            addr,
            user: None,
            nick: None,
            names: None,
            negotiating: false,
            caps: Caps::default(),
            account: None,
            authenticating: None,
            tries: 0,
            watched: BTreeSet::new(),
            leaving: false,
        }
    }

    /// Which variant of a line it takes.
    pub fn variant(&self, form: Form) -> usize {
        form.variant(self.caps.has(SERVER_TIME), self.caps.has(MESSAGE_TAGS))
    }
}

/// A client's address, as others see it.
pub fn host(addr: Option<IpAddr>) -> String {
    // A colon at the front would look like the last parameter of a line.
    addr.map_or("local".to_owned(), |addr| match addr.to_string() {
        host if host.starts_with(':') => format!("0{host}"),
        host => host,
    })
}

/// The clients of all reactors.
#[derive(Default)]
pub struct Clients(Vec<PerConn<Client>>);

impl Clients {
    pub fn get(&self, id: ClientId) -> Option<&Client> {
        self.0.get(id.reactor)?.get(id.conn)
    }

    pub fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.0.get_mut(id.reactor)?.get_mut(id.conn)
    }

    fn insert(&mut self, id: ClientId, client: Client) {
        while self.0.len() <= id.reactor {
            self.0.push(PerConn::new());
        }
        self.0[id.reactor].insert(id.conn, client);
    }

    fn remove(&mut self, id: ClientId) -> Option<Client> {
        self.0.get_mut(id.reactor)?.remove(id.conn)
    }

    pub fn ids(&self) -> impl Iterator<Item = ClientId> + '_ {
        let each = self.0.iter().enumerate();
        each.flat_map(|(reactor, clients)| clients.ids().map(move |conn| ClientId { reactor, conn }))
    }

    pub fn values(&self) -> impl Iterator<Item = &Client> {
        self.0.iter().flat_map(PerConn::values)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(PerConn::len).sum()
    }

    #[allow(dead_code)] // For tests.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Chat {
    /// Whether a client may stay, else why not.
    pub fn admit(
        &mut self,
        id: ClientId,
        addr: Option<IpAddr>,
        form: Option<Form>,
    ) -> Result<(), &'static str> {
        if self.ports.draining {
            return Err("The server is shutting down");
        }
        if self.clients.len() >= self.options.max_clients.get() {
            return Err("The server is full");
        }
        let count = addr.and_then(|addr| self.addresses.get(&addr)).copied().unwrap_or(0);
        if count >= self.options.max_clients_per_address.get() {
            return Err("Too many connections from your address");
        }
        if let Some(addr) = addr {
            *self.addresses.entry(addr).or_default() += 1;
        }
        self.clients.insert(id, Client::new(addr, form));
        Ok(())
    }

    /// A client whose connection is gone is forgotten.
    pub fn forget(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(id) else { return };
        self.monitors.forget_all(id, &client.watched);
        if let Some(count) = client.addr.and_then(|addr| self.addresses.get_mut(&addr)) {
            *count -= 1;
        }
        self.addresses.retain(|_, count| *count > 0);
    }
}
