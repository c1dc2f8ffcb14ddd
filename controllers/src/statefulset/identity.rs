//! What makes the pods of a StatefulSet individuals: names, labels, claims.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::claims::{controller_ref, name, namespace, uid};
use crate::pods;
use crate::revisions::REVISION_HASH;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(super) fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The ordinal of a pod if its name is one of this set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = name(pod).rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    (parent == name(set) && digits).then(|| ordinal.parse().ok()).flatten()
}

pub(super) fn in_range(set: &StatefulSet, ordinal: i32) -> bool {
    (start(set)..start(set) + replicas(set)).contains(&ordinal)
}

pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(template, namespace(set), name(set), controller_ref(set));
    let pod_name = format!("{}-{ordinal}", name(set));
    pod.metadata.name = Some(pod_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.extend(identity(&pod_name, ordinal));
    labels.insert(REVISION_HASH.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let claims = claims(set, ordinal);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|volume| !claims.iter().any(|(template, _)| *template == volume.name));
    let mounted = claims.into_iter().map(|(template, claim)| Volume {
        name: template,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    });
    volumes.splice(0..0, mounted);
    spec.volumes = spec.volumes.take().filter(|v| !v.is_empty());
    pod
}

fn identity(pod: &str, ordinal: i32) -> BTreeMap<String, String> {
    BTreeMap::from([(POD_NAME.to_owned(), pod.to_owned()), (POD_INDEX.to_owned(), ordinal.to_string())])
}

/// The labels a pod lacks to be itself.
pub(super) fn missing_identity(pod: &Pod, ordinal: i32) -> BTreeMap<String, String> {
    let mut wanted = identity(name(pod), ordinal);
    let labels = pod.metadata.labels.as_ref();
    wanted.retain(|key, value| labels.and_then(|l| l.get(key)) != Some(value));
    wanted
}

/// The claims of an ordinal, each with the name of its template.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(format!("{}-{}-{ordinal}", name(template), name(set)));
            claim.metadata.namespace = set.metadata.namespace.clone();
            let labels = spec.selector.match_labels.clone().unwrap_or_default();
            claim.metadata.labels.get_or_insert_default().extend(labels);
            claim.status = None;
            (name(template).to_owned(), claim)
        })
        .collect()
}

/// The owners a claim should have by the retention policy; None if they are right already.
pub(super) fn claim_owners(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|w| w == "Delete");
    let scaled = deletes(policy.and_then(|p| p.when_scaled.as_ref()));
    let deleted = deletes(policy.and_then(|p| p.when_deleted.as_ref()));
    let present = claim.metadata.owner_references.clone().unwrap_or_default();
    let ours = |r: &OwnerReference| r.uid == uid(set) || r.uid == uid(pod);
    let mut wanted: Vec<_> = present.iter().filter(|r| !ours(r)).cloned().collect();
    let foreign = wanted.iter().any(|r| r.controller == Some(true));
    let condemned = !in_range(set, ordinal);
    if !foreign && scaled && condemned {
        wanted.push(controller_ref(pod));
    } else if !foreign && deleted && !(scaled && condemned) {
        wanted.push(controller_ref(set));
    }
    let same = |a: &OwnerReference| present.iter().any(|b| b.uid == a.uid && b.controller == a.controller);
    (wanted.len() != present.len() || !wanted.iter().all(same)).then_some(wanted)
}
