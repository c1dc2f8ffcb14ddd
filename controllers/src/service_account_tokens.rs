//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of their ServiceAccount, removed when that
//! is gone, and, where they were made by old controllers and nobody has used them for a year, first marked and then removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::names::NAMESPACE_SYSTEM;
use coracle_client::errors::{is_conflict, is_not_found};
use jiff::civil::Date;
use jiff::{Span, Timestamp, tz::TimeZone};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::claims::{name, namespace, uid};
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};
use crate::{Config, SignToken};

/// All that is watched of the cluster's Secrets.
const SELECTED: &str = "type=kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the API server notes since when it has noted the uses of tokens.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// So many days may a token lie unused.
const UNUSED_DAYS: i64 = 365;
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Tokens {
    secrets: Arc<Cache<Secret>>,
    accounts: Arc<Cache<ServiceAccount>>,
    root_ca: Option<watch::Receiver<String>>,
    sign: SignToken,
}

/// Takes Secrets that are gone from the lists of their accounts. Keys are `account/secret`.
struct Unlisting {
    secrets: Arc<Cache<Secret>>,
    accounts: Arc<Cache<ServiceAccount>>,
}

struct Cleaner {
    secrets: Arc<Cache<Secret>>,
    accounts: Arc<Cache<ServiceAccount>>,
    pods: Arc<Cache<Pod>>,
}

/// Rests without a key that signs tokens.
pub(crate) fn start(runtime: &mut Runtime, config: &Config) {
    let Some(sign) = config.sign_token.clone() else { return };
    let secrets = runtime.cache_selected::<Secret>(SELECTED);
    let accounts = runtime.cache::<ServiceAccount>();
    let (queue, unlisting) = (Queue::default(), Queue::default());
    let (changed, again, gone) = (queue.clone(), queue.clone(), unlisting.clone());
    secrets.on_change(move |old, new| match (old, new) {
        (_, Some(secret)) => changed.add(Key::of(&**secret)),
        (Some(secret), None) => {
            if let Some(account) = annotation(secret, ACCOUNT_NAME) {
                gone.add(Key::new(namespace(&**secret), format!("{account}/{}", name(&**secret))));
            }
        }
        (None, None) => {}
    });
    let (all, changed) = (secrets.clone(), queue.clone());
    accounts.on_change(move |old, new| {
        // A new account, or another under the name of the old one.
        let Some(account) = new.or(old).filter(|_| old.map(|o| uid(&**o)) != new.map(|n| uid(&**n))) else {
            return;
        };
        for secret in all.in_namespace(namespace(&**account)) {
            if annotation(&secret, ACCOUNT_NAME) == Some(name(&**account)) {
                changed.add(Key::of(&*secret));
            }
        }
    });
    let root_ca = config.root_ca.clone();
    let tokens = Tokens { secrets: secrets.clone(), accounts: accounts.clone(), root_ca, sign };
    runtime.work("serviceaccount-token-controller", queue, 5, tokens);
    if let Some(bundle) = config.root_ca.clone() {
        let all = secrets.clone();
        runtime.on_another(bundle, move || all.list().iter().for_each(|s| again.add(Key::of(&**s))));
    }
    runtime.cache_selected::<Secret>(SELECTED);
    runtime.cache::<ServiceAccount>();
    runtime.work("serviceaccount-token-controller-lists", unlisting, 1, Unlisting { secrets, accounts });
}

pub(crate) fn start_cleaning(runtime: &mut Runtime, _config: &Config) {
    let secrets = runtime.cache_selected::<Secret>(SELECTED);
    let (accounts, pods) = (runtime.cache::<ServiceAccount>(), runtime.cache::<Pod>());
    let queue = Queue::default();
    queue.add(Key::cluster("all"));
    let cleaner = Cleaner { secrets, accounts, pods };
    runtime.work("legacy-serviceaccount-token-cleaner-controller", queue, 1, cleaner);
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

fn label<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn lists(account: &ServiceAccount, secret: &str) -> bool {
    account.secrets.iter().flatten().any(|reference| reference.name.as_deref() == Some(secret))
}

/// Whether a Secret is meant for this very account.
fn is_for(secret: &Secret, account: &ServiceAccount) -> bool {
    annotation(secret, ACCOUNT_NAME) == Some(name(account))
        && annotation(secret, ACCOUNT_UID).is_none_or(|wanted| wanted == uid(account))
}

// === filling ===

/// The Secret with all that it lacks; `None` where it lacks nothing, or no token can be signed.
fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    root_ca: Option<&str>,
    sign: &dyn Fn(&Value) -> Option<String>,
) -> Option<Secret> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|bytes| bytes.0.as_slice());
    let mut missing: Vec<(&str, Vec<u8>)> = Vec::new();
    if let Some(bundle) = root_ca.filter(|bundle| data("ca.crt") != Some(bundle.as_bytes())) {
        missing.push(("ca.crt", bundle.as_bytes().to_vec()));
    }
    if data("namespace").is_none_or(<[u8]>::is_empty) {
        missing.push(("namespace", namespace(secret).as_bytes().to_vec()));
    }
    if data("token").is_none_or(<[u8]>::is_empty) {
        missing.push(("token", sign(&claims(secret, account))?.into_bytes()));
    }
    if missing.is_empty() {
        return None;
    }
    let mut secret = secret.clone();
    let all = secret.data.get_or_insert_default();
    all.extend(missing.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes))));
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.to_owned(), name(account).to_owned());
    annotations.insert(ACCOUNT_UID.to_owned(), uid(account).to_owned());
    Some(secret)
}

/// What the token of a Secret says: it has no end, and stands and falls with the Secret.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace(account),
        "kubernetes.io/serviceaccount/secret.name": name(secret),
        "kubernetes.io/serviceaccount/service-account.name": name(account),
        "kubernetes.io/serviceaccount/service-account.uid": uid(account),
        "sub": format!("system:serviceaccount:{}:{}", namespace(account), name(account)),
    })
}

impl Reconcile for Tokens {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Next::Done) };
        let Some(wanted) = annotation(&secret, ACCOUNT_NAME) else { return Ok(Next::Done) };
        let account = Key::new(&key.namespace, wanted);
        let known = self.accounts.get(&account).filter(|account| is_for(&secret, account));
        let account = match known {
            Some(account) => Some(account),
            // The cache may be behind: nothing is removed on its word alone.
            None => api.get::<ServiceAccount>(&account).await?.filter(|a| is_for(&secret, a)).map(Arc::new),
        };
        let Some(account) = account else {
            return match api.delete(&*secret, None).await {
                Err(error) if is_conflict(&error) => Ok(Next::Done),
                result => Ok(result.map(|_| Next::Done)?),
            };
        };
        let root_ca = self.root_ca.as_ref().map(|bundle| bundle.borrow().clone());
        if let Some(filled) = filled(&secret, &account, root_ca.as_deref(), &*self.sign) {
            match api.replace(&filled).await {
                // Whoever changed it meanwhile has caused another look.
                Err(error) if is_conflict(&error) || is_not_found(&error) => {}
                result => drop(result?),
            }
        }
        Ok(Next::Done)
    }
}

impl Reconcile for Unlisting {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some((account, secret)) = key.name.split_once('/') else { return Ok(Next::Done) };
        if self.secrets.get(&Key::new(&key.namespace, secret)).is_some() {
            return Ok(Next::Done);
        }
        let account = self.accounts.get(&Key::new(&key.namespace, account));
        let Some(account) = account.filter(|account| lists(account, secret)) else { return Ok(Next::Done) };
        let mut account = (*account).clone();
        account.secrets.iter_mut().for_each(|all| all.retain(|r| r.name.as_deref() != Some(secret)));
        match api.replace(&account).await {
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            result => Ok(result.map(|_| Next::Done)?),
        }
    }
}

// === cleaning ===

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Kept,
    Marked,
    Removed,
}

/// What becomes of a token Secret. `since`: the day on which the notes of uses began; `used`: a pod of its namespace
/// names it.
fn fate(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    used: impl FnOnce() -> bool,
    since: Date,
    now: Timestamp,
) -> Fate {
    let today = now.to_zoned(TimeZone::UTC).date();
    let before = |day: Date, days: i64| day.saturating_sub(Span::new().days(days));
    let limit = before(today, UNUSED_DAYS);
    // Uses are noted by the day, so the first day is not whole.
    if since >= limit {
        return Fate::Kept;
    }
    let created = secret.metadata.creation_timestamp.as_ref();
    let young = created.is_none_or(|t| t.0.as_second() >= now.as_second() - UNUSED_DAYS * 86_400);
    if young || secret.metadata.deletion_timestamp.is_some() {
        return Fate::Kept;
    }
    match label(secret, LAST_USED).map(str::parse::<Date>) {
        Some(Err(_)) => return Fate::Kept,
        Some(Ok(day)) if day >= limit => return Fate::Kept,
        _ => {}
    }
    // One that its account does not list was made by hand, and stays.
    if !account.is_some_and(|a| is_for(secret, a) && lists(a, name(secret))) || used() {
        return Fate::Kept;
    }
    match label(secret, INVALID_SINCE).and_then(|day| day.parse::<Date>().ok()) {
        None => Fate::Marked,
        Some(day) if day >= limit => Fate::Kept,
        Some(_) => Fate::Removed,
    }
}

/// The names of the Secrets that a pod asks for, in whatever part of its spec.
fn secret_names(pod: &Pod) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let Some(spec) = &pod.spec else { return names };
    names.extend(spec.image_pull_secrets.iter().flatten().map(|r| r.name.clone()));
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.for_each(|container| add_of_container(container, &mut names));
    for container in spec.ephemeral_containers.iter().flatten() {
        let env =
            container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.secret_key_ref.as_ref());
        names.extend(env.map(|r| r.name.clone()));
        let from = container.env_from.iter().flatten().filter_map(|e| e.secret_ref.as_ref());
        names.extend(from.map(|r| r.name.clone()));
    }
    for volume in spec.volumes.iter().flatten() {
        let referenced = [
            volume.cephfs.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.cinder.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.csi.as_ref().and_then(|v| v.node_publish_secret_ref.as_ref()),
            volume.flex_volume.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.iscsi.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.rbd.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.scale_io.as_ref().map(|v| &v.secret_ref),
            volume.storageos.as_ref().and_then(|v| v.secret_ref.as_ref()),
        ];
        names.extend(referenced.into_iter().flatten().map(|r| r.name.clone()));
        names.extend(volume.azure_file.as_ref().map(|v| v.secret_name.clone()));
        names.extend(volume.secret.as_ref().and_then(|v| v.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|v| v.sources.iter().flatten());
        names.extend(sources.filter_map(|s| s.secret.as_ref()).map(|s| s.name.clone()));
    }
    names
}

fn add_of_container(container: &Container, names: &mut BTreeSet<String>) {
    let env = container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.secret_key_ref.as_ref());
    names.extend(env.map(|r| r.name.clone()));
    let from = container.env_from.iter().flatten().filter_map(|e| e.secret_ref.as_ref());
    names.extend(from.map(|r| r.name.clone()));
}

impl Reconcile for Cleaner {
    /// All of them, once a day.
    async fn reconcile(&self, _key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let map = api.get::<ConfigMap>(&Key::new(NAMESPACE_SYSTEM, TRACKING)).await?;
        let since = map.and_then(|map| map.data?.get("since")?.parse::<Date>().ok());
        let (Some(since), now) = (since, Timestamp::now()) else { return Ok(Next::After(DAY)) };
        for secret in self.secrets.list() {
            let account = annotation(&secret, ACCOUNT_NAME).map(|of| Key::new(namespace(&*secret), of));
            let account = account.and_then(|key| self.accounts.get(&key));
            let pods = || self.pods.in_namespace(namespace(&*secret));
            let used = || pods().iter().any(|pod| secret_names(pod).contains(name(&*secret)));
            let done = match fate(&secret, account.as_deref(), used, since, now) {
                Fate::Kept => continue,
                Fate::Marked => {
                    let today = now.to_zoned(TimeZone::UTC).date().to_string();
                    let meta = json!({"uid": secret.metadata.uid, "labels": {INVALID_SINCE: today}});
                    api.merge::<Secret>(&Key::of(&*secret), json!({"metadata": meta})).await.map(drop)
                }
                Fate::Removed => {
                    // In the very version that was judged: a use since then saves it.
                    let seen = Preconditions {
                        uid: secret.metadata.uid.clone(),
                        resource_version: secret.metadata.resource_version.clone(),
                    };
                    let how = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
                    api.delete_with(&*secret, how).await.map(drop)
                }
            };
            if let Err(error) = done {
                tracing::warn!(secret = %Key::of(&*secret), error = &error as &dyn std::error::Error, "token clean-up");
            }
        }
        Ok(Next::After(DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn secret(annotations: Value, labels: Value, data: Value) -> Secret {
        let meta = json!({"namespace": "ns", "name": "t", "uid": "s", "annotations": annotations, "labels": labels,
            "creationTimestamp": "2020-01-01T00:00:00Z"});
        serde_json::from_value(
            json!({"metadata": meta, "type": "kubernetes.io/service-account-token", "data": data}),
        )
        .unwrap()
    }

    fn account(listed: &[&str]) -> ServiceAccount {
        let listed: Vec<_> = listed.iter().map(|name| json!({"name": name})).collect();
        let meta = json!({"namespace": "ns", "name": "a", "uid": "u"});
        serde_json::from_value(json!({"metadata": meta, "secrets": listed})).unwrap()
    }

    #[test]
    fn a_secret_gets_what_it_lacks_and_keeps_what_it_has() {
        let named = || json!({ACCOUNT_NAME: "a"});
        // Data before (base64), and after, of the three.
        let cases = [
            (json!({}), Some(["CA", "ns", "signed"])),
            (json!({"token": "b2xk", "extra": "eA=="}), Some(["CA", "ns", "old"])),
            (json!({"token": "b2xk", "namespace": "eA==", "ca.crt": "T0xE"}), Some(["CA", "x", "old"])),
            (json!({"token": "b2xk", "namespace": "eA==", "ca.crt": "Q0E="}), None),
        ];
        for (data, expected) in cases {
            let sign = |claims: &Value| {
                assert_eq!(claims["sub"], "system:serviceaccount:ns:a");
                assert_eq!(claims["kubernetes.io/serviceaccount/secret.name"], "t");
                assert!(claims.get("exp").is_none());
                Some("signed".to_owned())
            };
            let found = filled(&secret(named(), json!({}), data.clone()), &account(&[]), Some("CA"), &sign);
            let found = found.map(|secret| {
                assert_eq!(annotation(&secret, ACCOUNT_UID), Some("u"));
                let data = secret.data.unwrap();
                ["ca.crt", "namespace", "token"].map(|key| String::from_utf8(data[key].0.clone()).unwrap())
            });
            assert_eq!(found, expected.map(|all| all.map(str::to_owned)), "{data}");
        }
    }

    #[test]
    fn a_secret_is_for_the_account_of_its_name_and_uid() {
        let cases = [
            (json!({ACCOUNT_NAME: "a"}), true),
            (json!({ACCOUNT_NAME: "a", ACCOUNT_UID: "u"}), true),
            (json!({ACCOUNT_NAME: "a", ACCOUNT_UID: "before"}), false),
            (json!({ACCOUNT_NAME: "b"}), false),
            (json!({}), false),
        ];
        for (annotations, expected) in cases {
            let found = is_for(&secret(annotations.clone(), json!({}), json!({})), &account(&[]));
            assert_eq!(found, expected, "{annotations}");
        }
    }

    #[test]
    fn what_nobody_has_used_for_a_year_is_marked_and_a_year_later_removed() {
        let own = || json!({ACCOUNT_NAME: "a", ACCOUNT_UID: "u"});
        let since: Date = "2022-01-01".parse().unwrap();
        let now = "2026-06-01T12:00:00Z";
        // Labels, what the account lists, whether a pod names the Secret, since when uses are noted, now.
        let cases: [(Value, &[&str], bool, &str, &str, Fate); 11] = [
            (json!({}), &["t"], false, "2022-01-01", now, Fate::Marked),
            (json!({}), &[], false, "2022-01-01", now, Fate::Kept),
            (json!({}), &["t"], true, "2022-01-01", now, Fate::Kept),
            (json!({LAST_USED: "2026-05-01"}), &["t"], false, "2022-01-01", now, Fate::Kept),
            (json!({LAST_USED: "2025-06-01"}), &["t"], false, "2022-01-01", now, Fate::Kept),
            (json!({LAST_USED: "2025-05-31"}), &["t"], false, "2022-01-01", now, Fate::Marked),
            (json!({LAST_USED: "sometime"}), &["t"], false, "2022-01-01", now, Fate::Kept),
            (json!({INVALID_SINCE: "2026-01-01"}), &["t"], false, "2022-01-01", now, Fate::Kept),
            (json!({INVALID_SINCE: "2025-05-31"}), &["t"], false, "2022-01-01", now, Fate::Removed),
            (json!({}), &["t"], false, "2025-06-01", now, Fate::Kept),
            (json!({}), &["t"], false, "2019-01-01", "2020-12-30T23:59:59Z", Fate::Kept),
        ];
        for (labels, listed, used, since, now, expected) in cases {
            let (since, now) = (since.parse().unwrap(), now.parse().unwrap());
            let found =
                fate(&secret(own(), labels.clone(), json!({})), Some(&account(listed)), || used, since, now);
            assert_eq!(found, expected, "{labels} {listed:?} {used} {since} {now}");
        }
        let orphan = secret(own(), json!({}), json!({}));
        assert_eq!(fate(&orphan, None, || false, since, now.parse().unwrap()), Fate::Kept);
    }

    #[test]
    fn secrets_are_found_wherever_a_pod_names_them() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "from"}}]}],
            "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "vol"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "proj"}}]}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}]}}))
        .unwrap();
        let names: Vec<_> = secret_names(&pod).into_iter().collect();
        assert_eq!(names, ["csi", "from", "key", "proj", "pull", "vol"]);
    }
}
