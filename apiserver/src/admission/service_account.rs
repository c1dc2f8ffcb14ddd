//! ServiceAccount: every pod runs as an account, gets its pull secrets, and finds its token in a well-known directory.

use coracle_api::Object;
use rand::Rng;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::authz::references::{self, MIRROR};
use crate::cluster::{Cluster, core};
use crate::status::Result;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// One hour and a bit: kubelets tell by the odd number that the lifetime was not asked for.
const EXPIRATION_SECONDS: u32 = 3607;
/// Letters and digits of upstream's random suffixes: nothing that could spell a word.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(super) fn mutate(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    pod: &mut Object,
    _old: Option<&Object>,
) -> Result<()> {
    if what.operation != Operation::Create || !what.is("", "pods") {
        return Ok(());
    }
    if pod.annotation(MIRROR).is_some() {
        if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
            return Err(what.refuse("a mirror pod may not reference service accounts"));
        }
        if !references::secrets(pod).is_empty() {
            return Err(what.refuse("a mirror pod may not reference secrets"));
        }
        if references::projects_tokens(pod) {
            return Err(what.refuse("a mirror pod may not use service account token projections"));
        }
        return Ok(());
    }
    if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        pod.set(&["spec", "serviceAccountName"], "default");
    }
    let name = pod.str_at(&["spec", "serviceAccountName"]).to_owned();
    pod.set(&["spec", "serviceAccount"], name.as_str());
    let Some(account) = cluster.get(&core("serviceaccounts"), what.namespace, &name) else {
        let ns = what.namespace;
        return Err(what.refuse(format!(
            "error looking up service account {ns}/{name}: serviceaccount {name:?} not found"
        )));
    };
    if pod.items_at(&["spec", "imagePullSecrets"]).is_empty()
        && let Some(secrets) =
            account.at(&["imagePullSecrets"]).filter(|s| s.as_array().is_some_and(|s| !s.is_empty()))
    {
        pod.set(&["spec", "imagePullSecrets"], secrets.clone());
    }
    let wanted = pod.bool_at(&["spec", "automountServiceAccountToken"]);
    if wanted.or_else(|| account.bool_at(&["automountServiceAccountToken"])).unwrap_or(true) {
        mount_token(pod);
    }
    Ok(())
}

/// Adds the token volume, and its mount to every container that has nothing else mounted there.
fn mount_token(pod: &mut Object) {
    let existing = pod.items_at(&["spec", "volumes"]).iter().find_map(|v| {
        let name = v.get("name")?.as_str()?;
        name.starts_with(VOLUME_PREFIX).then(|| name.to_owned())
    });
    let volume = existing.clone().unwrap_or_else(random_volume);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.0.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut)
        else {
            continue;
        };
        for container in containers {
            mounted |= mount(container, &volume);
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let volumes = pod.entry(&["spec", "volumes"]);
    if !volumes.is_array() {
        *volumes = json!([]);
    }
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(token_volume(&volume));
    }
}

fn mount(container: &mut Value, volume: &str) -> bool {
    let Some(container) = container.as_object_mut() else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    if mounts.is_null() {
        *mounts = json!([]);
    }
    let Some(mounts) = mounts.as_array_mut() else { return false };
    if mounts.iter().any(|m| m.get("mountPath").and_then(Value::as_str) == Some(MOUNT_PATH)) {
        return false;
    }
    mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
    true
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn random_volume() -> String {
    let mut rng = rand::rng();
    let suffix: String = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
    format!("{VOLUME_PREFIX}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_where_nothing_else_is() {
        let mut pod = Object(json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
        ]}}));
        mount_token(&mut pod);
        let volume = pod.items_at(&["spec", "volumes"])[0]["name"].as_str().unwrap().to_owned();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        let containers = pod.items_at(&["spec", "containers"]);
        assert_eq!(containers[0]["volumeMounts"][0]["name"], volume);
        assert_eq!(containers[1]["volumeMounts"].as_array().unwrap().len(), 1);
        mount_token(&mut pod);
        assert_eq!(pod.items_at(&["spec", "volumes"]).len(), 1);
    }
}
