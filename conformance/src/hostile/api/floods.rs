//! More requests than one may have answered.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;

use crate::hostile::book::{Attack, By, How};
use crate::hostile::peers::Peer;
use crate::hostile::scene::{Scene, address, tally};
use crate::wire::JSON;

const FLOODS: Attack = Attack {
    name: "",
    findings: "",
    by: By::Viewer,
    does: "",
    must: "fair shares: the tenant and the node do not wait",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "stalled bodies", findings: "security B11; issue 200 stalled bodies", quick: true, does: "200 POSTs over HTTP/2 whose bodies never come, on one connection and on many, with a read-only token", must: "they take no place that others need", how: How::Peer(|s| Box::pin(stalled_bodies(s))), ..FLOODS },
    Attack { name: "bodies that stop in the middle", findings: "security B11", by: By::Tenant, does: "200 POSTs that send 1 MB of the 1.4 MB they promise", must: "what is kept of them is bounded", how: How::Tenant(|s| Box::pin(half_bodies(s))), ..FLOODS },
    Attack { name: "reads without a pause", findings: "priority and fairness", does: "64 lists and gets at a time, from one token", how: How::Tenant(|s| Box::pin(reads(s))), ..FLOODS },
    Attack { name: "writes without a pause", findings: "priority and fairness", by: By::Tenant, does: "64 creates and deletes at a time, from one token", how: How::Tenant(|s| Box::pin(writes(s))), ..FLOODS },
    Attack { name: "requests without a name", findings: "priority and fairness", by: By::Peer, does: "64 requests at a time without credentials, and with tokens that are none", must: "401 or 403", how: How::Peer(|s| Box::pin(nameless(s))), ..FLOODS },
    Attack { name: "events without end", findings: "issue 11.4", by: By::Tenant, does: "20,000 Events of one namespace", must: "kept within bounds, or refused", how: How::Tenant(|s| Box::pin(events(s))), ..FLOODS },
];

async fn stalled_bodies(scene: &Scene<'_>) -> Result<String> {
    let viewer = scene.endpoint(By::Viewer)?;
    let count = scene.amount(200, 200);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let maps = scene.path("configmaps");
    let length = [("content-type", JSON), ("content-length", "1000")];
    let mut one = Peer::open(&viewer, Some(address(1)), &[]).await?;
    for n in 0..count {
        one.ask("POST", if n % 2 == 0 { path } else { &maps }, &length, 0).await?;
    }
    let mut many = vec![];
    for n in 0..count {
        let mut peer = Peer::open(&viewer, Some(address(n % 40)), &[]).await?;
        peer.ask("POST", if n % 2 == 0 { path } else { &maps }, &length, 0).await?;
        many.push(peer);
    }
    scene.hold().await;
    let answers = one.seen().answers + many.iter().map(|p| p.seen().answers).sum::<usize>();
    let resets = one.seen().resets + many.iter().map(|p| p.seen().resets).sum::<usize>();
    Ok(format!("{} requests without bodies: {answers} answered, {resets} reset", 2 * count))
}

async fn half_bodies(scene: &Scene<'_>) -> Result<String> {
    let tenant = scene.endpoint(By::Tenant)?;
    let mut peers = vec![];
    let mut sent = 0;
    for n in 0..scene.amount(200, 20) {
        let mut peer = Peer::open(&tenant, Some(address(n % 40)), &[]).await?;
        let stream = peer
            .ask(
                "POST",
                &scene.path("configmaps"),
                &[("content-type", JSON), ("content-length", "1400000")],
                0,
            )
            .await?;
        // The server opens its window as it reads.
        for _ in 0..64 {
            tokio::task::yield_now().await;
            let data = crate::hostile::peers::frame(0, 0, stream, &[b' '; 1000]);
            if peer.send(&data).await.is_err() {
                break;
            }
            sent += 1000;
        }
        peers.push(peer);
    }
    scene.hold().await;
    let closed = peers.iter().filter(|p| p.seen().closed || p.seen().goaway.is_some()).count();
    Ok(format!("{} bodies begun, {} MB sent, {closed} connections ended", peers.len(), sent / 1_000_000))
}

/// Keeps `at_once` requests under way for a while; how many of each code there were.
async fn busy(
    scene: &Scene<'_>,
    by: &[By],
    at_once: usize,
    request: impl Fn(usize) -> (Method, String, Bytes),
) -> Result<String> {
    let until = Instant::now() + Duration::from_secs(if scene.arena.quick { 2 } else { 15 });
    let mut connections = vec![];
    for by in by {
        connections.push(scene.connect(*by).await?);
    }
    let sending = (0..).take_while(|_| Instant::now() < until).map(|n| {
        let mut connection = connections[n % connections.len()].clone();
        let (method, path, body) = request(n);
        async move {
            match scene.send(&mut connection, method, &path, JSON, body).await {
                Ok(answer) => answer.code.to_string(),
                Err(_) => "no answer".to_owned(),
            }
        }
    });
    let codes: Vec<String> = stream::iter(sending).buffer_unordered(at_once).collect().await;
    let said = tally(codes);
    ensure!(!said.contains("500"), "{said}");
    Ok(said)
}

async fn reads(scene: &Scene<'_>) -> Result<String> {
    let mut tenant = scene.connect(By::Tenant).await?;
    for n in 0..200 {
        let body =
            format!("{{\"metadata\":{{\"name\":\"r{n}\"}},\"data\":{{\"x\":\"{}\"}}}}", "x".repeat(2_000));
        scene.send(&mut tenant, Method::POST, &scene.path("configmaps"), JSON, body).await?;
    }
    let paths =
        ["configmaps", "configmaps?limit=10", "configmaps/r1", "pods", "configmaps?labelSelector=a%3Db"];
    busy(scene, &[By::Viewer], 64, |n| (Method::GET, scene.path(paths[n % paths.len()]), Bytes::new())).await
}

async fn writes(scene: &Scene<'_>) -> Result<String> {
    busy(scene, &[By::Tenant], 64, |n| {
        if n % 2 == 0 {
            let body = format!(
                "{{\"metadata\":{{\"name\":\"w{n}\"}},\"data\":{{\"x\":\"{}\"}}}}",
                "x".repeat(2_000)
            );
            (Method::POST, scene.path("configmaps"), body.into())
        } else {
            (Method::DELETE, scene.path(&format!("configmaps/w{}", n.saturating_sub(101))), Bytes::new())
        }
    })
    .await
}

async fn nameless(scene: &Scene<'_>) -> Result<String> {
    let paths = ["/api/v1/nodes", "/apis", "/openapi/v2", "/api/v1/namespaces/shop/secrets", "/metrics"];
    let nobody =
        busy(scene, &[By::Peer; 4], 64, |n| (Method::GET, paths[n % paths.len()].to_owned(), Bytes::new()));
    let nobody = nobody.await?;
    ensure!(!nobody.contains("200"), "{nobody}");
    let viewer = scene.endpoint(By::Viewer)?;
    let good = viewer.token().unwrap_or_default();
    let mut codes = vec![];
    for n in 0..scene.amount(2_000, 200) {
        let wrong = format!("{}{n}", &good[..good.len().saturating_sub(8)]);
        let endpoint = scene.arena.admin.bearing(Some(&wrong))?;
        let mut connection = endpoint.connect().await?;
        let answer = connection.exchange(Method::GET, "/api/v1/nodes", &[], Bytes::new()).await?;
        ensure!(answer.code == 401, "a wrong token: {}", answer.code);
        codes.push(answer.code.to_string());
    }
    Ok(format!("{nobody}; wrong tokens {}", tally(codes)))
}

async fn events(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(20_000, 500);
    let connection = scene.connect(By::Tenant).await?;
    let sending = (0..count).map(|n| {
        let mut connection = connection.clone();
        async move {
            let body = format!(
                "{{\"metadata\":{{\"name\":\"e{n}\"}},\"involvedObject\":{{\"kind\":\"Pod\",\"name\":\"p\",\"namespace\":\"{}\"}},\"reason\":\"R\",\"message\":\"{}\"}}",
                scene.namespace,
                "m".repeat(1_000)
            );
            match scene.send(&mut connection, Method::POST, &scene.path("events"), JSON, body).await {
                Ok(answer) => answer.code.to_string(),
                Err(_) => "no answer".to_owned(),
            }
        }
    });
    let codes: Vec<String> = stream::iter(sending).buffer_unordered(32).collect().await;
    Ok(tally(codes))
}
