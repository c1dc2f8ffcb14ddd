//! The lives of a pod's worker: one that panics is begun anew from what the API says, told in an event; a pod that ends is
//! brought to its end even so.

use std::{sync::Arc, time::Duration};

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
    beneath::off_workers,
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
pub(super) async fn run(node: Arc<NodeContext>, beginning: Beginning, feed: PodFeed, wakers: Wakers) {
    let pod = beginning.pod.clone();
    let mut first = Some(beginning);
    let life = || {
        let beginning = first.take().unwrap_or_else(|| {
            let latest = feed.borrow().clone();
            again(&node, latest.unwrap_or_else(|| pod.clone()))
        });
        live(node.clone(), beginning, feed.clone(), wakers.clone())
    };
    let told = |why: &str, pause: Duration| {
        let message = format!("error syncing pod, beginning anew in {}s: {why}", pause.as_secs());
        node.recorder.warning(pod_reference(&pod), "FailedSync", message);
    };
    let end = || {
        let latest = feed.borrow().clone();
        let ends = latest.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        let (node, pod) = (node.clone(), pod.clone());
        async move {
            let ended = if ends { end(&node, &pod).await } else { return false };
            ended.inspect_err(|error| tracing::warn!(error, uid = uid_of(&pod), "pod not ended")).is_ok()
        }
    };
    outlive(life, told, end).await;
}

async fn live(node: Arc<NodeContext>, beginning: Beginning, feed: PodFeed, wakers: Wakers) {
    let Beginning { pod, held, others } = beginning;
    let rejection = match others {
        Some(others) => crate::node::admit(&node, &pod, &others).await.err(),
        None => None,
    };
    worker::run(node, held, feed, wakers, rejection).await;
}

/// Asked anew: a pod whose worker panicked before it was begun is still new to the node.
fn again(node: &NodeContext, pod: Arc<Pod>) -> Beginning {
    let others = newcomers_neighbours(node, &pod);
    let held = Arc::new(resize::granted_before(&pod));
    Beginning { pod, held, others }
}

/// One life after another, until one ends by itself. After many that did not, `end` is asked to put an end to it.
async fn outlive<L: Future<Output = ()>, E: Future<Output = bool>>(
    mut life: impl FnMut() -> L,
    mut told: impl FnMut(&str, Duration),
    mut end: impl FnMut() -> E,
) {
    let mut back_off = BackOff::default();
    loop {
        let begun = Instant::now();
        let Err(why) = contained("pod worker", async { life().await }).await else { return };
        let pause = back_off.after(begun.elapsed());
        told(&why, pause);
        tokio::time::sleep(pause).await;
        if back_off.failures() >= PATIENCE && contained("end of a pod", end()).await == Ok(true) {
            return;
        }
    }
}

/// Ends what runs of the pod without asking it, and lets the API forget it.
async fn end(node: &NodeContext, pod: &Pod) -> Result<(), String> {
    let uid = uid_of(pod);
    node.runtime.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    node.network().teardown(uid).await.map_err(|e| e.to_string())?;
    let places = node.places(pod).map_err(|e| e.to_string())?;
    let dir = places.dir();
    off_workers(move || volumes::empty(&dir)).await.map_err(|e| e.to_string())?;
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    let api: Api<Pod> = Api::namespaced(node.config.client.clone(), namespace_of(pod));
    match api.delete(name_of(pod), &params).await {
        Ok(_) => {}
        // It is gone, or another has its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => return Err(error.to_string()),
    }
    off_workers(move || places.forget()).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A worker that panics `faults` times, of a pod that is deleted when `deleted`; what was told, and how often it was
    /// ended by force.
    async fn lives(faults: u32, deleted: bool) -> (Vec<String>, u32, u32) {
        let (count, ended, told) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let life = || {
            count.set(count.get() + 1);
            let panics = count.get() <= faults;
            async move { assert!(!panics, "fault") }
        };
        let tell = |why: &str, pause: Duration| {
            told.borrow_mut().push(format!("{why} ({}s)", pause.as_secs()));
        };
        let end = || {
            ended.set(ended.get() + u32::from(deleted));
            async move { deleted }
        };
        outlive(life, tell, end).await;
        (told.into_inner(), count.get(), ended.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_panics_is_begun_anew() {
        let (told, count, ended) = lives(2, false).await;
        assert_eq!(told, ["internal error: fault (1s)", "internal error: fault (2s)"]);
        assert_eq!((count, ended), (3, 0));
        assert_eq!(lives(0, false).await.1, 1);
        // As long as the pod is wanted there is always another try.
        assert_eq!(lives(20, false).await.1, 21);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_pod_whose_worker_always_panics_is_ended_without_it() {
        let (told, count, ended) = lives(u32::MAX, true).await;
        assert_eq!((told.len(), count, ended), (3, 3, 1));
    }
}
