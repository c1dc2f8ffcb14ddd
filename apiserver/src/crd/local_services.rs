//! The `APIService` of every custom group version: it says that this server itself answers it.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::Object;
use serde_json::json;

use crate::Server;
use crate::aggregation::gvr;
use crate::registry::{CUSTOM_GROUP_PRIORITY, CUSTOM_VERSION_PRIORITY};
use crate::resource::Resource;
use crate::status::Result;
use crate::verbs::inner::Deletion;

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// The group versions that have their object.
#[derive(Default)]
pub(super) struct LocalServices {
    /// `None`: what an earlier run left behind has not been looked at.
    there: Option<BTreeSet<(String, String)>>,
}

// === impl LocalServices ===

impl LocalServices {
    /// Makes the objects of these resources' group versions, and removes those of others.
    pub(super) async fn follow(&mut self, server: &Arc<Server>, custom: &[Arc<Resource>]) {
        let wanted: BTreeSet<(String, String)> =
            custom.iter().map(|r| (r.gvr.group.clone(), r.gvr.version.clone())).collect();
        if self.there.as_ref() == Some(&wanted) {
            return;
        }
        let there = self.there.take().unwrap_or_else(|| found(server));
        let user = crate::bootstrap::system();
        for (group, version) in there.difference(&wanted) {
            let name = format!("{version}.{group}");
            // Somebody may have put another server in its place.
            if !server.get(&gvr(), "", &name).is_ok_and(|o| o.label(MANAGED) == Some("true")) {
                continue;
            }
            let gone = server.delete(&user, &gvr(), "", &name, &Deletion::default()).await;
            report(gone.map(drop), &name);
        }
        for (group, version) in wanted.difference(&there) {
            report(create(server, group, version).await, &format!("{version}.{group}"));
        }
        self.there = Some(wanted);
    }
}

fn report(outcome: Result<()>, name: &str) {
    match outcome {
        Err(e) if !matches!(e.code(), 404 | 409) => {
            tracing::warn!(name, error = %e, "cannot keep the APIService of a custom group version");
        }
        _ => {}
    }
}

/// What is there already.
fn found(server: &Server) -> BTreeSet<(String, String)> {
    let all = server.list(&gvr(), "").unwrap_or_default();
    let managed = all.iter().filter(|o| o.label(MANAGED) == Some("true"));
    let text = |o: &Object, key: &str| o.str_at(&["spec", key]).to_owned();
    managed.map(|o| (text(o, "group"), text(o, "version"))).collect()
}

async fn create(server: &Arc<Server>, group: &str, version: &str) -> Result<()> {
    let name = format!("{version}.{group}");
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name, "labels": {MANAGED: "true"}},
        "spec": {"group": group, "version": version,
                 "groupPriorityMinimum": CUSTOM_GROUP_PRIORITY, "versionPriority": CUSTOM_VERSION_PRIORITY}});
    let user = crate::bootstrap::system();
    server.create(&user, &gvr(), "", Object(object), false).await.map(drop)
}
