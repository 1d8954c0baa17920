//! The engine under TLS.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use super::{unbroken, Role};

pub fn serve(role: Role, tls: Arc<ServerConfig>) -> io::Result<()> {
    unbroken::serve_on(role, |net| net.listen_tls("127.0.0.1:0", tls))
}
