//! `/configz`: what the kubelet was told, as upstream's `KubeletConfiguration` names it. Pure.

use coracle_api::duration::print_span;
use serde_json::{Map, Value, json};

use crate::{
    Config,
    eviction::thresholds::{Amount, Signal, Threshold},
};

/// Only what holds here: fields of what this kubelet does not do are left out.
pub(crate) fn configz(config: &Config) -> Value {
    let eviction = &config.eviction;
    let listed = eviction.thresholds.iter().filter(|t| t.signal != Signal::AllocatableMemoryAvailable);
    let (hard, soft): (Vec<&Threshold>, Vec<&Threshold>) = listed.partition(|t| t.is_hard());
    let map = |all: &[&Threshold], of: fn(&Threshold) -> Option<String>| -> Map<String, Value> {
        all.iter().filter_map(|t| Some((t.signal.name().to_owned(), of(t)?.into()))).collect()
    };
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let all: Vec<&Threshold> = hard.iter().chain(&soft).copied().collect();
    let mut configured = json!({"kubeletconfig": {
        "enableServer": true,
        "address": config.serving.listen.to_string(),
        "port": config.serving.port,
        "authentication": {
            "x509": {},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
            "anonymous": {"enabled": false},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": dns,
        "streamingConnectionIdleTimeout": print_span(config.serving.idle_timeout),
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "nodeStatusMaxImages": 50,
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": true,
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": ["pods"],
        "maxPods": config.max_pods,
        "resolvConf": "/etc/resolv.conf",
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms",
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5,
        "podLogsDir": config.log_dir,
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "imageMinimumGCAge": print_span(config.image_gc.minimum_age),
        "imageMaximumGCAge": print_span(config.image_gc.maximum_age.unwrap_or_default()),
        "imageGCHighThresholdPercent": config.image_gc.high_percent,
        "imageGCLowThresholdPercent": config.image_gc.low_percent,
        "localStorageCapacityIsolation": true,
        "registerNode": true,
        "providerID": config.provider_id.as_deref().unwrap_or_default(),
        "evictionHard": map(&hard, |t| Some(amount(t.value))),
        "evictionSoft": map(&soft, |t| Some(amount(t.value))),
        "evictionSoftGracePeriod": map(&soft, |t| Some(print_span(t.grace))),
        "evictionMinimumReclaim": map(&all, |t| t.minimum_reclaim.map(amount)),
        "evictionPressureTransitionPeriod": print_span(eviction.transition),
        "evictionMaxPodGracePeriod": eviction.max_pod_grace,
    }});
    let periods = config.shutdown_periods;
    configured["kubeletconfig"]["shutdownGracePeriod"] = print_span(periods.all).into();
    configured["kubeletconfig"]["shutdownGracePeriodCriticalPods"] = print_span(periods.critical).into();
    configured["kubeletconfig"]["rotateCertificates"] = true.into();
    configured["kubeletconfig"]["serverTLSBootstrap"] = config.serving.certificate.is_some().into();
    configured
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::Quantity(quantity) => quantity.to_string(),
        Amount::Fraction(part) => format!("{}%", part * 100.0),
    }
}
