//! The name of a host and a port, as people write them: `db.example.org:5432`.
//!
//! Nothing is looked up here. What cannot be the name of a host is refused before anybody is asked
//! for it, with a sentence that says what to write.

use std::fmt;
use std::io;
use std::str::FromStr;

/// Bytes in a name at most, a dot at its end not counted. RFC 1035, 2.3.4, allows 255 octets in a
/// message, where a name has a length before its first label and an empty one at its end: 253 of
/// text are left.
const MAX_NAME: usize = 253;

/// The name of a host, to be looked up, and a TCP port.
///
/// Its text is `NAME:PORT`. The name goes to the resolver byte for byte: letters keep their case,
/// an international name is not encoded (the system's resolver may do that), and a dot at the
/// end, which keeps the resolver from trying its search domains, stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    name: Box<str>,
    port: u16,
}

impl Host {
    /// A name and a port.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, with the reason in words, when the name cannot be that of a host: it is
    /// empty, longer than 253 bytes, holds an empty label, white space, a control character or
    /// punctuation that belongs to URLs and IPv6 addresses, or consists of numbers, as an IPv4
    /// address does. And when the port is 0, which nothing can be connected to.
    pub fn new(name: &str, port: u16) -> io::Result<Self> {
        check_name(name)?;
        match port {
            0 => {
                Err(invalid(format!("nothing listens on port 0: write {name:?} with a port from 1 to 65535")))
            }
            port => Ok(Self { name: name.into(), port }),
        }
    }

    /// The name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The TCP port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl FromStr for Host {
    type Err = io::Error;

    /// Reads `NAME:PORT`. An address in numbers is no name, and is refused: read it as
    /// a `SocketAddr` first.
    fn from_str(text: &str) -> io::Result<Self> {
        if text.is_empty() {
            return Err(invalid("an empty text is no address: write HOST:PORT".to_owned()));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(invalid(format!("{text:?} is a URL: write HOST:PORT, without \"{scheme}://\"")));
        }
        if text.starts_with('[') {
            return Err(invalid(format!(
                "{text:?} is no IPv6 address with a port: write it as [::1]:80, \
                 with the number of its interface, if it needs one, as [fe80::1%2]:80"
            )));
        }
        let Some((name, port)) = text.rsplit_once(':') else {
            return Err(invalid(format!("{text:?} has no port: write HOST:PORT")));
        };
        if name.contains(':') {
            return Err(invalid(format!(
                "{text:?} has more than one colon: an IPv6 address stands in brackets, as in [::1]:80"
            )));
        }
        Self::new(name, parse_port(text, port)?)
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Digits only: `u16::from_str` would take a sign. Names of services are not looked up.
fn parse_port(text: &str, port: &str) -> io::Result<u16> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| invalid(format!("the port of {text:?} is {port:?}: write a number from 1 to 65535")))
}

fn check_name(name: &str) -> io::Result<()> {
    let refuse = |why: &str| Err(invalid(format!("{name:?} is no host's name: {why}")));
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.is_empty() {
        return refuse("write one before the port");
    }
    if labels.len() > MAX_NAME {
        return Err(invalid(format!(
            "a host's name of {} bytes is too long: {MAX_NAME} are allowed",
            labels.len()
        )));
    }
    if let Some(stray) = name.chars().find(|c| is_forbidden(*c)) {
        return refuse(&format!("{stray:?} stands in it"));
    }
    if labels.split('.').any(str::is_empty) {
        return refuse("a label is missing before, between or behind its dots");
    }
    if labels.split('.').all(is_number) {
        return refuse("an IPv4 address is four numbers from 0 to 255, as in 127.0.0.1");
    }
    Ok(())
}

/// White space and control characters, NUL among them, where the system's resolver would see the
/// end of the name; and what the URL standard (WHATWG) forbids in a host, because it means
/// something else beside one.
fn is_forbidden(c: char) -> bool {
    c.is_whitespace() || c.is_control() || r"/\:@[]?#%<>^|".contains(c)
}

/// A name of nothing but numbers is to a resolver an IPv4 address in one of its old forms, and
/// nobody is asked: 127.1, 0x7f000001 and 2130706433 are all 127.0.0.1.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn refused(text: &str) -> String {
        let error = text.parse::<Host>().expect_err(text);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text:?}");
        error.to_string()
    }

    #[test]
    fn a_name_and_a_port_read_back_as_they_print() {
        for (text, name, port) in [
            ("db.example.org:5432", "db.example.org", 5432),
            ("localhost:1", "localhost", 1),
            ("LocalHost:65535", "LocalHost", 65535),
            ("a-b_c.d:80", "a-b_c.d", 80),
            ("1.2.3.example:80", "1.2.3.example", 80),
            ("4a5b6c:80", "4a5b6c", 80),
            ("0xcafe.example:80", "0xcafe.example", 80),
            ("web.1:80", "web.1", 80),
            ("0xg:80", "0xg", 80),
        ] {
            let host = host(text);
            assert_eq!((host.name(), host.port(), host.to_string()), (name, port, text.to_owned()));
        }
    }

    #[test]
    fn a_dot_at_the_end_stays() {
        assert_eq!(host("db.example.org.:5432").name(), "db.example.org.");
    }

    #[test]
    fn an_international_name_passes_byte_for_byte() {
        assert_eq!(host("bücher.example:80").name(), "bücher.example");
        assert_eq!(host("例え.テスト:80").name(), "例え.テスト");
        assert_eq!(host("xn--bcher-kva.example:80").name(), "xn--bcher-kva.example");
    }

    #[test]
    fn a_port_out_of_range_or_in_letters_is_refused() {
        for port in ["65536", "99999999999999999999", "http", "", "-1", "+80", " 80", "80 ", "0x50", "٨٠"] {
            let message = refused(&format!("db.example.org:{port}"));
            assert!(message.contains("a number from 1 to 65535"), "{message}");
        }
        assert!(refused("db:0").contains("port from 1 to 65535"));
        assert!(refused("1.2.3.4:99999").contains("a number from 1 to 65535"));
        assert!(refused("db.example.org").ends_with("has no port: write HOST:PORT"));
        assert!(refused("").ends_with("write HOST:PORT"));
    }

    #[test]
    fn what_no_resolver_should_be_asked_for_is_refused() {
        for name in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "a\0b",
            "a b",
            " a",
            "a\n",
            "a\t.b",
            "a\u{a0}b",
            "a\u{3000}",
            "\u{7f}",
            "user@db",
            "a/b",
            "a\\b",
            "db?",
            "a%b",
            "a]",
            "<a>",
        ] {
            let message = refused(&format!("{name}:80"));
            assert!(message.contains("is no host's name"), "{message}");
        }
    }

    #[test]
    fn a_name_longer_than_253_bytes_is_refused_and_a_last_dot_is_not_counted() {
        let longest = "a.".repeat(126) + "b";
        assert_eq!(Host::new(&longest, 80).unwrap().name().len(), 253);
        assert_eq!(Host::new(&(longest + "."), 80).unwrap().name().len(), 254);
        let error = Host::new(&"a".repeat(254), 80).unwrap_err().to_string();
        assert_eq!(error, "a host's name of 254 bytes is too long: 253 are allowed");
        assert!(refused(&("ü".repeat(127) + ":80")).contains("254 bytes"));
    }

    #[test]
    fn an_ipv6_address_is_asked_for_in_brackets() {
        for text in ["::1:80", "fe80::1", "2001:db8::1", "::", "a:b:80"] {
            assert!(refused(text).contains("in brackets, as in [::1]:80"), "{text}");
        }
        for text in ["[::1]", "[::1]80", "[::1]:99999", "[::1:80", "[fe80::1%eth0]:80", "[db]:80"] {
            assert!(refused(text).contains("write it as [::1]:80"), "{text}");
        }
    }

    // Else a filter of addresses that looks at the text would be walked around.
    #[test]
    fn an_ipv4_address_in_an_old_form_is_not_taken_for_a_name() {
        for text in [
            "127.1:80",
            "2130706433:80",
            "0x7f000001:80",
            "0X7f.1:80",
            "1.2.3.256:80",
            "01.2.3.4:80",
            "1.2.3.0x4:80",
        ] {
            assert!(refused(text).contains("four numbers from 0 to 255"), "{text}");
        }
        assert!(refused("1.2.3.4.:80").contains("four numbers"), "{}", refused("1.2.3.4.:80"));
    }

    #[test]
    fn a_url_is_told_to_be_shorter() {
        let message = refused("http://db.example.org:80/x");
        assert!(message.contains("without \"http://\""), "{message}");
    }

    proptest! {
        #[test]
        fn what_is_taken_prints_as_it_was_read(text in any::<String>()) {
            if let Ok(host) = text.parse::<Host>() {
                prop_assert_eq!(host.to_string().parse::<Host>().unwrap(), host);
            }
        }

        #[test]
        fn every_host_name_of_letters_and_digits_is_taken(
            name in "([a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\\.){0,4}[a-z]{1,10}\\.?", port in 1..=u16::MAX
        ) {
            let host = host(&format!("{name}:{port}"));
            prop_assert_eq!((host.name(), host.port()), (&*name, port));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[\\[\\]:.0-9a-fx%/\0 é]{0,12}") {
            let _ = text.parse::<Host>();
        }
    }
}
