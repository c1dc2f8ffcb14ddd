//! A directory of manifests: namespace, configuration, secret, Deployment with probes, Service.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{World, manifests};
use crate::kubectl::output_of;
use crate::netns::NODE_IP;

pub(super) fn applied(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    let dir = manifests().join("web");
    let out = k.ok(&format!("apply -f {}", dir.display()))?;
    for created in
        ["namespace/shop", "configmap/page", "secret/key", "deployment.apps/web", "service/web", "pod/client"]
    {
        ensure!(out.contains(&format!("{created} created")), "{created} is missing in: {out}");
    }
    k.ok("-n shop rollout status deployment/web --timeout=90s")?;
    k.ok("-n shop wait --for=condition=Ready pod --all --timeout=60s")?;
    ensure!(
        k.ok(&format!("apply -f {}", dir.display()))?.matches("unchanged").count() == 6,
        "a second apply changes nothing"
    );
    Ok(())
}

pub(super) fn reached(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    for name in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"] {
        let page = k.ok(&format!("-n shop exec client -- curl -s -m 5 http://{name}/"))?;
        ensure!(page == "hello from the shop\n", "{name} answers {page:?}");
    }
    let script = "for i in $(seq 60); do curl -s -m 5 -i http://web/ | grep X-Pod; done";
    let pods: BTreeSet<String> = k
        .ok(&format!("-n shop exec client -- sh -c '{script}'"))?
        .lines()
        .map(|l| l.trim().to_owned())
        .collect();
    ensure!(pods.len() == 3, "sixty requests met {pods:?}");
    let page = output_of("curl", &["-s", "-m", "5", &format!("http://{NODE_IP}:30080/")])?;
    ensure!(page == "hello from the shop\n", "the NodePort answers {page:?}");
    Ok(())
}

pub(super) fn configured(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    let env = k.ok("-n shop exec deploy/web -- env")?;
    ensure!(
        env.contains("TOKEN=s3cr3t\n")
            && env.contains("POD_NAME=web-")
            && env.contains("WEB_SERVICE_PORT=80\n"),
        "{env}"
    );
    let file = "-n shop exec deploy/web -- cat /usr/share/nginx/html/index.html";
    ensure!(k.ok(file)? == "hello from the shop\n");
    k.ok(r#"-n shop patch configmap page --type=merge -p '{"data":{"index.html":"changed\n"}}'"#)?;
    k.until(90, file, |page| page == "changed\n")?;
    k.ok(
        r#"-n shop patch configmap page --type=merge -p '{"data":{"index.html":"hello from the shop\n"}}'"#,
    )?;
    k.until(90, file, |page| page == "hello from the shop\n").map(drop)
}
