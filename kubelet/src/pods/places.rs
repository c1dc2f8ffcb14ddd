//! Where the files of one pod are on the node. What others chose of the paths (uid, names) is checked once, here.

use std::{
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

use super::view::{name_of, namespace_of, uid_of};
use crate::beneath::{self, Access, Dir, Links, Name};

/// No other user of the node may look into pods.
const PRIVATE: u32 = 0o750;

/// The directories of one pod.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pods: PathBuf,
    logs: PathBuf,
    uid: Name,
    log: Name,
}

// === impl Places ===

impl Places {
    /// An error when the pod's names cannot be parts of a path.
    pub(crate) fn of(state_dir: &Path, log_dir: &Path, pod: &Pod) -> io::Result<Places> {
        let log = format!("{}_{}_{}", namespace_of(pod), name_of(pod), uid_of(pod));
        Ok(Places {
            pods: pods(state_dir),
            logs: log_dir.to_owned(),
            uid: Name::new(uid_of(pod))?,
            log: Name::new(&log)?,
        })
    }

    /// The pod's directory, for what is mounted from it.
    pub(crate) fn dir(&self) -> PathBuf {
        self.pods.join(&self.uid)
    }

    /// The pod's directory, made when it is missing.
    pub(crate) fn open(&self) -> io::Result<Dir> {
        let pods = Dir::make(&self.pods, PRIVATE)?;
        pods.set_access(Access::mode(PRIVATE))?;
        pods.make_dirs(&self.uid, Links::Refused, PRIVATE)
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.logs.join(&self.log)
    }

    /// Below the directory of all logs: the log of one attempt of a container.
    pub(crate) fn log(&self, container: &str, attempt: u32) -> io::Result<PathBuf> {
        Ok(Path::new(self.log.as_str()).join(Name::new(container)?).join(format!("{attempt}.log")))
    }

    /// Below the pod's directory: what one attempt of a container leaves as its last words.
    pub(crate) fn message(container: &str, attempt: u32) -> io::Result<(PathBuf, String)> {
        Ok((Path::new("containers").join(Name::new(container)?), format!("{attempt}.message")))
    }

    /// Removes the logs, and the pod's directory if nothing is left in it: in this order, for a directory without logs is
    /// found by the next run, logs without a directory are not.
    pub(crate) fn forget(&self) -> io::Result<()> {
        remove(&self.logs, &self.log)?;
        match Dir::open(&self.pods) {
            Ok(pods) => pods.remove_empty(&self.uid),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The directory with one directory for each pod.
pub(crate) fn pods(state_dir: &Path) -> PathBuf {
    state_dir.join("pods")
}

/// Removes a tree; neither it nor its directory need be there.
pub(crate) fn remove(dir: &Path, name: &Name) -> io::Result<()> {
    beneath::remove_tree(dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(namespace.to_owned());
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.uid = Some(uid.to_owned());
        pod
    }

    #[test]
    fn names_that_lead_elsewhere_have_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let of = |pod: &Pod| Places::of(dir.path(), &dir.path().join("logs"), pod);
        for (namespace, name, uid) in
            [("a", "b", ""), ("a", "b", ".."), ("a", "b", "../c"), ("a", "../../b", "c"), ("/a", "b", "c")]
        {
            assert!(of(&pod(namespace, name, uid)).is_err(), "{namespace} {name} {uid}");
        }
        let places = of(&pod("a", "b", "c")).unwrap();
        for container in ["", "..", "x/y", "a\0"] {
            assert!(
                places.log(container, 0).is_err() && Places::message(container, 0).is_err(),
                "{container:?}"
            );
        }
        assert_eq!(places.log("main", 2).unwrap(), Path::new("a_b_c/main/2.log"));
    }
}
