//! What is left on the node that nobody needs: of pods that are gone, of containers that ended, of images.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{node_context::NodeContext, places};
use crate::{
    beneath::{self, Dir, Links, Name, off_workers},
    cri::{ContainerRecord, ContainerState},
    tasks::contained,
    volumes,
};

/// Upstream's period of container garbage collection.
const PERIOD: Duration = Duration::from_secs(60);

/// Sweeps now and every minute. All pods of the node must be on its roster before the first time.
pub(super) async fn run(node: Arc<NodeContext>) {
    loop {
        let done = contained("sweep", sweep(&node)).await;
        if let Err(error) = done {
            tracing::warn!(error, "not everything was swept");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Removes containers, sandboxes, links, directories and logs of pods that have no worker here.
async fn sweep(node: &NodeContext) {
    let records = node.runtime.containers().into_iter().map(|r| r.pod_uid);
    let sandboxes = node.runtime.sandboxes().into_iter().map(|s| s.pod_uid);
    let (pods, logs) = (places::pods(&node.config.state_dir), node.config.log_dir.clone());
    let listed = tokio::task::spawn_blocking(move || directories(&pods, &logs)).await.unwrap_or_default();
    // Only what was seen before the roster is asked is judged: a pod is on it before it makes anything.
    let seen: HashSet<String> = records.chain(sandboxes).collect();
    let orphans = |uid: &&String| !node.roster.contains(uid);
    for uid in seen.iter().filter(orphans) {
        tracing::info!(uid, "removing a pod that is gone from the API");
        if let Err(error) = node.runtime.remove_sandbox(uid).await {
            tracing::warn!(%error, uid, "orphaned sandbox not removed");
        }
        if let Err(error) = node.network().teardown(uid).await {
            tracing::warn!(%error, uid, "orphaned link not removed");
        }
    }
    let gone = leftovers(listed, |uid| node.roster.contains(uid));
    if let Err(error) = tokio::task::spawn_blocking(move || remove(&gone)).await {
        tracing::warn!(%error, "leftovers not removed");
    }
}

/// Where pods have their files and logs, by uid.
#[derive(Debug, Default, PartialEq, Eq)]
struct Directories {
    pods: Vec<(String, PathBuf)>,
    logs: Vec<(String, PathBuf)>,
}

fn directories(pods: &Path, logs: &Path) -> Directories {
    let of_logs = |name: String| Some((uid_in(&name)?.to_owned(), logs.join(&name)));
    Directories {
        pods: names(pods).into_iter().map(|uid| (uid.clone(), pods.join(uid))).collect(),
        logs: names(logs).into_iter().filter_map(of_logs).collect(),
    }
}

/// Those of pods that are not here.
fn leftovers(mut all: Directories, is_here: impl Fn(&str) -> bool) -> Directories {
    all.pods.retain(|(uid, _)| !is_here(uid));
    all.logs.retain(|(uid, _)| !is_here(uid));
    all
}

fn remove(gone: &Directories) {
    for (_, dir) in &gone.pods {
        report(dir, volumes::clean_up(dir));
    }
    for (_, dir) in &gone.logs {
        report(dir, beneath::remove_tree(dir));
    }
}

/// The uid in the name of a pod's log directory, `<namespace>_<name>_<uid>`; others' directories are theirs.
fn uid_in(name: &str) -> Option<&str> {
    let mut parts = name.rsplitn(3, '_');
    let (uid, pod, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    (!uid.is_empty() && !pod.is_empty() && !namespace.is_empty()).then_some(uid)
}

fn report(path: &Path, result: io::Result<()>) {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "leftovers not removed");
        }
        Ok(()) | Err(_) => {}
    }
}

fn names(dir: &Path) -> Vec<String> {
    Dir::open(dir).map_or_else(|_| Vec::new(), |dir| names_in(&dir))
}

/// Names that are parts of paths, and nothing else.
fn names_in(dir: &Dir) -> Vec<String> {
    let entries = dir.entries().into_iter().flatten();
    let name = |entry: io::Result<beneath::Entry>| entry.ok()?.name.into_string().ok();
    entries.filter_map(name).filter(|name| Name::new(name).is_ok()).collect()
}

/// Removes containers that ended and that no decision depends on, with their writable layers and logs: the node is short of
/// disk.
pub(crate) async fn remove_ended(node: &NodeContext) {
    let is_over = |uid: &str| node.roster.contains(uid) && node.allocations.grant(uid).is_none();
    for record in superfluous(node.runtime.containers(), is_over) {
        match node.runtime.remove_container(&record.id).await {
            Ok(()) => remove_logs(node.config.log_dir.clone(), record.log_path).await,
            Err(error) => tracing::warn!(%error, id = record.id, "ended container not removed"),
        }
    }
}

/// All that ended of pods that are over, whose status the API has; of others what a newer attempt has replaced.
fn superfluous(records: Vec<ContainerRecord>, is_over: impl Fn(&str) -> bool) -> Vec<ContainerRecord> {
    let mut newest: BTreeMap<(String, String), u32> = BTreeMap::new();
    for r in &records {
        let attempt = newest.entry((r.pod_uid.clone(), r.name.clone())).or_default();
        *attempt = r.attempt.max(*attempt);
    }
    let ended =
        |r: &ContainerRecord| matches!(r.state, ContainerState::Exited { .. } | ContainerState::Unknown);
    let replaced = |r: &ContainerRecord| {
        newest.get(&(r.pod_uid.clone(), r.name.clone())).is_some_and(|newest| r.attempt < *newest)
    };
    records.into_iter().filter(|r| ended(r) && (is_over(&r.pod_uid) || replaced(r))).collect()
}

/// Removes an attempt's file below `root` and what it was rotated to: `3.log`, `3.log.1`, `3.log.20260101-000000.gz`.
pub(super) async fn remove_logs(root: PathBuf, path: PathBuf) {
    let removed = off_workers(move || {
        // An older version kept whole paths.
        let path = path.strip_prefix(&root).unwrap_or(&path);
        let (Some(above), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            return Ok(());
        };
        let dir = match Dir::open(&root).and_then(|root| root.dir(above, Links::Refused)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir?,
        };
        let of_attempt = |file: &&String| {
            file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        names_in(&dir).iter().filter(of_attempt).try_for_each(|file| dir.remove_file(file))
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "logs not removed");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn log_directories_are_told_by_their_names() {
        for (name, uid) in [
            (
                "default_web-0_0b5c1f6e-0000-4000-8000-000000000000",
                Some("0b5c1f6e-0000-4000-8000-000000000000"),
            ),
            ("ns_pod_uid", Some("uid")),
            ("lost+found", None),
            ("a_b", None),
            ("__", None),
        ] {
            assert_eq!(uid_in(name), uid, "{name}");
        }
    }

    #[test]
    fn directories_of_pods_that_are_gone_are_removed_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (pods, logs) = (dir.path().join("pods"), dir.path().join("logs"));
        for uid in ["here", "gone"] {
            fs::create_dir_all(pods.join(uid).join("volumes/empty-dir/v")).unwrap();
            fs::create_dir_all(logs.join(format!("ns_web-0_{uid}")).join("c")).unwrap();
            fs::write(logs.join(format!("ns_web-0_{uid}/c/0.log")), "x").unwrap();
        }
        fs::create_dir(logs.join("lost+found")).unwrap();
        let left = |dir: &Path| {
            let mut left = names(dir);
            left.sort();
            left
        };
        remove(&leftovers(directories(&pods, &logs), |uid| uid == "here"));
        assert_eq!(left(&pods), ["here"]);
        assert_eq!(left(&logs), ["lost+found", "ns_web-0_here"]);
        let none = leftovers(directories(&pods, &logs), |uid| uid == "here");
        assert_eq!(none, Directories::default());
    }

    #[tokio::test]
    async fn logs_of_one_attempt_go_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.log", "1.log.1", "1.log.20260101", "10.log", "11.log.1", "1.logs", "2.log"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_logs(dir.path().to_owned(), "1.log".into()).await;
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, ["1.logs", "10.log", "11.log.1", "2.log"]);
        remove_logs(dir.path().to_owned(), "nothing/1.log".into()).await;
    }

    #[test]
    fn what_a_decision_depends_on_stays() {
        let at = Timestamp::UNIX_EPOCH;
        let record = |pod: &str, name: &str, attempt: u32, running: bool| {
            let state = match running {
                true => ContainerState::Running { started: at, pid: 1 },
                false => ContainerState::Unknown,
            };
            ContainerRecord {
                pod_uid: pod.to_owned(),
                id: format!("{pod}/{name}{attempt}"),
                ..crate::pods::plan::tests::record(name, attempt, state)
            }
        };
        let records = vec![
            record("over", "a", 0, false),
            record("over", "b", 1, false),
            record("here", "a", 0, false),
            record("here", "a", 1, true),
            // Whether it is to run again is told by its newest record.
            record("here", "done", 0, false),
            record("here", "looping", 4, false),
            record("here", "looping", 5, false),
        ];
        let gone: Vec<String> = superfluous(records, |uid| uid == "over").into_iter().map(|r| r.id).collect();
        assert_eq!(gone, ["over/a0", "over/b1", "here/a0", "here/looping4"]);
    }
}
