//! From nothing to the first running pod.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::World;
use crate::kubectl::pause;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"first"},
 "spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"c","image":"busybox:1.35","command":["sleep","100000"]}]}}"#;

pub(super) fn times(world: &mut World) -> Result<()> {
    world.cluster.up()?;
    let up = world.cluster.begun.elapsed();
    let kubectl = world.kubectl();
    ensure!(kubectl.ok("get --raw /readyz")? == "ok");
    let readyz = world.cluster.begun.elapsed();
    kubectl.ok("wait --for=condition=Ready node/n1 --timeout=60s")?;
    let node = world.cluster.begun.elapsed();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    // The default service account is made by a controller; upstream's first pod waits for it in the same way.
    while kubectl.run_with("create -f -", POD)?.code != Some(0) {
        ensure!(std::time::Instant::now() < deadline, "{}", kubectl.run_with("create -f -", POD)?.err);
        pause(Duration::from_millis(20));
    }
    kubectl.ok("wait --for=jsonpath={.status.phase}=Running pod/first --timeout=60s")?;
    let pod = world.cluster.begun.elapsed();
    println!(
        "        up {up:.2?}, readyz answered {readyz:.2?}, node Ready {node:.2?}, first pod Running {pod:.2?} (kubectl's own time and the pull included)"
    );
    ensure!(
        readyz < Duration::from_secs(15) && node < Duration::from_secs(20) && pod < Duration::from_secs(40)
    );
    kubectl.ok("delete pod first --wait=false").map(drop)
}
