//! A container's environment, command and arguments: references resolved, `$(VAR)` expanded. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use coracle_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};

use super::env_file;
use super::expansion::{MOST, TOO_LONG, expand};
use super::view::{find_container, name_of, namespace_of, spec_of, uid_of};

/// The text of a file: volume, path in it.
pub(crate) type FileOf<'a> = dyn Fn(&str, &str) -> Result<std::sync::Arc<str>, String> + 'a;

/// What references in the environment resolve to.
pub(crate) struct EnvSources<'a> {
    pub(crate) config_map: &'a dyn Fn(&str) -> Option<std::sync::Arc<ConfigMap>>,
    pub(crate) secret: &'a dyn Fn(&str) -> Option<std::sync::Arc<Secret>>,
    /// The Services of the pod's namespace and the API server's own.
    pub(crate) services: &'a [std::sync::Arc<Service>],
    /// A file of `fileKeyRef`: volume, path in it.
    pub(crate) file: &'a FileOf<'a>,
    pub(crate) facts: &'a PodFacts,
}

/// What the downward API tells beyond the pod object.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodFacts {
    pub(crate) pod_ips: Vec<IpAddr>,
    pub(crate) host_ips: Vec<IpAddr>,
    /// What limits default to: allocatable CPU in 1/1000, memory and ephemeral storage in bytes.
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
}

/// The whole environment in order; the error is the message of CreateContainerConfigError.
pub(crate) fn environment(
    pod: &Pod,
    c: &Container,
    sources: &EnvSources<'_>,
) -> Result<Vec<(String, String)>, String> {
    let spec = spec_of(pod);
    let mut env = Ordered::default();
    let links = spec.enable_service_links.unwrap_or(true);
    for (name, value) in service_variables(namespace_of(pod), sources.services, links) {
        env.set(name, value)?;
    }
    from_whole_sources(c, sources, &mut env)?;
    let mut looked_through = MOST_LOOKED_THROUGH;
    for var in c.env.as_deref().unwrap_or_default() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &env.index, &mut env.room.clone())?),
            (_, Some(from)) => one_value(pod, c, from, sources, &mut looked_through)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value)?;
        }
    }
    Ok(env
        .list
        .into_iter()
        .map(|name| {
            let v = env.index.get(&name).cloned().unwrap_or_default();
            (name, v)
        })
        .collect())
}

/// Bytes of env files that are looked through for one container: each variable may look through a whole one.
const MOST_LOOKED_THROUGH: usize = 256 << 20;

struct Ordered {
    list: Vec<String>,
    index: HashMap<String, String>,
    /// What they may still have, in bytes.
    room: usize,
}

impl Default for Ordered {
    fn default() -> Self {
        Ordered { list: vec![], index: HashMap::new(), room: MOST }
    }
}

impl Ordered {
    fn set(&mut self, name: String, value: String) -> Result<(), String> {
        self.room = self.room.checked_sub(name.len() + value.len()).ok_or(TOO_LONG)?;
        if self.index.insert(name.clone(), value).is_none() {
            self.list.push(name);
        }
        Ok(())
    }
}

fn from_whole_sources(c: &Container, sources: &EnvSources<'_>, env: &mut Ordered) -> Result<(), String> {
    for from in c.env_from.as_deref().unwrap_or_default() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match (sources.config_map)(&r.name) {
                Some(map) => {
                    let mut all = map.data.iter().flatten();
                    all.try_for_each(|(k, v)| env.set(format!("{prefix}{k}"), v.clone()))?;
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match (sources.secret)(&r.name) {
                Some(secret) => {
                    let mut all = secret.data.iter().flatten();
                    let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
                    all.try_for_each(|(k, v)| env.set(format!("{prefix}{k}"), text(&v.0)))?;
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", r.name)),
            }
        }
    }
    Ok(())
}

fn one_value(
    pod: &Pod,
    c: &Container,
    from: &k8s_openapi::api::core::v1::EnvVarSource,
    sources: &EnvSources<'_>,
    looked_through: &mut usize,
) -> Result<Option<String>, String> {
    let namespace = namespace_of(pod);
    if let Some(r) = &from.field_ref {
        return field(pod, r, sources.facts).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return resource(pod, &c.name, r, sources.facts).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = (sources.config_map)(&r.name) else {
            return if optional { Ok(None) } else { Err(format!("configmap {:?} not found", r.name)) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name)),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = (sources.secret)(&r.name) else {
            return if optional { Ok(None) } else { Err(format!("secret {:?} not found", r.name)) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name)),
        };
    }
    if let Some(r) = &from.file_key_ref {
        let text = (sources.file)(&r.volume_name, &r.path)?;
        *looked_through = looked_through.checked_sub(text.len()).ok_or(env_file::UNREADABLE)?;
        let value = env_file::value(&text, &r.key).map_err(|_| env_file::UNREADABLE.to_owned())?;
        return match value.is_empty() {
            false => Ok(Some(value)),
            true if r.optional == Some(true) => Ok(None),
            true => Err(format!("environment variable key {:?} not found in file {:?}", r.key, r.path)),
        };
    }
    Ok(None)
}

/// A downward API field as text.
pub(crate) fn field(pod: &Pod, r: &ObjectFieldSelector, facts: &PodFacts) -> Result<String, String> {
    let spec = spec_of(pod);
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let path = r.field_path.as_str();
    Ok(match path {
        "metadata.name" => name_of(pod).to_owned(),
        "metadata.namespace" => namespace_of(pod).to_owned(),
        "metadata.uid" => uid_of(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => join(&facts.pod_ips),
        _ => {
            let key = |kind: &str| path.strip_prefix(kind)?.strip_prefix("['")?.strip_suffix("']");
            if let Some(key) = key("metadata.labels") {
                pod.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default()
            } else if let Some(key) = key("metadata.annotations") {
                pod.metadata.annotations.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default()
            } else {
                return Err(format!("unsupported fieldPath: {path}"));
            }
        }
    })
}

/// `key="value"` lines, sorted, with Go's quoting.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let line = |(k, v): (&String, &String)| format!("{k}={}", go_quote(v));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A downward API resource, divided and rounded up.
pub(crate) fn resource(
    pod: &Pod,
    container: &str,
    r: &ResourceFieldSelector,
    facts: &PodFacts,
) -> Result<String, String> {
    let name = r.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(container);
    let (_, c) = find_container(spec_of(pod), name).ok_or_else(|| format!("container {name} not found"))?;
    let resources = c.resources.unwrap_or_default();
    let (kind, what) = r
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", r.resource))?;
    let list = if kind == "limits" { resources.limits } else { resources.requests };
    let default = if kind == "limits" {
        match what {
            "cpu" => facts.cpu_milli,
            "memory" => facts.memory.saturating_mul(1000),
            "ephemeral-storage" => facts.ephemeral_storage.saturating_mul(1000),
            _ => 0,
        }
    } else {
        0
    };
    let milli = list.as_ref().and_then(|l| l.get(what)).and_then(|q| Amount::try_from(q).ok()).map_or(
        i128::from(default),
        |a| {
            if what == "cpu" { i128::from(a.milli_value()) } else { i128::from(a.value()) * 1000 }
        },
    );
    let divisor = r.divisor.as_ref().and_then(|q| Amount::try_from(q).ok()).map_or(0, |a| a.milli_value());
    let divisor = if divisor == 0 { 1000 } else { i128::from(divisor) };
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// Docker-links style variables of Services: the API server's always, the namespace's own when links are on.
fn service_variables(
    namespace: &str,
    services: &[std::sync::Arc<Service>],
    links: bool,
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        let (ns, name) = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let master = ns == "default" && name == "kubernetes";
        let Some(spec) = service.spec.as_ref().filter(|_| master || links && ns == namespace) else {
            continue;
        };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let (Some(first), false) = (ports.first(), ip.is_empty() || ip == "None") else { continue };
        let prefix = name.to_uppercase().replace('-', "_");
        out.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let suffix = port_name.to_uppercase().replace('-', "_");
                out.push((format!("{prefix}_SERVICE_PORT_{suffix}"), port.port.to_string()));
            }
        }
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.push((format!("{prefix}_PORT"), url.clone()));
            }
            let p = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.push((p.clone(), url));
            out.push((format!("{p}_PROTO"), protocol.to_lowercase()));
            out.push((format!("{p}_PORT"), port.port.to_string()));
            out.push((format!("{p}_ADDR"), ip.to_owned()));
        }
    }
    out
}
