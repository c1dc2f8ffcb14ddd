//! The cluster DNS: connections that say nothing, and questions that are none.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::hostile::scene::{Scene, address};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10)), 53);
/// A name that is always there.
const KNOWN: &str = "kubernetes.default.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(5);

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len().min(63)).unwrap_or(63));
        message.extend(&label.as_bytes()[..label.len().min(63)]);
    }
    // The root, then: an address, of the Internet.
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Somebody else's question; it must be answered.
async fn answered_over_udp() -> Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(address(50_001), 0)).await?;
    let mut answer = [0; 512];
    // As resolvers do: ask again after a while.
    for _ in 0..3 {
        socket.send_to(&question(7, KNOWN), SERVER).await?;
        if let Ok(Ok((n, _))) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut answer)).await {
            ensure!(n > 12 && answer[7] > 0, "the answer to {KNOWN} has no record");
            return Ok(());
        }
    }
    anyhow::bail!("{KNOWN} is not answered over UDP")
}

async fn connect(from: IpAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    Ok(tokio::time::timeout(PATIENCE, socket.connect(SERVER)).await.context("no connection")??)
}

async fn answered_over_tcp() -> Result<()> {
    let mut stream = connect(address(50_002)).await?;
    let message = question(7, KNOWN);
    let length = u16::try_from(message.len())?.to_be_bytes();
    stream.write_all(&[&length[..], &message].concat()).await?;
    let answer = tokio::time::timeout(PATIENCE, stream.read_u16()).await;
    let length = answer.with_context(|| format!("{KNOWN} is not answered over TCP"))??;
    ensure!(length > 12, "an empty answer");
    Ok(())
}

pub(super) async fn silent(scene: &Scene<'_>) -> Result<String> {
    let count = scene.amount(1_000, 300);
    let mut held = vec![];
    // A pod has one address, and cannot take another's.
    for _ in 0..count {
        held.extend(connect(address(1)).await.ok());
    }
    answered_over_udp().await?;
    answered_over_tcp().await?;
    scene.hold().await;
    answered_over_tcp().await?;
    Ok(format!("{} of {count} opened; others were answered", held.len()))
}

pub(super) async fn questions(scene: &Scene<'_>) -> Result<String> {
    let count = u16::try_from(scene.amount(20_000, 1_000))?;
    let socket = UdpSocket::bind(SocketAddr::new(address(2), 0)).await?;
    for n in 0..count {
        let message = match n % 5 {
            0 => question(n, &format!("x{n}.evil.svc.cluster.local")),
            1 => question(n, &format!("{}.{n}.example.com", "a".repeat(60))),
            // A name that points to itself.
            2 => [&n.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1]].concat(),
            // Sixty thousand questions are promised.
            3 => [&n.to_be_bytes()[..], &[1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, b'x', 0]]
                .concat(),
            _ => vec![0xff; usize::from(n % 600)],
        };
        let _ = socket.send_to(&message, SERVER).await;
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
        if n % 5_000 == 0 {
            answered_over_udp().await?;
        }
    }
    answered_over_udp().await?;
    answered_over_tcp().await?;
    Ok(format!("{count} questions; others were answered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_its_labels() {
        assert_eq!(question(1, "a.bc")[12..], *b"\x01a\x02bc\x00\x00\x01\x00\x01");
    }
}
