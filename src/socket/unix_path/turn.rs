//! Those who start in one folder take turns.
//!
//! To look whether a path is left over, to remove it, to bind and to listen are four calls: two
//! starters between each other's would both remove, and both believe that they have the path. So
//! each holds a lock of the folder meanwhile. It is the folder itself that is locked (flock(2)), so
//! no lock file is left to anybody, and the lock goes with its process whatever becomes of that.
//!
//! Whoever may read a folder can lock it, and `flock(1)` around a server does so for as long as the
//! server lives. Therefore the lock is a courtesy and no condition: without it a start goes on after
//! a while, with what the kernel tells of sockets as the only protection.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a starter waits for the others. Each takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// The first wait between two tries; it doubles up to the last one.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LAST_PAUSE: Duration = Duration::from_millis(10);

/// The lock of a folder, held.
#[derive(Debug)]
pub(super) struct Turn(File);

impl Turn {
    /// Waits for the lock for a while. None when it is not to be had: the folder may not be read, its
    /// file system knows no such lock, or somebody keeps it.
    pub(super) fn take(folder: &Path) -> Option<Self> {
        // Opening anything but a folder fails, and with it the wait for a FIFO's other end.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder);
        let file = opened.map_err(|error| not_locked(folder, &error)).ok()?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            match flock(&file, libc::LOCK_EX | libc::LOCK_NB) {
                Ok(()) => return Some(Self(file)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(error) => {
                    not_locked(folder, &error);
                    return None;
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Closing would leave it to a child that another thread has forked meanwhile.
        if let Err(error) = flock(&self.0, libc::LOCK_UN) {
            log::debug!("flock: {error}");
        }
    }
}

fn not_locked(folder: &Path, error: &io::Error) {
    log::debug!("listening without a lock of {}: {error}", folder.display());
}

#[allow(unsafe_code)]
fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: flock takes two integers and touches no memory; the descriptor is borrowed, hence open.
    match unsafe { libc::flock(file.as_raw_fd(), operation) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_when_the_one_before_is_over_and_not_earlier() {
        let folder = std::env::temp_dir().join(format!("unbroken-turn-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let first = Turn::take(&folder).expect("nobody has it");
        let (took, waited) = std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let begin = Instant::now();
                (Turn::take(&folder).is_some(), begin.elapsed())
            });
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            second.join().unwrap()
        });
        assert!(took && waited >= Duration::from_millis(40), "{waited:?}");
        // A child that was forked meanwhile has the same open file, as a duplicate has.
        let third = Turn::take(&folder).unwrap();
        let _copy = third.0.try_clone().unwrap();
        drop(third);
        let kept = Turn::take(&folder).expect("it is free again");
        let begin = Instant::now();
        assert!(Turn::take(&folder).is_none(), "it does not come at all");
        assert!(begin.elapsed() >= PATIENCE);
        drop(kept);
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_not_waited_for() {
        let begin = Instant::now();
        assert!(Turn::take(Path::new("/nowhere/at/all")).is_none());
        assert!(Turn::take(Path::new("/dev/null")).is_none());
        let fifo = std::env::temp_dir().join(format!("unbroken-fifo-{}", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        if made.is_ok_and(|status| status.success()) {
            assert!(Turn::take(&fifo).is_none());
            std::fs::remove_file(&fifo).unwrap();
        }
        assert!(begin.elapsed() < PATIENCE);
    }
}
