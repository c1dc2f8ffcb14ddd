//! Applications of several parts that find each other by name.

use anyhow::{Result, ensure};

use super::{World, manifests};
use crate::kubectl::output_of;
use crate::netns::NODE_IP;

pub(super) fn redis(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    k.ok(&format!("apply -f {}", manifests().join("redis").display()))?;
    k.ok("rollout status deployment/redis --timeout=90s")?;
    k.ok("wait --for=condition=Ready pod/redis-client --timeout=60s")?;
    ensure!(k.ok("exec redis-client -- redis-cli -h redis set greeting hello")?.trim() == "OK");
    k.ok("run second --image=redis:7 --restart=Never --command -- redis-cli -h redis.default.svc.cluster.local get greeting")?;
    k.ok("wait --for=jsonpath={.status.phase}=Succeeded pod/second --timeout=60s")?;
    ensure!(k.ok("logs second")?.trim() == "hello");
    k.ok("delete pod second")?;
    k.ok(&format!("delete -f {}", manifests().join("redis").display())).map(drop)
}

pub(super) fn guestbook(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    let file = manifests().join("guestbook/guestbook.yaml");
    k.ok(&format!("apply -f {}", file.display()))?;
    for tier in ["redis-leader", "app", "front"] {
        k.ok(&format!("-n guestbook rollout status deployment/{tier} --timeout=90s"))?;
    }
    let url = format!("http://{NODE_IP}:30081/");
    for entry in ["first", "second"] {
        output_of("curl", &["-s", "-m", "10", &format!("{url}?{entry}")])?;
    }
    let page = output_of("curl", &["-s", "-m", "10", &url])?;
    ensure!(page.lines().eq(["first", "second"]), "the guestbook shows {page:?}");
    k.ok(&format!("delete -f {} --timeout=90s", file.display())).map(drop)
}
