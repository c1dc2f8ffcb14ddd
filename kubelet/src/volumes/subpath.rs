//! `subPath` of a volume mount: a bind of its own, made through a handle that cannot lead out of the volume.

use std::{
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
};

use crate::{
    beneath::{Access, Dir, FileType, Found, Links, Name},
    pods::places::Places,
    sys::mounts,
};

/// Where a mount with a `subPath` goes: the volume, the container and the number of the mount in it.
pub(crate) struct Wanted<'a> {
    pub(crate) volume: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) sub: &'a str,
    pub(crate) container: &'a str,
    pub(crate) index: usize,
}

/// A `subPath` as a path within its volume.
pub(crate) fn relative(sub: &str) -> Result<&Path, String> {
    let path = Path::new(sub);
    if path.is_absolute() {
        return Err(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{sub}`: must not contain '..'"));
    }
    Ok(path)
}

/// Binds a part of the volume below the pod's directory and gives that place. A missing directory is made.
pub(crate) fn bind(places: &Places, wanted: &Wanted<'_>) -> Result<PathBuf, String> {
    let path = relative(wanted.sub)?;
    make(places, wanted, path).map_err(|error| {
        let (root, sub, container) = (wanted.root.display(), wanted.sub, wanted.container);
        // Which paths of the node exist is not for the pod's owner to know.
        tracing::warn!(%error, %root, sub, container, "subPath not bound");
        let volume = wanted.volume;
        format!("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")
    })
}

fn make(places: &Places, wanted: &Wanted<'_>, path: &Path) -> io::Result<PathBuf> {
    let source = source(&Dir::open(wanted.root)?, path)?;
    let above = Path::new("volume-subpaths").join(Name::new(wanted.container)?);
    let name = wanted.index.to_string();
    let target = places.dir().join(&above).join(&name);
    // An earlier attempt of the container has its own view of what was bound for it.
    mounts::unmount(&target)?;
    let parent = places.open()?.make_dirs(&above, Links::Refused, 0o750)?;
    let wanted = if source.is_dir()? { FileType::Directory } else { FileType::RegularFile };
    if parent.kind_of(&name)? != Some(wanted) {
        parent.remove_tree(&name)?;
        if wanted == FileType::Directory {
            parent.make_new(&name, Access::mode(0o755))?;
        } else {
            parent.create_new(&name, Access::mode(0o644))?;
        }
    }
    mounts::bind(&source.magic_path(), &parent.find(&name, Links::Refused)?.magic_path())?;
    Ok(target)
}

fn source(volume: &Dir, path: &Path) -> io::Result<Found> {
    match volume.find(path, Links::Within) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mode = volume.stat()?.st_mode & 0o7777;
            volume.make_dirs(path, Links::Within, mode)?.as_found()
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_sub_path_is_relative_and_does_not_lead_up() {
        for (sub, refused) in [
            ("a/..b", None),
            ("/x", Some("error SubPath `/x` must not be an absolute path")),
            ("a/../x", Some("unable to provision SubPath `a/../x`: must not contain '..'")),
        ] {
            assert_eq!(relative(sub).err().as_deref(), refused, "{sub}");
        }
    }

    #[test]
    fn what_is_bound_is_in_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        for (link, target) in
            [("within", "a"), ("up", "../outside"), ("absolute", "/etc"), ("gone", "missing")]
        {
            symlink(target, volume.join(link)).unwrap();
        }
        let root = Dir::open(&volume).unwrap();
        for (path, is_dir) in [
            ("a", Some(true)),
            ("a/file", Some(false)),
            ("within/file", Some(false)),
            ("within/made", Some(true)),
            ("new/deep", Some(true)),
            ("up", None),
            ("up/x", None),
            ("absolute", None),
            ("absolute/passwd", None),
            ("gone", None),
            ("a/file/x", None),
        ] {
            let found = source(&root, Path::new(path)).and_then(|found| found.is_dir());
            assert_eq!(found.ok(), is_dir, "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
