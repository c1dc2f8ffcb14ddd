//! Removing every trace of a node: containers, mounts, namespaces, cgroups, links, routes, addresses and nft tables.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Context;

use crate::{net, node_shutdown, runtime, volumes};

/// Removes what a node with these directories has left. No node may be running on them.
pub async fn purge(
    state_dir: &Path,
    run_dir: &Path,
    cgroup_root: &str,
    cluster_dns: Option<IpAddr>,
) -> anyhow::Result<()> {
    // A root of its own goes with everything in it; the machine's keeps what others put there.
    let cgroup = if cgroup_root == "/" { "/kubepods" } else { cgroup_root };
    runtime::purge(&state_dir.join("runtime"), run_dir, cgroup).await.context("containers")?;
    let pods = state_dir.join("pods");
    tokio::task::spawn_blocking(move || volumes::clean_up(&pods)).await?.context("volumes")?;
    let local: Vec<Ipv4Addr> = match cluster_dns {
        Some(IpAddr::V4(ip)) => vec![ip],
        Some(IpAddr::V6(_)) | None => vec![],
    };
    node_shutdown::forget_settings().context("settings of logind")?;
    net::purge(&local).await.context("pod network")
}
