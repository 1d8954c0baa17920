//! What may be asked of one listener beside its address.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::addr::Addr;
use crate::settings::Settings;

/// The settings of one listener, for [`Net::listen_with`](crate::Net::listen_with). Change what
/// differs from [`ListenOptions::default`]:
///
/// ```
/// let mut options = unbroken::ListenOptions::default();
/// options.mode = Some(0o660);
/// ```
///
/// A setting that does not fit the address is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOptions {
    /// `IPV6_V6ONLY`, of an IPv6 address: whether `[::]:7007` leaves IPv4 alone, so that `0.0.0.0:7007`
    /// can be listened on beside it (RFC 3493, 5.3). Default: the system's, on Linux
    /// `net.ipv6.bindv6only`, which is off as a rule: `[::]:7007` hears IPv4 as well.
    pub only_v6: Option<bool>,
    /// `SO_REUSEPORT`, of a TCP address: several listeners may have the same one, of one user, each
    /// with this set. Linux gives each a part of the clients, by a hash of their addresses: with few
    /// clients the parts differ much, and who waits in the queue of a listener that closes is reset
    /// (unless `net.ipv4.tcp_migrate_req` is set). Elsewhere the last one may get all. Default: no.
    pub reuse_port: bool,
    /// The permission bits of a Unix-domain socket's path, 0 to `0o777`: who may connect needs write
    /// permission. They are in force before anybody can connect. Default: what the process's umask
    /// leaves of `0o777`.
    pub mode: Option<u32>,
    /// The settings of the connections that this listener brings. Default: as the configuration says.
    pub settings: Option<Settings>,
}

impl ListenOptions {
    /// Checks that the settings fit the address.
    pub(crate) fn fit(&self, addr: &Addr) -> io::Result<()> {
        let refuse = |reason: String| Err(io::Error::new(ErrorKind::InvalidInput, reason));
        let is_v6 = matches!(addr, Addr::Tcp(SocketAddr::V6(_)));
        if self.only_v6.is_some() && !is_v6 {
            return refuse(format!("only_v6 is for an IPv6 address, and {addr} is none"));
        }
        if self.reuse_port && addr.as_tcp().is_none() {
            return refuse(format!("reuse_port is for a TCP address, and {addr} is none"));
        }
        match self.mode {
            Some(_) if !matches!(addr, Addr::Unix(_)) => {
                refuse(format!("mode is for the path of a Unix-domain socket, and {addr} is none"))
            }
            Some(mode) if mode > 0o777 => refuse(format!(
                "mode (0o{mode:o}) must lie between 0 and 0o777: permissions and nothing else"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_the_address_is_refused_by_its_name() {
        let fit = |addr: &str, change: fn(&mut ListenOptions)| {
            let mut options = ListenOptions::default();
            change(&mut options);
            options.fit(&addr.parse().unwrap()).map_err(|error| {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                error.to_string()
            })
        };
        let (v4, v6, unix) = ("0.0.0.0:80", "[::]:80", "unix:/x");
        for addr in [v4, v6, unix] {
            assert_eq!(fit(addr, |_| {}), Ok(()));
        }
        for (fits, change, name) in [
            ([false, true, false], (|o| o.only_v6 = Some(false)) as fn(&mut ListenOptions), "only_v6"),
            ([true, true, false], |o| o.reuse_port = true, "reuse_port"),
            ([false, false, true], |o| o.mode = Some(0), "mode"),
            ([false, false, false], |o| o.mode = Some(0o1000), "mode"),
        ] {
            for (addr, fits) in [v4, v6, unix].into_iter().zip(fits) {
                let result = fit(addr, change);
                assert_eq!(result.is_ok(), fits, "{name}, {addr}: {result:?}");
                assert!(result.map_or_else(|error| error.starts_with(name), |()| true), "{name}, {addr}");
            }
        }
    }
}
