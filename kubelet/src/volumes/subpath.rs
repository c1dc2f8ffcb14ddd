//! `subPath` of a volume mount: a bind of its own, made through a handle that cannot lead out of the volume.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use crate::sys::{beneath, mounts};

/// Binds `sub` of the volume at `volume` below the pod's directory and gives that place. A missing directory is made.
pub(crate) fn bind(
    pod_dir: &Path,
    volume: &Path,
    sub: &str,
    container: &str,
    index: usize,
) -> Result<PathBuf, String> {
    let path = Path::new(sub);
    if path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("subPath {sub:?} must be a relative path inside the volume"));
    }
    let target = pod_dir.join("volume-subpaths").join(container).join(index.to_string());
    make(volume, path, &target).map_err(|error| match error.raw_os_error() {
        Some(libc::EXDEV | libc::ELOOP) => {
            format!("subpath {sub:?} not within volume path {:?}", volume.display().to_string())
        }
        _ => format!("failed to prepare subPath for volumeMount {sub:?} of container {container:?}: {error}"),
    })?;
    Ok(target)
}

fn make(volume: &Path, path: &Path, target: &Path) -> io::Result<()> {
    let mode = fs::metadata(volume)?.mode() & 0o7777;
    let root = beneath::open_root(volume)?;
    let handle = beneath::make_directories(&root, path, mode)?;
    // An earlier attempt of the container has its own view of what was bound for it.
    mounts::unmount(target)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let directory = beneath::is_directory(&handle)?;
    match fs::symlink_metadata(target) {
        Ok(old) if old.is_dir() == directory => {}
        Ok(old) if old.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if directory {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    beneath::bind(&handle, target)
}
