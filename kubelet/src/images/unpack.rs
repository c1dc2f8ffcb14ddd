//! Turns a layer's tar stream into a directory that overlayfs can use as a lower layer.
//!
//! Everything is made below a handle of that directory, with links read as if it were the root: no name, link target or
//! whiteout leads out of it, also not through links that earlier entries have made.

use std::ffi::OsStr;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::digest::{Digest, Hashing};
use super::entries::{Entries, Entry, Kind};
use super::room::Room;
use crate::beneath::{Access, Dir, FileType, Links};

/// Files of one layer; the largest real ones have some hundred thousand.
const MAX_ENTRIES: u64 = 2_000_000;
/// What any image may unpack to, and how many times its compressed size a larger one may.
const FREE_BYTES: u64 = 4 << 30;
const MAX_RATIO: u64 = 50;
/// Paths of directories, together, that are remembered to set their times in the end.
const MAX_REMEMBERED: usize = 64 << 20;

/// Files are written in pieces of this size.
const BUFFER: usize = 128 << 10;

/// Picks the decoder by the magic bytes: media types lie more often.
pub(super) fn decompress<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    /// Memory for one stream: what every decoder must support is less.
    const MAX_WINDOW_LOG: u32 = 27;
    let start = reader.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(reader)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        Box::new(decoder)
    } else {
        Box::new(reader)
    })
}

/// How much an image of `compressed` bytes may unpack to.
pub(super) fn most_unpacked(compressed: u64) -> u64 {
    compressed.saturating_mul(MAX_RATIO).max(FREE_BYTES)
}

/// Unpacks one layer into the empty directory `target` and returns the digest of the uncompressed stream (the diff id) and
/// its length. More than `most` bytes are an error.
pub(super) fn unpack(reader: impl Read, target: &Dir, most: u64) -> io::Result<(Digest, u64)> {
    let mut hashing = Hashing::new(reader, most);
    let mut layer = Layer {
        root: target,
        room: Room::new(target.as_fd()),
        parent: None,
        directories: Vec::new(),
        remembered: 0,
        left: most,
        buffer: vec![0; BUFFER],
    };
    let mut entries = Entries::new(&mut hashing, MAX_ENTRIES);
    while let Some(entry) = entries.next()? {
        layer.add(&entry, &mut entries).map_err(|error| {
            let path = String::from_utf8_lossy(&entry.path);
            io::Error::new(error.kind(), format!("layer entry {path:?}: {error}"))
        })?;
    }
    layer.finish()?;
    hashing.finish()
}

struct Layer<'a> {
    root: &'a Dir,
    room: Room<std::os::fd::BorrowedFd<'a>>,
    /// The directory of the last entry: most entries follow others of theirs.
    parent: Option<(PathBuf, Dir)>,
    /// Times of directories are set last: unpacking their children changes them.
    directories: Vec<(PathBuf, Timestamps)>,
    remembered: usize,
    /// Bytes that files may still have: one with holes has more than the stream.
    left: u64,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn add(&mut self, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
        let path = relative(&entry.path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.change_root(entry);
        };
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.hide(parent, OsStr::from_bytes(hidden));
        }
        self.room.made()?;
        self.open_parent(parent)?;
        self.make_way(name, entry.kind)?;
        match entry.kind {
            Kind::Directory => self.make_directory(&path, name, entry),
            Kind::File => self.make_file(name, entry, data),
            Kind::HardLink => self.make_hard_link(name, entry),
            Kind::SymbolicLink => {
                let parent = self.parent()?;
                parent.symlink(OsStr::from_bytes(&entry.link), name)?;
                own(parent, name, entry)
            }
            Kind::Fifo => {
                let parent = self.parent()?;
                parent.make_node(name, FileType::Fifo, entry.mode, 0)?;
                own(parent, name, entry)
            }
            // An image gets no devices of the machine; a file stands where one was.
            Kind::Device => self.parent()?.create_new(name, access(entry)).map(drop),
        }
    }

    fn change_root(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.kind == Kind::Directory {
            self.root.set_access(access(entry))?;
            set_attributes(self.root, &entry.attributes)?;
            self.remember(PathBuf::new(), entry);
        }
        Ok(())
    }

    fn parent(&self) -> io::Result<&Dir> {
        self.parent.as_ref().map(|(_, dir)| dir).ok_or_else(|| io::Error::other("no directory is open"))
    }

    fn open_parent(&mut self, path: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_none_or(|(open, _)| open != path) {
            let dir = self.root.make_dirs(path, Links::AsRoot, 0o755)?;
            self.parent = Some((path.to_owned(), dir));
        }
        Ok(())
    }

    /// Removes what an earlier entry has put where the next one goes. Directories are joined.
    fn make_way(&mut self, name: &OsStr, kind: Kind) -> io::Result<()> {
        let parent = self.parent()?;
        match parent.kind_of(name)? {
            None => Ok(()),
            Some(FileType::Directory) if kind == Kind::Directory => Ok(()),
            Some(FileType::RegularFile) => parent.remove_file(name),
            Some(_) => {
                parent.remove_tree(name)?;
                // Paths may lead elsewhere now.
                if let Some((path, _)) = self.parent.take() {
                    self.open_parent(&path)?;
                }
                Ok(())
            }
        }
    }

    /// OCI's `.wh.x` as overlayfs wants it: a 0:0 device; `.wh..wh..opq` as an attribute of its directory.
    fn hide(&mut self, parent: &Path, hidden: &OsStr) -> io::Result<()> {
        self.room.made()?;
        self.open_parent(parent)?;
        let parent = self.parent()?;
        if hidden == ".wh..opq" {
            rustix::fs::fsetxattr(parent.as_fd(), "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
            return Ok(());
        }
        // What else begins so belongs to a file system of former days.
        if hidden.as_bytes().starts_with(b".wh.") {
            return Ok(());
        }
        match parent.make_node(hidden, FileType::CharacterDevice, 0, 0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn make_directory(&mut self, path: &Path, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let parent = self.parent()?;
        let made = match parent.make_new(name, access(entry)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = parent.dir(name, Links::Refused)?;
                there.set_access(access(entry))?;
                there
            }
            other => other?,
        };
        set_attributes(&made, &entry.attributes)?;
        self.remember(path.to_owned(), entry);
        Ok(())
    }

    fn make_file(&mut self, name: &OsStr, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
        self.left = self.left.checked_sub(entry.size).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "the layer's files are larger than it may be")
        })?;
        let mut file = self.parent()?.create_new(name, access(entry))?;
        match &entry.pieces {
            None => self.fill(&mut file, data, entry.size)?,
            Some(pieces) => {
                file.set_len(entry.size)?;
                for (offset, length) in pieces {
                    file.seek(SeekFrom::Start(*offset))?;
                    self.fill(&mut file, data, *length)?;
                }
            }
        }
        // Writing would have taken some of them away.
        set_attributes(&file, &entry.attributes)?;
        rustix::fs::futimens(&file, &times(entry))?;
        Ok(())
    }

    fn fill(&mut self, file: &mut impl Write, data: &mut impl Read, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match data.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            file.write_all(&self.buffer[..read])?;
            self.room.wrote(read as u64)?;
            length -= read as u64;
        }
        Ok(())
    }

    fn make_hard_link(&mut self, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let target = relative(&entry.link)?;
        let (Some(directory), Some(old)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a hard link to the root"));
        };
        let found = |error: io::Error| {
            io::Error::new(error.kind(), format!("hard link to {:?}: {error}", target.display()))
        };
        let directory = self.root.dir(directory, Links::AsRoot).map_err(found)?;
        directory.hard_link(old, self.parent()?, name).map_err(found)
    }

    fn remember(&mut self, path: PathBuf, entry: &Entry) {
        self.remembered += path.as_os_str().len() + size_of::<(PathBuf, Timestamps)>();
        if self.remembered <= MAX_REMEMBERED {
            self.directories.push((path, times(entry)));
        }
    }

    fn finish(self) -> io::Result<()> {
        for (path, times) in self.directories.iter().rev() {
            match self.root.dir(path, Links::AsRoot) {
                Ok(directory) => rustix::fs::futimens(directory.as_fd(), times)?,
                // A later entry has replaced it by something else.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// A path of the archive below the layer's root. One that leads up is refused, even if it came back.
fn relative(path: &[u8]) -> io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "leaves the root"));
            }
            part => out.push(OsStr::from_bytes(part)),
        }
    }
    Ok(out)
}

fn access(entry: &Entry) -> Access {
    Access { mode: entry.mode, uid: Some(entry.uid), gid: Some(entry.gid) }
}

/// Owner and times of something that is not opened.
fn own(parent: &Dir, name: &OsStr, entry: &Entry) -> io::Result<()> {
    parent.set_owner_of(name, Some(entry.uid), Some(entry.gid))?;
    rustix::fs::utimensat(parent.as_fd(), name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn times(entry: &Entry) -> Timestamps {
    let (seconds, nanoseconds) = entry.modified;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the attributes that are the image's affair. Those of the overlay are not: they would say which other files show
/// through.
fn set_attributes(to: impl AsFd, attributes: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in attributes {
        let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        let acl = name.starts_with(b"system.posix_acl_");
        if !(user || acl || name == b"security.capability") {
            continue;
        }
        match rustix::fs::fsetxattr(&to, name.as_slice(), value, XattrFlags::empty()) {
            // The file system has no such attributes.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
