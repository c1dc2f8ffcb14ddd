//! `/metrics`: what dashboards for upstream's API server read first, under upstream's names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_api::panics;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::pki::Renewals;

/// What a finished request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    /// `cluster`, `namespace`, `resource` or empty.
    pub scope: &'static str,
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InflightLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

/// What priority and fairness counts: both are names of the cluster's own objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlowLabels {
    pub priority_level: String,
    pub flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    priority_level: String,
    flow_schema: String,
    /// Upstream's: `concurrency-limit queue-full time-out`.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

/// The numbers of priority and fairness.
#[derive(Default)]
pub struct Flows {
    /// What has been counted, with the reasons of refusals.
    counted: Mutex<HashMap<FlowLabels, HashSet<&'static str>>>,
    dispatched: Family<FlowLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    waiting: Family<FlowLabels, Gauge>,
    taken: Family<LevelLabels, Gauge>,
    nominal: Family<LevelLabels, Gauge>,
}

/// The server's metrics. Labels take values of the registry and of the protocol only, and those of a resource go with it
/// ([`Metrics::retain`]), so their number is bounded.
pub struct Metrics {
    registry: Registry,
    /// What has been counted of each resource, by group and plural.
    counted: Mutex<HashMap<(String, String), HashSet<RequestLabels>>>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    inflight: Family<InflightLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    revision: Gauge,
    watchers: Gauge,
    /// What is left of the client certificates that requests come with.
    client_certificates: Histogram,
    certificates: Certificates,
    panics: Family<PanicLabels, Counter>,
    pub flows: Flows,
}

/// The numbers of the cluster's own certificates.
#[derive(Default)]
struct Certificates {
    ends: Family<CertificateLabels, Gauge>,
    errors: Family<CertificateLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PanicLabels {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: String,
}

/// Upstream's buckets of what is left of a client's certificate, in seconds: from half an hour to a year.
const LEFT: [f64; 14] = [
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];

const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// One that a gauge counts while it lives, however it ends.
pub struct Counted(Gauge);

// === impl Counted ===

impl Counted {
    pub fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        let durations: Family<DurationLabels, Histogram> = durations;
        let (inflight, objects) = (Family::default(), Family::default());
        let (revision, watchers) = (Gauge::default(), Gauge::default());
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time of requests, watches left out",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being served, watches left out",
            inflight.clone(),
        );
        registry.register("apiserver_storage_objects", "Stored objects by resource", objects.clone());
        registry.register(
            "apiserver_longrunning_requests",
            "Open watches, logs, execs and their like",
            watchers.clone(),
        );
        registry.register("coracle_store_revision", "The newest revision", revision.clone());
        let client_certificates = Histogram::new(LEFT);
        registry.register(
            "apiserver_client_certificate_expiration_seconds",
            "Distribution of the remaining lifetime on the certificate used to authenticate a request",
            client_certificates.clone(),
        );
        let certificates = Certificates::default();
        registry.register(
            "coracle_certificate_expiration_timestamp_seconds",
            "When a certificate of the cluster ends",
            certificates.ends.clone(),
        );
        registry.register(
            "coracle_certificate_renew_errors",
            "Renewals of a certificate that failed since the start",
            certificates.errors.clone(),
        );
        let panics = Family::default();
        registry.register("coracle_task_panics", "Panics that were contained, by task", panics.clone());
        let counted = Mutex::default();
        let flows = Flows::default();
        flows.register(registry.sub_registry_with_prefix("apiserver_flowcontrol"));
        Metrics {
            registry,
            counted,
            requests,
            durations,
            inflight,
            objects,
            revision,
            watchers,
            client_certificates,
            certificates,
            panics,
            flows,
        }
    }
}

impl FlowLabels {
    fn for_reason(&self, reason: &'static str) -> RejectedLabels {
        let FlowLabels { priority_level, flow_schema } = self.clone();
        RejectedLabels { priority_level, flow_schema, reason }
    }
}

impl Flows {
    fn register(&self, registry: &mut Registry) {
        registry.register("dispatched_requests", "Requests that got their seats", self.dispatched.clone());
        registry.register("rejected_requests", "Requests that got none", self.rejected.clone());
        registry.register("current_inqueue_requests", "Requests that wait for seats", self.waiting.clone());
        registry.register("current_executing_seats", "Seats that are taken", self.taken.clone());
        registry.register("nominal_limit_seats", "A level's own seats", self.nominal.clone());
    }

    /// Counts a request that got its seats.
    pub fn dispatched(&self, labels: &FlowLabels) {
        if let Some(known) = self.dispatched.get(labels) {
            known.inc();
            return;
        }
        self.counted.lock().entry(labels.clone()).or_default();
        self.dispatched.get_or_create(labels).inc();
    }

    /// Counts a request that got none.
    pub fn rejected(&self, labels: &FlowLabels, reason: &'static str) {
        self.counted.lock().entry(labels.clone()).or_default().insert(reason);
        self.rejected.get_or_create(&labels.for_reason(reason)).inc();
    }

    /// The gauge of requests that wait.
    pub fn waiting(&self, labels: &FlowLabels) -> Gauge {
        self.counted.lock().entry(labels.clone()).or_default();
        self.waiting.get_or_create(labels).clone()
    }

    /// Forgets what was counted of schemas and levels that are gone.
    pub fn retain(&self, stays: impl Fn(&FlowLabels) -> bool) {
        self.counted.lock().retain(|labels, reasons| {
            let stays = stays(labels);
            if !stays {
                self.dispatched.remove(labels);
                self.waiting.remove(labels);
                for reason in reasons.drain() {
                    self.rejected.remove(&labels.for_reason(reason));
                }
            }
            stays
        });
    }

    /// Shows each level's seats (name, taken, nominal), and nothing of levels that are gone.
    pub fn show(&self, levels: &[(std::sync::Arc<str>, u32, u32)]) {
        self.taken.clear();
        self.nominal.clear();
        for (name, taken, nominal) in levels {
            let labels = LevelLabels { priority_level: name.to_string() };
            self.taken.get_or_create(&labels).set(i64::from(*taken));
            self.nominal.get_or_create(&labels).set(i64::from(*nominal));
        }
    }
}

impl Metrics {
    /// Counts a finished request.
    pub fn finished(&self, labels: &RequestLabels, took: Duration) {
        if labels.verb != "WATCH" {
            self.durations.get_or_create(&DurationLabels::from(labels)).observe(took.as_secs_f64());
        }
        if let Some(known) = self.requests.get(labels) {
            known.inc();
            return;
        }
        let of = (labels.group.clone(), labels.resource.clone());
        self.counted.lock().entry(of).or_default().insert(labels.clone());
        self.requests.get_or_create(labels).inc();
    }

    /// Forgets what was counted of resources that are no longer served; `served` is asked with group and plural.
    pub fn retain(&self, served: impl Fn(&str, &str) -> bool) {
        self.counted.lock().retain(|(group, resource), counted| {
            let stays = resource.is_empty() || served(group, resource);
            if !stays {
                for labels in &*counted {
                    self.requests.remove(labels);
                    self.durations.remove(&DurationLabels::from(labels));
                }
            }
            stays
        });
    }

    /// The gauge of requests that are being served now.
    pub fn inflight(&self, mutating: bool) -> Gauge {
        let request_kind = if mutating { "mutating" } else { "readOnly" };
        self.inflight.get_or_create(&InflightLabels { request_kind }).clone()
    }

    /// A request came with a client certificate that has so many seconds left.
    pub fn authenticated_until(&self, seconds: i64) {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        self.client_certificates.observe(seconds as f64);
    }

    /// Shows when each certificate of the cluster ends.
    pub fn show_certificates(&self, renewals: &BTreeMap<String, Renewals>) {
        for (name, Renewals { not_after, errors, .. }) in renewals {
            let labels = CertificateLabels { certificate: name.clone() };
            self.certificates.ends.get_or_create(&labels).set(*not_after);
            self.certificates.errors.get_or_create(&labels).set(i64::try_from(*errors).unwrap_or(i64::MAX));
        }
    }

    /// The gauge of requests that last.
    pub fn long_running(&self) -> &Gauge {
        &self.watchers
    }

    /// The text of `/metrics`, with the store's numbers of this moment.
    pub fn text(&self, revision: u64, objects: impl Iterator<Item = (String, usize)>) -> String {
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        // Whatever is no longer there is not told of.
        self.objects.clear();
        for (resource, count) in objects {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects.get_or_create(&ResourceLabels { resource }).set(count);
        }
        for (task, count) in panics::counts() {
            let counter = self.panics.get_or_create(&PanicLabels { task });
            counter.inner().fetch_max(count, Ordering::Relaxed);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl From<&RequestLabels> for DurationLabels {
    fn from(labels: &RequestLabels) -> Self {
        DurationLabels {
            verb: labels.verb.clone(),
            group: labels.group.clone(),
            resource: labels.resource.clone(),
            subresource: labels.subresource.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_served_is_forgotten() {
        let metrics = Metrics::default();
        let none = || std::iter::empty();
        let count = |resource: &str| {
            for (verb, code) in [("GET", 200), ("LIST", 200), ("WATCH", 200), ("GET", 404)] {
                let labels = RequestLabels {
                    verb: verb.into(),
                    group: "example.com".into(),
                    version: "v1".into(),
                    resource: resource.into(),
                    subresource: String::new(),
                    scope: "cluster",
                    code,
                };
                metrics.finished(&labels, Duration::from_millis(1));
            }
        };
        count("kept");
        let before = metrics.text(1, none()).lines().count();
        for i in 0..100 {
            count(&format!("gone{i}"));
            metrics.retain(|group, resource| (group, resource) == ("example.com", "kept"));
        }
        let text = metrics.text(1, [("gone".to_owned(), 1)].into_iter());
        assert!(text.contains("apiserver_storage_objects{resource=\"gone\"} 1"));
        let text = metrics.text(1, none());
        assert_eq!(text.lines().count(), before, "{text}");
        assert!(text.contains("resource=\"kept\"") && !text.contains("gone"), "{text}");
    }

    #[test]
    fn flow_schemas_that_are_gone_are_forgotten() {
        let metrics = Metrics::default();
        let none = || std::iter::empty();
        let count = |schema: &str| {
            let labels = FlowLabels { priority_level: "l".into(), flow_schema: schema.into() };
            metrics.flows.dispatched(&labels);
            metrics.flows.rejected(&labels, "queue-full");
            metrics.flows.waiting(&labels).inc();
        };
        count("kept");
        let before = metrics.text(1, none()).lines().count();
        for n in 0..100 {
            count(&format!("gone{n}"));
        }
        metrics.flows.retain(|labels| labels.flow_schema == "kept");
        let text = metrics.text(1, none());
        assert_eq!(text.lines().count(), before, "{text}");
        assert!(text.contains("flow_schema=\"kept\"") && !text.contains("gone"), "{text}");
    }

    #[test]
    fn panics_of_the_whole_program_are_told() {
        let metrics = Metrics::default();
        let panic = std::panic::catch_unwind(|| panic!("a test")).unwrap_err();
        for count in 1..=2 {
            panics::count("test of metrics", &*panic);
            let text = metrics.text(1, std::iter::empty());
            let line = format!("coracle_task_panics_total{{task=\"test of metrics\"}} {count}");
            assert!(text.lines().any(|l| l == line), "{text}");
        }
    }

    #[test]
    fn upstreams_names_are_used() {
        let metrics = Metrics::default();
        let labels = RequestLabels {
            verb: "GET".into(),
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
            subresource: String::new(),
            scope: "resource",
            code: 200,
        };
        metrics.finished(&labels, Duration::from_millis(3));
        metrics.inflight(true).inc();
        let text = metrics.text(7, [("pods".to_owned(), 3)].into_iter());
        for line in [
            "apiserver_request_total{verb=\"GET\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"resource\",code=\"200\"} 1",
            "apiserver_request_duration_seconds_count{verb=\"GET\",group=\"\",resource=\"pods\",subresource=\"\"} 1",
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1",
            "apiserver_storage_objects{resource=\"pods\"} 3",
            "coracle_store_revision 7",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
