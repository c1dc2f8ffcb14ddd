//! The walls between the crates, read from `cargo metadata`: components know the API's vocabulary and nothing of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which of our own crates each crate may depend on (for building as well as for its tests).
const ALLOWED: &[(&str, &[&str])] = &[
    ("coracle-api", &[]),
    ("coracle-client", &["coracle-api"]),
    ("coracle-listener", &[]),
    ("coracle-apiserver", &["coracle-api", "coracle-listener"]),
    ("coracle-scheduler", &["coracle-api"]),
    ("coracle-controllers", &["coracle-api", "coracle-client"]),
    ("coracle-kubelet", &["coracle-api", "coracle-client", "coracle-listener"]),
    (
        "coracle",
        &[
            "coracle-api",
            "coracle-apiserver",
            "coracle-scheduler",
            "coracle-controllers",
            "coracle-kubelet",
            "coracle-listener",
        ],
    ),
    ("coracle-conformance", &["coracle", "coracle-api"]),
];

#[test]
fn components_depend_only_on_the_vocabulary() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");

    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    assert_eq!(ours, allowed.keys().copied().collect(), "a new crate needs its row in ALLOWED");

    for package in packages {
        let name = package["name"].as_str().expect("name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("name");
            assert!(!ours.contains(on) || allowed[name].contains(&on), "{name} must not depend on {on}");
        }
    }
}
