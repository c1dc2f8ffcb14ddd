//! Leaving the host's file system for good, and programs that cannot be written to through their processes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;

/// The kernel's `mount_attr`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) user_namespace: u64,
}

/// Moves this process into a mount namespace of its own in which `root`, read-only, is all there is: nothing of the host
/// can be reached through `/proc/<pid>/root`, as it could from behind a mere chroot.
pub(crate) fn move_into(root: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let flags = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount(None::<&str>, root, None::<&str>, flags, None::<&str>)?;
    nix::unistd::chdir(root)?;
    // The old root is stacked upon the new one, and taken off from there.
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// This process's own program as a mount of its own that is read-only and in no namespace. What runs from it can be read
/// through `/proc/<pid>/exe`, never written, not even when nothing runs any more (CVE-2019-5736's kind).
pub(crate) fn read_only_program() -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a path that lives until the call returns, and flags; it makes a descriptor.
    let tree =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/proc/self/exe".as_ptr(), flags) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made by the call above.
    let tree = unsafe { OwnedFd::from_raw_fd(i32::try_from(tree).map_err(io::Error::other)?) };
    let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    set_attributes(&tree, &Attributes { set, ..Attributes::default() })?;
    Ok(tree)
}

/// Changes the attributes of the mount that a handle stands for.
pub(crate) fn set_attributes(tree: &OwnedFd, attributes: &Attributes) -> io::Result<()> {
    // SAFETY: an open descriptor, an empty path, and a structure that lives until the call returns with its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the root directory of a process is the root of its mount namespace, with nothing behind it.
pub(crate) fn is_namespace_root(pid: i32) -> io::Result<bool> {
    let path = format!("/proc/{pid}/root");
    // SAFETY: the descriptors were made by the calls just before; nobody else knows them.
    let open = |path: &str, flags| -> io::Result<OwnedFd> {
        let fd = nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty())?;
        // SAFETY: as above.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let root = open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let namespace = open(&format!("/proc/{pid}/ns/mnt"), OFlag::O_RDONLY)?;
    let worker = super::process::spawn(|| {
        let same = || -> io::Result<bool> {
            // Joining puts this copy at the namespace's root.
            nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS)?;
            Ok(mount_id(libc::AT_FDCWD, c"/")? == mount_id(root.as_raw_fd(), c"")?)
        };
        super::process::exit(match same() {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(_) => 2,
        })
    })?;
    loop {
        match nix::sys::wait::waitpid(worker, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, code)) if code < 2 => return Ok(code == 0),
            Ok(_) => return Err(io::Error::other("cannot look into the mount namespace")),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The number by which `mountinfo` knows the mount that a handle is on.
pub(crate) fn mount_of(handle: std::os::fd::BorrowedFd<'_>) -> io::Result<u64> {
    Ok(mount_id(handle.as_raw_fd(), c"")?.0)
}

/// What tells a mount from all others: of a handle, or of this process's root.
fn mount_id(fd: std::os::fd::RawFd, path: &std::ffi::CStr) -> io::Result<(u64, u64)> {
    let mut about = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: a path that lives until the call returns, and room for the answer.
    let result = unsafe { libc::statx(fd, path.as_ptr(), libc::AT_EMPTY_PATH, mask, about.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before, filled by the call.
    let about = unsafe { about.assume_init() };
    Ok((about.stx_mnt_id, about.stx_ino))
}
