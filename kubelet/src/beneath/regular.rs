//! Regular files: read up to a bound, written as a whole or at the end. Nothing else is ever opened.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::AsFd,
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Access, Dir, Found, Links, names};

// === impl Found ===

impl Found {
    /// The file for reading. A device, pipe, socket or directory is an error, and is not even opened: opening some devices
    /// does something. One that others hold a lease on is an error, too, rather than waited for.
    pub fn regular(&self) -> io::Result<File> {
        self.regular_as(OFlags::RDONLY)
    }

    fn regular_as(&self, flags: OFlags) -> io::Result<File> {
        if self.kind()? != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(File::from(self.reopen(flags | OFlags::NONBLOCK)?))
    }
}

// === impl Dir ===

impl Dir {
    /// The regular file `path`, for reading.
    pub fn file(&self, path: impl AsRef<Path>, links: Links) -> io::Result<File> {
        self.find(path, links)?.regular()
    }

    /// The whole file; one with more than `most` bytes is an error.
    pub fn read(&self, path: impl AsRef<Path>, links: Links, most: u64) -> io::Result<Vec<u8>> {
        let data = self.read_start(path, links, most.saturating_add(1))?;
        if data.len() as u64 > most {
            let why = format!("the file has more than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(data)
    }

    /// The first `most` bytes of a file, or all it has.
    pub fn read_start(&self, path: impl AsRef<Path>, links: Links, most: u64) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        self.file(path, links)?.take(most).read_to_end(&mut data)?;
        Ok(data)
    }

    /// The last `most` bytes of a file, or all it has.
    pub fn read_end(&self, path: impl AsRef<Path>, links: Links, most: u64) -> io::Result<Vec<u8>> {
        let mut file = self.file(path, links)?;
        let start = file.metadata()?.len().saturating_sub(most);
        file.seek(SeekFrom::Start(start))?;
        let mut data = Vec::new();
        file.take(most).read_to_end(&mut data)?;
        Ok(data)
    }

    /// A new file for writing; whatever has the name already is an error.
    pub fn create_new(&self, name: impl AsRef<OsStr>, access: Access) -> io::Result<File> {
        let name = names::single(name.as_ref())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        access.give(file.as_fd())?;
        Ok(file)
    }

    /// A file to write at its end, made when it is missing.
    pub fn append(&self, name: impl AsRef<OsStr>, access: Access) -> io::Result<File> {
        let name = names::single(name.as_ref())?;
        match self.create_new(name, access) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.find(name, Links::Refused)?.regular_as(OFlags::WRONLY | OFlags::APPEND)
    }

    /// Puts a file in the place of whatever had the name: readers see the old one or the whole new one.
    pub fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8], access: Access) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        let mut fresh = OsString::from(name);
        fresh.push(".new");
        // What an attempt that was cut off has left.
        self.remove_file(&fresh)?;
        let written = self.create_new(&fresh, access).and_then(|mut file| file.write_all(bytes));
        let done = written.and_then(|()| self.rename(&fresh, self, name));
        if done.is_err() {
            // The first error is the one to tell.
            let _ = self.remove_file(&fresh);
        }
        done
    }

    /// Removes the entry itself unless it is a directory; none is fine.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = names::single(name.as_ref())?;
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
