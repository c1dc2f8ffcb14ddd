//! Where the two kinds keep what the controller reads and writes.

use coracle_api::selector::{Labels, typed as selector};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

use super::status::{Condition, Status};
use crate::runtime::Kind;

pub(crate) trait Replicas: Kind + kube::Resource<Scope = NamespaceResourceScope> {
    const COMPONENT: &'static str;

    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn selects(&self, labels: Option<&Labels>) -> bool;
    fn status(&self) -> Status;
    /// The object with this status; None if nothing would change.
    fn with_status(&self, status: &Status) -> Option<Self>;
}

impl Replicas for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selects(&self, labels: Option<&Labels>) -> bool {
        selector::picks(self.spec.as_ref().map(|s| &s.selector), labels)
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: status.conditions.unwrap_or_default().into_iter().map(Condition::from).collect(),
        }
    }

    fn with_status(&self, status: &Status) -> Option<Self> {
        let new = ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: Some(status.conditions.iter().cloned().map(ReplicaSetCondition::from).collect()),
        };
        (Replicas::status(self) != *status).then(|| ReplicaSet { status: Some(new), ..self.clone() })
    }
}

impl Replicas for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selects(&self, labels: Option<&Labels>) -> bool {
        let wanted = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        wanted.is_some_and(|w| !w.is_empty() && selector::contains(labels, w))
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: status.conditions.unwrap_or_default().into_iter().map(Condition::from).collect(),
        }
    }

    fn with_status(&self, status: &Status) -> Option<Self> {
        let conditions = status.conditions.iter().cloned();
        let new = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: Some(conditions.map(ReplicationControllerCondition::from).collect()),
        };
        let wanted = Status { terminating: None, ..status.clone() };
        (Replicas::status(self) != wanted)
            .then(|| ReplicationController { status: Some(new), ..self.clone() })
    }
}

macro_rules! same_condition {
    ($kind:ident) => {
        impl From<$kind> for Condition {
            fn from(c: $kind) -> Self {
                Condition {
                    type_: c.type_,
                    status: c.status,
                    reason: c.reason.unwrap_or_default(),
                    message: c.message.unwrap_or_default(),
                    since: c.last_transition_time,
                }
            }
        }

        impl From<Condition> for $kind {
            fn from(c: Condition) -> Self {
                $kind {
                    type_: c.type_,
                    status: c.status,
                    reason: Some(c.reason),
                    message: Some(c.message),
                    last_transition_time: c.since,
                }
            }
        }
    };
}

same_condition!(ReplicaSetCondition);
same_condition!(ReplicationControllerCondition);
