//! The volumes of a container whose pod has users of its own, made ready by the host's root: the container's first
//! process mounts them when it has become the pod's root, whom neither their directories nor their owners are for.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use super::protocol::PodUsers;
use crate::sys::idmap;
use crate::sys::namespaces::Apart;

/// Puts everything at its place, in a mount namespace that the container is to be made in.
pub(super) fn stage(users: &PodUsers) -> io::Result<Apart> {
    let apart = Apart::enter()?;
    match users.staged.iter().try_for_each(|one| place(users, one)) {
        Ok(()) => Ok(apart),
        Err(error) => {
            // The first error is the one to tell.
            let _ = apart.leave();
            Err(error)
        }
    }
}

fn place(users: &PodUsers, one: &super::protocol::Staged) -> io::Result<()> {
    let about = |what: &str, error: &io::Error| {
        io::Error::new(error.kind(), format!("{what} {}: {error}", one.source.display()))
    };
    let tree = idmap::detached(&one.source).map_err(|error| about("cannot mount", &error))?;
    if one.map {
        let namespace = File::open(&users.namespace)?;
        idmap::map_owners(&tree, namespace.as_fd())
            .map_err(|error| about("the file system cannot have its owners mapped:", &error))?;
    }
    if one.readonly {
        // Set out here, it cannot be taken back in there.
        idmap::make_readonly(&tree).map_err(|error| about("cannot make read-only", &error))?;
    }
    if let Some(above) = one.at.parent() {
        fs::create_dir_all(above)?;
    }
    if File::from(tree.try_clone()?).metadata()?.is_dir() {
        fs::create_dir_all(&one.at)?;
    } else {
        File::create(&one.at)?;
    }
    idmap::attach(&tree, &one.at).map_err(|error| about("cannot mount", &error))
}
