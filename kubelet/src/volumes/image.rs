//! Volumes that are images: the layers of one, mounted read-only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{blocking, subpath};
use crate::{
    images::Images,
    sys::{beneath, mounts},
};

/// What the message of a container begins with whose image volume cannot be mounted.
pub(crate) const MOUNT_FAILED: &str = "ImageVolumeMountFailed";

/// Mounts the image at `target` anew: what the container's former attempt had may be another image.
pub(crate) async fn mount(images: &Images, id: &str, target: &Path) -> Result<PathBuf, String> {
    let mut layers = images.layers(id).ok_or_else(|| format!("image {id:?} is not on this node"))?;
    let (target, source) = (target.to_owned(), id.to_owned());
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
        // The source tells which image is in use, also to a later run.
        mounts::overlay_readonly(&source, &layers, &target)?;
        Ok(target)
    })
    .await
}

/// The place of `sub` in the mounted image, which must be there: nobody can change it between this look and its use.
pub(crate) fn within(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let path = subpath::relative(sub)?;
    let find = || -> io::Result<PathBuf> {
        let handle = beneath::open_in_root(&beneath::open_root(volume)?, path)?;
        fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle)))
    };
    find().map_err(|error| format!("{MOUNT_FAILED}: subpath {sub:?} of the image: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_must_be_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/file"), "").unwrap();
        for (link, target) in [("within", "etc"), ("out", "/etc"), ("up", ".."), ("away", "/usr")] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        }
        let cases = [
            ("etc", Some("etc")),
            ("etc/file", Some("etc/file")),
            ("within/file", Some("etc/file")),
            ("missing", None),
            // Links are the image's own: they start at its root.
            ("out/file", Some("etc/file")),
            ("up/etc", Some("etc")),
            ("away", None),
            ("../x", None),
            ("/etc", None),
        ];
        for (sub, expected) in cases {
            let found = within(dir.path(), sub).ok();
            assert_eq!(found, expected.map(|path| dir.path().join(path)), "{sub}");
        }
    }
}
