//! The names of hosts in a simulated network, and how long it takes to find their addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::world::{What, World, MICRO};
use super::Kernel;
use crate::names::{Answer, Resolve};

/// What a lookup comes to, and after how long; without one it hangs.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) addrs: Result<Vec<IpAddr>, String>,
    pub(crate) after: Option<u64>,
}

/// A lookup under way.
#[derive(Debug)]
pub(crate) struct Lookup {
    answer: Answer,
    result: io::Result<Vec<SocketAddr>>,
}

impl Resolve for Kernel {
    fn resolve(&self, name: &str, port: u16, answer: Answer) {
        let mut world = self.world();
        let found = world.names.get(name).cloned();
        let unknown = || Name { addrs: Err("Name or service not known".to_owned()), after: Some(MICRO) };
        let Name { addrs, after } = found.unwrap_or_else(unknown);
        world.note(|_| format!("{name} is looked up"));
        let result = match addrs {
            Ok(addrs) => Ok(addrs.into_iter().map(|addr| SocketAddr::new(addr, port)).collect()),
            Err(text) => Err(io::Error::other(text)),
        };
        let lookup = Lookup { answer, result };
        match after {
            Some(after) => {
                let at = world.now.saturating_add(after);
                world.next_lookup += 1;
                let number = world.next_lookup;
                world.lookups.insert(number, lookup);
                world.schedule(at, What::Resolved(number));
            }
            // It is never answered, and never dropped.
            None => world.hanging.push(lookup),
        }
    }
}

impl World {
    /// A lookup is done. It is answered when nobody holds the world: the answer wakes the reactor.
    pub(super) fn resolved(&mut self, number: u64) {
        let lookup = self.lookups.remove(&number);
        self.answers.extend(lookup);
    }
}

impl Kernel {
    /// Sends the answers that are due.
    pub(super) fn send_answers(&self) {
        let answers = std::mem::take(&mut self.world().answers);
        for Lookup { answer, result } in answers {
            answer.send(result);
        }
    }
}
