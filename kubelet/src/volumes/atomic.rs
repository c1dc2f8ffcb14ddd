//! Files that change all at once: a timestamped directory behind the `..data` link, as upstream's atomic writer lays out.
//!
//! Containers have the directory read-only. Nevertheless nothing that is found in it is trusted: only what has a name and a
//! shape of this module's own is read, followed or removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io::{self, ErrorKind, Write},
    path::{Component, Path},
};

use crate::beneath::{Access, Dir, Entry, FileType, Links};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Owner of the file when not root (service account tokens).
    pub owner: Option<u32>,
}

pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";
const STAMP: &str = "%Y_%m_%d_%H_%M_%S";

/// The name of a version of the files, as of now.
pub fn stamp(now: jiff::Timestamp) -> String {
    now.strftime(&format!("..{STAMP}.%9f")).to_string()
}

/// Whether a version could have this name.
fn is_stamp(name: &OsStr) -> bool {
    let parse = |text: &str| {
        let (time, fraction) = text.strip_prefix("..")?.rsplit_once('.')?;
        let digits = fraction.len() == 9 && fraction.bytes().all(|b| b.is_ascii_digit());
        Some(digits && jiff::civil::DateTime::strptime(STAMP, time).is_ok())
    };
    name.to_str().and_then(parse) == Some(true)
}

/// Makes `dir` show exactly `payload`; a new version gets the name `stamp`. True when something changed.
pub fn write(dir: &Dir, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    let old = version(dir)?;
    if let Some(old) = &old
        && same(dir, old, payload)
    {
        return Ok(false);
    }
    let access = Access { mode: if group.is_some() { 0o2755 } else { 0o755 }, uid: None, gid: group };
    let fresh = dir.make_new(stamp, access)?;
    if let Err(error) = fill(&fresh, payload, access) {
        // Half a version is of no use to anybody; the old one stays. The first error is the one to tell.
        let _ = dir.remove_tree(stamp);
        return Err(error);
    }
    dir.remove_tree(NEXT)?;
    dir.symlink(stamp, NEXT)?;
    if dir.kind_of(DATA)? == Some(FileType::Directory) {
        dir.remove_tree(DATA)?;
    }
    dir.rename(NEXT, dir, DATA)?;
    link_names(dir, payload)?;
    remove_others(dir, stamp)?;
    Ok(true)
}

/// The version that is shown, if the link to it is one of ours.
fn version(dir: &Dir) -> io::Result<Option<OsString>> {
    if dir.kind_of(DATA)? != Some(FileType::Symlink) {
        return Ok(None);
    }
    let target = dir.read_link(DATA)?.into_os_string();
    Ok(Some(target).filter(|target| is_stamp(target)))
}

/// `directories` is for those that paths lead through; the group is that of the files, too.
fn fill(fresh: &Dir, payload: &Payload, directories: Access) -> io::Result<()> {
    let group = directories.gid;
    for (path, file) in payload {
        let parts = parts(path)?;
        let Some((name, parents)) = parts.split_last() else { continue };
        let mut at = fresh.try_clone()?;
        for parent in parents {
            at = match at.dir(parent, Links::Refused) {
                Err(error) if error.kind() == ErrorKind::NotFound => at.make_new(parent, directories)?,
                found => found?,
            };
        }
        // The pod's group may read what belongs to it.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        at.create_new(name, Access { mode, uid: file.owner, gid: group })?.write_all(&file.data)?;
    }
    Ok(())
}

fn parts(path: &str) -> io::Result<Vec<&OsStr>> {
    let normal = |part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    };
    let parts: Option<Vec<&OsStr>> = Path::new(path).components().map(normal).collect();
    parts.filter(|parts| !parts.is_empty()).ok_or_else(|| {
        let why = format!("invalid path: must be relative and must not contain '..': {path}");
        io::Error::new(ErrorKind::InvalidInput, why)
    })
}

/// Links of the first path elements into `..data`; those of vanished files are removed, and nothing else is.
fn link_names(dir: &Dir, payload: &Payload) -> io::Result<()> {
    let firsts = payload.keys().filter_map(|path| Some(*parts(path).ok()?.first()?));
    let wanted: BTreeSet<&OsStr> = firsts.collect();
    let target = |name: &OsStr| Path::new(DATA).join(name);
    let is_ours = |name: &OsStr| dir.read_link(name).is_ok_and(|found| found == target(name));
    let entries: Vec<Entry> = dir.entries()?.collect::<io::Result<_>>()?;
    for entry in entries {
        if !wanted.contains(&*entry.name) && entry.kind == FileType::Symlink && is_ours(&entry.name) {
            dir.remove_file(&entry.name)?;
        }
    }
    for name in wanted {
        match dir.symlink(target(name), name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && is_ours(name) => {}
            made => made?,
        }
    }
    Ok(())
}

/// Versions that are no longer shown, also those that a run that was cut off has left.
fn remove_others(dir: &Dir, shown: &str) -> io::Result<()> {
    let entries: Vec<Entry> = dir.entries()?.collect::<io::Result<_>>()?;
    let old = |entry: &&Entry| entry.name != shown && is_stamp(&entry.name);
    entries.iter().filter(old).try_for_each(|entry| dir.remove_tree(&entry.name))
}

fn same(dir: &Dir, version: &OsStr, payload: &Payload) -> bool {
    let Ok(shown) = dir.dir(version, Links::Refused) else { return false };
    let mut files = 0;
    let most = 2 * payload.len() as u64 + 1000;
    let counted = shown.walk(most, |_, entry| {
        files += usize::from(entry.kind != FileType::Directory);
        Ok(())
    });
    let equal = |(path, file): (&String, &File)| {
        shown.read(path, Links::Refused, file.data.len() as u64).is_ok_and(|data| data == file.data)
    };
    counted.is_ok() && files == payload.len() && payload.iter().all(equal)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
        path::PathBuf,
    };

    use super::*;

    const FIRST: &str = "..2026_11_30_22_00_00.000000001";
    const SECOND: &str = "..2026_11_30_22_00_00.000000002";
    const THIRD: &str = "..2026_11_30_22_00_00.000000003";

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let file = |data: &str, mode| File { data: data.into(), mode, owner: None };
        files.iter().map(|(path, data, mode)| ((*path).to_owned(), file(data, *mode))).collect()
    }

    struct Place {
        dir: tempfile::TempDir,
        volume: PathBuf,
        outside: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a"), "theirs").unwrap();
        fs::create_dir(outside.join(FIRST)).unwrap();
        fs::write(outside.join(FIRST).join("a"), "theirs").unwrap();
        Place { dir, volume, outside }
    }

    fn show(volume: &Path, files: &[(&str, &str, u32)], stamp: &str) -> io::Result<bool> {
        write(&Dir::open(volume).unwrap(), &payload(files), None, stamp)
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
        let place = place();
        let dir = &place.volume;
        let first = [("a", "1", 0o644), ("sub/dir/b", "2", 0o400)];
        assert!(show(dir, &first, FIRST).unwrap());
        assert_eq!(shown(dir, &["a", "sub/dir/b"]), ["..data", "a", "sub", "a 644 1", "sub/dir/b 400 2"]);
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), Path::new(FIRST));
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert!(!show(dir, &first, SECOND).unwrap(), "nothing changed");
        // A directory that a subPath had made stays.
        fs::create_dir(dir.join("of-a-sub-path")).unwrap();
        assert!(show(dir, &[("a", "3", 0o644), ("c", "4", 0o600)], THIRD).unwrap());
        assert_eq!(shown(dir, &["a", "c"]), ["..data", "a", "c", "of-a-sub-path", "a 644 3", "c 600 4"]);
        assert!(!dir.join(FIRST).exists());
    }

    #[test]
    fn a_payload_that_leads_out_leaves_the_old_files() {
        let place = place();
        let dir = &place.volume;
        show(dir, &[("a", "1", 0o644)], FIRST).unwrap();
        for path in ["../x", "/x", "a/../../x", "", "."] {
            assert!(show(dir, &[(path, "2", 0o644)], SECOND).is_err(), "{path}");
        }
        assert_eq!(shown(dir, &["a"]), ["..data", "a", "a 644 1"]);
        assert!(!dir.join(SECOND).exists());
    }

    #[test]
    fn names_of_versions_are_timestamps() {
        assert!(is_stamp(stamp(jiff::Timestamp::UNIX_EPOCH).as_ref()));
        for (name, ours) in [
            (FIRST, true),
            ("..data", false),
            ("..2026_11_30_22_00_00.1", false),
            ("..2026_11_30_22_00_00.00000000x", false),
            ("..2026_13_30_22_00_00.000000001", false),
            ("../2026_11_30_22_00_00.000000001", false),
            ("..2026_11_30_22_00_00.000000001/..", false),
            ("2026_11_30_22_00_00.000000001", false),
        ] {
            assert_eq!(is_stamp(name.as_ref()), ours, "{name}");
        }
    }

    /// What a container could do that has the directory writable (CVE-2017-1002102 and kin).
    #[test]
    fn an_update_neither_follows_nor_removes_what_a_container_planted() {
        type Plant = fn(&Place);
        let cases: &[(&str, Plant)] = &[
            ("..data leads to a directory outside", |p| {
                fs::remove_file(p.volume.join("..data")).unwrap();
                symlink(&p.outside, p.volume.join("..data")).unwrap();
            }),
            ("..data leads to a version's name outside", |p| {
                fs::remove_file(p.volume.join("..data")).unwrap();
                symlink(Path::new("../outside").join(FIRST), p.volume.join("..data")).unwrap();
            }),
            ("..data is a directory", |p| {
                fs::remove_file(p.volume.join("..data")).unwrap();
                fs::create_dir(p.volume.join("..data")).unwrap();
                symlink(&p.outside, p.volume.join("..data/out")).unwrap();
            }),
            ("..data_tmp is a directory with a link", |p| {
                fs::create_dir(p.volume.join("..data_tmp")).unwrap();
                symlink(&p.outside, p.volume.join("..data_tmp/out")).unwrap();
            }),
            ("..data_tmp leads outside", |p| {
                symlink(&p.outside, p.volume.join("..data_tmp")).unwrap();
            }),
            ("the version is a link outside", |p| {
                fs::remove_dir_all(p.volume.join(FIRST)).unwrap();
                symlink(p.outside.join(FIRST), p.volume.join(FIRST)).unwrap();
            }),
            ("the version has links outside", |p| {
                symlink(&p.outside, p.volume.join(FIRST).join("out")).unwrap();
            }),
            ("the file is a pipe", |p| {
                fs::remove_file(p.volume.join(FIRST).join("a")).unwrap();
                let mode = nix::sys::stat::Mode::S_IRWXU;
                nix::unistd::mkfifo(&p.volume.join(FIRST).join("a"), mode).unwrap();
            }),
            ("the file has ten gigabytes", |p| {
                fs::File::create(p.volume.join(FIRST).join("a")).unwrap().set_len(10 << 30).unwrap();
            }),
            ("the old version is bottomless", |p| {
                let mut at = Dir::open(p.volume.join(FIRST)).unwrap();
                for _ in 0..1200 {
                    at = at.make_new("d", Access::mode(0o700)).unwrap();
                }
            }),
        ];
        for (what, plant) in cases {
            let place = place();
            show(&place.volume, &[("a", "1", 0o644)], FIRST).unwrap();
            plant(&place);
            assert!(show(&place.volume, &[("a", "2", 0o644)], SECOND).unwrap(), "{what}");
            assert_eq!(fs::read_to_string(place.volume.join("a")).unwrap(), "2", "{what}");
            let version = fs::symlink_metadata(place.volume.join(SECOND)).unwrap();
            assert!(version.is_dir(), "{what}");
            assert!(fs::symlink_metadata(place.volume.join(FIRST)).is_err(), "{what}: the old one is gone");
            for file in ["a".into(), Path::new(FIRST).join("a")] {
                assert_eq!(fs::read_to_string(place.outside.join(file)).unwrap(), "theirs", "{what}");
            }
            assert_eq!(fs::read_dir(&place.outside).unwrap().count(), 2, "{what}");
            assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 2, "{what}");
        }
    }

    #[test]
    fn a_name_that_is_taken_by_something_else_is_an_error_and_stays() {
        let place = place();
        symlink(place.outside.join("a"), place.volume.join("a")).unwrap();
        assert!(show(&place.volume, &[("a", "1", 0o644)], FIRST).is_err());
        assert_eq!(fs::read_to_string(place.volume.join("a")).unwrap(), "theirs");
        fs::write(place.volume.join("b"), "mine").unwrap();
        fs::remove_file(place.volume.join("a")).unwrap();
        show(&place.volume, &[("a", "2", 0o644)], SECOND).unwrap();
        assert_eq!(
            fs::read_to_string(place.volume.join("b")).unwrap(),
            "mine",
            "others' names are not removed"
        );
    }
}
