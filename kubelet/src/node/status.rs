//! The Node's status: what the machine is, has and lacks.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
        NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Capacity, arch};
use crate::{
    Config,
    eviction::{
        Shortages,
        thresholds::{Condition, Signal},
    },
    images::Images,
    net::NetworkState,
    node_shutdown::NOT_READY,
    pods::{node_context::NodeContext, set_up::OWN_HANDLERS},
};

/// As upstream: not more than so many images, and names of one.
const IMAGES: usize = 50;
const NAMES: usize = 5;

/// `old` is the status in the API: conditions keep their transition times.
pub(super) fn status(node: &NodeContext, port: u16, old: Option<&NodeStatus>) -> NodeStatus {
    let config = &node.config;
    let (capacity, allocatable) = resources(config, node.capacity);
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let shortages = node.shortages.borrow().clone();
    let network = node.network_state.borrow().clone();
    let ready = readiness(node.runtime.trouble(), network.open, *node.ending.borrow());
    let conditions = conditions(&shortages, &network, ready, old, Timestamp::now());
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", config.node_ip.to_string()),
            address("Hostname", config.node_name.clone()),
        ]),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        images: Some(images(&node.images)),
        node_info: Some(info(config)),
        runtime_handlers: Some(handlers(node.abilities.no_user_namespaces.is_none())),
        ..NodeStatus::default()
    }
}

/// The ways to run containers that RuntimeClasses may name: all are one.
fn handlers(user_namespaces: bool) -> Vec<NodeRuntimeHandler> {
    let features = NodeRuntimeHandlerFeatures {
        recursive_read_only_mounts: Some(true),
        user_namespaces: Some(user_namespaces),
    };
    let handler =
        |name: &str| NodeRuntimeHandler { name: Some(name.to_owned()), features: Some(features.clone()) };
    std::iter::once("").chain(OWN_HANDLERS).map(handler).collect()
}

/// Why no one is to send any pods, each reason in upstream's words; ready where there is none.
fn readiness(trouble: Option<&str>, network_is_open: bool, ending: bool) -> Result<(), String> {
    let mut reasons: Vec<String> =
        trouble.map(|why| format!("container runtime is not ready: {why}")).into_iter().collect();
    reasons.extend((!network_is_open).then(|| NO_RANGE.to_owned()));
    reasons.extend(ending.then(|| NOT_READY.to_owned()));
    match reasons.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// Capacity, and what of it pods may ask for.
pub(super) fn resources(
    config: &Config,
    have: Capacity,
) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let huge = huge_pages(Path::new("/sys/kernel/mm/hugepages"));
    let reserved: i64 = huge.values().sum();
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Quantity(have.cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", have.memory / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", have.storage / 1024))),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    capacity.extend(huge.into_iter().map(|(name, bytes)| (name, Quantity(binary(bytes)))));
    let mut allocatable = capacity.clone();
    let memory = have.memory - reserved - config.eviction.reserved(Signal::MemoryAvailable, have.memory);
    allocatable.insert("memory".to_owned(), Quantity(format!("{}Ki", memory.max(0) / 1024)));
    let storage = have.storage - config.eviction.reserved(Signal::NodefsAvailable, have.storage);
    allocatable.insert("ephemeral-storage".to_owned(), Quantity(storage.max(0).to_string()));
    (capacity, allocatable)
}

/// Bytes set aside for huge pages, by resource name.
fn huge_pages(dir: &Path) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|n| n.strip_suffix("kB"))
            .and_then(|n| n.parse::<i64>().ok());
        let count = fs::read_to_string(entry.path().join("nr_hugepages"))
            .ok()
            .and_then(|n| n.trim().parse::<i64>().ok());
        let Some((kib, count)) = size.zip(count) else { continue };
        found.insert(format!("hugepages-{}", binary(kib * 1024)), kib * 1024 * count);
    }
    found
}

/// Bytes with the largest binary suffix that loses nothing.
fn binary(bytes: i64) -> String {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    match units.into_iter().find(|(unit, _)| bytes > 0 && bytes % unit == 0) {
        Some((unit, suffix)) => format!("{}{suffix}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn images(images: &Images) -> Vec<ContainerImage> {
    let mut list = images.list();
    list.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let image = |i: crate::cri::ImageInfo| ContainerImage {
        names: Some(i.digests.into_iter().chain(i.tags).take(NAMES).collect()),
        size_bytes: i64::try_from(i.size_bytes).ok(),
    };
    list.into_iter().take(IMAGES).map(image).collect()
}

/// Type, status, reason and message of a condition.
type Row = (&'static str, bool, &'static str, &'static str);

const NO_RANGE: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                        message:Network plugin returns error: the Node has no podCIDR yet";

fn rows(short: &Shortages) -> [Row; 3] {
    [
        match short.contains(&Condition::Memory) {
            false => (
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
            true => (
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
        },
        match short.contains(&Condition::Disk) {
            false => ("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            true => ("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure"),
        },
        match short.contains(&Condition::Pid) {
            false => {
                ("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
            }
            true => {
                ("PIDPressure", true, "KubeletHasInsufficientPID", "kubelet has insufficient PID available")
            }
        },
    ]
}

/// A node that cannot reach the pods of those before it takes no pods; those before it go on, and say what they miss.
fn network_row(network: &NetworkState) -> (&'static str, bool, &'static str, String) {
    const KIND: &str = "NetworkUnavailable";
    match (network.open, network.unreachable.is_empty()) {
        (false, _) => (KIND, true, "NoPodCIDR", "the Node has no podCIDR yet".to_owned()),
        (true, true) => (KIND, false, "RouteCreated", "the pods of all nodes can be reached".to_owned()),
        (true, false) => (KIND, network.misplaced, "NoRouteCreated", network.unreachable.join("; ")),
    }
}

fn conditions(
    shortages: &Shortages,
    network: &NetworkState,
    ready: Result<(), String>,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let at = crate::pods::whole_second(now);
    let known = |kind: &str| old.and_then(|o| o.conditions.as_ref())?.iter().find(|c| c.type_ == kind);
    let condition = |(kind, status, reason, message): (&str, bool, &str, String)| {
        let status = if status { "True" } else { "False" };
        let since = known(kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(at.clone()),
            last_transition_time: since.or_else(|| Some(at.clone())),
        }
    };
    let rows = rows(shortages).into_iter();
    let rows = rows.map(|(kind, status, reason, message)| (kind, status, reason, message.to_owned()));
    let ready = match ready {
        Ok(()) => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Err(why) => ("Ready", false, "KubeletNotReady", why),
    };
    std::iter::once(network_row(network)).chain(rows).chain([ready]).map(condition).collect()
}

/// The reasons of upstream's events for conditions that are new or have changed.
pub(super) fn transitions(new: &NodeStatus, old: Option<&NodeStatus>) -> Vec<&'static str> {
    let of = |s: Option<&NodeStatus>, kind: &str| {
        let conditions = s.and_then(|s| s.conditions.as_ref())?;
        conditions.iter().find(|c| c.type_ == kind).map(|c| c.status == "True")
    };
    let reasons = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let changed = |kind| {
        // A node begins as not ready; that is no change.
        let before = of(old, kind).or_else(|| (kind == "Ready").then_some(false));
        of(Some(new), kind).filter(|now| before != Some(*now))
    };
    reasons
        .into_iter()
        .filter_map(|(kind, yes, no)| changed(kind).map(|now| if now { yes } else { no }))
        .collect()
}

/// Whether the API has to be told before the next heartbeat is due.
pub(super) fn differs(new: &NodeStatus, old: &NodeStatus) -> bool {
    let holds = |old: &Option<BTreeMap<String, Quantity>>, new: &Option<BTreeMap<String, Quantity>>| {
        new.iter().flatten().all(|(name, amount)| old.as_ref().and_then(|o| o.get(name)) == Some(amount))
    };
    let told = |c: &NodeCondition| {
        let same = |o: &&NodeCondition| {
            (&o.type_, &o.status, &o.reason, &o.message) == (&c.type_, &c.status, &c.reason, &c.message)
        };
        old.conditions.iter().flatten().any(|o| same(&o))
    };
    !holds(&old.capacity, &new.capacity)
        || !holds(&old.allocatable, &new.allocatable)
        || !new.conditions.iter().flatten().all(told)
        || new.addresses != old.addresses
        || new.images != old.images
        || new.node_info != old.node_info
        || new.daemon_endpoints != old.daemon_endpoints
}

fn info(config: &Config) -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = read("/etc/os-release");
    let os = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"')
        .to_owned();
    NodeSystemInfo {
        architecture: arch().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("coracle://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        machine_id: first(&MACHINE_IDS, read),
        operating_system: "linux".to_owned(),
        os_image: os,
        system_uuid: first(&SYSTEM_UUIDS, read),
        ..NodeSystemInfo::default()
    }
}

/// Where a machine tells its identity, in upstream's order: firmware, device tree, and the system's own id.
const SYSTEM_UUIDS: [&str; 4] = [
    "/sys/class/dmi/id/product_uuid",
    "/proc/device-tree/system-id",
    "/proc/device-tree/vm,uuid",
    "/etc/machine-id",
];
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

fn first(places: &[&str], read: impl Fn(&str) -> String) -> String {
    // Device trees end their texts with a zero.
    let mut texts = places.iter().map(|place| read(place).trim_end_matches('\0').to_owned());
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_firmware_tables_has_an_identity_as_well() {
        let machine = |files: &'static [(&str, &str)]| {
            move |path: &str| {
                let known = files.iter().find(|(name, _)| *name == path);
                known.map_or(String::new(), |(_, text)| (*text).to_owned())
            }
        };
        let virt = machine(&[("/etc/machine-id", "id"), ("/proc/device-tree/vm,uuid", "uuid\0")]);
        assert_eq!(first(&SYSTEM_UUIDS, virt), "uuid");
        let bare = machine(&[("/etc/machine-id", "id")]);
        assert_eq!((first(&SYSTEM_UUIDS, bare), first(&MACHINE_IDS, bare)), ("id".into(), "id".into()));
        assert_eq!(first(&MACHINE_IDS, machine(&[])), "");
    }

    #[test]
    fn a_node_that_is_not_ready_tells_every_reason() {
        let broken = Some("cgroups cannot be managed: /sys/fs/cgroup/x: Permission denied");
        let runtime =
            "container runtime is not ready: cgroups cannot be managed: /sys/fs/cgroup/x: Permission denied";
        let all = format!("[{runtime}, {NO_RANGE}, node is shutting down]");
        for (trouble, open, ending, want) in [
            (None, true, false, None),
            (broken, true, false, Some(runtime)),
            (None, false, false, Some(NO_RANGE)),
            (None, true, true, Some("node is shutting down")),
            (broken, false, true, Some(all.as_str())),
        ] {
            let ready = readiness(trouble, open, ending);
            assert_eq!(ready.as_ref().err().map(String::as_str), want);
            let network = NetworkState { open: true, ..NetworkState::default() };
            let conditions = conditions(&Shortages::new(), &network, ready, None, Timestamp::UNIX_EPOCH);
            let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
            let (status, reason) = match want {
                None => ("True", "KubeletReady"),
                Some(_) => ("False", "KubeletNotReady"),
            };
            assert_eq!((ready.status.as_str(), ready.reason.as_deref()), (status, Some(reason)));
            assert!(
                conditions.iter().all(|c| c.type_ == "Ready" || c.status == "False"),
                "nothing else changes"
            );
        }
    }

    #[test]
    fn whether_pods_can_have_users_of_their_own_is_told_for_every_handler() {
        for able in [true, false] {
            let all = handlers(able);
            let names: Vec<&str> = all.iter().filter_map(|h| h.name.as_deref()).collect();
            assert_eq!(
                names,
                ["", "coracle", "runc"],
                "the one that pods get without a RuntimeClass is first"
            );
            assert!(all.iter().all(|h| h.features.as_ref().and_then(|f| f.user_namespaces) == Some(able)));
        }
    }

    #[test]
    fn conditions_keep_their_transition_time_and_changes_are_events() {
        let (first, later) = (Timestamp::from_second(1000).unwrap(), Timestamp::from_second(2000).unwrap());
        let conditions = |short: &Shortages, network: &NetworkState, old: Option<&NodeStatus>, now| {
            super::conditions(short, network, readiness(None, network.open, false), old, now)
        };
        let status = |conditions| NodeStatus { conditions: Some(conditions), ..NodeStatus::default() };
        let network = NetworkState { open: true, ..NetworkState::default() };
        let closed = status(conditions(&Shortages::new(), &NetworkState::default(), None, first));
        assert!(!transitions(&closed, None).iter().any(|r| r.contains("Ready")), "a beginning is no change");
        let old = status(conditions(&Shortages::new(), &network, None, first));
        assert_eq!(transitions(&old, Some(&closed)), ["NodeReady"]);
        let all = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
        assert_eq!(transitions(&old, None), all);
        let same = status(conditions(&Shortages::new(), &network, Some(&old), later));
        assert!(!differs(&same, &old), "a heartbeat alone waits its five minutes");
        assert_eq!(transitions(&same, Some(&old)), [""; 0]);
        let short = Shortages::from([Condition::Memory]);
        let new = status(conditions(&short, &network, Some(&old), later));
        assert!(differs(&new, &old));
        assert_eq!(transitions(&new, Some(&old)), ["NodeHasInsufficientMemory"]);
        let since: Vec<i64> = new
            .conditions
            .unwrap()
            .into_iter()
            .map(|c| c.last_transition_time.unwrap().0.as_second())
            .collect();
        assert_eq!(since, [1000, 2000, 1000, 1000, 1000]);
    }

    #[test]
    fn sizes_are_printed_as_upstream_does() {
        for (bytes, text) in
            [(0, "0"), (2 << 20, "2Mi"), (1 << 30, "1Gi"), (64 << 10, "64Ki"), (1000, "1000")]
        {
            assert_eq!(binary(bytes), text);
        }
    }
}
