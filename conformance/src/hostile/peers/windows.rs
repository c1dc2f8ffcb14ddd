//! Games with what HTTP/2 lets a peer decide: windows, tables, kinds of frames.

use anyhow::{Result, ensure};

use super::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, Peer, SETTINGS, WINDOW_UPDATE, frame, literal,
};
use super::http2::said;
use crate::hostile::book::By;
use crate::hostile::scene::{Scene, address};

/// The setting that bounds the table of headers of the other side.
const TABLE_SIZE: u16 = 1;
/// As far as a window may be opened.
const MOST: u32 = 0x7fff_ffff;

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// Large answers, of which each byte is asked for by itself.
pub(super) async fn dribble(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(1_000, 50);
    let mut peers = vec![];
    for n in 0..scene.amount(20, 2) {
        let mut peer =
            Peer::open(&scene.endpoint(By::Viewer)?, Some(address(n)), &[(INITIAL_WINDOW, 1)]).await?;
        let mut streams = vec![];
        for _ in 0..20 {
            streams.push(peer.ask("GET", "/openapi/v2", &[], END_STREAM).await?);
        }
        peers.push((peer, streams));
    }
    let mut taken = 0;
    for (peer, streams) in &mut peers {
        taken += peer
            .flood(count * streams.len(), |_, n| {
                frame(WINDOW_UPDATE, 0, streams[n % streams.len()], &1_u32.to_be_bytes())
            })
            .await;
    }
    scene.hold().await;
    let data: usize = peers.iter().map(|(peer, _)| peer.seen().data).sum();
    ensure!(data <= taken + peers.len() * 20, "{data} bytes came for windows of {taken}");
    Ok(format!("{taken} windows of a byte on {} connections, {data} bytes came", peers.len()))
}

/// Updates without a pause, and at last beyond what a window may be.
pub(super) async fn updates(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(200_000, 5_000);
    let mut peer = Peer::open(&scene.endpoint(By::Peer)?, Some(address(4)), &[]).await?;
    let stream = peer.ask("GET", "/version", &[], END_STREAM).await?;
    let taken = peer
        .flood(count, |_, n| {
            // The stream has ended long since.
            frame(WINDOW_UPDATE, 0, if n % 2 == 0 { 0 } else { stream }, &1_u32.to_be_bytes())
        })
        .await;
    if taken == count {
        peer.send(&frame(WINDOW_UPDATE, 0, 0, &MOST.to_be_bytes())).await.ok();
        // What is on its way is still to be noticed.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let seen = peer.seen();
        ensure!(seen.goaway.is_some() || seen.closed, "a window beyond all bounds was taken");
    }
    Ok(said("WINDOW_UPDATE", taken, count, &peer.seen()))
}

/// Each setting of the window is one for every stream that waits.
pub(super) async fn resized(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(100_000, 5_000);
    let mut peer = Peer::open(&scene.endpoint(By::Viewer)?, Some(address(5)), &[(INITIAL_WINDOW, 0)]).await?;
    for _ in 0..200 {
        peer.ask("GET", "/openapi/v2", &[], END_STREAM).await?;
    }
    let taken =
        peer.flood(count, |_, n| setting(INITIAL_WINDOW, u32::try_from(n % 2).unwrap_or_default())).await;
    Ok(said("windows of 200 streams", taken, count, &peer.seen()))
}

/// A table that is emptied and grows with each request.
pub(super) async fn tables(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(20_000, 2_000);
    let mut peer = Peer::open(&scene.endpoint(By::Peer)?, Some(address(6)), &[]).await?;
    let taken = peer
        .flood(count, |peer, n| {
            let (block, stream) = (peer.head("GET", "/version", &[]), peer.stream());
            let mut bytes = setting(TABLE_SIZE, if n % 2 == 0 { 0 } else { u32::MAX });
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
            bytes
        })
        .await;
    Ok(said("tables", taken, count, &peer.seen()))
}

/// Headers of no length, which cost a place each.
pub(super) async fn empty_headers(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(5_000, 500);
    let mut peer = Peer::open(&scene.endpoint(By::Peer)?, Some(address(7)), &[]).await?;
    let taken = peer
        .flood(count, |peer, _| {
            let (mut block, stream) = (peer.head("GET", "/version", &[]), peer.stream());
            block.extend(literal("", "").repeat(4_000));
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
        })
        .await;
    Ok(said("heads of 4,000 empty headers", taken, count, &peer.seen()))
}

/// Frames that are to be passed over, and data that is padding only.
pub(super) async fn nothing(scene: &Scene<'_>) -> Result<String> {
    const PADDED: u8 = 8;
    let count = scene.amount(20_000, 2_000);
    let mut peer = Peer::open(&scene.endpoint(By::Peer)?, Some(address(8)), &[]).await?;
    let stream = peer.ask("POST", "/version", &[], 0).await?;
    let mut padding = vec![255];
    padding.resize(256, 0);
    let taken = peer
        .flood(count, |_, n| match n % 2 {
            0 => frame(DATA, PADDED, stream, &padding),
            _ => frame(u8::try_from(0x20 + n % 200).unwrap_or(0x20), 0xff, 0, &[0; 4_096]),
        })
        .await;
    Ok(said("frames of nothing", taken, count, &peer.seen()))
}
