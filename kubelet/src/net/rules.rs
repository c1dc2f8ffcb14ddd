//! The nftables rules of the pod network itself: masquerade of what leaves the cluster, and host ports.
//!
//! `render` is pure; `apply` hands text to `nft` in one transaction.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{NetConfig, NetError};

pub(super) const TABLE: &str = "coracle_pods";

/// Transport protocols of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

/// A container port that is reachable on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// `None` for every address of the node (empty or `0.0.0.0` in the pod).
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

// === impl Protocol ===

impl Protocol {
    /// As in a container port or a Service port; empty means TCP.
    pub fn parse(name: &str) -> Option<Protocol> {
        match name {
            "TCP" | "" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// As nft and conntrack write it.
    pub fn lower(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// The whole table, replaced at once.
pub(super) fn render<'a>(
    config: &NetConfig,
    ports: impl Iterator<Item = (Ipv4Addr, &'a HostPort)>,
) -> Result<String, std::fmt::Error> {
    let (mut any, mut bound) = (BTreeMap::new(), BTreeMap::new());
    for (pod, port) in ports {
        let key = format!("{} . {}", port.protocol.lower(), port.host_port);
        let target = format!("{pod} . {}", port.container_port);
        match port.host_ip {
            Some(ip) => bound.insert(format!("{ip} . {key}"), target),
            None => any.insert(key, target),
        };
    }
    let mut out = String::new();
    writeln!(out, "add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{")?;
    map(&mut out, "any_port", "inet_proto . inet_service", &any)?;
    map(&mut out, "bound_port", "ipv4_addr . inet_proto . inet_service", &bound)?;
    host_port_chains(&mut out, config)?;
    masquerade_chain(&mut out, config)?;
    out.push_str("}\n");
    Ok(out)
}

fn map(out: &mut String, name: &str, key: &str, elements: &BTreeMap<String, String>) -> std::fmt::Result {
    writeln!(out, "  map {name} {{\n    type {key} : ipv4_addr . inet_service")?;
    if !elements.is_empty() {
        let list: Vec<_> = elements.iter().map(|(k, v)| format!("{k} : {v}")).collect();
        writeln!(out, "    elements = {{ {} }}", list.join(", "))?;
    }
    writeln!(out, "  }}")
}

/// Host ports are for new connections to the node's own addresses. A pod of this node, and a program of the node
/// that speaks from loopback, must get the answer through the node: those are marked for a source change. Links by which
/// pods are reached route loopback addresses (`route_localnet`) for such programs alone: nothing that comes in from outside is from
/// there, or begins anything there (CVE-2020-8558).
fn host_port_chains(out: &mut String, config: &NetConfig) -> std::fmt::Result {
    write!(
        out,
        "  chain host_ports {{
    meta l4proto != {{ tcp, udp, sctp }} return
    ip saddr {{ {pods}, 127.0.0.0/8 }} meta mark set meta mark or 0x4000
    dnat ip to ip daddr . meta l4proto . th dport map @bound_port
    dnat ip to meta l4proto . th dport map @any_port
    meta mark set meta mark and 0xffffbfff
  }}
  chain prerouting {{
    type nat hook prerouting priority -101; policy accept
    fib daddr type local jump host_ports
  }}
  chain output {{
    type nat hook output priority -101; policy accept
    fib daddr type local jump host_ports
  }}
  chain raw {{
    type filter hook prerouting priority -300; policy accept
    iifname != \"lo\" ip saddr 127.0.0.0/8 drop
  }}
  chain input {{
    type filter hook input priority 0; policy accept
    iifname != \"lo\" ip daddr 127.0.0.0/8 ct state {{ invalid, new, untracked }} drop
  }}
",
        pods = config.pod_cidr
    )
}

fn masquerade_chain(out: &mut String, config: &NetConfig) -> std::fmt::Result {
    write!(
        out,
        "  chain postrouting {{
    type nat hook postrouting priority 100; policy accept
    meta mark & 0x4000 != 0 oifname != \"lo\" snat ip to {node}
    ip saddr {pods} ip daddr != {cluster} fib daddr type != local oifname != \"lo\" masquerade
  }}
",
        node = config.node_ip,
        pods = config.pod_cidr,
        cluster = config.cluster_cidr,
    )
}

/// Runs `nft -f -`: everything or nothing.
pub async fn apply(text: &str) -> Result<(), NetError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NetError::NftMissing)?;
    // It waits for its text, so this comes before whatever it does.
    child.id().into_iter().for_each(super::nft_events::note_own);
    let mut stdin = child.stdin.take().expect("stdin was asked for above");
    let written = stdin.write_all(text.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        return Err(NetError::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(written?)
}
