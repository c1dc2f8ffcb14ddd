//! `fsGroup`: what is in a volume is made the group's.

use std::io;

use crate::{
    beneath::{Access, Dir, FileType, Links},
    pods::view::spec_of,
};
use k8s_openapi::api::core::v1::Pod;

/// What the group gets of files and directories of a volume that is not read-only, as upstream.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// The group a pod's volumes are to have, and whether all they hold is looked at each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) id: u32,
    /// `fsGroupChangePolicy: OnRootMismatch`
    pub(super) only_on_mismatch: bool,
}

pub(super) fn group_of(pod: &Pod) -> Option<Group> {
    let context = spec_of(pod).security_context.as_ref()?;
    let id = context.fs_group.and_then(|id| u32::try_from(id).ok())?;
    Some(Group { id, only_on_mismatch: context.fs_group_change_policy.as_deref() == Some("OnRootMismatch") })
}

/// Gives the group the volume and everything in it; nothing outside it, whatever links others have put there.
pub(super) fn give(volume: &Dir, group: Group) -> io::Result<()> {
    let root = volume.stat()?;
    if group.only_on_mismatch && root.st_gid == group.id && root.st_mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    volume.walk(u64::MAX, |dir, entry| {
        dir.set_owner_of(&entry.name, None, Some(group.id))?;
        let bits = match entry.kind {
            FileType::Symlink => return Ok(()),
            FileType::Directory => DIRECTORY,
            _ => FILE,
        };
        let found = match dir.find(&entry.name, Links::Refused) {
            // It is another or none by now: whoever changes it answers for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let mode = found.stat()?.st_mode & 0o7777 | bits;
        found.set_access(Access { mode, uid: None, gid: Some(group.id) })
    })?;
    // Last, for it tells that all is done.
    volume.set_access(Access { mode: root.st_mode & 0o7777 | DIRECTORY, uid: None, gid: Some(group.id) })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    #[test]
    #[cfg_attr(not(root), ignore = "needs root")]
    fn the_group_gets_the_volume_and_nothing_that_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("volume/sub")).unwrap();
        fs::write(at("volume/sub/file"), "").unwrap();
        fs::write(at("outside"), "").unwrap();
        symlink(at("outside"), at("volume/sub/link")).unwrap();
        let shown = |name: &str| {
            let found = fs::symlink_metadata(at(name)).unwrap();
            (found.gid(), found.mode() & 0o7070)
        };
        let before = shown("outside");
        let volume = Dir::open(at("volume")).unwrap();
        give(&volume, Group { id: 77, only_on_mismatch: false }).unwrap();
        assert_eq!(shown("volume"), (77, 0o2070));
        assert_eq!(shown("volume/sub"), (77, 0o2070));
        assert_eq!(shown("volume/sub/file"), (77, 0o060));
        assert_eq!((shown("volume/sub/link").0, shown("outside")), (77, before));
        fs::write(at("volume/late"), "").unwrap();
        std::os::unix::fs::chown(at("volume/late"), None, Some(0)).unwrap();
        give(&volume, Group { id: 77, only_on_mismatch: true }).unwrap();
        assert_eq!(shown("volume/late").0, 0, "the root is the group's already");
        give(&volume, Group { id: 78, only_on_mismatch: true }).unwrap();
        assert_eq!(shown("volume/late").0, 78);
    }
}
