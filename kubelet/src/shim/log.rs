//! The container's log file in CRI format: `<time> <stream> F|P <text>`, rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Longer lines are split into parts, as every CRI runtime does.
const MAX_LINE: usize = 16 * 1024;

pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    pending: [Vec<u8>; 2],
}

impl Log {
    pub(super) fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Log> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        let size = file.metadata()?.len();
        Ok(Log {
            path: path.to_owned(),
            file,
            size,
            max_bytes,
            max_files: max_files.max(2),
            pending: Default::default(),
        })
    }

    /// Takes bytes of a stream (0: stdout, 1: stderr); whole lines are written at once.
    pub(super) fn append(&mut self, stream: usize, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let mut pending = std::mem::take(&mut self.pending[stream]);
        pending.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(pending.len() + 64);
        let mut rest = &pending[..];
        loop {
            match rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
                Some(end) => {
                    line(&mut out, stream, 'F', &rest[..end], now);
                    rest = &rest[end + 1..];
                }
                None if rest.len() >= MAX_LINE => {
                    line(&mut out, stream, 'P', &rest[..MAX_LINE], now);
                    rest = &rest[MAX_LINE..];
                }
                None => break,
            }
        }
        self.pending[stream] = rest.to_vec();
        self.write(&out, now)
    }

    /// The stream ended: an unfinished line stays unfinished, for readers add no line break to a part.
    pub(super) fn finish(&mut self, stream: usize, now: Timestamp) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending[stream]);
        if pending.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        line(&mut out, stream, 'P', &pending, now);
        self.write(&out, now)
    }

    fn write(&mut self, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.max_bytes > 0 && self.size > self.max_bytes {
            self.rotate(now)?;
        }
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let old = self.path.with_file_name(format!("{name}.{}", now.strftime("%Y%m%d-%H%M%S.%6f")));
        std::fs::rename(&self.path, old)?;
        self.file = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path)?;
        self.size = 0;
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let prefix = format!("{name}.");
        let mut rotated: Vec<PathBuf> = std::fs::read_dir(parent)?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect();
        rotated.sort();
        let surplus = rotated.len().saturating_sub(self.max_files as usize - 1);
        rotated.iter().take(surplus).try_for_each(std::fs::remove_file)
    }
}

fn line(out: &mut Vec<u8>, stream: usize, tag: char, text: &[u8], now: Timestamp) {
    let stream = ["stdout", "stderr"][stream];
    out.extend_from_slice(format!("{} {stream} {tag} ", now.strftime("%Y-%m-%dT%H:%M:%S.%9fZ")).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tagged_split_and_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path, 100, 2).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        log.append(0, b"one\ntw", now).unwrap();
        log.append(1, b"err\n", now).unwrap();
        log.append(0, b"o", now).unwrap();
        log.finish(0, now).unwrap();
        let at = "1970-01-01T00:00:00.000000000Z";
        let want = format!("{at} stdout F one\n{at} stderr F err\n{at} stdout P two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
        log.append(0, &[b'x'; MAX_LINE + 1], now).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().matches(" P ").count(),
            1,
            "long lines come in parts"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the full file was rotated");
    }
}
