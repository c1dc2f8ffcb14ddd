//! Gives each Node a range of the pods' addresses, `spec.podCIDR`, which its kubelet waits for.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::Cidr;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use crate::Config;
use crate::claims::name;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Recorder, Runtime, Writer};

/// Upstream's `--node-cidr-mask-size`.
const NODE_PREFIX: u8 = 24;

struct Controller {
    nodes: Arc<Cache<Node>>,
    ranges: Arc<Mutex<Ranges>>,
    recorder: Recorder,
}

/// Which of the cluster's equal ranges are in use.
struct Ranges {
    cluster: Cidr,
    prefix: u8,
    used: BTreeSet<u64>,
    /// Where the next search starts: a range that was given back rests as long as possible.
    next: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("no range of {0} is left for another node")]
struct Exhausted(Cidr);

pub(crate) fn start(runtime: &mut Runtime, config: &Config) {
    let Some(cluster) = config.cluster_cidr else { return };
    let mut ranges = Ranges::new(cluster);
    if let Some(services) = &config.service_cidr {
        ranges.occupy(services);
    }
    let (nodes, ranges) = (runtime.cache::<Node>(), Arc::new(Mutex::new(ranges)));
    let queue = Queue::default();
    let (known, changed) = (ranges.clone(), queue.clone());
    nodes.on_change(move |old, new| match (old, new) {
        (Some(old), None) => known.lock().release(&given(old)),
        (_, Some(new)) if given(new).is_empty() => changed.add(Key::of(&**new)),
        (_, Some(new)) => given(new).iter().for_each(|range| known.lock().occupy(range)),
        (None, None) => {}
    });
    let recorder = runtime.recorder("cidrAllocator");
    runtime.work("node-ipam-controller", queue, 1, Controller { nodes, ranges, recorder });
}

fn given(node: &Node) -> Vec<Cidr> {
    let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
    ranges.filter_map(|range| range.parse().ok()).collect()
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let going = |n: &Arc<Node>| n.metadata.deletion_timestamp.is_some() || !given(n).is_empty();
        let Some(node) = self.nodes.get(key).filter(|n| !going(n)) else { return Ok(Next::Done) };
        let event = |reason: &str| {
            let text = format!("Node {} status is now: {reason}", name(&*node));
            self.recorder.normal(&*node, reason, text);
        };
        let next = self.ranges.lock().next();
        let range = next.inspect_err(|_| event("CIDRNotAvailable"))?;
        let spec = json!({"spec": {"podCIDR": range.to_string(), "podCIDRs": [range.to_string()]}});
        if let Err(error) = api.merge::<Node>(key, spec).await {
            event("CIDRAssignmentFailed");
            self.ranges.lock().release(&[range]);
            return Err(error.into());
        }
        Ok(Next::Done)
    }
}

// === impl Ranges ===

impl Ranges {
    fn new(cluster: Cidr) -> Self {
        Ranges { cluster, prefix: cluster.prefix().max(NODE_PREFIX), used: BTreeSet::new(), next: 0 }
    }

    fn count(&self) -> u64 {
        1 << (self.prefix - self.cluster.prefix())
    }

    fn at(&self, index: u64) -> Option<Cidr> {
        let first = self.cluster.nth(index << (32 - self.prefix))?;
        Some(Cidr::new(first, self.prefix))
    }

    fn next(&mut self) -> Result<Cidr, Exhausted> {
        let free = (0..self.count()).map(|i| (self.next + i) % self.count()).find(|i| !self.used.contains(i));
        let found = free.and_then(|index| Some((index, self.at(index)?)));
        let (index, range) = found.ok_or(Exhausted(self.cluster))?;
        self.used.insert(index);
        self.next = (index + 1) % self.count();
        Ok(range)
    }

    fn occupy(&mut self, range: &Cidr) {
        self.used.extend(self.met_by(range));
    }

    fn release(&mut self, ranges: &[Cidr]) {
        for index in ranges.iter().flat_map(|range| self.met_by(range)).collect::<Vec<_>>() {
            self.used.remove(&index);
        }
    }

    /// The indices of our ranges that share an address with another range.
    fn met_by(&self, range: &Cidr) -> std::ops::Range<u64> {
        if !self.cluster.overlaps(range) {
            return 0..0;
        }
        let from = u64::from(u32::from(self.cluster.address()));
        let offset = u64::from(u32::from(range.address())).saturating_sub(from);
        let first = offset >> (32 - self.prefix);
        let end = (offset + range.size()).div_ceil(1 << (32 - self.prefix)).min(self.count());
        first..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn each_node_gets_a_range_of_its_own_and_a_freed_one_comes_back_last() {
        let mut ranges = Ranges::new(cidr("10.244.0.0/22"));
        ranges.occupy(&cidr("10.244.1.0/24"));
        let mut next = || ranges.next().map(|r| r.to_string()).map_err(|e| e.to_string());
        assert_eq!(next().as_deref(), Ok("10.244.0.0/24"));
        assert_eq!(next().as_deref(), Ok("10.244.2.0/24"));
        ranges.release(&[cidr("10.244.0.0/24")]);
        let mut next = || ranges.next().map(|r| r.to_string()).map_err(|e| e.to_string());
        assert_eq!(next().as_deref(), Ok("10.244.3.0/24"));
        assert_eq!(next().as_deref(), Ok("10.244.0.0/24"));
        assert_eq!(next(), Err("no range of 10.244.0.0/22 is left for another node".to_owned()));
    }

    #[test]
    fn services_inside_the_range_and_odd_sizes_are_kept_free() {
        let mut ranges = Ranges::new(cidr("10.0.0.0/22"));
        ranges.occupy(&cidr("10.0.0.128/25"));
        ranges.occupy(&cidr("10.0.2.0/23"));
        ranges.occupy(&cidr("192.168.0.0/16"));
        assert_eq!(ranges.next().unwrap(), cidr("10.0.1.0/24"));
        assert!(ranges.next().is_err());
        assert_eq!(Ranges::new(cidr("10.0.0.0/26")).next().unwrap(), cidr("10.0.0.0/26"), "one node only");
        let mut all = Ranges::new(cidr("10.0.0.0/22"));
        all.occupy(&cidr("10.0.0.0/8"));
        assert!(all.next().is_err());
    }
}
