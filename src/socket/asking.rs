//! What the kernel is asked about a socket.

use std::os::fd::BorrowedFd;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::transport::LastHeard;

/// The type of a request of `ioctl`, which is another with each C library of Linux.
#[cfg(any(target_os = "linux", target_os = "android"))]
type Request = libc::Ioctl;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
type Request = libc::c_ulong;

/// `SIOCOUTQ`: bytes in the send queue that the peer has not acknowledged (tcp(7)). It can still
/// be asked after a reset.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn send_queue(socket: BorrowedFd<'_>) -> Option<u64> {
    // The value of TIOCOUTQ.
    ioctl_int(socket, libc::TIOCOUTQ).map(|bytes| u64::try_from(bytes).unwrap_or(0))
}

/// `FIONREAD`: bytes that wait to be read.
pub(super) fn input_queue(socket: BorrowedFd<'_>) -> Option<usize> {
    ioctl_int(socket, libc::FIONREAD).map(|bytes| usize::try_from(bytes).unwrap_or(0))
}

/// Asks a socket for a number.
#[allow(unsafe_code)]
fn ioctl_int(socket: BorrowedFd<'_>, request: Request) -> Option<libc::c_int> {
    use std::os::fd::AsRawFd;

    let mut number: libc::c_int = 0;
    // SAFETY: the requests above write one int through the pointer, which is valid for that write
    // and lives longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut number) };
    (status == 0).then_some(number)
}

/// `TCP_INFO`: when the peer was last heard of (tcp(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> Option<LastHeard> {
    let info = raw_tcp_info(socket)?;
    Some(LastHeard {
        data: Duration::from_millis(info.tcpi_last_data_recv.into()),
        ack: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        round_trip: Duration::from_micros(info.tcpi_rtt.into()),
    })
}

/// Whether a connect is under way.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn tcp_is_connecting(socket: BorrowedFd<'_>) -> bool {
    // include/net/tcp_states.h
    const TCP_SYN_SENT: u8 = 2;
    raw_tcp_info(socket).is_some_and(|info| info.tcpi_state == TCP_SYN_SENT)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn raw_tcp_info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what the pointer points
    // to; both pointers live longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if status != 0 {
        return None;
    }
    // SAFETY: it is made of integers, for which all bytes are valid, and was zero before the call.
    Some(unsafe { info.assume_init() })
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net;
    use std::os::fd::AsFd;

    #[test]
    fn the_send_queue_counts_what_the_peer_has_not_acknowledged() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(send_queue(client.as_fd()), Some(0));
        let mut written = 0;
        while let Ok(count) = client.write(&[0; 65536]) {
            written += count as u64;
        }
        let pending = send_queue(client.as_fd()).unwrap();
        assert!(pending > 0 && pending < written, "{pending} of {written}");
    }

    #[test]
    fn the_kernel_tells_what_waits_and_when_it_came() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        while input_queue(server.as_fd()) != Some(5) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(60));
        let heard = tcp_info(server.as_fd()).unwrap();
        assert!(heard.data >= Duration::from_millis(40), "{heard:?}");
        client.write_all(b"again").unwrap();
        while input_queue(server.as_fd()) != Some(10) {
            std::thread::yield_now();
        }
        let again = tcp_info(server.as_fd()).unwrap();
        assert!(again.data < heard.data, "{again:?} after {heard:?}");
        assert!(again.round_trip < Duration::from_secs(1), "{again:?}");
    }

    #[test]
    fn what_is_no_tcp_socket_has_nothing_to_ask_for() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(send_queue(file.as_fd()), None);
        assert_eq!(tcp_info(file.as_fd()), None);
    }
}
