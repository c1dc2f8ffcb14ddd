//! `coracle down`: an end to what `up` left running, and with `--purge` to every trace of it.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, bail};

use crate::cli::Down;
use crate::cluster_facts::ClusterFacts;
use crate::data_dir::Layout;
use crate::progress::Progress;

/// Removes a directory. What somebody has mounted there stays as an empty place: it is not ours to unmount.
fn clear(dir: &Path) -> io::Result<&'static str> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok("removed"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("removed"),
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy && fs::read_dir(dir)?.next().is_none() => {
            Ok("emptied (it is a mount point)")
        }
        Err(e) => Err(e),
    }
}

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
        for dir in [layout.data.clone(), layout.run.clone()] {
            let (shown, told) = (dir.display().to_string(), dir == layout.data);
            let left = tokio::task::spawn_blocking(move || clear(&dir)).await?;
            let left = left.with_context(|| format!("removing {shown}"))?;
            if told {
                progress.step(format_args!("{shown} {left}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount, umount};

    use super::*;

    #[test]
    fn directories_go_and_mount_points_are_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("a/b")).unwrap();
        assert_eq!(clear(&data).unwrap(), "removed");
        assert_eq!(clear(&data).unwrap(), "removed", "once more does no harm");
        fs::create_dir(&data).unwrap();
        if mount(Some("tmpfs"), &data, Some("tmpfs"), MsFlags::empty(), None::<&str>).is_err() {
            return eprintln!("skipped: nothing can be mounted here");
        }
        fs::create_dir_all(data.join("a/b")).unwrap();
        fs::write(data.join("a/file"), "x").unwrap();
        let cleared = clear(&data);
        let left = fs::read_dir(&data).unwrap().count();
        // One deeper is in the way of everything: that is an error.
        fs::create_dir_all(data.join("deep")).unwrap();
        mount(Some("tmpfs"), &data.join("deep"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let deep = clear(&data);
        umount(&data.join("deep")).unwrap();
        umount(&data).unwrap();
        assert_eq!((cleared.unwrap(), left), ("emptied (it is a mount point)", 0));
        assert!(deep.is_err());
    }
}
