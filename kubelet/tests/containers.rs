//! Containers end to end, as root: import, run, log, exec, exit codes, OOM, re-adoption. Needs Debian's busybox-static.
//!
//! The test program is its own shim: run with `shim` as first argument it never becomes a test.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_kubelet::cri::{
    ContainerSpec, ContainerState, ExecSpec, Qos, Resources, RuntimeError, SandboxSpec, Security,
};
use coracle_kubelet::images::{Images, ImagesConfig};
use coracle_kubelet::runtime::{Runtime, RuntimeConfig, purge};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

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
    let runtime = tokio::runtime::Runtime::new().expect("a tokio runtime");
    runtime.block_on(all());
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
    let busybox = std::fs::read(BUSYBOX).expect("busybox");
    for name in ["sh", "cat", "echo", "id", "sleep", "tail", "unshare", "grep", "tty", "mkdir"] {
        add(&format!("bin/{name}"), 0o755, &busybox);
    }
    add("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n");
    add("etc/group", 0o644, b"root:x:0:\nweb:x:44:\nextra:x:55:web\n");
    add("tmp/here", 0o644, b"");
    let layer = layer.into_inner().expect("tar");
    let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh", "-c", "echo default"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["busybox:test"], "Layers": ["layer.tar"]}]);
    let path = dir.join("busybox.tar");
    let mut out = tar::Builder::new(std::fs::File::create(&path).expect("archive"));
    for (name, bytes) in
        [("layer.tar", layer), ("config.json", config.to_string().into_bytes()), ("manifest.json", manifest.to_string().into_bytes())]
    {
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
    dir: tempfile::TempDir,
    config: RuntimeConfig,
    runtime: Runtime,
    image_id: String,
}

impl Node {
    async fn start() -> Node {
        let dir = tempfile::tempdir().expect("temp dir");
        let images = Images::open(ImagesConfig { dir: dir.path().join("images"), ..ImagesConfig::default() }).await.expect("images");
        let imported = images.import(&archive(dir.path()), None).await.expect("import");
        assert_eq!(imported[0].tags, ["docker.io/library/busybox:test"]);
        let config = RuntimeConfig {
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            cgroup_root: format!("/coracle-test-{}", std::process::id()),
            shim_command: vec!["/proc/self/exe".into(), "shim".into()],
            seccomp_dir: dir.path().join("seccomp"),
            images,
        };
        let runtime = Runtime::open(config.clone()).await.expect("runtime");
        Node { dir, config, runtime, image_id: imported[0].id.clone() }
    }

    async fn pod(&self, uid: &str) {
        let spec = SandboxSpec {
            pod_uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: uid.to_owned(),
            hostname: uid.to_owned(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_pid: false,
            sysctls: Vec::new(),
            resources: Resources::default(),
            qos: Qos::BestEffort,
        };
        self.runtime.create_sandbox(&spec).await.expect("sandbox");
    }

    fn spec(&self, uid: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            pod_uid: uid.to_owned(),
            pod_namespace: "default".to_owned(),
            pod_name: uid.to_owned(),
            name: "main".to_owned(),
            attempt: 0,
            init: false,
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
            log_path: self.dir.path().join("0.log"),
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

async fn all() {
    let node = Node::start().await;
    let runtime = &node.runtime;
    node.pod("one").await;

    let begun = Instant::now();
    let id = node.run(&node.spec("one", "echo $GREETING $FROM; pwd; grep Seccomp: /proc/self/status; echo bad >&2; exit 7")).await;
    println!("create to running: {:?}", begun.elapsed());
    assert_eq!(end(runtime, &id).await, (7, false));
    let log = std::fs::read_to_string(node.dir.path().join("0.log")).expect("log");
    for want in ["stdout F hello image", "stdout F /made/here", "stdout F Seccomp:\t2", "stderr F bad"] {
        assert!(log.contains(want), "{want:?} is missing in:\n{log}");
    }

    let missing = ContainerSpec { command: vec!["nosuch".to_owned()], ..node.spec("one", "") };
    let id = runtime.create_container(&missing).await.expect("create");
    let error = runtime.start_container(&id).await.expect_err("must not start").to_string();
    assert!(error.ends_with("exec: \"nosuch\": executable file not found in $PATH"), "{error}");

    let id = node.run(&node.spec("one", "trap 'exit 3' TERM; while :; do sleep 0.1; done")).await;
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let output = runtime.exec_sync(&id, &words("grep Seccomp: /proc/self/status"), PATIENCE).await.expect("exec");
    assert_eq!((output.code, String::from_utf8_lossy(&output.output).trim()), (0, "Seccomp:\t2"), "exec keeps the filter");
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

    let mut user = node.spec("one", "id; cat /proc/self/status | grep CapEff");
    user.security.run_as_user = Some(33);
    user.log_path = node.dir.path().join("user.log");
    let id = node.run(&user).await;
    end(runtime, &id).await;
    let log = std::fs::read_to_string(&user.log_path).expect("log");
    assert!(log.contains("uid=33(web) gid=44(web) groups=44(web),55(extra)"), "{log}");

    let mut hungry = node.spec("one", "tail /dev/zero");
    hungry.resources.memory_limit = Some(16 << 20);
    let id = node.run(&hungry).await;
    assert_eq!(end(runtime, &id).await, (137, true), "the OOM killer is recorded");

    runtime.remove_sandbox("one").await.expect("remove");
    assert!(runtime.containers().is_empty());

    node.pod("many").await;
    let begun = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(node.run(&node.spec("many", "sleep 1000")).await);
    }
    println!("ten in a row: {:?} each", begun.elapsed() / 10);
    purge(&node.config.state_dir, &node.config.run_dir, &node.config.cgroup_root).await.expect("purge");
    assert!(!node.config.run_dir.exists() && !Path::new("/sys/fs/cgroup/memory").join(&node.config.cgroup_root[1..]).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&node.dir.path().display().to_string()), "no mount is left");
    println!("containers: all passed");
}
