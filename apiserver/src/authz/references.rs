//! What pods and volumes name of the API, field by field as their types have them.
//!
//! A node may read what its pods name: so nothing counts but the fields in which upstream's types hold a reference, however
//! a key elsewhere in the object is called.

use coracle_api::Object;
use serde_json::Value;

/// Marks a pod that a node runs from a file, and only shows.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// Where sources of a pod's volume name a secret.
const POD_VOLUME_SECRETS: &[&str] = &[
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/secret/secretName",
    "/storageos/secretRef/name",
];
/// Where a persistent volume names a secret that a kubelet needs, and whether it is by default in the claim's namespace.
const VOLUME_SECRETS: &[(&str, bool)] = &[
    ("cephfs/secretRef", true),
    ("cinder/secretRef", false),
    ("csi/nodeExpandSecretRef", false),
    ("csi/nodePublishSecretRef", false),
    ("csi/nodeStageSecretRef", false),
    ("flexVolume/secretRef", true),
    ("iscsi/secretRef", true),
    ("rbd/secretRef", true),
    ("scaleIO/secretRef", true),
    ("storageos/secretRef", false),
];
/// Volumes that name nothing of the API but perhaps a secret.
const PLAIN_VOLUMES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
/// Volumes that name something of the API.
const API_VOLUMES: &[(&str, &str)] = &[
    ("azureFile", "secrets (via azureFile volumes)"),
    ("configMap", "configmaps (via configmap volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("secret", "secrets (via secret volumes)"),
];
/// Sources of projected volumes that name something of the API; `downwardAPI` is the only other.
const API_SOURCES: &[(&str, &str)] = &[
    ("clusterTrustBundle", "clustertrustbundles"),
    ("configMap", "configmaps (via projected volumes)"),
    ("podCertificate", "podcertificates"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
];

/// The secrets that a pod names.
pub(crate) fn secrets(pod: &Object) -> Vec<&str> {
    let pull = pod.items_at(&["spec", "imagePullSecrets"]).iter().filter_map(|r| text(r, "/name"));
    let volumes =
        volumes(pod).iter().flat_map(|v| POD_VOLUME_SECRETS.iter().filter_map(move |at| text(v, at)));
    let projected = sources(pod).filter_map(|s| text(s, "/secret/name"));
    pull.chain(environment(pod, "/secretRef/name", "/valueFrom/secretKeyRef/name"))
        .chain(volumes)
        .chain(projected)
        .collect()
}

/// The config maps that a pod names.
pub(crate) fn config_maps(pod: &Object) -> Vec<&str> {
    let volumes = volumes(pod).iter().filter_map(|v| text(v, "/configMap/name"));
    let projected = sources(pod).filter_map(|s| text(s, "/configMap/name"));
    environment(pod, "/configMapRef/name", "/valueFrom/configMapKeyRef/name")
        .chain(volumes)
        .chain(projected)
        .collect()
}

/// The claims of a pod's volumes, those of ephemeral volumes included.
pub(crate) fn claims(pod: &Object) -> Vec<String> {
    let claim = |volume: &Value| {
        if let Some(name) = text(volume, "/persistentVolumeClaim/claimName") {
            return Some(name.to_owned());
        }
        volume.get("ephemeral").filter(|e| !e.is_null())?;
        Some(format!("{}-{}", pod.name(), text(volume, "/name")?))
    };
    volumes(pod).iter().filter_map(claim).collect()
}

/// The resource claims of a pod: named in the spec, or made for it, as the status tells.
pub(crate) fn resource_claims(pod: &Object) -> Vec<&str> {
    let made = pod.items_at(&["status", "resourceClaimStatuses"]);
    let extended = pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]);
    let claims =
        pod.items_at(&["spec", "resourceClaims"]).iter().filter_map(|claim| resource_claim(claim, made));
    claims.chain(Some(extended).filter(|name| !name.is_empty())).collect()
}

/// The name of one, which may have been `made` from a template.
fn resource_claim<'a>(claim: &'a Value, made: &'a [Value]) -> Option<&'a str> {
    if let Some(named) = claim.get("resourceClaimName").and_then(Value::as_str) {
        return Some(named).filter(|n| !n.is_empty());
    }
    claim.get("resourceClaimTemplateName")?.as_str()?;
    let name = claim.get("name")?;
    text(made.iter().find(|s| s.get("name") == Some(name))?, "/resourceClaimName")
}

/// Namespace and name of the secrets that kubelets need for a persistent volume.
pub(crate) fn volume_secrets(volume: &Object) -> Vec<(&str, &str)> {
    let of_claim = volume.str_at(&["spec", "claimRef", "namespace"]);
    let mut found = vec![];
    let file = |field: &str| volume.str_at(&["spec", "azureFile", field]);
    found.push((
        Some(file("secretNamespace")).filter(|n| !n.is_empty()).unwrap_or(of_claim),
        file("secretName"),
    ));
    for (at, claims_namespace) in VOLUME_SECRETS {
        let Some((source, field)) = at.split_once('/') else { continue };
        let part = |key: &str| volume.str_at(&["spec", source, field, key]);
        let namespace =
            if part("namespace").is_empty() && *claims_namespace { of_claim } else { part("namespace") };
        found.push((namespace, part("name")));
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Whether a volume of a pod is to hold tokens of its service account.
pub(crate) fn projects_tokens(pod: &Object) -> bool {
    sources(pod).any(|source| source.get("serviceAccountToken").is_some_and(|token| !token.is_null()))
}

/// What of the API a pod's spec names, in upstream's words; an error where it has a volume of no known kind.
pub(crate) fn named(pod: &Object) -> Result<Option<&'static str>, String> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if !secrets(pod).is_empty() {
        return Ok(Some("secrets"));
    }
    if !config_maps(pod).is_empty() {
        return Ok(Some("configmaps"));
    }
    if !pod.items_at(&["spec", "resourceClaims"]).is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in volumes(pod) {
        let name = text(volume, "/name").unwrap_or_default();
        let mut kinds = set(volume).filter(|kind| *kind != "name").peekable();
        if kinds.peek().is_none() {
            return Err(format!("unknown volume type for volume  {name:?}"));
        }
        for kind in kinds {
            match kind {
                kind if PLAIN_VOLUMES.contains(&kind) => {}
                "projected" => {
                    if let Some(what) = named_by_sources(volume)? {
                        return Ok(Some(what));
                    }
                }
                kind => match API_VOLUMES.iter().find(|(own, _)| *own == kind) {
                    Some((_, what)) => return Ok(Some(what)),
                    None => return Err(format!("unknown volume type for volume  {name:?}")),
                },
            }
        }
    }
    Ok(None)
}

fn named_by_sources(volume: &Value) -> Result<Option<&'static str>, String> {
    let sources = volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten();
    let Some(kind) = sources.flat_map(set).find(|kind| *kind != "downwardAPI") else { return Ok(None) };
    match API_SOURCES.iter().find(|(own, _)| *own == kind) {
        Some((_, what)) => Ok(Some(what)),
        None => {
            let name = text(volume, "/name").unwrap_or_default();
            Err(format!("unknown source for projected volume {name:?}"))
        }
    }
}

/// The fields of a value that hold something.
fn set(value: &Value) -> impl Iterator<Item = &str> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(_, inner)| !inner.is_null()).map(|(key, _)| key.as_str())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

fn volumes(pod: &Object) -> &[Value] {
    pod.items_at(&["spec", "volumes"])
}

/// The sources of a pod's projected volumes.
fn sources(pod: &Object) -> impl Iterator<Item = &Value> {
    volumes(pod).iter().filter_map(|v| v.pointer("/projected/sources")?.as_array()).flatten()
}

/// What the environments of all containers name: as a whole, and by key.
fn environment<'a>(pod: &'a Object, whole: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let containers = CONTAINERS.iter().flat_map(move |list| pod.items_at(&["spec", list]));
    containers.flat_map(move |container| {
        let items = |list: &str| container.get(list).and_then(Value::as_array).into_iter().flatten();
        let sets = items("envFrom").filter_map(move |e| text(e, whole));
        sets.chain(items("env").filter_map(move |e| text(e, key)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_typed_fields_name_something() {
        let pod = Object(json!({"metadata": {"name": "p", "annotations": {"secretName": "no"}},
            "spec": {
                "nodeSelector": {"secretName": "no", "configMap": "no", "claimName": "no"},
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "init"}}}]}],
                "containers": [{
                    "command": ["secretName"],
                    "env": [{"name": "secretName", "value": "no"},
                            {"valueFrom": {"configMapKeyRef": {"name": "key"}}}],
                    "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "set"}}]}],
                "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "later"}}]}],
                "resourceClaims": [{"name": "a", "resourceClaimName": "own"},
                                   {"name": "b", "resourceClaimTemplateName": "t"},
                                   {"name": "c", "resourceClaimTemplateName": "t"}],
                "volumes": [
                    {"name": "secretName", "secret": {"secretName": "volume", "items": [{"key": "no"}]}},
                    {"name": "f", "azureFile": {"secretName": "azure"}},
                    {"name": "m", "configMap": {"name": "map"}},
                    {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {"volumeName": "no",
                        "dataSource": {"kind": "PersistentVolumeClaim", "name": "no"}}}}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "x", "projected": {"sources": [{"secret": {"name": "part"}},
                                                            {"configMap": {"name": "piece"}}]}},
                    {"name": "d", "csi": {"driver": "no", "nodePublishSecretRef": {"name": "csi"},
                        "volumeAttributes": {"secretName": "no"}}}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}],
                       "extendedResourceClaimStatus": {"resourceClaimName": "extended"}}}));
        assert_eq!(secrets(&pod), ["pull", "init", "from", "later", "volume", "azure", "csi", "part"]);
        assert_eq!(config_maps(&pod), ["set", "key", "map", "piece"]);
        assert_eq!(claims(&pod), ["p-e", "claim"]);
        assert_eq!(resource_claims(&pod), ["own", "made", "extended"]);
    }

    #[test]
    fn a_volume_names_the_secrets_that_kubelets_need() {
        let volume = |spec: Value| {
            let mut volume = Object(json!({"spec": spec}));
            volume.set(&["spec", "claimRef"], json!({"namespace": "n", "name": "c"}));
            volume
        };
        for (spec, expected) in [
            (
                json!({"csi": {"nodeStageSecretRef": {"namespace": "m", "name": "s"},
                            "controllerPublishSecretRef": {"namespace": "m", "name": "no"}}}),
                &[("m", "s")][..],
            ),
            (json!({"rbd": {"secretRef": {"name": "s"}}}), &[("n", "s")]),
            (json!({"rbd": {"secretRef": {"name": "s", "namespace": "m"}}}), &[("m", "s")]),
            (json!({"azureFile": {"secretName": "s"}}), &[("n", "s")]),
            (json!({"azureFile": {"secretName": "s", "secretNamespace": "m"}}), &[("m", "s")]),
            (json!({"hostPath": {"path": "/secretName"}}), &[]),
        ] {
            assert_eq!(volume_secrets(&volume(spec.clone())), expected, "{spec}");
        }
    }

    #[test]
    fn whether_a_pod_names_anything_of_the_api() {
        let volume = |source: Value| {
            let mut volume = source;
            volume["name"] = "v".into();
            json!({"volumes": [volume]})
        };
        let unknown = Err("unknown volume type for volume  \"v\"".to_owned());
        for (spec, expected) in [
            (json!({}), Ok(None)),
            (json!({"nodeSelector": {"secretName": "x"}}), Ok(None)),
            (json!({"serviceAccountName": "a"}), Ok(Some("serviceaccounts"))),
            (json!({"imagePullSecrets": [{"name": "a"}]}), Ok(Some("secrets"))),
            (json!({"resourceClaims": [{"name": "a"}]}), Ok(Some("resourceclaims"))),
            (
                json!({"initContainers": [{"envFrom": [{"configMapRef": {"name": "a"}}]}]}),
                Ok(Some("configmaps")),
            ),
            (volume(json!({"hostPath": {"path": "/"}})), Ok(None)),
            (volume(json!({"secret": {}})), Ok(Some("secrets (via secret volumes)"))),
            (volume(json!({"rbd": {"secretRef": {"name": "s"}}})), Ok(Some("secrets"))),
            (volume(json!({"hostPath": {"path": "/"}, "csi": {}})), Ok(Some("csidrivers (via CSI volumes)"))),
            (volume(json!({"projected": {"sources": [{"downwardAPI": {}}]}})), Ok(None)),
            (
                volume(json!({"projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {}}]}})),
                Ok(Some("serviceaccounts (via projected volumes)")),
            ),
            (
                volume(json!({"projected": {"sources": [{"podCertificate": {}}]}})),
                Ok(Some("podcertificates")),
            ),
            (volume(json!({"new": {}})), unknown.clone()),
            (volume(json!({})), unknown.clone()),
        ] {
            let pod = Object(json!({"spec": spec}));
            assert_eq!(named(&pod), expected, "{spec}");
        }
    }
}
