//! What must hold before a cluster starts; each failure is one clear line.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Why this process cannot run pods, or `None` when it can.
pub fn why_no_node() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    missing_capability().map(|cap| format!("the capability {cap} is missing"))
}

/// The address and port must be free; says who cannot have it.
pub fn port_is_free(what: &str, flag: &str, address: SocketAddr) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "{what}: {address} is in use: stop the program that listens there, or choose another port with {flag}"
            )
        }
        Err(e) => Err(e).with_context(|| format!("{what}: cannot listen on {address}")),
    }
}

/// Services are written with `nft`, the one program that is called.
pub fn nft() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join("nft"))
        .find(|p| p.is_file())
        .context("nft was not found: install your distribution's nftables package (or start with --no-node)")
}

/// Pods are held to their limits by cgroups, whichever version the machine has.
pub fn cgroups() -> Result<()> {
    const AT: &str = "/sys/fs/cgroup";
    match std::fs::read_dir(AT).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Ok(()),
        _ => bail!("no cgroups at {AT}: mount them there (or start with --no-node)"),
    }
}

/// The address of the default route's interface: what others reach this machine at.
pub fn node_ip() -> Result<IpAddr> {
    // Connecting a datagram socket sends nothing: it only asks the kernel which address it would send from.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let found = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr()).map(|a| a.ip());
    match found {
        Ok(ip) if !ip.is_loopback() => Ok(ip),
        _ => bail!("this machine has no default route to learn its address from: give it with --node-ip"),
    }
}

/// The host's name as a node name: lower case, as upstream's kubelet makes it.
pub fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("reading the host's name")?;
    let name = name.to_string_lossy().trim().to_lowercase();
    if name.is_empty() {
        bail!("this machine has no host name: give the node's with --node-name")
    }
    Ok(name)
}

/// What a node needs of root's powers: capability and its bit in the effective set.
const NEEDED: &[(&str, u32)] = &[
    ("CAP_SYS_ADMIN", 21),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SETUID", 7),
    ("CAP_CHOWN", 0),
    ("CAP_MKNOD", 27),
    ("CAP_KILL", 5),
];

fn missing_capability() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?.trim();
    let effective = u64::from_str_radix(hex, 16).ok()?;
    NEEDED.iter().find(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_one_clear_line() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let message = format!("{:#}", port_is_free("API server", "--port", address).unwrap_err());
        assert!(
            message.contains("is in use") && message.contains("--port") && !message.contains('\n'),
            "{message}"
        );
        drop(taken);
        port_is_free("API server", "--port", address).unwrap();
    }
}
