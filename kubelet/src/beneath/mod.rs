//! Files below a directory that an image, a container or a registry can shape: the only place in the node agent that
//! opens, makes, moves, links or removes there.
//!
//! Everything is relative to a held handle, so that a directory swapped for a link meanwhile changes nothing. A path is
//! only ever looked up by `openat2`, which the kernel keeps below the handle; whatever changes something takes one name
//! of one directory and never follows it. Only regular files are read or written. All of it blocks: `off_workers` takes
//! it off the threads that serve everybody.

mod names;
mod regular;
mod removal;
mod walk;

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::DirBuilderExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Stat, Uid},
    io::Errno,
};

pub use names::{Entries, Entry, Name};
pub use removal::remove_tree;
pub use rustix::fs::FileType;
/// Files that were opened here.
pub use std::fs::File;
/// As `File`, for those who read without a thread of their own.
pub use tokio::fs::File as AsyncFile;
pub use walk::{Usage, usage};

/// What a link within a path means. A link as the last part of what is changed or removed is never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// None is followed: for what only the node itself writes.
    Refused,
    /// Followed as long as it stays below the directory; an absolute one does not.
    Within,
    /// As a process would follow it whose root this directory is: absolute links start here, `..` ends here.
    AsRoot,
}

/// A directory that is held.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// Anything that was found below a directory. Nothing is read through it.
#[derive(Debug)]
pub struct Found(OwnedFd);

/// Owner and permissions that something is to have; `None` leaves the owner as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A path is looked up anew as often as this when others rename parts of it meanwhile.
const RACES: usize = 64;
/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Runs file work on a thread where it may block.
pub async fn off_workers<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Whether two handles are of one file, whatever its names.
pub fn is_same(one: &impl AsFd, other: &impl AsFd) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

// === impl Access ===

impl Access {
    pub fn mode(mode: u32) -> Access {
        Access { mode, ..Access::default() }
    }

    fn give(self, to: BorrowedFd<'_>) -> io::Result<()> {
        // The order matters: a new owner takes set-id bits away.
        own(to, self.uid, self.gid)?;
        Ok(rustix::fs::fchmod(to, mode_of(self.mode))?)
    }
}

fn own(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    if uid.is_some() || gid.is_some() {
        rustix::fs::fchown(fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
    }
    Ok(())
}

fn mode_of(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits & 0o7777)
}

// === impl Found ===

impl Found {
    pub fn kind(&self) -> io::Result<FileType> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode))
    }

    pub fn is_dir(&self) -> io::Result<bool> {
        Ok(self.kind()? == FileType::Directory)
    }

    pub fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// A path that stands for it wherever it has been moved to, as long as this is held: for mounts.
    pub fn magic_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Where it is on the node now.
    pub fn place(&self) -> io::Result<PathBuf> {
        fs::read_link(self.magic_path())
    }

    /// Gives it owner and permissions; a link has none.
    pub fn set_access(&self, access: Access) -> io::Result<()> {
        if self.kind()? == FileType::Symlink {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a link has no permissions"));
        }
        let (uid, gid) = (access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw));
        rustix::fs::chownat(&self.0, "", uid, gid, AtFlags::EMPTY_PATH)?;
        Ok(rustix::fs::chmod(self.magic_path(), mode_of(access.mode))?)
    }

    /// Opens the thing itself anew; nothing is looked up.
    fn reopen(&self, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(self.magic_path(), flags | OFlags::CLOEXEC, Mode::empty())?)
    }
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// === impl Dir ===

impl Dir {
    /// A directory whose path nobody but the node's owner decides; links in it are followed.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir(rustix::fs::open(path.as_ref(), flags, Mode::empty())?))
    }

    /// As `open`; what is missing is made with `mode`, what is there keeps its own.
    pub fn make(path: impl AsRef<Path>, mode: u32) -> io::Result<Dir> {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path.as_ref())?;
        Dir::open(path)
    }

    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }

    pub fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// A handle for mounts of the directory itself.
    pub fn as_found(&self) -> io::Result<Found> {
        Ok(Found(self.0.try_clone()?))
    }

    /// Whatever `path` stands for below this directory, opened for nothing. A link at its end is followed unless links are
    /// refused; then it is an error.
    pub fn find(&self, path: impl AsRef<Path>, links: Links) -> io::Result<Found> {
        self.look_up(path.as_ref(), OFlags::PATH, links).map(Found)
    }

    /// A directory below this one.
    pub fn dir(&self, path: impl AsRef<Path>, links: Links) -> io::Result<Dir> {
        self.look_up(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY, links).map(Dir)
    }

    fn look_up(&self, path: &Path, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
        self.look_up_on(path, flags, links, ResolveFlags::empty())
    }

    fn look_up_on(
        &self,
        path: &Path,
        flags: OFlags,
        links: Links,
        more: ResolveFlags,
    ) -> io::Result<OwnedFd> {
        let resolve = match links {
            Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Links::Within => ResolveFlags::BENEATH,
            Links::AsRoot => ResolveFlags::IN_ROOT,
        };
        let resolve = resolve | more | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        for _ in 0..RACES {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Somebody renames what is looked up: the kernel could not be sure that it stays below.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(io::Error::new(ErrorKind::ResourceBusy, "the path is being renamed all the time"))
    }

    /// Makes the directory, which must not be there yet.
    pub fn make_new(&self, name: impl AsRef<OsStr>, access: Access) -> io::Result<Dir> {
        let name = names::single(name.as_ref())?;
        rustix::fs::mkdirat(&self.0, name, mode_of(access.mode & 0o700))?;
        let made = self.own_dir(name)?;
        access.give(made.as_fd())?;
        Ok(made)
    }

    /// A directory right in this one: no link, and no mount.
    fn own_dir(&self, name: &OsStr) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.look_up_on(Path::new(name), flags, Links::Refused, ResolveFlags::NO_XDEV).map(Dir)
    }

    /// The directory `path`; what is missing of it is made with exactly `mode`, what is there keeps its own. Where links
    /// are followed as a root's, what a dangling one points to is made.
    pub fn make_dirs(&self, path: impl AsRef<Path>, links: Links, mode: u32) -> io::Result<Dir> {
        self.make_dirs_for(path, links, Access::mode(mode))
    }

    /// As `make_dirs`; what is made gets an owner, too.
    pub fn make_dirs_for(&self, path: impl AsRef<Path>, links: Links, access: Access) -> io::Result<Dir> {
        let mut rest: VecDeque<OsString> = parts(path.as_ref(), links)?;
        let (mut at, mut parent, mut followed) = (PathBuf::new(), self.try_clone()?, 0);
        while let Some(part) = rest.pop_front() {
            let next = at.join(&part);
            match self.dir(&next, links) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                found => {
                    (parent, at) = (found?, next);
                    continue;
                }
            }
            match rustix::fs::mkdirat(&parent.0, &part, mode_of(access.mode)) {
                Ok(()) => {
                    let made = parent.own_dir(&part)?;
                    // The process's umask may have taken bits away.
                    access.give(made.as_fd())?;
                    (parent, at) = (made, next);
                }
                Err(Errno::EXIST) if links == Links::AsRoot && followed < MAX_LINKS => {
                    followed += 1;
                    let target = parent.read_link(&part)?;
                    let mut through = parts(&target, links)?;
                    through.append(&mut rest);
                    rest = through;
                    if target.is_absolute() {
                        at = PathBuf::new();
                    }
                    parent = self.dir(&at, links)?;
                }
                // Somebody else has made it meanwhile; a link that leads nowhere is refused.
                Err(Errno::EXIST) => (parent, at) = (parent.own_dir(&part)?, next),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(parent)
    }

    pub fn set_access(&self, access: Access) -> io::Result<()> {
        access.give(self.as_fd())
    }

    /// Gives the entry itself, also a link, another owner.
    pub fn set_owner_of(
        &self,
        name: impl AsRef<OsStr>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(rustix::fs::chownat(&self.0, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// What the entry itself is; `None` when there is none.
    pub fn entry(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Stat>> {
        let name = names::single(name.as_ref())?;
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub fn kind_of(&self, name: impl AsRef<OsStr>) -> io::Result<Option<FileType>> {
        Ok(self.entry(name)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<PathBuf> {
        let name = names::single(name.as_ref())?;
        let target = rustix::fs::readlinkat(&self.0, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Makes a link; where it points to is not looked at.
    pub fn symlink(&self, target: impl AsRef<Path>, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        Ok(rustix::fs::symlinkat(target.as_ref(), &self.0, name)?)
    }

    /// Gives the entry itself a further name.
    pub fn hard_link(&self, name: impl AsRef<OsStr>, to: &Dir, new: impl AsRef<OsStr>) -> io::Result<()> {
        let (name, new) = (names::single(name.as_ref())?, names::single(new.as_ref())?);
        Ok(rustix::fs::linkat(&self.0, name, &to.0, new, AtFlags::empty())?)
    }

    /// Moves the entry itself; what has the new name is replaced as `rename` does.
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &Dir, new: impl AsRef<OsStr>) -> io::Result<()> {
        let (name, new) = (names::single(name.as_ref())?, names::single(new.as_ref())?);
        Ok(rustix::fs::renameat(&self.0, name, &to.0, new)?)
    }

    /// Makes a special file.
    pub fn make_node(
        &self,
        name: impl AsRef<OsStr>,
        kind: FileType,
        mode: u32,
        device: u64,
    ) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        Ok(rustix::fs::mknodat(&self.0, name, kind, mode_of(mode), device)?)
    }

    pub fn entries(&self) -> io::Result<Entries> {
        Entries::of(self)
    }
}

/// The parts of a path that is to be made. Only as a root's may it be absolute or lead up.
fn parts(path: &Path, links: Links) -> io::Result<VecDeque<OsString>> {
    let mut out = VecDeque::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push_back(name.to_owned()),
            Component::CurDir => {}
            Component::RootDir if links == Links::AsRoot => {}
            Component::ParentDir if links == Links::AsRoot => out.push_back(part.as_os_str().to_owned()),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    ErrorKind::InvalidInput,
                    "the path must be relative and without \"..\"",
                ));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
