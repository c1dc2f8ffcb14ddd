//! What the cluster is told of its certificates: which authorities to trust, and which renewals fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Object;
use coracle_api::names::{NAMESPACE_DEFAULT, NAMESPACE_SYSTEM};
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{core, follow, system};
use crate::pki::{Authority, FRONT_PROXY_CLIENT, Renewals};
use crate::server::Server;
use crate::status::Result;

/// The pause before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// What an event says at most, in bytes; upstream's.
const LONGEST: usize = 1024;
const REASON: &str = "CertificateRenewalFailed";
/// Who reports it.
const REPORTER: &str = "kube-apiserver";

/// Where aggregated API servers learn whom to trust: clients' certificates, and this server when it names users.
pub(super) async fn publish(server: &Arc<Server>) -> Result<()> {
    let pki = &server.access.pki;
    let list = |value: &str| json!([value]).to_string();
    let data = json!({"client-ca-file": pki.ca(),
        "requestheader-client-ca-file": pki.front_proxy_ca(),
        "requestheader-allowed-names": list(FRONT_PROXY_CLIENT),
        "requestheader-username-headers": list("X-Remote-User"),
        "requestheader-uid-headers": list("X-Remote-Uid"),
        "requestheader-group-headers": list("X-Remote-Group"),
        "requestheader-extra-headers-prefix": list("X-Remote-Extra-")});
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": "extension-apiserver-authentication", "namespace": NAMESPACE_SYSTEM}});
    follow(server, &system(), &core("configmaps"), Object(object), &["data"]).await
}

/// Publishes authorities again whenever one of them is renewed, until the server stops. They are followed from the call on.
pub fn publish_authorities(server: Arc<Server>, stop: CancellationToken) -> impl Future<Output = ()> {
    let pki = server.access.pki.clone();
    let (mut cluster, mut proxy) = (pki.follow(Authority::Cluster), pki.follow(Authority::FrontProxy));
    async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = cluster.changed() => {}
                Ok(()) = proxy.changed() => {}
            }
            while let Err(error) = publish(&server).await {
                tracing::warn!(%error, "a renewed authority is not published yet");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }
}

/// Writes an event about the Service `default/kubernetes` for each certificate of the cluster's own that is not renewed,
/// and counts it up with every further try, until the server stops.
pub fn tell_failures(server: Arc<Server>, stop: CancellationToken) -> impl Future<Output = ()> {
    let mut failures = server.access.pki.failures();
    // One of an earlier start is another.
    let started = server.started.as_nanosecond();
    async move {
        let mut told: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = failures.changed() => if changed.is_err() { return },
            }
            for (certificate, renewals) in server.access.pki.renewals() {
                if told.get(&certificate).copied().unwrap_or_default() == renewals.errors {
                    continue;
                }
                if let Err(error) = tell(&server, &certificate, &renewals, started).await {
                    tracing::warn!(%error, certificate, "no event tells that it is not renewed");
                }
                told.insert(certificate, renewals.errors);
            }
        }
    }
}

async fn tell(server: &Server, certificate: &str, renewals: &Renewals, started: i128) -> Result<()> {
    let (events, user) = (core("events"), system());
    let name = format!("kubernetes.{certificate}.{started:x}");
    let now =
        Timestamp::from_second(server.access.pki.clock().now().as_second()).unwrap_or_default().to_string();
    let ends = Timestamp::from_second(renewals.not_after).unwrap_or_default();
    let mut message = format!("Certificate {certificate} is not renewed, and ends {ends}: {}", renewals.why);
    message.truncate(message.floor_char_boundary(LONGEST));
    let changed = |event: &mut Object| -> Result<()> {
        event.set(&["count"], json!(renewals.errors));
        event.set(&["lastTimestamp"], json!(now));
        event.set(&["message"], json!(message));
        Ok(())
    };
    match server.modify(&user, &events, "", NAMESPACE_DEFAULT, &name, false, &changed).await {
        Err(status) if status.code() == 404 => {}
        other => return other.map(drop),
    }
    let service = server.get(&core("services"), NAMESPACE_DEFAULT, "kubernetes");
    let uid = service.map(|service| service.uid().to_owned()).unwrap_or_default();
    let mut event = Object(json!({"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": REASON,
        "metadata": {"name": name, "namespace": NAMESPACE_DEFAULT},
        "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": NAMESPACE_DEFAULT, "name": "kubernetes", "uid": uid},
        "source": {"component": REPORTER}, "reportingComponent": REPORTER, "firstTimestamp": now}));
    changed(&mut event)?;
    server.create(&user, &events, NAMESPACE_DEFAULT, event, false).await.map(drop)
}
