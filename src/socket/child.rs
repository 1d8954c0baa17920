//! The end of a child process as something that can be waited for.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;

/// A descriptor that is ready to be read once the child has ended (pidfd_open(2), since Linux 5.3). Nobody
/// else can wait for our child, so that its number is still its own.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    use std::os::fd::{FromRawFd, RawFd};

    #[cfg(test)]
    if tests::PRETEND_NONE.get() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the call takes two numbers. It sets close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the call has just made it, for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pidfd(_: &Child) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns when the child has ended, and leaves its status for whoever waits for it properly: until then its
/// number is nobody else's.
#[allow(unsafe_code)]
pub(crate) fn wait_for_end(pid: u32) {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: the kernel writes one siginfo_t, which outlives the call.
        let status = unsafe {
            libc::waitid(libc::P_PID, pid as libc::id_t, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT)
        };
        if status == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;
    use std::process::{Command, Stdio};

    thread_local! {
        /// As on a kernel that has no such thing.
        pub(crate) static PRETEND_NONE: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn the_end_of_a_child_is_waited_for_without_taking_its_status() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).stdin(Stdio::null()).spawn().unwrap();
        wait_for_end(child.id());
        assert_eq!(child.try_wait().unwrap().and_then(|status| status.code()), Some(7));
        wait_for_end(child.id());
    }
}
