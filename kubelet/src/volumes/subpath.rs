//! `subPath` of a volume mount: a bind of its own, made through a handle that cannot lead out of the volume.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use crate::sys::{beneath, mounts};

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

/// Binds `sub` of the volume, which is at `root`, below the pod's directory and gives that place. A missing directory is made.
pub(crate) fn bind(
    pod_dir: &Path,
    (volume, root): (&str, &Path),
    sub: &str,
    container: &str,
    index: usize,
) -> Result<PathBuf, String> {
    let path = relative(sub)?;
    let target = pod_dir.join("volume-subpaths").join(container).join(index.to_string());
    make(root, path, &target).map_err(|error| {
        // Which paths of the node exist is not for the pod's owner to know.
        tracing::warn!(%error, root = %root.display(), sub, container, "subPath not bound");
        format!("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")
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

#[cfg(test)]
mod tests {
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
}
