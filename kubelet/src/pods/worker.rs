//! The task of one pod: look, report, plan, act, and wait for the next event.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::{Notify, mpsc, watch}, task::JoinSet};

use super::{
    env::PodFacts,
    launch::{LaunchInputs, Launched, launch},
    naming,
    node_context::NodeContext,
    plan::{Action, next_crash_delay, plan},
    recorder::pod_reference,
    resources, status,
    view::{PodView, SandboxView, Stopping, Terminating, Waiting, find_container, name_of, namespace_of, spec_of, uid_of},
    writer::{Report, write_status},
};
use crate::{
    cri::{ContainerState, SandboxSpec},
    net::{HostPort, Protocol},
    probes::{self, Kind, Target, Verdict},
    volumes::{self, Paths, projection::{Inputs, Tokens}},
};

/// What a background job of the pod brought.
enum Done {
    SetUp(Result<(Vec<std::net::IpAddr>, Paths), String>),
    Launch { name: String, result: Result<Launched, Waiting> },
    Hook { name: String },
    TearDown(Result<(), String>),
}

/// `None` in the channel: the object is gone from the API.
pub(crate) type PodFeed = watch::Receiver<Option<Arc<Pod>>>;

pub(crate) struct Worker {
    node: Arc<NodeContext>,
    pod: Arc<Pod>,
    view: PodView,
    volumes: Paths,
    tokens: Arc<Tokens>,
    wake: Arc<Notify>,
    jobs: JoinSet<Done>,
    tearing_down: bool,
    finished: bool,
    set_up_failures: u32,
    pull_failures: BTreeMap<String, u32>,
    /// The probe tasks by container id; dropping a set ends them.
    probes: BTreeMap<String, JoinSet<()>>,
    verdicts: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
}

/// Runs until the pod is gone from the API and from the node.
pub(crate) async fn run(node: Arc<NodeContext>, pod: Arc<Pod>, mut feed: PodFeed, wake: Arc<Notify>) {
    let (reports, receiver) = watch::channel(None);
    let writer = tokio::spawn(write_status(node.config.client.clone(), pod.clone(), receiver));
    let mut worker = Worker::new(node, pod, wake);
    let mut deleted = false;
    loop {
        let now = Timestamp::now();
        worker.observe(now, deleted);
        let status = status::status(&worker.pod, &worker.view, &worker.node.host_ips(), now);
        let phase_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let finished = worker.finished && worker.view.terminating.is_some();
        let mut known = (*worker.pod).clone();
        known.status = Some(status.clone());
        worker.pod = Arc::new(known);
        reports.send_replace(Some(Report { status, finished }));
        if deleted && worker.finished {
            break;
        }
        let mut wake_at = worker.tokens.next_renewal();
        if !(phase_over && worker.finished) {
            for action in plan(spec_of(&worker.pod), &worker.view, now) {
                if let Action::WakeAt(at) = action {
                    wake_at = Some(wake_at.map_or(at, |w| w.min(at)));
                } else {
                    worker.act(action, now).await;
                }
            }
        }
        deleted |= worker.wait(&mut feed, wake_at, now).await;
    }
    writer.abort();
    worker.forget().await;
}

impl Worker {
    fn new(node: Arc<NodeContext>, pod: Arc<Pod>, wake: Arc<Notify>) -> Self {
        let mut view = PodView::default();
        let old = pod.status.clone().unwrap_or_default();
        view.start_time = Some(old.start_time.map_or_else(Timestamp::now, |t| t.0));
        let statuses = old.init_container_statuses.into_iter().chain(old.container_statuses).chain(old.ephemeral_container_statuses);
        for s in statuses.flatten() {
            let c = view.containers.entry(s.name).or_default();
            c.restarts = u32::try_from(s.restart_count).unwrap_or(0);
            c.image_ref = s.image_id;
        }
        Self {
            node, pod, view, wake,
            volumes: Paths::new(),
            tokens: Arc::default(),
            jobs: JoinSet::new(),
            tearing_down: false,
            finished: false,
            set_up_failures: 0,
            pull_failures: BTreeMap::new(),
            probes: BTreeMap::new(),
            verdicts: mpsc::channel(64),
        }
    }

    /// Brings the view up to date with the runtime, which is the truth.
    fn observe(&mut self, now: Timestamp, deleted: bool) {
        let uid = uid_of(&self.pod).to_owned();
        let mut records: Vec<_> = self.node.runtime.containers().into_iter().filter(|r| r.pod_uid == uid).collect();
        records.sort_by_key(|r| r.attempt);
        for record in records {
            let v = self.view.containers.entry(record.name.clone()).or_default();
            match &v.current {
                Some(c) if c.id == record.id => v.current = Some(record),
                Some(c) if c.attempt > record.attempt => v.last = Some(record),
                _ => v.last = v.current.replace(record),
            }
        }
        let spec = spec_of(&self.pod).clone();
        for (name, v) in &mut self.view.containers {
            let Some(record) = v.current.clone() else { continue };
            if let ContainerState::Exited { started, finished, .. } = &record.state {
                if !v.messages.contains_key(&record.id) {
                    let c = find_container(&spec, name).map(|(_, c)| c).unwrap_or_default();
                    let fallback = c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
                    let path = self.node.message_file(&self.pod, name, record.attempt);
                    let message = termination_message(&path, &record.log_path, fallback && v.exit_code() != Some(0));
                    v.messages.insert(record.id.clone(), message);
                    let ran = started.map_or(0, |s| finished.duration_since(s).as_secs());
                    // The first restart is immediate, the following are held back.
                    v.crash_delay = if record.attempt == 0 { Some(0) } else { Some(next_crash_delay(v.crash_delay.filter(|d| *d > 0), ran)) };
                }
                (v.stopping, v.condemned, v.probe) = (None, None, Default::default());
            } else if v.is_running() {
                let c = find_container(&spec, name).map(|(_, c)| c).unwrap_or_default();
                v.probe.started |= c.startup_probe.is_none();
                v.probe.ready |= v.probe.started && c.readiness_probe.is_none();
            }
            let last_id = v.last.as_ref().map(|l| l.id.clone());
            v.messages.retain(|id, _| *id == record.id || Some(id) == last_id.as_ref());
        }
        self.start_probes();
        self.observe_end(now, deleted);
    }

    /// Starts the probes that are due for running containers and ends those of others.
    fn start_probes(&mut self) {
        let SandboxView::Ready { ips } = &self.view.sandbox else { return };
        let Some(ip) = ips.first().copied() else { return };
        let running: BTreeMap<String, (String, bool)> = self.view.containers.iter().filter(|(_, v)| v.is_running() && v.stopping.is_none())
            .filter_map(|(name, v)| Some((v.current.as_ref()?.id.clone(), (name.clone(), v.probe.started)))).collect();
        self.probes.retain(|key, _| running.contains_key(key.trim_end_matches("/started")));
        for (id, (name, started)) in running {
            let key = if started { format!("{id}/started") } else { id.clone() };
            let Some((_, c)) = find_container(spec_of(&self.pod), &name).filter(|_| !self.probes.contains_key(&key)) else { continue };
            let due = if started { vec![(Kind::Liveness, c.liveness_probe.clone()), (Kind::Readiness, c.readiness_probe.clone())] } else { vec![(Kind::Startup, c.startup_probe.clone())] };
            let mut set = JoinSet::new();
            for (kind, probe) in due {
                let Some(probe) = probe else { continue };
                let target = Target { runtime: self.node.runtime.clone(), container: c.clone(), id: id.clone(), ip };
                set.spawn(probes::run(target, kind, probe, self.verdicts.0.clone()));
            }
            self.probes.insert(key, set);
        }
    }

    fn judge(&mut self, verdict: Verdict) {
        let (word, lower) = match verdict.kind {
            Kind::Startup => ("Startup", "startup"),
            Kind::Liveness => ("Liveness", "liveness"),
            Kind::Readiness => ("Readiness", "readiness"),
        };
        let about = super::recorder::container_reference(&self.pod, "containers", &verdict.container);
        if !verdict.ok {
            self.node.recorder.warning(about, "Unhealthy", format!("{word} probe failed: {}", verdict.message));
        }
        let Some(v) = self.view.containers.get_mut(&verdict.container) else { return };
        if !verdict.settled || v.current.as_ref().is_none_or(|c| c.id != verdict.id) {
            return;
        }
        match (verdict.kind, verdict.ok) {
            (Kind::Readiness, ok) => v.probe.ready = ok,
            (Kind::Startup, true) => v.probe.started = true,
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => {
                let message = format!("Container {} failed {lower} probe, will be restarted", verdict.container);
                v.condemned = Some(super::view::Condemned { message, grace: verdict.grace });
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
        let deadline = spec_of(&self.pod).active_deadline_seconds.zip(self.view.start_time);
        if let Some((seconds, start)) = deadline.filter(|_| self.view.doomed.is_none() && !self.finished) {
            if now >= start + SignedDuration::from_secs(seconds) {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.node.recorder.normal(pod_reference(&self.pod), "DeadlineExceeded", message.clone());
                self.view.doomed = Some(super::view::Doom { reason: "DeadlineExceeded".to_owned(), message });
            }
        }
    }

    async fn act(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::SetUp => {
                self.view.sandbox = SandboxView::Pending { retry_at: None };
                let (node, pod, wake, tokens) = (self.node.clone(), self.pod.clone(), self.wake.clone(), self.tokens.clone());
                self.jobs.spawn(async move { Done::SetUp(set_up(&node, &pod, &wake, &tokens).await) });
            }
            Action::Launch { name, role, attempt } => self.start_launch(name, role, attempt),
            Action::Stop { name, grace, message } => self.begin_stop(name, grace, message, now),
            Action::Signal { name } => self.signal(&name, None).await,
            Action::Kill { name } => self.signal(&name, Some(libc::SIGKILL)).await,
            Action::TearDown if !self.tearing_down => {
                self.tearing_down = true;
                let (node, uid) = (self.node.clone(), uid_of(&self.pod).to_owned());
                self.jobs.spawn(async move { Done::TearDown(node.network.teardown(&uid).await.map_err(|e| e.to_string())) });
            }
            Action::TearDown | Action::WakeAt(_) => {}
        }
    }

    fn start_launch(&mut self, name: String, role: super::view::Role, attempt: u32) {
        let ips = match &self.view.sandbox {
            SandboxView::Ready { ips } => ips.clone(),
            SandboxView::Absent | SandboxView::Pending { .. } => Vec::new(),
        };
        let v = self.view.containers.entry(name.clone()).or_default();
        v.launching = true;
        // Two attempts are kept: the newest and the one before, for `logs --previous`.
        if let Some(old) = v.last.take() {
            let runtime = self.node.runtime.clone();
            tokio::spawn(async move {
                if let Err(error) = runtime.remove_container(&old.id).await {
                    tracing::warn!(%error, id = old.id, "old container not removed");
                }
            });
        }
        let inputs = LaunchInputs {
            pod: self.pod.clone(),
            name: name.clone(),
            role,
            attempt,
            facts: facts(&self.node, &self.pod, ips),
            volumes: self.volumes.clone(),
            hostname: naming::hostname(&self.pod, &self.node.config.node_name),
            wake: self.wake.clone(),
        };
        let node = self.node.clone();
        self.jobs.spawn(async move { let result = launch(&node, &inputs).await; Done::Launch { name, result } });
    }

    fn begin_stop(&mut self, name: String, grace: i64, message: String, now: Timestamp) {
        let Some(v) = self.view.containers.get_mut(&name) else { return };
        let Some(record) = &v.current else { return };
        self.node.recorder.normal(super::recorder::container_reference(&self.pod, "containers", &name), "Killing", message);
        v.stopping = Some(Stopping { id: record.id.clone(), since: now, grace, hook_done: false, signalled: false, killed: false });
        let hook = find_container(spec_of(&self.pod), &name).and_then(|(_, c)| c.lifecycle).and_then(|l| l.pre_stop);
        let (runtime, id) = (self.node.runtime.clone(), record.id.clone());
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(1));
        self.jobs.spawn(async move {
            if let Some(exec) = hook.as_ref().and_then(|h| h.exec.as_ref()) {
                if let Err(error) = runtime.exec_sync(&id, exec.command.as_deref().unwrap_or_default(), limit).await {
                    tracing::debug!(%error, "preStop hook failed");
                }
            } else if let Some(sleep) = hook.as_ref().and_then(|h| h.sleep.as_ref()) {
                tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(limit)).await;
            }
            Done::Hook { name }
        });
    }

    async fn signal(&mut self, name: &str, signal: Option<i32>) {
        let Some(stop) = self.view.containers.get_mut(name).and_then(|v| v.stopping.as_mut()) else { return };
        stop.signalled = true;
        stop.killed |= signal.is_some();
        let signal = signal.unwrap_or(libc::SIGTERM);
        if let Err(error) = self.node.runtime.kill_container(&stop.id, signal).await {
            tracing::debug!(%error, id = stop.id, "signal not delivered");
        }
    }

    /// Waits for anything to happen; true when the object is gone from the API.
    async fn wait(&mut self, feed: &mut PodFeed, wake_at: Option<Timestamp>, now: Timestamp) -> bool {
        let pause = wake_at.map_or(Duration::from_secs(3600), |at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        let mut gone = false;
        tokio::select! {
            changed = feed.changed() => {
                match (changed, feed.borrow_and_update().clone()) {
                    (Ok(()), Some(pod)) => {
                        let mut next = (*pod).clone();
                        // Others' conditions are theirs; our own status is newer here than in the watch.
                        let gates = next.status.take().and_then(|s| s.conditions);
                        next.status.clone_from(&self.pod.status);
                        if let (Some(status), Some(gates)) = (&mut next.status, gates) {
                            let own = status.conditions.get_or_insert_default();
                            own.extend(gates.into_iter().filter(|g| !super::conditions::is_own(&g.type_)));
                        }
                        self.pod = Arc::new(next);
                    }
                    _ => gone = true,
                }
                self.refresh().await;
            }
            () = self.wake.notified() => self.refresh().await,
            Some(verdict) = self.verdicts.1.recv() => self.judge(verdict),
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                if let Ok(done) = done { self.take(done) }
            }
            () = tokio::time::sleep(pause) => self.refresh().await,
        }
        if gone { tokio::time::sleep(Duration::from_millis(1)).await; }
        gone
    }

    /// Brings mounted volumes up to date; an unreachable source keeps the old files.
    async fn refresh(&mut self) {
        let SandboxView::Ready { ips } = &self.view.sandbox else { return };
        if self.view.terminating.is_some() || self.tearing_down {
            return;
        }
        let facts = facts(&self.node, &self.pod, ips.clone());
        let inputs = Inputs { client: &self.node.config.client, sources: &self.node.sources, wake: &self.wake, facts: &facts, tokens: &self.tokens };
        if let Err(error) = volumes::mount_all(&self.node.pod_dir(&self.pod), &self.pod, &inputs).await {
            tracing::debug!(%error, "volumes not refreshed");
        }
    }

    fn take(&mut self, done: Done) {
        let now = Timestamp::now();
        match done {
            Done::SetUp(Ok((ips, paths))) => {
                self.volumes = paths;
                self.view.sandbox = SandboxView::Ready { ips };
            }
            Done::SetUp(Err(message)) => {
                self.set_up_failures += 1;
                let reason = if message.starts_with("MountVolume") { "FailedMount" } else { "FailedCreatePodSandBox" };
                self.node.recorder.warning(pod_reference(&self.pod), reason, message);
                let delay = (1_i64 << self.set_up_failures.min(7)) / 2;
                self.view.sandbox = SandboxView::Pending { retry_at: Some(now + SignedDuration::from_secs(delay)) };
            }
            Done::Launch { name, result } => {
                let v = self.view.containers.entry(name.clone()).or_default();
                v.launching = false;
                match result {
                    Ok(launched) => {
                        (v.waiting, v.retry_at, v.image_ref) = (None, None, launched.image_ref);
                        self.pull_failures.remove(&name);
                    }
                    Err(why) => {
                        let failures = self.pull_failures.entry(name).or_default();
                        *failures += 1;
                        let delay = (10_i64 << (*failures - 1).min(5)).min(300);
                        v.retry_at = Some(now + SignedDuration::from_secs(delay));
                        v.waiting = Some(why);
                    }
                }
            }
            Done::Hook { name } => {
                if let Some(stop) = self.view.containers.get_mut(&name).and_then(|v| v.stopping.as_mut()) {
                    stop.hook_done = true;
                }
            }
            Done::TearDown(result) => {
                if let Err(error) = result {
                    tracing::warn!(%error, pod = name_of(&self.pod), "network not taken down");
                }
                self.view.sandbox = SandboxView::Absent;
                self.finished = true;
            }
        }
    }

    /// Removes what is left on the node of a pod that is gone.
    async fn forget(&mut self) {
        self.jobs.shutdown().await;
        let uid = uid_of(&self.pod).to_owned();
        for record in self.node.runtime.containers().into_iter().filter(|r| r.pod_uid == uid) {
            if let Err(error) = self.node.runtime.remove_container(&record.id).await {
                tracing::warn!(%error, id = record.id, "container not removed");
            }
        }
        if let Err(error) = self.node.runtime.remove_sandbox(&uid).await {
            tracing::debug!(%error, uid, "sandbox not removed");
        }
        if let Err(error) = volumes::clean_up(&self.node.pod_dir(&self.pod)) {
            tracing::warn!(%error, uid, "pod directory not removed");
        }
        if let Err(error) = fs::remove_dir_all(self.node.pod_log_dir(&self.pod)) {
            tracing::debug!(%error, uid, "log directory not removed");
        }
    }
}

fn facts(node: &NodeContext, pod: &Pod, ips: Vec<std::net::IpAddr>) -> PodFacts {
    let pod_ips = if spec_of(pod).host_network == Some(true) { node.host_ips() } else { ips };
    PodFacts { pod_ips, host_ips: node.host_ips(), cpu_milli: node.capacity.cpus * 1000, memory: node.capacity.memory, ephemeral_storage: node.capacity.storage }
}

async fn set_up(node: &NodeContext, pod: &Arc<Pod>, wake: &Arc<Notify>, tokens: &Tokens) -> Result<(Vec<std::net::IpAddr>, Paths), String> {
    let spec = spec_of(pod);
    let dir = node.pod_dir(pod);
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let config = &node.config;
    let hostname = naming::kernel_hostname(pod, &config.node_name, &config.cluster_domain)?;
    let sandbox = SandboxSpec {
        pod_uid: uid_of(pod).to_owned(),
        namespace: namespace_of(pod).to_owned(),
        name: name_of(pod).to_owned(),
        hostname,
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        sysctls: spec.security_context.iter().filter_map(|s| s.sysctls.as_ref()).flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        resources: resources::pod_resources(spec),
        qos: resources::qos(spec),
    };
    let made = node.runtime.create_sandbox(&sandbox).await.map_err(|e| format!("Failed to create pod sandbox: {e}"))?;
    let ips = match &made.netns {
        Some(netns) => {
            let address = node.network.setup(uid_of(pod), netns, &host_ports(pod)).await;
            vec![address.map_err(|e| format!("Failed to create pod sandbox: {e}"))?.ip.into()]
        }
        None => node.host_ips(),
    };
    let facts = facts(node, pod, ips.clone());
    let inputs = Inputs { client: &config.client, sources: &node.sources, wake, facts: &facts, tokens };
    let paths = volumes::mount_all(&dir, pod, &inputs).await.map_err(|e| e.to_string())?;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hosts = naming::hosts_file(pod, &ips, &config.node_name, &config.cluster_domain, &read("/etc/hosts"));
    fs::write(dir.join("etc-hosts"), hosts).map_err(|e| e.to_string())?;
    let resolv = naming::resolv_conf(spec, namespace_of(pod), config.cluster_dns, &config.cluster_domain, &read("/etc/resolv.conf"));
    fs::write(dir.join("resolv.conf"), resolv).map_err(|e| e.to_string())?;
    Ok((ips, paths))
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = spec_of(pod);
    let ports = spec.init_containers.iter().flatten().chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
    let port = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(HostPort {
            host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &std::net::Ipv4Addr| !ip.is_unspecified()),
            host_port: u16::try_from(p.host_port?).ok().filter(|p| *p > 0)?,
            container_port: u16::try_from(p.container_port).ok()?,
            protocol: Protocol::parse(p.protocol.as_deref().unwrap_or_default())?,
        })
    };
    ports.filter_map(port).collect()
}

/// The file's first 4 KiB, or the log's last 2 KiB.
fn termination_message(file: &PathBuf, log: &PathBuf, fallback: bool) -> String {
    let mut data = fs::read(file).unwrap_or_default();
    data.truncate(4096);
    if data.is_empty() && fallback {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(80).map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default()).collect();
        let mut all = lines.into_iter().rev().map(|l| format!("{l}\n")).collect::<String>().into_bytes();
        data = all.split_off(all.len().saturating_sub(2048));
    }
    String::from_utf8_lossy(&data).into_owned()
}
