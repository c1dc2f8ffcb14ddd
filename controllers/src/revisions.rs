//! ControllerRevisions: the history of a pod template that DaemonSets and StatefulSets keep.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_client::errors::is_exists;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::claims::{controller_ref, name, namespace};
use crate::deployment::template_hash;
use crate::runtime::{Key, Kind, Writer};

/// On pods and revisions of either kind.
pub(crate) const REVISION_HASH: &str = "controller-revision-hash";
/// On revisions of StatefulSets only.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";

/// The history after the template has found its place in it.
pub(crate) struct History {
    /// The revision of the template as it is now.
    pub(crate) update: Arc<ControllerRevision>,
    /// All, oldest first.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
    pub(crate) collisions: i32,
}

/// What the template needs in the history.
#[derive(Debug, PartialEq)]
enum Step {
    Keep(usize),
    Renumber(usize, i64),
    Create(i64),
}

/// The newest revision that holds the template becomes the newest of all; without one a new one is made.
fn step(all: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Step {
    let Some(found) = all.iter().rposition(|r| template_of(r).as_ref() == Some(template)) else {
        return Step::Create(all.last().map_or(0, |last| last.revision) + 1);
    };
    let others = all.iter().enumerate().filter(|(at, _)| *at != found);
    match others.map(|(_, r)| r.revision).max() {
        Some(newest) if newest >= all[found].revision => Step::Renumber(found, newest + 1),
        _ => Step::Keep(found),
    }
}

/// The template a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.get("spec")?.get("template")?;
    serde_json::from_value(template.clone()).ok()
}

/// The strategic merge patch that brings the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("a typed template has a JSON form");
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// Finds or makes the revision of the template. `label` is the label that holds its hash.
pub(crate) async fn record<O: Kind>(
    owner: &O,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    mut all: Vec<Arc<ControllerRevision>>,
    label: &str,
    api: &Writer,
) -> anyhow::Result<History> {
    all.sort_by_key(|r| {
        (r.revision, r.metadata.creation_timestamp.clone().map(|t| t.0), r.metadata.name.clone())
    });
    let (update, collisions) = match step(&all, template) {
        Step::Keep(at) => (all[at].clone(), collisions.unwrap_or(0)),
        Step::Renumber(at, number) => {
            let mut renumbered = (*all.remove(at)).clone();
            renumbered.revision = number;
            (Arc::new(api.replace(&renumbered).await?), collisions.unwrap_or(0))
        }
        Step::Create(number) => create(owner, template, collisions, number, label, api).await?,
    };
    if all.last().is_none_or(|last| last.metadata.uid != update.metadata.uid) {
        all.push(update.clone());
    }
    Ok(History { update, all, collisions })
}

/// Makes the revision; a name that another template has is told apart by the collision count.
async fn create<O: Kind>(
    owner: &O,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    number: i64,
    label: &str,
    api: &Writer,
) -> anyhow::Result<(Arc<ControllerRevision>, i32)> {
    let mut collisions = collisions.unwrap_or(0);
    loop {
        let hash = template_hash(template, Some(collisions));
        let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(label.to_owned(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", name(owner))),
                namespace: Some(namespace(owner).to_owned()),
                labels: Some(labels),
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_ref(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data(template))),
            revision: number,
        };
        match api.create(&revision).await {
            Ok(created) => return Ok((Arc::new(created), collisions)),
            Err(error) if is_exists(&error) => {
                let existing = api.get::<ControllerRevision>(&Key::of(&revision)).await?;
                match existing.filter(|r| template_of(r).as_ref() == Some(template)) {
                    Some(same) => return Ok((Arc::new(same), collisions)),
                    None => collisions += 1,
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The oldest revisions beyond the limit that nothing uses any more.
pub(crate) fn surplus(
    all: &[Arc<ControllerRevision>],
    limit: Option<i32>,
    used: impl Fn(&ControllerRevision) -> bool,
) -> Vec<&Arc<ControllerRevision>> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let mut unused: Vec<_> = all.iter().filter(|r| !used(r)).collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

/// The revision labels that pods carry.
pub(crate) fn in_use<'a>(
    pods: impl Iterator<Item = &'a Arc<k8s_openapi::api::core::v1::Pod>>,
) -> HashSet<&'a str> {
    pods.filter_map(|pod| of_pod(pod)).collect()
}

pub(crate) fn of_pod(pod: &k8s_openapi::api::core::v1::Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION_HASH).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let data = Some(RawExtension(data(&template(image))));
        Arc::new(ControllerRevision { data, revision: number, ..ControllerRevision::default() })
    }

    #[test]
    fn a_rollback_renumbers_the_old_revision() {
        let all = [revision("a", 1), revision("b", 2)];
        assert_eq!(step(&all, &template("b")), Step::Keep(1));
        assert_eq!(step(&all, &template("a")), Step::Renumber(0, 3));
        assert_eq!(step(&all, &template("c")), Step::Create(3));
        assert_eq!(step(&[], &template("c")), Step::Create(1));
    }

    #[test]
    fn the_oldest_unused_go_first() {
        let all = [revision("a", 1), revision("b", 2), revision("c", 3), revision("d", 4)];
        let gone = surplus(&all, Some(1), |r| r.revision == 2 || r.revision == 4);
        assert_eq!(gone.iter().map(|r| r.revision).collect::<Vec<_>>(), [1]);
    }
}
