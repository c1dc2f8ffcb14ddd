//! A deleted definition takes its objects with it: they are deleted first, and it goes when the last of them is gone.

use std::sync::Arc;

use coracle_api::{Gvr, Object, conditions};
use futures::StreamExt;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::run::gvr as definitions;
use super::serving;
use super::status;
use crate::Server;
use crate::status::Result;
use crate::store::Stored;
use crate::verbs::inner::Deletion;

/// Keeps a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Objects deleted at once.
const AT_ONCE: usize = 16;

/// Empties a definition and lets it go; ends early when the server stops.
pub(super) async fn run(server: Arc<Server>, crd: Object, stop: CancellationToken) {
    let work = async {
        match finish(&server, &crd).await {
            Ok(()) => {}
            Err(e) if e.code() == 404 => {}
            Err(e) => {
                tracing::warn!(definition = crd.name(), error = %e, "cannot delete a definition's objects")
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn finish(server: &Arc<Server>, crd: &Object) -> Result<()> {
    let begun = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    terminating(server, crd.name(), true, begun, false).await?;
    if !conditions::is_true(crd.items_at(&["status", "conditions"]), "Established") {
        let never = ("NeverEstablished", "resource was never established");
        return terminating(server, crd.name(), false, never, true).await;
    }
    empty(server, crd).await;
    let done = ("InstanceDeletionCompleted", "removed all instances");
    terminating(server, crd.name(), false, done, true).await
}

/// Deletes what is there until nothing is; objects with finalizers take their time.
async fn empty(server: &Arc<Server>, crd: &Object) {
    let storage = serving::storage(crd);
    let served = || crd.items_at(&["spec", "versions"]).iter().filter(|v| v["served"] == true);
    let version = served().find(|v| v["storage"] == true).or_else(|| served().next());
    let version = version.and_then(|v| v["name"].as_str()).unwrap_or_default();
    let gvr = Gvr::new(crd.str_at(&["spec", "group"]), version, crd.str_at(&["spec", "names", "plural"]));
    let (user, how) = (crate::bootstrap::system(), Deletion::default());
    loop {
        let view = server.store.list(&storage, "");
        if view.items.is_empty() {
            return;
        }
        let mut changes = server.store.watch(&storage, "", view.revision);
        let (user, gvr, how) = (&user, &gvr, &how);
        let delete = |stored: Arc<Stored>| async move {
            match server.delete(user, gvr, stored.namespace(), stored.name(), how).await {
                Err(e) if e.code() != 404 => {
                    tracing::warn!(object = &*stored.key, error = %e, "cannot delete a custom object");
                }
                _ => {}
            }
        };
        futures::stream::iter(view.items).for_each_concurrent(AT_ONCE, delete).await;
        if server.store.count(&storage) == 0 {
            return;
        }
        // Some object has a finalizer: its end is an event like any other.
        let _ = changes.next().await;
    }
}

/// Writes how far the end has come; at last without the finalizer.
async fn terminating(
    server: &Arc<Server>,
    name: &str,
    on: bool,
    (reason, message): (&str, &str),
    last: bool,
) -> Result<()> {
    let change = |crd: &mut Object| {
        let now = coracle_api::time::seconds(Timestamp::now());
        status::set(crd, "Terminating", on, reason, message, &now);
        if last {
            let kept: Vec<String> = crd.finalizers().filter(|f| *f != FINALIZER).map(str::to_owned).collect();
            crd.set(&["metadata", "finalizers"], serde_json::json!(kept));
        }
        Ok(())
    };
    let user = crate::bootstrap::system();
    server.modify(&user, &definitions(), "status", "", name, false, &change).await.map(drop)
}
