//! What a request of HTTP says, as far as it matters here, and whom a WebSocket is granted to. Pure.

use std::net::{IpAddr, Ipv6Addr};

use crate::options::Options;
use crate::wire::Form;

/// A request without its end.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// It is HTTP/1.1, and not 1.0: connections stay open, and can be upgraded.
    pub modern: bool,
    pub headers: &'a [httparse::Header<'a>],
}

/// Why a WebSocket is refused: the status, and further header lines.
pub type Refusal = (&'static str, &'static str);

/// What a WebSocket is opened with: the client's key, and the protocol that was chosen.
pub type Handshake<'a> = (&'a str, Option<(Form, &'static str)>);

/// The path of a request's target, which may be a whole address (RFC 9112, 3.2.2).
pub fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    };
    path.split('?').next().unwrap_or_default()
}

/// A host and a port, if there is one. Brackets stay around an address of IPv6.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rfind(':').filter(|colon| !authority[*colon..].contains(']')) {
        Some(colon) => (&authority[..colon], Some(authority[colon + 1..].parse().ok()?)),
        None => (authority, None),
    };
    let named =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    (named || is_bracketed(host)).then_some((host, port))
}

fn is_bracketed(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

/// Whether this is an origin as browsers write it, `scheme://host` or `scheme://host:port`.
pub fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, authority)| {
        let mut letters = scheme.bytes();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && host_and_port(authority).is_some()
    })
}

/// Whether a name can be a host's in `--host`.
pub fn is_host(text: &str) -> bool {
    matches!(host_and_port(text), Some((_, None)))
}

/// Sixteen bytes in base64 (RFC 6455, 4.1): of the last letter only two bits count.
fn is_key(key: &str) -> bool {
    let letters = key.strip_suffix("==").unwrap_or_default();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
    letters.len() == 22 && letters.bytes().all(known) && letters.ends_with(['A', 'Q', 'g', 'w'])
}

impl<'a> Request<'a> {
    fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a [u8]> + 'b {
        let named = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value)
    }

    /// The value of a header that stands there once.
    fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = std::str::from_utf8(values.next()?).ok()?;
        values.next().is_none().then_some(value.trim())
    }

    /// The words of a list, which may stand on several lines.
    fn words<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a str> + 'b {
        let lists = self.values(name).filter_map(|value| std::str::from_utf8(value).ok());
        lists.flat_map(|list| list.split(',')).map(str::trim).filter(|word| !word.is_empty())
    }

    fn has(&self, name: &str, word: &str) -> bool {
        self.words(name).any(|each| each.eq_ignore_ascii_case(word))
    }

    /// Whether it is clear where it ends and for whom it is: no body, and one host.
    pub fn is_sound(&self) -> bool {
        let no_body = self.values("Content-Length").all(|length| length == b"0");
        let hosts = self.values("Host").count();
        let one_host = hosts == 1 || (hosts == 0 && !self.modern);
        no_body && self.values("Transfer-Encoding").count() == 0 && one_host
    }

    pub fn keeps_alive(&self) -> bool {
        self.modern && !self.has("Connection", "close")
    }

    /// Whether the asker can unpack gzip, and wants to.
    pub fn takes_gzip(&self) -> bool {
        self.words("Accept-Encoding").any(|word| {
            let (name, parameters) = word.split_once(';').unwrap_or((word, ""));
            let quality = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
            name.trim().eq_ignore_ascii_case("gzip") && quality.is_ok_and(|quality| quality > 0.0)
        })
    }

    /// Whether the asker has it already.
    pub fn knows(&self, etag: &str) -> bool {
        self.words("If-None-Match").any(|known| known == "*" || known.trim_start_matches("W/") == etag)
    }

    /// Whether the host that was asked for is us. A name that somebody else's DNS points here is not:
    /// to the browser their page would be ours.
    fn is_for_us(&self, options: &Options) -> bool {
        let Some((host, _)) = self.only("Host").and_then(host_and_port) else { return false };
        let host = host.to_ascii_lowercase();
        let local = host == "localhost" || host.ends_with(".localhost");
        let numeric = host.parse::<IpAddr>().is_ok() || is_bracketed(&host);
        local || numeric || options.hosts.iter().any(|known| known.eq_ignore_ascii_case(&host))
    }

    /// Whether a page that wants a WebSocket is ours, or one of those that may. Programs name none.
    fn is_from_friends(&self, options: &Options) -> bool {
        if self.values("Origin").next().is_none() {
            return true;
        }
        let Some(origin) = self.only("Origin") else { return false };
        if options.origins.iter().any(|known| known.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let (default, authority) = match origin.split_once("://") {
            Some(("http", authority)) => (80, authority),
            Some(("https", authority)) => (443, authority),
            _ => return false,
        };
        let own = self.only("Host").and_then(host_and_port);
        match (own, host_and_port(authority)) {
            (Some((own, own_port)), Some((host, port))) => {
                own.eq_ignore_ascii_case(host) && own_port.unwrap_or(default) == port.unwrap_or(default)
            }
            _ => false,
        }
    }

    /// What a WebSocket is to be opened with, or why not.
    pub fn handshake(&self, options: &Options) -> Result<Handshake<'a>, Refusal> {
        if self.method != "GET" {
            return Err(("405 Method Not Allowed", "Allow: GET\r\n"));
        }
        // HTTP/1.0 has no upgrade (RFC 9110, 7.8).
        if !self.modern || !self.has("Upgrade", "websocket") || !self.has("Connection", "upgrade") {
            return Err(("426 Upgrade Required", "Upgrade: websocket\r\n"));
        }
        if self.only("Sec-WebSocket-Version") != Some("13") {
            return Err(("426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n"));
        }
        if !self.is_for_us(options) {
            return Err(("421 Misdirected Request", ""));
        }
        if !self.is_from_friends(options) {
            return Err(("403 Forbidden", ""));
        }
        let Some(key) = self.only("Sec-WebSocket-Key").filter(|key| is_key(key)) else {
            return Err(("400 Bad Request", ""));
        };
        let protocol = self.words("Sec-WebSocket-Protocol").find_map(|offer| match offer {
            "text.ircv3.net" => Some((Form::Text, "text.ircv3.net")),
            "binary.ircv3.net" => Some((Form::Binary, "binary.ircv3.net")),
            _ => None,
        });
        Ok((key, protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_found_in_a_whole_address_too() {
        assert_eq!(path_of("http://x/chat.js?v=1"), "/chat.js");
        assert_eq!(path_of("/a://b"), "/a://b");
        assert_eq!(path_of("http://x"), "/");
    }

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_behind_them() {
        for good in ["http://a", "https://chat.example.org:8443", "http://[::1]:80", "app+x://localhost"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in
            ["nonsense", "null", "http://", "http://a/", "://a", "http://a:b", "http://a b", "http://[::g]"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
        assert!(is_host("chat.example.org") && !is_host("a:80") && !is_host("http://a") && !is_host(""));
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in ["", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZS!ub25jZQ=="] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
