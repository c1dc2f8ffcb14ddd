//! The kubelet's own metrics, `/metrics`, and what cAdvisor tells of containers, `/metrics/cadvisor`, with upstream's names.

use std::{collections::BTreeMap, fs, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    exposition::{Exposition, labels, seconds},
    stats::{Usage, node_cpu, usage},
};
use crate::{
    cri::{ContainerState, Stats},
    eviction::evictions,
    pods::{
        node_context::NodeContext,
        own_users::COUNTS,
        resources::{container_resources, cpu_shares},
        view::{find_container, name_of, namespace_of, spec_of, uid_of},
    },
};

/// What the kubelet is at.
pub(crate) fn kubelet(node: &NodeContext) -> String {
    let mut page = Exposition::untimed("[ALPHA] ");
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for record in node.runtime.containers() {
        let state = match record.state {
            ContainerState::Created { .. } => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited { .. } => "exited",
            ContainerState::Unknown => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    let name = labels(&[("node", &node.config.node_name)]);
    let help = "The node's name. The count is always 1.";
    page.family("kubelet_node_name", "gauge", help, std::iter::once((name.as_str(), "1".to_owned())));
    let pods = node.runtime.sandboxes().len().to_string();
    let help = "Number of pods that have a running pod sandbox";
    page.family("kubelet_running_pods", "gauge", help, std::iter::once(("", pods)));
    let rows: Vec<_> = states.iter().map(|(s, n)| (labels(&[("container_state", s)]), n)).collect();
    let help = "Number of containers currently running";
    counted(&mut page, "kubelet_running_containers", "gauge", help, &rows);
    let counts = evictions();
    let rows: Vec<_> = counts.iter().map(|(s, n)| (labels(&[("eviction_signal", s)]), n)).collect();
    let help = "Cumulative number of pod evictions by eviction signal";
    counted(&mut page, "kubelet_evictions", "counter", help, &rows);
    let [begun, failed] = COUNTS.all();
    let help = "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.";
    let name = "kubelet_started_user_namespaced_pods_total";
    page.family(name, "counter", help, std::iter::once(("", begun.to_string())));
    let help = "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.";
    let name = "kubelet_started_user_namespaced_pods_errors_total";
    page.family(name, "counter", help, std::iter::once(("", failed.to_string())));
    let counts = coracle_api::panics::counts();
    let rows: Vec<_> = counts.iter().map(|(task, n)| (labels(&[("task", task)]), n)).collect();
    let help = "Cumulative number of panics by the task that was begun anew after them";
    counted(&mut page, "coracle_kubelet_task_panics_total", "counter", help, &rows);
    node.config.certificates.tell(&mut page, Timestamp::now().as_second());
    page.finish()
}

fn counted(page: &mut Exposition, name: &str, kind: &str, help: &str, rows: &[(String, &u64)]) {
    page.family(name, kind, help, rows.iter().map(|(labels, n)| (labels.as_str(), n.to_string())));
}

/// A cgroup: the whole node's, a pod's or a container's.
struct Row {
    labels: String,
    stats: Stats,
    started: Option<Timestamp>,
    /// Shares, quota and limit, of a container.
    spec: Option<crate::cri::Resources>,
}

/// What each cgroup uses.
pub(crate) async fn cadvisor(node: &NodeContext, pods: Vec<Arc<Pod>>) -> String {
    let usage = usage(node, pods).await;
    let mut rows = vec![Row {
        labels: row_labels(["", "/", "", "", "", ""]),
        stats: Stats { cpu_usage_nanos: node_cpu(), ..node.runtime.all_stats().await.unwrap_or_default() },
        started: None,
        spec: None,
    }];
    for u in &usage {
        rows.extend(pod_rows(node, u));
    }
    let network = tokio::task::spawn_blocking({
        let pods = processes(node, &usage);
        move || pods.into_iter().map(|(labels, pid)| (labels, interfaces(pid))).collect::<Vec<_>>()
    });
    let network = network.await.unwrap_or_default();
    page(&rows, &network, node.capacity.cpus, node.capacity.memory)
}

fn row_labels([container, id, image, name, namespace, pod]: [&str; 6]) -> String {
    labels(&[
        ("container", container),
        ("id", id),
        ("image", image),
        ("name", name),
        ("namespace", namespace),
        ("pod", pod),
    ])
}

fn pod_rows(node: &NodeContext, u: &Usage) -> Vec<Row> {
    let (namespace, pod) = (namespace_of(&u.pod), name_of(&u.pod));
    let cgroup = node.runtime.cgroup_of_pod(uid_of(&u.pod)).unwrap_or_default();
    let started = u.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let mut rows = vec![Row {
        labels: row_labels(["", &cgroup, "", "", namespace, pod]),
        stats: u.total,
        started,
        spec: None,
    }];
    for record in node.runtime.containers_of(uid_of(&u.pod)) {
        let known = u.containers.iter().find(|(name, ..)| *name == record.name);
        let running = matches!(record.state, ContainerState::Running { .. });
        let Some((name, started, stats)) = known.filter(|_| running) else { continue };
        let id = format!("{cgroup}/{}", record.id);
        let spec = find_container(spec_of(&u.pod), name)
            .map(|(_, c)| container_resources(&u.pod, &c, node.capacity.memory));
        rows.push(Row {
            labels: row_labels([name, &id, &record.image, &record.id, namespace, pod]),
            stats: *stats,
            started: Some(*started),
            spec,
        });
    }
    rows
}

/// One process of each pod that has a network of its own.
fn processes(node: &NodeContext, usage: &[Usage]) -> Vec<(String, i32)> {
    let own = usage.iter().filter(|u| spec_of(&u.pod).host_network != Some(true));
    own.filter_map(|u| {
        let pid = node.runtime.containers_of(uid_of(&u.pod)).into_iter().find_map(|r| match r.state {
            ContainerState::Running { pid, .. } => Some(pid),
            ContainerState::Created { .. } | ContainerState::Exited { .. } | ContainerState::Unknown => None,
        })?;
        let cgroup = node.runtime.cgroup_of_pod(uid_of(&u.pod)).unwrap_or_default();
        Some((row_labels(["", &cgroup, "", "", namespace_of(&u.pod), name_of(&u.pod)]), pid))
    })
    .collect()
}

/// Name and counters (`/proc/net/dev`) of the interfaces that a process sees, loopback apart.
fn interfaces(pid: i32) -> Vec<(String, Vec<u64>)> {
    parse_interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn parse_interfaces(text: &str) -> Vec<(String, Vec<u64>)> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let parsed = lines.map(|(name, counters)| {
        (name.trim().to_owned(), counters.split_whitespace().filter_map(|n| n.parse().ok()).collect())
    });
    parsed.filter(|(name, counters): &(String, Vec<u64>)| name != "lo" && counters.len() >= 12).collect()
}

type Network = (String, Vec<(String, Vec<u64>)>);
type Family = (&'static str, &'static str, &'static str, fn(&Row) -> Option<String>);

const FAMILIES: [Family; 11] = [
    ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |_| {
        Some(Timestamp::now().as_second().to_string())
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |r| r.started.map(|at| at.as_second().to_string()),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |r| Some(r.stats.memory_usage_bytes.to_string()),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |r| {
        Some(r.stats.memory_working_set_bytes.to_string())
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |r| {
        Some(r.stats.memory_rss_bytes.to_string())
    }),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |r| {
        Some(r.stats.memory_usage_bytes.saturating_sub(r.stats.memory_rss_bytes).to_string())
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |r| {
        Some(r.stats.pids.to_string())
    }),
    ("container_spec_cpu_period", "gauge", "CPU period of the container.", |r| {
        Some(r.spec.as_ref()?.cpu_period.to_string())
    }),
    ("container_spec_cpu_quota", "gauge", "CPU quota of the container.", |r| {
        Some(r.spec.as_ref()?.cpu_quota?.to_string())
    }),
    ("container_spec_cpu_shares", "gauge", "CPU share of the container.", |r| {
        Some(r.spec.as_ref()?.cpu_shares.unwrap_or_else(|| cpu_shares(0)).to_string())
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |r| {
        Some(r.spec.as_ref()?.memory_limit.unwrap_or(0).to_string())
    }),
];

/// Column of `/proc/net/dev`, the rest of the name, and what is counted.
const NETWORK: [(usize, &str, &str); 8] = [
    (0, "receive_bytes", "bytes received"),
    (1, "receive_packets", "packets received"),
    (2, "receive_errors", "errors encountered while receiving"),
    (3, "receive_packets_dropped", "packets dropped while receiving"),
    (8, "transmit_bytes", "bytes transmitted"),
    (9, "transmit_packets", "packets transmitted"),
    (10, "transmit_errors", "errors encountered while transmitting"),
    (11, "transmit_packets_dropped", "packets dropped while transmitting"),
];

fn page(rows: &[Row], network: &[Network], cpus: i64, memory: i64) -> String {
    let mut page = Exposition::timed("");
    let cpu: Vec<_> = rows
        .iter()
        .map(|r| (format!("cpu=\"total\",{}", r.labels), seconds(r.stats.cpu_usage_nanos)))
        .collect();
    let help = "Cumulative cpu time consumed in seconds.";
    let cpu = cpu.iter().map(|(labels, value)| (labels.as_str(), value.clone()));
    page.family("container_cpu_usage_seconds_total", "counter", help, cpu);
    for (name, kind, help, value) in FAMILIES {
        page.family(name, kind, help, rows.iter().filter_map(|r| Some((r.labels.as_str(), value(r)?))));
    }
    let faults: Vec<_> = rows
        .iter()
        .flat_map(|r| {
            let of = |kind: &str, n: u64| {
                (format!("failure_type=\"{kind}\",scope=\"hierarchy\",{}", r.labels), n.to_string())
            };
            [of("pgfault", r.stats.page_faults), of("pgmajfault", r.stats.major_page_faults)]
        })
        .collect();
    let help = "Cumulative count of memory allocation failures.";
    let faults = faults.iter().map(|(labels, value)| (labels.as_str(), value.clone()));
    page.family("container_memory_failures_total", "counter", help, faults);
    for (column, name, what) in NETWORK {
        let samples = network.iter().flat_map(|(labels, all)| {
            all.iter().map(move |(interface, counters)| {
                (format!("interface=\"{interface}\",{labels}"), counters[column].to_string())
            })
        });
        let samples: Vec<_> = samples.collect();
        let (name, help) = (format!("container_network_{name}_total"), format!("Cumulative count of {what}"));
        let samples = samples.iter().map(|(labels, value)| (labels.as_str(), value.clone()));
        page.family(&name, "counter", &help, samples);
    }
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    page.family("container_scrape_error", "gauge", help, std::iter::once(("", "0".to_owned())));
    let one = |n: i64| std::iter::once(("", n.to_string()));
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.", one(cpus));
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", one(memory));
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_of_under_the_names_that_dashboards_ask_for() {
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n";
        let stats = Stats {
            cpu_usage_nanos: 1_250_000_000,
            memory_usage_bytes: 3000,
            memory_working_set_bytes: 2000,
            memory_rss_bytes: 1000,
            page_faults: 5,
            major_page_faults: 6,
            pids: 7,
        };
        let spec = crate::cri::Resources {
            memory_limit: Some(1 << 20),
            cpu_shares: Some(102),
            cpu_period: 100_000,
            ..Default::default()
        };
        let labels = row_labels(["c", "/kubepods/podx/y", "img", "y", "ns", "p"]);
        let row = Row { labels, stats, started: Some(Timestamp::from_second(42).unwrap()), spec: Some(spec) };
        let text = page(&[row], &[("pod=\"p\"".to_owned(), parse_interfaces(dev))], 2, 4096);
        let labels = r#"container="c",id="/kubepods/podx/y",image="img",name="y",namespace="ns",pod="p""#;
        for (name, value) in [
            (format!("container_cpu_usage_seconds_total{{cpu=\"total\",{labels}}}"), "1.250000000"),
            (format!("container_memory_working_set_bytes{{{labels}}}"), "2000"),
            (format!("container_memory_rss{{{labels}}}"), "1000"),
            (format!("container_start_time_seconds{{{labels}}}"), "42"),
            (format!("container_spec_memory_limit_bytes{{{labels}}}"), "1048576"),
            (
                format!(
                    "container_memory_failures_total{{failure_type=\"pgmajfault\",scope=\"hierarchy\",{labels}}}"
                ),
                "6",
            ),
            ("container_network_receive_bytes_total{interface=\"eth0\",pod=\"p\"}".to_owned(), "10"),
            (
                "container_network_transmit_packets_dropped_total{interface=\"eth0\",pod=\"p\"}".to_owned(),
                "7",
            ),
            ("machine_cpu_cores".to_owned(), "2"),
        ] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} {value} "))), "{name}\n{text}");
        }
        assert!(!text.contains("interface=\"lo\"") && !text.contains("cpu_quota{"));
    }
}
