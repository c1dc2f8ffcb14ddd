//! Keeps unpacking from filling the file system: looked at before it begins and while it goes on.

use std::io;
use std::os::fd::AsFd;

/// Left for everybody else: a twentieth of the file system's bytes, at most this; and of its files.
const MAX_RESERVE: u64 = 1 << 30;
const RESERVE_PART: u64 = 20;
/// How much may be written, or how many files made, before the file system is asked again.
const LOOK_BYTES: u64 = 32 << 20;
const LOOK_FILES: u64 = 4096;

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Supply {
    bytes: u64,
    all_bytes: u64,
    files: u64,
    /// 0 where files are not counted.
    all_files: u64,
}

impl Supply {
    fn measure(at: impl AsFd) -> io::Result<Supply> {
        let found = rustix::fs::fstatvfs(at)?;
        Ok(Supply {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            all_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            files: found.f_favail,
            all_files: found.f_files,
        })
    }

    fn check(self, bytes: u64, files: u64) -> io::Result<()> {
        let full = |what: String| Err(io::Error::new(io::ErrorKind::StorageFull, what));
        let reserve = (self.all_bytes / RESERVE_PART).min(MAX_RESERVE);
        if self.bytes < bytes.saturating_add(reserve) {
            return full(format!(
                "not enough room: needs {bytes} bytes and leaves {reserve} to others, {} are free",
                self.bytes
            ));
        }
        if self.all_files > 0 && self.files < files.saturating_add(self.all_files / RESERVE_PART) {
            return full(format!("not enough inodes: {} of {} are free", self.files, self.all_files));
        }
        Ok(())
    }
}

/// Fails when `bytes` more would leave too little.
pub(super) fn expect(at: impl AsFd, bytes: u64) -> io::Result<()> {
    Supply::measure(at)?.check(bytes, 0)
}

/// Counts what is written, and fails when there is too little left.
pub(super) struct Room<F> {
    at: F,
    bytes: u64,
    files: u64,
}

impl<F: AsFd> Room<F> {
    pub(super) fn new(at: F) -> Room<F> {
        Room { at, bytes: 0, files: 0 }
    }

    pub(super) fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= LOOK_BYTES { self.look() } else { Ok(()) }
    }

    pub(super) fn made(&mut self) -> io::Result<()> {
        self.files += 1;
        if self.files >= LOOK_FILES { self.look() } else { Ok(()) }
    }

    fn look(&mut self) -> io::Result<()> {
        (self.bytes, self.files) = (0, 0);
        Supply::measure(&self.at)?.check(0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_keep_a_part() {
        let gib = 1 << 30;
        let disk = Supply { bytes: 10 * gib, all_bytes: 100 * gib, files: 60, all_files: 1000 };
        let small = Supply { bytes: 100, all_bytes: 1000, files: 0, all_files: 0 };
        for (supply, bytes, files, fits) in [
            (disk, 9 * gib, 10, true),
            (disk, 9 * gib + 1, 0, false),
            (disk, 0, 11, false),
            (disk, u64::MAX, 0, false),
            (small, 50, 1000, true),
            (small, 51, 0, false),
        ] {
            assert_eq!(supply.check(bytes, files).is_ok(), fits, "{supply:?} {bytes} {files}");
        }
    }
}
