//! A network namespace for a cluster and its clients: nothing they do reaches the machine's own network.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// An address for documentation (RFC 5737): the first node's. Further ones have those that follow it.
pub const NODE_IP: &str = "192.0.2.1";
/// Joins the machines, where there are several.
const BRIDGE: &str = "segment";

/// A namespace made for this process; it goes when this value is dropped, and its machines with it.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    /// Further machines on the same network.
    pub machines: Vec<Machine>,
    file: PathBuf,
    outside: File,
}

/// A namespace that plays another machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub ip: String,
    number: u8,
    name: String,
}

// === impl Machine ===

impl Machine {
    /// A command that is run there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    pub fn node_name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Makes the namespace, and a link from it to the bridge of this one.
    fn new(number: u8, of: &str) -> Result<Self> {
        let machine = Machine { ip: format!("192.0.2.{number}"), number, name: format!("{of}-n{number}") };
        let (name, link, address) = (&machine.name, machine.node_name(), format!("{}/24", machine.ip));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", &link, "master", BRIDGE, "up"])?;
        ip(&["-n", name, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "route", "add", "default", "dev", "lo"])?;
        Ok(machine)
    }
}

/// Moves the calling process (it must have one thread) into a new namespace with `lo`, a node address and a default route
/// that leads nowhere. Needs root.
pub fn enter_new() -> Result<Namespace> {
    enter_new_with(1)
}

/// The same with further machines, so that there is one for each of `nodes`.
pub fn enter_new_with(nodes: u8) -> Result<Namespace> {
    ensure!(nix::unistd::geteuid().is_root(), "the node's checks make network namespaces: run them as root");
    let name = format!("coracle-check-{}", std::process::id());
    let outside = File::open("/proc/self/ns/net")?;
    fs::create_dir_all("/run/netns")?;
    let file = PathBuf::from("/run/netns").join(&name);
    File::create(&file).with_context(|| format!("creating {}", file.display()))?;
    unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
    mount(Some("/proc/self/ns/net"), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("naming it")?;
    ip(&["link", "set", "lo", "up"])?;
    let mut namespace = Namespace { name, machines: vec![], file, outside };
    if nodes > 1 {
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        ip(&["addr", "add", &format!("{NODE_IP}/24"), "dev", BRIDGE])?;
        // What machines say to each other is none of this machine's packet filter's business; absent is fine.
        let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
    } else {
        ip(&["addr", "add", &format!("{NODE_IP}/32"), "dev", "lo"])?;
    }
    ip(&["route", "add", "default", "dev", "lo"])?;
    for number in 2..=nodes {
        let machine = Machine::new(number, &namespace.name)?;
        namespace.machines.push(machine);
    }
    Ok(namespace)
}

fn ip(args: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(args).status().context("running ip")?;
    ensure!(status.success(), "ip {} failed", args.join(" "));
    Ok(())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Best effort: what fails here is found by the check that looks for leftovers.
        for machine in &self.machines {
            let _ = ip(&["netns", "del", &machine.name]);
        }
        let _ = setns(&self.outside, CloneFlags::CLONE_NEWNET);
        let _ = umount2(&self.file, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.file);
    }
}
