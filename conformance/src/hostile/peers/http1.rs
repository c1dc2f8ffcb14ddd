//! HTTP/1.1 as no client speaks it.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::hostile::book::By;
use crate::hostile::scene::{Scene, address, tally};

const PATIENCE: Duration = Duration::from_secs(10);

pub(in crate::hostile) async fn open(scene: &Scene<'_>, by: By, n: usize) -> Result<TlsStream<TcpStream>> {
    scene.endpoint(by)?.tls(b"http/1.1", Some(address(n))).await
}

/// What comes back until the other side closes or has nothing more to say.
pub(in crate::hostile) async fn heard(stream: &mut TlsStream<TcpStream>) -> String {
    let (mut all, mut piece) = (vec![], [0; 4096]);
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut piece)).await
        && n > 0
        && all.len() < 100_000
    {
        all.extend(&piece[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The first line of an answer.
fn first_line(answer: &str) -> String {
    let line = answer.lines().next().unwrap_or("closed");
    line.trim_start_matches("HTTP/1.1 ").to_owned()
}

pub(super) async fn slow_heads(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(200, 20);
    let opening = (0..count).map(|n| open(scene, By::Peer, n));
    let mut streams: Vec<_> = stream::iter(opening)
        .buffer_unordered(20)
        .filter_map(|opened| std::future::ready(opened.ok()))
        .collect()
        .await;
    let mut refused = 0;
    for byte in b"GET /version HTTP/1.1\r\nHost: x\r\nX-Padding: aaaaaaaa" {
        for stream in &mut streams {
            refused += usize::from(stream.write_all(&[*byte]).await.is_err());
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    Ok(format!("{} heads begun, {refused} writes refused", streams.len()))
}

pub(super) async fn huge_heads(scene: &Scene<'_>) -> Result<String> {
    let one = format!("GET /version HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "a".repeat(1 << 20));
    let many: String = (0..20_000).map(|n| format!("X-{n}: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")).collect();
    let many = format!("GET /version HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let mut said = vec![];
    for head in [one, many, path] {
        let mut stream = open(scene, By::Peer, 1).await?;
        // It is closed in the middle, most likely.
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(head.as_bytes())).await;
        let line = first_line(&heard(&mut stream).await);
        ensure!(line == "closed" || line.starts_with('4'), "a head of 1 MB: {line}");
        said.push(line);
    }
    Ok(tally(said))
}

pub(super) async fn smuggled(scene: &Scene<'_>) -> Result<String> {
    // Whoever takes the second length, or none, sees a request for a page that says `smuggled` in its path.
    const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = INNER.len() + 5;
    let cases = [
        format!(
            "POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}"
        ),
        format!(
            "POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{INNER}"
        ),
        format!(
            "POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{INNER}"
        ),
        format!(
            "POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{INNER}"
        ),
        format!("POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: +{length}\r\n\r\n{INNER}"),
        format!(
            "POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0;{}\r\n\r\n{INNER}",
            "x".repeat(100_000)
        ),
        "POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
            .to_owned(),
        format!("GET /version HTTP/1.1\r\nHost: x\r\nX: y\n\r\n {INNER}"),
    ];
    let mut said = vec![];
    for (n, case) in cases.iter().enumerate() {
        let mut stream = open(scene, By::Peer, 2).await?;
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(case.as_bytes())).await;
        let answer = heard(&mut stream).await;
        // A body in chunks that is understood is followed by a request of the client's own: that is no smuggling.
        ensure!(n == 0 || n == 5 || !answer.contains("smuggled"), "request {n} was two: {answer}");
        said.push(first_line(&answer));
    }
    Ok(tally(said))
}

pub(super) async fn pipelined(scene: &Scene<'_>) -> Result<String> {
    let requests = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10_000);
    let (mut held, mut taken) = (vec![], 0);
    for n in 0..scene.amount(20, 3) {
        let mut stream = open(scene, By::Peer, n).await?;
        let write = tokio::time::timeout(Duration::from_secs(1), stream.write_all(requests.as_bytes()));
        taken += usize::from(matches!(write.await, Ok(Ok(()))));
        held.push(stream);
    }
    scene.hold().await;
    Ok(format!("{taken} of {} took all requests", held.len()))
}

pub(super) async fn trickle(scene: &Scene<'_>) -> Result<String> {
    let mut streams = vec![];
    for n in 0..scene.amount(200, 20) {
        let mut stream = open(scene, By::Tenant, n).await?;
        let token = scene.endpoint(By::Tenant)?.token().unwrap_or_default().to_owned();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            scene.path("configmaps")
        );
        stream.write_all(head.as_bytes()).await?;
        streams.push(stream);
    }
    let mut refused = 0;
    for _ in 0..scene.amount(60, 5) {
        for stream in &mut streams {
            refused += usize::from(stream.write_all(b"1\r\n \r\n").await.is_err());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(format!("{} bodies begun, {refused} writes refused", streams.len()))
}
