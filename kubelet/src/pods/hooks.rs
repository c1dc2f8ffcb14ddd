//! Lifecycle hooks: what runs right after a container's start and right before its stop.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, timeout},
};

use super::{
    node_context::NodeContext,
    recorder::{container_reference, pod_reference},
    view::{Role, Waiting, find_container, name_of, namespace_of, spec_of, uid_of},
};
use crate::{
    cri::ContainerState,
    probes::http::{Get, Purpose},
    runtime::Runtime,
};

/// Upstream sets a hook no limit of its own: the pod's end is its end.
const FOREVER: Duration = Duration::from_secs(366 * 24 * 3600);

/// A running container with a hook.
pub(crate) struct Hooked {
    pub(crate) node: Arc<NodeContext>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) ip: Option<IpAddr>,
}

/// Runs the postStart hook, if there is one. When it fails the container is stopped, and the error is its new state.
pub(crate) async fn post_start(h: &Hooked) -> Result<(), Waiting> {
    let Some((_, c)) = find_container(spec_of(&h.pod), &h.name) else { return Ok(()) };
    let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let Err(message) = while_running(h, run(h, &c, hook)).await else { return Ok(()) };
    let about = h.reference();
    h.node.recorder.warning(about.clone(), "FailedPostStartHook", "PostStartHook failed");
    h.node.recorder.normal(about, "Killing", "FailedPostStartHook");
    let grace = spec_of(&h.pod).termination_grace_period_seconds.unwrap_or(30);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let begun = Instant::now();
    pre_stop(h, grace).await;
    // The stop always gets a little time of its own.
    let left = grace.saturating_sub(begun.elapsed()).max(Duration::from_secs(2));
    if let Err(error) = h.node.runtime.stop_container(&h.id, None, left).await {
        tracing::debug!(%error, id = h.id, "container not stopped after its failed hook");
    }
    Err(Waiting { reason: "PostStartHookError".to_owned(), message, image: None })
}

/// Runs the preStop hook, if there is one, for `grace` at most.
pub(crate) async fn pre_stop(h: &Hooked, grace: Duration) {
    let Some((_, c)) = find_container(spec_of(&h.pod), &h.name) else { return };
    let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return };
    if grace.is_zero() {
        return;
    }
    match timeout(grace, while_running(h, run(h, &c, hook))).await {
        Ok(Ok(())) => {}
        Ok(Err(message)) => {
            // The message may hold what the server sent; the event must not show it.
            tracing::debug!(message, "preStop hook failed");
            h.node.recorder.warning(h.reference(), "FailedPreStopHook", "PreStopHook failed");
        }
        Err(_) => tracing::debug!(id = h.id, "preStop hook not completed in grace period"),
    }
}

// === impl Hooked ===

impl Hooked {
    fn reference(&self) -> k8s_openapi::api::core::v1::ObjectReference {
        let list = match find_container(spec_of(&self.pod), &self.name) {
            Some((Role::Init | Role::Sidecar, _)) => "initContainers",
            Some((Role::Main | Role::Ephemeral, _)) | None => "containers",
        };
        container_reference(&self.pod, list, &self.name)
    }
}

/// The hook's result, or an error when the container ends before it.
async fn while_running(h: &Hooked, hook: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::select! {
        biased;
        result = hook => result,
        () = ended(&h.node.runtime, &h.id) => Err("container terminated before its lifecycle hook finished".to_owned()),
    }
}

async fn ended(runtime: &Runtime, id: &str) {
    let mut events = runtime.events();
    loop {
        let runs = runtime.container(id).is_some_and(|c| {
            matches!(c.state, ContainerState::Created { .. } | ContainerState::Running { .. })
        });
        if !runs {
            return;
        }
        // A receiver that lags has missed events, so it looks as well.
        if matches!(events.recv().await, Err(RecvError::Closed)) {
            return;
        }
    }
}

async fn run(h: &Hooked, c: &Container, hook: &LifecycleHandler) -> Result<(), String> {
    let of = format!(
        "for Container {:?} in Pod \"{}_{}({})\" failed - error: ",
        c.name,
        name_of(&h.pod),
        namespace_of(&h.pod),
        uid_of(&h.pod)
    );
    if let Some(action) = &hook.exec {
        let command = action.command.as_deref().unwrap_or_default();
        return exec(h, command).await.map_err(|(why, output)| {
            format!("Exec lifecycle hook ([{}]) {of}{why}, message: {output:?}", command.join(" "))
        });
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let why = match h.ip {
            Some(ip) => Get::new(action, c, ip, Purpose::Lifecycle),
            None => Err("failed to find networking container".to_owned()),
        };
        let result = match why {
            Ok(get) => http_get(h, get).await,
            Err(why) => Err(why),
        };
        return result.map_err(|why| format!("HTTP lifecycle hook ({path}) {of}{why}"));
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // `tcpSocket` is kept in the API only for compatibility; upstream's kubelet fails it too.
    Err("Cannot run handler: invalid handler".to_owned())
}

async fn exec(h: &Hooked, command: &[String]) -> Result<(), (String, String)> {
    match h.node.runtime.exec_sync(&h.id, command, FOREVER).await {
        Ok(done) if done.code == 0 => Ok(()),
        Ok(done) => {
            let output = String::from_utf8_lossy(&done.output).into_owned();
            Err((format!("command '{}' exited with {}: {output}", command.join(" "), done.code), output))
        }
        Err(error) => Err((error.to_string(), String::new())),
    }
}

/// Any reply is a success. A server without TLS is asked once more without it.
async fn http_get(h: &Hooked, get: Get) -> Result<(), String> {
    let deadline = Instant::now() + FOREVER;
    let error = match get.send(deadline).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if error.is_plain_reply() {
        let host = get.authority();
        if get.into_plain().send(deadline).await.is_ok() {
            let message = format!(
                "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
            );
            h.node.recorder.warning(pod_reference(&h.pod), "LifecycleHTTPFallback", message);
            return Ok(());
        }
    }
    Err(error.to_string())
}
