//! Carrying out a resize: from the grant to the cgroups, and what is told of it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;

use super::{
    recorder::pod_reference,
    resize::{self, Progress, RETRY_SECONDS, event_message},
    resources,
    view::{find_container, spec_of, uid_of},
    worker::Worker,
};
use crate::cri::{RuntimeError, with_causes};

impl Worker {
    /// Takes up what the node has granted, and sees whether the last grant is there.
    pub(super) fn observe_grant(&mut self, now: Timestamp) {
        if self.view.over {
            (self.view.pending, self.view.progress) = (None, None);
            return;
        }
        let Some(grant) = self.node.allocations.grant(uid_of(&self.pod)) else { return };
        let generation = grant.desired.metadata.generation;
        let about = pod_reference(&self.pod);
        if let Some(pending) = &grant.pending {
            let known = self.view.pending.as_ref().map(|known| known.generation);
            if known != Some(pending.generation) {
                let message = event_message(pending.reason, &grant.desired, generation, &pending.message);
                self.node.recorder.warning(about.clone(), &format!("Resize{}", pending.reason), message);
            }
        }
        self.view.pending = grant.pending;
        if !resize::same_resources(&self.pod, &grant.allocated) {
            let message = event_message("started", &grant.allocated, generation, "");
            self.node.recorder.normal(about.clone(), "ResizeStarted", message);
            self.view.progress =
                Some(Progress { error: None, generation, since: now, retry_at: None, fresh: true });
            self.pod = Arc::new(resize::with_resources_of((*self.pod).clone(), &grant.allocated));
        }
        let spec = spec_of(&self.pod);
        for (name, v) in self.view.containers.iter_mut().filter(|(_, v)| v.renewing.is_none()) {
            if find_container(spec, name).is_some_and(|(_, c)| resize::requires_restart(&c, v)) {
                v.renewing = v.current.as_ref().map(|c| c.id.clone());
            }
        }
        match (resize::in_progress(spec, &self.view), &self.view.progress) {
            (true, None) => {
                let generation = self.pod.metadata.generation;
                self.view.progress =
                    Some(Progress { error: None, generation, since: now, retry_at: None, fresh: true });
            }
            (false, Some(done)) => {
                let message = event_message("completed", &self.pod, done.generation, "");
                self.node.recorder.normal(about, "ResizeCompleted", message);
                self.view.progress = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Sets the cgroups. What fails is told, and tried again after a while.
    pub(super) async fn actuate(&mut self, now: Timestamp) {
        let result = self.set_cgroups().await;
        let Some(progress) = &mut self.view.progress else { return };
        progress.fresh = result.is_err();
        let Err(message) = result else {
            return (progress.error, progress.retry_at) = (None, None);
        };
        if progress.error.as_ref() != Some(&message) {
            let told = event_message("error", &self.pod, progress.generation, &message);
            self.node.recorder.warning(pod_reference(&self.pod), "ResizeError", told);
        }
        if progress.error.is_none() {
            progress.since = now;
        }
        progress.error = Some(message);
        progress.retry_at = Some(now + SignedDuration::from_secs(RETRY_SECONDS));
    }

    async fn set_cgroups(&mut self) -> Result<(), String> {
        let text = |error: RuntimeError| with_causes(&error);
        let (uid, runtime) = (uid_of(&self.pod).to_owned(), self.node.runtime.clone());
        let spec = spec_of(&self.pod);
        let wanted = resources::pod_resources(&self.pod);
        let current = runtime.pod_limits(&uid).await.map_err(text)?;
        let changes = resize::changes(&self.pod, &self.view, self.node.capacity.memory);
        let falling = resize::falling_limits(&current, &wanted, &changes);
        let mut usage = Vec::new();
        for (change, _) in &falling {
            let stats = match change {
                Some(change) => runtime.stats(&change.id).await,
                None => runtime.pod_stats(&uid).await,
            };
            usage.push(stats.map_err(text)?.memory_usage_bytes);
        }
        if let Some(complaint) = resize::memory_complaint(&falling, &usage) {
            return Err(complaint);
        }
        for step in resize::steps(&current, &wanted, &changes) {
            match &step.container {
                Some(id) => runtime.update_resources(id, &step.set).await.map_err(text)?,
                None => runtime.update_pod_resources(&uid, &step.set).await.map_err(text)?,
            }
        }
        for change in &changes {
            let c = find_container(spec, &change.name).map(|(_, c)| c.resources.unwrap_or_default());
            if let Some(v) = self.view.containers.get_mut(&change.name) {
                v.actual = c;
            }
        }
        Ok(())
    }
}

/// A resize that a former process of this node was at.
pub(super) fn resizing(status: &PodStatus) -> Option<Progress> {
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == "PodResizeInProgress")?;
    Some(Progress {
        error: condition.message.clone().filter(|m| !m.is_empty()),
        generation: condition.observed_generation,
        since: condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        retry_at: None,
        fresh: true,
    })
}
