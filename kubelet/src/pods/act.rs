//! Carrying out a pod's plan: each action starts a job of the worker, or is done at once.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    hooks::{self, Hooked},
    launch::{LaunchInputs, launch},
    naming,
    own_users::COUNTS,
    places::Places,
    plan::Action,
    recorder::container_of,
    set_up::{SetUpError, facts, set_up},
    status::crash_message,
    sweep,
    view::{
        Role, SandboxView, Stopping, TornDown, Waiting, find_container, name_of, namespace_of, spec_of,
        uid_of,
    },
    worker::{Done, Worker},
};
use crate::{
    beneath::off_workers,
    tasks::contained,
    volumes::{self, projection::Inputs},
};

impl Worker {
    pub(super) async fn act(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::SetUp => self.start_set_up(),
            Action::Launch { name, role, attempt } => self.start_launch(name, role, attempt),
            Action::Stop { name, grace, message } => self.begin_stop(name, grace, message, now),
            Action::Signal { name } => self.signal(&name, false).await,
            Action::Kill { name } => self.signal(&name, true).await,
            Action::BackOff { name } => self.tell_back_off(&name),
            Action::Resize => self.actuate(now).await,
            Action::TearDown { to } => self.start_tear_down(to),
            Action::WakeAt(_) => {}
        }
    }

    fn start_set_up(&mut self) {
        self.view.setting_up = true;
        if self.view.sandbox.ips().is_empty() {
            self.view.sandbox = SandboxView::Pending { retry_at: None };
        }
        let (node, pod, wake, tokens) =
            (self.node.clone(), self.pod.clone(), self.wakers.sources.clone(), self.tokens.clone());
        let stop = self.stop.clone();
        let job = async move { Done::SetUp(set_up(&node, &pod, &wake, &tokens, &stop).await) };
        self.start(|why| Done::SetUp(Err(SetUpError::Sandbox(why))), job);
    }

    fn start_launch(&mut self, name: String, role: Role, attempt: u32) {
        let ips = self.view.sandbox.ips().to_vec();
        let v = self.view.containers.entry(name.clone()).or_default();
        let abandoned = v.was_abandoned().then(|| v.current.take()).flatten();
        v.launching = true;
        v.actual = find_container(spec_of(&self.pod), &name).map(|(_, c)| c.resources.unwrap_or_default());
        (v.retry_at, v.pull_failed_at, v.backoff_told) = (None, None, false);
        // Two attempts are kept: the newest and the one before, for `logs --previous`.
        let old = if v.current.is_some() { v.last.take() } else { None };
        let old_files = old.as_ref().map(|r| (r.log_path.clone(), r.attempt));
        let stale: Vec<String> = old.into_iter().chain(abandoned).map(|r| r.id).collect();
        let inputs = LaunchInputs {
            pod: self.pod.clone(),
            name: name.clone(),
            role,
            attempt,
            facts: facts(&self.node, &self.pod, ips),
            volumes: self.volumes.clone(),
            hostname: naming::hostname(&self.pod, &self.node.config.node_name),
            wake: self.wakers.sources.clone(),
            stop: self.stop.clone(),
        };
        let mut hooked = self.hooked(&name, String::new());
        let stop = self.stop.clone();
        let (failed, about, recorder) =
            (name.clone(), container_of(&self.pod, &name), self.node.recorder.clone());
        let panicked = move |why: String| {
            recorder.warning(about, "Failed", format!("Error: {why}"));
            let waiting = Waiting { reason: "CreateContainerError".to_owned(), message: why, image: None };
            Done::Launch { name: failed, result: Err(waiting) }
        };
        self.start(panicked, async move {
            for id in stale {
                if let Err(error) = hooked.node.runtime.remove_container(&id).await {
                    tracing::warn!(%error, id, "old container not removed");
                }
            }
            // A container that is started anew for ever does not leave files for ever.
            if let Some((log, attempt)) = old_files {
                sweep::remove_logs(hooked.node.config.log_dir.clone(), log).await;
                if let (Ok(places), Ok((above, message))) =
                    (hooked.node.places(&hooked.pod), Places::message(&hooked.name, attempt))
                {
                    sweep::remove_logs(places.dir(), above.join(message)).await;
                }
            }
            let result = match launch(&hooked.node, &inputs).await {
                Ok(launched) => {
                    hooked.id.clone_from(&launched.id);
                    // A pod that ends does not wait for the hook.
                    let hook = stop.run_until_cancelled(hooks::post_start(&hooked)).await;
                    hook.unwrap_or(Ok(())).map(|()| launched)
                }
                Err(why) => {
                    // One that has not begun because its pod shall end has not failed.
                    if inputs.attempt == 0 && why.reason != "ContainerCreating" {
                        COUNTS.fail(&inputs.pod);
                    }
                    Err(why)
                }
            };
            Done::Launch { name, result }
        });
    }

    fn begin_stop(&mut self, name: String, grace: i64, message: String, now: Timestamp) {
        let Some(v) = self.view.containers.get_mut(&name) else { return };
        let Some(record) = &v.current else { return };
        self.node.recorder.normal(container_of(&self.pod, &name), "Killing", message);
        let id = record.id.clone();
        v.stopping = Some(Stopping {
            id: id.clone(),
            since: now,
            grace,
            hook_done: false,
            signalled: false,
            killed: false,
        });
        let hooked = self.hooked(&name, id);
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let hook = name.clone();
        self.start(|_| Done::Hook { name: hook }, async move {
            hooks::pre_stop(&hooked, limit).await;
            Done::Hook { name }
        });
    }

    fn hooked(&self, name: &str, id: String) -> Hooked {
        let ip = self.view.sandbox.ips().first().copied();
        Hooked { node: self.node.clone(), pod: self.pod.clone(), name: name.to_owned(), id, ip }
    }

    /// The container's own stop signal: the pod's word, the image's, or SIGTERM.
    async fn signal(&mut self, name: &str, kill: bool) {
        let c = find_container(spec_of(&self.pod), name).map(|(_, c)| c);
        let wanted = c.and_then(|c| c.lifecycle).and_then(|l| l.stop_signal);
        let Some(stop) = self.view.containers.get_mut(name).and_then(|v| v.stopping.as_mut()) else { return };
        stop.signalled = true;
        stop.killed |= kill;
        let runtime = &self.node.runtime;
        let signal = if kill { libc::SIGKILL } else { runtime.stop_signal(&stop.id, wanted.as_deref()) };
        if let Err(error) = runtime.kill_container(&stop.id, signal).await {
            tracing::debug!(%error, id = stop.id, "signal not delivered");
        }
    }

    fn tell_back_off(&mut self, name: &str) {
        let pod = self.pod.clone();
        let about = container_of(&pod, name);
        let Some(v) = self.view.containers.get_mut(name) else { return };
        v.backoff_told = true;
        if v.pull_failed_at.take().is_some() {
            let failed = v.waiting.take();
            let image = failed.as_ref().and_then(|w| w.image.clone()).unwrap_or_default();
            let told = format!("Back-off pulling image {image:?}");
            self.node.recorder.normal(about.clone(), "BackOff", told.clone());
            self.node.recorder.warning(about, "Failed", "Error: ImagePullBackOff");
            let why = failed.map(|w| format!("{told}: {}: {}", w.reason, w.message)).unwrap_or(told);
            let image = Some(image);
            v.waiting = Some(Waiting { reason: "ImagePullBackOff".to_owned(), message: why, image });
        } else {
            v.waiting = None;
            let pod_name = format!("{}_{}({})", name_of(&pod), namespace_of(&pod), uid_of(&pod));
            let told = format!("Back-off restarting failed container {name} in pod {pod_name}");
            tracing::debug!(message = crash_message(&pod, name, v), "container is held back");
            self.node.recorder.warning(about, "BackOff", told);
        }
    }

    fn start_tear_down(&mut self, to: TornDown) {
        self.view.tearing_down = true;
        let (node, pod) = (self.node.clone(), self.pod.clone());
        self.start(move |why| Done::TearDown { to, result: Err(why) }, async move {
            let uid = uid_of(&pod);
            let network = node.network().teardown(uid).await.map_err(|e| e.to_string());
            let containers = match to {
                TornDown::Removed => node.runtime.remove_sandbox(uid).await.map_err(|e| e.to_string()),
                TornDown::Ended => node.runtime.release_users(uid).await.map_err(|e| e.to_string()),
                TornDown::Nothing => Ok(()),
            };
            let volumes = off_workers(move || volumes::empty(&node.places(&pod)?.dir()));
            let volumes = volumes.await.map_err(|e| e.to_string());
            Done::TearDown { to, result: network.and(containers).and(volumes) }
        });
    }

    /// Brings mounted volumes up to date in the background; an unreachable source keeps the old files.
    pub(super) fn refresh(&mut self) {
        if !self.view.mounted || self.view.terminating.is_some() || self.view.over || self.view.tearing_down {
            return;
        }
        if let Some(again) = &mut self.refreshing {
            *again = true;
            return;
        }
        self.refreshing = Some(false);
        let (node, pod) = (self.node.clone(), self.pod.clone());
        let (wake, tokens, stop) = (self.wakers.sources.clone(), self.tokens.clone(), self.stop.clone());
        let facts = facts(&self.node, &self.pod, self.view.sandbox.ips().to_vec());
        self.start(|_| Done::Refreshed, async move {
            let inputs = Inputs {
                client: &node.config.client,
                sources: &node.sources,
                wake: &wake,
                facts: &facts,
                tokens: &tokens,
            };
            if let Ok(places) = node.places(&pod)
                && let Some(Err(error)) =
                    stop.run_until_cancelled(volumes::refresh(&places, &pod, &inputs)).await
            {
                tracing::debug!(%error, "volumes not refreshed");
            }
            Done::Refreshed
        });
    }

    /// Starts a job of the pod. One that panics has failed like any other: `panicked` says how.
    fn start(
        &mut self,
        panicked: impl FnOnce(String) -> Done + Send + 'static,
        job: impl Future<Output = Done> + Send + 'static,
    ) {
        self.jobs.spawn(async move { contained("pod job", job).await.unwrap_or_else(panicked) });
    }

    /// Removes what is left on the node of a pod that is gone.
    pub(super) async fn forget(&mut self) {
        self.jobs.shutdown().await;
        let (node, pod) = (self.node.clone(), self.pod.clone());
        if let Err(error) = off_workers(move || node.places(&pod)?.forget()).await {
            tracing::warn!(%error, uid = uid_of(&self.pod), "logs not removed");
        }
    }
}
