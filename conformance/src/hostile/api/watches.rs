//! Answers that are large, and readers who do not read.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;

use crate::hostile::book::{Attack, By, How};
use crate::hostile::peers::{END_STREAM, Peer, RESET, frame};
use crate::hostile::scene::{Scene, address};
use crate::wire::{Connection, JSON, TABLE};

const YAML: &str = "application/yaml";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

const WATCHES: Attack = Attack {
    name: "",
    findings: "",
    by: By::Viewer,
    does: "",
    must: "what is not read is not kept: at most 1 MB for each, and the stream is ended",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "watchers with initial events never read", findings: "reliability 6", does: "12 watches of a collection of 40 MB, with initial events, whose windows are open and sockets not read", how: How::Tenant(|s| Box::pin(initial_events(s))), ..WATCHES },
    Attack { name: "lists never read", findings: "reliability 6", does: "30 lists of 40 MB, as JSON, YAML and Table, never read", how: How::Tenant(|s| Box::pin(lists_never_read(s))), ..WATCHES },
    Attack { name: "watchers never read", findings: "reliability 6", does: "500 watches that never read, while objects of 100 KB change", how: How::Tenant(|s| Box::pin(watchers_never_read(s))), ..WATCHES },
    Attack { name: "watches that come and go", findings: "CVE-2023-44487", does: "10,000 watches that are reset when they have begun", how: How::Tenant(|s| Box::pin(come_and_go(s))), ..WATCHES },
    Attack { name: "lists of many objects", findings: "reliability 7", does: "20 clients list 20,000 objects as YAML, then as PartialObjectMetadata, then as Table", must: "streamed within the bounds", how: How::Tenant(|s| Box::pin(lists(s))), ..WATCHES },
    Attack { name: "pages that are kept open", findings: "reliability 7", does: "2,000 continue tokens of one list, each asked for once more after the objects changed", must: "200 or 410", how: How::Tenant(|s| Box::pin(pages(s))), ..WATCHES },
];

/// Fills the namespace with ConfigMaps of this size.
async fn fill(scene: &Scene<'_>, count: usize, bytes: usize) -> Result<()> {
    let connection = scene.connect(By::Tenant).await?;
    let data = "x".repeat(bytes);
    let data = data.as_str();
    let making = (0..count).map(|n| {
        let mut connection = connection.clone();
        async move {
            let body = format!("{{\"metadata\":{{\"name\":\"f{n}\"}},\"data\":{{\"x\":\"{data}\"}}}}");
            let made =
                scene.send(&mut connection, Method::POST, &scene.path("configmaps"), JSON, body).await?;
            ensure!(made.code == 201, "filling the namespace: {}", made.code);
            anyhow::Ok(())
        }
    });
    stream::iter(making).buffer_unordered(8).try_collect().await
}

/// A peer that asks for many pages, and whose socket is never read.
async fn deaf(scene: &Scene<'_>, n: usize, path: &str, accept: &str) -> Result<Peer> {
    // Windows as wide as they may be: what the server then keeps is its own choice.
    let mut peer = Peer::deaf(&scene.endpoint(By::Viewer)?, Some(address(n)), &[(4, 0x7fff_ffff)]).await?;
    peer.widen().await?;
    peer.ask("GET", path, &[("accept", accept)], END_STREAM).await?;
    Ok(peer)
}

async fn initial_events(scene: &Scene<'_>) -> Result<String> {
    fill(scene, scene.amount(40, 4), 1_000_000).await?;
    let path = scene.path(
        "configmaps?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan",
    );
    let mut peers = vec![];
    for n in 0..scene.amount(12, 3) {
        peers.push(deaf(scene, n, &path, JSON).await?);
    }
    scene.hold().await;
    Ok(format!("{} watchers held", peers.len()))
}

async fn lists_never_read(scene: &Scene<'_>) -> Result<String> {
    fill(scene, scene.amount(40, 4), 1_000_000).await?;
    let mut peers = vec![];
    for n in 0..scene.amount(30, 6) {
        let accept = [JSON, YAML, TABLE][n % 3];
        peers.push(deaf(scene, n, &scene.path("configmaps"), accept).await?);
    }
    scene.hold().await;
    Ok(format!("{} lists held", peers.len()))
}

async fn watchers_never_read(scene: &Scene<'_>) -> Result<String> {
    let path = scene.path("configmaps?watch=true");
    let mut peers = vec![];
    for n in 0..scene.amount(100, 10) {
        let mut peer = deaf(scene, n, &path, JSON).await?;
        for _ in 0..4 {
            peer.ask("GET", &path, &[], END_STREAM).await?;
        }
        peers.push(peer);
    }
    fill(scene, 1, 100_000).await?;
    let mut tenant = scene.connect(By::Tenant).await?;
    let changes = scene.amount(300, 30);
    for n in 0..changes {
        let body = format!("{{\"data\":{{\"x\":\"{}\"}}}}", n.to_string().repeat(20_000));
        let path = scene.path("configmaps/f0");
        scene.send(&mut tenant, Method::PATCH, &path, "application/merge-patch+json", body).await?;
    }
    scene.hold().await;
    Ok(format!("{} watchers on {} connections, {changes} changes", peers.len() * 5, peers.len()))
}

async fn come_and_go(scene: &Scene<'_>) -> Result<String> {
    let path = scene.path("configmaps?watch=true");
    let count = scene.amount(10_000, 1_000);
    let mut peer = Peer::open(&scene.endpoint(By::Viewer)?, None, &[]).await?;
    let mut taken = 0;
    for n in 0..count {
        if peer.seen().goaway.is_some() || peer.seen().closed {
            peer = Peer::open(&scene.endpoint(By::Viewer)?, Some(address(n)), &[]).await?;
        }
        let answers = peer.seen().answers;
        let Ok(stream) = peer.ask("GET", &path, &[], END_STREAM).await else { continue };
        if n % 20 == 0 {
            // Some have really begun.
            let begun = Instant::now();
            while peer.seen().answers == answers && begun.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        taken += usize::from(peer.send(&frame(RESET, 0, stream, &8_u32.to_be_bytes())).await.is_ok());
    }
    Ok(format!("{taken} of {count} begun and reset, {} resets by the server", peer.seen().resets))
}

async fn lists(scene: &Scene<'_>) -> Result<String> {
    let objects = scene.amount(20_000, 500);
    fill(scene, objects, 1_000).await?;
    let mut said = vec![];
    for (name, accept) in [("YAML", YAML), ("PartialObjectMetadata", PARTIAL), ("Table", TABLE)] {
        let begun = Instant::now();
        let listing = (0..scene.amount(20, 3)).map(|_| async {
            let mut viewer: Connection = scene.connect(By::Viewer).await?;
            let path = scene.path("configmaps");
            let drained = viewer.drain(&path, accept);
            tokio::time::timeout(Duration::from_secs(120), drained).await?
        });
        let bytes: Vec<usize> = stream::iter(listing).buffer_unordered(20).try_collect().await?;
        let largest = bytes.iter().max().copied().unwrap_or_default();
        ensure!(largest > objects * 50, "{name}: {largest} bytes for {objects} objects");
        said.push(format!("{name} {:.1} s", begun.elapsed().as_secs_f64()));
    }
    Ok(format!("{objects} objects: {}", said.join(", ")))
}

async fn pages(scene: &Scene<'_>) -> Result<String> {
    fill(scene, scene.amount(2_000, 200), 1_000).await?;
    let mut viewer = scene.connect(By::Viewer).await?;
    let mut tokens = vec![];
    for limit in 1..=scene.amount(2_000, 50) {
        let path = scene.path(&format!("configmaps?limit={limit}"));
        let list = scene.send(&mut viewer, Method::GET, &path, JSON, Bytes::new()).await?;
        let list: serde_json::Value = serde_json::from_slice(&list.body)?;
        tokens.extend(list["metadata"]["continue"].as_str().filter(|t| !t.is_empty()).map(str::to_owned));
        if tokens.len() >= 400 {
            break;
        }
    }
    let mut tenant = scene.connect(By::Tenant).await?;
    scene.send(&mut tenant, Method::DELETE, &scene.path("configmaps"), JSON, Bytes::new()).await?;
    let mut asking = vec![];
    for token in tokens.iter().cycle().take(scene.amount(2_000, 100)) {
        let (mut viewer, path) =
            (viewer.clone(), scene.path(&format!("configmaps?limit=500&continue={token}")));
        asking.push(async move {
            anyhow::Ok(scene.send(&mut viewer, Method::GET, &path, JSON, Bytes::new()).await?.code)
        });
    }
    let codes: Vec<u16> = stream::iter(asking).buffer_unordered(8).try_collect().await?;
    ensure!(codes.iter().all(|c| [200, 410, 429].contains(c)), "{codes:?}");
    Ok(crate::hostile::scene::tally(codes.iter().map(u16::to_string)))
}
