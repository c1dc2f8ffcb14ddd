//! The host's devices, which a privileged container gets.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

/// Every container has its own of these.
const OWN: [&str; 12] =
    ["pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "full", "tty", "random", "urandom"];

/// All character and block devices below `/dev`, as the OCI configuration names them.
pub(super) fn of_host() -> io::Result<Vec<Value>> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found)?;
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<Value>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if dir == Path::new("/dev") && OWN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        // Gone since it was listed: nothing to hand on.
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if meta.is_dir() {
            collect(&entry.path(), found)?;
        } else if meta.file_type().is_char_device() || meta.file_type().is_block_device() {
            let kind = if meta.file_type().is_char_device() { "c" } else { "b" };
            let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
            found.push(json!({"path": entry.path(), "type": kind, "major": major, "minor": minor,
                "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid()}));
        }
    }
    Ok(())
}
