//! The container's log file in CRI format: `<time> <stream> F|P <text>`, rotated by size.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::beneath::{Access, Dir, File, Links};

/// Longer lines are split into parts, as every CRI runtime does.
const MAX_LINE: usize = 16 * 1024;
const ACCESS: Access = Access { mode: 0o640, uid: None, gid: None };

pub(super) struct Log {
    root: PathBuf,
    /// Below the root.
    directory: PathBuf,
    name: String,
    file: File,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    pending: [Vec<u8>; 2],
}

impl Log {
    /// Opens the file `path` below `root`, the directory of all logs.
    pub(super) fn open(root: &Path, path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Log> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a log");
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
        let directory = path.parent().ok_or_else(invalid)?;
        let file = Dir::open(root)?.make_dirs(directory, Links::Refused, 0o755)?.append(name, ACCESS)?;
        Ok(Log {
            root: root.to_owned(),
            directory: directory.to_owned(),
            name: name.to_owned(),
            size: file.metadata()?.len(),
            file,
            max_bytes,
            max_files: max_files.max(2),
            pending: Default::default(),
        })
    }

    /// It is never kept open: what a container's first process inherits must not lead to a directory of the node.
    fn dir(&self) -> io::Result<Dir> {
        Dir::open(&self.root)?.dir(&self.directory, Links::Refused)
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
        let (dir, name) = (self.dir()?, &self.name);
        dir.rename(name, &dir, format!("{name}.{}", now.strftime("%Y%m%d-%H%M%S.%6f")))?;
        self.file = dir.append(name, ACCESS)?;
        self.size = 0;
        let prefix = format!("{name}.");
        let mut rotated: Vec<String> = dir
            .entries()?
            .filter_map(|entry| entry.ok()?.name.into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        rotated.sort();
        let surplus = rotated.len().saturating_sub(self.max_files as usize - 1);
        rotated.iter().take(surplus).try_for_each(|old| dir.remove_file(old))
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
        let path = dir.path().join("pod/container/0.log");
        let mut log = Log::open(dir.path(), Path::new("pod/container/0.log"), 100, 2).unwrap();
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
        assert_eq!(
            std::fs::read_dir(dir.path().join("pod/container")).unwrap().count(),
            2,
            "the full file was rotated"
        );
    }
    /// A pod that may write to the node's logs must not have its log read or written elsewhere.
    #[test]
    fn links_on_the_way_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("logs/pod/container")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink(at("outside"), at("logs/link")).unwrap();
        std::os::unix::fs::symlink(at("outside/file"), at("logs/pod/container/0.log")).unwrap();
        for path in
            ["link/0.log", "link/container/0.log", "pod/container/0.log", "../outside/0.log", "..", ""]
        {
            assert!(Log::open(&at("logs"), Path::new(path), 100, 2).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(at("outside")).unwrap().count(), 0);
    }
}
