//! What a container has mounted.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use super::*;

fn wanted(dir: &Path, container: serde_json::Value, readonly_rootfs: bool) -> MountsWanted {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [container]},
    }))
    .unwrap();
    let place = |name: &str, readonly| {
        let path = dir.join(name);
        fs::create_dir_all(&path).unwrap();
        (name.to_owned(), Place { path, readonly })
    };
    MountsWanted {
        places: Places::of(dir, &dir.join("logs"), &pod).unwrap(),
        container: pod.spec.as_ref().unwrap().containers[0].clone(),
        inputs: LaunchInputs {
            pod: Arc::new(pod),
            name: "c".to_owned(),
            role: Role::Main,
            attempt: 3,
            facts: PodFacts::default(),
            volumes: [place("config", true), place("scratch", false)].into(),
            hostname: "p".to_owned(),
            wake: Arc::default(),
            stop: CancellationToken::new(),
        },
        env: HashMap::new(),
        images: Paths::new(),
        readonly_rootfs,
    }
}

/// `path ro|rw` of each mount.
fn shown(mounts: &[Mount]) -> Vec<String> {
    let access = |m: &Mount| if m.readonly { "ro" } else { "rw" };
    mounts.iter().map(|m| format!("{} {}", m.container_path.display(), access(m))).collect()
}

#[test]
fn volumes_of_objects_are_read_only_whatever_the_mount_says() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = json!([
        {"name": "config", "mountPath": "/config", "readOnly": false},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "scratch", "mountPath": "/kept", "readOnly": true},
    ]);
    let container = json!({"name": "c", "volumeMounts": mounts});
    let made = wanted(dir.path(), container, false).make().unwrap();
    let expected = [
        "/config ro",
        "/scratch rw",
        "/kept ro",
        "/etc/hosts rw",
        "/etc/resolv.conf rw",
        "/etc/hostname rw",
        "/dev/termination-log rw",
    ];
    assert_eq!(shown(&made), expected);
    let message = fs::metadata(&made[6].host_path).unwrap();
    assert_eq!((message.permissions().mode() & 0o7777, message.len()), (0o666, 0));
    assert_eq!(made[6].host_path, dir.path().join("pods/u/containers/c/3.message"));
}

#[test]
fn files_of_the_pod_follow_the_root_file_system_and_give_way_to_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = json!([{"name": "scratch", "mountPath": "/etc/hosts"}]);
    let container = json!({"name": "c", "volumeMounts": mounts, "terminationMessagePath": "/last"});
    let made = wanted(dir.path(), container, true).make().unwrap();
    assert_eq!(shown(&made), ["/etc/hosts rw", "/etc/resolv.conf ro", "/etc/hostname ro", "/last rw"]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(wanted(dir.path(), json!({"name": "../../c"}), false).make().is_err());
    let mounts = json!([{"name": "scratch", "mountPath": "/x", "subPath": "../config"}]);
    let refused = wanted(dir.path(), json!({"name": "c", "volumeMounts": mounts}), false).make();
    assert!(refused.is_err_and(|why| why.to_string().contains("must not contain '..'")));
    assert!(!dir.path().join("pods/u/containers").join("c").exists());
}
