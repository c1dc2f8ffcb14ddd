//! The lives of a pod's worker: one that panics is begun anew from what the API says, told in an event; a pod that ends is
//! brought to its end even so.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tokio::time::Instant;

use super::{
    newcomers_neighbours,
    node_context::NodeContext,
    recorder::pod_reference,
    resize,
    view::{name_of, namespace_of, uid_of},
    worker::{self, PodFeed, Wakers},
};
use crate::{
    tasks::{BackOff, contained},
    volumes,
};

/// A pod to be deleted whose worker has panicked so often is ended without it.
const PATIENCE: u32 = 3;

/// What a life begins with.
pub(super) struct Beginning {
    pub(super) pod: Arc<Pod>,
    /// The pod with the resources that it holds.
    pub(super) held: Arc<Pod>,
    /// The pods that share the node with one that is new to it.
    pub(super) others: Option<Vec<Arc<Pod>>>,
}

/// Works for the pod until it is gone from the API and from the node.
pub(super) async fn run(node: Arc<NodeContext>, mut beginning: Beginning, feed: PodFeed, wakers: Wakers) {
    let mut back_off = BackOff::default();
    loop {
        let begun = Instant::now();
        let Beginning { pod, held, others } = &beginning;
        let life = async {
            let rejection = match others {
                Some(others) => crate::node::admit(&node, pod, others).await.err(),
                None => None,
            };
            worker::run(node.clone(), held.clone(), feed.clone(), wakers.clone(), rejection).await;
        };
        let Err(why) = contained("pod worker", life).await else { return };
        let pause = back_off.after(begun.elapsed());
        let message = format!("error syncing pod, beginning anew in {}s: {why}", pause.as_secs());
        node.recorder.warning(pod_reference(pod), "FailedSync", message);
        tokio::time::sleep(pause).await;
        let latest = feed.borrow().clone();
        let ends = latest.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        if ends && back_off.failures() >= PATIENCE {
            match contained("end of a pod", end(&node, pod)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(error, uid = uid_of(pod), "pod not ended"),
                Err(_) => {}
            }
        }
        let pod = latest.unwrap_or_else(|| pod.clone());
        // Asked anew: a pod whose worker panicked before it was begun is still new to the node.
        let others = newcomers_neighbours(&node, &pod);
        let held = Arc::new(resize::granted_before(&pod));
        beginning = Beginning { pod, held, others };
    }
}

/// Ends what runs of the pod without asking it, and lets the API forget it.
async fn end(node: &NodeContext, pod: &Pod) -> Result<(), String> {
    let uid = uid_of(pod);
    node.runtime.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    node.network().teardown(uid).await.map_err(|e| e.to_string())?;
    let dir = node.pod_dir(pod);
    let cleaned = tokio::task::spawn_blocking(move || volumes::clean_up(&dir)).await;
    cleaned.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    let api: Api<Pod> = Api::namespaced(node.config.client.clone(), namespace_of(pod));
    match api.delete(name_of(pod), &params).await {
        Ok(_) => Ok(()),
        // It is gone, or another has its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
