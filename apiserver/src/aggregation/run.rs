//! Follows the `APIService`s in the store: which group versions other servers answer.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::Object;
use coracle_api::conditions;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Remote, follow, gvr, local_condition};
use crate::Server;
use crate::store::Stored;

const STORAGE: &str = "apiregistration.k8s.io/apiservices";

/// All `APIService`s, as far as the registry knows them.
#[derive(Default)]
pub struct Services {
    known: HashMap<Arc<str>, Known>,
    tasks: TaskTracker,
}

struct Known {
    revision: u64,
    remote: Option<Followed>,
}

/// A group version that another server answers, and the task that follows it.
struct Followed {
    spec: Value,
    remote: Arc<Remote>,
    changed: Arc<Notify>,
    /// Ends the task.
    _life: DropGuard,
}

/// Keeps the registry in step with the `APIService`s until the server stops.
pub async fn run(server: Arc<Server>, mut services: Services, stop: CancellationToken) {
    let storage: Arc<str> = STORAGE.into();
    loop {
        let mut changes = server.store.watch(&storage, "", server.store.revision());
        services.settle(&server).await;
        tokio::select! {
            () = stop.cancelled() => break,
            // Whatever changed, and also a cursor that fell behind: the revisions tell.
            _ = changes.next() => {}
        }
    }
    services.tasks.close();
    services.tasks.wait().await;
}

// === impl Services ===

impl Services {
    /// Takes over what is there now.
    pub async fn settle(&mut self, server: &Arc<Server>) {
        let all = server.store.list(STORAGE, "").items;
        let before = self.known.len();
        self.known.retain(|key, _| all.iter().any(|s| s.key == *key));
        let mut routes_changed = self.known.len() != before;
        for stored in &all {
            if self.known.get(&stored.key).is_some_and(|k| k.revision == stored.revision) {
                continue;
            }
            let object = stored.object();
            if !has_service(&object) {
                say_local(server, &object).await;
            }
            routes_changed |= self.take(server, stored, &object);
        }
        if routes_changed {
            let remotes = self.known.values().filter_map(|k| Some(k.remote.as_ref()?.remote.clone()));
            server.registry.replace_remotes(remotes);
        }
    }

    /// Takes over an `APIService`'s new state. Whether other servers answer other group versions now.
    fn take(&mut self, server: &Arc<Server>, stored: &Stored, object: &Object) -> bool {
        let old = self.known.remove(&stored.key).and_then(|k| k.remote);
        let had = old.is_some();
        let spec = object.at(&["spec"]).cloned().unwrap_or_default();
        let (remote, same) = match old {
            Some(followed) if followed.spec == spec => {
                followed.remote.see(object);
                followed.changed.notify_one();
                (Some(followed), true)
            }
            old if is_elsewhere(server, object) => {
                (Some(self.follow(server, object, spec, old.as_ref())), false)
            }
            _ => (None, !had),
        };
        self.known.insert(stored.key.clone(), Known { revision: stored.revision, remote });
        !same
    }

    fn follow(&self, server: &Arc<Server>, object: &Object, spec: Value, old: Option<&Followed>) -> Followed {
        let remote = Arc::new(Remote::new(object, &server.access.front_proxy));
        if let Some(old) = old.filter(|old| old.remote.service == remote.service) {
            // Other priorities, mostly: nothing that makes its resources unknown.
            remote.set_discovered(old.remote.discovered());
        }
        let (changed, life) = (Arc::new(Notify::new()), server.stop.child_token());
        self.tasks.spawn(follow::run(server.clone(), remote.clone(), changed.clone(), life.clone()));
        Followed { spec, remote, changed, _life: life.drop_guard() }
    }
}

fn has_service(object: &Object) -> bool {
    object.at(&["spec", "service"]).is_some()
}

fn is_elsewhere(server: &Server, object: &Object) -> bool {
    let text = |key: &str| object.str_at(&["spec", key]);
    has_service(object) && !server.registry.is_built_in(text("group"), text("version"))
}

/// Says of a group version that is left to this server that it is there.
async fn say_local(server: &Arc<Server>, object: &Object) {
    let said = conditions::find(object.items_at(&["status", "conditions"]), "Available");
    if said.is_some_and(|c| c["reason"] == "Local" && c["status"] == "True") {
        return;
    }
    let change = |service: &mut Object| {
        let mut all = service.items_at(&["status", "conditions"]).to_vec();
        conditions::set(&mut all, local_condition(Timestamp::now()));
        service.set(&["status", "conditions"], all);
        Ok(())
    };
    let user = crate::bootstrap::system();
    match server.modify(&user, &gvr(), "status", "", object.name(), false, &change).await {
        Err(e) if e.code() != 404 => {
            tracing::warn!(service = object.name(), error = %e, "cannot write the status of an APIService");
        }
        _ => {}
    }
}
