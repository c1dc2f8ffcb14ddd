//! Whether this node can enforce what a pod asks for: what it cannot, it refuses with upstream's reason. Pure.
//!
//! A pod whose wish were passed over in silence would run with fewer walls than its author, and the admission plugins
//! that judged it, believe.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSpec, SecurityContext};

use super::view::spec_of;
use crate::node::admission::Rejection;

/// What this node can do, found out once at its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) sysctls: Sysctls,
    /// Why no profile can be enforced; `None`: the kernel and this node can.
    pub(crate) no_apparmor: Option<String>,
    /// Why a pod cannot have a user namespace of its own; `None`: it can.
    pub(crate) no_user_namespaces: Option<String>,
    /// The kernel labels processes for SELinux, and this node does not know how.
    pub(crate) selinux: bool,
}

/// What a pod asks for and this node cannot give.
pub(crate) fn enforceable(pod: &Pod, node: &Abilities) -> Result<(), Rejection> {
    let spec = spec_of(pod);
    node.sysctls.admit(spec)?;
    if let Some(why) = node.no_apparmor.as_ref().filter(|_| wants_apparmor(spec)) {
        return refuse("AppArmor", format!("Cannot enforce AppArmor: {why}"));
    }
    if let Some(why) = node.no_user_namespaces.as_ref().filter(|_| spec.host_users == Some(false)) {
        return refuse("UserNamespaces", format!("Cannot enforce hostUsers=false: {why}"));
    }
    if node.selinux && wants_selinux(spec) {
        return refuse("SELinux", "Cannot enforce seLinuxOptions: this node sets no labels".to_owned());
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        let why = "no driver for dynamic resources is registered on this node";
        return refuse(
            "FailedPrepareDynamicResources",
            format!("Failed to prepare dynamic resources: {why}"),
        );
    }
    let devices = containers(spec).any(|c| c.volume_devices.iter().flatten().next().is_some());
    if devices {
        return refuse(
            "VolumeDevices",
            "Cannot attach volumeDevices: this node has no block volumes".to_owned(),
        );
    }
    Ok(())
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The containers' own contexts, those of ephemeral ones too.
fn contexts(spec: &PodSpec) -> impl Iterator<Item = Option<&SecurityContext>> {
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.security_context.as_ref());
    containers(spec).map(|c| c.security_context.as_ref()).chain(ephemeral)
}

/// Where the kernel does not label, the options mean nothing, as upstream has it.
fn wants_selinux(spec: &PodSpec) -> bool {
    let pod = spec.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref());
    pod.is_some() || contexts(spec).any(|c| c.is_some_and(|c| c.se_linux_options.is_some()))
}

fn refuse(reason: &str, message: String) -> Result<(), Rejection> {
    Err(Rejection { reason: reason.to_owned(), message })
}

/// `RuntimeDefault` is met by no profile where there is no AppArmor, as upstream has it; a named one is not.
fn wants_apparmor(spec: &PodSpec) -> bool {
    let local = |profile: Option<&AppArmorProfile>| profile.is_some_and(|p| p.type_ == "Localhost");
    let pod = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    contexts(spec).any(|own| local(own.and_then(|s| s.app_armor_profile.as_ref()).or(pod)))
}

/// Upstream's safe sysctls with the first kernel that has each for a namespace.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// Which sysctls pods may set: the safe ones and those the administrator names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sysctls {
    /// Names, or beginnings of names that end in `*`.
    allowed: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Net,
    Ipc,
}

// === impl Sysctls ===

impl Sysctls {
    /// `kernel` is this machine's release (`6.1.0-18-amd64`). An error names the pattern that no namespace holds.
    pub(crate) fn new(kernel: &str, unsafe_ones: &[String]) -> Result<Self, String> {
        let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let safe = SAFE.iter().filter(|(_, since)| *since <= version).map(|(name, _)| (*name).to_owned());
        let mut allowed: Vec<String> = safe.collect();
        for pattern in unsafe_ones {
            let pattern = dotted(pattern);
            if namespace_of(pattern.trim_end_matches('*')).is_none() {
                return Err(format!("the sysctls {pattern:?} are not known to be namespaced"));
            }
            allowed.push(pattern);
        }
        Ok(Self { allowed })
    }

    fn admit(&self, spec: &PodSpec) -> Result<(), Rejection> {
        let wanted = spec.security_context.iter().filter_map(|s| s.sysctls.as_ref()).flatten();
        for name in wanted.map(|s| dotted(&s.name)) {
            let forbid = |why: String| refuse("SysctlForbidden", format!("forbidden sysctl: {name:?} {why}"));
            if !self.allowed.iter().any(|pattern| matches(pattern, &name)) {
                return forbid("not allowlisted".to_owned());
            }
            match namespace_of(&name) {
                Some(Namespace::Net) if spec.host_network == Some(true) => {
                    return forbid("not allowed with host net enabled".to_owned());
                }
                Some(Namespace::Ipc) if spec.host_ipc == Some(true) => {
                    return forbid("not allowed with host ipc enabled".to_owned());
                }
                Some(_) => {}
                None => return forbid("not allowlisted".to_owned()),
            }
        }
        Ok(())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// Which namespace keeps a value of its own for this name (or beginning of a name).
fn namespace_of(name: &str) -> Option<Namespace> {
    const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if name.starts_with("net.") {
        return Some(Namespace::Net);
    }
    (name == "kernel.sem" || IPC.iter().any(|prefix| name.starts_with(prefix))).then_some(Namespace::Ipc)
}

/// `net/ipv4/conf/eth0.1/x` and `net.ipv4.conf.eth0/1.x` name the same: whichever separator comes first is the
/// separator.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(spec: &Value, node: &Abilities) -> (String, String) {
        let mut spec = spec.clone();
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        enforceable(&pod, node).err().map(|r| (r.reason, r.message)).unwrap_or_default()
    }

    fn setting(names: &[&str]) -> Value {
        let all: Vec<Value> = names.iter().map(|n| json!({"name": n, "value": "1"})).collect();
        json!({"securityContext": {"sysctls": all}})
    }

    #[test]
    fn only_allowed_sysctls_of_own_namespaces_are_set() {
        let own = ["net.core.*".to_owned(), "kernel/sem".to_owned(), "kernel.msg*".to_owned()];
        let node =
            Abilities { sysctls: Sysctls::new("6.1.0-18-amd64", &own).unwrap(), ..Abilities::default() };
        let host = |mut spec: Value, key: &str| {
            spec[key] = json!(true);
            spec
        };
        for (spec, message) in [
            (json!({}), ""),
            (setting(&["kernel.shm_rmid_forced", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_rmem"]), ""),
            (setting(&["net/ipv4/tcp_syncookies"]), ""),
            (setting(&["net.core.somaxconn", "kernel.sem", "kernel.msgmax"]), ""),
            (
                setting(&["net.ipv4.tcp_syncookies", "kernel.shmmax"]),
                "forbidden sysctl: \"kernel.shmmax\" not allowlisted",
            ),
            (
                setting(&["vm.overcommit_memory"]),
                "forbidden sysctl: \"vm.overcommit_memory\" not allowlisted",
            ),
            (setting(&["kernel/core_pattern"]), "forbidden sysctl: \"kernel.core_pattern\" not allowlisted"),
            (
                host(setting(&["net.ipv4.tcp_syncookies"]), "hostNetwork"),
                "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled",
            ),
            (
                host(setting(&["kernel/sem"]), "hostIPC"),
                "forbidden sysctl: \"kernel.sem\" not allowed with host ipc enabled",
            ),
            (host(setting(&["kernel.sem"]), "hostNetwork"), ""),
        ] {
            let reason = if message.is_empty() { "" } else { "SysctlForbidden" };
            assert_eq!(answer(&spec, &node), (reason.to_owned(), message.to_owned()), "{spec}");
        }
        let old = Abilities { sysctls: Sysctls::new("4.14.3", &[]).unwrap(), ..Abilities::default() };
        assert_eq!(answer(&setting(&["net.ipv4.tcp_rmem"]), &old).0, "SysctlForbidden");
        assert_eq!(answer(&setting(&["net.ipv4.tcp_fin_timeout"]), &old).0, "");
        for bad in ["kernel.*", "vm.swappiness", "*", "fs.*"] {
            assert!(Sysctls::new("6.1", &[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_node_cannot_enforce_is_refused() {
        let unable = Abilities {
            no_apparmor: Some("AppArmor is not enabled on the host".to_owned()),
            no_user_namespaces: Some("no".to_owned()),
            selinux: true,
            ..Abilities::default()
        };
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "p"}});
        let own = |list: &str, kind: &str| {
            let mut spec = json!({"containers": [{"name": "c"}], "securityContext": profile("Unconfined")});
            spec[list] = json!([{"name": "x", "securityContext": profile(kind)}]);
            spec
        };
        let apparmor = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        for (spec, reason, message) in [
            (json!({"securityContext": profile("Localhost")}), "AppArmor", apparmor),
            (json!({"securityContext": profile("RuntimeDefault")}), "", ""),
            (own("containers", "Localhost"), "AppArmor", apparmor),
            (own("initContainers", "Localhost"), "AppArmor", apparmor),
            (own("ephemeralContainers", "Localhost"), "AppArmor", apparmor),
            (own("containers", "RuntimeDefault"), "", ""),
            (json!({"hostUsers": false}), "UserNamespaces", "Cannot enforce hostUsers=false: no"),
            (json!({"hostUsers": true}), "", ""),
        ] {
            assert_eq!(answer(&spec, &unable), (reason.to_owned(), message.to_owned()), "{spec}");
            assert_eq!(answer(&spec, &Abilities::default()), Default::default(), "an able node: {spec}");
        }
        let label = json!({"seLinuxOptions": {"level": "s0"}});
        for spec in [
            json!({"securityContext": label}),
            json!({"containers": [{"name": "c", "securityContext": label}]}),
            json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e", "securityContext": label}]}),
        ] {
            assert_eq!(answer(&spec, &unable).0, "SELinux", "{spec}");
            assert_eq!(answer(&spec, &Abilities::default()).0, "", "the kernel does not label: {spec}");
        }
        for (spec, reason) in [
            (json!({"resourceClaims": [{"name": "gpu"}]}), "FailedPrepareDynamicResources"),
            (json!({"containers": [{"name": "c", "volumeDevices": [{"name": "v"}]}]}), "VolumeDevices"),
        ] {
            assert_eq!(answer(&spec, &Abilities::default()).0, reason, "{spec}");
        }
    }
}
