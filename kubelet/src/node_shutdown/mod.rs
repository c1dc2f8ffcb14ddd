//! The machine's end: pods have time to end before it, as upstream's graceful node shutdown.

mod groups;
mod logind;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use groups::ShutdownPeriods;
pub(crate) use logind::forget_settings;
use logind::{Lock, Logind, LogindError};

use crate::{
    node::admission::Rejection,
    pods::{
        node_context::NodeContext,
        recorder::node_reference,
        roster::{Eviction, Roster},
        view::uid_of,
    },
    tasks::BackOff,
};

/// Upstream's words.
pub(crate) const NOT_READY: &str = "node is shutting down";
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Waits for the machine's end until `stop`; `ending` says whether it is near.
pub(crate) async fn run(node: Arc<NodeContext>, ending: watch::Sender<bool>, stop: CancellationToken) {
    let concerned = Concerned {
        periods: node.config.shutdown_periods,
        roster: &node.roster,
        pods: &|| node.allocations.held(),
        tell: &|message| {
            node.recorder.normal(node_reference(&node.config.node_name), "Shutdown", message);
        },
    };
    if concerned.periods.requested().is_zero() {
        return stop.cancelled().await;
    }
    let watching = async {
        let mut back_off = BackOff::default();
        loop {
            let begun = Instant::now();
            let Err(error) = watch_over(Logind::connect(), &concerned, &ending).await;
            tracing::warn!(%error, "pods have no time to end with the machine; it is tried again");
            tokio::time::sleep(back_off.after(begun.elapsed())).await;
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// Whether a pod new to this node may still come.
pub(crate) fn admit(ending: bool) -> Result<(), Rejection> {
    if !ending {
        return Ok(());
    }
    let message = "Pod was rejected as the node is shutting down.".to_owned();
    Err(Rejection { reason: "NodeShutdown".to_owned(), message })
}

/// What the machine's end concerns.
struct Concerned<'a> {
    periods: ShutdownPeriods,
    roster: &'a Roster,
    /// The pods that have not ended.
    pods: &'a (dyn Fn() -> Vec<Arc<Pod>> + Sync),
    /// Tells it in an event of the Node.
    tell: &'a (dyn Fn(&str) + Sync),
}

/// Works until logind cannot be asked any more.
async fn watch_over(
    connecting: impl Future<Output = Result<Logind, LogindError>>,
    concerned: &Concerned<'_>,
    ending: &watch::Sender<bool>,
) -> Result<Infallible, LogindError> {
    let mut logind = connecting.await?;
    let mut near = logind.is_preparing().await?;
    if !near && let Err(error) = logind.wait_for(concerned.periods.requested()).await {
        // Some time is better than none.
        tracing::warn!(%error, "the machine's end may not wait for all pods");
    }
    let mut lock: Option<Lock> = None;
    loop {
        let news = ending.send_if_modified(|told| std::mem::replace(told, near) != near);
        match (news, near) {
            (true, true) => {
                (concerned.tell)("Shutdown manager detected shutdown event");
                end_pods(concerned).await;
            }
            (true, false) => (concerned.tell)("Shutdown manager detected shutdown cancellation"),
            (false, _) => {}
        }
        // The machine goes down when nobody holds a lock; while it does, there are no new ones.
        if near {
            lock = None;
        } else if lock.is_none() {
            lock = Some(logind.inhibit().await?);
        }
        near = logind.changed().await?;
    }
}

/// One group after the other, each within its time.
async fn end_pods(concerned: &Concerned<'_>) {
    for group in concerned.periods.groups((concerned.pods)()) {
        for pod in &group.pods {
            let (message, grace) = (MESSAGE.to_owned(), group.grace(pod));
            let order = Eviction { reason: REASON, message, grace, disruption: true };
            concerned.roster.evict(uid_of(pod), order);
        }
        let all = join_all(group.pods.iter().map(|pod| concerned.roster.ended(uid_of(pod))));
        if timeout(Duration::from_secs(group.seconds.unsigned_abs()), all).await.is_err() {
            tracing::warn!(seconds = group.seconds, "not all pods have ended in their time");
        }
    }
}
