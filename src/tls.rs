//! TLS: sessions between a connection and its socket (feature `tls`).

mod rare;
#[cfg(feature = "sim")]
mod records;
mod secured;
mod session;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "sim"))]
mod toy;

#[cfg(feature = "sim")]
pub(crate) use records::Records;
pub(crate) use secured::Secured;
pub(crate) use session::{without_early_data, Session};
pub use session::{Tls, TlsInfo};
#[cfg(feature = "sim")]
pub(crate) use toy::Toy;
