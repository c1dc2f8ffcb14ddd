//! How a pod is named inside: hostname, `/etc/hosts`, `/etc/resolv.conf`. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfigOption, PodSpec};

use super::view::{name_of, namespace_of, spec_of};

/// The short host name; cut to 63 characters as upstream does.
pub(crate) fn hostname(pod: &Pod, node_name: &str) -> String {
    let spec = spec_of(pod);
    if spec.host_network == Some(true) && spec.hostname_override.is_none() {
        return node_name.to_owned();
    }
    let name = spec
        .hostname_override
        .as_deref()
        .or(spec.hostname.as_deref())
        .filter(|h| !h.is_empty())
        .unwrap_or(name_of(pod));
    if name.len() <= 63 || spec.hostname_override.is_some() {
        return name.to_owned();
    }
    name[..63].trim_end_matches(['-', '.']).to_owned()
}

/// The fully qualified domain of a pod with a `subdomain`.
fn domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = spec_of(pod).subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{cluster_domain}", namespace_of(pod)))
}

/// What the kernel is told: short, or the FQDN with `setHostnameAsFQDN`.
pub(crate) fn kernel_hostname(pod: &Pod, node_name: &str, cluster_domain: &str) -> Result<String, String> {
    let short = hostname(pod, node_name);
    if spec_of(pod).set_hostname_as_fqdn != Some(true) {
        return Ok(short);
    }
    let full = domain(pod, cluster_domain).map_or(short.clone(), |d| format!("{short}.{d}"));
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

/// The managed hosts file; for the host's network, the host's own file comes first.
pub(crate) fn hosts_file(
    pod: &Pod,
    ips: &[IpAddr],
    node_name: &str,
    cluster_domain: &str,
    host_file: &str,
) -> String {
    let spec = spec_of(pod);
    let mut out = String::new();
    if spec.host_network == Some(true) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let name = hostname(pod, node_name);
        for ip in ips {
            match domain(pod, cluster_domain) {
                Some(domain) => out.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
                None => out.push_str(&format!("{ip}\t{name}\n")),
            }
        }
    }
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            ));
        }
    }
    out
}

/// The resolver settings of one file or policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolver {
    let mut r = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => r.servers.extend(words.next().map(str::to_owned)),
            Some("search") => r.searches = words.map(str::to_owned).collect(),
            Some("options") => r.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    r
}

/// `/etc/resolv.conf` by `dnsPolicy` and `dnsConfig`.
pub(crate) fn resolv_conf(
    spec: &PodSpec,
    namespace: &str,
    dns: Option<IpAddr>,
    cluster_domain: &str,
    host_file: &str,
) -> String {
    let host = parse(host_file);
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network;
    let mut r = match (policy, dns) {
        ("None", _) => Resolver::default(),
        (_, Some(dns)) if cluster => {
            let d = cluster_domain;
            let mut searches = vec![format!("{namespace}.svc.{d}"), format!("svc.{d}"), d.to_owned()];
            searches.extend(host.searches.into_iter().filter(|s| s != "."));
            Resolver { servers: vec![dns.to_string()], searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => host,
    };
    if let Some(own) = &spec.dns_config {
        r.servers.extend(own.nameservers.iter().flatten().cloned());
        r.searches.extend(own.searches.iter().flatten().cloned());
        let own: Vec<String> = own.options.iter().flatten().map(option).collect();
        r.options.extend(own);
        last_of_each_name(&mut r.options);
    }
    dedup(&mut r.servers);
    dedup(&mut r.searches);
    render(&r)
}

fn option(option: &PodDNSConfigOption) -> String {
    let name = option.name.clone().unwrap_or_default();
    option.value.as_ref().map_or(name.clone(), |v| format!("{name}:{v}"))
}

/// Of options with the same name the last one counts.
fn last_of_each_name(options: &mut Vec<String>) {
    let name = |option: &String| option.split(':').next().unwrap_or_default().to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> = options.drain(..).rev().filter(|option| seen.insert(name(option))).collect();
    kept.reverse();
    *options = kept;
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn render(r: &Resolver) -> String {
    let mut out = String::new();
    if !r.searches.is_empty() {
        out.push_str(&format!("search {}\n", r.searches.join(" ")));
    }
    for server in r.servers.iter().take(3) {
        out.push_str(&format!("nameserver {server}\n"));
    }
    if !r.options.is_empty() {
        out.push_str(&format!("options {}\n", r.options.join(" ")));
    }
    out
}
