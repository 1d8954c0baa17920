//! The two calls that every message takes, with nothing between them and the kernel: the layers of a
//! general library cost as much as a look-up of the connection does.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::SEND_FLAGS;

/// As much as every system takes in one call: some refuse more instead of taking a part.
const LONGEST: usize = libc::c_int::MAX as usize - 1;

/// Reads what is there, into `buf`.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) fn recv(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes `buf.len()` bytes at most to where the pointer points, which is borrowed for
    // the call; the descriptor is borrowed, hence open.
    outcome(unsafe { libc::recv(socket.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) })
}

/// Writes the front of one slice: the kernel is spared the copy of a message header.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) fn send(socket: BorrowedFd<'_>, slice: &IoSlice<'_>) -> io::Result<usize> {
    let len = slice.len().min(LONGEST);
    // SAFETY: the kernel reads `len` bytes from where the pointer points, which are within the slice that is
    // borrowed for the call; the descriptor is borrowed, hence open.
    outcome(unsafe { libc::send(socket.as_raw_fd(), slice.as_ptr().cast(), len, SEND_FLAGS) })
}

/// A count that is negative is an error.
#[inline(always)]
fn outcome(count: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn each_says_what_the_kernel_said() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        let mut buf = [0; 8];
        assert_eq!(recv(ours.as_fd(), &mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(send(theirs.as_fd(), &IoSlice::new(b"hello")).unwrap(), 5);
        assert_eq!(recv(ours.as_fd(), &mut buf[..3]).unwrap(), 3);
        assert_eq!(recv(ours.as_fd(), &mut buf[3..]).unwrap(), 2);
        assert_eq!(&buf[..5], b"hello");
        drop(theirs);
        assert_eq!(recv(ours.as_fd(), &mut buf).unwrap(), 0);
        let error = send(ours.as_fd(), &IoSlice::new(b"nobody")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }
}
