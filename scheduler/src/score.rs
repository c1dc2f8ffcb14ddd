//! How good the nodes that fit are: upstream's score plugins with upstream's weights.

use coracle_api::taint::tolerated;
use k8s_openapi::api::core::v1::Taint;

use crate::cluster::{Cluster, NodeInfo};
use crate::pod::PodInfo;
use crate::preference;

pub(crate) const MAX: i64 = 100;
const MIB: i64 = 1024 * 1024;
/// Images below this are pulled as fast as not; above the second bound, size does not matter more.
const IMAGE_BOUNDS: (i64, i64) = (23 * MIB, 1000 * MIB);

/// One total per node, in the order of `nodes`.
pub(crate) fn totals(pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
    let mut taints: Vec<i64> = nodes.iter().map(|n| untolerated_preferences(pod, n)).collect();
    normalize(&mut taints, true);
    let mut affinity: Vec<i64> = nodes.iter().map(|n| preferred_terms(pod, n)).collect();
    normalize(&mut affinity, false);
    let spread = preference::spread(pod, nodes, cluster);
    let neighbours = preference::neighbours(pod, nodes, cluster);
    let total = |(i, node): (usize, &&NodeInfo)| {
        3 * taints[i]
            + 2 * affinity[i]
            + 2 * spread[i]
            + 2 * neighbours[i]
            + least_allocated(pod, node)
            + balance(pod, node)
            + images(pod, node, cluster)
    };
    nodes.iter().enumerate().map(total).collect()
}

fn untolerated_preferences(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let prefers = |t: &&Taint| t.effect == "PreferNoSchedule";
    node.taints.iter().filter(prefers).filter(|t| !tolerated(Some(&pod.tolerations), t)).count() as i64
}

fn preferred_terms(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let matching = pod.preferred_node_terms.iter().filter(|(_, t)| t.matches(&node.name, Some(&node.labels)));
    matching.map(|(weight, _)| i64::from(*weight)).sum()
}

/// Scales to 0..100 by the greatest; `reverse` where less is better.
fn normalize(scores: &mut [i64], reverse: bool) {
    let greatest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if greatest == 0 { 0 } else { *score * MAX / greatest };
        *score = if reverse { MAX - scaled } else { scaled };
    }
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (used, want, have) = (&node.score_requested, &pod.score_requests, &node.allocatable);
    let part = |requested: i64, capacity: i64| match capacity {
        0 => None,
        c if requested > c => Some(0),
        c => Some(((c as i128 - requested as i128) * MAX as i128 / c as i128) as i64),
    };
    let parts =
        [part(used.milli_cpu + want.milli_cpu, have.milli_cpu), part(used.memory + want.memory, have.memory)];
    let known: Vec<i64> = parts.into_iter().flatten().collect();
    if known.is_empty() { 0 } else { known.iter().sum::<i64>() / known.len() as i64 }
}

/// Whether CPU and memory fill up evenly, better or worse than before.
fn balance(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let score = |cpu: i64, memory: i64| {
        let have = &node.allocatable;
        if have.milli_cpu == 0 || have.memory == 0 {
            return MAX;
        }
        let fraction = |requested: i64, capacity: i64| (requested as f64 / capacity as f64).min(1.0);
        let deviation = (fraction(cpu, have.milli_cpu) - fraction(memory, have.memory)).abs() / 2.0;
        ((1.0 - deviation) * MAX as f64) as i64
    };
    let (used, want) = (&node.requested, &pod.requests);
    let with = score(used.milli_cpu + want.milli_cpu, used.memory + want.memory);
    let without = score(used.milli_cpu, used.memory);
    MAX / 2 + (MAX / 2 + with - without) / 2
}

fn images(pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> i64 {
    let total = cluster.nodes.len().max(1) as i64;
    let spread = |image: &String| {
        let name = normalized(image);
        let size = node.images.get(&name).or_else(|| node.images.get(image)).copied()?;
        Some(size * cluster.nodes_with_image(&name).max(1) as i64 / total)
    };
    let sum: i64 = pod.images.iter().filter_map(spread).sum();
    let (low, high) = (IMAGE_BOUNDS.0, IMAGE_BOUNDS.1 * pod.images.len().max(1) as i64);
    MAX * (sum.clamp(low, high) - low) / (high - low)
}

/// `nginx` is `nginx:latest`.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
