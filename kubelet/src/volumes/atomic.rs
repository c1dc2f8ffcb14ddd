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
    if let Some(old) = &old
        && same(&dir.join(old), payload)
    {
        return Ok(false);
    }
    let fresh = dir.join(format!("..{stamp}"));
    if let Err(error) = fill(&fresh, payload, group) {
        // Half a version is of no use to anybody; the old one stays.
        fs::remove_dir_all(&fresh).ok();
        return Err(error);
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

fn fill(fresh: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    make_dir(fresh, group)?;
    for (path, file) in payload {
        if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid path: must be relative and must not contain '..': {path}"),
            ));
        }
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            make_parents(fresh, parent, group)?;
        }
        fs::write(&target, &file.data)?;
        // The pod's group may read what belongs to it.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        chown(&target, file.owner, group)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn make_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(dir)?;
    chown(dir, None, group)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(if group.is_some() { 0o2755 } else { 0o755 }))
}

fn make_parents(root: &Path, parent: &Path, group: Option<u32>) -> io::Result<()> {
    if parent == root || parent.exists() {
        return Ok(());
    }
    if let Some(above) = parent.parent() {
        make_parents(root, above, group)?;
    }
    make_dir(parent, group)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let file = |data: &str, mode| File { data: data.into(), mode, owner: None };
        files.iter().map(|(path, data, mode)| ((*path).to_owned(), file(data, *mode))).collect()
    }

    /// What a container sees: each name, its mode and its data.
    fn shown(dir: &Path, names: &[&str]) -> Vec<String> {
        let mut links: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        links.retain(|name| !name.starts_with("..2"));
        links.sort();
        let file = |name: &&str| {
            let (path, text) = (dir.join(name), fs::read_to_string(dir.join(name)));
            format!("{name} {:o} {}", fs::metadata(path).unwrap().mode() & 0o7777, text.unwrap())
        };
        links.into_iter().chain(names.iter().map(file)).collect()
    }

    #[test]
    fn the_layout_is_upstreams_and_changes_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = payload(&[("a", "1", 0o644), ("sub/dir/b", "2", 0o400)]);
        assert!(write(dir, &first, None, "2026_a").unwrap());
        assert_eq!(shown(dir, &["a", "sub/dir/b"]), ["..data", "a", "sub", "a 644 1", "sub/dir/b 400 2"]);
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), Path::new("..2026_a"));
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert!(!write(dir, &first, None, "2026_b").unwrap(), "nothing changed");
        let second = payload(&[("a", "3", 0o644), ("c", "4", 0o600)]);
        assert!(write(dir, &second, None, "2026_c").unwrap());
        assert_eq!(shown(dir, &["a", "c"]), ["..data", "a", "c", "a 644 3", "c 600 4"]);
        assert!(!dir.join("..2026_a").exists());
    }

    #[test]
    fn a_payload_that_leads_out_leaves_the_old_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1", 0o644)]), None, "2026_a").unwrap();
        for path in ["../x", "/x", "a/../../x"] {
            assert!(write(dir.path(), &payload(&[(path, "2", 0o644)]), None, "2026_b").is_err(), "{path}");
        }
        assert_eq!(shown(dir.path(), &["a"]), ["..data", "a", "a 644 1"]);
        assert!(!dir.path().join("..2026_b").exists());
    }
}
