//! Going through a tree that others shape: no link is followed, no mount is entered, and however deep it is, it takes a
//! few descriptors and no recursion.

use std::{
    collections::HashSet,
    ffi::OsString,
    io::{self, ErrorKind},
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Dir, Entry};

/// So many directories on the way down are kept open; those below are found again through `..`, and looked at twice.
const HELD: usize = 64;

/// A directory on the way down to where the walk is.
struct Level {
    dir: Option<Dir>,
    identity: (u64, u64),
    /// Directories in it that are still to be gone into.
    below: Vec<OsString>,
}

/// What a tree takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
    /// There is more than was counted.
    pub incomplete: bool,
}

/// What a file, or a directory with all below it, takes up, up to so many entries. What stands at the path is not followed
/// where it is a link.
pub fn usage(path: &Path, most: u64) -> io::Result<Usage> {
    let own = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(own.st_mode) != FileType::Directory {
        return Ok(Usage { bytes: own.st_blocks.unsigned_abs() * BLOCK, inodes: 1, incomplete: false });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir(rustix::fs::open(path, flags, Mode::empty())?).usage(most)
}

/// The unit in which file systems tell what is taken, in bytes.
const BLOCK: u64 = 512;

// === impl Dir ===

impl Dir {
    /// Shows `visit` every entry below this directory together with the directory it is in, parents first. One with more
    /// than `most` entries is an error. False when somebody moved directories meanwhile, so that some were missed.
    pub fn walk(&self, most: u64, mut visit: impl FnMut(&Dir, &Entry) -> io::Result<()>) -> io::Result<bool> {
        let (mut seen, mut whole) = (0, true);
        let mut levels = vec![Level::read(self.try_clone()?, most, &mut seen, &mut visit)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.below.pop() else {
                let done = levels.pop();
                whole &= come_back(&mut levels, done.and_then(|level| level.dir).as_ref())?;
                continue;
            };
            let Some(dir) = &level.dir else { continue };
            match dir.own_dir(&name) {
                Ok(found) => {
                    let next = Level::read(found, most, &mut seen, &mut visit)?;
                    if levels.len() > HELD
                        && let Some(level) = levels.last_mut()
                    {
                        level.dir = None;
                    }
                    levels.push(next);
                }
                Err(error) if is_another_now(&error) => whole = false,
                Err(error) => return Err(error),
            }
        }
        Ok(whole)
    }

    /// What the directory and all below it take up, up to so many entries; a file with several names counts once.
    pub fn usage(&self, most: u64) -> io::Result<Usage> {
        let own = self.stat()?;
        let mut usage = Usage { bytes: own.st_blocks.unsigned_abs() * BLOCK, inodes: 1, incomplete: false };
        let mut named = HashSet::new();
        let walked = self.walk(most, |dir, entry| {
            let Some(stat) = dir.entry(&entry.name)? else { return Ok(()) };
            let is_dir = entry.kind == FileType::Directory;
            if !is_dir && stat.st_nlink > 1 && !named.insert((stat.st_dev, stat.st_ino)) {
                return Ok(());
            }
            usage.bytes += stat.st_blocks.unsigned_abs() * BLOCK;
            usage.inodes += 1;
            Ok(())
        });
        usage.incomplete = match walked {
            Ok(whole) => !whole,
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => true,
            Err(error) => return Err(error),
        };
        Ok(usage)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = self.stat()?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

/// It was a directory of the same file system when it was listed.
fn is_another_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::CrossesDevices)
        || error.raw_os_error() == Some(libc::ELOOP)
}

/// Opens the last level again, from one that was below it. One that is no longer above it is given up, and so are those on
/// the way to the nearest that is held.
fn come_back(levels: &mut Vec<Level>, from: Option<&Dir>) -> io::Result<bool> {
    let Some(level) = levels.last_mut() else { return Ok(true) };
    if level.dir.is_some() {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let above = from.map(|dir| rustix::fs::openat(&dir.0, "..", flags, Mode::empty()).map(Dir));
    if let Some(above) = above.transpose()?
        && above.identity()? == level.identity
    {
        level.dir = Some(above);
        return Ok(true);
    }
    while levels.last().is_some_and(|level| level.dir.is_none()) {
        levels.pop();
    }
    Ok(false)
}

// === impl Level ===

impl Level {
    fn read(
        dir: Dir,
        most: u64,
        seen: &mut u64,
        visit: &mut impl FnMut(&Dir, &Entry) -> io::Result<()>,
    ) -> io::Result<Level> {
        let mut below = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            *seen += 1;
            if *seen > most {
                let why = format!("there are more than {most} files");
                return Err(io::Error::new(ErrorKind::QuotaExceeded, why));
            }
            visit(&dir, &entry)?;
            if entry.kind == FileType::Directory {
                below.push(entry.name);
            }
        }
        let identity = dir.identity()?;
        Ok(Level { dir: Some(dir), identity, below })
    }
}
