//! TLS: sessions between a connection and its socket (feature `tls`).

mod secured;
mod session;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy;

pub(crate) use secured::Secured;
pub(crate) use session::{without_early_data, Session};
pub use session::{Tls, TlsInfo};
