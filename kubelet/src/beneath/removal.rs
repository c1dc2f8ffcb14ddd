//! Removing a directory with everything in it: no link is followed, no mount is entered, and however deep or wide the
//! tree is, it takes a few descriptors and no recursion.

use std::{ffi::OsStr, io, path::Path};

use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::{Dir, Entries, names};

/// File systems may skip entries while others are removed, and somebody may still write: so often a directory is gone
/// through until it is empty.
const ROUNDS: usize = 64;

/// A tree on its way out. Directories that are not empty are moved up into its top, so that none is ever deep.
struct Removal {
    top: Dir,
    /// Nobody can have taken such a name.
    prefix: String,
    moved: u64,
    waiting: Vec<u64>,
}

// === impl Dir ===

impl Dir {
    /// Removes the entry and, if it is a directory, all below it; none is fine. A mount point in it is an error, and
    /// what is mounted stays as it is.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // POSIX has it PERM for directories, Linux ISDIR.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        match self.remove_empty(name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            done => return done,
        }
        self.own_dir(name)?.clear()?;
        self.remove_empty(name)
    }

    /// Removes everything in this directory.
    pub fn clear(&self) -> io::Result<()> {
        let prefix = format!(".removed-{:016x}-", rand::random::<u64>());
        Removal { top: self.try_clone()?, prefix, moved: 0, waiting: Vec::new() }.run()
    }

    /// Removes an empty directory; none is fine.
    pub fn remove_empty(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        match rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

// === impl Removal ===

impl Removal {
    fn run(mut self) -> io::Result<()> {
        let top = self.top.try_clone()?;
        until_empty(&top, |name, kind| {
            self.remove(name, kind)?;
            while let Some(number) = self.waiting.pop() {
                self.remove(self.name(number).as_ref(), FileType::Directory)?;
            }
            Ok(())
        })
    }

    fn name(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Removes one entry of the top; directories in it that have something in them come to the top instead.
    fn remove(&mut self, name: &OsStr, kind: FileType) -> io::Result<()> {
        if kind != FileType::Directory {
            return self.top.remove_file(name);
        }
        if is_done(self.top.remove_empty(name))? {
            return Ok(());
        }
        let dir = self.top.own_dir(name)?;
        until_empty(&dir, |below, kind| {
            if kind != FileType::Directory {
                return dir.remove_file(below);
            }
            if is_done(dir.remove_empty(below))? {
                return Ok(());
            }
            // What is mounted there could be moved as well: it must not.
            dir.own_dir(below)?;
            let number = self.moved;
            self.moved += 1;
            dir.rename(below, &self.top, self.name(number))?;
            self.waiting.push(number);
            Ok(())
        })?;
        self.top.remove_empty(name)
    }
}

/// Whether the directory is gone; false when there is something in it.
fn is_done(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(error),
    }
}

fn until_empty(dir: &Dir, mut each: impl FnMut(&OsStr, FileType) -> io::Result<()>) -> io::Result<()> {
    let mut entries = Entries::of(dir)?;
    for _ in 0..ROUNDS {
        let mut empty = true;
        while let Some(entry) = entries.next().transpose()? {
            empty = false;
            each(&entry.name, entry.kind)?;
        }
        if empty {
            return Ok(());
        }
        entries.rewind();
    }
    Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "somebody goes on writing"))
}

/// As `Dir::remove_tree` for a path that nobody but the node's owner decides.
pub fn remove_tree(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root is not removed"));
    };
    match Dir::open(parent) {
        Ok(parent) => parent.remove_tree(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
