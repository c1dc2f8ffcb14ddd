//! The task of one pod: look, report, plan, act, and wait for the next event.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use coracle_api::pod::is_over;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    actuate::resizing,
    crash_loop::{self, End},
    launch::Launched,
    node_context::NodeContext,
    ownership::merged,
    plan::{Action, plan},
    recorder::{container_of, pod_reference},
    resize::with_resources_of,
    roster::Eviction,
    set_up::SetUpError,
    status, termination,
    view::{
        Condemned, ContainerView, Doom, PodView, SandboxView, Terminating, TornDown, Waiting, find_container,
        name_of, spec_of, uid_of,
    },
    writer::{Report, write_status},
};
use crate::{
    beneath::off_workers,
    cri::{ContainerRecord, ContainerState},
    node::admission::Rejection,
    probes::{Kind, Probes, Verdict},
    tasks::{AbortOnDrop, supervised},
    volumes::{Paths, projection::Tokens},
};

/// What a background job of the pod brought.
pub(super) enum Done {
    SetUp(Result<(Vec<IpAddr>, Paths), SetUpError>),
    Refreshed,
    Launch { name: String, result: Result<Launched, Waiting> },
    Hook { name: String },
    TearDown { to: TornDown, result: Result<(), String> },
}

/// `None` in the channel: the object is gone from the API.
pub(crate) type PodFeed = watch::Receiver<Option<Arc<Pod>>>;

/// What wakes a worker.
#[derive(Clone, Default)]
pub(crate) struct Wakers {
    /// A container of the pod changed.
    pub(crate) runtime: Arc<Notify>,
    /// A ConfigMap or Secret of the pod changed.
    pub(crate) sources: Arc<Notify>,
    /// What the pod was granted has changed.
    pub(crate) grant: Arc<Notify>,
}

pub(crate) struct Worker {
    pub(super) node: Arc<NodeContext>,
    pub(super) pod: Arc<Pod>,
    pub(super) view: PodView,
    pub(super) volumes: Paths,
    pub(super) tokens: Arc<Tokens>,
    pub(super) wakers: Wakers,
    pub(super) jobs: JoinSet<Done>,
    /// Cancelled when the pod shall end: no job may go on waiting for an image or a volume.
    pub(super) stop: CancellationToken,
    /// A job brings the volumes up to date; the flag within asks for one more round.
    pub(super) refreshing: Option<bool>,
    set_up_failures: u32,
    pull_failures: BTreeMap<String, u32>,
    probes: Probes,
}

/// Runs until the pod is gone from the API and from the node.
pub(crate) async fn run(
    node: Arc<NodeContext>,
    pod: Arc<Pod>,
    mut feed: PodFeed,
    wakers: Wakers,
    rejection: Option<Rejection>,
) {
    let (reports, receiver) = watch::channel(None);
    let (client, known) = (node.config.client.clone(), pod.clone());
    let writing = move || write_status(client.clone(), known.clone(), receiver.clone());
    let writer = AbortOnDrop(tokio::spawn(supervised("status writer", writing)));
    let mut worker = Worker::new(node, pod, wakers);
    if let Some(rejection) = rejection {
        worker.reject(rejection);
    }
    let mut deleted = false;
    loop {
        let now = Timestamp::now();
        worker.observe(now, deleted).await;
        worker.observe_grant(now);
        let status = status::status(&worker.pod, &worker.view, &worker.node.host_ips(), now);
        worker.view.over = status.phase.as_deref().is_some_and(is_over);
        if worker.view.over {
            worker.node.allocations.close(uid_of(&worker.pod), now);
        }
        let removed = worker.view.torn_down == TornDown::Removed;
        let finished = removed && worker.view.terminating.is_some();
        let mut known = (*worker.pod).clone();
        known.status = Some(merged(status.clone(), &known.status.unwrap_or_default()));
        worker.pod = Arc::new(known);
        if deleted && finished {
            break;
        }
        reports.send_replace(Some(Report { status, finished }));
        let mut wake_at = worker.tokens.next_renewal().filter(|_| worker.view.torn_down == TornDown::Nothing);
        for action in plan(spec_of(&worker.pod), &worker.view, now) {
            match action {
                Action::WakeAt(at) => wake_at = Some(wake_at.map_or(at, |w| w.min(at))),
                other => {
                    // It shows in the status at once.
                    let shows = matches!(other, Action::BackOff { .. } | Action::Resize);
                    wake_at = if shows { Some(now) } else { wake_at };
                    worker.act(other, now).await;
                }
            }
        }
        deleted |= worker.wait(&mut feed, wake_at, deleted, now).await;
    }
    drop(writer);
    worker.node.allocations.close(uid_of(&worker.pod), Timestamp::now());
    worker.forget().await;
}

impl Worker {
    fn new(node: Arc<NodeContext>, pod: Arc<Pod>, wakers: Wakers) -> Self {
        let old = pod.status.clone().unwrap_or_default();
        let mut view = PodView { progress: resizing(&old), ..PodView::default() };
        view.start_time = status::begun(&old, Timestamp::now());
        view.sandbox = adopted_sandbox(&node, &pod);
        let statuses = old
            .init_container_statuses
            .into_iter()
            .chain(old.container_statuses)
            .chain(old.ephemeral_container_statuses);
        let runs = |id: &str| node.runtime.container(id).is_some();
        for s in statuses.flatten() {
            let v = remembered(&s, runs);
            view.containers.insert(s.name, v);
        }
        let probes = Probes::new(uid_of(&pod));
        Self {
            node,
            pod,
            view,
            volumes: Paths::new(),
            tokens: Arc::default(),
            wakers,
            jobs: JoinSet::new(),
            stop: CancellationToken::new(),
            refreshing: None,
            set_up_failures: 0,
            pull_failures: BTreeMap::new(),
            probes,
        }
    }

    /// The pod never starts here.
    fn reject(&mut self, rejection: Rejection) {
        let Rejection { reason, message } = rejection;
        self.node.recorder.warning(pod_reference(&self.pod), &reason, message.clone());
        self.view.start_time = None;
        self.view.doomed =
            Some(Doom { reason, message: format!("Pod was rejected: {message}"), ..Doom::default() });
    }

    /// Brings the view up to date with the runtime, which is the truth.
    async fn observe(&mut self, now: Timestamp, deleted: bool) {
        for (name, attempts) in by_name(self.node.runtime.containers_of(uid_of(&self.pod))) {
            let v = self.view.containers.entry(name).or_default();
            let mut newest = attempts.into_iter().rev();
            (v.current, v.last) = (newest.next(), newest.next());
        }
        let names: Vec<String> = self.view.containers.keys().cloned().collect();
        let mut messages = self.last_words().await;
        for name in names {
            self.observe_container(&name, &mut messages);
        }
        self.observe_end(now, deleted);
        self.probes.adjust(&self.pod, &self.view, &self.node.runtime);
    }

    /// The messages of containers that have ended since the last look, by id.
    async fn last_words(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (name, v) in &self.view.containers {
            let Some(record) = &v.current else { continue };
            let ContainerState::Exited { code, .. } = record.state else { continue };
            if v.messages.contains_key(&record.id) {
                continue;
            }
            let c = find_container(spec_of(&self.pod), name).map(|(_, c)| c).unwrap_or_default();
            let to_logs =
                c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
            let (node, pod, record, name) =
                (self.node.clone(), self.pod.clone(), record.clone(), name.clone());
            let id = record.id.clone();
            let message = off_workers(move || {
                let ended = termination::Ended {
                    places: &node.places(&pod)?,
                    container: &name,
                    attempt: record.attempt,
                    log_root: &node.config.log_dir,
                    log_path: &record.log_path,
                };
                Ok(termination::message(&ended, to_logs))
            });
            out.insert(id, message.await.unwrap_or_default());
        }
        out
    }

    fn observe_container(&mut self, name: &str, messages: &mut BTreeMap<String, String>) {
        let Some(v) = self.view.containers.get_mut(name) else { return };
        let Some(record) = v.current.clone() else { return };
        let c = || find_container(spec_of(&self.pod), name).map(|(_, c)| c).unwrap_or_default();
        match &record.state {
            ContainerState::Exited { started, finished, .. } => {
                if let Some(message) = messages.remove(&record.id) {
                    v.messages.insert(record.id.clone(), message);
                    // A renewal ends a container that has not failed.
                    if !v.is_renewing() {
                        v.crash.ended(End {
                            attempt: record.attempt,
                            started: *started,
                            finished: *finished,
                            before: v.last.as_ref().and_then(|last| last.state.finished_at()),
                            condemned: v.condemned.is_some(),
                        });
                    }
                }
                (v.stopping, v.condemned, v.probe) = (None, None, Default::default());
            }
            ContainerState::Unknown => (v.stopping, v.condemned, v.probe) = (None, None, Default::default()),
            ContainerState::Running { .. } => {
                let c = c();
                v.probe.started |= c.startup_probe.is_none();
                v.probe.ready |= v.probe.started && c.readiness_probe.is_none();
            }
            ContainerState::Created { .. } => {}
        }
        let last = v.last.as_ref().map(|l| l.id.clone());
        v.messages.retain(|id, _| *id == record.id || Some(id) == last.as_ref());
    }

    fn judge(&mut self, verdict: Verdict) {
        if let Some((reason, message)) = verdict.event {
            self.node.recorder.warning(container_of(&self.pod, &verdict.container), reason, message);
        }
        let Some(v) = self.view.containers.get_mut(&verdict.container) else { return };
        let current = |v: &ContainerView| v.current.as_ref().is_some_and(|c| c.id == verdict.id);
        let Some(ok) = verdict.result.filter(|_| current(v)) else { return };
        match (verdict.kind, ok) {
            (Kind::Readiness, ok) => v.probe.ready = ok,
            (Kind::Startup, true) => v.probe.started = true,
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => {
                let probe = verdict.kind.word().to_lowercase();
                let message =
                    format!("Container {} failed {probe} probe, will be restarted", verdict.container);
                v.condemned = Some(Condemned { message, grace: verdict.grace });
            }
        }
    }

    /// Deletion and the pod's deadline.
    fn observe_end(&mut self, now: Timestamp, deleted: bool) {
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        match &mut self.view.terminating {
            Some(t) => t.grace = t.grace.min(grace),
            None if deleted || self.pod.metadata.deletion_timestamp.is_some() => {
                self.view.terminating = Some(Terminating { since: now, grace });
            }
            None => {}
        }
        if let Some(order) = self.node.roster.order(uid_of(&self.pod)).filter(|_| !self.view.over) {
            let Eviction { reason, message, grace, disruption } = order;
            self.view.doomed =
                Some(Doom { reason: reason.to_owned(), message, grace: Some(grace), disruption });
        }
        let deadline = spec_of(&self.pod).active_deadline_seconds.zip(self.view.start_time);
        if let Some((seconds, start)) = deadline.filter(|_| self.view.doomed.is_none() && !self.view.over)
            && now >= start + SignedDuration::from_secs(seconds)
        {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.node.recorder.normal(pod_reference(&self.pod), "DeadlineExceeded", message.clone());
            self.view.doomed =
                Some(Doom { reason: "DeadlineExceeded".to_owned(), message, ..Doom::default() });
        }
        if self.view.terminating.is_some() || self.view.doomed.is_some() {
            self.stop.cancel();
        }
    }

    /// When the pod's deadline passes, if nothing else happens.
    fn deadline(&self) -> Option<Timestamp> {
        let open = self.view.doomed.is_none() && !self.view.over;
        let (seconds, start) = spec_of(&self.pod).active_deadline_seconds.zip(self.view.start_time)?;
        open.then(|| start + SignedDuration::from_secs(seconds))
    }

    /// Waits for anything to happen; true when the object is gone from the API.
    async fn wait(
        &mut self,
        feed: &mut PodFeed,
        wake_at: Option<Timestamp>,
        gone: bool,
        now: Timestamp,
    ) -> bool {
        let wake_at = wake_at.into_iter().chain(self.deadline()).min();
        let renewal = self.tokens.next_renewal();
        let pause = wake_at.map_or(Duration::from_secs(3600), |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        });
        tokio::select! {
            changed = feed.changed(), if !gone => {
                let next = feed.borrow_and_update().clone();
                let (Ok(()), Some(next)) = (changed, next) else { return true };
                self.update(&next);
                self.refresh();
            }
            () = self.wakers.runtime.notified() => {}
            () = self.wakers.grant.notified() => self.refresh(),
            () = self.wakers.sources.notified() => self.refresh(),
            Some(verdict) = self.probes.next() => self.judge(verdict),
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                if let Ok(done) = done { self.take(done) }
            }
            () = tokio::time::sleep(pause) => {
                if renewal.is_some_and(|at| at <= Timestamp::now()) { self.refresh() }
            }
        }
        false
    }

    /// The object has changed, or only its status. What could not start as it was is tried at once as it is now; an image
    /// that could not be had, only if it is another.
    fn update(&mut self, next: &Pod) {
        // The resources are those granted, whatever the object wishes.
        let next = Arc::new(with_resources_of(with_own_status(next, &self.pod), &self.pod));
        let own = std::mem::replace(&mut self.pod, next);
        let changed = || {
            own.spec != self.pod.spec
                || own.metadata.labels != self.pod.metadata.labels
                || own.metadata.annotations != self.pod.metadata.annotations
        };
        for (name, v) in self.view.containers.iter_mut().filter(|(_, v)| v.waiting.is_some() && changed()) {
            let image = |pod| find_container(spec_of(pod), name).and_then(|(_, c)| c.image);
            if v.pull_failed_at.is_none() || image(&own) != image(&self.pod) {
                (v.retry_at, v.pull_failed_at) = (None, None);
                self.pull_failures.remove(name);
            }
        }
    }

    fn take(&mut self, done: Done) {
        let now = Timestamp::now();
        match done {
            Done::SetUp(Ok((ips, paths))) => {
                self.volumes = paths;
                (self.view.sandbox, self.view.mounted, self.view.setting_up) =
                    (SandboxView::Ready { ips }, true, false);
            }
            Done::SetUp(Err(error)) => {
                self.view.setting_up = false;
                self.set_up_failures += 1;
                let delay = (1_i64 << self.set_up_failures.min(7)) / 2;
                self.view.sandbox =
                    SandboxView::Pending { retry_at: Some(now + SignedDuration::from_secs(delay)) };
                if !self.stop.is_cancelled() {
                    self.node.recorder.warning(pod_reference(&self.pod), error.reason(), error.to_string());
                }
            }
            Done::Refreshed => {
                if self.refreshing.take() == Some(true) {
                    self.refresh();
                }
            }
            Done::Launch { name, result } => self.launched(&name, result, now),
            Done::Hook { name } => {
                if let Some(stop) = self.view.containers.get_mut(&name).and_then(|v| v.stopping.as_mut()) {
                    stop.hook_done = true;
                }
            }
            Done::TearDown { to, result } => {
                if let Err(error) = result {
                    tracing::warn!(error, pod = name_of(&self.pod), "pod not taken down completely");
                }
                self.view.tearing_down = false;
                (self.view.sandbox, self.view.mounted, self.view.torn_down) =
                    (SandboxView::Absent, false, to);
                self.node.roster.tell_ended(uid_of(&self.pod));
            }
        }
    }

    fn launched(&mut self, name: &str, result: Result<Launched, Waiting>, now: Timestamp) {
        let v = self.view.containers.entry(name.to_owned()).or_default();
        v.launching = false;
        match result {
            Ok(launched) => {
                (v.waiting, v.renewing, v.image_ref) = (None, None, launched.image_ref);
                self.pull_failures.remove(name);
            }
            // It has a record that ended: what holds for a crash holds for it.
            Err(why) if matches!(&*why.reason, "RunContainerError" | "PostStartHookError") => {
                v.waiting = Some(why)
            }
            Err(why) => {
                let pull = matches!(
                    &*why.reason,
                    "ErrImagePull" | "RegistryUnavailable" | "SignatureValidationFailed"
                );
                let failures = self.pull_failures.entry(name.to_owned()).or_default();
                // Only pulls are put off longer each time: whoever adds a missing Secret need not wait for minutes.
                *failures = if pull { *failures + 1 } else { 1 };
                v.retry_at = Some(now + SignedDuration::from_secs(crash_loop::delay(*failures)));
                v.pull_failed_at = pull.then_some(now);
                v.backoff_told = !pull;
                v.waiting = Some(why);
            }
        }
    }
}

/// A sandbox left by a former process keeps its address, so the pod's status does not waver.
fn adopted_sandbox(node: &NodeContext, pod: &Pod) -> SandboxView {
    let known = node.runtime.sandboxes().into_iter().find(|s| s.pod_uid == uid_of(pod));
    match known.map(|sandbox| sandbox.netns) {
        None => SandboxView::Absent,
        Some(None) => SandboxView::Ready { ips: node.host_ips() },
        Some(Some(_)) => match node.network().address(uid_of(pod)) {
            Ok(Some(address)) => SandboxView::Ready { ips: vec![address.ip.into()] },
            Ok(None) | Err(_) => SandboxView::Absent,
        },
    }
}

/// What the API knows of a container: its count, its image, and the probes' results if it is still the same one.
fn remembered(s: &ContainerStatus, runs: impl Fn(&str) -> bool) -> ContainerView {
    let id = s.container_id.as_deref().and_then(|id| id.strip_prefix("coracle://"));
    let mut v = ContainerView {
        restarts: u32::try_from(s.restart_count).unwrap_or(0),
        image_ref: s.image_id.clone(),
        ..ContainerView::default()
    };
    if id.is_some_and(runs) && s.state.as_ref().is_some_and(|state| state.running.is_some()) {
        v.actual.clone_from(&s.resources);
        v.probe.started = s.started == Some(true);
        v.probe.ready = s.ready;
    }
    v
}

/// The attempts of each container, oldest first.
fn by_name(mut records: Vec<ContainerRecord>) -> BTreeMap<String, Vec<ContainerRecord>> {
    records.sort_by_key(|r| r.attempt);
    let mut out: BTreeMap<String, Vec<ContainerRecord>> = BTreeMap::new();
    for record in records {
        out.entry(record.name.clone()).or_default().push(record);
    }
    out
}

/// The object with a status in which our own part is ours, newer than in the watch, and the rest others'.
fn with_own_status(next: &Pod, own: &Pod) -> Pod {
    let mut next = next.clone();
    if let Some(ours) = &own.status {
        next.status = Some(merged(ours.clone(), &next.status.take().unwrap_or_default()));
    }
    next
}
