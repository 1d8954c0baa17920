//! What may be asked of one connect.

use std::net::SocketAddr;
use std::time::Duration;

use crate::dial::Family;
use crate::settings::Settings;

/// What [`Net::connect_with`](crate::Net::connect_with) does otherwise than
/// [`Net::connect`](crate::Net::connect). Change what differs from the default:
///
/// ```no_run
/// use std::time::Duration;
/// use unbroken::{Config, ConnectOptions, Reactor};
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::new(Config::default())?;
/// let mut options = ConnectOptions::default();
/// options.local_addr = Some(([192, 0, 2, 7], 0).into());
/// options.connect_timeout = Some(Duration::from_secs(3));
/// reactor.net().connect_with("db.example.org:5432", &options)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The address of this machine to connect from; port 0 lets the system choose one. Of a host's
    /// addresses only those of the same family are tried. Not for Unix-domain sockets.
    pub local_addr: Option<SocketAddr>,
    /// Which of a host's addresses are tried. Default: as [`Config::family`](crate::Config::family) says.
    pub family: Option<Family>,
    /// Time for the look-up and all attempts. Default: as
    /// [`Config::connect_timeout`](crate::Config::connect_timeout) says. At least 1 ms.
    pub connect_timeout: Option<Duration>,
    /// Settings of the connection's own. Default: as the configuration says.
    pub settings: Option<Settings>,
}
