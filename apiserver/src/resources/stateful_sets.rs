//! StatefulSets: pods with names and claims of their own.

use coracle_api::Object;
use serde_json::{Value, json};

use super::apps::{at_most_all, changed_template_warnings, counts, int_or_percent, number, selector};
use super::core::claim_spec;
use super::defaulting::{each, fill, fill_zero, object};
use super::pod_spec;
use super::validation::{Errors, annotations, labels};
use super::workload_status::STATEFUL_SET;
use crate::field::FieldError;
use crate::field_names::dns1123_label;
use crate::resource::{Strategy, WriteContext};

pub(super) struct StatefulSets;

impl Strategy for StatefulSets {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill_zero(spec, "podManagementPolicy", "OrderedReady");
        let strategy = object(spec, "updateStrategy");
        if strategy["type"].as_str().unwrap_or_default().is_empty() {
            strategy["type"] = json!("RollingUpdate");
            fill(strategy, "rollingUpdate", json!({}));
        }
        if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
            fill(object(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
        fill_zero(retention, "whenDeleted", "Retain");
        fill_zero(retention, "whenScaled", "Retain");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        each(spec, "volumeClaimTemplates", |claim| {
            fill_zero(claim, "apiVersion", "v1");
            fill_zero(claim, "kind", "PersistentVolumeClaim");
            fill(object(claim, "spec"), "volumeMode", "Filesystem");
            fill_zero(object(claim, "status"), "phase", "Pending");
        });
        pod_spec::template(object(spec, "template"));
    }

    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        crate::field_names::dns1123_label(name)
    }

    /// How many pods of a rolling update may be away is a feature that upstream has not switched on.
    /// A set that has a number from before keeps it.
    fn prepare(&self, _cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        const LIMIT: [&str; 4] = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
        if old.is_none_or(|old| old.at(&LIMIT).is_none()) {
            new.remove(&LIMIT);
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = changed_template_warnings(new, old);
        for (i, claim) in new.items_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
            // Of an update upstream names the field as its own type does.
            let within = if old.is_some() { ".Spec" } else { "" };
            let at = format!("spec.volumeClaimTemplates[{i}]{within}.resources");
            let amounts = [("storage", "requests"), ("storage", "limits")];
            pod_spec::byte_warnings(&at, &claim["spec"]["resources"], &amounts, &mut all);
        }
        if new.i64_at(&["spec", "revisionHistoryLimit"]).is_some_and(|limit| limit < 0) {
            let why = "a negative value retains all historical revisions; a value >= 0 is recommended";
            all.push(format!("spec.revisionHistoryLimit: {why}"));
        }
        all
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return counts(&STATEFUL_SET, new, old);
        }
        let mut errors = Errors::default();
        stateful_rules(new, old.is_some(), &mut errors);
        let mut template = new.at(&["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
        let picked = selector(new, "statefulset", &template, &mut errors);
        with_claims(&mut template["spec"], new.items_at(&["spec", "volumeClaimTemplates"]));
        pod_spec::replicated_template("spec.template", &template, picked, "StatefulSet", &mut errors);
        if picked.is_some() {
            again(&template["metadata"], &mut errors);
        }
        if let Some(old) = old {
            fixed_stateful_set(new, old, &mut errors);
        }
        errors.0
    }
}

fn stateful_rules(new: &Object, stored: bool, errors: &mut Errors) {
    match new.str_at(&["spec", "podManagementPolicy"]) {
        "" => errors.required("spec.podManagementPolicy", ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            errors.invalid("spec.podManagementPolicy", other, "must be 'OrderedReady' or 'Parallel'");
        }
    }
    let strategy = new.at(&["spec", "updateStrategy"]).unwrap_or(&Value::Null);
    let rolling = &strategy["rollingUpdate"];
    let at = "spec.updateStrategy.rollingUpdate";
    match strategy["type"].as_str().unwrap_or_default() {
        "" => errors.required("spec.updateStrategy", ""),
        "OnDelete" if rolling.is_object() => {
            let text = rolling_text(rolling);
            errors.invalid_text(at, text, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "RollingUpdate" if rolling.is_object() => {
            errors.non_negative(format!("{at}.partition"), rolling["partition"].as_i64());
            if !rolling["maxUnavailable"].is_null() {
                int_or_percent(&format!("{at}.maxUnavailable"), &rolling["maxUnavailable"], errors);
                if number(&rolling["maxUnavailable"]) == Some(0) {
                    let value = rolling["maxUnavailable"].clone();
                    errors.invalid(format!("{at}.maxUnavailable"), value, "cannot be 0");
                }
                at_most_all(&format!("{at}.maxUnavailable"), &rolling["maxUnavailable"], errors);
            }
        }
        "OnDelete" | "RollingUpdate" => {}
        other => {
            let text = format!("{{\"Type\":{other:?},\"RollingUpdate\":{}}}", rolling_text(rolling));
            errors.invalid_text("spec.updateStrategy", text, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
    for key in ["whenDeleted", "whenScaled"] {
        let word = new.str_at(&["spec", "persistentVolumeClaimRetentionPolicy", key]);
        let at = format!("spec.persistentVolumeClaimRetentionPolicy.{key}");
        errors.supported(at, word, &["Retain", "Delete"]);
    }
    // What is stored cannot change, and so is not looked at again.
    let claims = if stored { &[] } else { new.items_at(&["spec", "volumeClaimTemplates"]) };
    for (i, claim) in claims.iter().enumerate() {
        let at = format!("spec.volumeClaimTemplates[{i}]");
        claim_spec(&format!("{at}.spec"), &claim["spec"], errors);
    }
    errors.non_negative("spec.replicas", new.i64_at(&["spec", "replicas"]));
    errors.non_negative("spec.minReadySeconds", new.i64_at(&["spec", "minReadySeconds"]));
    errors.non_negative("spec.ordinals.start", new.i64_at(&["spec", "ordinals", "start"]));
    let service = new.str_at(&["spec", "serviceName"]);
    if !service.is_empty() && !stored {
        errors.all_invalid("spec.serviceName", service, dns1123_label(service));
    }
}

/// Upstream looks at the labels and annotations of the template once more, before it looks at its policies.
fn again(metadata: &Value, errors: &mut Errors) {
    let mut found = Errors::default();
    labels("spec.template.labels", metadata.get("labels"), &mut found);
    annotations("spec.template.annotations", &metadata["annotations"], &mut found);
    let late = |e: &FieldError| {
        ["spec.template.spec.restartPolicy", "spec.template.spec.activeDeadlineSeconds"].contains(&&*e.field)
    };
    let end = errors.0.iter().rposition(|e| !late(e)).map_or(0, |at| at + 1);
    errors.0.splice(end..end, found.0);
}

fn rolling_text(rolling: &Value) -> String {
    match rolling.as_object() {
        Some(r) => format!(
            "{{\"Partition\":{},\"MaxUnavailable\":{}}}",
            r.get("partition").unwrap_or(&json!(0)),
            r.get("maxUnavailable").unwrap_or(&Value::Null)
        ),
        None => "null".to_owned(),
    }
}

/// The template as its pods will be: claims are volumes, names are the controller's.
fn with_claims(spec: &mut Value, claims: &[Value]) {
    if !spec.is_object() {
        return;
    }
    spec["hostname"] = Value::Null;
    spec["subdomain"] = Value::Null;
    let name = |c: &Value| c["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // Claims of one name are one volume.
    let mut names: Vec<String> = vec![];
    for name in claims.iter().map(name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let own = spec["volumes"].as_array().cloned().unwrap_or_default();
    let own = own.into_iter().filter(|v| !names.iter().any(|n| v["name"] == **n));
    let claimed = names.iter().map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}}));
    spec["volumes"] = claimed.chain(own).collect();
}

/// A StatefulSet's identity is fixed: only what does not touch existing claims and names may change.
fn fixed_stateful_set(new: &Object, old: &Object, errors: &mut Errors) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |o: &Object| {
        let mut spec = o.at(&["spec"]).and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|key, _| !FREE.contains(&key.as_str()));
        if let Some(Value::Array(claims)) = spec.get_mut("volumeClaimTemplates") {
            // What kind they are is known.
            for claim in claims.iter_mut().filter_map(Value::as_object_mut) {
                claim.retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind"));
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
