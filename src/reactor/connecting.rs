//! What has become of the connections that are being established.

use super::phases::call;
use crate::connection::Via;
use crate::handler::Handler;
use crate::id::ConnId;
use crate::net::{why_all_failed, Called, Entry, Net, Stopping};
use crate::socket::Stream;

/// Looks whether a connection under way is established. Readiness is a hint here as well.
pub(super) fn finish_connect<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
    let Some(entry) = net.conns.get_mut(id) else { return };
    let outcome = entry.stream.finish_connect();
    #[cfg(feature = "tls")]
    // A reset came after the connection was established.
    if matches!(outcome, Ok(true)) || outcome.as_ref().is_err_and(was_established) {
        net.secure(id);
    }
    let told = net.touch(id, |conn, stream, cx| match outcome {
        Err(error) if was_established(&error) => {
            let peer = conn.peer();
            let told = conn.opened(stream, peer, cx);
            conn.broken_at_birth(&error);
            told
        }
        // The peer stays the address that was asked for: what the system calls it may be less.
        Ok(true) => {
            let peer = conn.peer();
            conn.opened(stream, peer, cx)
        }
        Ok(false) => {
            // One that was taken in, was reset, and had its error asked for by somebody else: there will
            // be no event.
            if conn.is_arriving() && !stream.is_connecting() {
                conn.fail(&std::io::Error::from_raw_os_error(libc::ENOTCONN), stream, cx);
            }
            false
        }
        Err(error) => {
            conn.fail(&error, stream, cx);
            false
        }
    });
    let Some(via) = net.via(id) else { return };
    if told == Some(true) {
        net.stats.opened += 1;
        call(net, id, |net| handler.on_open(net, id, via));
    }
    if told.is_some() && via != Via::Connect && net.stopping == Stopping::Draining {
        net.close(id);
    }
}

/// Only an established connection is reset, a pending one is refused (tcp_reset in Linux).
fn was_established(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE))
}

/// Looks what has become of the attempts to reach a host.
pub(super) fn go_on_calling<H: Handler + ?Sized>(net: &mut Net, handler: &mut H, id: ConnId) {
    match net.go_on_calling(id) {
        Called::Waits => {}
        Called::Failed => {
            let attempts = net.end_call(id, false);
            let error = why_all_failed(&attempts);
            net.touch(id, |conn, stream, cx| {
                conn.note_attempts(attempts);
                conn.fail(&error, stream, cx);
            });
        }
        Called::Won(stream, peer, pending) => {
            let mut attempts = net.end_call(id, false);
            // Those who were still under way have not failed, they have lost.
            attempts.retain(|attempt| attempt.errno != libc::EINPROGRESS);
            let registered = net.take_winner(id, stream);
            #[cfg(feature = "tls")]
            net.secure(id);
            let told = net.touch(id, |conn, stream, cx| {
                conn.note_attempts(attempts);
                if let Err(error) = registered {
                    conn.fail(&error, stream, cx);
                    return false;
                }
                let told = conn.opened(stream, Some(peer), cx);
                if let Some(error) = pending {
                    conn.broken_at_birth(&error);
                }
                told
            });
            if told == Some(true) {
                net.stats.opened += 1;
                call(net, id, |net| handler.on_open(net, id, Via::Connect));
            }
        }
    }
}

/// Tries once more to connect to a Unix-domain socket whose backlog was full.
pub(super) fn redial(net: &mut Net, id: ConnId) {
    let Some(Entry { stream, .. }) = net.conns.get_mut(id) else { return };
    let connect = std::mem::replace(stream, Stream::None).redial();
    net.connecting(id, connect);
    net.settle(id);
}
