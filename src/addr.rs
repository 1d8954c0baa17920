//! Where to listen and where to connect: a TCP address or the path of a Unix-domain socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::host::Host;

/// The address of a stream socket.
///
/// Its text is `IP:PORT` for TCP (`127.0.0.1:7007`, `[::1]:7007`; port 0 lets the system choose)
/// and `unix:PATH` for a Unix-domain socket. Host names are not resolved: that would block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An IPv4 or IPv6 address and a TCP port.
    Tcp(SocketAddr),
    /// The name of a host, to be looked up, and a TCP port: to connect to, not to listen on.
    Host(Host),
    /// The path of a Unix-domain socket; empty for one that has no name, as most clients.
    Unix(PathBuf),
}

impl Addr {
    /// The TCP address, if it is one.
    pub fn as_tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Host(_) | Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Host(host) => host.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Addr {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        match text.strip_prefix("unix:") {
            Some("") => Err(invalid("\"unix:\" is followed by no path".to_owned())),
            Some(path) if path.contains('\0') => {
                Err(invalid(format!("a NUL byte stands in the path {path:?}")))
            }
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => match text.parse() {
                Ok(addr) => Ok(Self::Tcp(addr)),
                Err(_) => text.parse().map(Self::Host),
            },
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl From<PathBuf> for Addr {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

/// An address as a connection keeps it: most are IPv4, and there may be very many.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Unknown,
    V4(SocketAddrV4),
    Other(Box<Addr>),
}

impl From<Option<Addr>> for Peer {
    fn from(addr: Option<Addr>) -> Self {
        match addr {
            None => Self::Unknown,
            Some(Addr::Tcp(SocketAddr::V4(addr))) => Self::V4(addr),
            Some(other) => Self::Other(Box::new(other)),
        }
    }
}

impl Peer {
    pub(crate) fn addr(&self) -> Option<Addr> {
        match self {
            Self::Unknown => None,
            Self::V4(addr) => Some(Addr::Tcp(SocketAddr::V4(*addr))),
            Self::Other(addr) => Some((**addr).clone()),
        }
    }
}

/// What can be given where an address is wanted: an [`Addr`], a [`SocketAddr`], a path, an
/// `(ip, port)` pair, or the text of an [`Addr`].
pub trait IntoAddr {
    /// The address meant.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when a text is neither `IP:PORT` nor `unix:PATH`.
    fn into_addr(self) -> io::Result<Addr>;
}

impl IntoAddr for Addr {
    fn into_addr(self) -> io::Result<Addr> {
        Ok(self)
    }
}

impl IntoAddr for &Addr {
    fn into_addr(self) -> io::Result<Addr> {
        Ok(self.clone())
    }
}

impl IntoAddr for SocketAddr {
    fn into_addr(self) -> io::Result<Addr> {
        Ok(Addr::Tcp(self))
    }
}

impl<I: Into<IpAddr>> IntoAddr for (I, u16) {
    fn into_addr(self) -> io::Result<Addr> {
        Ok(Addr::Tcp(SocketAddr::new(self.0.into(), self.1)))
    }
}

impl IntoAddr for &str {
    fn into_addr(self) -> io::Result<Addr> {
        self.parse()
    }
}

impl IntoAddr for &String {
    fn into_addr(self) -> io::Result<Addr> {
        self.parse()
    }
}

impl IntoAddr for PathBuf {
    fn into_addr(self) -> io::Result<Addr> {
        Ok(Addr::Unix(self))
    }
}

impl IntoAddr for &Path {
    fn into_addr(self) -> io::Result<Addr> {
        Ok(Addr::Unix(self.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_what_it_prints() {
        for text in ["127.0.0.1:7007", "[::1]:80", "unix:/tmp/a b.sock"] {
            assert_eq!(text.parse::<Addr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for text in ["", "localhost", "127.0.0.1", "unix:", "unix:a\0b", "1.2.3.4:99999"] {
            let error = text.parse::<Addr>().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_peer_is_the_address_it_was_made_from() {
        assert_eq!(Peer::from(None).addr(), None);
        for text in ["127.0.0.1:7", "[::1]:7", "unix:/x"] {
            let addr: Addr = text.parse().unwrap();
            assert_eq!(Peer::from(Some(addr.clone())).addr(), Some(addr));
        }
        assert!(std::mem::size_of::<Peer>() <= 16);
    }

    #[test]
    fn pairs_and_paths_are_addresses() {
        let tcp = ([127, 0, 0, 1], 9).into_addr().unwrap();
        assert_eq!(tcp.as_tcp(), Some("127.0.0.1:9".parse().unwrap()));
        let unix = Path::new("/run/x").into_addr().unwrap();
        assert_eq!(unix, "unix:/run/x".into_addr().unwrap());
        assert_eq!(unix.as_tcp(), None);
    }
}
