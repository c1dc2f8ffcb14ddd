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
/// Deprecated upstream, and still honoured there.
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
/// The lists of containers that a new pod may have, and those that come later, in the words of refusals.
const CONTAINERS: [(&str, &str); 2] = [("initContainers", "init container"), ("containers", "container")];
const EPHEMERAL: [(&str, &str); 1] = [("ephemeralContainers", "ephemeral container")];
/// Letters and digits of upstream's random suffixes: nothing that could spell a word.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(super) fn mutate(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    pod: &mut Object,
    _old: Option<&Object>,
) -> Result<()> {
    if what.operation == Operation::Update
        && what.resource.gvr.resource == "pods"
        && what.subresource == "ephemeralcontainers"
    {
        let account = account(cluster, what, pod)?;
        return match enforces(&account).then(|| environment_beyond(&account, pod, &EPHEMERAL)).flatten() {
            Some(why) => Err(what.refuse(why)),
            None => Ok(()),
        };
    }
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
    let account = account(cluster, what, pod)?;
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
    match enforces(&account).then(|| beyond(&account, pod)).flatten() {
        Some(why) => Err(what.refuse(why)),
        None => Ok(()),
    }
}

/// The account that a pod runs as.
fn account(cluster: &dyn Cluster, what: &Attributes<'_>, pod: &Object) -> Result<Object> {
    let (ns, name) = (what.namespace, pod.str_at(&["spec", "serviceAccountName"]));
    cluster.get(&core("serviceaccounts"), ns, name).ok_or_else(|| {
        what.refuse(format!(
            "error looking up service account {ns}/{name}: serviceaccount {name:?} not found"
        ))
    })
}

/// Whether an account's pods may name no secrets but those that the account lists (Go's `ParseBool`).
fn enforces(account: &Object) -> bool {
    let told = account.annotation(ENFORCED).unwrap_or_default();
    ["1", "t", "T", "true", "TRUE", "True"].contains(&told)
}

/// Why a pod's secrets are more than its account lists, in upstream's words.
fn beyond(account: &Object, pod: &Object) -> Option<String> {
    let name = account.name();
    let volumes =
        pod.items_at(&["spec", "volumes"]).iter().filter_map(|v| v.pointer("/secret/secretName")?.as_str());
    for secret in volumes {
        if !lists(account, "secrets", secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    if let Some(why) = environment_beyond(account, pod, &CONTAINERS) {
        return Some(why);
    }
    let pull =
        pod.items_at(&["spec", "imagePullSecrets"]).iter().map(|s| s["name"].as_str().unwrap_or_default());
    pull.enumerate().find(|(_, secret)| !lists(account, "imagePullSecrets", secret)).map(|(n, secret)| {
        format!(
            "imagePullSecrets[{n}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
        )
    })
}

/// The same for what some containers find in their environment.
fn environment_beyond(account: &Object, pod: &Object, containers: &[(&str, &str)]) -> Option<String> {
    let account_name = account.name();
    let refusal = |what: String, secret: &str| {
        format!(
            "{what} referencing secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
        )
    };
    for (list, word) in containers {
        for container in pod.items_at(&["spec", list]) {
            let own = container["name"].as_str().unwrap_or_default();
            for env in container["env"].as_array().into_iter().flatten() {
                let secret = env.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str);
                if let Some(secret) = secret.filter(|s| !lists(account, "secrets", s)) {
                    let variable = env["name"].as_str().unwrap_or_default();
                    return Some(refusal(format!("{word} {own} with envVar {variable}"), secret));
                }
            }
            for from in container["envFrom"].as_array().into_iter().flatten() {
                let secret = from.pointer("/secretRef/name").and_then(Value::as_str);
                if let Some(secret) = secret.filter(|s| !lists(account, "secrets", s)) {
                    return Some(refusal(format!("{word} {own} with envFrom"), secret));
                }
            }
        }
    }
    None
}

fn lists(account: &Object, field: &str, secret: &str) -> bool {
    account.items_at(&[field]).iter().any(|s| s["name"] == secret)
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
    #[test]
    fn an_account_that_enforces_its_list_lets_pods_name_no_other_secrets() {
        let account = |told: &str| {
            Object(json!({"metadata": {"name": "narrow", "annotations": {ENFORCED: told}},
                "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]}))
        };
        assert!(enforces(&account("true")) && enforces(&account("1")));
        assert!(!enforces(&account("yes")) && !enforces(&Object(json!({}))));
        let account = account("true");
        let why = |spec: Value| beyond(&account, &Object(json!({"spec": spec})));
        let of = |secret: &str| {
            json!({"volumes": [{"name": "v", "secret": {"secretName": secret}}], "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"name": "i", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": secret}}}]}],
                "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": secret}}, {"configMapRef": {"name": "m"}}]}]})
        };
        let no = "is not allowed because service account narrow does not reference that";
        assert_eq!(why(of("own")), None);
        let mut spec = of("other");
        assert_eq!(why(spec.clone()), Some(format!("volume with secret.secretName=\"other\" {no} secret")));
        spec["volumes"] = json!([]);
        let said =
            format!("init container i with envVar A referencing secret.secretName=\"other\" {no} secret");
        assert_eq!(why(spec.clone()), Some(said));
        spec["initContainers"] = json!([]);
        let said = format!("container c with envFrom referencing secret.secretName=\"other\" {no} secret");
        assert_eq!(why(spec), Some(said));
        let pull = json!({"imagePullSecrets": [{"name": "pull"}, {"name": "own"}]});
        assert_eq!(why(pull), Some(format!("imagePullSecrets[1].name=\"own\" {no} imagePullSecret")));
        let later = Object(
            json!({"spec": {"ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "x"}}]}]}}),
        );
        let said =
            format!("ephemeral container e with envFrom referencing secret.secretName=\"x\" {no} secret");
        assert_eq!(environment_beyond(&account, &later, &EPHEMERAL), Some(said));
    }
}
