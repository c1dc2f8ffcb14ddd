//! What the node does with its cgroups: limits of pods and of all pods, groups of its own in a container, what it cannot
//! manage, and what is not its own.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use coracle_kubelet::cri::{ContainerState, Resources, SandboxSpec};
use coracle_kubelet::runtime::{Runtime, purge};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::{Node, PATIENCE, end, own_cgroup};

const ROOT: &str = "/sys/fs/cgroup";

fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// A file of a group, in the hierarchy of its controller where there are several.
fn value(controller: &str, group: &str, v2: &str, v1: &str) -> String {
    let file =
        if unified() { format!("{ROOT}{group}/{v2}") } else { format!("{ROOT}/{controller}{group}/{v1}") };
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

/// Each mounted hierarchy with the type and the options it is mounted by.
fn hierarchies() -> Vec<(PathBuf, String, String)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let hierarchy = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let (point, mut fields) = (head.split(' ').nth(4)?, tail.split(' '));
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let own = options.split(',').filter(|option| *option != "rw" && kind == "cgroup").collect::<Vec<_>>();
        (kind.starts_with("cgroup") && Path::new(point).starts_with(ROOT))
            .then(|| (PathBuf::from(point), kind.to_owned(), own.join(",")))
    };
    text.lines().filter_map(hierarchy).collect()
}

pub(crate) async fn all(node: &Node) {
    ended_containers_have_nothing_mounted(node).await;
    a_pods_processes_are_counted_together(node).await;
    privileged_containers_see_the_hosts_groups(node).await;
    all_pods_together_have_a_ceiling(node).await;
    others_in_the_common_group_stay().await;
    in_a_child("enter-own-groups");
    in_a_child("forbid-groups");
    println!("groups: all held");
}

async fn ended_containers_have_nothing_mounted(node: &Node) {
    node.pod("mounted", false).await;
    let mounted = |id: &str| {
        let rootfs = node.config.run_dir.join("c").join(&id[..24]).join("rootfs");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        mounts.contains(&format!(" {} ", rootfs.display()))
    };
    let running = |id: &str| {
        let ContainerState::Running { pid, .. } = node.runtime.container(id).expect("container").state else {
            panic!("running")
        };
        pid
    };
    let kill = |pid: i32| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("kill")
    };
    let id = node.run(&node.spec("mounted", "echo kept >/kept; sleep 1000")).await;
    assert!(mounted(&id), "a running one has its root file system");
    kill(running(&id));
    assert_eq!(end(&node.runtime, &id).await.0, 137);
    assert!(!mounted(&id), "kill -9 of the first process takes the mount with it");
    let layer = node.config.state_dir.join("containers").join(&id).join("upper");
    assert!(layer.is_dir(), "what it wrote stays until it is removed");
    // Its shim dies, and nobody is there to tell of the end.
    let id = node.run(&node.spec("mounted", "sleep 1000")).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", running(&id))).expect("status");
    kill(status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).expect("PPid"));
    let mut events = node.runtime.events();
    while node.runtime.container(&id).expect("container").state != ContainerState::Unknown {
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event").expect("an event");
    }
    assert!(!mounted(&id));
    // It never began.
    let mut missing = node.spec("mounted", "");
    missing.command = vec!["nosuch".to_owned()];
    let id = node.runtime.create_container(&missing).await.expect("create");
    node.runtime.start_container(&id).await.expect_err("must not start");
    assert!(!mounted(&id));
    // It ended while nobody looked.
    let id = node.run(&node.spec("mounted", "exit 3")).await;
    end(&node.runtime, &id).await;
    let rootfs = node.config.run_dir.join("c").join(&id[..24]).join("rootfs");
    mount(Some("left"), &rootfs, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
    let next = Runtime::open(node.config.clone()).await.expect("the next start");
    assert!(!mounted(&id) && next.container(&id).is_some(), "the next start finds out");
    node.runtime.remove_sandbox("mounted").await.expect("remove");
}

/// `--pod-max-pids`: the wall is around the pod, not around each container.
async fn a_pods_processes_are_counted_together(node: &Node) {
    let resources = Resources { pids_limit: Some(14), ..Resources::default() };
    let pod = SandboxSpec { resources, ..Node::sandbox("forks", false) };
    node.runtime.create_sandbox(&pod).await.expect("sandbox");
    let group = format!("{}/besteffort/podforks", node.config.cgroup_root);
    assert_eq!(value("pids", &group, "pids.max", "pids.max"), "14");
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo all; wait";
    let mut first = node.spec("forks", script);
    first.log_path = "forks.log".into();
    let id = node.run(&first).await;
    let log = || std::fs::read_to_string(node.dir.join("forks.log")).unwrap_or_default();
    while !log().contains("F all") {
        tokio::task::yield_now().await;
    }
    let mut second = node.spec("forks", script);
    second.log_path = "bomb.log".into();
    let bomb = node.run(&second).await;
    assert_ne!(end(&node.runtime, &bomb).await.0, 0);
    let said = std::fs::read_to_string(node.dir.join("bomb.log")).expect("log");
    assert!(said.contains("can't fork") && !said.contains("F all"), "{said}");
    let state = node.runtime.container(&id).expect("container").state;
    assert!(matches!(state, ContainerState::Running { .. }), "the other one goes on: {state:?}");
    node.runtime.remove_sandbox("forks").await.expect("remove");
}

async fn privileged_containers_see_the_hosts_groups(node: &Node) {
    node.pod("namespaces", false).await;
    let own = std::fs::read_link("/proc/self/ns/cgroup").expect("namespace").display().to_string();
    for privileged in [true, false] {
        let mut spec = node.spec("namespaces", "busybox readlink /proc/self/ns/cgroup");
        spec.security.privileged = privileged;
        spec.log_path = format!("namespaces-{privileged}.log").into();
        let id = node.run(&spec).await;
        assert_eq!(end(&node.runtime, &id).await.0, 0);
        let log = std::fs::read_to_string(node.dir.join(&spec.log_path)).expect("log");
        assert_eq!(log.contains(&own), privileged || !unified(), "{privileged}: {log}");
    }
    node.runtime.remove_sandbox("namespaces").await.expect("remove");
}

async fn all_pods_together_have_a_ceiling(node: &Node) {
    let root = &node.config.cgroup_root;
    for (memory, pids) in [(4_i64 << 30, 9000_i64), (2 << 30, 10_000)] {
        let all = Resources { memory_limit: Some(memory), pids_limit: Some(pids), ..Resources::default() };
        node.runtime.limit_pods(&all).await.expect("a ceiling");
        let has = value("memory", root, "memory.max", "memory.limit_in_bytes");
        assert_eq!(
            (has, value("pids", root, "pids.max", "pids.max")),
            (memory.to_string(), pids.to_string())
        );
    }
    // A pod may have the whole of it, and no more.
    node.pod("greedy", false).await;
    let few = Resources { pids_limit: Some(8), ..Resources::default() };
    node.runtime.limit_pods(&few).await.expect("a ceiling");
    let mut spec = node.spec("greedy", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait");
    spec.log_path = "greedy.log".into();
    let id = node.run(&spec).await;
    assert_ne!(end(&node.runtime, &id).await.0, 0);
    let log = std::fs::read_to_string(node.dir.join("greedy.log")).expect("log");
    assert!(log.contains("can't fork"), "{log}");
    node.runtime.remove_sandbox("greedy").await.expect("remove");
    let many = Resources { pids_limit: Some(10_000), ..Resources::default() };
    node.runtime.limit_pods(&many).await.expect("a ceiling");
}

/// All kubelets of a machine have their pods below a group of the same name.
async fn others_in_the_common_group_stay() {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = format!("{}-shared", own_cgroup());
    let node = Node::open(dir.path(), &root).await;
    node.pod("own", false).await;
    node.run(&node.spec("own", "sleep 1000")).await;
    let trees: Vec<PathBuf> = match unified() {
        true => vec![PathBuf::from(ROOT)],
        false => ["memory", "cpu", "pids"].map(|name| Path::new(ROOT).join(name)).into(),
    };
    let mut theirs = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let group = |tree: &Path| tree.join(&root[1..]).join("burstable/podtheirs/container");
    for tree in &trees {
        std::fs::create_dir_all(group(tree)).expect("their group");
        std::fs::write(group(tree).join("cgroup.procs"), theirs.id().to_string()).expect("their process");
    }
    purge(&node.config.state_dir, &node.config.run_dir, &root).await.expect("purge");
    let lives = theirs.try_wait().expect("wait").is_none();
    let kept = trees.iter().all(|tree| group(tree).exists());
    let own = trees.iter().any(|tree| tree.join(&root[1..]).join("besteffort/podown").exists());
    theirs.kill().expect("kill");
    theirs.wait().expect("wait");
    for tree in &trees {
        remove_groups(&tree.join(&root[1..]));
    }
    assert!(lives && kept, "a purge takes what is its own");
    assert!(!own, "and all of that");
    // What is left in other hierarchies is empty.
    purge(&node.config.state_dir, &node.config.run_dir, &root).await.expect("purge");
}

fn remove_groups(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

/// Runs a part of this program as a process of its own, which may change its namespaces.
fn in_a_child(part: &str) {
    let dir = tempfile::tempdir().expect("temp dir");
    let outer = format!("coracle-outer-{part}-{}", std::process::id());
    let child = Command::new("/proc/self/exe").args([part, &outer]).arg(dir.path()).spawn();
    let ended = child.and_then(|mut child: Child| child.wait()).expect("a child");
    let trees = hierarchies();
    trees.iter().for_each(|(tree, ..)| remove_groups(&tree.join(&outer)));
    assert!(ended.success(), "{part}: {ended}");
    let left: Vec<_> = trees.iter().map(|(tree, ..)| tree.join(&outer)).filter(|dir| dir.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a container of another machine's kind is: groups of its own, which look like the whole tree from inside. Called
/// before the process has threads.
pub(crate) fn enter_own_groups(outer: &str, dir: &OsStr) {
    let trees = hierarchies();
    for (tree, kind, _) in &trees {
        if kind == "cgroup2" {
            for name in ["cpu", "memory", "pids", "cpuset", "io"] {
                let _ = std::fs::write(tree.join("cgroup.subtree_control"), format!("+{name}"));
            }
        }
        let group = tree.join(outer);
        std::fs::create_dir(&group).expect("a group");
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (Ok(all), true) = (std::fs::read_to_string(tree.join(file)), kind == "cgroup") {
                std::fs::write(group.join(file), all.trim()).expect("cpuset");
            }
        }
        std::fs::write(group.join("cgroup.procs"), std::process::id().to_string()).expect("join");
    }
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).expect("unshare");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .expect("private");
    for (tree, kind, options) in &trees {
        // The same file system is not mounted upon itself.
        umount2(tree, MntFlags::MNT_DETACH).expect("the outer tree");
        mount(Some("cgroup"), tree, Some(kind.as_str()), MsFlags::empty(), Some(options.as_str()))
            .expect("cgroup");
    }
    go_on_as("own-groups", dir)
}

/// The program is to be one of the new mount namespace.
fn go_on_as(part: &str, dir: &OsStr) {
    let own = std::env::current_exe().expect("the program");
    panic!("{}", Command::new(own).arg(part).arg(dir).exec());
}

/// In such a container pods run, and are held to their limits.
pub(crate) async fn in_own_groups(dir: &Path) {
    let node = Node::open(dir, "/kubepods").await;
    assert_eq!(node.runtime.trouble(), None);
    node.pod("nested", false).await;
    let mut spec = node.spec("nested", "cat /proc/self/cgroup; exit 7");
    spec.resources.memory_limit = Some(64 << 20);
    spec.resources.pids_limit = Some(20);
    let id = node.run(&spec).await;
    assert_eq!(end(&node.runtime, &id).await.0, 7);
    let id = node.run(&node.spec("nested", "sleep 1000")).await;
    let group = format!("/kubepods/besteffort/podnested/{id}");
    assert_eq!(
        value("pids", &group, "cgroup.procs", "cgroup.procs").lines().count(),
        1,
        "it is in its group"
    );
    if unified() {
        let left = std::fs::read_to_string(Path::new(ROOT).join("cgroup.procs")).expect("processes");
        assert_eq!(left, "", "the node's own processes have moved aside");
    }
    node.purge().await;
}

/// Called before the process has threads.
pub(crate) fn forbid_groups(dir: &OsStr) {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .expect("private");
    for (tree, ..) in hierarchies() {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &tree, None::<&str>, flags, None::<&str>).expect("read-only");
    }
    go_on_as("no-groups", dir)
}

/// A machine whose groups cannot be managed runs no pod without limits, and says why.
pub(crate) async fn without_groups(dir: &Path) {
    let node = Node::open(dir, "/kubepods-forbidden").await;
    let why = node.runtime.trouble().expect("a reason").to_owned();
    assert!(why.starts_with("cgroups cannot be managed: /sys/fs/cgroup"), "the path is named: {why}");
    assert!(why.contains("Read-only file system"), "{why}");
    let refused =
        node.runtime.create_sandbox(&Node::sandbox("refused", false)).await.expect_err("no sandbox");
    assert_eq!(refused.to_string(), format!("failed to create the pod's sandbox: {why}"));
    assert!(!node.config.run_dir.join("pods/refused").exists(), "and nothing of it was begun");
    node.purge().await;
}
