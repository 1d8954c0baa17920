//! Who is at the other end of a Unix-domain connection.

use std::os::fd::BorrowedFd;

/// The process at the other end of a Unix-domain connection, as the system vouches for it:
/// [`Net::peer_credentials`](crate::Net::peer_credentials).
///
/// They are those of the moment at which that process called `connect`, or `listen`: by now it may
/// have ended, have become somebody else, or have passed its end of the connection on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credentials {
    /// The process; `None` when it cannot be seen from here, as from within a container.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// `SO_PEERCRED` (unix(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(super) fn of_peer(socket: BorrowedFd<'_>) -> Option<Credentials> {
    use std::os::fd::AsRawFd;

    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: SO_PEERCRED writes one ucred, and no more than `size` bytes, through the first pointer,
    // and the size through the second; both are valid for that and outlive the call. Any bytes make a
    // ucred. The descriptor is borrowed, hence open.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    // A socket that has no peer, or one of another kind, has nobody for one.
    let known = status == 0 && peer.uid != libc::uid_t::MAX;
    known.then(|| Credentials { pid: (peer.pid > 0).then_some(peer.pid), uid: peer.uid, gid: peer.gid })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn of_peer(_: BorrowedFd<'_>) -> Option<Credentials> {
    None
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_pair_of_our_own_has_us_for_a_peer_and_other_sockets_have_nobody() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = of_peer(one.as_fd()).unwrap();
        assert_eq!(peer.pid, Some(std::process::id() as i32));
        let us = std::fs::metadata("/proc/self").unwrap();
        assert_eq!((peer.uid, peer.gid), (us.uid(), us.gid()));
        let unbound = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert_eq!(of_peer(unbound.as_fd()), None);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(of_peer(tcp.as_fd()), None);
        assert_eq!(of_peer(std::fs::File::open("/dev/null").unwrap().as_fd()), None);
    }
}
