//! What is allowed in a pod spec, and probably not meant: the `Warning:` headers.

use std::collections::{HashMap, HashSet};

use coracle_api::{Object, Quantity};
use serde_json::Value;

use super::super::addresses::ip_warning;
use super::overlaps;
use super::validation::items;
use crate::field_names::{dns1123_label, label_value};
use crate::limits;

/// Labels of nodes that have newer names.
const OLD_NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What has become of a label of nodes, where it has a newer name.
pub(in super::super) fn outdated_node_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, why)| *why)
}

/// Volume sources that no longer do anything.
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings for a pod. Its name becomes its host name.
pub(in super::super) fn pod_warnings(pod: &Object) -> Vec<String> {
    let mut all = vec![];
    let wrong = dns1123_label(pod.name());
    if !wrong.is_empty() && pod.at(&["metadata", "name"]).is_some() {
        let wrong = wrong.join("; ");
        all.push(format!("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{wrong}]"));
    }
    if let Some(spec) = pod.at(&["spec"]) {
        spec_warnings("spec", spec, &mut all);
    }
    all
}

/// Warnings for the template of a workload.
pub(in super::super) fn template_warnings(at: &str, template: &Value) -> Vec<String> {
    let mut all = vec![];
    spec_warnings(&format!("{at}.spec"), &template["spec"], &mut all);
    all
}

fn spec_warnings(at: &str, spec: &Value, all: &mut Vec<String>) {
    for (label, why) in OLD_NODE_LABELS {
        if !spec["nodeSelector"][label].is_null() {
            all.push(format!("{at}.nodeSelector[{label}]: {why}"));
        }
    }
    nodes(&format!("{at}.affinity.nodeAffinity"), &spec["affinity"]["nodeAffinity"], all);
    for (i, c) in items(spec, "topologySpreadConstraints").enumerate() {
        let at = format!("{at}.topologySpreadConstraints[{i}]");
        if let Some((label, why)) = OLD_NODE_LABELS.iter().find(|(label, _)| c["topologyKey"] == *label) {
            all.push(format!("{at}.topologyKey: {label} is {why}"));
        }
        no_selector(&at, c, all);
    }
    for (i, v) in items(spec, "volumes").enumerate() {
        for (source, why) in OLD_VOLUMES.iter().filter(|(source, _)| v[*source].is_object()) {
            all.push(format!("{at}.volumes[{i}].{source}: {why}"));
        }
        let template = &v["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"];
        let at = format!("{at}.volumes[{i}].ephemeral.volumeClaimTemplate.spec.resources");
        bytes(&at, template, &[("storage", "requests"), ("storage", "limits")], all);
    }
    items(spec, "volumes").for_each(|v| overlaps::warnings(v, all));
    repeated(&format!("{at}.hostAliases"), spec, "hostAliases", "ip", all);
    repeated(&format!("{at}.imagePullSecrets"), spec, "imagePullSecrets", "name", all);
    for (i, s) in items(spec, "imagePullSecrets").enumerate() {
        if s["name"].as_str().unwrap_or_default().is_empty() {
            all.push(format!("{at}.imagePullSecrets[{i}].name: invalid empty name \"\""));
        }
    }
    let containers = containers(at, spec);
    containers.iter().for_each(|(at, c)| amounts_and_variables(at, c, all));
    ports(&containers, all);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        all.push(format!("{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = format!("{at}.affinity.{kind}");
        let (required, preferred) = (
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        );
        for (i, t) in items(&spec["affinity"][kind], required).enumerate() {
            no_selector(&format!("{at}.{required}[{i}]"), t, all);
        }
        for (i, t) in items(&spec["affinity"][kind], preferred).enumerate() {
            no_selector(&format!("{at}.{preferred}[{i}].podAffinityTerm"), &t["podAffinityTerm"], all);
        }
    }
    for (i, ip) in items(&spec["dnsConfig"], "nameservers").filter_map(Value::as_str).enumerate() {
        all.extend(ip_warning(&format!("{at}.dnsConfig.nameservers[{i}]"), ip));
    }
    for (i, alias) in items(spec, "hostAliases").enumerate() {
        let ip = alias["ip"].as_str().unwrap_or_default();
        all.extend(ip_warning(&format!("{at}.hostAliases[{i}].ip"), ip));
    }
}

fn no_selector(at: &str, term: &Value, all: &mut Vec<String>) {
    if term["labelSelector"].is_null() {
        all.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
    }
}

fn repeated(at: &str, spec: &Value, list: &str, key: &str, all: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, item) in items(spec, list).enumerate() {
        let value = item[key].as_str().unwrap_or_default();
        if !seen.insert(value) {
            all.push(format!("{at}[{i}].{key}: duplicate {key} {value:?}"));
        }
    }
}

/// Every container with its path, in the order upstream visits them.
fn containers<'a>(at: &str, spec: &'a Value) -> Vec<(String, &'a Value)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let of =
        |list: &'static str| items(spec, list).enumerate().map(move |(i, c)| (format!("{list}[{i}]"), c));
    lists.into_iter().flat_map(of).map(|(path, c)| (format!("{at}.{path}"), c)).collect()
}

/// Amounts that count bytes, and are no whole number of them.
pub(in super::super) fn bytes(at: &str, resources: &Value, which: &[(&str, &str)], all: &mut Vec<String>) {
    for (name, list) in which {
        let amount = Quantity::from_json(&resources[*list][*name]);
        if let Ok(amount) = amount.as_ref()
            && !amount.is_integer()
        {
            let why = "is invalid, must be an integer";
            all.push(format!("{at}.{list}[{name}]: fractional byte value \"{amount}\" {why}"));
        }
    }
}

fn nodes(at: &str, affinity: &Value, all: &mut Vec<String>) {
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in items(&affinity[required], "nodeSelectorTerms").enumerate() {
        node_term(&format!("{at}.{required}.nodeSelectorTerms[{i}]"), term, false, all);
    }
    for (i, term) in items(affinity, preferred).enumerate() {
        node_term(&format!("{at}.{preferred}[{i}].preference"), &term["preference"], true, all);
    }
}

fn node_term(at: &str, term: &Value, with_values: bool, all: &mut Vec<String>) {
    for (i, e) in items(term, "matchExpressions").enumerate() {
        let (at, key) = (format!("{at}.matchExpressions[{i}]"), e["key"].as_str().unwrap_or_default());
        if let Some(why) = outdated_node_label(key) {
            all.push(format!("{at}.key: {key} is {why}"));
        }
        for (i, value) in items(e, "values").filter_map(Value::as_str).enumerate().filter(|_| with_values) {
            let wrong = label_value(value).into_iter();
            all.extend(wrong.map(|why| format!("{at}.values[{i}]: {value} is invalid, {why}")));
        }
    }
}

fn amounts_and_variables(at: &str, c: &Value, all: &mut Vec<String>) {
    const BYTES: [(&str, &str); 4] = [
        ("memory", "limits"),
        ("memory", "requests"),
        ("ephemeral-storage", "limits"),
        ("ephemeral-storage", "requests"),
    ];
    bytes(&format!("{at}.resources"), &c["resources"], &BYTES, all);
    let mut seen = HashSet::new();
    for (i, e) in items(c, "env").enumerate() {
        let (name, value) = (e["name"].as_str().unwrap_or_default(), e["value"].as_str().unwrap_or_default());
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if e["valueFrom"].is_object() || value == reference || !value.contains(&reference) {
            let why = "which may be dropped when using apply";
            all.push(format!("{at}.env[{i}]: hides previous definition of {name:?}, {why}"));
        }
    }
}

fn host_port(port: &Value) -> i64 {
    port["hostPort"].as_i64().unwrap_or(0)
}

fn host_ip(port: &Value) -> &str {
    port["hostIP"].as_str().unwrap_or_default()
}

/// Ports of one number and protocol, by where they are on the host, so that only those are compared that conflict.
#[derive(Default)]
struct Alike<'a> {
    ports: Vec<(String, &'a Value)>,
    by_port: HashMap<i64, Vec<usize>>,
    by_address: HashMap<(i64, &'a str), Vec<usize>>,
}

impl<'a> Alike<'a> {
    fn add(&mut self, at: String, port: &'a Value) {
        let place = self.ports.len();
        self.by_port.entry(host_port(port)).or_default().push(place);
        self.by_address.entry((host_port(port), host_ip(port))).or_default().push(place);
        self.ports.push((at, port));
    }

    /// Those before it that are the same, or overlap, or may: in their order, and no more than are told of.
    fn in_conflict(&self, port: &'a Value) -> Vec<usize> {
        let (number, ip) = (host_port(port), host_ip(port));
        let of_port = |number: i64| self.by_port.get(&number).into_iter().flatten().copied();
        let of_address = |ip: &'a str| self.by_address.get(&(number, ip)).into_iter().flatten().copied();
        let most = limits::WARNINGS;
        let mut found: Vec<usize> = match (number, ip) {
            (0, _) => (0..self.ports.len()).take(most).collect(),
            (_, "") => of_port(0).take(most).chain(of_port(number).take(most)).collect(),
            _ => {
                let same = of_address(ip).take(most).chain(of_address("").take(most));
                of_port(0).take(most).chain(same).collect()
            }
        };
        found.sort_unstable();
        found
    }
}

fn ports(containers: &[(String, &Value)], all: &mut Vec<String>) {
    let mut by_number: HashMap<(i64, &str), Alike<'_>> = HashMap::new();
    let mut names: HashMap<&str, String> = HashMap::new();
    let ports = || {
        containers.iter().flat_map(|(at, c)| {
            items(c, "ports").enumerate().map(move |(i, p)| (format!("{at}.ports[{i}]"), p))
        })
    };
    for (at, p) in ports() {
        let (number, text) =
            (|f: &str| p[f].as_i64().unwrap_or(0), |f: &str| p[f].as_str().unwrap_or_default());
        if !text("hostIP").is_empty() && number("hostPort") == 0 {
            // As upstream's type prints itself.
            let [name, protocol, ip] = ["name", "protocol", "hostIP"].map(text);
            let port = number("containerPort");
            all.push(format!("{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{port} Protocol:{protocol} HostIP:{ip}}}"));
        }
        let key = (p["containerPort"].as_i64().unwrap_or(0), p["protocol"].as_str().unwrap_or_default());
        let others = by_number.entry(key).or_default();
        for other in others.in_conflict(p) {
            // Every pair of ports may be worth one: an answer has no room for so many.
            if all.len() >= limits::WARNINGS {
                return;
            }
            let (other, o) = &others.ports[other];
            let what = match (host_port(p), host_port(o)) {
                (a, b) if a == b && host_ip(p) == host_ip(o) => "duplicate",
                (0, _) | (_, 0) => "overlapping",
                _ => "dangerously ambiguous",
            };
            all.push(format!("{at}: {what} port definition with {other}"));
        }
        others.add(at, p);
    }
    for (at, p) in ports() {
        let Some(name) = p["name"].as_str().filter(|n| !n.is_empty()) else { continue };
        match names.get(name) {
            Some(other) => all.push(format!("{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}")),
            None => drop(names.insert(name, at)),
        }
    }
}
