//! Hostile accounts of an image: nobody is root who must not be, and no id is cut.

use super::resolve;
use crate::cri::{ContainerSpec, Resources, Security};
use crate::fuzz::{first_line, parts};

/// A line with the image's user; `/etc/passwd`, and after a NUL `/etc/group`.
pub(crate) fn accounts(bytes: &[u8]) {
    let (user, files) = first_line(bytes);
    let [passwd, group] = parts(files).map(String::from_utf8_lossy);
    for (run_as_non_root, run_as_user) in [(false, None), (true, None), (false, Some(33)), (true, Some(0))] {
        let security = Security { run_as_non_root, run_as_user, ..Security::default() };
        let Ok(found) = resolve(&spec(security), &user, &passwd, &group) else { continue };
        assert!(!run_as_non_root || found.uid != 0, "{user:?}");
        let ids = [found.uid, found.gid].into_iter().chain(found.groups);
        ids.into_iter().for_each(|id| assert!(i32::try_from(id).is_ok()));
        assert!(run_as_user.is_none_or(|id| id == i64::from(found.uid)));
        assert!(!found.home.is_empty());
    }
}

pub(super) fn spec(security: Security) -> ContainerSpec {
    ContainerSpec {
        pod_uid: "u".to_owned(),
        pod_namespace: "ns".to_owned(),
        pod_name: "p".to_owned(),
        name: "c".to_owned(),
        attempt: 0,
        init: false,
        target: None,
        image_id: String::new(),
        image: String::new(),
        command: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        working_dir: String::new(),
        mounts: Vec::new(),
        tty: false,
        stdin: false,
        stdin_once: false,
        security,
        resources: Resources::default(),
        log_root: "/logs".into(),
        log_path: "log".into(),
        log_max_bytes: 0,
        log_max_files: 0,
        hostname: String::new(),
    }
}
