//! Tells the tests what this machine lets them do: those that cannot run are ignored, and say why.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn main() {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let v2 = |hierarchy: &str| Path::new(hierarchy).join("cgroup.controllers").exists();
    let groups = root && ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().any(v2);
    let has =
        |program: &str| ["/bin", "/usr/bin", "/usr/sbin"].iter().any(|f| Path::new(f).join(program).exists());
    let servers = ["docker-registry", "nginx", "redis-server", "busybox"].into_iter().all(has);
    for (name, is) in [("root", root), ("cgroups_v2", groups), ("servers", servers)] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if is {
            println!("cargo::rustc-cfg={name}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    // Who builds: the same who tests.
    println!("cargo::rerun-if-env-changed=HOME");
}
