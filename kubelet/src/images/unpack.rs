//! Turns a layer's tar stream into a directory that overlayfs can use as a lower layer.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use sha2::{Digest, Sha256};

/// A reader that knows the digest and the length of what went through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashing { inner, hasher: Sha256::new(), length: 0 }
    }

    /// Reads what is left (padding after the archive's end) and gives digest and length.
    pub(super) fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((format!("sha256:{}", hex::encode(self.hasher.finalize())), self.length))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.length += read as u64;
        Ok(read)
    }
}

/// Picks the decoder by the magic bytes: media types lie more often.
pub(super) fn decompress<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = reader.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::with_buffer(reader)?)
    } else {
        Box::new(reader)
    })
}

/// Unpacks one layer into `target` and returns the digest of the uncompressed stream (the diff id) and its length.
pub(super) fn unpack(reader: impl Read, target: &Path) -> io::Result<(String, u64)> {
    fs::create_dir_all(target)?;
    let mut hashing = Hashing::new(reader);
    let mut archive = tar::Archive::new(&mut hashing);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    // Times of directories are set last: unpacking their children changes them.
    let mut directories: Vec<(PathBuf, u64)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(io::Error::other(format!("layer entry {} leaves the root", path.display())));
        }
        if let Some(hidden) = path.file_name().and_then(whiteout) {
            make_whiteout(&target.join(path.parent().unwrap_or(Path::new(""))), hidden)?;
            continue;
        }
        if entry.header().entry_type().is_dir() {
            directories.push((target.join(&path), entry.header().mtime().unwrap_or(0)));
        }
        if !entry.unpack_in(target)? {
            return Err(io::Error::other(format!("layer entry {} leaves the root", path.display())));
        }
    }
    for (directory, seconds) in directories.iter().rev() {
        set_mtime(directory, *seconds)?;
    }
    hashing.finish()
}

fn whiteout(name: &OsStr) -> Option<&OsStr> {
    name.as_bytes().strip_prefix(b".wh.").map(OsStr::from_bytes)
}

/// OCI's `.wh.x` as overlayfs wants it: a 0:0 device; `.wh..wh..opq` as an attribute of its directory.
fn make_whiteout(parent: &Path, hidden: &OsStr) -> io::Result<()> {
    fs::create_dir_all(parent)?;
    if hidden == ".wh..opq" {
        return xattr::set(parent, "trusted.overlay.opaque", b"y");
    }
    match mknod(&parent.join(hidden), SFlag::S_IFCHR, Mode::empty(), 0) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn set_mtime(directory: &Path, seconds: u64) -> io::Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    // A later entry may have replaced the directory by something else.
    match File::open(directory) {
        Ok(file) if file.metadata()?.is_dir() => file.set_times(fs::FileTimes::new().set_modified(time)),
        _ => Ok(()),
    }
}
