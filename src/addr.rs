//! Where to listen and where to connect: a TCP address, the path of a Unix-domain socket, or a name
//! in the abstract namespace.

mod text;

use std::io::{self, ErrorKind};
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::Host;

pub(crate) use text::not_an_address;

/// The address of a stream socket.
///
/// Its text is `IP:PORT` for TCP (`127.0.0.1:7007`, `[::1]:7007`; port 0 lets the system choose),
/// `unix:PATH` for a Unix-domain socket, and `unix:@NAME` for one in Linux's abstract namespace. A
/// path that begins with `@` is written `unix:./@path`. Where to connect may also be the name of a host
/// and a port, `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An IPv4 or IPv6 address and a TCP port.
    Tcp(SocketAddr),
    /// The name of a host, to be looked up, and a TCP port: to connect to, not to listen on.
    Host(Host),
    /// The path of a Unix-domain socket; empty for one that has no name, as most clients.
    Unix(PathBuf),
    /// A Unix-domain socket's name in the abstract namespace, without the NUL byte that marks it
    /// there: no file, no permissions, gone with its socket (unix(7)). Linux and Android only.
    ///
    /// Every byte counts. A program that hands the kernel its whole `sun_path` is to be found under
    /// its name with all the NUL bytes behind it.
    Abstract(Vec<u8>),
}

/// Bytes that a Unix-domain socket's address has for its path or name, the NUL included (unix(7)).
const SUN_PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

fn invalid<T>(reason: String) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::InvalidInput, reason))
}

impl Addr {
    /// The TCP address, if it is one.
    pub fn as_tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Host(_) | Self::Unix(_) | Self::Abstract(_) => None,
        }
    }

    /// Refuses what a system call would not take, or take for something else: a path is cut at a NUL
    /// byte, without a name the system makes one up, with a NUL byte in front it is no path.
    pub(crate) fn check(&self) -> io::Result<()> {
        let bytes = match self {
            Self::Tcp(_) | Self::Host(_) => return Ok(()),
            Self::Unix(path) => path.as_os_str().as_bytes(),
            Self::Abstract(name) => name.as_slice(),
        };
        let is_path = matches!(self, Self::Unix(_));
        let what = if is_path { "path" } else { "abstract name" };
        if bytes.is_empty() {
            return invalid(format!("the {what} in \"{self}\" is empty"));
        }
        // One byte is the NUL behind a path, or before a name.
        let (len, most) = (bytes.len(), SUN_PATH - 1);
        if len > most {
            return invalid(format!(
                "the {what} in \"{self}\" has {len} bytes: {most} are the most a socket can have"
            ));
        }
        match bytes {
            [0, name @ ..] if is_path => {
                let name = Self::Abstract(name.to_vec());
                invalid(format!("a NUL byte begins the path: an abstract name is written \"{name}\""))
            }
            _ if is_path && bytes.contains(&0) => {
                invalid(format!("a NUL byte stands in the path {:?}", String::from_utf8_lossy(bytes)))
            }
            _ if !is_path && !cfg!(any(target_os = "linux", target_os = "android")) => Err(io::Error::new(
                ErrorKind::Unsupported,
                format!("{self} is in the abstract namespace, which this system does not have"),
            )),
            _ => Ok(()),
        }
    }

    fn checked(self) -> io::Result<Self> {
        self.check()?;
        Ok(self)
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
    /// `InvalidInput` with the reason: a text that is no address (it says what to write instead), a
    /// path or an abstract name that is empty or too long (107 bytes on Linux, 103 elsewhere), a
    /// path with a NUL byte. `Unsupported` for an abstract name where there are none.
    fn into_addr(self) -> io::Result<Addr>;
}

impl IntoAddr for Addr {
    fn into_addr(self) -> io::Result<Addr> {
        self.checked()
    }
}

impl IntoAddr for &Addr {
    fn into_addr(self) -> io::Result<Addr> {
        self.clone().checked()
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
        Addr::Unix(self).checked()
    }
}

impl IntoAddr for &Path {
    fn into_addr(self) -> io::Result<Addr> {
        self.to_owned().into_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_the_address_it_was_made_from() {
        assert_eq!(Peer::from(None).addr(), None);
        for addr in ["127.0.0.1:7", "[::1]:7", "unix:/x"].map(|text| text.parse::<Addr>().unwrap()) {
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

    #[test]
    fn what_no_system_call_would_take_as_it_is_meant_is_refused_however_it_is_given() {
        let long = "x".repeat(SUN_PATH);
        let fits = "y".repeat(SUN_PATH - 1);
        for (path, reason) in [
            ("", "empty"),
            (long.as_str(), "bytes"),
            ("a\0b", "NUL"),
            ("\0name", "\"unix:@name\""),
            ("\0", "NUL"),
        ] {
            let refusals = [
                PathBuf::from(path).into_addr(),
                Path::new(path).into_addr(),
                Addr::from(PathBuf::from(path)).into_addr(),
                (&Addr::Unix(path.into())).into_addr(),
                format!("unix:{path}").as_str().into_addr(),
                (&format!("unix:{path}")).into_addr(),
            ];
            for (way, refusal) in refusals.into_iter().enumerate() {
                let error = refusal.expect_err(path);
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}, {way}");
                assert!(error.to_string().contains(reason) || way > 3, "{path:?}, {way}: {error}");
            }
        }
        assert!(Path::new(&fits).into_addr().is_ok());
        assert!(Addr::Abstract(Vec::new()).into_addr().is_err());
        assert!(Addr::Abstract(long.clone().into()).into_addr().is_err());
        let unfit = (&Addr::Abstract(fits.into())).into_addr();
        match cfg!(any(target_os = "linux", target_os = "android")) {
            true => assert!(unfit.is_ok()),
            false => assert_eq!(unfit.unwrap_err().kind(), ErrorKind::Unsupported),
        }
    }
}
