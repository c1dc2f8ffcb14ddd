//! Containers end to end, as root: import, run, log, exec, exit codes, OOM, re-adoption. Needs Debian's busybox-static.
//!
//! The test program is its own shim: run with `shim` as first argument it never becomes a test.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_api::resources::QosClass;
use coracle_kubelet::beneath::Dir;
use coracle_kubelet::cri::{
    ContainerSpec, ContainerState, ExecSpec, Mount, Propagation, Resources, RuntimeError, SandboxSpec,
    Security,
};
use coracle_kubelet::images::{Images, ImagesConfig};
use coracle_kubelet::runtime::{Runtime, RuntimeConfig, purge};
use coracle_kubelet::volumes::atomic;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

#[path = "containers/attach.rs"]
mod attach;
#[path = "containers/groups.rs"]
mod groups;
#[path = "containers/hostile.rs"]
mod hostile;
#[path = "containers/users.rs"]
mod users;

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "shim") {
        std::process::exit(coracle_kubelet::shim::main(&args[1..]));
    }
    if !nix::unistd::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        println!("skipped: containers need root and busybox-static");
        return;
    }
    let part = args.first().and_then(|arg| arg.to_str());
    match part {
        Some("enter-own-groups") => groups::enter_own_groups(args[1].to_str().expect("a name"), &args[2]),
        Some("forbid-groups") => groups::forbid_groups(&args[2]),
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime");
    match part {
        Some("own-groups") => runtime.block_on(groups::in_own_groups(Path::new(&args[1]))),
        Some("no-groups") => runtime.block_on(groups::without_groups(Path::new(&args[1]))),
        Some("client") => runtime.block_on(client(Path::new(&args[1]), args[2].to_str().expect("a cgroup"))),
        Some("users") => runtime.block_on(users::all()),
        Some("bench") => runtime.block_on(bench()),
        Some("groups") => runtime.block_on(async {
            let dir = tempfile::tempdir().expect("temp dir");
            let node = Node::open(dir.path(), &own_cgroup()).await;
            groups::all(&node).await;
            node.purge().await;
        }),
        _ => runtime.block_on(async {
            all().await;
            survives_its_client().await;
            println!("containers: all passed");
        }),
    }
}

/// A link of the image; the tests have it lead to what the image does not have.
fn link(layer: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    layer.append_link(&mut header, path, target).expect("append");
}

/// A docker-archive with busybox and two accounts.
fn archive(dir: &Path) -> PathBuf {
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        layer.append_data(&mut header, path, bytes).expect("append");
    };
    add("bin/busybox", 0o755, &std::fs::read(BUSYBOX).expect("busybox"));
    add("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n");
    add("etc/group", 0o644, b"root:x:0:\nweb:x:44:\nextra:x:55:web\n");
    add("tmp/here", 0o644, b"");
    for name in
        ["sh", "cat", "echo", "id", "sleep", "tail", "unshare", "grep", "tty", "mkdir", "test", "mknod"]
    {
        link(&mut layer, &format!("bin/{name}"), "busybox");
    }
    link(&mut layer, "var/run", "/run");
    link(&mut layer, "etc/resolv.conf", "../run/resolve/stub.conf");
    let layer = layer.into_inner().expect("tar");
    let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh", "-c", "echo default"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["busybox:test"], "Layers": ["layer.tar"]}]);
    let path = dir.join("busybox.tar");
    let mut out = tar::Builder::new(std::fs::File::create(&path).expect("archive"));
    for (name, bytes) in [
        ("layer.tar", layer),
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        out.append_data(&mut header, name, &bytes[..]).expect("append");
    }
    out.finish().expect("finish");
    path
}

struct Node {
    dir: PathBuf,
    config: RuntimeConfig,
    runtime: Runtime,
    image_id: String,
}

impl Node {
    async fn open(dir: &Path, cgroup_root: &str) -> Node {
        let images = Images::open(ImagesConfig { dir: dir.join("images"), ..ImagesConfig::default() })
            .await
            .expect("images");
        let imported = images.import(&archive(dir), None).await.expect("import");
        assert_eq!(imported[0].tags, ["docker.io/library/busybox:test"]);
        let config = RuntimeConfig {
            state_dir: dir.join("state"),
            run_dir: dir.join("run"),
            cgroup_root: cgroup_root.to_owned(),
            shim_arguments: vec!["shim".into()],
            seccomp_dir: dir.join("seccomp"),
            images,
            max_pods: 110,
        };
        let runtime = Runtime::open(config.clone()).await.expect("runtime");
        Node { dir: dir.to_owned(), config, runtime, image_id: imported[0].id.clone() }
    }

    /// Removes everything and checks that nothing is left.
    async fn purge(&self) {
        purge(&self.config.state_dir, &self.config.run_dir, &self.config.cgroup_root).await.expect("purge");
        assert!(!self.config.run_dir.exists(), "no directory is left");
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/devices"] {
            let cgroup = Path::new(root).join(&self.config.cgroup_root[1..]);
            assert!(!cgroup.exists(), "{} is left", cgroup.display());
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(&self.dir.display().to_string()), "no mount is left");
    }

    async fn pod(&self, uid: &str, share_pid: bool) {
        self.runtime.create_sandbox(&Self::sandbox(uid, share_pid)).await.expect("sandbox");
    }

    fn sandbox(uid: &str, share_pid: bool) -> SandboxSpec {
        SandboxSpec {
            pod_uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: uid.to_owned(),
            hostname: uid.to_owned(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_pid,
            own_users: false,
            sysctls: Vec::new(),
            resources: Resources::default(),
            qos: QosClass::BestEffort,
        }
    }

    fn spec(&self, uid: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            pod_uid: uid.to_owned(),
            pod_namespace: "default".to_owned(),
            pod_name: uid.to_owned(),
            name: "main".to_owned(),
            attempt: 0,
            init: false,
            target: None,
            image_id: self.image_id.clone(),
            image: "busybox:test".to_owned(),
            command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            args: Vec::new(),
            env: vec![("GREETING".to_owned(), "hello".to_owned())],
            working_dir: "/made/here".to_owned(),
            mounts: Vec::new(),
            tty: false,
            stdin: false,
            stdin_once: false,
            security: Security::default(),
            resources: Resources::default(),
            log_root: self.dir.clone(),
            log_path: "0.log".into(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            hostname: uid.to_owned(),
        }
    }

    async fn run(&self, spec: &ContainerSpec) -> String {
        let id = self.runtime.create_container(spec).await.expect("create");
        self.runtime.start_container(&id).await.expect("start");
        id
    }
}

async fn end(runtime: &Runtime, id: &str) -> (i32, bool) {
    let mut events = runtime.events();
    let wait = async {
        loop {
            match runtime.container(id).expect("container").state {
                ContainerState::Exited { code, oom, .. } => return (code, oom),
                _ => drop(events.recv().await),
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the container must end")
}

fn own_cgroup() -> String {
    format!("/coracle-test-{}", std::process::id())
}

/// A client that is killed: makes a pod with a container, tells its id, and waits for its end.
async fn client(dir: &Path, cgroup_root: &str) {
    let node = Node::open(dir, cgroup_root).await;
    node.pod("killed", false).await;
    let script = "trap 'echo bye; exit 42' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done";
    println!("{}", node.run(&node.spec("killed", script)).await);
    std::future::pending::<()>().await;
}

async fn survives_its_client() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut client = tokio::process::Command::new("/proc/self/exe")
        .args(["client".as_ref(), dir.path(), Path::new(&own_cgroup())])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("client");
    let mut lines = tokio::io::BufReader::new(client.stdout.take().expect("stdout")).lines();
    let id = lines.next_line().await.expect("line").expect("id");
    // A creation that is cut off leaves such directories.
    std::fs::create_dir_all(dir.path().join("run/pods/cut-off")).expect("mkdir");
    std::fs::create_dir_all(dir.path().join("run/c/cut-off/rootfs")).expect("mkdir");
    client.kill().await.expect("kill -9");
    for closed in [format!("run/c/{}", &id[..24]), format!("state/containers/{id}"), "images".to_owned()] {
        let mode = std::fs::metadata(dir.path().join(&closed)).expect("directory").permissions().mode();
        assert_eq!(
            mode & 0o7777,
            0o700,
            "{closed}: an image's setuid files are not for this machine's users"
        );
    }
    let node = Node::open(dir.path(), &own_cgroup()).await;
    assert!(
        !dir.path().join("run/pods/cut-off").exists() && !dir.path().join("run/c/cut-off").exists(),
        "leftovers are swept"
    );
    let state = node.runtime.container(&id).expect("adopted").state;
    let ContainerState::Running { pid, .. } = state else { panic!("must be running: {state:?}") };
    let cgroup = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    assert!(cgroup(pid).contains("/podkilled/"), "the container is in the pod's cgroup");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let shim: i32 =
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).expect("PPid");
    assert!(
        cgroup(shim).contains(&format!("{}/shims", own_cgroup())),
        "the shim is not in the kubelet's cgroup"
    );
    let log = || std::fs::read_to_string(dir.path().join("0.log")).expect("log").lines().count();
    let (before, begun) = (log(), Instant::now());
    while log() == before {
        assert!(begun.elapsed() < PATIENCE, "the log goes on without the client");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.runtime.stop_container(&id, Some(15), PATIENCE).await.expect("stop");
    assert_eq!(end(&node.runtime, &id).await.0, 42, "the exit code is not lost");
    assert!(std::fs::read_to_string(dir.path().join("0.log")).expect("log").contains("stdout F bye"));
    // A shim that is killed takes its container with it.
    let id = node.run(&node.spec("killed", "sleep 1000")).await;
    let ContainerState::Running { pid, .. } = node.runtime.container(&id).expect("container").state else {
        panic!("running")
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let shim: i32 =
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).expect("PPid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)
        .expect("kill the shim");
    let mut events = node.runtime.events();
    while node.runtime.container(&id).expect("container").state != ContainerState::Unknown {
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event").expect("an event");
    }
    node.runtime.remove_sandbox("killed").await.expect("remove");
    let left = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(left.is_empty() || left.contains(") Z "), "no process outlives its pod: {left}");
    node.purge().await;
}

/// `containers bench`: how long one takes, and sixty pods at once.
async fn bench() {
    let dir = tempfile::tempdir().expect("temp dir");
    let node = Node::open(dir.path(), &own_cgroup()).await;
    for index in 0..5 {
        let uid = format!("single{index}");
        let begun = Instant::now();
        node.pod(&uid, false).await;
        let sandbox = begun.elapsed();
        let id = node.runtime.create_container(&node.spec(&uid, "sleep 1000")).await.expect("create");
        let created = begun.elapsed();
        node.runtime.start_container(&id).await.expect("start");
        println!(
            "sandbox {sandbox:?}, create {:?}, start {:?}",
            created - sandbox,
            begun.elapsed() - created
        );
    }
    let begun = Instant::now();
    let pods = (0..60).map(|index| {
        let (node, uid) = (&node, format!("pod{index}"));
        async move {
            node.pod(&uid, false).await;
            node.run(&node.spec(&uid, "sleep 1000")).await
        }
    });
    futures::future::join_all(pods).await;
    println!("sixty pods: {:?}, {:.0} a second", begun.elapsed(), 60.0 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    futures::future::join_all((0..60).map(|index| {
        let (node, uid) = (&node, format!("pod{index}"));
        async move { node.runtime.remove_sandbox(&uid).await.expect("remove") }
    }))
    .await;
    println!("sixty removed: {:?}", begun.elapsed());
    node.purge().await;
}

fn mount(host: &Path, container: &str, readonly: bool) -> Mount {
    Mount {
        host_path: host.to_owned(),
        container_path: container.into(),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::None,
        mapped: false,
    }
}

/// Mounts go where links of the image lead to, though nothing is there yet, and never out of it.
async fn dangling_links(node: &Node) {
    let volume = node.dir.join("token");
    std::fs::create_dir(&volume).expect("mkdir");
    std::fs::write(volume.join("file"), "token\n").expect("write");
    std::fs::write(node.dir.join("resolv"), "nameserver\n").expect("write");
    let mut spec = node
        .spec("hostile", "cat /var/run/secrets/deep/file /etc/resolv.conf; echo x >/run/secrets/deep/new");
    spec.mounts = vec![
        mount(&volume, "/var/run/secrets/deep", true),
        mount(&node.dir.join("resolv"), "/etc/resolv.conf", false),
    ];
    spec.log_path = "dangling.log".into();
    let id = node.run(&spec).await;
    assert_ne!(end(&node.runtime, &id).await.0, 0, "the volume is read-only");
    let log = std::fs::read_to_string(node.dir.join("dangling.log")).expect("log");
    assert!(
        log.contains("F token") && log.contains("F nameserver") && log.contains("Read-only file system"),
        "{log}"
    );
    assert!(!Path::new("/run/secrets/deep").exists());
}

/// CVE-2024-21626: a working directory that is a descriptor of the runtime's.
async fn foreign_working_directories(node: &Node) {
    for number in 3..16 {
        let mut spec = node.spec("hostile", "cat ../../../../../../../proc/1/comm /marker");
        spec.working_dir = format!("/proc/self/fd/{number}");
        spec.log_path = format!("cwd{number}.log").into();
        let id = node.runtime.create_container(&spec).await.expect("create");
        if node.runtime.start_container(&id).await.is_ok() {
            end(&node.runtime, &id).await;
            let log = std::fs::read_to_string(node.dir.join(&spec.log_path)).expect("log");
            // Its own first process is the shell; the host's is another.
            assert!(log.contains("F sh\n") || log.contains("F cat\n"), "{number}: {log}");
        }
    }
}

/// The worst case: a user of a container has the directory of a volume's files writable, and plants there without an end
/// what could lead an update astray.
async fn planted_volume(node: &Node) {
    let (volume, outside) = (node.dir.join("volume"), node.dir.join("outside"));
    for dir in [&volume, &outside] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    std::fs::write(outside.join("a"), "theirs").expect("write");
    let payload = |text: &str| {
        let file = atomic::File { data: text.into(), mode: 0o644, owner: None };
        atomic::Payload::from([("a".to_owned(), file)])
    };
    let handle = Dir::open(&volume).expect("volume");
    let update = |text: &str| {
        let begun = Instant::now();
        // It may fail, for somebody is in its way; it must not do anything else, nor wait.
        let done = atomic::write(&handle, &payload(text), None, &atomic::stamp(jiff::Timestamp::now()));
        assert!(begun.elapsed() < Duration::from_secs(5), "an update does not wait");
        done.is_ok()
    };
    assert!(update("first"));
    std::os::unix::fs::chown(&volume, Some(1000), Some(1000)).expect("chown");
    let outside_name = outside.display();
    let script = format!(
        "cd /volume; b=busybox; echo begun; while :; do \
         $b rm -rf ..data ..data_tmp; $b ln -s {outside_name} ..data; $b ln -s {outside_name} ..data_tmp; \
         for d in ..2*; do $b mv $d moved; $b ln -s {outside_name} $d; $b rm -rf $d moved; done; \
         $b mkfifo ..data_tmp; $b mkdir ..data; $b rm -rf a; $b mkfifo a; $b truncate -s 10G big; $b mknod null c 1 3; \
         done 2>/dev/null"
    );
    let mut spec = node.spec("hostile", &script);
    spec.security.run_as_user = Some(1000);
    spec.mounts = vec![mount(&volume, "/volume", false)];
    spec.log_path = "planted.log".into();
    let id = node.run(&spec).await;
    let log = node.dir.join("planted.log");
    while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains("F begun")) {
        tokio::task::yield_now().await;
    }
    tokio::task::block_in_place(|| {
        for number in 0..500 {
            update(&number.to_string());
        }
    });
    node.runtime.stop_container(&id, None, Duration::ZERO).await.expect("stop");
    assert_eq!(std::fs::read_to_string(outside.join("a")).expect("read"), "theirs");
    assert_eq!(
        std::fs::read_dir(&outside).expect("outside").count(),
        1,
        "nothing was made or removed outside"
    );
    let planted = std::fs::metadata(volume.join("big")).expect("the container has planted").len();
    assert_eq!(planted, 10 << 30);
    handle.clear().expect("what is left is removed");
    assert!(update("last") && std::fs::read_to_string(volume.join("a")).expect("read") == "last");
    assert_eq!(std::fs::read_dir(&outside).expect("outside").count(), 1);
}

async fn all() {
    let dir = tempfile::tempdir().expect("temp dir");
    let node = Node::open(dir.path(), &own_cgroup()).await;
    let runtime = &node.runtime;
    node.pod("one", false).await;

    let begun = Instant::now();
    let id = node
        .run(
            &node.spec(
                "one",
                "echo $GREETING $FROM; pwd; grep Seccomp: /proc/self/status; echo bad >&2; exit 7",
            ),
        )
        .await;
    println!("create to running: {:?}", begun.elapsed());
    assert_eq!(end(runtime, &id).await, (7, false));
    let log = std::fs::read_to_string(node.dir.join("0.log")).expect("log");
    for want in ["stdout F hello image", "stdout F /made/here", "stdout F Seccomp:\t2", "stderr F bad"] {
        assert!(log.contains(want), "{want:?} is missing in:\n{log}");
    }

    let missing = ContainerSpec { command: vec!["nosuch".to_owned()], ..node.spec("one", "") };
    let id = runtime.create_container(&missing).await.expect("create");
    let error = runtime.start_container(&id).await.expect_err("must not start").to_string();
    assert!(error.ends_with("exec: \"nosuch\": executable file not found in $PATH"), "{error}");

    let id = node.run(&node.spec("one", "trap 'exit 3' TERM; while :; do sleep 0.1; done")).await;
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let output =
        runtime.exec_sync(&id, &words("grep Seccomp: /proc/self/status"), PATIENCE).await.expect("exec");
    assert_eq!(
        (output.code, String::from_utf8_lossy(&output.output).trim()),
        (0, "Seccomp:\t2"),
        "exec keeps the filter"
    );
    assert_ne!(runtime.exec_sync(&id, &words("unshare -m true"), PATIENCE).await.expect("exec").code, 0);
    let refused = runtime.exec_sync(&id, &words("nosuch"), PATIENCE).await;
    assert!(matches!(refused, Err(RuntimeError::ExecFailed { code: 127, .. })), "{refused:?}");
    let slow = runtime.exec_sync(&id, &words("sleep 100"), Duration::from_millis(300)).await;
    assert!(matches!(slow, Err(RuntimeError::TimedOut(_))), "{slow:?}");
    let spec = ExecSpec { command: words("tty"), tty: true, stdout: true, ..ExecSpec::default() };
    let mut session = runtime.exec(&id, &spec).await.expect("exec with a terminal");
    let mut text = String::new();
    session.stdio.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
    assert_eq!((text.trim(), session.wait().await.expect("exit")), ("/dev/pts/0", 0));

    // A new runtime over the same directories is what a kubelet killed with -9 leaves to its successor.
    let again = Runtime::open(node.config.clone()).await.expect("re-adopt");
    let state = again.container(&id).expect("adopted").state;
    assert!(matches!(state, ContainerState::Running { .. }), "{state:?}");
    again.stop_container(&id, None, PATIENCE).await.expect("stop");
    assert_eq!(end(&again, &id).await.0, 3, "SIGTERM is trapped");

    // Whichever way the filter is loaded: it forbids new namespaces, also by clone's flags, and capabilities are gone.
    for calm in [None, Some(false)] {
        let script = "grep -E 'Seccomp:|CapPrm|CapEff|CapBnd|NoNewPrivs' /proc/self/status; unshare -U true; unshare -m true; echo end";
        let mut confined = node.spec("one", script);
        confined.security.allow_privilege_escalation = calm;
        confined.log_path = "confined.log".into();
        let id = node.run(&confined).await;
        end(runtime, &id).await;
        let log = std::fs::read_to_string(node.dir.join(&confined.log_path)).expect("log");
        std::fs::remove_file(node.dir.join(&confined.log_path)).expect("remove");
        let expected = [
            "CapPrm:\t00000000a80425fb",
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "Seccomp:\t2",
        ];
        let refused = log.matches("Operation not permitted").count();
        assert!(
            expected.iter().all(|line| log.contains(line)) && refused == 2 && log.contains("F end"),
            "{log}"
        );
        assert_eq!(log.contains("NoNewPrivs:\t1"), calm.is_some(), "{log}");
    }

    let mut user = node.spec("one", "id; cat /proc/self/status | grep CapEff");
    user.security.run_as_user = Some(33);
    user.log_path = "user.log".into();
    let id = node.run(&user).await;
    end(runtime, &id).await;
    let log = std::fs::read_to_string(node.dir.join(&user.log_path)).expect("log");
    assert!(log.contains("uid=33(web) gid=44(web) groups=44(web),55(extra)"), "{log}");

    let mut hungry = node.spec("one", "tail /dev/zero");
    hungry.resources.memory_limit = Some(16 << 20);
    let id = node.run(&hungry).await;
    assert_eq!(end(runtime, &id).await, (137, true), "the OOM killer is recorded");

    let mut privileged = node.spec("one", "test -c /dev/kmsg && mkdir /mnt && echo devices");
    privileged.security.privileged = true;
    privileged.log_path = "privileged.log".into();
    let id = node.run(&privileged).await;
    assert_eq!(end(runtime, &id).await.0, 0, "a privileged container has the host's devices");

    node.pod("shared", true).await;
    let mut shared = node.spec(
        "shared",
        "id -u; for i in 1 2 3 4 5 6 7 8 9; do grep -h -E 'Name|Seccomp:|NoNewPrivs' /proc/$i/status; done",
    );
    shared.log_path = "shared.log".into();
    let id = node.run(&shared).await;
    end(runtime, &id).await;
    let log = std::fs::read_to_string(node.dir.join(&shared.log_path)).expect("log");
    assert!(
        log.matches("NoNewPrivs:\t1").count() >= 1 && log.contains("Name:\tsh"),
        "pause and program share their processes: {log}"
    );
    runtime.remove_sandbox("shared").await.expect("remove");

    let mut own = node.spec("one", "echo mine >/dev/stdout");
    own.security.run_as_user = Some(1234);
    own.log_path = "own.log".into();
    let id = node.run(&own).await;
    assert_eq!(end(runtime, &id).await.0, 0, "a user may open his container's /dev/stdout");

    runtime.remove_sandbox("one").await.expect("remove");
    assert!(runtime.containers().is_empty());

    node.pod("hostile", false).await;
    dangling_links(&node).await;
    foreign_working_directories(&node).await;
    planted_volume(&node).await;
    runtime.remove_sandbox("hostile").await.expect("remove");
    hostile::all(&node).await;
    attach::all(&node).await;
    groups::all(&node).await;
    users::all().await;

    node.pod("many", false).await;
    let begun = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(node.run(&node.spec("many", "sleep 1000")).await);
    }
    println!("ten in a row: {:?} each", begun.elapsed() / 10);
    node.purge().await;
}
