//! The values of flags, looked at before anything is touched. Each refusal is one line with the flag, its value and the
//! rule; the rules are upstream's where upstream has the flag.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use coracle_api::Cidr;
use coracle_apiserver::field_names;
use coracle_kubelet::{EvictionConfig, ShutdownPeriods};
use nix::unistd::{AccessFlags, access};

use crate::cli::Node;
use crate::node;

/// Checks what does not depend on the machine's other programs.
pub(crate) fn check(options: &Node) -> Result<()> {
    let ranges = Ranges::of(&options.service_cidr, &options.cluster_cidr)?;
    if let Some(ip) = options.cluster_dns {
        ranges.check_dns(ip)?;
    }
    let domain = &options.cluster_domain;
    ensure!(is_subdomain(domain), "--cluster-domain {domain:?}: must be a DNS name such as cluster.local");
    if let Some(name) = &options.node_name {
        ensure!(
            is_subdomain(name),
            "--node-name {name:?}: must be a lower-case DNS name (letters, digits, '-' and '.')"
        );
    }
    if let Some(ip) = options.node_ip {
        let unusable = ip.is_unspecified() || ip.is_multicast();
        ensure!(!unusable, "--node-ip {ip}: must be an address of this machine");
    }
    if let Some(file) = &options.registries {
        readable("--registries", file)?;
    }
    if let Some(registry) = options.insecure_loopback_registry.iter().find(|r| !is_loopback(r)) {
        bail!("--insecure-loopback-registry {registry}: must be on loopback, as localhost:5000 is");
    }
    let images = &options.image_policy;
    ensure!(
        images.image_gc_low_threshold < images.image_gc_high_threshold,
        "--image-gc-low-threshold {}: must be less than --image-gc-high-threshold, which is {}",
        images.image_gc_low_threshold,
        images.image_gc_high_threshold
    );
    shutdown_periods(options)?;
    eviction(options).map(drop)
}

/// How long pods have at the machine's end.
pub(crate) fn shutdown_periods(options: &Node) -> Result<ShutdownPeriods> {
    let periods = ShutdownPeriods {
        all: options.shutdown_grace_period,
        critical: options.shutdown_grace_period_critical_pods,
    };
    let flags = "--shutdown-grace-period and --shutdown-grace-period-critical-pods";
    periods.check().map(|()| periods).map_err(|why| anyhow::anyhow!("{flags}: {why}"))
}

/// The thresholds of the eviction flags.
pub(crate) fn eviction(options: &Node) -> Result<EvictionConfig> {
    EvictionConfig::parse(&node::eviction_flags(&options.eviction))
        .map_err(|why| anyhow::anyhow!("--eviction-hard, --eviction-soft and their companions: {why}"))
}

/// The cluster's ranges of addresses, which must not meet.
pub(crate) struct Ranges {
    service: Cidr,
}

// === impl Ranges ===

impl Ranges {
    pub(crate) fn of(service_cidr: &str, cluster_cidr: &str) -> Result<Self> {
        let range = |flag: &str, text: &str| {
            text.parse::<Cidr>()
                .with_context(|| format!("{flag} {text:?}: must be an IPv4 range such as 10.96.0.0/16"))
        };
        let service = range("--service-cidr", service_cidr)?;
        let cluster = range("--cluster-cidr", cluster_cidr)?;
        // Upstream's allocators have room for no more; each service's address is one bit.
        ensure!(
            (12..=24).contains(&service.prefix()),
            "--service-cidr {service_cidr}: must be between /12 and /24"
        );
        ensure!(cluster.prefix() <= 24, "--cluster-cidr {cluster_cidr}: each node gets a /24 of it");
        ensure!(
            !cluster.overlaps(&service),
            "--cluster-cidr {cluster_cidr}: must not overlap --service-cidr, which is {service}"
        );
        Ok(Ranges { service })
    }

    /// The address of the cluster's DNS is a Service's.
    fn check_dns(&self, ip: IpAddr) -> Result<()> {
        let service = &self.service;
        let inside = matches!(ip, IpAddr::V4(ip) if service.contains(ip));
        ensure!(inside, "--cluster-dns {ip}: must be within --service-cidr, which is {service}");
        let taken = [service.nth(0), service.nth(1), service.nth(service.size() - 1)];
        ensure!(
            !taken.iter().flatten().any(|taken| ip == *taken),
            "--cluster-dns {ip}: the first, second and last address of {service} are taken"
        );
        Ok(())
    }
}

/// A file that is to be written.
pub(crate) fn writable_file(flag: &str, file: &Path) -> Result<()> {
    ensure!(!file.is_dir(), "{flag} {}: is a directory; name a file", file.display());
    let path = std::path::absolute(file).with_context(|| format!("{flag} {}", file.display()))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    ensure!(parent.is_dir(), "{flag} {}: {} is not a directory", file.display(), parent.display());
    allowed(flag, file, if path.exists() { &path } else { parent })
}

/// A directory that is made where it is not yet.
pub(crate) fn writable_directory(flag: &str, dir: &Path) -> Result<()> {
    let there = dir.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    ensure!(there.is_dir(), "{flag} {}: {} is not a directory", dir.display(), there.display());
    allowed(flag, dir, there)
}

fn allowed(flag: &str, named: &Path, path: &Path) -> Result<()> {
    access(path, AccessFlags::W_OK).map_err(|why| {
        anyhow::anyhow!("{flag} {}: {} cannot be written: {}", named.display(), path.display(), why.desc())
    })
}

/// A file that is to be read.
pub(crate) fn readable(flag: &str, file: &Path) -> Result<()> {
    let shown = file.display();
    ensure!(!file.is_dir(), "{flag} {shown}: is a directory; name a file");
    access(file, AccessFlags::R_OK).map_err(|why| anyhow::anyhow!("{flag} {shown}: {}", why.desc()))
}

/// RFC 1123, as Kubernetes has it for names, with labels that DNS can carry.
fn is_subdomain(text: &str) -> bool {
    field_names::dns1123_subdomain(text).is_empty() && text.split('.').all(|label| label.len() <= 63)
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::place::Place;

    fn refusal(arguments: &[String]) -> Option<String> {
        let cli = Cli::try_parse_from(["coracle", "up"].map(str::to_owned).iter().chain(arguments)).unwrap();
        let Some(Command::Up(up)) = cli.command else { panic!("{arguments:?}") };
        let checked = check(&up.node).and_then(|()| {
            up.kubeconfig.as_deref().map_or(Ok(()), |file| writable_file("--kubeconfig", file))?;
            up.node.data.data_dir.as_deref().map_or(Ok(()), |dir| writable_directory("--data-dir", dir))
        });
        checked.err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_by_flag_value_and_rule() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("file"), "mirrors: {}").unwrap();
        let (file, within, missing, folder) = (at("file"), at("file/x"), at("no/x"), at(""));
        for (flag, value, why) in [
            ("--cluster-dns", "10.97.0.10", "must be within --service-cidr, which is 10.96.0.0/16"),
            ("--cluster-dns", "fd00::a", "must be within --service-cidr, which is 10.96.0.0/16"),
            ("--cluster-dns", "10.96.0.1", "the first, second and last address of 10.96.0.0/16 are taken"),
            (
                "--cluster-dns",
                "10.96.255.255",
                "the first, second and last address of 10.96.0.0/16 are taken",
            ),
            ("--cluster-cidr", "10.96.0.0/16", "must not overlap --service-cidr, which is 10.96.0.0/16"),
            ("--cluster-cidr", "10.0.0.0/8", "must not overlap --service-cidr, which is 10.96.0.0/16"),
            ("--cluster-cidr", "10.244.0.0/25", "each node gets a /24 of it"),
            ("--cluster-cidr", "fd00::/64", "must be an IPv4 range such as 10.96.0.0/16"),
            ("--service-cidr", "10.96.0.0/25", "must be between /12 and /24"),
            ("--service-cidr", "10.0.0.0/8", "must be between /12 and /24"),
            ("--cluster-domain", "", "must be a DNS name such as cluster.local"),
            ("--cluster-domain", "cluster.local.", "must be a DNS name such as cluster.local"),
            ("--node-name", "UPPER_case", "must be a lower-case DNS name (letters, digits, '-' and '.')"),
            ("--node-name", "", "must be a lower-case DNS name (letters, digits, '-' and '.')"),
            ("--node-ip", "0.0.0.0", "must be an address of this machine"),
            ("--registries", &missing, "No such file or directory"),
            ("--registries", &folder, "is a directory; name a file"),
            ("--insecure-loopback-registry", "registry.example.com:5000", "must be on loopback"),
            ("--image-gc-low-threshold", "85", "must be less than --image-gc-high-threshold, which is 85"),
            ("--eviction-hard", "memory.available<-1", "--eviction-hard"),
            ("--kubeconfig", &folder, "is a directory; name a file"),
            ("--kubeconfig", &missing, "is not a directory"),
            ("--data-dir", &file, "is not a directory"),
            ("--data-dir", &within, "is not a directory"),
        ] {
            let message =
                refusal(&[format!("{flag}={value}")]).unwrap_or_else(|| panic!("{flag} {value} is taken"));
            let shown = flag == "--eviction-hard" || message.contains(value.trim_end_matches('/'));
            assert!(message.starts_with(flag) && shown && message.contains(why), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn the_time_at_the_machines_end_is_judged_as_a_whole() {
        let given = |all: &str, critical: &str| {
            refusal(&[
                format!("--shutdown-grace-period={all}"),
                format!("--shutdown-grace-period-critical-pods={critical}"),
            ])
        };
        assert_eq!(given("30s", "10s"), None);
        assert_eq!(given("0s", "0s"), None);
        for (all, critical, why) in [("10s", "30s", "must be <="), ("500ms", "0s", ">= 1 sec")] {
            let refused = given(all, critical).expect("refused");
            assert!(refused.starts_with("--shutdown-grace-period") && refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn values_that_can_be_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("file"), "mirrors: {}").unwrap();
        let taken = [
            "--cluster-dns=10.96.0.10".to_owned(),
            "--cluster-domain=local".to_owned(),
            "--node-name=node-1.example.com".to_owned(),
            "--insecure-loopback-registry=localhost:5000".to_owned(),
            "--insecure-loopback-registry=127.0.0.1:5000".to_owned(),
            "--insecure-loopback-registry=[::1]:5000".to_owned(),
            format!("--registries={}", at("file")),
            format!("--kubeconfig={}", at("config")),
            format!("--data-dir={}", at("a/b/c")),
        ];
        assert_eq!(refusal(&taken), None);
        assert_eq!(refusal(&[]), None);
    }

    /// The checks are made on every way to a start.
    #[test]
    fn a_place_is_refused_with_its_flags() {
        let Ok(Cli { command: Some(Command::Up(up)), .. }) =
            Cli::try_parse_from(["coracle", "up", "--node-ip=127.0.0.1", "--cluster-domain="])
        else {
            panic!("the command line is fine")
        };
        let refused = Place::of(up.node, false).err().map(|error| format!("{error:#}"));
        assert!(refused.is_some_and(|why| why.starts_with("--cluster-domain")));
    }
}
