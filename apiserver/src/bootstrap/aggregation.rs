//! Aggregated cluster roles: their rules are those of the roles their selectors match, whoever changes those.

use std::sync::Arc;

use coracle_api::{Gvr, Object};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::policy::aggregated;
use crate::Server;

/// Keeps aggregated roles whole until the server stops.
pub async fn run(server: Arc<Server>, stop: CancellationToken) {
    let gvr = Gvr::new("rbac.authorization.k8s.io", "v1", "clusterroles");
    let storage: Arc<str> = format!("{}/{}", gvr.group, gvr.resource).into();
    loop {
        let seen = server.store.revision();
        let mut changes = server.store.watch(&storage, "", seen);
        settle(&server, &gvr).await;
        tokio::select! {
            () = stop.cancelled() => return,
            // Whatever changed, and also a cursor that fell behind: all roles are looked at again.
            _ = changes.next() => {}
        }
    }
}

async fn settle(server: &Arc<Server>, gvr: &Gvr) {
    let user = super::system();
    let Ok(all) = server.list(gvr, "") else { return };
    for role in &all {
        let Some(rules) = aggregated(role, &all) else { continue };
        if role.items_at(&["rules"]) == rules {
            continue;
        }
        let change = |object: &mut Object| {
            object.set(&["rules"], Value::Array(rules.clone()));
            Ok(())
        };
        if let Err(e) = server.modify(&user, gvr, "", "", role.name(), false, &change).await {
            tracing::warn!(role = role.name(), error = %e, "cannot aggregate a cluster role");
        }
    }
}
