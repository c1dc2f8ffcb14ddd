//! What controllers ask of a pod, and how a pod is made from a template.

use coracle_api::pod::State;
pub(crate) use coracle_api::pod::{
    is_active, is_available, is_ready, is_terminal as is_finished, ready_since, until_available,
};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(crate) fn phase(pod: &Pod) -> &str {
    State::phase(pod)
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    State::is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.map(|c| c.restart_count).max().unwrap_or(0)
}

/// A pod of a template, to be named by the server after its owner.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner_name: &str,
    owner: OwnerReference,
) -> Pod {
    let of_template = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(owner_name)),
            namespace: Some(namespace.to_owned()),
            labels: of_template.labels,
            annotations: of_template.annotations,
            finalizers: of_template.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `name-` if a pod may be called that, else the plain name.
fn name_prefix(owner_name: &str) -> String {
    if owner_name.len() < 253 { format!("{owner_name}-") } else { owner_name.to_owned() }
}
