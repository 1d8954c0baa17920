//! The path of a Unix-domain listener: how it comes about, whom it is taken from, who removes it.
//!
//! A path outlives its socket, so a server that was killed leaves one in the way of the next. It is
//! replaced only when nobody stands behind it, and by one starter at a time. It is removed while its
//! socket still listens, so that nobody takes it for a left-over meanwhile.

mod owner;
mod turn;

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use socket2::{SockAddr, Socket};

use self::turn::Turn;

/// A path that a listener of this process has made, removed with it.
#[derive(Debug)]
pub(crate) struct OwnedPath {
    path: PathBuf,
    made: FileId,
    /// A child that was forked since has a copy of all this, and no business with the path.
    process: u32,
    /// Another process listens there too.
    shared: AtomicBool,
}

impl OwnedPath {
    /// Binds a socket to a path, which `name` says in the system's way, and listens there.
    pub(super) fn listen(
        socket: &Socket,
        path: &Path,
        name: &SockAddr,
        mode: Option<u32>,
        backlog: i32,
    ) -> io::Result<Self> {
        let whole = whole_path(path);
        // Until the socket listens: one that does not looks left over to the next starter.
        let _turn = Turn::take(whole.parent().unwrap_or(&whole));
        match socket.bind(name) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                owner::clear(&whole, name)?;
                socket.bind(name)?;
            }
            bound => bound?,
        }
        let owned = Self {
            made: FileId::at(&whole).map_err(|_| in_use())?,
            path: whole,
            process: std::process::id(),
            shared: AtomicBool::new(false),
        };
        if let Some(mode) = mode {
            fs::set_permissions(&owned.path, Permissions::from_mode(mode))?;
        }
        socket.listen(backlog)?;
        Ok(owned)
    }

    /// Leaves the path to another process, which listens there too.
    pub(super) fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        if *self.shared.get_mut() || self.process != std::process::id() {
            return;
        }
        // Somebody may have removed it, and made another there.
        if FileId::at(&self.path).is_ok_and(|found| found == self.made) {
            if let Err(error) = fs::remove_file(&self.path) {
                log::warn!("could not remove {}: {error}", self.path.display());
            }
        }
    }
}

/// What tells one file from another that has taken its path. A number alone does not: unless a
/// socket holds on to it, it is given to the next file as soon as the old one is gone.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// Where the file system keeps it.
    created: Option<SystemTime>,
}

impl FileId {
    fn at(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|meta| Self::of(&meta))
    }

    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), created: meta.created().ok() }
    }
}

/// The path from the root and without symbolic links, its last component aside: so it stays right
/// when the process changes its directory, and can be compared with another's.
fn whole_path(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let whole = fs::canonicalize(folder).or_else(|_| std::path::absolute(folder));
    whole.unwrap_or_else(|_| folder.to_owned()).join(path.file_name().unwrap_or_default())
}

fn in_use() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRINUSE)
}

fn is_socket(meta: &Metadata) -> bool {
    meta.file_type().is_socket()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // Which of them get a number again, and how soon, is the file system's affair.
    #[test]
    fn a_file_is_told_from_another_that_got_its_number() {
        let path = std::env::current_exe().unwrap();
        let file = FileId::at(&path).unwrap();
        assert_eq!(file.created, fs::metadata(&path).unwrap().created().ok());
        let created = file.created.map(|time| time + Duration::from_millis(10));
        let next = FileId { created, ..FileId::at(&path).unwrap() };
        assert!(created.is_none() || next != file);
        assert_eq!(FileId::at(&path).unwrap(), file);
    }

    #[test]
    fn a_path_stays_the_same_wherever_the_process_goes() {
        let here = std::env::current_dir().unwrap();
        for (path, whole) in [("s", here.join("s")), ("./src/../s", here.join("s")), ("/s", "/s".into())] {
            assert_eq!(whole_path(Path::new(path)), whole);
        }
        assert_eq!(whole_path(Path::new("/no/such/folder/s")), Path::new("/no/such/folder/s"));
    }
}
