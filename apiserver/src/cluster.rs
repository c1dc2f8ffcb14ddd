//! What access control and admission read of the cluster. A seam, so that plugins can be tested without a server; they
//! write through the server itself.

use coracle_api::{Gvr, Object};

use crate::Server;
use crate::resource::Resource;
use crate::store::Stored;

/// Reads are in memory, and see every acknowledged write.
pub trait Cluster: Send + Sync {
    /// An object by key; the empty namespace for cluster-scoped kinds.
    fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Object>;

    /// All objects of a namespace, or of all namespaces where it is empty.
    fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Object>;

    /// The objects of a namespace whose selectable field has a value.
    fn list_where(&self, gvr: &Gvr, namespace: &str, field: &str, value: &str) -> Vec<Object>;

    /// The objects of a namespace that have a label with a value.
    fn list_labelled(&self, gvr: &Gvr, namespace: &str, label: &str, value: &str) -> Vec<Object>;

    /// A number that differs whenever any object of the kind has changed in between. The kind is named as it is stored,
    /// `group/plural`: this is asked for every request.
    fn generation(&self, storage: &str) -> u64;
}

impl Cluster for Server {
    fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Object> {
        Server::get(self, gvr, namespace, name).ok()
    }

    fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Object> {
        Server::list(self, gvr, namespace).unwrap_or_default()
    }

    fn list_where(&self, gvr: &Gvr, namespace: &str, field: &str, value: &str) -> Vec<Object> {
        let Some(resource) = self.registry.lookup(gvr) else { return vec![] };
        let Some(at) = resource.fields.iter().position(|f| *f.label == *field) else { return vec![] };
        select(self, &resource, namespace, |stored| stored.index.field(at) == value)
    }

    fn list_labelled(&self, gvr: &Gvr, namespace: &str, label: &str, value: &str) -> Vec<Object> {
        let Some(resource) = self.registry.lookup(gvr) else { return vec![] };
        select(self, &resource, namespace, |stored| stored.index.label(label) == Some(value))
    }

    fn generation(&self, storage: &str) -> u64 {
        self.store.resource_revision(storage)
    }
}

/// What an index tells to be wanted; nothing else is read.
fn select(
    server: &Server,
    resource: &Resource,
    namespace: &str,
    wanted: impl Fn(&Stored) -> bool,
) -> Vec<Object> {
    let prefix = crate::verbs::list::prefix(resource, namespace);
    let found = server.store.select(&resource.storage, &prefix, "", usize::MAX, wanted).items;
    found.iter().map(|stored| crate::verbs::write::converted(resource, stored.object())).collect()
}

/// A core/v1 resource.
pub fn core(plural: &str) -> Gvr {
    Gvr::new("", "v1", plural)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod testing {
    use super::*;
    use serde_json::Value;

    /// A cluster that never changes.
    pub(crate) struct Fixed(Vec<(String, Object)>);

    impl Fixed {
        /// Objects as (group, plural, JSON).
        pub(crate) fn new(objects: Vec<(&str, &str, Value)>) -> Self {
            Fixed(objects.into_iter().map(|(g, p, o)| (format!("{g}/{p}"), Object(o))).collect())
        }
    }

    impl Cluster for Fixed {
        fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Object> {
            Cluster::list(self, gvr, namespace)
                .into_iter()
                .find(|o| o.name() == name && o.namespace() == namespace)
        }

        fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Object> {
            let storage = format!("{}/{}", gvr.group, gvr.resource);
            let there = |o: &Object| namespace.is_empty() || o.namespace() == namespace;
            self.0.iter().filter(|(s, o)| *s == storage && there(o)).map(|(_, o)| o.clone()).collect()
        }

        fn list_where(&self, gvr: &Gvr, namespace: &str, field: &str, value: &str) -> Vec<Object> {
            let path: Vec<&str> = field.split('.').collect();
            let mut found = Cluster::list(self, gvr, namespace);
            found.retain(|o| o.str_at(&path) == value);
            found
        }

        fn list_labelled(&self, gvr: &Gvr, namespace: &str, label: &str, value: &str) -> Vec<Object> {
            let mut found = Cluster::list(self, gvr, namespace);
            found.retain(|o| o.label(label) == Some(value));
            found
        }

        fn generation(&self, _storage: &str) -> u64 {
            1
        }
    }
}
