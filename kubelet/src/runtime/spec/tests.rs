//! What of a container's wishes ends up in its OCI configuration.

use super::*;
use crate::cri::{Resources, Security};

fn spec() -> ContainerSpec {
    ContainerSpec {
        pod_uid: "u".to_owned(),
        pod_namespace: "ns".to_owned(),
        pod_name: "pod".to_owned(),
        name: "main".to_owned(),
        attempt: 0,
        init: false,
        target: None,
        image_id: "sha256:0".to_owned(),
        image: "app:1".to_owned(),
        command: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        working_dir: String::new(),
        mounts: Vec::new(),
        tty: false,
        stdin: false,
        stdin_once: false,
        security: Security::default(),
        resources: Resources::default(),
        log_root: PathBuf::from("/logs"),
        log_path: PathBuf::from("log"),
        log_max_bytes: 0,
        log_max_files: 0,
        hostname: "host".to_owned(),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: words("/entry"),
        cmd: words("default args"),
        env: words("PATH=/image FROM=image"),
        working_dir: "/srv".to_owned(),
        ..ImageConfig::default()
    }
}

fn around() -> Surroundings {
    Surroundings {
        namespaces: vec![("mount", None), ("network", Some("/run/net".into()))],
        cgroup: "/kubepods/podu/c".to_owned(),
        rootfs: "/rootfs".into(),
        shm: Some("/pod/shm".into()),
        available: u64::MAX,
        lowest_oom_score: -1000,
        ..Surroundings::default()
    }
}

fn built(change: impl FnOnce(&mut ContainerSpec, &mut User, &mut Surroundings)) -> Value {
    let (mut spec, mut user, mut around) = (spec(), User::default(), around());
    change(&mut spec, &mut user, &mut around);
    build(&spec, &image(), &user, &around).unwrap()
}

#[test]
fn command_and_args_override_as_kubernetes_documents() {
    let cases = [
        ("", "", "/entry default args"),
        ("", "mine", "/entry mine"),
        ("/own", "", "/own"),
        ("/own", "mine", "/own mine"),
    ];
    for (command, args, want) in cases {
        let oci = built(|spec, _, _| (spec.command, spec.args) = (words(command), words(args)));
        assert_eq!(oci["process"]["args"], json!(words(want)), "command {command:?} args {args:?}");
    }
    let nothing = build(&spec(), &ImageConfig::default(), &User::default(), &around()).unwrap_err();
    assert_eq!(nothing.to_string(), "no command specified");
}

#[test]
fn the_pods_environment_wins_over_the_images() {
    let oci = built(|spec, user, _| {
        spec.env = vec![("FROM".to_owned(), "pod".to_owned()), ("EMPTY".to_owned(), String::new())];
        user.home = "/home/me".to_owned();
    });
    let want = words("HOSTNAME=host HOME=/home/me PATH=/image FROM=pod EMPTY=");
    assert_eq!(oci["process"]["env"], json!(want));
    assert_eq!(oci["process"]["cwd"], "/srv");
}

#[test]
fn capabilities_follow_add_drop_and_the_user() {
    let caps = |add: &str, drop: &str, uid: u32, available: u64| {
        let oci = built(|spec, user, around| {
            (spec.security.add_capabilities, spec.security.drop_capabilities) = (words(add), words(drop));
            (user.uid, around.available) = (uid, available);
        });
        let set = &oci["process"]["capabilities"];
        let count = |name: &str| set[name].as_array().unwrap().len();
        let has = |name: &str| set["bounding"].as_array().unwrap().contains(&json!(name));
        (count("bounding"), count("effective"), has("CAP_NET_ADMIN"), has("CAP_CHOWN"))
    };
    assert_eq!(caps("", "", 0, u64::MAX), (14, 14, false, true));
    assert_eq!(caps("", "", 1000, u64::MAX), (14, 0, false, true), "no effective ones without root");
    assert_eq!(caps("NET_ADMIN", "", 0, u64::MAX), (15, 15, true, true));
    assert_eq!(caps("CAP_NET_ADMIN", "ALL", 0, u64::MAX), (1, 1, true, false));
    assert_eq!(caps("ALL", "CHOWN", 0, u64::MAX), (40, 40, true, false));
    assert_eq!(caps("ALL", "", 0, 1), (1, 1, false, true), "only what this process has itself");
    let mut wrong = spec();
    wrong.security.add_capabilities = words("FLY");
    let error = build(&wrong, &image(), &User::default(), &around()).unwrap_err();
    assert_eq!(error.to_string(), "unknown capability \"CAP_FLY\"");
}

#[test]
fn security_is_on_unless_asked_otherwise() {
    let (plain, open) = (built(|_, _, _| {}), built(|spec, _, _| spec.security.privileged = true));
    assert_eq!(plain["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(plain["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    assert!(plain["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert!(plain["process"].get("noNewPrivileges").is_none(), "a present `false` breaks the filter");
    assert!(open["linux"].get("seccomp").is_none() && open["linux"].get("maskedPaths").is_none());
    assert_eq!(open["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    let calm = built(|spec, _, _| spec.security.allow_privilege_escalation = Some(false));
    assert_eq!(calm["process"]["noNewPrivileges"], true);
    let unconfined = built(|spec, _, _| spec.security.seccomp = Seccomp::Unconfined);
    assert!(unconfined["linux"].get("seccomp").is_none());
    let bare = built(|spec, _, _| spec.security.unmasked_proc = true);
    assert!(bare["linux"].get("maskedPaths").is_none() && bare["linux"].get("seccomp").is_some());
    let lean = |add: &str| {
        let oci = built(|spec, _, _| spec.security.add_capabilities = words(add));
        oci["linux"]["seccomp"].to_string().contains("\"unshare\"")
    };
    assert!(!lean("") && lean("SYS_ADMIN"), "the filter opens with the capability");
}

#[test]
fn scores_are_not_below_what_this_process_may_set() {
    let score = |score: i32| {
        let oci = built(|spec, _, around| {
            spec.resources.oom_score_adj = score;
            around.lowest_oom_score = -500;
        });
        oci["process"]["oomScoreAdj"].clone()
    };
    assert_eq!((score(-998), score(999)), (Value::Null, json!(999)));
}

#[test]
fn mounts_replace_the_default_ones_and_come_parents_first() {
    let mount = |path: &str, readonly: bool, recursive_readonly: bool, propagation: Propagation| Mount {
        host_path: "/src".into(),
        container_path: path.into(),
        readonly,
        recursive_readonly,
        propagation,
        mapped: false,
    };
    let oci = built(|spec, _, _| {
        spec.mounts = vec![
            mount("/a/b", true, false, Propagation::None),
            mount("/a", false, false, Propagation::Bidirectional),
            mount("/dev/shm", true, true, Propagation::None),
        ];
    });
    let all = oci["mounts"].as_array().unwrap();
    let found: Vec<(&str, &str)> = all
        .iter()
        .filter(|mount| mount["source"] == "/src")
        .map(|mount| (mount["destination"].as_str().unwrap(), mount["options"][1].as_str().unwrap()))
        .collect();
    assert_eq!(found, [("/a", "rw"), ("/a/b", "ro"), ("/dev/shm", "rro")]);
    assert_eq!(all.iter().filter(|mount| mount["destination"] == "/dev/shm").count(), 1);
    assert_eq!(oci["linux"]["rootfsPropagation"], "shared");
    assert!(!all.iter().any(|mount| mount["type"] == "cgroup"), "v1 hierarchies would be writable");
    let unified = built(|_, _, around| around.unified_cgroups = true);
    assert!(unified["mounts"].as_array().unwrap().iter().any(|mount| mount["type"] == "cgroup"));
}

#[test]
fn containers_see_their_own_groups_only() {
    let groups = |privileged: bool, covered: bool| -> Vec<(String, String, String)> {
        let oci = built(|spec, _, around| {
            spec.security.privileged = privileged;
            around.cgroup_frame = ("/frame".into(), vec!["cpu,cpuacct".to_owned(), "memory".to_owned()]);
            spec.mounts = covered
                .then(|| Mount {
                    host_path: "/src".into(),
                    container_path: "/sys/fs/cgroup".into(),
                    readonly: true,
                    recursive_readonly: false,
                    propagation: Propagation::None,
                    mapped: false,
                })
                .into_iter()
                .collect();
        });
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = oci["mounts"].as_array().unwrap().iter();
        let below = all.filter(|mount| text(&mount["destination"]).starts_with("/sys/fs/cgroup"));
        below
            .map(|m| {
                let access = m["options"].as_array().unwrap().last().unwrap();
                (text(&m["destination"]), text(&m["source"]), text(access))
            })
            .collect()
    };
    let row = |to: &str, from: &str, access: &str| (to.to_owned(), from.to_owned(), access.to_owned());
    let own = |access: &str| {
        let group = |name: &str| format!("/sys/fs/cgroup/{name}/kubepods/podu/c");
        vec![
            row("/sys/fs/cgroup", "/frame", "ro"),
            row("/sys/fs/cgroup/cpu,cpuacct", &group("cpu,cpuacct"), access),
            row("/sys/fs/cgroup/memory", &group("memory"), access),
        ]
    };
    assert_eq!(groups(false, false), own("ro"));
    assert_eq!(groups(true, false), own("rw"));
    assert_eq!(groups(false, true), [row("/sys/fs/cgroup", "/src", "ro")], "the pod's own mount wins");
}
