//! What is asked of a descriptor that is no socket, and done to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// What a descriptor leads to, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pipe, with or without a name.
    Fifo,
    Socket,
    /// A terminal, or some other device.
    Device,
    /// A file, which is always ready: epoll does not watch it (EPERM), and no read or write of it waits.
    File,
    Directory,
    /// An event counter, a signal, a timer: things without a place in the file system.
    Other,
}

pub(super) fn kind_of(file: &File) -> io::Result<Kind> {
    let kind = file.metadata()?.file_type();
    Ok(match kind {
        _ if kind.is_fifo() => Kind::Fifo,
        _ if kind.is_socket() => Kind::Socket,
        _ if kind.is_char_device() => Kind::Device,
        _ if kind.is_file() || kind.is_block_device() => Kind::File,
        _ if kind.is_dir() => Kind::Directory,
        _ => Kind::Other,
    })
}

/// Opens the same pipe or terminal once more, non-blocking. `O_NONBLOCK` belongs to the open file and not to
/// the descriptor: set on a standard input that the shell shares, it would stay set when we are gone, and
/// break whoever reads there next.
pub(super) fn reopen(file: &File, write: bool) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    File::options().read(!write).write(write).custom_flags(flags).open(path)
}

/// Sets `O_NONBLOCK`, or takes it away. Returns whether it was set before.
#[allow(unsafe_code)]
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<bool> {
    // SAFETY: F_GETFL and F_SETFL take and give a number; the descriptor is borrowed, hence open.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        let before = flags & libc::O_NONBLOCK != 0;
        let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        if wanted != flags && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

/// Whether the other end has gone: nobody reads what is written here any more.
#[allow(unsafe_code)]
pub(super) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one structure is passed, which outlives the call; a time-out of 0 does not wait.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready == 1 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    fn pipe() -> (File, File) {
        let (writer, reader) = mio::unix::pipe::new().unwrap();
        writer.set_nonblocking(false).unwrap();
        reader.set_nonblocking(false).unwrap();
        (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
    }

    #[test]
    fn a_pipe_that_is_opened_again_has_flags_of_its_own() {
        let (reader, writer) = pipe();
        for (end, write) in [(&reader, false), (&writer, true)] {
            let again = reopen(end, write).unwrap();
            assert!(set_nonblocking(again.as_fd(), true).unwrap());
            assert!(!set_nonblocking(end.as_fd(), false).unwrap());
        }
        assert!(!is_hung_up(writer.as_fd()));
        drop(reader);
        assert!(is_hung_up(writer.as_fd()));
    }
}
