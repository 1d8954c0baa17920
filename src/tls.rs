//! TLS: sessions between a connection and its socket (feature `tls`).

mod secured;
mod session;

pub(crate) use secured::Secured;
pub(crate) use session::Session;
pub use session::{Tls, TlsInfo};
