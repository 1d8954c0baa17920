//! Whether anybody stands behind a path that is taken already, and its removal when nobody does.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{in_use, is_socket, FileId};

/// Removes a path that a dead server left behind; does nothing when it is gone already.
///
/// # Errors
///
/// `AddrInUse` when somebody stands behind it, or it is no socket. Those of the removal, when nobody
/// does, and of making a socket to find out.
pub(super) fn clear(path: &Path, name: &SockAddr) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == ErrorKind::NotFound;
    let found = match fs::symlink_metadata(path) {
        Ok(meta) if is_socket(&meta) => FileId::of(&meta),
        Err(error) if gone(&error) => return Ok(()),
        _ => return Err(in_use()),
    };
    // In this order: an owner that comes to listen between the two is met by the second.
    if is_about_to_listen(path) || !is_refused(name)? {
        return Err(in_use());
    }
    match FileId::at(path) {
        Ok(still) if still == found => {}
        Err(error) if gone(&error) => return Ok(()),
        _ => return Err(in_use()),
    }
    match fs::remove_file(path) {
        Err(error) if !gone(&error) => Err(io::Error::new(
            error.kind(),
            format!("{} was left behind by another server and cannot be removed: {error}", path.display()),
        )),
        _ => Ok(()),
    }
}

/// Whether a connection is refused. A path that is gone is nobody's either.
fn is_refused(name: &SockAddr) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    let refused =
        |error: &io::Error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
    Ok(probe.connect(name).is_err_and(|error| refused(&error)))
}

/// Whether a socket that does not listen yet is bound there: it refuses connections as a dead one
/// does. Where the kernel does not tell, only the turns protect it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_about_to_listen(path: &Path) -> bool {
    // The thread's own: it may live in another network than its process.
    let table = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
    let mut names = table::names_of_the_bound(&table);
    names.any(|name| table::means(name, path))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_about_to_listen(_: &Path) -> bool {
    false
}

/// The kernel's list of Unix-domain sockets (proc_pid_net(5)).
#[cfg(any(target_os = "linux", target_os = "android"))]
mod table {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// `__SO_ACCEPTCON`: it listens.
    const LISTENS: u32 = 0x10000;

    /// The names of stream sockets that are bound, and neither listen nor are connected. Whoever
    /// listens can be connected to, if it is behind the path at all and not behind another of that
    /// name in a container; connections carry their listener's name, and outlive it.
    pub(super) fn names_of_the_bound(table: &[u8]) -> impl Iterator<Item = &Path> {
        table.split(|byte| *byte == b'\n').filter_map(name_if_bound)
    }

    /// Reads a line: number, references, protocol, flags, type, state, inode, name.
    fn name_if_bound(line: &[u8]) -> Option<&Path> {
        let mut rest = line;
        let mut fields: [&[u8]; 7] = [&[]; 7];
        for field in &mut fields {
            rest = rest.trim_ascii_start();
            (*field, rest) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
        }
        let [_, _, _, flags, kind, state, _] = fields;
        let flags = u32::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()?;
        // SOCK_STREAM, SS_UNCONNECTED.
        let bound = kind == b"0001" && state == b"01" && flags & LISTENS == 0;
        let name = rest.strip_prefix(b" ")?;
        bound.then(|| Path::new(OsStr::from_bytes(name)))
    }

    /// Whether a name is another name of `path`, which is whole. It stands there as it was given to
    /// `bind`: what it is relative to nobody knows, so then its last component decides.
    pub(super) fn means(name: &Path, path: &Path) -> bool {
        name.file_name() == path.file_name() && (name.is_relative() || super::super::whole_path(name) == path)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const TABLE: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            00000000a1b2c3d4: 00000002 00000000 00010000 0001 01 20476 /run/listens\n\
            0000000000000000: 00000002 00000000 00000000 0001 01   476 /run/bound to be\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20478 /run/accepted\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20479 /run/datagrams\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 20480\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 20481 ./relative\n\
            0000000000000000: 00000002 00000000 00000000 0001 01 20482 @abstract\n\
            cut off in the mid";

        #[test]
        fn the_bound_are_those_that_neither_listen_nor_are_connected() {
            let names: Vec<_> = names_of_the_bound(TABLE).collect();
            assert_eq!(names, ["/run/bound to be", "./relative", "@abstract"].map(Path::new));
        }

        #[test]
        fn a_name_means_a_path_however_it_is_written_and_in_doubt_it_does() {
            let folder = std::fs::canonicalize(std::env::temp_dir()).unwrap();
            let path = folder.join("s");
            assert!(means(&path, &path));
            assert!(means(&folder.join(".").join("s"), &path));
            assert!(means(Path::new("s"), &path) && means(Path::new("../elsewhere/s"), &path));
            assert!(!means(&folder.join("t"), &path) && !means(Path::new("/s"), &path));
        }
    }
}
