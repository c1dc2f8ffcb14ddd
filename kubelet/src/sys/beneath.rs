//! Opening and making paths inside a directory that others may write to: no link, `..` or rename leads out of it.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, fchmod, mkdirat},
};

use super::mounts;

/// A handle on `path` below `root`, whatever it is; nothing is read through it.
pub fn open_path(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlag::O_PATH)
}

/// As a process whose root directory is `root` would find `path`: an absolute link starts at `root` again.
pub fn open_in_root(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_resolved(root, path, OFlag::O_PATH, ResolveFlag::RESOLVE_IN_ROOT)
}

pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let fd = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    open_resolved(root, path, flags, ResolveFlag::RESOLVE_BENEATH)
}

fn open_resolved(root: &OwnedFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on the directory `path` below `root`; what is missing of it is made with `mode`.
pub fn make_directories(root: &OwnedFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mut made = PathBuf::new();
    let mut parent = root.as_fd().try_clone_to_owned()?;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the path must be relative and without \"..\"",
                ));
            }
        };
        made.push(name);
        parent = match open_path(root, &made) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(&parent, name, mode)?,
            other => other?,
        };
    }
    Ok(parent)
}

fn make_directory(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    match mkdirat(Some(parent.as_raw_fd()), name, Mode::from_bits_truncate(mode)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Somebody may have put a link in its place meanwhile: that is refused.
    let made =
        open_beneath(parent, Path::new(name), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
    // The process's umask may have taken bits away.
    fchmod(made.as_raw_fd(), Mode::from_bits_truncate(mode))?;
    Ok(made)
}

/// Binds what a handle stands for, wherever it may have been moved to.
pub fn bind(source: &OwnedFd, target: &Path) -> io::Result<()> {
    mounts::bind(&PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

pub fn is_directory(handle: &OwnedFd) -> io::Result<bool> {
    let kind = nix::sys::stat::fstat(handle.as_raw_fd())?.st_mode & libc::S_IFMT;
    Ok(kind == libc::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_root_is_opened_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(root.join("a/file"), "x").unwrap();
        for (link, target) in
            [("up", ".."), ("absolute", "/etc"), ("within", "a"), ("deep", "a/../../outside")]
        {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let handle = open_root(&root).unwrap();
        for (path, allowed) in [
            ("a", true),
            ("a/file", true),
            ("within", true),
            ("within/file", true),
            ("new/deep/dir", true),
            ("within/made", true),
            ("up", false),
            ("up/outside", false),
            ("up/fresh", false),
            ("absolute", false),
            ("absolute/passwd", false),
            ("deep", false),
            ("deep/made", false),
            ("../outside", false),
            ("/etc", false),
        ] {
            let got = make_directories(&handle, Path::new(path), 0o750);
            assert_eq!(got.is_ok(), allowed, "{path}: {got:?}");
        }
        assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
        assert!(!dir.path().join("fresh").exists());
        assert!(root.join("a/made").is_dir());
    }
}
