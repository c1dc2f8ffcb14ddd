//! Events on the objects that controllers look after.

use coracle_client::events::{self, Queue, Source, reference};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;

/// Tells events for one component.
#[derive(Clone)]
pub(crate) struct Recorder(events::Recorder);

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(component: &'static str, queue: Queue) -> Self {
        Recorder(events::Recorder::new(Source { component, host: None }, queue))
    }

    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.0.normal(reference(object), reason, message);
    }

    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.0.warning(reference(object), reason, message);
    }

    /// A warning of an object whose type is known only at run time.
    pub(crate) fn warn_of(&self, object: ObjectReference, reason: &str, message: impl Into<String>) {
        self.0.warning(object, reason, message);
    }
}
