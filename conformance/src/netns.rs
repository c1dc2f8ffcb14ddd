//! A network namespace for a cluster and its clients: nothing they do reaches the machine's own network.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// An address for documentation (RFC 5737), given to `lo`: the node's address inside.
pub const NODE_IP: &str = "192.0.2.1";

/// A namespace made for this process; it goes when this value is dropped.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    file: PathBuf,
    outside: File,
}

/// Moves the calling process (it must have one thread) into a new namespace with `lo`, a node address and a default route
/// that leads nowhere. Needs root.
pub fn enter_new() -> Result<Namespace> {
    ensure!(nix::unistd::geteuid().is_root(), "the node's checks make network namespaces: run them as root");
    let name = format!("coracle-check-{}", std::process::id());
    let outside = File::open("/proc/self/ns/net")?;
    fs::create_dir_all("/run/netns")?;
    let file = PathBuf::from("/run/netns").join(&name);
    File::create(&file).with_context(|| format!("creating {}", file.display()))?;
    unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
    mount(Some("/proc/self/ns/net"), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("naming it")?;
    for args in [
        &["link", "set", "lo", "up"][..],
        &["addr", "add", &format!("{NODE_IP}/32"), "dev", "lo"],
        &["route", "add", "default", "dev", "lo"],
    ] {
        let status = Command::new("ip").args(args).status().context("running ip")?;
        ensure!(status.success(), "ip {} failed", args.join(" "));
    }
    Ok(Namespace { name, file, outside })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Best effort: what fails here is found by the check that looks for leftovers.
        let _ = setns(&self.outside, CloneFlags::CLONE_NEWNET);
        let _ = umount2(&self.file, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.file);
    }
}
