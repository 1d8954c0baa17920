//! Asking for the addresses of a host, away from the reactor's thread.
//!
//! The system's resolver blocks, for as long as half a minute when a name server is silent. So it
//! is called on threads of its own, and its answer comes back through the reactor's mailbox.

#[cfg(all(test, shuttle))]
mod model;
mod pool;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Weak};

use pool::{Limits, Pool};

/// Finds the addresses of hosts for a reactor.
///
/// [`resolve`](Self::resolve) is called on the reactor's thread and must not block: it passes the
/// [`Answer`] on to wherever the addresses will be known. It may also answer at once, as this
/// table does:
///
/// ```
/// use std::collections::HashMap;
/// use std::io;
/// use std::net::{IpAddr, SocketAddr};
///
/// use unbroken::{Answer, Resolve};
///
/// struct Table(HashMap<String, Vec<IpAddr>>);
///
/// impl Resolve for Table {
///     fn resolve(&self, name: &str, port: u16, answer: Answer) {
///         answer.send(match self.0.get(name) {
///             Some(ips) => Ok(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()),
///             None => Err(io::Error::new(io::ErrorKind::NotFound, "not in the table")),
///         });
///     }
/// }
/// # let table = Table(HashMap::from([("db".to_owned(), vec![IpAddr::from([10, 0, 0, 7])])]));
/// # let (tell, told) = std::sync::mpsc::channel();
/// # table.resolve("db", 5432, Answer::new(move |addrs| tell.send(addrs).unwrap()));
/// # assert_eq!(told.recv().unwrap().unwrap(), ["10.0.0.7:5432".parse().unwrap()]);
/// ```
///
/// # The system's resolver
///
/// Without another one the system is asked (getaddrinfo(3), and so `/etc/hosts`,
/// `nsswitch.conf` and all that they name), on at most four threads, which are started as they are
/// needed and never joined: a lookup that hangs costs its thread, not the reactor and not the exit
/// of the process. While four hang, those behind them wait until their connections time out.
///
/// * Lookups of the same name at one time share a call. Nothing is kept afterwards: what the
///   system caches (nscd, systemd-resolved) it caches, with the times to live that only it knows.
/// * 1,024 lookups wait at most; one more fails at once. Whoever gives up waiting leaves its
///   place.
/// * A failure is the system's: its text tells a name that does not exist ("Name or service not
///   known") from a name server that does not answer ("Temporary failure in name resolution").
///   That text is all that the standard library lets through.
/// * Addresses of both families come, in the system's order (RFC 6724), whatever interfaces this
///   machine has: `AI_ADDRCONFIG`, which hides `::1` in many containers, is not set.
/// * The threads block the signals that the reactor's thread blocks when it first asks. Any other
///   may be handled on one of them.
/// * After a `fork` the child has none of these threads. Make the reactor in the child.
pub trait Resolve: Send {
    /// Finds the addresses of `name`, with `port` for each, and sends them to `answer`, once,
    /// from any thread. They are tried in their order, families by turns.
    ///
    /// The name is as the program gave it: letters of both cases, perhaps with a dot at the end,
    /// perhaps not in ASCII. It is no address in numbers, not empty, at most 254 bytes long, and
    /// holds no white space, control characters or NUL.
    fn resolve(&self, name: &str, port: u16, answer: Answer);
}

/// One resolver for several reactors.
impl<R: Resolve + Sync + ?Sized> Resolve for Arc<R> {
    fn resolve(&self, name: &str, port: u16, answer: Answer) {
        (**self).resolve(name, port, answer);
    }
}

/// What is to be done with the addresses.
type Reply = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

/// Where the addresses of a host are to be sent, once. Dropped unused it reports a failure, so
/// that a resolver which panics or loses it leaves nobody waiting.
pub struct Answer {
    reply: Option<Reply>,
    wanted: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Always,
    /// As long as somebody waits.
    While(Weak<()>),
}

/// Held by whoever waits for an answer. Once it is dropped the answer is thrown away, and a
/// lookup that has not begun does not begin.
#[derive(Debug)]
pub(crate) struct Waiting {
    _waits: Arc<()>,
}

impl Answer {
    /// An answer that calls `reply`: for a resolver that asks another one, and for tests.
    pub fn new(reply: impl FnOnce(io::Result<Vec<SocketAddr>>) + Send + 'static) -> Self {
        Self { reply: Some(Box::new(reply)), wanted: Wanted::Always }
    }

    /// An answer that calls `reply` only as long as it is waited for.
    pub(crate) fn awaited(reply: Reply) -> (Self, Waiting) {
        let waits = Arc::new(());
        let wanted = Wanted::While(Arc::downgrade(&waits));
        (Self { reply: Some(reply), wanted }, Waiting { _waits: waits })
    }

    /// Sends the addresses, or why there are none. Duplicates do no harm; an empty list is a
    /// failure; beyond 64 addresses the rest is not tried.
    pub fn send(mut self, addresses: io::Result<Vec<SocketAddr>>) {
        self.reply(addresses);
    }

    /// Whether somebody still waits. A resolver may save itself the work when not: the connection
    /// was closed, or its time is up.
    pub fn is_wanted(&self) -> bool {
        match &self.wanted {
            Wanted::Always => true,
            Wanted::While(waits) => waits.strong_count() > 0,
        }
    }

    fn reply(&mut self, addresses: io::Result<Vec<SocketAddr>>) {
        let wanted = self.is_wanted();
        if let Some(reply) = self.reply.take().filter(|_| wanted) {
            reply(addresses);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.reply.is_some() {
            self.reply(Err(io::Error::other("the resolver gave no answer")));
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("wanted", &self.is_wanted()).finish_non_exhaustive()
    }
}

/// The system's resolver. Nothing is started before the first name is asked for.
pub(crate) fn system_resolver() -> Pool {
    Pool::new(Box::new(ask_system), Limits::default())
}

/// The standard library asks with no flag set (`AI_ADDRCONFIG` among them) and for stream sockets
/// only. What makes an address of a number is the name's affair: `Host` takes no such name.
fn ask_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    (name, 0).to_socket_addrs().map(Iterator::collect)
}
