//! The whole program is killed while pods run and clients watch.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::World;
use crate::kubectl::{Kubectl, pause};
use crate::netns::NODE_IP;

/// What must be the same before and after, pod by pod.
fn identities(k: &Kubectl) -> Result<String> {
    k.ok("get pods -A --sort-by=.metadata.uid -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}'")
}

/// The revision of a list: the newest there is.
fn head(k: &Kubectl) -> Result<u64> {
    let list: serde_json::Value =
        serde_json::from_str(&k.ok("get --raw /api/v1/namespaces/shop/configmaps")?)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("a list has a revision")?.parse()?)
}

pub(super) fn killed(world: &mut World) -> Result<()> {
    let k = world.kubectl().clone();
    k.ok("-n shop run counter --image=busybox:1.35 -- sh -c 'i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done'")?;
    k.ok("-n shop wait --for=condition=Ready pod/counter --timeout=60s")?;
    k.ok("-n shop wait --for=condition=Ready pod --all --timeout=60s")?;
    let before = identities(&k)?;
    let acknowledged: Vec<String> = (0..50).map(|n| format!("kept-{n}")).collect();
    for name in &acknowledged {
        k.ok(&format!("-n shop create configmap {name} --from-literal=a=b"))?;
    }
    let revision = head(&k)?;
    let last = k.ok("-n shop get configmap kept-49 -o jsonpath={.metadata.resourceVersion}")?;

    world.cluster.signal(Signal::SIGKILL)?;
    let page = crate::kubectl::output_of("curl", &["-s", "-m", "5", &format!("http://{NODE_IP}:30080/")])?;
    ensure!(page == "hello from the shop\n", "without the program the pods still answer");
    pause(Duration::from_secs(2));
    world.cluster.up()?;

    let names = k.ok("-n shop get configmaps -o name")?;
    for name in &acknowledged {
        ensure!(names.contains(&format!("configmap/{name}\n")), "{name} was acknowledged and is lost");
    }
    k.ok("wait --for=condition=Ready node/n1 --timeout=60s")?;
    k.ok("-n shop wait --for=condition=Ready pod --all --timeout=60s")?;
    let after = identities(&k)?;
    ensure!(before == after, "pods changed:\n{before}\nto\n{after}");
    let counted: Vec<u64> = k.ok("-n shop logs counter")?.lines().filter_map(|l| l.parse().ok()).collect();
    ensure!(counted.windows(2).all(|w| w[1] == w[0] + 1) && counted.len() > 20, "the log has no gap");

    // A watch resumes from a revision of before the kill.
    let watch = k
        .command(&format!(
            "get --raw /api/v1/namespaces/shop/configmaps?watch=true&timeoutSeconds=2&resourceVersion={}",
            last.parse::<u64>().context("a revision")? - 1
        ))
        .stdout(Stdio::piped())
        .output()?;
    let events = String::from_utf8_lossy(&watch.stdout).into_owned();
    ensure!(events.contains("kept-49") && !events.contains("\"ERROR\""), "resumed watch: {events}");
    ensure!(head(&k)? >= revision, "revisions never go back");
    k.ok("-n shop delete pod counter --now")?;
    k.ok(&format!("-n shop delete configmap {}", acknowledged.join(" "))).map(drop)
}
