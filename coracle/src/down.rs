//! `coracle down`: an end to what `up` left running, and with `--purge` to every trace of it.

use anyhow::{Context, Result, bail};

use crate::cli::Down;
use crate::cluster_facts::ClusterFacts;
use crate::data_dir::Layout;
use crate::progress::Progress;

pub async fn run(down: &Down) -> Result<()> {
    let layout = Layout::of(down.data.data_dir.as_deref())?;
    let progress = Progress::begin();
    if layout.in_use()? {
        bail!(
            "a cluster is up on {}: end it first (SIGTERM, or Ctrl-C where it runs)",
            layout.data.display()
        );
    }
    if nix::unistd::geteuid().is_root() {
        let dns = ClusterFacts::of(&layout)?.map(|facts| facts.cluster_dns);
        coracle_kubelet::purge(&layout.node(), &layout.run, &layout.cgroup_root(), dns)
            .await
            .context("removing pods")?;
        progress.step("pods, mounts, namespaces, links, nft table and cgroups removed");
    }
    if down.purge {
        for dir in [&layout.data, &layout.run] {
            match tokio::fs::remove_dir_all(dir).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("removing {}", dir.display()));
                }
                _ => {}
            }
        }
        progress.step(format_args!("{} removed", layout.data.display()));
    }
    Ok(())
}
