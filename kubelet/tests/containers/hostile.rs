//! What containers try and must not get, and containers that are not as asked: these never run.

use std::time::{Duration, Instant};

use coracle_api::resources::QosClass;
use coracle_kubelet::cri::{ContainerSpec, ContainerState, Resources, RuntimeError, SandboxSpec};
use serde_json::{Value, json};

use super::{Node, PATIENCE, end};

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Runs a script to its end, and returns what it wrote.
async fn output(node: &Node, mut spec: ContainerSpec) -> String {
    spec.log_path = "hostile.log".into();
    let log_file = node.dir.join(&spec.log_path);
    let id = node.run(&spec).await;
    end(&node.runtime, &id).await;
    let log = std::fs::read_to_string(&log_file).expect("log");
    std::fs::remove_file(&log_file).expect("remove");
    node.runtime.remove_container(&id).await.expect("remove");
    log
}

pub(crate) async fn all(node: &Node) {
    nothing_of_the_host_behind_the_pause(node).await;
    devices_of_others_do_not_open(node).await;
    what_differs_never_runs(node).await;
    a_stopped_exec_holds_nothing_up(node).await;
    processes_of_a_target_are_seen(node).await;
    scores_and_limits(node).await;
    classes_have_what_their_pods_asked_for(node).await;
    println!("hostile containers: all refused");
}

/// CVE-2019-5736's and CVE-2024-21626's kind: the way out through a process that is not of the container.
async fn nothing_of_the_host_behind_the_pause(node: &Node) {
    node.pod("nosy", true).await;
    let mut nosy =
        node.spec("nosy", "echo /proc/1/root/* /proc/1/root/.[a-z]*; echo x >/proc/1/exe; echo end");
    nosy.security.add_capabilities = vec!["SYS_PTRACE".to_owned()];
    let log = output(node, nosy).await;
    assert!(log.contains("F /proc/1/root/* /proc/1/root/.[a-z]*"), "the pause has an empty root: {log}");
    // Where there is AppArmor, not even that can be tried.
    let refused = ["Read-only file system", "Permission denied"].iter().any(|words| log.contains(words));
    assert!(refused, "its program cannot be written to: {log}");
    // Without that capability it is not even looked at, though a process of its own uid asks.
    let mut same = node.spec("nosy", "echo /proc/1/root/*; cat /proc/1/environ; echo end");
    same.security.run_as_user = Some(65535);
    let log = output(node, same).await;
    assert!(log.contains("Permission denied") && log.contains("F end"), "{log}");
    node.runtime.remove_sandbox("nosy").await.expect("remove");
}

async fn devices_of_others_do_not_open(node: &Node) {
    node.pod("devices", false).await;
    let disks = std::fs::read_to_string("/proc/partitions").expect("partitions");
    let mut numbers = disks.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?))
    });
    let (major, minor) = numbers.next_back().unwrap_or((7, 0));
    let script = format!(
        "mknod /disk b {major} {minor} && cat /disk; mknod /tun c 10 200 && cat /tun; \
         mknod /null c 1 3 && cat /null && echo null; echo end"
    );
    let log = output(node, node.spec("devices", &script)).await;
    for name in ["/disk", "/tun"] {
        let refused = format!("{name}: Operation not permitted");
        let refused_too = format!("'{name}': Operation not permitted");
        assert!(log.contains(&refused) || log.contains(&refused_too), "{name}: {log}");
    }
    assert!(log.contains("F null"), "its own may be used: {log}");
    let mut privileged = node.spec("devices", "mknod /tun c 10 200 && : </tun; echo end");
    privileged.security.privileged = true;
    let log = output(node, privileged).await;
    assert!(log.contains("F end") && !log.contains("not permitted"), "a privileged one may all: {log}");
    node.runtime.remove_sandbox("devices").await.expect("remove");
}

/// What the library does not do as its configuration says: known defects, and whatever comes.
async fn what_differs_never_runs(node: &Node) {
    node.pod("differs", false).await;
    let hybrid = !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let change = |oci: &mut Value| {
        let mounts = oci["mounts"].as_array_mut().expect("mounts");
        if hybrid {
            // Hierarchies of version 1 are mounted writable, whatever is said.
            mounts
                .push(json!({"destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
        } else {
            // Of a mount on a mount only the upper one can be as asked.
            mounts.push(
                json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs", "options": ["rw"]}),
            );
        }
    };
    let mut spec = node.spec("differs", "echo ran");
    spec.log_path = "differs.log".into();
    let id = node.runtime.create_container(&spec).await.expect("create");
    let file = node.config.state_dir.join("containers").join(&id).join("config.json");
    let mut oci: Value = serde_json::from_slice(&std::fs::read(&file).expect("config")).expect("json");
    change(&mut oci);
    std::fs::write(&file, oci.to_string()).expect("write");
    let refused = node.runtime.start_container(&id).await;
    if hybrid {
        let error = refused.expect_err("must not start").to_string();
        assert!(error.contains("the container is not confined as asked: /cg"), "{error}");
        let log = std::fs::read_to_string(node.dir.join(&spec.log_path)).unwrap_or_default();
        assert!(!log.contains("ran"), "not one instruction of the program: {log}");
        let ContainerState::Exited { code, .. } = node.runtime.container(&id).expect("container").state
        else {
            panic!("it has ended")
        };
        assert_eq!(code, 128);
    }
    node.runtime.remove_sandbox("differs").await.expect("remove");
}

/// A container that stops whatever appears beside it.
async fn a_stopped_exec_holds_nothing_up(node: &Node) {
    node.pod("stops", false).await;
    let script = "while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; \
                  if [ $p != 1 ]; then kill -STOP $p 2>/dev/null; fi; done; done";
    let id = node.run(&node.spec("stops", script)).await;
    for round in 0..3 {
        let begun = Instant::now();
        let stuck = node.runtime.exec_sync(&id, &words("echo hi"), Duration::from_millis(500)).await;
        assert!(matches!(stuck, Err(RuntimeError::TimedOut(_)) | Ok(_)), "round {round}: {stuck:?}");
        assert!(begun.elapsed() < PATIENCE, "the shim answers");
    }
    let begun = Instant::now();
    node.runtime.stop_container(&id, Some(15), Duration::from_millis(100)).await.expect("stop");
    assert!(begun.elapsed() < PATIENCE, "it ends when told: {:?}", begun.elapsed());
    assert_eq!(end(&node.runtime, &id).await.0, 137);
    node.runtime.remove_sandbox("stops").await.expect("remove");
}

async fn processes_of_a_target_are_seen(node: &Node) {
    node.pod("debugged", false).await;
    let target = node.run(&node.spec("debugged", "exec sleep 1000")).await;
    for (wanted, sees) in [(Some(target.clone()), true), (None, false)] {
        let mut spec = node.spec("debugged", "cat /proc/1/cmdline; echo; echo end");
        spec.target = wanted;
        let log = output(node, spec).await;
        assert_eq!(log.contains("sleep"), sees, "{log}");
        assert!(log.contains("F end"), "{log}");
    }
    node.runtime.stop_container(&target, None, Duration::ZERO).await.expect("stop");
    let mut late = node.spec("debugged", "echo end");
    late.target = Some(target);
    let error = node.runtime.create_container(&late).await.expect_err("must not be made").to_string();
    assert!(error.contains("is not running"), "{error}");
    node.runtime.remove_sandbox("debugged").await.expect("remove");
}

async fn scores_and_limits(node: &Node) {
    node.pod("scores", false).await;
    let mut spec = node.spec("scores", "sleep 1000");
    spec.resources.oom_score_adj = 777;
    spec.resources.pids_limit = Some(20);
    spec.resources.cpu_shares = Some(102);
    spec.resources.memory_limit = Some(64 << 20);
    spec.resources.kill_together = true;
    let id = node.run(&spec).await;
    let ContainerState::Running { pid, .. } = node.runtime.container(&id).expect("container").state else {
        panic!("running")
    };
    let read = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("proc");
    let score = |pid: i32| read(pid, "oom_score_adj").trim().to_owned();
    let status = read(pid, "status");
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).expect("PPid");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert_eq!((score(pid), score(shim)), ("777".to_owned(), score(own)), "the shim keeps its own");
    let told = node.runtime.exec_sync(&id, &words("cat /proc/self/oom_score_adj"), PATIENCE).await;
    assert_eq!(
        String::from_utf8_lossy(&told.expect("exec").output).trim(),
        "777",
        "an exec is of the container"
    );
    let files = node.runtime.exec_sync(&id, &words("sh -c"), PATIENCE).await.map(|done| done.code);
    assert!(matches!(files, Ok(2)), "a shell without a script: {files:?}");
    let list: Vec<String> = ["sh", "-c", "echo /proc/self/fd/*"].map(str::to_owned).into();
    let open = node.runtime.exec_sync(&id, &list, PATIENCE).await.expect("exec").output;
    let open = String::from_utf8_lossy(&open).into_owned();
    assert!(!open.contains("/fd/4"), "none of the shim's files: {open}");
    if read(pid, "cgroup").contains("0::/")
        && std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    {
        let group = read(pid, "cgroup").trim().trim_start_matches("0::/").to_owned();
        let value = |file: &str| {
            std::fs::read_to_string(format!("/sys/fs/cgroup/{group}/{file}"))
                .expect("cgroup")
                .trim()
                .to_owned()
        };
        for (file, want) in
            [("cpu.weight", "17"), ("memory.oom.group", "1"), ("memory.swap.max", "0"), ("pids.max", "20")]
        {
            assert_eq!(value(file), want, "{file}");
        }
    }
    node.runtime.remove_sandbox("scores").await.expect("remove");
}

/// Guaranteed pods stand beside the classes; BestEffort ones get what is left.
async fn classes_have_what_their_pods_asked_for(node: &Node) {
    let root = &node.config.cgroup_root;
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let share = |group: &str| {
        let file = if unified {
            format!("/sys/fs/cgroup{root}{group}/cpu.weight")
        } else {
            format!("/sys/fs/cgroup/cpu{root}{group}/cpu.shares")
        };
        std::fs::read_to_string(file).expect("a class").trim().to_owned()
    };
    let pod = |uid: &str, shares: u64| SandboxSpec {
        qos: QosClass::Burstable,
        resources: Resources { cpu_shares: Some(shares), ..Resources::default() },
        ..Node::sandbox(uid, false)
    };
    let (least, half, whole) = if unified { ("1", "59", "100") } else { ("2", "512", "1024") };
    assert_eq!((share("/besteffort"), share("/burstable")), (least.to_owned(), least.to_owned()));
    for (uid, want) in [("half", half), ("other", whole)] {
        node.runtime.create_sandbox(&pod(uid, 512)).await.expect("sandbox");
        assert_eq!(share("/burstable"), want);
    }
    node.runtime.remove_sandbox("other").await.expect("remove");
    assert_eq!(share("/burstable"), half);
    // A resize counts, too.
    let more = Resources { cpu_shares: Some(1024), ..Resources::default() };
    node.runtime.update_pod_resources("half", &more).await.expect("resize");
    assert_eq!((share("/burstable"), share("/burstable/podhalf")), (whole.to_owned(), whole.to_owned()));
    node.runtime.remove_sandbox("half").await.expect("remove");
    assert_eq!(share("/burstable"), least);
    let all = Resources { memory_limit: Some(8 << 30), pids_limit: Some(10_000), ..Resources::default() };
    node.runtime.limit_pods(&all).await.expect("a ceiling");
}
