//! The files of configMap, secret, downwardAPI and projected volumes.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
    },
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::atomic::{File, Payload};
use crate::pods::{
    env::{PodFacts, field, resource},
    sources::Sources,
    view::{name_of, namespace_of, spec_of, uid_of},
};

/// What volumes of one pod are made from.
pub(crate) struct Inputs<'a> {
    pub(crate) client: &'a Client,
    pub(crate) sources: &'a Sources,
    /// Woken when a referenced object changes.
    pub(crate) wake: &'a Arc<Notify>,
    pub(crate) facts: &'a PodFacts,
    pub(crate) tokens: &'a Tokens,
}

/// Which keys of a ConfigMap or Secret become files, and how.
struct Keys<'a> {
    name: &'a str,
    /// None, or an empty list: every key, under its own name.
    items: &'a Option<Vec<KeyToPath>>,
    optional: Option<bool>,
    mode: u32,
}

/// The tokens of one pod and when each is to be renewed.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<BTreeMap<String, (String, Timestamp)>>);

impl Tokens {
    pub(crate) fn next_renewal(&self) -> Option<Timestamp> {
        self.0.lock().values().map(|(_, at)| *at).min()
    }
}

/// The files of a volume, `None` when the volume is of another kind. The error is that of a FailedMount event.
pub(crate) async fn payload(pod: &Pod, v: &Volume, inputs: &Inputs<'_>) -> Result<Option<Payload>, String> {
    let namespace = namespace_of(pod);
    let mut out = Payload::new();
    if let Some(s) = &v.config_map {
        let mode = mode(s.default_mode);
        Keys { name: &s.name, items: &s.items, optional: s.optional, mode }
            .of_config_map(&mut out, namespace, inputs)
            .await?;
    } else if let Some(s) = &v.secret {
        let (name, mode) = (s.secret_name.as_deref().unwrap_or_default(), mode(s.default_mode));
        Keys { name, items: &s.items, optional: s.optional, mode }
            .of_secret(&mut out, namespace, inputs)
            .await?;
    } else if let Some(source) = &v.downward_api {
        downward(&mut out, pod, source.items.as_deref(), mode(source.default_mode), inputs)?;
    } else if let Some(source) = &v.projected {
        let mode = mode(source.default_mode);
        for s in source.sources.iter().flatten() {
            if let Some(s) = &s.config_map {
                Keys { name: &s.name, items: &s.items, optional: s.optional, mode }
                    .of_config_map(&mut out, namespace, inputs)
                    .await?;
            }
            if let Some(s) = &s.secret {
                Keys { name: &s.name, items: &s.items, optional: s.optional, mode }
                    .of_secret(&mut out, namespace, inputs)
                    .await?;
            }
            if let Some(s) = &s.downward_api {
                downward(&mut out, pod, s.items.as_deref(), mode, inputs)?;
            }
            if let Some(s) = &s.service_account_token {
                let token = token(pod, s, inputs).await?;
                out.insert(s.path.clone(), token_file(pod, token, mode));
            }
            if s.cluster_trust_bundle.is_some() {
                return Err("projected source clusterTrustBundle is not supported by this node".to_owned());
            }
            if s.pod_certificate.is_some() {
                return Err("projected source podCertificate is not supported by this node".to_owned());
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

fn mode(value: Option<i32>) -> u32 {
    value.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644)
}

fn plain(data: Vec<u8>, mode: u32) -> File {
    File { data, mode, owner: None }
}

/// A token is readable for its only user, or for the group, not for all.
fn token_file(pod: &Pod, token: String, mode: u32) -> File {
    let spec = spec_of(pod);
    let context = spec.security_context.clone().unwrap_or_default();
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let users: std::collections::BTreeSet<_> = all
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(context.run_as_user))
        .collect();
    let single = if users.len() == 1 { users.into_iter().next().flatten() } else { None };
    match (context.fs_group, single.and_then(|u| u32::try_from(u).ok())) {
        (Some(_), _) => File { data: token.into_bytes(), mode: 0o600, owner: None },
        (None, Some(uid)) => File { data: token.into_bytes(), mode: 0o600, owner: Some(uid) },
        (None, None) => File { data: token.into_bytes(), mode, owner: None },
    }
}

// === impl Keys ===

impl Keys<'_> {
    async fn of_config_map(
        &self,
        out: &mut Payload,
        namespace: &str,
        inputs: &Inputs<'_>,
    ) -> Result<(), String> {
        let Some(map) = inputs.sources.config_map(namespace, self.name, inputs.wake).await? else {
            return self.absent("configmap");
        };
        let texts = map.data.iter().flatten().map(|(k, v)| (k, v.as_bytes()));
        let binaries = map.binary_data.iter().flatten().map(|(k, v)| (k, v.0.as_slice()));
        self.select(out, &texts.chain(binaries).collect())
    }

    async fn of_secret(&self, out: &mut Payload, namespace: &str, inputs: &Inputs<'_>) -> Result<(), String> {
        let Some(secret) = inputs.sources.secret(namespace, self.name, inputs.wake).await? else {
            return self.absent("secret");
        };
        self.select(out, &secret.data.iter().flatten().map(|(k, v)| (k, v.0.as_slice())).collect())
    }

    fn absent(&self, kind: &str) -> Result<(), String> {
        if self.optional == Some(true) { Ok(()) } else { Err(format!("{kind} {:?} not found", self.name)) }
    }

    fn select(&self, out: &mut Payload, data: &BTreeMap<&String, &[u8]>) -> Result<(), String> {
        let Some(items) = self.items.as_ref().filter(|items| !items.is_empty()) else {
            out.extend(data.iter().map(|(&key, &value)| (key.clone(), plain(value.to_vec(), self.mode))));
            return Ok(());
        };
        for item in items {
            let mode = item.mode.map_or(self.mode, |m| mode(Some(m)));
            match data.get(&item.key) {
                Some(&value) => drop(out.insert(item.path.clone(), plain(value.to_vec(), mode))),
                None if self.optional == Some(true) => {}
                None => return Err(format!("references non-existent config key: {}", item.key)),
            }
        }
        Ok(())
    }
}

fn downward(
    out: &mut Payload,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: u32,
    inputs: &Inputs<'_>,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
        let text = if let Some(r) = &item.field_ref {
            field(pod, r, inputs.facts)?
        } else if let Some(r) = &item.resource_field_ref {
            resource(pod, r.container_name.as_deref().unwrap_or_default(), r, inputs.facts)?
        } else {
            continue;
        };
        out.insert(item.path.clone(), plain(text.into_bytes(), mode));
    }
    Ok(())
}

/// A token bound to the pod; renewed after 80 % of its life or a day.
async fn token(pod: &Pod, s: &ServiceAccountTokenProjection, inputs: &Inputs<'_>) -> Result<String, String> {
    let audience = s.audience.clone().filter(|a| !a.is_empty());
    let seconds = s.expiration_seconds.unwrap_or(3600);
    let key = format!("{audience:?}/{seconds}");
    let now = Timestamp::now();
    if let Some((token, renew)) = inputs.tokens.0.lock().get(&key)
        && *renew > now
    {
        return Ok(token.clone());
    }
    let account = spec_of(pod)
        .service_account_name
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|a| vec![a]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(name_of(pod).to_owned()),
                uid: Some(uid_of(pod).to_owned()),
            }),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(inputs.client.clone(), namespace_of(pod));
    let reply = api
        .create_token_request(&account, &PostParams::default(), &request)
        .await
        .map_err(|error| format!("failed to fetch token: {error}"))?;
    let status = reply.status.ok_or("failed to fetch token: the reply has no status")?;
    let value = status.token.ok_or("failed to fetch token: the reply has no token")?;
    let life = status.expiration_timestamp.map_or(seconds, |at| at.0.duration_since(now).as_secs());
    let renew = now + SignedDuration::from_secs((life * 8 / 10).clamp(60, 86_400));
    inputs.tokens.0.lock().insert(key, (value.clone(), renew));
    Ok(value)
}
