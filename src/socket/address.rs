//! Addresses as the system's calls take them and give them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use socket2::SockAddr;

use crate::addr::{not_an_address, Addr};

/// The address as `bind` and `connect` take it.
pub(super) fn sock_addr(addr: &Addr) -> io::Result<SockAddr> {
    addr.check()?;
    match addr {
        Addr::Tcp(addr) => Ok(SockAddr::from(*addr)),
        Addr::Host(host) => Err(not_an_address(host)),
        Addr::Unix(path) => SockAddr::unix(path),
        // A NUL byte in a path's first place marks the abstract namespace.
        Addr::Abstract(name) => SockAddr::unix(OsStr::from_bytes(&[b"\0", name.as_slice()].concat())),
    }
}

/// What the system says of a socket's own or its peer's address. An empty path is a Unix-domain
/// socket without a name; of another kind of socket there is nothing to say.
pub(super) fn addr_of(name: &SockAddr) -> Option<Addr> {
    if let Some(addr) = name.as_socket() {
        return Some(Addr::Tcp(addr));
    }
    if let Some(path) = name.as_pathname() {
        return Some(Addr::Unix(path.to_owned()));
    }
    if let Some(name) = name.as_abstract_namespace() {
        return Some(Addr::Abstract(name.to_owned()));
    }
    name.is_unix().then(|| Addr::Unix(Default::default()))
}
