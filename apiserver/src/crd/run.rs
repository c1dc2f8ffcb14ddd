//! Follows the definitions in the store: what they say is in the registry before their status says so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use coracle_api::{Gvr, Object};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::local_services::LocalServices;
use super::serving::{Fingerprint, Source};
use super::status::{self, Taken};
use super::{FINALIZER, cleanup, serving};
use crate::Server;
use crate::resource::Resource;
use crate::status::Result;
use crate::store::Stored;

const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";

pub(super) fn gvr() -> Gvr {
    Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions")
}

/// All definitions, as far as the registry knows them.
#[derive(Default)]
pub struct Definitions {
    known: HashMap<Arc<str>, Known>,
    /// Deleted definitions (by uid) whose objects are on their way out.
    cleaning: HashSet<String>,
    services: LocalServices,
    tasks: TaskTracker,
}

struct Known {
    revision: u64,
    fingerprint: Fingerprint,
    group: String,
    accepted: Value,
    /// Whether another definition stands in the way of its names.
    conflicted: bool,
    /// What the schemas of its resources are read from.
    source: Arc<Source>,
    resources: Vec<Arc<Resource>>,
    /// Ends the watches of its resources.
    life: CancellationToken,
}

/// A status that is out of date, and the names others have.
struct Outdated {
    name: Arc<str>,
    taken: Taken,
}

/// Keeps the registry in step with the definitions until the server stops.
pub async fn run(server: Arc<Server>, mut definitions: Definitions, stop: CancellationToken) {
    let storage: Arc<str> = STORAGE.into();
    loop {
        let mut changes = server.store.watch(&storage, "", server.store.revision());
        definitions.settle(&server).await;
        tokio::select! {
            () = stop.cancelled() => break,
            // Whatever changed, and also a cursor that fell behind: the revisions tell.
            _ = changes.next() => {}
        }
    }
    definitions.tasks.close();
    definitions.tasks.wait().await;
}

// === impl Definitions ===

impl Definitions {
    /// Serves what is there, ends what is gone, and writes the statuses that follow.
    pub async fn settle(&mut self, server: &Arc<Server>) {
        let all = server.store.list(STORAGE, "").items;
        let mut ended = self.forget(&all);
        let freed = !ended.is_empty();
        let mut outdated = vec![];
        let mut changed = freed;
        for stored in &all {
            let known = self.known.get(&stored.key);
            if known.is_some_and(|k| k.revision == stored.revision && !(k.conflicted && freed)) {
                continue;
            }
            let crd = stored.object();
            outdated.extend(self.take(server, stored, crd, &mut ended));
            changed = true;
        }
        if changed {
            let mut custom: Vec<Arc<Resource>> =
                self.known.values().flat_map(|k| k.resources.iter().cloned()).collect();
            custom.sort_by(|a, b| (&a.gvr.group, &a.gvr.version).cmp(&(&b.gvr.group, &b.gvr.version)));
            self.services.follow(server, &custom).await;
            server.registry.replace_custom(custom.into_iter());
            let catalog = server.registry.snapshot();
            let paths = catalog.paths();
            server.openapi.retain(|path| paths.contains(path));
            let served: HashSet<(&str, &str)> =
                catalog.resources().map(|r| (&*r.gvr.group, &*r.gvr.resource)).collect();
            server.metrics.retain(|group, plural| served.contains(&(group, plural)));
        }
        for life in ended {
            life.cancel();
        }
        for Outdated { name, taken } in outdated {
            if let Err(e) = write_status(server, &name, &taken).await
                && e.code() != 404
            {
                tracing::warn!(definition = &*name, error = %e, "cannot write the status of a definition");
            }
        }
    }

    /// Drops what is not there any more; answers what ends with it.
    fn forget(&mut self, all: &[Arc<Stored>]) -> Vec<CancellationToken> {
        let there: HashSet<&Arc<str>> = all.iter().map(|s| &s.key).collect();
        let gone: Vec<Arc<str>> = self.known.keys().filter(|k| !there.contains(k)).cloned().collect();
        gone.iter().filter_map(|key| self.known.remove(key)).map(|known| known.life).collect()
    }

    /// Takes a definition's new state over.
    fn take(
        &mut self,
        server: &Arc<Server>,
        stored: &Arc<Stored>,
        mut crd: Object,
        ended: &mut Vec<CancellationToken>,
    ) -> Option<Outdated> {
        let group = crd.str_at(&["spec", "group"]).to_owned();
        let before = crd.at(&["status"]).cloned();
        let mut taken = Taken::default();
        for (key, other) in &self.known {
            if *key != stored.key && other.group == group {
                taken.add(&other.accepted);
            }
        }
        if !crd.is_being_deleted() {
            status::settle(&mut crd, &taken, &coracle_api::time::seconds(Timestamp::now()));
        } else if crd.finalizers().any(|f| f == FINALIZER) && self.cleaning.insert(crd.uid().to_owned()) {
            self.tasks.spawn(cleanup::run(server.clone(), crd.clone(), server.stop.clone()));
        }
        let serves = serving::is_served(&crd);
        let fingerprint = serving::fingerprint(&crd);
        let mut known = Known {
            revision: stored.revision,
            fingerprint,
            group,
            accepted: crd.at(&["status", "acceptedNames"]).cloned().unwrap_or_default(),
            conflicted: !coracle_api::conditions::is_true(
                crd.items_at(&["status", "conditions"]),
                "NamesAccepted",
            ),
            source: Source::new(stored.value.clone()),
            resources: vec![],
            life: CancellationToken::new(),
        };
        match self.known.remove(&stored.key) {
            Some(old) if serves && old.fingerprint == fingerprint && !old.resources.is_empty() => {
                old.source.follow(stored.value.clone());
                known.source = old.source;
                known.resources = old.resources;
                known.life = old.life;
            }
            old => {
                ended.extend(old.map(|old| old.life));
                known.life = server.stop.child_token();
                if serves {
                    known.resources = serving::resources(&crd, &fingerprint, &known.source, &known.life);
                }
            }
        }
        self.known.insert(stored.key.clone(), known);
        let outdated = !crd.is_being_deleted() && crd.at(&["status"]) != before.as_ref();
        outdated.then(|| Outdated { name: stored.key.clone(), taken })
    }
}

async fn write_status(server: &Arc<Server>, name: &str, taken: &Taken) -> Result<()> {
    let change = |crd: &mut Object| {
        status::settle(crd, taken, &coracle_api::time::seconds(Timestamp::now()));
        Ok(())
    };
    let user = crate::bootstrap::system();
    server.modify(&user, &gvr(), "status", "", name, false, &change).await.map(drop)
}
