//! Many connections, and what is not HTTP on them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::hostile::book::By;
use crate::hostile::scene::{Scene, address, tally};
use crate::netns::NODE_IP;

/// Source addresses that attackers share.
const ADDRESSES: usize = 40;
/// How many connections are opened at a time.
const AT_ONCE: usize = 64;
/// The kubelet's port.
pub(super) const KUBELET: u16 = 10250;

/// A connection from one of the attackers' addresses to a port of the node.
pub(super) async fn open(port: u16, from: IpAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    // The node's own address, reached by an address of loopback, as from another machine.
    let to = SocketAddr::new(NODE_IP.parse()?, port);
    let opened = tokio::time::timeout(Duration::from_secs(10), socket.connect(to)).await;
    Ok(opened.context("no connection in 10 s")??)
}

async fn open_many(port: u16, count: usize) -> Vec<TcpStream> {
    let opening = (0..count).map(|n| open(port, address(n % ADDRESSES)));
    stream::iter(opening)
        .buffer_unordered(AT_ONCE)
        .filter_map(|opened| std::future::ready(opened.ok()))
        .collect()
        .await
}

/// How many of these connections the other side has closed.
async fn closed(connections: &mut [TcpStream]) -> usize {
    let mut closed = 0;
    for connection in connections {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(1), connection.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    closed
}

async fn held(scene: &Scene<'_>, mut connections: Vec<TcpStream>, asked: usize) -> Result<String> {
    ensure!(!connections.is_empty(), "no connection was opened");
    scene.hold().await;
    let opened = connections.len();
    Ok(format!("{opened} of {asked} opened, {} closed by the server", closed(&mut connections).await))
}

pub(super) async fn silent(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(10_000, 1_500);
    let connections = open_many(scene.arena.admin.port(), count).await;
    held(scene, connections, count).await
}

pub(super) async fn silent_tls(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(10_000, 300);
    let peer = scene.endpoint(By::Peer)?;
    let peer = &peer;
    let shaking = (0..count).map(|n| async move {
        let protocol: &[u8] = if n % 2 == 0 { b"h2" } else { b"http/1.1" };
        let shaken =
            tokio::time::timeout(Duration::from_secs(20), peer.tls(protocol, Some(address(n % ADDRESSES))));
        shaken.await.ok()?.ok()
    });
    let held: Vec<_> =
        stream::iter(shaking).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    ensure!(!held.is_empty(), "no handshake was finished");
    scene.hold().await;
    Ok(format!("{} of {count} handshakes were finished", held.len()))
}

pub(super) async fn half_a_handshake(scene: &Scene<'_>) -> Result<String> {
    // The head of a record that promises a ClientHello.
    const RECORD: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    let mut connections = open_many(scene.arena.admin.port(), scene.amount(500, 50)).await;
    let mut refused = 0;
    for byte in RECORD.into_iter().chain([0; 20]) {
        for connection in &mut connections {
            refused += usize::from(connection.write_all(&[byte]).await.is_err());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let closed = closed(&mut connections).await;
    ensure!(closed == connections.len(), "{closed} of {} were closed after 14 s", connections.len());
    Ok(format!("{closed} closed, {refused} writes refused"))
}

pub(super) async fn no_tls(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(2_000, 300);
    let port = scene.arena.admin.port();
    let said = (0..count).map(|n| async move {
        let Ok(mut connection) = open(port, address(n % ADDRESSES)).await else {
            return "not opened".to_owned();
        };
        let bytes: Vec<u8> = match n % 3 {
            0 => b"GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            1 => (0..2000_usize).map(|i| u8::try_from((i * (n + 7)) % 251).unwrap_or_default()).collect(),
            _ => vec![0xff; 70_000],
        };
        let _ = connection.write_all(&bytes).await;
        let mut answer = vec![];
        let read = connection.read_to_end(&mut answer);
        match tokio::time::timeout(Duration::from_secs(15), read).await {
            Ok(_) if answer.starts_with(b"HTTP/1.1 200") => "answered".to_owned(),
            Ok(_) => "closed".to_owned(),
            Err(_) => "left open".to_owned(),
        }
    });
    let said: Vec<String> = stream::iter(said).buffer_unordered(AT_ONCE).collect().await;
    let said = tally(said);
    ensure!(!said.contains("answered") && !said.contains("left open"), "{said}");
    Ok(said)
}

pub(super) async fn handshakes(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(2_000, 200);
    let peer = scene.endpoint(By::Peer)?;
    let peer = &peer;
    let shaking =
        (0..count).map(|n| async move { peer.tls(b"h2", Some(address(n % ADDRESSES))).await.is_ok() });
    let done = stream::iter(shaking).buffer_unordered(20).filter(|ok| std::future::ready(*ok)).count().await;
    Ok(format!("{done} of {count} were finished"))
}

pub(super) async fn resets(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(5_000, 500);
    let port = scene.arena.admin.port();
    let opening = (0..count).map(|n| async move {
        let Ok(connection) = open(port, address(n % ADDRESSES)).await else { return false };
        nix::sys::socket::setsockopt(
            &connection,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .is_ok()
    });
    let done =
        stream::iter(opening).buffer_unordered(AT_ONCE).filter(|ok| std::future::ready(*ok)).count().await;
    Ok(format!("{done} of {count} opened and reset"))
}

pub(super) async fn kubelet(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(1_000, 300);
    let connections = open_many(KUBELET, count).await;
    // The API server still reaches it: a page that goes through the node's proxy.
    let mut admin = scene.connect(By::Operator).await?;
    let page =
        scene.send(&mut admin, Method::GET, "/api/v1/nodes/n1/proxy/healthz", "", Bytes::new()).await?;
    ensure!(page.code == 200, "the kubelet's page through the API server: {}", page.code);
    held(scene, connections, count).await
}

pub(super) async fn kubelet_pages(scene: &Scene<'_>) -> Result<String> {
    const PAGES: [(&str, &str); 14] = [
        ("GET", "/pods"),
        ("GET", "/runningpods/"),
        ("GET", "/metrics"),
        ("GET", "/metrics/cadvisor"),
        ("GET", "/stats/summary"),
        ("GET", "/configz"),
        ("GET", "/logs/"),
        ("GET", "/logs/?query=%24(id)"),
        ("GET", "/logs/..%2f..%2f..%2fetc/shadow"),
        ("GET", "/containerLogs/kube-system/x/y"),
        ("POST", "/exec/kube-system/x/y?command=id&output=1"),
        ("POST", "/run/kube-system/x/y?cmd=id"),
        ("POST", "/portForward/kube-system/x"),
        ("POST", "/checkpoint/kube-system/x/y"),
    ];
    // CVE-2025-0426: what needs no name elsewhere, and the pages of profilers.
    for port in [10255, 4194, 6060] {
        ensure!(open(port, address(1)).await.is_err(), "something listens at port {port}");
    }
    let mut codes = vec![];
    for by in [By::Peer, By::Viewer, By::Tenant, By::Owner, By::Node] {
        let endpoint = scene.endpoint(by)?.at(NODE_IP, KUBELET)?;
        for (method, path) in PAGES {
            // Ten answers 401 in a row end a connection.
            let mut connection = endpoint.connect().await?;
            let answer = connection.exchange(method.parse()?, path, &[], Bytes::new()).await?;
            // What is not there at all needs no credentials.
            ensure!([401, 403, 404].contains(&answer.code), "{method} {path} as {by}: {}", answer.code);
            ensure!(by != By::Peer || answer.code != 404 || path.starts_with("/run/"), "{path} as {by}: 404");
            codes.push(answer.code.to_string());
        }
    }
    Ok(tally(codes))
}
