//! The cluster's names, answered as CoreDNS answers them. Pure over the catalog of Services.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;

use crate::proxy::catalog::{Catalog, Endpoint, Key, cluster_ips};

const TTL: u32 = 30;
/// Records of one answer.
const MOST_TARGETS: usize = 4096;
/// The version of the DNS schema that this follows.
const SCHEMA_VERSION: &str = "1.1.0";

pub(super) struct Zone {
    catalog: Catalog,
    /// `cluster.local`, lower case, without the dot at the end.
    domain: String,
}

/// What to say.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// Ours: the records, or none with the code that says why.
    Here { code: ResponseCode, answers: Vec<Record>, additionals: Vec<Record>, authorities: Vec<Record> },
    /// An `ExternalName` Service: this record first, then what the others say of its target.
    Alias { cname: Record, target: Name },
    /// Not ours.
    Elsewhere,
}

/// What a name below `svc` stands for.
enum Found {
    Records(Vec<Record>, Vec<Record>),
    Alias(Record, Name),
    /// The name exists without such records.
    Empty,
    Nothing,
}

// === impl Zone ===

impl Zone {
    pub(super) fn new(catalog: Catalog, domain: &str) -> Zone {
        Zone { catalog, domain: domain.trim_end_matches('.').to_ascii_lowercase() }
    }

    pub(super) fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if let Some(ip) = reverse_ipv4(text) {
            return self.reverse(name, ip, kind);
        }
        let inside = text
            .strip_suffix(&self.domain)
            .and_then(|rest| if rest.is_empty() { Some("") } else { rest.strip_suffix('.') });
        let Some(inside) = inside else { return Answer::Elsewhere };
        let labels: Vec<&str> = inside.split('.').filter(|l| !l.is_empty()).collect();
        let found = match labels.as_slice() {
            [] | ["svc"] | ["pod"] => Found::Empty,
            ["dns-version"] if kind == RecordType::TXT => {
                let text = TXT::new(vec![SCHEMA_VERSION.to_owned()]);
                Found::Records(vec![Record::from_rdata(name.clone(), TTL, RData::TXT(text))], Vec::new())
            }
            ["dns-version"] => Found::Empty,
            [namespace, "svc" | "pod"] if self.catalog.namespace_exists(namespace) => Found::Empty,
            [address, _, "pod"] => pod_address(name, address, kind),
            [rest @ .., service, namespace, "svc"] => self.service(name, rest, (namespace, service), kind),
            _ => Found::Nothing,
        };
        self.say(found)
    }

    fn say(&self, found: Found) -> Answer {
        let (code, answers, additionals) = match found {
            Found::Records(answers, additionals) if !answers.is_empty() => {
                (ResponseCode::NoError, answers, additionals)
            }
            Found::Records(..) | Found::Empty => (ResponseCode::NoError, Vec::new(), Vec::new()),
            Found::Alias(cname, target) => return Answer::Alias { cname, target },
            Found::Nothing => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
        };
        let authorities =
            if answers.is_empty() { self.authority().into_iter().collect() } else { Vec::new() };
        Answer::Here { code, answers, additionals, authorities }
    }

    /// What "no" answers carry, so that resolvers know how long to believe them.
    fn authority(&self) -> Option<Record> {
        let of = |prefix: &str| Name::from_ascii(format!("{prefix}{}.", self.domain)).ok();
        let soa = SOA::new(of("ns.dns.")?, of("hostmaster.")?, 1, 7200, 1800, 86_400, TTL);
        Some(Record::from_rdata(of("")?, TTL, RData::SOA(soa)))
    }

    fn service(&self, name: &Name, rest: &[&str], at: (&str, &str), kind: RecordType) -> Found {
        let key: Key = (at.0.to_owned(), at.1.to_owned());
        let Some(service) = self.catalog.service(&key) else { return Found::Nothing };
        let spec = service.spec.as_ref();
        if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            let target = spec.and_then(|s| s.external_name.as_ref());
            let target = target.and_then(|t| Name::from_ascii(format!("{}.", t.trim_end_matches('.'))).ok());
            let Some(target) = target.filter(|_| rest.is_empty()) else { return Found::Nothing };
            let cname = Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())));
            return match kind {
                RecordType::CNAME => Found::Records(vec![cname], Vec::new()),
                _ => Found::Alias(cname, target),
            };
        }
        let ips = cluster_ips(&service);
        let endpoints: Vec<Endpoint> = match ips.is_empty() {
            true => self.catalog.endpoints(&key).into_iter().filter(|e| e.ready).collect(),
            false => Vec::new(),
        };
        // A headless Service without any endpoint does not exist for DNS.
        if ips.is_empty() && endpoints.is_empty() {
            return Found::Nothing;
        }
        match rest {
            [] if kind == RecordType::SRV => self.srv(name, &key, &service, &endpoints, None),
            [] if ips.is_empty() => addresses(name, endpoints.iter().map(|e| e.ip), kind),
            [] => addresses(name, ips.into_iter(), kind),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let wanted = Some((&port[1..], &protocol[1..]));
                match self.srv(name, &key, &service, &endpoints, wanted) {
                    Found::Records(answers, _) if answers.is_empty() => Found::Nothing,
                    Found::Records(..) if kind != RecordType::SRV => Found::Empty,
                    found => found,
                }
            }
            [host] => {
                let of_host: Vec<_> =
                    endpoints.iter().filter(|e| host_of(e) == *host).map(|e| e.ip).collect();
                if of_host.is_empty() { Found::Nothing } else { addresses(name, of_host.into_iter(), kind) }
            }
            _ => Found::Nothing,
        }
    }

    /// One record per port of a Service, or per endpoint and port where it is headless.
    fn srv(
        &self,
        name: &Name,
        key: &Key,
        service: &Service,
        endpoints: &[Endpoint],
        wanted: Option<(&str, &str)>,
    ) -> Found {
        let fits = |port: &str, protocol: &str| {
            wanted.is_none_or(|(p, t)| port.eq_ignore_ascii_case(p) && protocol.eq_ignore_ascii_case(t))
        };
        let base = format!("{}.{}.svc.{}.", key.1, key.0, self.domain);
        let mut targets: Vec<(String, Ipv4Addr, u16)> = Vec::new();
        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        for (ip, port) in cluster_ips(service).into_iter().flat_map(|ip| ports.clone().map(move |p| (ip, p)))
        {
            if fits(port.name.as_deref().unwrap_or_default(), port.protocol.as_deref().unwrap_or("TCP")) {
                targets.push((base.clone(), ip, port.port as u16));
            }
        }
        for endpoint in endpoints {
            for (_, _, number) in
                endpoint.ports.iter().filter(|(port, protocol, _)| fits(port, protocol.lower()))
            {
                targets.push((format!("{}.{base}", host_of(endpoint)), endpoint.ip, *number));
            }
        }
        // No message has room for more than so many.
        targets.truncate(MOST_TARGETS);
        let weight = 100 / u16::try_from(targets.len().max(1)).unwrap_or(u16::MAX);
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (target, ip, port) in targets {
            let Ok(target) = Name::from_ascii(target) else { continue };
            let srv = SRV::new(0, weight, port, target.clone());
            answers.push(Record::from_rdata(name.clone(), TTL, RData::SRV(srv)));
            let address = Record::from_rdata(target, TTL, RData::A(A(ip)));
            if seen.insert(ip) {
                additionals.push(address);
            }
        }
        Found::Records(answers, additionals)
    }

    /// A Service's address has its name; an endpoint's has one where it has a host name (DNS specification 1.1.0, 2.4.3).
    fn reverse(&self, name: &Name, ip: Ipv4Addr, kind: RecordType) -> Answer {
        let under = |(namespace, service): Key, host: &str| {
            format!("{host}{service}.{namespace}.svc.{}.", self.domain)
        };
        let names: Vec<String> = match self.catalog.service_of_ip(ip) {
            Some(service) => vec![under(service, "")],
            None => {
                let hosts = self.catalog.hosts_of_ip(ip).into_iter();
                hosts.map(|(service, host)| under(service, &format!("{host}."))).collect()
            }
        };
        let targets: Vec<Name> = names.iter().filter_map(|n| Name::from_ascii(n).ok()).collect();
        if targets.is_empty() {
            return Answer::Elsewhere;
        }
        if kind != RecordType::PTR {
            return self.say(Found::Empty);
        }
        let record = |target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)));
        self.say(Found::Records(targets.into_iter().map(record).collect(), Vec::new()))
    }
}

fn addresses(name: &Name, ips: impl Iterator<Item = Ipv4Addr>, kind: RecordType) -> Found {
    if kind != RecordType::A && kind != RecordType::ANY {
        return Found::Empty;
    }
    Found::Records(ips.map(|ip| Record::from_rdata(name.clone(), TTL, RData::A(A(ip)))).collect(), Vec::new())
}

/// `10-1-2-3.<namespace>.pod` needs no knowledge of the pod.
fn pod_address(name: &Name, address: &str, kind: RecordType) -> Found {
    match address.replace('-', ".").parse::<Ipv4Addr>() {
        Ok(ip) => addresses(name, std::iter::once(ip), kind),
        Err(_) => Found::Nothing,
    }
}

fn host_of(endpoint: &Endpoint) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| endpoint.ip.to_string().replace('.', "-"))
}

fn reverse_ipv4(name: &str) -> Option<Ipv4Addr> {
    let mut octets: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    octets.reverse();
    octets.join(".").parse().ok()
}
