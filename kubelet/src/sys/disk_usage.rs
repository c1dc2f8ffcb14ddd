//! How much of a disk a directory takes that others write to: no link leads out of it, no mount is crossed, and neither
//! depth nor number of files costs more than the bound.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub bytes: u64,
    pub inodes: u64,
    /// The bound was reached: there is more.
    pub incomplete: bool,
}

/// A path below a held directory; a very deep one is continued from a directory of its own.
struct Place {
    base: Rc<OwnedFd>,
    path: PathBuf,
}

/// What a path handed to the kernel may have at most is 4096 bytes.
const LONGEST: usize = 3500;

/// Blocks and inodes of everything at and below `root`, a directory or a file, up to so many entries.
pub fn disk_usage(root: &Path, most: u64) -> io::Result<DiskUsage> {
    let mut usage = DiskUsage::default();
    let mut linked = HashSet::new();
    let top = root.symlink_metadata()?;
    usage.bytes += top.blocks() * 512;
    usage.inodes += 1;
    if !top.is_dir() {
        return Ok(usage);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd = open(root, flags, Mode::empty())?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    let base = Rc::new(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut pending = vec![Place { base, path: PathBuf::from(".") }];
    while let Some(place) = pending.pop() {
        // What has gone meanwhile, is another mount or a link now, takes nothing here.
        let Ok(directory) = open_below(&place) else { continue };
        let rebased = (place.path.as_os_str().len() > LONGEST)
            .then(|| directory.try_clone().map(Rc::new))
            .transpose()?;
        // By the handle, whatever stands at the path by now.
        let Ok(entries) = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())) else { continue };
        for entry in entries {
            let Ok(entry) = entry else { break };
            if usage.inodes >= most {
                usage.incomplete = true;
                return Ok(usage);
            }
            let Ok(found) = entry.metadata() else { continue };
            if !found.is_dir() && found.nlink() > 1 && !linked.insert((found.dev(), found.ino())) {
                continue;
            }
            usage.inodes += 1;
            usage.bytes += found.blocks() * 512;
            if found.is_dir() {
                pending.push(match &rebased {
                    Some(base) => Place { base: base.clone(), path: PathBuf::from(entry.file_name()) },
                    None => Place { base: place.base.clone(), path: place.path.join(entry.file_name()) },
                });
            }
        }
    }
    Ok(usage)
}

fn open_below(place: &Place) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = openat2(place.base.as_raw_fd(), &place.path, OpenHow::new().flags(flags).resolve(resolve))?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn links_are_not_followed_and_shared_files_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("big"), vec![1; 8 << 20]).unwrap();
        fs::write(root.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        symlink(root.join("a"), root.join("a/b/loop")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let usage = disk_usage(&root, 1000).unwrap();
        assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
        // volume, a, a/b, file, loop, out, sparse
        assert_eq!((usage.inodes, usage.incomplete), (7, false));
        assert!(disk_usage(&root.join("out"), 1000).unwrap().bytes < 1 << 20, "not even at the top");
        assert!(disk_usage(&root.join("a/b/file"), 1).unwrap().bytes >= 1 << 20);
        assert!(disk_usage(&root.join("nothing"), 1).is_err());
    }

    #[test]
    fn a_walk_ends_at_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..50 {
            fs::write(dir.path().join(n.to_string()), "x").unwrap();
        }
        let usage = disk_usage(dir.path(), 20).unwrap();
        assert_eq!((usage.inodes, usage.incomplete), (20, true));
    }

    #[test]
    fn nothing_is_hidden_by_depth() {
        const NAME: &str = "a_directory_with_a_name_that_is_somewhat_long";
        let dir = tempfile::tempdir().unwrap();
        let open = |at: Option<i32>, path: &Path| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(at, path, flags, Mode::empty()).unwrap()
        };
        let mut at = open(None, dir.path());
        for _ in 0..300 {
            mkdirat(Some(at), NAME, Mode::S_IRWXU).unwrap();
            let next = open(Some(at), Path::new(NAME));
            nix::unistd::close(at).unwrap();
            at = next;
        }
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(Some(at), "file", flags, Mode::S_IRWXU).unwrap();
        // SAFETY: made above, and owned by nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        nix::unistd::write(&file, &vec![1; 1 << 20]).unwrap();
        nix::unistd::close(at).unwrap();
        let usage = disk_usage(dir.path(), 10_000).unwrap();
        assert_eq!(usage.inodes, 302);
        assert!(usage.bytes >= 1 << 20, "{usage:?}");
    }
}
