//! More authority than granted, where it takes several steps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::hostile::arena::EVIL;
use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::{Scene, tally};
use crate::netns::NODE_IP;
use crate::wire::JSON;

const STEPS: Attack =
    Attack { name: "", findings: "", by: By::Tenant, does: "", must: "", quick: false, how: How::Asks(&[]) };

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "forged tokens", findings: "JWT forgeries", by: By::Peer, does: "changes each part of a good token: claims, algorithm, key id, signature; and asks with tokens of deleted accounts", must: "401 for each", how: How::Tenant(|s| Box::pin(forged_tokens(s))), ..STEPS },
    Attack { name: "exec by reading", findings: "security M1", by: By::Viewer, does: "may `get` pods/exec, pods/attach and pods/portforward, and asks for them over WebSocket", must: "403: they take `create`", how: How::Tenant(|s| Box::pin(exec_by_reading(s))), ..STEPS },
    Attack { name: "a proxy to anywhere", findings: "security M10; CVE-2020-8561", by: By::Owner, does: "has services/proxy and pods/proxy dial loopback, the node, and names", must: "what listens there hears nothing", how: How::Tenant(|s| Box::pin(proxies(s))), ..STEPS },
    Attack { name: "external addresses of others", findings: "CVE-2020-8554", does: "makes Services whose externalIPs are the API server's address and the DNS's", must: "the API server and the DNS are reached as before", how: How::Tenant(|s| Box::pin(external_addresses(s))), ..STEPS },
    Attack { name: "Secrets that an account may not mount", findings: "CVE-2023-2728; CVE-2024-3177", does: "names them in env, envFrom, volumes and ephemeral containers of pods whose account enforces its list", must: "403 for each", how: How::Tenant(|s| Box::pin(mountable(s))), ..STEPS },
];

/// Keeps the order of a base64url text's three parts, with one of them changed.
fn forgeries(token: &str) -> Result<Vec<String>> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts[..] else { anyhow::bail!("a token has three parts") };
    let read = |part: &str| -> Result<Value> { Ok(serde_json::from_slice(&BASE64.decode(part)?)?) };
    let written = |value: &Value| BASE64.encode(value.to_string());
    let (the_head, the_claims) = (read(head)?, read(claims)?);
    let mut forged = vec![];
    for algorithm in ["none", "None", "HS256", "RS256", ""] {
        let mut head = the_head.clone();
        head["alg"] = json!(algorithm);
        let head = written(&head);
        forged.extend([format!("{head}.{claims}.{signature}"), format!("{head}.{claims}.")]);
    }
    let changes = [
        ("sub", json!("system:serviceaccount:kube-system:default")),
        ("exp", json!(99_999_999_999_u64)),
        ("aud", json!(["other"])),
        ("iss", json!("https://evil.example")),
        (
            "kubernetes.io",
            json!({"namespace": "kube-system", "serviceaccount": {"name": "default", "uid": "1"}}),
        ),
    ];
    for (claim, value) in changes {
        let mut claims = the_claims.clone();
        claims[claim] = value;
        forged.push(format!("{head}.{}.{signature}", written(&claims)));
    }
    let mut other_key = the_head.clone();
    other_key["kid"] = json!("../../../../dev/null");
    forged.push(format!("{}.{claims}.{signature}", written(&other_key)));
    other_key["jwk"] = json!({"kty": "oct", "k": ""});
    forged.push(format!("{}.{claims}.{signature}", written(&other_key)));
    forged.push(format!("{head}.{claims}.{}", BASE64.encode([0; 64])));
    forged.push(format!("{token}.{signature}"));
    forged.push(format!("{head}..{signature}"));
    forged.push("a".repeat(100_000));
    Ok(forged)
}

async fn forged_tokens(scene: &Scene<'_>) -> Result<String> {
    let mut admin = scene.connect(By::Operator).await?;
    let accounts = scene.path("serviceaccounts");
    scene.send(&mut admin, Method::POST, &accounts, JSON, r#"{"metadata":{"name":"gone"}}"#).await?;
    let path = format!("{accounts}/gone/token");
    let made = scene.send(&mut admin, Method::POST, &path, JSON, "{}").await?;
    let token: Value = serde_json::from_slice(&made.body)?;
    let token = token["status"]["token"].as_str().context("a token")?.to_owned();
    let ask = async |token: &str| -> Result<u16> {
        let mut connection = scene.arena.admin.bearing(Some(token))?.connect().await?;
        Ok(connection.exchange(Method::GET, "/api/v1/nodes", &[], Bytes::new()).await?.code)
    };
    ensure!(ask(&token).await? == 403, "the token itself is good");
    let mut codes = vec![];
    for forged in forgeries(&token)? {
        let code = ask(&forged).await?;
        let begin: String = forged.chars().take(60).collect();
        ensure!(code == 401, "{code} for {begin}...");
        codes.push(code.to_string());
    }
    scene.send(&mut admin, Method::DELETE, &format!("{accounts}/gone"), JSON, Bytes::new()).await?;
    // A verified token may be remembered for a moment.
    for _ in 0..60 {
        if ask(&token).await? == 401 {
            return Ok(format!("{}, and 401 after the account was deleted", tally(codes)));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("the token of a deleted account is good after 15 s")
}

async fn exec_by_reading(scene: &Scene<'_>) -> Result<String> {
    let mut admin = scene.connect(By::Operator).await?;
    let group = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", scene.namespace);
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "verbs": ["get", "list", "watch"],
        "resources": ["pods", "pods/exec", "pods/attach", "pods/portforward", "pods/log"]}]});
    scene.send(&mut admin, Method::POST, &format!("{group}/roles"), JSON, role.to_string()).await?;
    let binding = json!({"metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": EVIL}]});
    scene.send(&mut admin, Method::POST, &format!("{group}/rolebindings"), JSON, binding.to_string()).await?;
    let viewer = scene.endpoint(By::Viewer)?;
    let token = viewer.token().context("a token")?.to_owned();
    let mut said = vec![];
    for (what, protocol) in [
        ("exec?command=id&stdout=true", "v5.channel.k8s.io"),
        ("exec?command=id&stdout=true", "v4.channel.k8s.io"),
        ("attach?stdout=true", "v5.channel.k8s.io"),
        ("portforward?ports=80", "v4.channel.k8s.io"),
        ("portforward", "SPDY/3.1+portforward.k8s.io"),
    ] {
        let mut stream = viewer.tls(b"http/1.1", None).await?;
        let path = scene.path(&format!("pods/some/{what}"));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = [0; 64];
        let n = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await??;
        let line = String::from_utf8_lossy(&answer[..n]).lines().next().unwrap_or_default().to_owned();
        ensure!(line.contains(" 403 "), "GET {path} over {protocol}: {line}");
        said.push("403".to_owned());
    }
    Ok(tally(said))
}

/// Listens where nobody is to be led; gives how many came.
async fn trap(
    address: &str,
) -> Result<(u16, tokio::task::JoinHandle<()>, std::sync::Arc<std::sync::atomic::AtomicUsize>)> {
    let listener = TcpListener::bind(address).await?;
    let port = listener.local_addr()?.port();
    let came = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = came.clone();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntrapped")
                .await;
        }
    });
    Ok((port, task, came))
}

async fn proxies(scene: &Scene<'_>) -> Result<String> {
    let (port, task, came) = trap(&format!("{NODE_IP}:0")).await?;
    let (local, local_task, local_came) = trap("127.0.0.1:0").await?;
    let mut owner = scene.connect(By::Owner).await?;
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", scene.namespace);
    let targets = [
        ("loopback", "IPv4", "127.0.0.1", local),
        ("node", "IPv4", NODE_IP, port),
        ("api", "IPv4", NODE_IP, scene.arena.admin.port()),
        ("metadata", "IPv4", "169.254.169.254", 80),
        ("name", "FQDN", "localhost", local),
        ("six", "IPv6", "::1", local),
    ];
    let mut said = vec![];
    for (name, family, address, port) in targets {
        let service =
            json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "targetPort": port}]}});
        scene.send(&mut owner, Method::POST, &scene.path("services"), JSON, service.to_string()).await?;
        let slice = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": family, "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"port": port, "name": ""}]});
        scene.send(&mut owner, Method::POST, &slices, JSON, slice.to_string()).await?;
        for way in [format!("{name}:80"), format!("https:{name}:80"), name.to_owned()] {
            let path = scene.path(&format!("services/{way}/proxy/"));
            let ask = scene.send(&mut owner, Method::GET, &path, JSON, Bytes::new());
            match tokio::time::timeout(Duration::from_secs(40), ask).await {
                Ok(answer) => {
                    let answer = answer?;
                    ensure!(answer.code >= 400, "{path}: {}", answer.code);
                    said.push(answer.code.to_string());
                }
                Err(_) => said.push("no answer".to_owned()),
            }
        }
    }
    for name in ["127.0.0.1", "localhost", "..", "%2e%2e"] {
        let path = scene.path(&format!("pods/{name}:{local}/proxy/"));
        let answer = scene.send(&mut owner, Method::GET, &path, JSON, Bytes::new()).await?;
        ensure!(answer.code >= 400, "{path}: {}", answer.code);
        said.push(answer.code.to_string());
    }
    task.abort();
    local_task.abort();
    let came = came.load(std::sync::atomic::Ordering::Relaxed)
        + local_came.load(std::sync::atomic::Ordering::Relaxed);
    ensure!(came == 0, "{came} connections came where none may be led");
    Ok(tally(said))
}

async fn external_addresses(scene: &Scene<'_>) -> Result<String> {
    let mut tenant = scene.connect(By::Tenant).await?;
    let mut said = vec![];
    for (name, ip, port) in [
        ("api", NODE_IP, scene.arena.admin.port()),
        ("kubelet", NODE_IP, 10250),
        ("dns", "10.96.0.10", 53),
        ("kubernetes", "10.96.0.1", 443),
    ] {
        let service =
            json!({"metadata": {"name": name}, "spec": {"externalIPs": [ip], "ports": [{"port": port}]}});
        let answer =
            scene.send(&mut tenant, Method::POST, &scene.path("services"), JSON, service.to_string()).await?;
        said.push(answer.code.to_string());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..5 {
        let mut admin = scene.connect(By::Operator).await?;
        let page =
            scene.send(&mut admin, Method::GET, "/api/v1/nodes/n1/proxy/healthz", "", Bytes::new()).await?;
        ensure!(page.code == 200, "the kubelet through the API server: {}", page.code);
    }
    Ok(format!("{}; the addresses' owners answer", tally(said)))
}

async fn mountable(scene: &Scene<'_>) -> Result<String> {
    let mut admin = scene.connect(By::Operator).await?;
    let account = json!({"metadata": {"name": "narrow", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}});
    scene.send(&mut admin, Method::POST, &scene.path("serviceaccounts"), JSON, account.to_string()).await?;
    let secret = r#"{"metadata":{"name":"other"},"stringData":{"a":"b"}}"#;
    scene.send(&mut admin, Method::POST, &scene.path("secrets"), JSON, secret).await?;
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "a"}}}]);
    let from = json!([{"secretRef": {"name": "other"}}]);
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("v");
        json!([volume])
    };
    let container = |more: Value| {
        let mut container = json!({"name": "c", "image": "busybox:1.35"});
        if let (Some(all), Some(more)) = (container.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        container
    };
    let specs = [
        json!({"containers": [container(json!({"env": env}))]}),
        json!({"containers": [container(json!({"envFrom": from}))]}),
        json!({"containers": [container(json!({}))], "initContainers": [{"name": "i", "image": "i", "envFrom": from}]}),
        json!({"containers": [container(json!({}))], "volumes": volume(json!({"secret": {"secretName": "other"}}))}),
        json!({"containers": [container(json!({}))], "imagePullSecrets": [{"name": "other"}]}),
    ];
    let mut tenant = scene.connect(By::Tenant).await?;
    let mut codes = vec![];
    for mut spec in specs {
        spec["serviceAccountName"] = json!("narrow");
        let pod = json!({"metadata": {"generateName": "p-"}, "spec": spec});
        let answer =
            scene.send(&mut tenant, Method::POST, &scene.path("pods"), JSON, pod.to_string()).await?;
        ensure!(answer.code == 403, "{}: {pod}", answer.code);
        codes.push(answer.code.to_string());
    }
    let plain = json!({"metadata": {"name": "plain"}, "spec": {"serviceAccountName": "narrow", "nodeName": "",
        "schedulerName": "none", "containers": [{"name": "c", "image": "busybox:1.35"}]}});
    let answer = scene.send(&mut tenant, Method::POST, &scene.path("pods"), JSON, plain.to_string()).await?;
    ensure!(answer.code == 201, "a pod without Secrets: {}", answer.code);
    let more = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "envFrom": from}]}});
    let path = scene.path("pods/plain/ephemeralcontainers");
    let answer = scene
        .send(&mut tenant, Method::PATCH, &path, "application/strategic-merge-patch+json", more.to_string())
        .await?;
    ensure!(answer.code == 403, "an ephemeral container: {}", answer.code);
    codes.push(answer.code.to_string());
    Ok(tally(codes))
}
