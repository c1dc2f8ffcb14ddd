//! `hostUsers: false`: root in such a pod is nobody on the host, and nobody in other pods; its files are its own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_kubelet::cri::{
    ContainerSpec, ContainerState, ExecSpec, IdRange, Mount, SandboxSpec, Seccomp, Security,
};
use coracle_kubelet::runtime::Runtime;
use coracle_kubelet::sys::mounts::{MappedLayers, overlay_readonly, unmount};
use tokio::io::AsyncReadExt;

use super::{Node, PATIENCE, end, mount, own_cgroup};

fn pod(uid: &str, share_pid: bool) -> SandboxSpec {
    SandboxSpec { own_users: true, ..Node::sandbox(uid, share_pid) }
}

fn pid(runtime: &Runtime, id: &str) -> i32 {
    match runtime.container(id).expect("container").state {
        ContainerState::Running { pid, .. } => pid,
        other => panic!("must be running: {other:?}"),
    }
}

/// Runs a script to its end; gives its code and what it wrote.
async fn output(node: &Node, mut spec: ContainerSpec) -> (i32, String) {
    spec.log_path = "users.log".into();
    let log = node.dir.join(&spec.log_path);
    let _ = std::fs::remove_file(&log);
    let id = node.runtime.create_container(&spec).await.expect("create");
    if let Err(error) = node.runtime.start_container(&id).await {
        let shim = node.config.state_dir.join("containers").join(&id).join("shim.log");
        panic!("{error}\n{}", std::fs::read_to_string(shim).unwrap_or_default());
    }
    let (code, _) = end(&node.runtime, &id).await;
    node.runtime.remove_container(&id).await.expect("remove");
    (code, std::fs::read_to_string(&log).unwrap_or_default())
}

/// The volumes of a usual pod: a directory on the disk, one in memory, read-only files, and a file for last words.
struct Volumes {
    disk: PathBuf,
    memory: PathBuf,
    config: PathBuf,
    message: PathBuf,
}

impl Volumes {
    fn make(node: &Node) -> Volumes {
        let private = node.dir.join("private");
        std::fs::create_dir(&private).expect("mkdir");
        // As pods' directories are: nobody but the host's root may enter.
        std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).expect("chmod");
        let made = Volumes {
            disk: private.join("disk"),
            memory: node.config.run_dir.join("memory"),
            config: private.join("config"),
            message: private.join("message"),
        };
        for dir in [&made.disk, &made.memory, &made.config] {
            std::fs::create_dir(dir).expect("mkdir");
        }
        for (file, mode, owner) in [("key", 0o644, 0), ("token", 0o600, 0), ("token-of-web", 0o600, 33)] {
            let path = made.config.join(file);
            std::fs::write(&path, format!("{file}\n")).expect("write");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
            chown(&path, Some(owner), Some(owner)).expect("chown");
        }
        std::fs::write(&made.message, "").expect("write");
        made
    }

    fn mounts(&self) -> Vec<Mount> {
        vec![
            mount(&self.disk, "/disk", false),
            mount(&self.memory, "/memory", false),
            mount(&self.config, "/var/run/config", true),
            mount(&self.message, "/dev/termination-log", false),
        ]
    }
}

pub(crate) async fn all() {
    let dir = tempfile::tempdir().expect("temp dir");
    // The pod's root goes through the run directory's parents, as everybody may through those of `/run/coracle`.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).expect("chmod");
    let node = Node::open(dir.path(), &format!("{}-users", own_cgroup())).await;
    if let Some(why) = node.runtime.no_users() {
        println!("no users of their own for pods here: {why}");
        let refused = node.runtime.create_sandbox(&pod("refused", false)).await.expect_err("refused");
        assert_eq!(refused.to_string(), format!("failed to create the pod's sandbox: {why}"));
        node.purge().await;
        return;
    }
    let volumes = Volumes::make(&node);
    let ranges = disjoint_ranges(&node).await;
    what_a_usual_pod_does(&node, &volumes, ranges[0]).await;
    others_are_out_of_reach(&node, &ranges).await;
    root_inside_is_nobody_outside(&node, &volumes).await;
    every_way_to_start_a_process(&node, &volumes).await;
    images_as_volumes(&node).await;
    shared_processes(&node).await;
    ids_that_the_pod_does_not_have(&node).await;
    ranges_are_kept_and_given_back(&node, &ranges).await;
    node.purge().await;
    a_directory_that_nobody_may_enter_is_told().await;
    println!("users: all held");
}

async fn disjoint_ranges(node: &Node) -> [IdRange; 2] {
    let mut ranges = Vec::new();
    for uid in ["one", "two"] {
        let spec = SandboxSpec {
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned())],
            ..pod(uid, false)
        };
        let made = node.runtime.create_sandbox(&spec).await.expect("sandbox");
        let (_, ids) = made.users.clone().expect("users of its own");
        assert!(ids.first >= 65_536 && ids.first.is_multiple_of(65_536) && ids.count == 65_536, "{ids:?}");
        assert_eq!(node.runtime.create_sandbox(&spec).await.expect("again"), made, "made once");
        ranges.push(ids);
    }
    assert_ne!(ranges[0].first, ranges[1].first, "no two pods have an id in common");
    [ranges[0], ranges[1]]
}

async fn what_a_usual_pod_does(node: &Node, volumes: &Volumes, ids: IdRange) {
    let script = "b=busybox; id -u; $b tr -s ' ' </proc/self/uid_map; $b tr -s ' ' </proc/self/gid_map; \
         cat /var/run/config/key /var/run/config/token; echo kept >/disk/file; echo kept >/memory/file; \
         $b mkdir /disk/dir; $b chown 1000:1000 /disk/dir; echo last words >/dev/termination-log; \
         echo layer >/etc/layer; $b stat -c 'owner %u:%g %n' /disk/file /made/here /dev/shm /etc/passwd /dev/termination-log; \
         echo shared >/dev/shm/x && cat /dev/shm/x; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
         echo changed >/var/run/config/key; echo ready; exec sleep 1000";
    let mut spec = node.spec("one", script);
    spec.mounts = volumes.mounts();
    spec.log_path = "usual.log".into();
    let id = node.runtime.create_container(&spec).await.expect("create");
    if let Err(error) = node.runtime.start_container(&id).await {
        let shim = node.config.state_dir.join("containers").join(&id).join("shim.log");
        panic!("{error}\n{}", std::fs::read_to_string(shim).unwrap_or_default());
    }
    let log = || std::fs::read_to_string(node.dir.join("usual.log")).unwrap_or_default();
    while !log().contains("F ready") {
        let state = node.runtime.container(&id).expect("container").state;
        assert!(matches!(state, ContainerState::Running { .. }), "{state:?}: {}", log());
        tokio::task::yield_now().await;
    }
    let map = format!("F  0 {} 65536", ids.first);
    let log = log();
    assert_eq!(log.matches(&map).count(), 2, "{map}: {log}");
    for line in [
        "stdout F 0",
        "F key",
        "F token",
        "F owner 0:0 /disk/file",
        "F owner 0:0 /made/here",
        "F owner 0:0 /dev/shm",
        "F owner 0:0 /etc/passwd",
        "F owner 0:0 /dev/termination-log",
        "F shared",
        "F 7",
        "Read-only file system",
    ] {
        assert!(log.contains(line), "{line:?} is missing in:\n{log}");
    }
    // On the host: the process is nobody, the volumes' files are root's, the layer's are nobody's.
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", pid(&node.runtime, &id))).expect("status");
    let outside = format!("Uid:\t{0}\t{0}\t{0}\t{0}", ids.first);
    assert!(status.contains(&outside), "{status}");
    let owner = |path: PathBuf| {
        let found = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (found.uid(), found.gid())
    };
    for file in [volumes.disk.join("file"), volumes.memory.join("file"), volumes.message.clone()] {
        assert_eq!(owner(file.clone()), (0, 0), "{}", file.display());
    }
    assert_eq!(owner(volumes.disk.join("dir")), (1000, 1000));
    assert_eq!(std::fs::read_to_string(&volumes.message).expect("read"), "last words\n");
    let layer = node.config.state_dir.join("containers").join(&id).join("upper/etc/layer");
    assert_eq!(owner(layer), (ids.first, ids.first));
    // exec, as users and probes have it.
    for (command, want) in [
        (&["id", "-u"][..], "0".to_owned()),
        (&["busybox", "tr", "-s", " ", ":"], String::new()),
        (&["sh", "-c", "busybox tr -s ' ' </proc/self/uid_map"], map[2..].trim().to_owned()),
        (&["grep", "Seccomp:", "/proc/self/status"], "Seccomp:\t2".to_owned()),
        (&["sh", "-c", "echo more >>/disk/file && cat /disk/file"], "kept\nmore".to_owned()),
        (&["cat", "/proc/1/comm"], "sleep".to_owned()),
    ] {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let done = node.runtime.exec_sync(&id, &command, PATIENCE).await.expect("exec");
        let text = String::from_utf8_lossy(&done.output).trim().to_owned();
        assert_eq!((done.code, text), (0, want), "{command:?}");
    }
    let terminal = ExecSpec { command: vec!["tty".into()], tty: true, stdout: true, ..ExecSpec::default() };
    let mut session = node.runtime.exec(&id, &terminal).await.expect("exec with a terminal");
    let mut text = String::new();
    session.stdio.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
    assert_eq!((text.trim(), session.wait().await.expect("exit")), ("/dev/pts/0", 0));
}

/// Whoever is root in one pod's user namespace has no rights over another's processes, whatever it sees of them.
async fn others_are_out_of_reach(node: &Node, ranges: &[IdRange; 2]) {
    let target = node.run(&node.spec("one", "exec sleep 1000")).await;
    let target = pid(&node.runtime, &target).to_string();
    let within = |uid: &str, command: &[&str]| {
        let namespace =
            format!("--user={}", node.config.run_dir.join("pods").join(uid).join("user").display());
        let done =
            Command::new("nsenter").args([&namespace, "-S", "0", "-G", "0", "--"]).args(command).output();
        done.expect("nsenter")
    };
    assert!(within("one", &["kill", "-0", &target]).status.success(), "its own root may");
    let refused = within("two", &["kill", "-9", &target]);
    assert!(!refused.status.success(), "{refused:?}");
    // Its environment is for who may trace it.
    let environment = format!("/proc/{target}/environ");
    assert!(within("one", &["cat", &environment]).status.success(), "its own root may");
    let refused = within("two", &["cat", &environment]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    assert!(Path::new("/proc").join(&target).exists());
    assert_eq!(std::fs::metadata(format!("/proc/{target}")).expect("proc").uid(), ranges[0].first);
}

/// With every capability there is, and with nothing masked.
async fn root_inside_is_nobody_outside(node: &Node, volumes: &Volumes) {
    let pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("pattern");
    let before = pattern();
    let seen = || std::fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains("own-of-a-pod");
    let script = "b=busybox; echo '|/evil' >/proc/sys/kernel/core_pattern; echo 1 >/proc/sys/vm/drop_caches; \
         mknod /sda b 8 0; mknod /null c 1 3; mkdir /mnt; $b mount -t tmpfs own-of-a-pod /mnt && echo own mount; \
         $b mount -o remount,rw,bind /run/config; echo evil >/var/run/config/key; \
         $b mount -t cgroup -o memory none /mnt && echo groups; $b chroot /proc/1/root true; \
         $b hostname evil && echo own name; echo end";
    for privileged in [false, true] {
        let mut spec = node.spec("two", script);
        spec.security = Security {
            privileged,
            add_capabilities: vec!["ALL".to_owned()],
            seccomp: Seccomp::Unconfined,
            unmasked_proc: true,
            ..Security::default()
        };
        spec.mounts = volumes.mounts();
        let (_, log) = output(node, spec).await;
        assert_eq!(log.matches("/proc/sys/kernel/core_pattern: Permission denied").count(), 1, "{log}");
        assert!(log.contains("/proc/sys/vm/drop_caches: Permission denied"), "{log}");
        for device in ["/sda", "/null"] {
            assert!(log.contains(&format!("{device}: Operation not permitted")), "{device}: {log}");
        }
        assert!(log.contains("F own mount") && log.contains("F own name"), "what is its own it may: {log}");
        assert!(log.contains("Read-only file system") && !log.contains("F groups"), "{log}");
        assert!(log.contains("F end"), "{log}");
        assert_eq!((pattern(), seen()), (before.clone(), false), "nothing changed on the host");
        assert_eq!(std::fs::read_to_string(volumes.config.join("key")).expect("key"), "key\n");
    }
}

async fn every_way_to_start_a_process(node: &Node, volumes: &Volumes) {
    chown(&volumes.disk, Some(33), Some(44)).expect("chown");
    std::fs::set_permissions(&volumes.disk, PermissionsExt::from_mode(0o700)).expect("chmod");
    let mut user = node
        .spec("one", "id; cat /var/run/config/token-of-web; echo mine >/disk/mine; echo out >/dev/stdout");
    user.security.run_as_user = Some(33);
    user.security.allow_privilege_escalation = Some(false);
    user.mounts = volumes.mounts();
    let (code, log) = output(node, user).await;
    assert!(code == 0 && log.contains("uid=33(web) gid=44(web)") && log.contains("F token-of-web"), "{log}");
    assert!(log.contains("F out"), "its streams are its own: {log}");
    assert_eq!(std::fs::metadata(volumes.disk.join("mine")).expect("file").uid(), 33);
    chown(&volumes.disk, Some(0), Some(0)).expect("chown");
    let mut terminal = node.spec("one", "tty; busybox stat -c 'owner %u' /dev/pts/0 /dev/console");
    terminal.tty = true;
    terminal.security.run_as_user = Some(33);
    let (code, log) = output(node, terminal).await;
    assert!(code == 0 && log.contains("/dev/pts/0") && log.contains("owner 33"), "{log}");
    let mut sealed = node.spec("one", "echo x >/x; cat /proc/self/mounts | grep ' / '");
    sealed.security.readonly_rootfs = true;
    let (_, log) = output(node, sealed).await;
    assert!(log.contains("Read-only file system"), "{log}");
    let mut limited = node.spec("one", "tail /dev/zero");
    limited.resources.memory_limit = Some(16 << 20);
    let id = node.run(&limited).await;
    assert_eq!(end(&node.runtime, &id).await, (137, true), "limits hold as in every pod");
}

/// An overlay cannot be shown with other owners: its layers are, before it is mounted.
async fn images_as_volumes(node: &Node) {
    let layers = ["upper-layer", "lower-layer"].map(|name| node.dir.join("private").join(name));
    for layer in &layers {
        std::fs::create_dir(layer).expect("mkdir");
    }
    std::fs::write(layers[1].join("file"), "of the image\n").expect("write");
    chown(layers[1].join("file"), Some(33), Some(44)).expect("chown");
    let namespace = node.config.run_dir.join("pods/one/user");
    let scratch = node.dir.join("private/scratch");
    for mapped in [true, false] {
        let image = node.dir.join("private").join(format!("image-{mapped}"));
        std::fs::create_dir(&image).expect("mkdir");
        if mapped {
            let shown = MappedLayers::new(&layers, &namespace, &scratch).expect("mapped layers");
            overlay_readonly("sha256:image", shown.paths(), &image).expect("overlay");
        } else {
            overlay_readonly("sha256:image", &layers, &image).expect("overlay");
        }
        let mut spec = node
            .spec("one", "cat /image/file; busybox stat -c 'owner %u:%g' /image/file; echo x >/image/new");
        spec.mounts = vec![Mount { mapped, ..mount(&image, "/image", true) }];
        if mapped {
            let (_, log) = output(node, spec).await;
            assert!(log.contains("F of the image") && log.contains("F owner 33:44"), "{log}");
            assert!(log.contains("Read-only file system"), "{log}");
        } else {
            let id = node.runtime.create_container(&spec).await.expect("create");
            let refused = node.runtime.start_container(&id).await.expect_err("refused").to_string();
            assert!(refused.contains("cannot have its owners mapped"), "{refused}");
        }
        unmount(&image).expect("unmount");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&scratch.display().to_string()), "layers stay mounted no longer than it takes");
}

async fn shared_processes(node: &Node) {
    node.runtime.create_sandbox(&pod("shared", true)).await.expect("sandbox");
    let (first, log) = output(node, node.spec("shared", "grep -h -E 'Name|NoNewPrivs|Uid' /proc/1/status; cat /proc/1/environ; echo /proc/1/root/*; echo end")).await;
    assert!(first == 0 && log.contains("NoNewPrivs:\t1") && log.contains("Uid:\t65535"), "{log}");
    let mut debug = node.spec("shared", "busybox ps; echo end");
    let seen = node.run(&node.spec("shared", "exec sleep 4321")).await;
    debug.security.add_capabilities = vec!["SYS_PTRACE".to_owned()];
    let (_, log) = output(node, debug).await;
    assert!(log.contains("sleep 4321") && log.contains("F end"), "they see each other: {log}");
    node.runtime.stop_container(&seen, None, std::time::Duration::ZERO).await.expect("stop");
    node.runtime.remove_sandbox("shared").await.expect("remove");
}

async fn ids_that_the_pod_does_not_have(node: &Node) {
    let mut spec = node.spec("one", "id");
    spec.security.run_as_user = Some(70_000);
    let refused = node.runtime.create_container(&spec).await.expect_err("refused").to_string();
    assert_eq!(refused, "user 70000 is not in the pod's user namespace, which has 65536 ids");
    spec.security.run_as_user = Some(1);
    spec.security.supplemental_groups = vec![65_536];
    let refused = node.runtime.create_container(&spec).await.expect_err("refused").to_string();
    assert_eq!(refused, "group 65536 is not in the pod's user namespace, which has 65536 ids");
    // What is never shown with other owners is not shown at all.
    let mut spec = node.spec("one", "id");
    spec.mounts = vec![mount(Path::new("/proc"), "/host/proc", false)];
    let id = node.runtime.create_container(&spec).await.expect("create");
    let refused = node.runtime.start_container(&id).await.expect_err("refused").to_string();
    assert!(refused.contains("the file system cannot have its owners mapped: /proc"), "{refused}");
    let mut hosts = pod("hosts", false);
    hosts.host_ipc = true;
    let refused = node.runtime.create_sandbox(&hosts).await.expect_err("refused").to_string();
    assert!(refused.contains("namespaces of the host are not for a pod with users of its own"), "{refused}");
}

async fn ranges_are_kept_and_given_back(node: &Node, ranges: &[IdRange; 2]) {
    let ids = |runtime: &Runtime, uid: &str| {
        let all = runtime.sandboxes();
        all.iter()
            .find(|sandbox| sandbox.pod_uid == uid)
            .and_then(|sandbox| sandbox.users.clone())
            .map(|(_, ids)| ids)
    };
    let running = node.run(&node.spec("one", "exec sleep 1000")).await;
    // What a kubelet killed with -9 leaves to its successor.
    let next = Runtime::open(node.config.clone()).await.expect("the next run");
    assert_eq!([ids(&next, "one"), ids(&next, "two")], ranges.map(Some));
    let done = next.exec_sync(&running, &["id".to_owned(), "-u".to_owned()], PATIENCE).await.expect("exec");
    assert_eq!(String::from_utf8_lossy(&done.output).trim(), "0");
    let claim = async |uid: &str| {
        let made = next.create_sandbox(&pod(uid, false)).await.expect("sandbox");
        made.users.expect("users").1.first
    };
    let third = claim("three").await;
    assert!(!ranges.iter().any(|range| range.first == third), "those of a former run's pods are taken");
    // The end of a pod, and the end of all its containers, give them back.
    next.remove_sandbox("two").await.expect("remove");
    assert_eq!(claim("four").await, ranges[1].first);
    next.release_users("three").await.expect("release");
    assert_eq!(claim("five").await, third);
    let after = Runtime::open(node.config.clone()).await.expect("one more run");
    assert_eq!((ids(&after, "three"), ids(&after, "five").map(|range| range.first)), (None, Some(third)));
}

/// The pod's root is nobody on the host, and must be able to go to its files.
async fn a_directory_that_nobody_may_enter_is_told() {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).expect("chmod");
    let node = Node::open(dir.path(), &format!("{}-closed", own_cgroup())).await;
    let why = node.runtime.no_users().expect("a reason");
    assert!(why.contains(&dir.path().display().to_string()) && why.contains("Permission denied"), "{why}");
    node.purge().await;
}
