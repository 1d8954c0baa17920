//! The text of an address: how it is read, how it is printed, and what is said of what is none.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{invalid, Addr};

/// Before a Unix-domain socket's path.
const UNIX: &str = "unix:";
/// Before an abstract name, in a path's place.
const ABSTRACT: &str = "@";

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
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
        match text.parse() {
            Ok(addr) => Ok(Self::Tcp(addr)),
            Err(_) => match HostPort::read(text) {
                Some(name) => name.refuse(),
                None => invalid(what_is_wrong(text)),
            },
        }
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

/// The name of a host, and a port.
struct HostPort<'a> {
    host: &'a str,
    port: u16,
}

impl<'a> HostPort<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        (is_host(host) && is_number(port)).then_some(Self { host, port: port.parse().ok()? })
    }

    /// A lookup would block.
    fn refuse<T>(&self) -> io::Result<T> {
        let Self { host, port } = self;
        let whose = if *host == "localhost" { "" } else { "its IP address, as in " };
        invalid(format!(
            "\"{host}:{port}\" begins with a host name, and names are not looked up: \
             write {whose}127.0.0.1:{port} or [::1]:{port}"
        ))
    }
}

/// Letters, digits, dots, hyphens and underscores, and not only digits and dots.
fn is_host(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Says what to write instead.
fn what_is_wrong(text: &str) -> String {
    let bare = text.strip_prefix('*').unwrap_or(text);
    if let Ok(port) = bare.strip_prefix(':').unwrap_or(bare).parse::<u16>() {
        return format!(
            "{text:?} is a port without an IP address: write 127.0.0.1:{port} or [::1]:{port} for this \
             machine alone, 0.0.0.0:{port} or [::]:{port} for all that reach it"
        );
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return format!(
            "{text:?} is an IPv6 address, which goes in brackets before a port: write [::1]:7007"
        );
    }
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if bracketed.unwrap_or(text).parse::<IpAddr>().is_ok() {
        return format!("{text:?} has no port: write {text}:7007");
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        let is_fine = is_host(host) || format!("{host}:0").parse::<SocketAddr>().is_ok();
        if is_fine && is_number(port) {
            return format!("{port} in {text:?} is no port: the highest is 65535");
        }
    }
    if text.contains('/') && !text.contains("://") {
        return format!("{text:?} looks like a path: the path of a socket is written unix:{text}");
    }
    format!("{text:?} is no address: write IP:PORT, as 127.0.0.1:7007 or [::1]:7007, or unix:PATH")
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
            ("localhost:7007", "127.0.0.1:7007 or [::1]:7007"),
            ("db.example.org:5432", "its IP address"),
            (":7007", "0.0.0.0:7007 or [::]:7007"),
            ("*:7007", "0.0.0.0:7007"),
            ("7007", "127.0.0.1:7007 or [::1]:7007"),
            ("127.0.0.1", "127.0.0.1:7007"),
            ("[::1]", "[::1]:7007"),
            ("::1", "brackets"),
            ("::1:7007", "brackets"),
            ("localhost", "IP:PORT"),
            ("1.2.3.4:99999", "65535"),
            ("localhost:99999", "65535"),
            ("[::1]:99999", "65535"),
            ("/run/x.sock", "unix:/run/x.sock"),
            ("./x", "unix:./x"),
            ("http://127.0.0.1:80/", "IP:PORT"),
            ("1.2.3:80", "IP:PORT"),
            ("", "IP:PORT"),
            (" 127.0.0.1:80", "IP:PORT"),
            ("127.0.0.1:http", "IP:PORT"),
            ("unix:", "empty"),
            ("unix:a\0b", "NUL"),
        ] {
            let error = text.parse::<Addr>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}");
            assert!(error.to_string().contains(advice), "{text:?}: {error}");
        }
    }
}
