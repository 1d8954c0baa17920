//! Which core a thread runs on.

use std::io;

/// Has this thread run on one core only (sched_setaffinity(2)).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn pin_to_core(core: usize) -> io::Result<()> {
    let most = libc::CPU_SETSIZE as usize;
    if core >= most {
        let message = format!("core {core} is more than the system counts to ({most})");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: a set of bits, for which zero is valid; the core lies within it; the kernel reads as many bytes as
    // it is told, and the set outlives the call. Thread 0 is this one.
    let status = unsafe {
        libc::CPU_SET(core, &mut *set.as_mut_ptr());
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set.as_ptr())
    };
    match status {
        0 => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(error.kind(), format!("core {core}: {error}")))
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pin_to_core(_: usize) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "threads can be pinned to cores on Linux only"))
}
