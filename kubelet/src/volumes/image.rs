//! Volumes that are images: the layers of one, mounted read-only.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::subpath;
use crate::{
    beneath::{Dir, Found, Links, Name, off_workers},
    images::Images,
    pods::places::Places,
    sys::mounts,
};

/// What the message of a container begins with whose image volume cannot be mounted.
pub(crate) const MOUNT_FAILED: &str = "ImageVolumeMountFailed";

/// Mounts the image for a container, with the owners of its files as `users`, the file of the pod's user namespace, has
/// them. It is mounted anew: what its former attempt had may be another image.
pub(crate) async fn mount(
    images: &Images,
    id: &str,
    places: &Places,
    container: &str,
    volume: &str,
    users: Option<PathBuf>,
) -> Result<PathBuf, String> {
    let mut layers = images.layers(id).ok_or_else(|| format!("image {id:?} is not on this node"))?;
    let (places, source) = (places.clone(), id.to_owned());
    let (container, volume) = (container.to_owned(), volume.to_owned());
    let mounted = off_workers(move || {
        let (container, volume) = (Name::new(&container)?, Name::new(&volume)?);
        let above = Path::new("volumes/image").join(container);
        let all = places.open()?.make_dirs(&above, Links::Refused, 0o755)?;
        let target = places.dir().join(&above).join(&volume);
        mounts::unmount(&target)?;
        all.make_dirs(&volume, Links::Refused, 0o755)?;
        // Two layers are the least the kernel takes when none is to be written. Names of volumes have no dot.
        if layers.len() < 2 {
            let empty = format!("{volume}.empty");
            all.make_dirs(&empty, Links::Refused, 0o755)?;
            layers.resize(2, places.dir().join(&above).join(empty));
        }
        let scratch = places.dir().join(&above).join(format!("{volume}.layers"));
        let mapped = users.map(|users| mounts::MappedLayers::new(&layers, &users, &scratch)).transpose()?;
        let layers = mapped.as_ref().map_or(&*layers, mounts::MappedLayers::paths);
        // The source tells which image is in use, also to a later run.
        mounts::overlay_readonly(&source, layers, &target)?;
        Ok(target)
    });
    mounted.await.map_err(|error| error.to_string())
}

/// Why a container cannot have a part of an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    #[error("{0}")]
    Malformed(String),
    #[error("{}: subpath {sub:?} of the image: {why}", MOUNT_FAILED)]
    Absent { sub: String, why: io::Error },
}

/// The place of `sub` in the mounted image, which must be there: nobody can change it between this look and its use.
pub(crate) fn within(volume: &Path, sub: &str) -> Result<PathBuf, SubPathError> {
    let path = subpath::relative(sub).map_err(SubPathError::Malformed)?;
    let found = Dir::open(volume).and_then(|root| root.find(path, Links::AsRoot));
    let place = found.and_then(|found: Found| found.place());
    place.map_err(|why| SubPathError::Absent { sub: sub.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use std::fs;

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
