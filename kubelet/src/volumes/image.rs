//! Volumes that are images: the layers of one, mounted read-only.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::blocking;
use crate::{
    images::Images,
    sys::{beneath, mounts},
};

/// Mounts the image at `target` anew: what the container's former attempt had may be another image.
pub(crate) async fn mount(images: &Images, id: &str, target: &Path) -> Result<PathBuf, String> {
    let mut layers = images.layers(id).ok_or_else(|| format!("image {id:?} is not on this node"))?;
    let target = target.to_owned();
    // Beside the mount point, for names of volumes have no dot.
    let empty = target.with_extension("empty");
    blocking(move || {
        mounts::unmount(&target)?;
        fs::create_dir_all(&target)?;
        fs::create_dir_all(&empty)?;
        // Two layers are the least the kernel takes when none is to be written.
        while layers.len() < 2 {
            layers.push(empty.clone());
        }
        mounts::overlay_readonly(&layers, &target)?;
        Ok(target)
    })
    .await
}

/// The place of `sub` in the mounted image, which must be there: nobody can change it between this look and its use.
pub(crate) fn within(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let path = Path::new(sub);
    if path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("subPath {sub:?} must be a relative path inside the volume"));
    }
    let find = || -> io::Result<PathBuf> {
        let handle = beneath::open_path(&beneath::open_root(volume)?, path)?;
        fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle)))
    };
    find().map_err(|error| format!("ImageVolumeMountFailed: subpath {sub:?} of the image: {error}"))
}
