//! The Pod Security Standards' checks: one row each, with the versions of the standards they began with.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::Level;
use super::restricted;

/// A pod as the checks see it.
pub(super) struct Subject<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
}

/// Why a check fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) reason: String,
    pub(super) detail: String,
}

/// Fails a pod, or not. The second argument is the minor version of the standards.
type Run = fn(&Subject<'_>, u32) -> Option<Breach>;

pub(super) struct Check {
    level: Level,
    /// The first minor version of the standards that has this check.
    since: u32,
    /// From which version on the restricted level leaves this out for a stricter one of its own.
    stricter_since: Option<u32>,
    run: Run,
}

const fn baseline(since: u32, stricter_since: Option<u32>, run: Run) -> Check {
    Check { level: Level::Baseline, since, stricter_since, run }
}

const fn strict(since: u32, run: Run) -> Check {
    Check { level: Level::Restricted, since, stricter_since: None, run }
}

/// In upstream's order: by level, then by name.
const CHECKS: &[Check] = &[
    baseline(0, None, app_armor),
    baseline(0, Some(22), capabilities),
    baseline(0, None, host_namespaces),
    baseline(0, Some(0), host_path_volumes),
    baseline(0, None, host_ports),
    baseline(34, None, probe_hosts),
    baseline(0, None, privileged),
    baseline(0, Some(35), proc_mount),
    baseline(0, None, selinux_options),
    baseline(0, Some(19), seccomp),
    baseline(0, None, sysctls),
    baseline(0, None, windows_host_process),
    strict(8, restricted::privilege_escalation),
    strict(22, restricted::capabilities),
    strict(35, restricted::proc_mount),
    strict(0, restricted::volumes),
    strict(0, restricted::run_as_non_root),
    strict(23, restricted::run_as_user),
    strict(19, restricted::seccomp),
];

/// Everything that keeps a pod from a level, in a version of the standards.
pub(super) fn breaches(level: Level, version: u32, pod: &Subject<'_>) -> Vec<Breach> {
    let applies = |check: &&Check| {
        check.since <= version
            && match level {
                Level::Privileged => false,
                Level::Baseline => check.level == Level::Baseline,
                Level::Restricted => check.stricter_since.is_none_or(|since| version < since),
            }
    };
    CHECKS.iter().filter(applies).filter_map(|check| (check.run)(pod, version)).collect()
}

// === impl Subject ===

impl Subject<'_> {
    pub(super) fn containers(&self) -> impl Iterator<Item = &Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"].into_iter();
        lists.flat_map(|list| self.spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers that are bad.
    pub(super) fn bad(&self, mut is_bad: impl FnMut(&Value) -> bool) -> Vec<&str> {
        self.containers().filter(|c| is_bad(c)).map(|c| c["name"].as_str().unwrap_or_default()).collect()
    }

    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// A pod in a user namespace of its own is root over nothing else.
    pub(super) fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.metadata["annotations"].as_object().into_iter().flatten();
        all.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }
}

pub(super) fn breach(reason: impl Into<String>, detail: impl Into<String>) -> Option<Breach> {
    Some(Breach { reason: reason.into(), detail: detail.into() })
}

pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect();
    items.join(", ")
}

pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `containers "a", "b"`
pub(super) fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who sets something, as messages name them.
pub(super) fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let containers = (!containers.is_empty()).then(|| named(containers));
    match (pod, containers) {
        (false, None) => None,
        (true, None) => Some("pod".to_owned()),
        (false, Some(c)) => Some(c),
        (true, Some(c)) => Some(format!("pod and {c}")),
    }
}

/// Values of a field of the pod's and the containers' security contexts that are not allowed: who sets them, and which.
pub(super) fn forbidden<'a>(
    pod: &'a Subject<'_>,
    pointer: &str,
    allowed: impl Fn(&str) -> bool,
) -> (bool, Vec<&'a str>, BTreeSet<&'a str>) {
    let mut values = BTreeSet::new();
    let mut is_bad = |context: &'a Value| {
        let value = context.pointer(pointer).map(|v| v.as_str().unwrap_or_default());
        let bad = value.filter(|v| !allowed(v));
        values.extend(bad);
        bad.is_some()
    };
    let whole = is_bad(&pod.spec["securityContext"]);
    let mut names = vec![];
    for container in pod.containers() {
        if is_bad(&container["securityContext"]) {
            names.push(container["name"].as_str().unwrap_or_default());
        }
    }
    (whole, names, values)
}

fn app_armor(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let (whole, names, values) = forbidden(pod, "/appArmorProfile/type", allowed);
    let fine = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let bad = pod.annotations().filter(|(key, value)| key.starts_with(PREFIX) && !fine(value));
    let annotations: BTreeSet<String> = bad.map(|(key, value)| format!("{key}={value:?}")).collect();
    let mut who: Vec<String> = setters(whole, &names).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().map(str::to_owned).chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    breach(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)))
}

fn capabilities(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    added_beyond(pod, ALLOWED).map(|detail| Breach { reason: "non-default capabilities".to_owned(), detail })
}

/// `container "a" must not include "X" in securityContext.capabilities.add`
pub(super) fn added_beyond(pod: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let mut extra = BTreeSet::new();
    let names = pod.bad(|container| {
        let added = container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten();
        let bad: Vec<&str> = added.filter_map(Value::as_str).filter(|c| !allowed.contains(c)).collect();
        extra.extend(bad.iter().map(|c| (*c).to_owned()));
        !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    Some(format!("{} must not include {} in securityContext.capabilities.add", named(&names), quoted(&extra)))
}

fn host_namespaces(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { breach("host namespaces", shared.join(", ")) }
}

fn host_path_volumes(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let bad: Vec<&str> =
        volumes.filter(|v| !v["hostPath"].is_null()).filter_map(|v| v["name"].as_str()).collect();
    if bad.is_empty() {
        return None;
    }
    breach("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

fn host_ports(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    let mut ports = BTreeSet::new();
    let names = pod.bad(|container| {
        let all = container["ports"].as_array().into_iter().flatten();
        let bad: Vec<String> =
            all.filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).map(|p| p.to_string()).collect();
        let found = !bad.is_empty();
        ports.extend(bad);
        found
    });
    if names.is_empty() {
        return None;
    }
    let uses = plural("uses", "use", names.len());
    let word = plural("hostPort", "hostPorts", ports.len());
    let ports: Vec<String> = ports.into_iter().collect();
    breach("hostPort", format!("{} {uses} {word} {}", named(&names), ports.join(", ")))
}

fn probe_hosts(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    const HANDLERS: &[&str] =
        &["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let mut hosts = BTreeSet::new();
    let names = pod.bad(|container| {
        let handlers = HANDLERS.iter().filter_map(|at| container.pointer(at));
        let named = handlers.flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        let bad: Vec<&str> = named.filter_map(Value::as_str).filter(|host| !host.is_empty()).collect();
        hosts.extend(bad.iter().map(|h| (*h).to_owned()));
        !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let uses = plural("uses", "use", names.len());
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    breach("probe or lifecycle host", format!("{} {uses} {word} {}", named(&names), quoted(&hosts)))
}

fn privileged(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    let names = pod.bad(|c| c["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    breach("privileged", format!("{} must not set securityContext.privileged=true", named(&names)))
}

fn proc_mount(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    if version >= 35 && pod.has_own_users() { None } else { unmasked_proc(pod) }
}

pub(super) fn unmasked_proc(pod: &Subject<'_>) -> Option<Breach> {
    let mut kinds = BTreeSet::new();
    let names = pod.bad(|container| {
        let kind = container["securityContext"]["procMount"].as_str().filter(|kind| *kind != "Default");
        kinds.extend(kind.map(str::to_owned));
        kind.is_some()
    });
    if names.is_empty() {
        return None;
    }
    breach(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", named(&names), quoted(&kinds)),
    )
}

fn selinux_options(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    let types: &[&str] = match version {
        31.. => &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"],
        _ => &["", "container_t", "container_init_t", "container_kvm_t"],
    };
    let (mut bad_types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        let bad_type = !types.contains(&text("type"));
        if bad_type {
            bad_types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        bad_type || !text("user").is_empty() || !text("role").is_empty()
    };
    let whole = is_bad(&pod.spec["securityContext"]);
    let names = pod.bad(|c| is_bad(&c["securityContext"]));
    let who = setters(whole, &names)?;
    let mut data = vec![];
    if !bad_types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", bad_types.len()), quoted(&bad_types)));
    }
    data.extend(user.then(|| "user may not be set".to_owned()));
    data.extend(role.then(|| "role may not be set".to_owned()));
    breach(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    )
}

pub(super) fn is_seccomp_profile(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    if version < 19 {
        return seccomp_annotations(pod);
    }
    let (whole, names, values) = forbidden(pod, "/seccompProfile/type", is_seccomp_profile);
    let who = setters(whole, &names)?;
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
    breach("seccompProfile", detail)
}

/// Before profiles were fields.
fn seccomp_annotations(pod: &Subject<'_>) -> Option<Breach> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let fine = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let counts = |key: &str| {
        key == POD
            || key.strip_prefix(CONTAINER).is_some_and(|name| pod.containers().any(|c| c["name"] == name))
    };
    let bad = pod.annotations().filter(|(key, value)| counts(key) && !fine(value));
    let bad: BTreeSet<String> = bad.map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", bad.len());
    breach("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

fn sysctls(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    /// Safe settings and the version of the standards that allowed them.
    const SAFE: &[(&str, u32)] = &[
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let safe = |name: &str| SAFE.iter().any(|(known, since)| *known == name && *since <= version);
    let set = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let bad: Vec<&str> = set.filter_map(|s| s["name"].as_str()).filter(|name| !safe(name)).collect();
    if bad.is_empty() { None } else { breach("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    let is_bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = pod.bad(|c| is_bad(&c["securityContext"]));
    let who = setters(is_bad(&pod.spec["securityContext"]), &names)?;
    breach("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
