//! Writes to what is no socket, without SIGPIPE: a pipe whose reader has gone would kill a host that has left
//! the signal alone, and `MSG_NOSIGNAL` is for sockets only.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::sync::atomic::{AtomicU8, Ordering};

/// `RWF_NOSIGNAL` of pwritev2(2), since Linux 6.18. The headers of most C libraries do not have it yet.
#[cfg(any(target_os = "linux", target_os = "android"))]
const RWF_NOSIGNAL: libc::c_int = 0x100;

#[cfg(any(target_os = "linux", target_os = "android"))]
const UNKNOWN: u8 = 0;
#[cfg(any(target_os = "linux", target_os = "android"))]
const YES: u8 = 1;
#[cfg(any(target_os = "linux", target_os = "android"))]
const NO: u8 = 2;

/// Whether this kernel knows the flag: asked once for the process.
#[cfg(any(target_os = "linux", target_os = "android"))]
static FLAG: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Writes the front of `slices` in one system call. A reader that has gone is EPIPE and nothing else.
pub(super) fn write(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if has_flag() {
        match write_with_flag(fd, slices) {
            // A device whose driver takes no flags at all.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => return result,
        }
    }
    write_with_signal_blocked(fd, slices)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_flag() -> bool {
    match FLAG.load(Ordering::Relaxed) {
        UNKNOWN => {
            let known = probe();
            FLAG.store(if known { YES } else { NO }, Ordering::Relaxed);
            known
        }
        known => known == YES,
    }
}

/// Writes to a pipe that has a reader, so that no signal could come of it: EOPNOTSUPP is what a kernel says
/// to a flag that it does not know, ENOSYS to a call.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn probe() -> bool {
    use std::os::fd::AsFd;

    let Ok((writer, _reader)) = mio::unix::pipe::new() else { return false };
    write_with_flag(writer.as_fd(), &[IoSlice::new(b"?")]).is_ok()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn write_with_flag(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // An offset of -1 is the file's own position, as with writev.
    // SAFETY: an IoSlice has the layout of an iovec (promised by std); so many of them are borrowed for the
    // call, which only reads what they point to; the descriptor is borrowed, hence open.
    let written =
        unsafe { libc::pwritev2(fd.as_raw_fd(), slices.as_ptr().cast(), count(slices), -1, RWF_NOSIGNAL) };
    outcome(written)
}

/// A count that is negative is an error.
fn outcome(written: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

fn count(slices: &[IoSlice<'_>]) -> libc::c_int {
    libc::c_int::try_from(slices.len()).unwrap_or(1)
}

/// Where there is no such flag: SIGPIPE is blocked in this thread for the time of the write and, when the
/// write has raised it, taken out. A write raises it in its own thread only, and at once (signal(7)). One that
/// waited before belongs to the host, and stays.
#[allow(unsafe_code)]
fn write_with_signal_blocked(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    use std::mem::MaybeUninit;

    let mut sigpipe = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the calls initialise the sets that they are given, which outlive them, and read only such as
    // have been initialised; the slices as in the call above.
    unsafe {
        libc::sigemptyset(sigpipe.as_mut_ptr());
        libc::sigaddset(sigpipe.as_mut_ptr(), libc::SIGPIPE);
        let waited = is_pending();
        libc::pthread_sigmask(libc::SIG_BLOCK, sigpipe.as_ptr(), before.as_mut_ptr());
        let written = libc::writev(fd.as_raw_fd(), slices.as_ptr().cast(), count(slices));
        let result = outcome(written);
        if !waited && is_pending() {
            let mut signal = 0;
            libc::sigwait(sigpipe.as_ptr(), &mut signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        result
    }
}

/// Whether SIGPIPE has been raised and waits, blocked.
#[allow(unsafe_code)]
fn is_pending() -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending initialises the set, which outlives both calls.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0 && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    const ROLE: &str = "UNBROKEN_NOSIGNAL_ROLE";

    /// Runs this test once more in a process of its own, in which SIGPIPE is as every C program finds it.
    fn again(role: &str) -> ExitStatus {
        let name = "socket::nosignal::tests::a_pipe_without_a_reader_kills_nobody";
        let args = ["--exact", name, "--nocapture"];
        Command::new(std::env::current_exe().unwrap()).args(args).env(ROLE, role).status().unwrap()
    }

    /// This thread's own lines about signals.
    fn signals() -> Vec<String> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines = status.lines().filter(|line| line.starts_with("Sig") || line.starts_with("ShdPnd"));
        lines.filter(|line| !line.starts_with("SigQ")).map(str::to_owned).collect()
    }

    #[allow(unsafe_code)]
    fn set_default(block: bool) {
        // SAFETY: neither call has any precondition on a set that sigemptyset has initialised.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
            let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
            libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
        }
    }

    fn write_to_nobody() {
        let before = signals();
        for _ in 0..3 {
            let (writer, reader) = mio::unix::pipe::new().unwrap();
            drop(reader);
            let slices = [IoSlice::new(b"one"), IoSlice::new(b"two")];
            let error = write(writer.as_fd(), &slices).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
            assert_eq!(signals(), before);
        }
        let (writer, reader) = mio::unix::pipe::new().unwrap();
        assert_eq!(write(writer.as_fd(), &[IoSlice::new(b"one"), IoSlice::new(b"two")]).unwrap(), 6);
        assert_eq!(signals(), before);
        drop(reader);
    }

    #[test]
    fn a_pipe_without_a_reader_kills_nobody() {
        match std::env::var(ROLE).as_deref() {
            Err(_) => {
                for role in ["flag", "no flag", "no flag, blocked"] {
                    assert!(again(role).success(), "{role}");
                }
                // The proof that the above could fail.
                assert_eq!(again("control").signal(), Some(libc::SIGPIPE));
            }
            Ok("control") => {
                set_default(false);
                let (mut writer, reader) = mio::unix::pipe::new().unwrap();
                drop(reader);
                let _ = io::Write::write(&mut writer, b"x");
            }
            Ok(role) => {
                set_default(role.ends_with("blocked"));
                if role.starts_with("no flag") {
                    FLAG.store(NO, Ordering::Relaxed);
                }
                write_to_nobody();
            }
        }
    }

    #[test]
    fn a_signal_that_waited_before_is_left_to_its_owner() {
        set_default(true);
        // SAFETY: it is blocked in this thread, and raised in this thread only.
        #[allow(unsafe_code)]
        unsafe {
            libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE);
        }
        let (writer, reader) = mio::unix::pipe::new().unwrap();
        drop(reader);
        assert!(write_with_signal_blocked(writer.as_fd(), &[IoSlice::new(b"x")]).is_err());
        assert!(is_pending());
        // As the test runner had it: ignoring drops what waits.
        #[allow(unsafe_code)]
        // SAFETY: no precondition.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        }
        assert!(!is_pending());
    }
}
