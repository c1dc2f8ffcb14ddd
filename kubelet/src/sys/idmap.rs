//! Mounts that show the owners of files as a user namespace has them: on the disk a file of the pod's root is root's.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::roots::{Attributes, MOUNT_ATTR_RDONLY, set_attributes};

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// A mount of its own of what is at `path`, with all that is mounted below it; it has no place yet.
pub(crate) fn detached(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a path that lives until the call returns, and flags; it makes a descriptor.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made by the call above.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(tree).map_err(io::Error::other)?) })
}

/// Shows the owners of the files of a mount without a place as the namespace has them; not those of mounts below it. The
/// file system must be one that can.
pub(crate) fn map_owners(tree: &OwnedFd, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let user_namespace = u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?;
    set_attributes(tree, &Attributes { set: MOUNT_ATTR_IDMAP, user_namespace, ..Attributes::default() })
}

/// Makes a mount read-only, not those below it.
pub(crate) fn make_readonly(tree: &OwnedFd) -> io::Result<()> {
    set_attributes(tree, &Attributes { set: MOUNT_ATTR_RDONLY, ..Attributes::default() })
}

/// Gives a mount its place.
pub(crate) fn attach(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: an open descriptor and two paths that live until the call returns.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            at.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
