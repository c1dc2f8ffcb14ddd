//! What the node and its pods use: `/stats/summary` and `/metrics/resource`, with upstream's names.

use std::{fs, path::Path, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{
    disks::Disks,
    exposition::{Exposition, seconds},
    pressure::{Supply, disk, inodes, kib, memory, processes},
};
use crate::{
    beneath,
    cri::{ContainerState, Stats},
    eviction::{Disk, Usage as DiskUse},
    pods::{
        node_context::NodeContext,
        view::{name_of, namespace_of, uid_of},
    },
};

/// One pod's use and that of its running containers.
pub(super) struct Usage {
    pub(super) pod: Arc<Pod>,
    pub(super) total: Stats,
    pub(super) containers: Vec<(String, Timestamp, Stats)>,
}

/// Ticks of `/proc/stat`: the kernel's USER_HZ, the same on all machines that Linux pods run on.
const NANOS_PER_TICK: u64 = 10_000_000;

pub(super) async fn usage(node: &NodeContext, pods: Vec<Arc<Pod>>) -> Vec<Usage> {
    let mut all = Vec::new();
    for pod in pods {
        // A pod that has just gone has no numbers.
        let Ok(total) = node.runtime.pod_stats(uid_of(&pod)).await else { continue };
        let mut containers = Vec::new();
        for c in node.runtime.containers_of(uid_of(&pod)) {
            let ContainerState::Running { started, .. } = c.state else { continue };
            if let Ok(stats) = node.runtime.stats(&c.id).await {
                containers.push((c.name, started, stats));
            }
        }
        all.push(Usage { pod, total, containers });
    }
    all
}

/// Nanoseconds all processors have worked since the machine's start.
pub(super) fn node_cpu() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user time.
    let busy = ticks.iter().take(8).sum::<u64>() - ticks.get(3).unwrap_or(&0) - ticks.get(4).unwrap_or(&0);
    busy * NANOS_PER_TICK
}

pub(crate) async fn summary(node: &NodeContext, disks: &Disks, pods: Vec<Arc<Pod>>) -> Value {
    let config = &node.config;
    let now = time(Timestamp::now());
    let taken = disks.of(node, &pods).await;
    let device = Device::of(&config.state_dir);
    let images = Device::of(&config.images_dir).runtime(node.images.taken().await.map(of_images), &now);
    let layers: Disk = taken.values().flat_map(|disk| disk.containers.iter().map(|c| c.rootfs)).sum();
    let containers = device.runtime(Some(layers), &now);
    let of_disk = |u: &Usage| taken.get(uid_of(&u.pod)).map(|disk| (&**disk, device));
    let pods: Vec<Value> = usage(node, pods).await.iter().map(|u| pod_summary(u, of_disk(u), &now)).collect();
    let (left, tasks) = (memory(), processes());
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
        "node": {
            "nodeName": config.node_name,
            "startTime": time(boot_time()),
            "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu()},
            "memory": {
                "time": now,
                "availableBytes": left.available,
                "usageBytes": left.total.saturating_sub(kib(&meminfo, "MemFree:")),
                "workingSetBytes": left.total.saturating_sub(left.available),
                "rssBytes": kib(&meminfo, "AnonPages:"),
            },
            "fs": filesystem(&config.state_dir, &now),
            "runtime": {"imageFs": images, "containerFs": containers},
            "rlimit": {"time": now, "maxpid": tasks.total, "curproc": tasks.total.saturating_sub(tasks.available)},
        },
        "pods": pods,
    })
}

fn pod_summary(u: &Usage, disk: Option<(&DiskUse, Device)>, now: &str) -> Value {
    let m = &u.pod.metadata;
    let started = u.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| time(t.0));
    let container = |(name, started, stats): &(String, Timestamp, Stats)| {
        let mut summary = json!({
            "name": name,
            "startTime": time(*started),
            "cpu": cpu(stats, now),
            "memory": memory_of(stats, now),
        });
        let found =
            disk.and_then(|(disk, device)| Some((disk.containers.iter().find(|c| c.name == *name)?, device)));
        if let Some((found, device)) = found {
            summary["rootfs"] = device.part(found.rootfs, now);
            summary["logs"] = device.part(found.logs, now);
        }
        summary
    };
    let mut summary = json!({
        "podRef": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
        "startTime": started,
        "containers": u.containers.iter().map(container).collect::<Vec<_>>(),
        "cpu": cpu(&u.total, now),
        "memory": memory_of(&u.total, now),
        "process_stats": {"process_count": u.total.pids},
    });
    if let Some((disk, device)) = disk {
        summary["ephemeral-storage"] = device.part(disk.ephemeral(), now);
        let volume = |(name, taken): (&String, &Disk)| {
            let mut volume = device.part(*taken, now);
            volume["name"] = name.as_str().into();
            volume
        };
        if !disk.volumes.is_empty() {
            summary["volume"] = disk.volumes.iter().map(volume).collect();
        }
    }
    summary
}

/// A file system that many share.
#[derive(Clone, Copy)]
struct Device {
    space: Supply,
    files: Supply,
}

// === impl Device ===

impl Device {
    fn of(dir: &Path) -> Self {
        Device { space: disk(dir), files: inodes(dir) }
    }

    /// What images, or the layers that containers write to, take of it; the numbers of that are left out where they are not
    /// known yet.
    fn runtime(&self, taken: Option<Disk>, now: &str) -> Value {
        let mut part = self.part(taken.unwrap_or_default(), now);
        if let (None, Value::Object(fields)) = (taken, &mut part) {
            fields.retain(|name, _| !matches!(name.as_str(), "usedBytes" | "inodesUsed"));
        }
        part
    }

    /// What one takes of it, beside what is left for all.
    fn part(&self, taken: Disk, now: &str) -> Value {
        json!({
            "time": now,
            "availableBytes": self.space.available,
            "capacityBytes": self.space.total,
            "usedBytes": taken.bytes,
            "inodesFree": self.files.available,
            "inodes": self.files.total,
            "inodesUsed": taken.inodes,
        })
    }
}

fn of_images(usage: beneath::Usage) -> Disk {
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Disk { bytes: whole(usage.bytes), inodes: whole(usage.inodes) }
}

fn cpu(s: &Stats, now: &str) -> Value {
    json!({"time": now, "usageCoreNanoSeconds": s.cpu_usage_nanos})
}

fn memory_of(s: &Stats, now: &str) -> Value {
    json!({
        "time": now,
        "usageBytes": s.memory_usage_bytes,
        "workingSetBytes": s.memory_working_set_bytes,
        "rssBytes": s.memory_rss_bytes,
        "pageFaults": s.page_faults,
        "majorPageFaults": s.major_page_faults,
    })
}

fn filesystem(dir: &Path, now: &str) -> Value {
    let (space, files) = (disk(dir), inodes(dir));
    json!({
        "time": now,
        "availableBytes": space.available,
        "capacityBytes": space.total,
        "usedBytes": space.total.saturating_sub(space.available),
        "inodesFree": files.available,
        "inodes": files.total,
        "inodesUsed": files.total.saturating_sub(files.available),
    })
}

fn time(at: Timestamp) -> String {
    crate::pods::whole_second(at).0.to_string()
}

fn boot_time() -> Timestamp {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = text.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok());
    seconds.and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(crate) async fn resource_metrics(node: &NodeContext, pods: Vec<Arc<Pod>>) -> String {
    let usage = usage(node, pods).await;
    let mut out = Exposition::timed("[STABLE] ");
    let of_pod = |u: &Usage| format!("namespace={:?},pod={:?}", namespace_of(&u.pod), name_of(&u.pod));
    let containers: Vec<(String, Timestamp, Stats)> = usage
        .iter()
        .flat_map(|u| {
            u.containers
                .iter()
                .map(|(name, started, s)| (format!("container={name:?},{}", of_pod(u)), *started, *s))
        })
        .collect();
    let pods: Vec<(String, Stats)> = usage.iter().map(|u| (of_pod(u), u.total)).collect();
    let cpu = |s: &Stats| seconds(s.cpu_usage_nanos);
    let set = |s: &Stats| s.memory_working_set_bytes.to_string();
    let rows = containers.iter().map(|(l, _, s)| (l.as_str(), cpu(s)));
    out.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        rows,
    );
    let rows = containers.iter().map(|(l, _, s)| (l.as_str(), set(s)));
    out.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        rows,
    );
    let rows = containers.iter().map(|(l, at, _)| (l.as_str(), (at.as_millisecond() / 1000).to_string()));
    out.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        rows,
    );
    let one = |value: String| std::iter::once(("", value));
    out.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        one(seconds(node_cpu())),
    );
    let left = memory();
    let set_of_node = left.total.saturating_sub(left.available).to_string();
    out.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        one(set_of_node),
    );
    let rows = pods.iter().map(|(l, s)| (l.as_str(), cpu(s)));
    out.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        rows,
    );
    let rows = pods.iter().map(|(l, s)| (l.as_str(), set(s)));
    out.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", rows);
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    out.family("resource_scrape_error", "gauge", help, one("0".to_owned()));
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::ContainerUsage;

    #[test]
    fn what_the_runtime_takes_is_its_own_and_not_the_whole_disks() {
        let device =
            Device { space: Supply { available: 60, total: 100 }, files: Supply { available: 6, total: 10 } };
        let images = of_images(beneath::Usage { bytes: 7, inodes: 3, incomplete: false });
        let told = device.runtime(Some(images), "now");
        assert_eq!((told["usedBytes"].as_i64(), told["inodesUsed"].as_i64()), (Some(7), Some(3)), "{told}");
        assert_eq!((told["availableBytes"].as_i64(), told["capacityBytes"].as_i64()), (Some(60), Some(100)));
        let unknown = device.runtime(None, "now");
        assert!(unknown.get("usedBytes").is_none() && unknown["inodes"] == json!(10), "{unknown}");
    }

    #[test]
    fn a_pods_summary_tells_what_it_takes_of_the_disk() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}}))
                .expect("a pod");
        let started = Timestamp::UNIX_EPOCH;
        let containers = ["c", "new"].map(|name| (name.to_owned(), started, Stats::default())).into();
        let usage = Usage { pod: Arc::new(pod), total: Stats::default(), containers };
        let device =
            Device { space: Supply { available: 60, total: 100 }, files: Supply { available: 6, total: 10 } };
        let of = |bytes, inodes| Disk { bytes, inodes };
        let container = ContainerUsage { name: "c".into(), rootfs: of(8, 1), logs: of(4, 2), memory: 0 };
        let disk = DiskUse {
            containers: vec![container],
            volumes: [("cache".to_owned(), of(16, 3))].into(),
            files: of(1, 1),
            ..DiskUse::default()
        };
        let part = |bytes: i64, inodes: i64| {
            json!({"time": "now", "availableBytes": 60, "capacityBytes": 100, "usedBytes": bytes,
                "inodesFree": 6, "inodes": 10, "inodesUsed": inodes})
        };
        let summary = pod_summary(&usage, Some((&disk, device)), "now");
        assert_eq!(summary["ephemeral-storage"], part(29, 7));
        let mut volume = part(16, 3);
        volume["name"] = json!("cache");
        assert_eq!(summary["volume"], json!([volume]));
        assert_eq!(summary["containers"][0]["rootfs"], part(8, 1));
        assert_eq!(summary["containers"][0]["logs"], part(4, 2));
        assert!(summary["containers"][1].get("rootfs").is_none(), "not measured yet: {summary}");
        let summary = pod_summary(&usage, None, "now");
        assert!(summary.get("ephemeral-storage").is_none(), "{summary}");
    }
}
