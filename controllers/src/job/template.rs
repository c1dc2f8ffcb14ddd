//! The pod a Job makes for a slot.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::FINALIZER;
use super::indexes::{FAILURES, IGNORED_FAILURES, INDEX};
use super::plan::Slot;
use crate::claims::{controller_ref, name, namespace};
use crate::pods;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What the server leaves of a prefix when it adds its five letters.
const PREFIX_LIMIT: usize = 58;

pub(super) fn pod(job: &Job, slot: &Slot) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, namespace(job), name(job), controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = slot.index else { return pod };
    let text = index.to_string();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), text.clone());
    if let Some((failures, ignored)) = slot.failures {
        annotations.insert(FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
    pod.metadata.generate_name = Some(prefix(name(job), index));
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{}-{index}", name(job)));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        tell_index(container);
    }
    pod
}

fn prefix(job: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let room = PREFIX_LIMIT.saturating_sub(suffix.len());
    format!("{}{suffix}", &job[..job.len().min(room)])
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    env.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}
