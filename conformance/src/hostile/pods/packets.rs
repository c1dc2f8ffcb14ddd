//! Packets that a pod writes byte by byte: in the name of others, and as a router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{AttachParams, LogParams};
use tokio::net::UdpSocket;

use super::play::{NAME, end, objects, start};
use super::{BASELINE, Ends, Pod};
use crate::hostile::book::{Attack, By, How};
use crate::hostile::calls;
use crate::hostile::scene::{Scene, tally};
use crate::netns::NODE_IP;

const ROW: Attack =
    Attack { name: "", findings: "", by: By::Pod, does: "", must: "", quick: false, how: How::Asks(&[]) };

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "packets in the name of others", findings: "security M14", does: "with default capabilities: packets to the node whose sources are the node, loopback, a Service, another pod and strangers", must: "only those with its own source arrive", how: How::Tenant(|s| Box::pin(spoofed(s))), ..ROW },
    Attack { name: "a router that is none", findings: "security M14; CVE-2020-10749", does: "with default capabilities: IPv6 router advertisements with a default route, a prefix and a DNS server, and redirects", must: "the node takes no route and no address of them", how: How::Tenant(|s| Box::pin(router(s))), ..ROW },
];

/// Has the program that makes system calls, and waits to be told which.
const TOOL: Pod = Pod {
    spec: r#"{"volumes":[{"name":"t","configMap":{"name":"t","defaultMode":493}}]}"#,
    container: r#"{"volumeMounts":[{"name":"t","mountPath":"/t"}]}"#,
    script: "cat /sys/class/net/eth0/ifindex; sleep 100000",
    objects: &[("configmaps", r#"{"metadata":{"name":"t"},"binaryData":{"call":"{call}"}}"#)],
    ends: Ends::Lasts(0),
    ..BASELINE
};

/// Makes system calls in the pod, and says whether they were made.
async fn makes(pods: &Api<k8s_openapi::api::core::v1::Pod>, words: &str) -> Result<bool> {
    let command = std::iter::once("/t/call").chain(words.split(' '));
    let mut session = pods.exec(NAME, command, &AttachParams::default().stdout(true).stderr(false)).await?;
    let status = session.take_status().context("a status")?.await.context("an end")?;
    Ok(status.status.as_deref() == Some("Success"))
}

/// The sum over 16-bit words that IP's protocols have.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 =
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

/// A datagram from whoever is named.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, port: u16, text: &[u8]) -> Vec<u8> {
    let length = |of: usize| u16::try_from(of).unwrap_or_default().to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(28 + text.len()));
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(5353_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(length(8 + text.len()));
    // Without a checksum, which IPv4 allows.
    packet.extend([0, 0]);
    packet.extend(text);
    packet
}

async fn spoofed(scene: &Scene<'_>) -> Result<String> {
    let node: Ipv4Addr = NODE_IP.parse()?;
    let socket = UdpSocket::bind((node, 0)).await?;
    let port = socket.local_addr()?.port();
    objects(scene, &TOOL).await?;
    let pods = start(scene, &TOOL).await?;
    let own = pods.get(NAME).await?.status.and_then(|s| s.pod_ip).context("an address")?;
    let own: Ipv4Addr = own.parse()?;
    let [a, b, c, d] = own.octets();
    let others = [
        node,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(10, 96, 0, 1),
        Ipv4Addr::new(a, b, c, d.wrapping_add(1)),
        Ipv4Addr::new(a, b, c, d.wrapping_sub(1)),
        Ipv4Addr::new(198, 51, 100, 7),
        Ipv4Addr::new(169, 254, 1, 1),
        Ipv4Addr::BROADCAST,
    ];
    let mut sent = vec![];
    // Its own comes last: when it is there, so is what was sent before.
    for from in others.into_iter().chain([own]) {
        let packet = datagram(from, node, port, from.to_string().as_bytes());
        let mut to = vec![2, 0, 0, 0];
        to.extend(node.octets());
        to.extend([0; 8]);
        let words = format!(
            "{{sys:socket}} 2 3 255 + {{sys:sendto}} % {} {} 0 {} 16",
            calls::bytes(&packet),
            packet.len(),
            calls::bytes(&to)
        );
        let made = makes(&pods, &scene.fill(&words)).await?;
        ensure!(made || from != own, "the pod cannot send at all");
        sent.push(if made { "sent" } else { "not sent" }.to_owned());
    }
    let mut came = vec![];
    let mut packet = [0; 100];
    while came.last() != Some(&own.to_string()) {
        let read = tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut packet)).await;
        let (length, from) = read.context("the pod's own packet does not come")??;
        came.push(String::from_utf8_lossy(&packet[..length]).into_owned());
        ensure!(came.last() != Some(&own.to_string()) || from.ip() == IpAddr::V4(own), "{from} is not {own}");
    }
    came.pop();
    ensure!(came.is_empty(), "packets came that say they are from {}", came.join(", "));
    end(&pods, Duration::from_secs(20)).await?;
    Ok(tally(sent))
}

/// A message of ICMPv6 as it is on the link, to all nodes there.
fn message(from: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let to: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let mut body = body.to_vec();
    let sum = checksum(&[&from.octets(), &to.octets(), &[0, 0], &length, &[0, 0, 0, 58], &body]);
    body[2..4].copy_from_slice(&sum);
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0xba, 0xd0, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length);
    frame.extend([58, 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(body);
    frame
}

/// A default route for half an hour, a prefix to make addresses of, a route and a DNS server (RFC 4861, 4191, 8106).
fn advertisement() -> Vec<u8> {
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets();
    let hour = 3600_u32.to_be_bytes();
    let mut body = vec![134, 0, 0, 0, 64, 0x08, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend([1, 1, 2, 0, 0, 0, 0xba, 0xd0]);
    body.extend([3, 4, 64, 0xc0]);
    body.extend(hour.into_iter().chain(hour).chain([0; 4]).chain(prefix));
    body.extend([24, 3, 48, 0x08]);
    body.extend(hour.into_iter().chain(prefix));
    body.extend([25, 3, 0, 0]);
    body.extend(hour.into_iter().chain(prefix));
    body
}

fn ipv6() -> Result<String> {
    let mut all = String::new();
    for what in [["-6", "route"], ["-6", "address"]] {
        let output = Command::new("ip").args(what).arg("show").output().context("running ip")?;
        all.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(all)
}

async fn router(scene: &Scene<'_>) -> Result<String> {
    objects(scene, &TOOL).await?;
    let pods = start(scene, &TOOL).await?;
    let index: u32 = pods.logs(NAME, &LogParams::default()).await?.trim().parse().context("an index")?;
    // A packet socket's address: its family, IPv6, the link, and nothing of the receiver, which the frame names.
    let mut to = vec![17, 0, 0x86, 0xdd];
    to.extend(index.to_ne_bytes());
    to.extend([0, 0, 0, 6, 0x33, 0x33, 0, 0, 0, 1, 0, 0]);
    let mut sent = vec![];
    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
    let mut redirect = vec![137, 0, 0, 0, 0, 0, 0, 0];
    redirect.extend(from.octets());
    redirect.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1).octets());
    for body in [advertisement(), redirect, advertisement()] {
        let frame = message(from, &body);
        let words = format!(
            "{{sys:socket}} 17 3 56710 + {{sys:sendto}} % {} {} 0 {} 20",
            calls::bytes(&frame),
            frame.len(),
            calls::bytes(&to)
        );
        sent.push(if makes(&pods, &scene.fill(&words)).await? { "sent" } else { "not sent" }.to_owned());
    }
    // The kernel takes them as they come; a route would be there at once.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let now = ipv6()?;
    let taken: Vec<&str> = now
        .lines()
        .filter(|l| l.contains("2001:db8:bad") || l.contains("via fe80::bad") || l.contains("proto ra"))
        .collect();
    ensure!(taken.is_empty(), "the node has taken {}", taken.join("; "));
    end(&pods, Duration::from_secs(20)).await?;
    Ok(tally(sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_sums_that_the_kernel_wants() {
        let packet = datagram(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), 53, b"x");
        assert_eq!(packet.len(), 29);
        // A whole with its sum in it sums up to nothing.
        assert_eq!(checksum(&[&packet[..20]]), [0, 0]);
        let frame = message(Ipv6Addr::LOCALHOST, &advertisement());
        let (addresses, body) = (&frame[22..54], &frame[54..]);
        let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
        assert_eq!(checksum(&[addresses, &[0, 0], &length, &[0, 0, 0, 58], body]), [0, 0]);
        assert_eq!(body.len() % 8, 0);
    }
}
