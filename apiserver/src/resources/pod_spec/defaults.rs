//! Static defaults of a pod spec. Some hold for pods only, so that templates stay as their authors wrote them.

use coracle_api::quantity::Format;
use serde_json::{Map, Value, json};

use super::super::defaulting::{each, fill, fill_zero, object, within};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// 0644
const FILE_MODE: i32 = 0o644;

/// Defaults of the `template` field of a workload.
pub(in super::super) fn template(template: &mut Value) {
    spec(object(template, "spec"));
}

/// Defaults of a pod's own spec.
pub(in super::super) fn pod(pod: &mut Value) {
    let it = object(pod, "spec");
    for list in ["containers", "initContainers"] {
        each(it, list, requests_from_limits);
    }
    pod_level_requests(it);
    fill(it, "enableServiceLinks", true);
    if it["hostNetwork"] == json!(true) {
        for list in ["containers", "initContainers"] {
            each(it, list, |c| {
                each(c, "ports", |p| {
                    let port = p["containerPort"].clone();
                    fill_zero(p, "hostPort", port);
                });
            });
        }
    }
    spec(it);
}

fn spec(it: &mut Value) {
    fill_zero(it, "dnsPolicy", "ClusterFirst");
    fill_zero(it, "restartPolicy", "Always");
    fill(it, "securityContext", json!({}));
    fill(it, "terminationGracePeriodSeconds", 30);
    if it["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        it["terminationGracePeriodSeconds"] = json!(1);
    }
    fill_zero(it, "schedulerName", "default-scheduler");
    service_account(it);
    for list in CONTAINER_LISTS {
        each(it, list, container);
    }
    each(it, "volumes", volume);
    within(it, "overhead", round_up_to_millis);
    drop_closed(it);
}

/// What upstream drops because its feature gates are closed by default.
fn drop_closed(it: &mut Value) {
    if let Some(spec) = it.as_object_mut() {
        spec.remove("schedulingGroup");
    }
    for list in CONTAINER_LISTS {
        each(it, list, |container| {
            let Some(container) = container.as_object_mut() else { return };
            let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) else {
                return;
            };
            if lifecycle.remove("stopSignal").is_some() && lifecycle.is_empty() {
                container.remove("lifecycle");
            }
        });
    }
    each(it, "volumes", |volume| {
        within(volume, "projected", |projected| {
            each(projected, "sources", |source| {
                let Some(source) = source.as_object_mut() else { return };
                source.remove("clusterTrustBundle");
                source.remove("podCertificate");
            });
        });
    });
}

/// The deprecated `serviceAccount` mirrors `serviceAccountName`, and stands in for it.
fn service_account(it: &mut Value) {
    let name = |key: &str| it[key].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    if let Some(name) = name("serviceAccountName").or_else(|| name("serviceAccount")) {
        it["serviceAccountName"] = json!(name);
        it["serviceAccount"] = json!(name);
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = object(object(container, "resources"), "requests");
    for (name, amount) in limits {
        fill(requests, &name, amount);
    }
}

/// Where a pod names limits as a whole, its missing requests come from its containers, then from those limits.
fn pod_level_requests(it: &mut Value) {
    let Some(limits) = it["resources"]["limits"].as_object().filter(|l| !l.is_empty()).cloned() else {
        return;
    };
    let of_containers = coracle_api::resources::Demand::of_json(it).sum_of_containers();
    let requests = object(object(it, "resources"), "requests");
    for (name, amount) in &of_containers {
        if matches!(name.as_str(), "cpu" | "memory") {
            fill(requests, name, amount.to_string());
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            fill(requests, &name, amount);
        }
    }
}

fn container(it: &mut Value) {
    let policy = pull_policy(it["image"].as_str().unwrap_or_default());
    fill_zero(it, "imagePullPolicy", policy);
    fill_zero(it, "terminationMessagePath", "/dev/termination-log");
    fill_zero(it, "terminationMessagePolicy", "File");
    each(it, "ports", |p| fill_zero(p, "protocol", "TCP"));
    each(it, "env", |e| {
        within(e, "valueFrom", |from| {
            within(from, "fieldRef", |r| fill_zero(r, "apiVersion", "v1"));
            within(from, "fileKeyRef", |r| fill(r, "optional", false));
        });
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(it, name, probe);
    }
    within(it, "lifecycle", |l| {
        within(l, "postStart", |h| within(h, "httpGet", http_get));
        within(l, "preStop", |h| within(h, "httpGet", http_get));
    });
    within(it, "resources", |r| {
        within(r, "limits", round_up_to_millis);
        within(r, "requests", round_up_to_millis);
    });
}

fn probe(it: &mut Value) {
    fill_zero(it, "timeoutSeconds", 1);
    fill_zero(it, "periodSeconds", 10);
    fill_zero(it, "successThreshold", 1);
    fill_zero(it, "failureThreshold", 3);
    within(it, "httpGet", http_get);
    within(it, "grpc", |g| fill(g, "service", ""));
}

fn http_get(it: &mut Value) {
    fill_zero(it, "path", "/");
    fill_zero(it, "scheme", "HTTP");
}

fn volume(it: &mut Value) {
    if it.as_object().is_some_and(|v| v.keys().all(|key| key == "name")) {
        it["emptyDir"] = json!({});
    }
    for (source, key, value) in [
        ("secret", "defaultMode", json!(FILE_MODE)),
        ("configMap", "defaultMode", json!(FILE_MODE)),
        ("downwardAPI", "defaultMode", json!(FILE_MODE)),
        ("projected", "defaultMode", json!(FILE_MODE)),
        ("hostPath", "type", json!("")),
        ("iscsi", "iscsiInterface", json!("default")),
        ("rbd", "pool", json!("rbd")),
        ("rbd", "user", json!("admin")),
        ("rbd", "keyring", json!("/etc/ceph/keyring")),
        ("azureDisk", "cachingMode", json!("ReadWrite")),
        ("azureDisk", "kind", json!("Shared")),
        ("azureDisk", "fsType", json!("ext4")),
        ("azureDisk", "readOnly", json!(false)),
        ("scaleIO", "storageMode", json!("ThinProvisioned")),
        ("scaleIO", "fsType", json!("xfs")),
    ] {
        within(it, source, |s| fill(s, key, value));
    }
    within(it, "downwardAPI", downward_items);
    within(it, "projected", |p| {
        each(p, "sources", |s| {
            within(s, "downwardAPI", downward_items);
            within(s, "serviceAccountToken", |t| fill(t, "expirationSeconds", 3600));
        });
    });
    within(it, "ephemeral", |e| {
        within(e, "volumeClaimTemplate", |t| within(t, "spec", |s| fill(s, "volumeMode", "Filesystem")));
    });
    within(it, "image", |i| {
        let policy = pull_policy(i["reference"].as_str().unwrap_or_default());
        fill_zero(i, "pullPolicy", policy);
    });
}

fn downward_items(it: &mut Value) {
    each(it, "items", |item| within(item, "fieldRef", |r| fill_zero(r, "apiVersion", "v1")));
}

/// `Always` for a mutable tag (`latest`, or none at all), else `IfNotPresent`. A name that is none counts as fixed.
fn pull_policy(image: &str) -> &'static str {
    let (name, has_digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let repository = tag.map_or(name, |tag| &name[..name.len() - tag.len() - 1]);
    match tag {
        _ if !is_repository(repository) => "IfNotPresent",
        Some("latest") => "Always",
        None if !has_digest => "Always",
        _ => "IfNotPresent",
    }
}

/// Bytes of an image's name at most; what is longer is none.
const MOST_OF_A_NAME: usize = 255;

/// `registry/path/name`: lower-case words joined by single separators, after an optional host.
fn is_repository(name: &str) -> bool {
    let is_host = |s: &str| s.contains(['.', ':']) || s == "localhost" || s != s.to_lowercase();
    let path = match name.split_once('/') {
        Some((host, rest)) if is_host(host) => rest,
        _ => name,
    };
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let component = |c: &str| {
        c.replace("__", ".").split(['.', '_']).all(|p| {
            let mut parts = p.split('-');
            !p.starts_with('-')
                && !p.ends_with('-')
                && parts.all(|w| w.is_empty() || word(w))
                && !p.is_empty()
        })
    };
    path.len() <= MOST_OF_A_NAME && path.split('/').all(component)
}

/// Amounts in a resource list are never finer than a thousandth.
pub(in super::super) fn round_up_to_millis(list: &mut Value) {
    let Some(list) = list.as_object_mut() else { return };
    round_list(list);
}

fn round_list(list: &mut Map<String, Value>) {
    for amount in list.values_mut() {
        if let Ok(q) = coracle_api::Quantity::from_json(amount)
            && !q.is_milli_precise()
        {
            let millis = q.milli_value();
            *amount = match q.format() {
                Format::DecimalExponent => json!(format!("{millis}e-3")),
                Format::DecimalSi | Format::BinarySi => {
                    json!(coracle_api::Quantity::from_millis(millis).to_string())
                }
            };
        }
    }
}
