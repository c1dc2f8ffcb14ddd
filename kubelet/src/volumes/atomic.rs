//! Files that change all at once: a timestamped directory behind the `..data` link, as upstream's atomic writer lays out.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    /// Owner of the file when not root (service account tokens).
    pub(crate) owner: Option<u32>,
}

pub(crate) type Payload = BTreeMap<String, File>;

/// Makes `dir` show exactly `payload`. True when something changed.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    let data_link = dir.join("..data");
    let old = fs::read_link(&data_link).ok();
    if let Some(old) = &old {
        if same(&dir.join(old), payload) {
            return Ok(false);
        }
    }
    let fresh = dir.join(format!("..{stamp}"));
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(if group.is_some() { 0o2755 } else { 0o755 }))?;
    chown(&fresh, None, group)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            make_parents(&fresh, parent, group)?;
        }
        fs::write(&target, &file.data)?;
        // Group members may read what belongs to the pod's group.
        let mode = if group.is_some() { file.mode | 0o040 | (file.mode & 0o100) >> 3 } else { file.mode };
        chown(&target, file.owner, group)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    let next = dir.join("..data_tmp");
    if next.symlink_metadata().is_ok() {
        fs::remove_file(&next)?;
    }
    symlink(format!("..{stamp}"), &next)?;
    fs::rename(&next, &data_link)?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn make_parents(root: &Path, parent: &Path, group: Option<u32>) -> io::Result<()> {
    if parent == root || parent.exists() {
        return Ok(());
    }
    if let Some(above) = parent.parent() {
        make_parents(root, above, group)?;
    }
    fs::create_dir(parent)?;
    chown(parent, None, group)
}

/// Links of the first path elements into `..data`; those of vanished files are removed.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &String| match Path::new(path).components().next() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => None,
    };
    let wanted: std::collections::BTreeSet<_> = payload.keys().filter_map(first).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(dir.join(name))?;
        }
    }
    for name in wanted {
        let link = dir.join(&name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(&name), link)?;
        }
    }
    Ok(())
}

fn same(dir: &Path, payload: &Payload) -> bool {
    count(dir).is_ok_and(|n| n == payload.len())
        && payload.iter().all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|data| data == file.data))
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut n = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        n += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(n)
}
