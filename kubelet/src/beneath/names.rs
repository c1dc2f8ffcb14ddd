//! Names of entries of a directory: those that come from outside, and those that are found.

use std::{
    ffi::{CStr, OsStr, OsString},
    fmt, io,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::fs::{AtFlags, FileType};

use super::Dir;

/// One part of a path that somebody else chose (a uid, the name of a volume or container, a digest): it cannot lead
/// anywhere but into its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

// === impl Name ===

impl Name {
    /// Refuses what is empty, too long for a file system, `.`, `..`, or has a slash or a control character.
    pub fn new(text: &str) -> io::Result<Name> {
        if text.chars().any(char::is_control) {
            return Err(invalid(text.as_ref()));
        }
        single(text.as_ref())?;
        Ok(Name(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<OsStr> for Name {
    fn as_ref(&self) -> &OsStr {
        self.0.as_ref()
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name, if it is one entry of a directory and not the directory or its parent.
pub(super) fn single(name: &OsStr) -> io::Result<&OsStr> {
    const LONGEST: usize = 255;
    let bytes = name.as_bytes();
    let odd = bytes.iter().any(|byte| matches!(byte, b'/' | 0));
    if odd || bytes.is_empty() || bytes.len() > LONGEST || bytes == b"." || bytes == b".." {
        return Err(invalid(name));
    }
    Ok(name)
}

fn invalid(name: &OsStr) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not the name of a file"))
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    pub kind: FileType,
}

/// The entries of a directory, without `.` and `..`, read as they are asked for.
pub struct Entries {
    dir: Dir,
    stream: rustix::fs::Dir,
}

// === impl Entries ===

impl Entries {
    pub(super) fn of(dir: &Dir) -> io::Result<Entries> {
        Ok(Entries { dir: dir.try_clone()?, stream: rustix::fs::Dir::read_from(&dir.0)? })
    }

    /// Begins anew.
    pub(super) fn rewind(&mut self) {
        self.stream.rewind();
    }
}

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let own = |name: &CStr| OsStr::from_bytes(name.to_bytes()).to_owned();
        loop {
            let entry = match self.stream.read()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = own(entry.file_name());
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                match rustix::fs::statat(&self.dir.0, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind = FileType::from_raw_mode(stat.st_mode),
                    // It has gone meanwhile.
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Some(Err(error.into())),
                }
            }
            return Some(Ok(Entry { name, kind }));
        }
    }
}
