//! From a Service and its endpoints to chains and verdicts. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use sha2::{Digest, Sha256};

use super::catalog::{Endpoint, Key, cluster_ips};
use super::ruleset::Ruleset;
use super::{ProxyConfig, TABLE};
use crate::net::Protocol;

/// Verdicts by address, protocol and port; and by protocol and port on the node's own addresses.
pub(super) const IPS: &str = "service_ips";
pub(super) const PORTS: &str = "service_ports";
pub(super) const REFUSED_IPS: &str = "refused_ips";
pub(super) const REFUSED_PORTS: &str = "refused_ports";

/// Addresses and TCP ports where API servers and kubelets listen.
pub type Guarded = BTreeSet<(Ipv4Addr, u16)>;

/// The constant frame, replacing whatever an earlier run left. TCP is refused by a reset: the kernel sends no ICMP for its
/// own packets on the loopback route. Node ports are on all of the node's addresses, 127.0.0.1 too, as with upstream's
/// default mode; of what comes from outside nothing is for loopback.
pub(super) fn frame(config: &ProxyConfig) -> String {
    let services = config.service_cidr;
    format!(
        "add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  map {IPS} {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map {PORTS} {{ type inet_proto . inet_service : verdict; }}
  map {REFUSED_IPS} {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map {REFUSED_PORTS} {{ type inet_proto . inet_service : verdict; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain mark_masq {{ meta mark set meta mark or 0x8000; }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @{IPS}
    fib daddr type local meta l4proto . th dport vmap @{PORTS}
  }}
  chain refusals {{
    ip daddr . meta l4proto . th dport vmap @{REFUSED_IPS}
    fib daddr type local meta l4proto . th dport vmap @{REFUSED_PORTS}
    ip daddr {services} fib daddr type != local goto refuse
  }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept; ip daddr != 127.0.0.0/8 jump services; }}
  chain output_nat {{ type nat hook output priority -100; policy accept; jump services; }}
  chain input {{ type filter hook input priority 0; policy accept; ct state new jump refusals; }}
  chain forward {{ type filter hook forward priority 0; policy accept; ct state new jump refusals; }}
  chain output {{ type filter hook output priority 0; policy accept; ct state new jump refusals; }}
  chain postrouting {{
    type nat hook postrouting priority 99; policy accept;
    meta mark & 0x8000 != 0 masquerade
  }}
}}
"
    )
}

/// What one Service needs in the table.
///
/// External addresses are of the user's choosing: none takes what clients of the cluster or of its nodes rely on
/// ([`Guarded`]; upstream takes whatever it is given, CVE-2020-8554).
pub(super) fn render(
    config: &ProxyConfig,
    guarded: &Guarded,
    key: &Key,
    service: &Service,
    endpoints: &[Endpoint],
) -> Ruleset {
    let mut out = Ruleset::default();
    let Some(spec) = &service.spec else { return out };
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips(service).is_empty() {
        return out;
    }
    for port in spec.ports.iter().flatten() {
        if let Some(rules) = PortRules::new(config, guarded, key, service, port, endpoints) {
            out.merge(rules.render());
        }
    }
    out
}

/// One port of one Service, ready to be written down.
struct PortRules<'a> {
    config: &'a ProxyConfig,
    guarded: &'a Guarded,
    service: &'a Service,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
    /// Distinguishes the chains of this port.
    id: String,
    all: Vec<(Ipv4Addr, u16)>,
    local: Vec<(Ipv4Addr, u16)>,
}

// === impl PortRules ===

impl<'a> PortRules<'a> {
    fn new(
        config: &'a ProxyConfig,
        guarded: &'a Guarded,
        key: &Key,
        service: &'a Service,
        port: &ServicePort,
        endpoints: &[Endpoint],
    ) -> Option<PortRules<'a>> {
        let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or_default())?;
        let name = port.name.as_deref().unwrap_or_default();
        let here = |e: &&Endpoint| e.node.as_deref() == Some(config.node_name.as_str());
        let everywhere: Vec<&Endpoint> = endpoints.iter().collect();
        let local: Vec<&Endpoint> = endpoints.iter().filter(here).collect();
        Some(PortRules {
            config,
            guarded,
            service,
            protocol,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0),
            id: digest(&format!("{}/{}/{name}/{}", key.0, key.1, protocol.lower())),
            all: usable(&everywhere, name, protocol),
            local: usable(&local, name, protocol),
        })
    }

    fn render(&self) -> Ruleset {
        let mut out = Ruleset::default();
        let spec = self.service.spec.as_ref();
        let internal_local = spec.and_then(|s| s.internal_traffic_policy.as_deref()) == Some("Local");
        let external_local = spec.and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local");
        let (all, local) = (format!("all_{}", self.id), format!("local_{}", self.id));
        self.spread(&mut out, &all, &self.all);
        if internal_local || external_local {
            self.spread(&mut out, &local, &self.local);
        }
        self.internal(&mut out, if internal_local { (&local, &self.local) } else { (&all, &self.all) });
        self.external(&mut out, external_local, &all, &local);
        out
    }

    /// The cluster addresses: a client that is no pod must get its answer through this node.
    fn internal(&self, out: &mut Ruleset, (chain, endpoints): (&str, &[(Ipv4Addr, u16)])) {
        let entry = format!("int_{}", self.id);
        for ip in cluster_ips(self.service) {
            // The node's own DNS server answers there itself.
            if self.config.own_addresses.contains(&ip) {
                continue;
            }
            let key = format!("{ip} . {} . {}", self.protocol.lower(), self.port);
            if endpoints.is_empty() {
                out.elements.insert((REFUSED_IPS, key), self.refusal().to_owned());
            } else {
                out.elements.insert((IPS, key), format!("goto {entry}"));
            }
        }
        if !endpoints.is_empty() {
            let masquerade = format!("ip saddr != {} jump mark_masq", self.config.cluster_cidr);
            out.chains.insert(entry, vec![masquerade, format!("goto {chain}")]);
        }
    }

    /// With endpoints elsewhere only, upstream drops; with none at all it rejects.
    fn refusal(&self) -> &'static str {
        if self.all.is_empty() { "goto refuse" } else { "drop" }
    }

    /// Node port, external and load-balancer addresses.
    fn external(&self, out: &mut Ruleset, local_only: bool, all: &str, local: &str) {
        let addresses = self.external_addresses();
        if addresses.is_empty() && self.node_port.is_none() {
            return;
        }
        let entry = format!("ext_{}", self.id);
        let mut rules = Vec::new();
        if local_only {
            // From inside the cluster the policy does not count.
            rules.push(format!("ip saddr {} goto {all}", self.config.cluster_cidr));
            rules.push("fib saddr type local jump mark_masq".to_owned());
            rules.push(format!("fib saddr type local goto {all}"));
            rules.extend((!self.local.is_empty()).then(|| format!("goto {local}")));
        } else {
            rules.extend(["jump mark_masq".to_owned(), format!("goto {all}")]);
        }
        let refused = self.all.is_empty() || local_only && self.local.is_empty();
        let keys =
            addresses.iter().map(|ip| (true, format!("{ip} . {} . {}", self.protocol.lower(), self.port)));
        let node_port = self.node_port.map(|port| (false, format!("{} . {port}", self.protocol.lower())));
        for (by_ip, key) in keys.chain(node_port) {
            if refused {
                let map = if by_ip { REFUSED_IPS } else { REFUSED_PORTS };
                out.elements.insert((map, key.clone()), self.refusal().to_owned());
            }
            if !self.all.is_empty() {
                out.elements.insert((if by_ip { IPS } else { PORTS }, key), format!("goto {entry}"));
            }
        }
        if !self.all.is_empty() {
            out.chains.insert(entry, rules);
        }
    }

    fn external_addresses(&self) -> Vec<Ipv4Addr> {
        let spec = self.service.spec.as_ref();
        let external =
            spec.iter().flat_map(|s| s.external_ips.iter().flatten()).filter_map(|ip| ip.parse().ok());
        // Source ranges are not enforced here, so such a balancer's address is left to the balancer.
        let open = spec.is_some_and(|s| s.load_balancer_source_ranges.as_ref().is_none_or(Vec::is_empty));
        let status = self.service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).filter(|_| open);
        let ingress = status.into_iter().flat_map(|l| l.ingress.iter().flatten());
        let ingress = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
        let asked = external.chain(ingress.filter_map(|i| i.ip.as_ref()?.parse().ok()));
        asked.filter(|ip| self.may_take(*ip)).collect()
    }

    /// Whether an external address may be the Service's: addresses of pods and of Services, and where kubelets and API
    /// servers listen, are others'.
    fn may_take(&self, ip: Ipv4Addr) -> bool {
        let of_the_cluster = self.config.cluster_cidr.contains(ip) || self.config.service_cidr.contains(ip);
        let is_guarded = self.protocol == Protocol::Tcp && self.guarded.contains(&(ip, self.port));
        !of_the_cluster && !is_guarded
    }

    /// A chain that picks one of the endpoints, and a chain for each.
    fn spread(&self, out: &mut Ruleset, chain: &str, endpoints: &[(Ipv4Addr, u16)]) {
        if endpoints.is_empty() {
            return;
        }
        let affinity = self.affinity_seconds();
        let (mut rules, mut choices) = (Vec::new(), Vec::new());
        for (i, (ip, port)) in endpoints.iter().enumerate() {
            // With the timeout in the name: a set cannot change its own.
            let name = digest(&format!("{}/{ip}/{port}/{affinity:?}", self.id));
            let (target, set) = (format!("ep_{name}"), format!("aff_{name}"));
            let mut steps = vec![format!("ip saddr {ip} jump mark_masq")];
            if let Some(seconds) = affinity {
                rules.push(format!("ip saddr @{set} goto {target}"));
                steps.push(format!("update @{set} {{ ip saddr }}"));
                let body =
                    format!("{{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout {seconds}s; }}");
                out.sets.insert(set, body);
            }
            steps.push(format!("meta l4proto {} dnat to {ip}:{port}", self.protocol.lower()));
            out.chains.insert(target.clone(), steps);
            choices.push(format!("{i} : goto {target}"));
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), choices.join(", ")));
        out.chains.insert(chain.to_owned(), rules);
    }

    fn affinity_seconds(&self) -> Option<i32> {
        let spec = self.service.spec.as_ref()?;
        if spec.session_affinity.as_deref() != Some("ClientIP") {
            return None;
        }
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        Some(config.and_then(|c| c.timeout_seconds).unwrap_or(10_800))
    }
}

/// Ready endpoints; where none is, those that still serve while they terminate.
fn usable(endpoints: &[&Endpoint], port: &str, protocol: Protocol) -> Vec<(Ipv4Addr, u16)> {
    let pick = |wanted: fn(&Endpoint) -> bool| -> Vec<(Ipv4Addr, u16)> {
        let picked = endpoints.iter().filter(|e| wanted(e));
        let mut found: Vec<_> = picked
            .flat_map(|e| e.ports.iter().filter(|p| p.0 == port && p.1 == protocol).map(|p| (e.ip, p.2)))
            .collect();
        found.sort();
        found.dedup();
        found
    };
    let ready = pick(|e| e.ready);
    if ready.is_empty() { pick(|e| e.serving && e.terminating) } else { ready }
}

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..8])
}
