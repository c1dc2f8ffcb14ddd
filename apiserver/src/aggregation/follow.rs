//! The task of one aggregated group version: asks its server when something about it changes, and now and then.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::{Object, conditions};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::availability::{self, Unavailable};
use super::remote::{Discovered, Remote};
use super::{condition, discovery, gvr, openapi};
use crate::Server;
use crate::store::Cursor;

/// How often a server that was well is asked again, and the least and the most between attempts at one that was not.
const RECHECK: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Follows one server until it is replaced or the server stops. `changed` tells of its `APIService`.
pub(super) async fn run(
    server: Arc<Server>,
    remote: Arc<Remote>,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let at = &remote.service;
    let mut retry = FIRST_RETRY;
    loop {
        let now = server.store.revision();
        let mut services =
            server.store.watch(&"/services".into(), &format!("{}/{}", at.namespace, at.name), now);
        let mut slices =
            server.store.watch(&"discovery.k8s.io/endpointslices".into(), &format!("{}/", at.namespace), now);
        let well = tokio::select! {
            () = stop.cancelled() => return,
            well = ask(&server, &remote) => well,
        };
        let pause = if well { RECHECK } else { retry };
        retry = if well { FIRST_RETRY } else { RECHECK.min(retry * 2) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            // A cursor that fell behind, too, is a reason to look again.
            _ = services.next() => {}
            () = endpoints_change(&mut slices, &at.name) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn endpoints_change(slices: &mut Cursor, service: &str) {
    while let Ok(events) = slices.next().await {
        let label = coracle_api::names::LABEL_SERVICE_NAME;
        if events.iter().any(|e| e.object.index.label(label) == Some(service)) {
            return;
        }
    }
}

/// Asks the server how it is and what it serves. Whether all went well.
async fn ask(server: &Arc<Server>, remote: &Remote) -> bool {
    let verdict = availability::check(server, remote).await;
    remote.set_available(verdict.is_ok());
    report(server, remote, &verdict).await;
    if verdict.is_err() {
        remote.set_discovered(Arc::default());
        return false;
    }
    let discovered = match discovery::fetch(server, remote).await {
        Ok(resources) => {
            let (before, openapi) = (remote.discovered(), openapi::fetch(server, remote).await);
            // One document says whether the other has changed, which is read whole.
            let swagger = match openapi.is_some() && openapi == before.openapi {
                true => before.swagger.clone(),
                false => openapi::swagger(server, remote).await,
            };
            Discovered { resources, is_current: true, openapi, swagger }
        }
        Err(why) => {
            tracing::warn!(service = remote.name, why, "an aggregated API server's resources are not known");
            Discovered::default()
        }
    };
    let well = discovered.is_current;
    remote.set_discovered(Arc::new(discovered));
    well
}

/// Says so in the `APIService`, where it says something else.
async fn report(server: &Arc<Server>, remote: &Remote, verdict: &Result<(), Unavailable>) {
    let (status, reason, message) = match verdict {
        Ok(()) => ("True", "Passed", "all checks passed"),
        Err(Unavailable { reason, message }) => ("False", *reason, &**message),
    };
    let new = condition(status, reason, message, Timestamp::now());
    let change = |service: &mut Object| {
        let mut all = service.items_at(&["status", "conditions"]).to_vec();
        if conditions::set(&mut all, new.clone()) {
            service.set(&["status", "conditions"], all);
        }
        Ok(())
    };
    let user = crate::bootstrap::system();
    match server.modify(&user, &gvr(), "status", "", &remote.name, false, &change).await {
        Err(e) if e.code() != 404 => {
            tracing::warn!(service = remote.name, error = %e, "cannot write the status of an APIService");
        }
        _ => {}
    }
}
