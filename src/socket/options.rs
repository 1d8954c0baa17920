//! What is set on a socket before it is put to use.

use std::io;
use std::net::SocketAddr;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{SockAddr, Socket, TcpKeepalive};

use crate::config::Config;

/// Binds a socket that will connect. With port 0 the system chooses one when it knows where to: until
/// then no port is taken, and one may serve several connections to different places.
pub(super) fn bind_to_connect(socket: &Socket, from: SocketAddr) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if from.port() == 0 {
        set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    }
    socket.bind(&SockAddr::from(from))
}

/// Sets an option of a socket that is a number.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn set_int(socket: BorrowedFd<'_>, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes, the size of what the pointer points to, which lives
    // longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), length)
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets what the configuration asks for, either way: a socket that was made by somebody else may have
/// any of it. TCP sockets that a listener accepts inherit all of it on Linux, so that an accept costs
/// no further call.
pub(super) fn apply_options(socket: &Socket, config: &Config, tcp: bool) -> io::Result<()> {
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    if let Some(size) = config.recv_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    // Without it an urgent byte vanishes from the stream, a Unix-domain socket's as well.
    socket.set_out_of_band_inline(true)?;
    if !tcp {
        return Ok(());
    }
    socket.set_tcp_nodelay(config.nodelay)?;
    match config.keepalive {
        Some(keepalive) => {
            let keepalive = TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        None => socket.set_keepalive(false)?,
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(config.effective_user_timeout())?;
    Ok(())
}
