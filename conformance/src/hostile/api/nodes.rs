//! What a node's credentials are good for, beyond its own pods.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::hostile::arena::EVIL_NODE;
use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::{Scene, tally};
use crate::wire::JSON;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "mirror pods that name Secrets", findings: "security B7; CVE-2025-4563", by: By::Node, quick: false, does: "makes mirror pods of its own that name the tenant's Secrets in every field, and reads those", must: "mirror pods give no access", how: How::Tenant(|s| Box::pin(mirror_pods(s))) },
    Attack { name: "a Node that is more than a Node", findings: "CVE-2025-5187; NodeRestriction", by: By::Node, quick: false, does: "registers itself, then sets owners, restricted labels, taints, addresses of loopback, and deletes itself", must: "403, and addresses are not dialled", how: How::Peer(|s| Box::pin(itself(s))) },
];

async fn mirror_pods(scene: &Scene<'_>) -> Result<String> {
    let mut admin = scene.connect(By::Operator).await?;
    let text = json!({"metadata": {"name": "victim"}, "stringData": {"text": scene.arena.canary.text}});
    scene.send(&mut admin, Method::POST, &scene.path("secrets"), JSON, text.to_string()).await.ok();
    let mut node = scene.connect(By::Node).await?;
    let container = json!([{"name": "c", "image": "i"}]);
    let secret = json!({"secretName": "victim"});
    let specs = [
        json!({"containers": container, "nodeSelector": {"secretName": "victim"}}),
        json!({"containers": container, "volumes": [{"name": "v", "secret": secret}]}),
        json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "victim"}}]}]}),
        json!({"containers": container, "imagePullSecrets": [{"name": "victim"}]}),
        json!({"containers": container, "resourceClaims": [{"name": "r", "resourceClaimName": "victim"}]}),
        json!({"containers": container, "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "victim"}}]}}]}),
        json!({"containers": container, "volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "victim"}}}]}),
        json!({"containers": [{"name": "c", "image": "i", "args": ["secretName", "victim"]}]}),
    ];
    let (mut made, mut codes) = (vec![], vec![]);
    for (n, mut spec) in specs.into_iter().enumerate() {
        spec["nodeName"] = json!(EVIL_NODE);
        let name = format!("m{n}-{EVIL_NODE}");
        let pod = json!({"metadata": {"name": name, "annotations": {"kubernetes.io/config.mirror": "a",
            "kubernetes.io/config.hash": "a", "kubernetes.io/config.source": "file"}}, "spec": spec});
        made.push(
            scene
                .send(&mut node, Method::POST, &scene.path("pods"), JSON, pod.to_string())
                .await?
                .code
                .to_string(),
        );
        for path in ["secrets/victim", "secrets", "secrets?fieldSelector=metadata.name%3Dvictim"] {
            let answer = scene.send(&mut node, Method::GET, &scene.path(path), JSON, Bytes::new()).await?;
            ensure!(answer.code == 403, "{path} after mirror pod {n}: {}", answer.code);
            codes.push(answer.code.to_string());
        }
    }
    let pods = scene.path("pods?gracePeriodSeconds=0");
    scene.send(&mut admin, Method::DELETE, &pods, JSON, Bytes::new()).await?;
    Ok(format!("pods {}; Secrets {}", tally(made), tally(codes)))
}

async fn itself(scene: &Scene<'_>) -> Result<String> {
    let mut node = scene.connect(By::Node).await?;
    let mut admin = scene.connect(By::Operator).await?;
    let result = changes(scene, &mut node, &mut admin).await;
    let path = format!("/api/v1/nodes/{EVIL_NODE}");
    scene.send(&mut admin, Method::DELETE, &path, JSON, Bytes::new()).await?;
    result
}

async fn changes(
    scene: &Scene<'_>,
    node: &mut crate::wire::Connection,
    admin: &mut crate::wire::Connection,
) -> Result<String> {
    const MERGE: &str = "application/merge-patch+json";
    let path = format!("/api/v1/nodes/{EVIL_NODE}");
    let mut codes = vec![];
    let restricted =
        json!({"metadata": {"name": EVIL_NODE, "labels": {"node-restriction.kubernetes.io/a": "b"}}});
    let made = scene.send(node, Method::POST, "/api/v1/nodes", JSON, restricted.to_string()).await?;
    ensure!(made.code == 403, "a restricted label at the registration: {}", made.code);
    let own =
        json!({"metadata": {"name": EVIL_NODE}, "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}});
    let made = scene.send(node, Method::POST, "/api/v1/nodes", JSON, own.to_string()).await?;
    ensure!(made.code == 201, "registering: {}", made.code);
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}]);
    for change in [
        json!({"metadata": {"ownerReferences": owner}}),
        json!({"metadata": {"labels": {"node-restriction.kubernetes.io/a": "b"}}}),
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
        json!({"metadata": {"labels": {"kubernetes.io/anything": "b"}}}),
        json!({"spec": {"taints": []}}),
        json!({"spec": {"configSource": {"configMap": {"name": "x", "namespace": "shop", "kubeletConfigKey": "k"}}}}),
    ] {
        let answer = scene.send(node, Method::PATCH, &path, MERGE, change.to_string()).await?;
        ensure!([403, 422].contains(&answer.code), "{change}: {}", answer.code);
        codes.push(answer.code.to_string());
    }
    let answer = scene.send(node, Method::DELETE, &path, JSON, Bytes::new()).await?;
    ensure!(answer.code == 403, "deleting itself: {}", answer.code);
    // CVE-2022-3294: whoever may use nodes/proxy is led to what the node says of itself.
    let port = scene.arena.admin.port();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let answer =
        scene.send(node, Method::PATCH, &format!("{path}/status"), MERGE, status.to_string()).await?;
    codes.push(answer.code.to_string());
    for way in ["proxy/api/v1/secrets", "proxy/metrics"] {
        let answer = scene.send(admin, Method::GET, &format!("{path}/{way}"), JSON, Bytes::new()).await?;
        ensure!(answer.code >= 400, "{way} of a node at 127.0.0.1: {}", answer.code);
        codes.push(answer.code.to_string());
    }
    Ok(tally(codes))
}
