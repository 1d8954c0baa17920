//! The text of an address: how it is read, how it is printed, and what is said of what is none.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{invalid, Addr};
use crate::host::Host;

/// Before a Unix-domain socket's path.
const UNIX: &str = "unix:";
/// Before an abstract name, in a path's place.
const ABSTRACT: &str = "@";

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            // Or it would be read as a path.
            Self::Host(host) if host.name() == "unix" => write!(f, "{}.:{}", host.name(), host.port()),
            Self::Host(host) => host.fmt(f),
            Self::Unix(path) => {
                // Or it would be read as an abstract name.
                let here =
                    if path.as_os_str().as_bytes().starts_with(ABSTRACT.as_bytes()) { "./" } else { "" };
                write!(f, "{UNIX}{here}{}", path.display())
            }
            Self::Abstract(name) => {
                write!(f, "{UNIX}{ABSTRACT}")?;
                match std::str::from_utf8(name) {
                    Ok(text) if !text.contains(char::is_control) => f.write_str(text),
                    _ => name.escape_ascii().fmt(f),
                }
            }
        }
    }
}

impl FromStr for Addr {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return unix(path)?.checked();
        }
        if let Ok(addr) = text.parse() {
            return Ok(Self::Tcp(addr));
        }
        if let Some(advice) = advice(text) {
            return invalid(advice);
        }
        text.parse().map(Self::Host)
    }
}

fn unix(path: &str) -> io::Result<Addr> {
    match path.strip_prefix(ABSTRACT) {
        // What has one is written as bytes: in a text it is a mistake.
        Some(name) if name.contains('\0') => invalid(format!("a NUL byte stands in the name {name:?}")),
        Some(name) => Ok(Addr::Abstract(name.as_bytes().to_vec())),
        None => Ok(Addr::Unix(PathBuf::from(path))),
    }
}

/// What to write instead of a text that is no address, and not the name of a host and a port either.
fn advice(text: &str) -> Option<String> {
    let bare = text.strip_prefix('*').unwrap_or(text);
    if let Ok(port) = bare.strip_prefix(':').unwrap_or(bare).parse::<u16>() {
        return Some(format!(
            "{text:?} is a port without an IP address: write 127.0.0.1:{port} or [::1]:{port} for this \
             machine alone, 0.0.0.0:{port} or [::]:{port} for all that reach it"
        ));
    }
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if text.parse::<Ipv4Addr>().is_ok() || bracketed.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok()) {
        return Some(format!("{text:?} has no port: write {text}:7007"));
    }
    if text.contains('/') && !text.contains("://") {
        return Some(format!("{text:?} looks like a path: the path of a socket is written unix:{text}"));
    }
    None
}

/// A host name where an address to listen on is wanted: what to write instead.
pub(crate) fn not_an_address(host: &Host) -> io::Error {
    let port = host.port();
    let whose = if host.name() == "localhost" { "" } else { "its IP address, as in " };
    let message = format!(
        "\"{host}\" begins with a host name, which nothing can listen on: \
         write {whose}127.0.0.1:{port} or [::1]:{port}"
    );
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn an_address_reads_back_what_it_prints() {
        for text in ["127.0.0.1:7007", "[::1]:80", "[fe80::1%3]:80", "unix:/tmp/a b.sock", "unix:./@x"] {
            assert_eq!(text.parse::<Addr>().unwrap().to_string(), text);
        }
        assert_eq!(Addr::Unix("@x".into()).to_string(), "unix:./@x");
    }

    #[test]
    fn the_name_of_a_host_is_an_address_to_connect_to_and_not_to_listen_on() {
        for text in ["localhost:7007", "db.example.org:5432", "unix.:80"] {
            let addr: Addr = text.parse().unwrap();
            assert_eq!(addr.to_string(), text);
            assert_eq!(addr.as_tcp(), None);
            assert!(matches!(addr, Addr::Host(_)), "{text:?}");
        }
        let unix = Addr::Host(Host::new("unix", 80).unwrap());
        assert_eq!(unix.to_string(), "unix.:80", "not a path");
        for (text, advice) in [
            ("localhost:7007", "write 127.0.0.1:7007 or [::1]:7007"),
            ("db.example.org:5432", "write its IP address, as in 127.0.0.1:5432"),
        ] {
            let error = not_an_address(&text.parse().unwrap());
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn an_abstract_name_is_written_behind_an_at_sign() {
        let addr: Addr = "unix:@unbroken é".parse().unwrap();
        assert_eq!(addr, Addr::Abstract("unbroken é".into()));
        assert_eq!(addr.to_string(), "unix:@unbroken é");
        // What a peer calls itself does not get into a log as it is.
        assert_eq!(Addr::Abstract(b"a\n\0\xff".to_vec()).to_string(), "unix:@a\\n\\x00\\xff");
        for text in ["unix:@", "unix:@a\0b"] {
            assert_eq!(text.parse::<Addr>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write_instead() {
        for (text, advice) in [
            (":7007", "0.0.0.0:7007 or [::]:7007"),
            ("*:7007", "0.0.0.0:7007"),
            ("7007", "127.0.0.1:7007 or [::1]:7007"),
            ("127.0.0.1", "127.0.0.1:7007"),
            ("[::1]", "[::1]:7007"),
            ("::1", "brackets"),
            ("::1:7007", "brackets"),
            ("localhost", "no port"),
            ("1.2.3.4:99999", "65535"),
            ("localhost:99999", "65535"),
            ("[::1]:99999", "[::1]:80"),
            ("/run/x.sock", "unix:/run/x.sock"),
            ("./x", "unix:./x"),
            ("http://127.0.0.1:80/", "URL"),
            ("1.2.3:80", "four numbers"),
            ("", "empty"),
            (" 127.0.0.1:80", "stands in it"),
            ("127.0.0.1:http", "a number"),
            ("unix:", "empty"),
            ("unix:a\0b", "NUL"),
        ] {
            let error = text.parse::<Addr>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}");
            assert!(error.to_string().contains(advice), "{text:?}: {error}");
        }
    }
}
