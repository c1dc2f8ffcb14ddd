//! WebSocket frame by frame, in sessions with a container: what a well-behaved library would not send.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::play::{NAME, end, start};
use super::{BASELINE, Ends, Pod};
use crate::hostile::book::{Attack, By, How};
use crate::hostile::peers::http1;
use crate::hostile::scene::{Scene, tally};

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Tenant,
    does: "",
    must: "closed, or no more is kept than a bound; gone with the pod",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "WebSocket pings", findings: "issue 11.4; CVE-2019-9512's kin", does: "200,000 pings in each of 4 sessions, whose answers are not read in two of them", how: How::Tenant(|s| Box::pin(pings(s))), ..ROW },
    Attack { name: "a WebSocket message without end", findings: "issue 11.4", does: "fragments of 16 KB that never end, up to 512 MB", how: How::Tenant(|s| Box::pin(endless(s))), ..ROW },
    Attack { name: "WebSocket frames that lie", findings: "issue 11.4", does: "lengths of 8 exabytes, frames without a mask, unknown opcodes and channels, pings beyond their size, text that is none", must: "the session ends, or goes on without", how: How::Tenant(|s| Box::pin(lies(s))), ..ROW },
    Attack { name: "terminals resized without a pause", findings: "issue 11.4", does: "100,000 sizes of a terminal, among them 65535 by 65535 and what is no size", how: How::Tenant(|s| Box::pin(resizes(s))), ..ROW },
];

const SLEEPS: Pod = Pod { spec: "{}", script: "sleep 100000", ends: Ends::Lasts(0), ..BASELINE };
const GONE_WITHIN: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);

const CONTINUES: u8 = 0;
const BINARY: u8 = 2;
const PING: u8 = 9;
const LAST: u8 = 0x80;

/// A frame of a client's: masked, by a mask of nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => bytes.push(0x80 | short.to_be_bytes()[1]),
        Ok(length) => bytes.extend([&[0x80 | 126][..], &length.to_be_bytes()].concat()),
        Err(_) => bytes.extend([&[0x80 | 127][..], &(payload.len() as u64).to_be_bytes()].concat()),
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A session with `cat`, upgraded by hand.
async fn session(scene: &Scene<'_>, n: usize, more: &str) -> Result<TlsStream<TcpStream>> {
    let mut stream = http1::open(scene, By::Tenant, n).await?;
    let token = scene.endpoint(By::Tenant)?.token().unwrap_or_default().to_owned();
    let path = scene.path(&format!("pods/{NAME}/exec?container=c&command=cat&stdin=true&stdout=true{more}"));
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = vec![];
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < 4096 {
        answer.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await??);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 101"), "no session: {}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

/// Sends until all is sent or the other side has had enough; how many were taken. What comes is read where that is wanted.
async fn flood(
    stream: TlsStream<TcpStream>,
    reads: bool,
    count: usize,
    make: impl Fn(usize) -> Vec<u8>,
) -> (usize, TlsStream<TcpStream>) {
    const TOGETHER: usize = 100;
    let (mut read, mut write) = tokio::io::split(stream);
    let mut piece = vec![0; 1 << 16];
    let mut taken = count;
    for n in (0..count).step_by(TOGETHER) {
        let bytes: Vec<u8> = (n..(n + TOGETHER).min(count)).flat_map(&make).collect();
        let writing = tokio::time::timeout(PATIENCE, write.write_all(&bytes));
        tokio::pin!(writing);
        let written = loop {
            tokio::select! {
                written = &mut writing => break matches!(written, Ok(Ok(()))),
                got = read.read(&mut piece), if reads => if !matches!(got, Ok(1..)) { break false },
            }
        };
        if !written {
            taken = n;
            break;
        }
    }
    (taken, read.unsplit(write))
}

async fn pings(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let count = scene.amount(200_000, 2_000);
    let flooding = (0..4).map(|n| async move {
        let stream = session(scene, n, "").await?;
        anyhow::Ok(flood(stream, n % 2 == 0, count, |_| frame(LAST | PING, &[b'x'; 125])).await)
    });
    let sessions = futures::future::try_join_all(flooding).await?;
    scene.hold().await;
    let taken: Vec<String> = sessions.iter().map(|(taken, _)| taken.to_string()).collect();
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{} of {count} taken; the pod went in {:.1} s", taken.join(", "), took.as_secs_f64()))
}

async fn endless(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let count = scene.amount(32_768, 2_048);
    let stream = session(scene, 1, "").await?;
    let (taken, held) = flood(stream, true, count, |n| match n {
        0 => frame(BINARY, &[0; 16 << 10]),
        _ => frame(CONTINUES, &[b'x'; 16 << 10]),
    })
    .await;
    scene.hold().await;
    drop(held);
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{} of {} MB taken; the pod went in {:.1} s", taken / 64, count / 64, took.as_secs_f64()))
}

async fn lies(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let long = |first: u8, length: u64| {
        let mut bytes = vec![first, 0x80 | 127];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 1000]);
        bytes
    };
    let cases = [
        long(LAST | BINARY, u64::MAX),
        long(LAST | BINARY, 1 << 62),
        long(LAST | BINARY, 1 << 40),
        long(LAST | PING, 1 << 20),
        vec![LAST | BINARY, 3, 0, b'a', b'b'],
        frame(LAST | 3, b"\0x"),
        frame(LAST | 0x70 | BINARY, b"\0x"),
        frame(LAST | CONTINUES, b"\0x"),
        frame(PING, b"x"),
        frame(LAST | BINARY, b""),
        frame(LAST | BINARY, b"\xffx"),
        frame(LAST | BINARY, b"\x01x"),
        frame(LAST | BINARY, b"\x03{\"status\":\"Success\"}"),
        frame(LAST | BINARY, b"\x04{\"Width\":-1,\"Height\":99999999999}"),
        frame(LAST | 1, b"\xff\xfe\xfd"),
        frame(LAST | 8, b"\xff"),
        frame(LAST | 8, &[0x03; 126]),
    ];
    let mut said = vec![];
    for (n, case) in cases.iter().enumerate() {
        let mut stream = session(scene, n, "").await?;
        stream.write_all(case).await?;
        let mut answer = vec![];
        let read = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
        ensure!(answer.len() < 4096, "case {n}: {} bytes came back", answer.len());
        said.push(if read.is_ok() { "closed" } else { "goes on" }.to_owned());
    }
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{}; the pod went in {:.1} s", tally(said), took.as_secs_f64()))
}

async fn resizes(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let count = scene.amount(100_000, 2_000);
    let stream = session(scene, 1, "&tty=true").await?;
    let (taken, held) = flood(stream, true, count, |n| {
        let size = match n % 3 {
            0 => "\x04{\"Width\":65535,\"Height\":65535}".to_owned(),
            1 => format!("\x04{{\"Width\":{n},\"Height\":1e99}}"),
            _ => format!("\x04{{\"Width\":{},\"Height\":1}}", n % 500),
        };
        frame(LAST | BINARY, size.as_bytes())
    })
    .await;
    scene.hold().await;
    drop(held);
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{taken} of {count} taken; the pod went in {:.1} s", took.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_standard_has_them() {
        assert_eq!(frame(LAST | PING, b"ab"), [0x89, 0x82, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(frame(BINARY, &[0; 126])[..4], [2, 0xfe, 0, 126]);
        assert_eq!(frame(BINARY, &[0; 1 << 16])[..10], [2, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
