//! The status of a pod, computed from what is known of it. Pure.

use std::net::IpAddr;
use std::time::Duration;

use coracle_api::duration::print_span;
use coracle_api::pod::is_over;
use coracle_api::resources::QosClass;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP,
        PodSpec, PodStatus, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    conditions,
    plan::{has_initialized, init_failed, is_crash_looping, is_finished},
    resources,
    view::{
        ContainerView, PodView, Role, SandboxView, ephemeral_containers, find_container, init_containers,
        name_of, namespace_of, role_of_init, spec_of, uid_of,
    },
};
use crate::cri::{ContainerRecord, ContainerState};

/// The whole status as it should read now; `old` gives what does not change and the transition times.
pub(crate) fn status(pod: &Pod, view: &PodView, host_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let spec = spec_of(pod);
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(spec, view, old.phase.as_deref());
    let (reason, message) = match &view.doomed {
        Some(doom) if is_over(phase) => (Some(doom.reason.clone()), Some(doom.message.clone())),
        // They go with the phase, whoever gave them: also when the doom was forgotten with a former process.
        _ if old.phase.as_deref() == Some(phase) => (old.reason.clone(), old.message.clone()),
        _ => (None, None),
    };
    let statuses = |names: Vec<(&str, Role)>| {
        let status = |(name, role): (&str, Role)| match remembered(&old, name, view, phase) {
            Some(known) => known.clone(),
            None => container_status(pod, name, role, view, phase, now),
        };
        names.into_iter().map(status).collect::<Vec<_>>()
    };
    let init = statuses(init_containers(spec).iter().map(|c| (c.name.as_str(), role_of_init(c))).collect());
    let main = statuses(spec.containers.iter().map(|c| (c.name.as_str(), Role::Main)).collect());
    let ephemeral =
        statuses(ephemeral_containers(spec).iter().map(|c| (c.name.as_str(), Role::Ephemeral)).collect());
    let rejected =
        is_over(phase) && view.containers.values().all(|c| c.current.is_none()) && view.start_time.is_none();
    let ips = pod_ips(spec, view, &old, host_ips, phase);
    PodStatus {
        observed_generation: pod.metadata.generation,
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions::conditions(pod, view, phase, &init, &main, now)),
        host_ip: host_ips.first().map(IpAddr::to_string),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().map(IpAddr::to_string),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: view.start_time.map(Time).or(old.start_time),
        init_container_statuses: (!init.is_empty() && !rejected).then_some(init),
        container_statuses: (!main.is_empty() && !rejected).then_some(main),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        qos_class: Some(QosClass::of_pod(pod).name().to_owned()),
        ..PodStatus::default()
    }
}

/// When the pod began on this node. One that was over before it began was rejected, and never will.
pub(crate) fn begun(old: &PodStatus, now: Timestamp) -> Option<Timestamp> {
    let over = old.phase.as_deref().is_some_and(is_over);
    old.start_time.as_ref().map(|time| time.0).or_else(|| (!over).then_some(now))
}

/// What the API knows of a container that ended, when the node has no record of it any more.
fn remembered<'a>(
    old: &'a PodStatus,
    name: &str,
    view: &PodView,
    phase: &str,
) -> Option<&'a ContainerStatus> {
    let lists = [&old.init_container_statuses, &old.container_statuses, &old.ephemeral_container_statuses];
    let known = lists.into_iter().flatten().flatten().find(|s| s.name == name)?;
    let ended = is_over(phase) && view.container(name).current.is_none();
    (ended && known.container_id.is_some()).then_some(known)
}

fn pod_ips(spec: &PodSpec, view: &PodView, old: &PodStatus, host_ips: &[IpAddr], phase: &str) -> Vec<IpAddr> {
    if let SandboxView::Ready { ips } = &view.sandbox {
        if spec.host_network == Some(true) { host_ips.to_vec() } else { ips.clone() }
    } else if is_over(phase) || view.terminating.is_some() {
        // A pod that has ended keeps the address it had, as a record.
        let parse = |ip: &PodIP| ip.ip.parse().ok();
        old.pod_ips.iter().flatten().filter_map(parse).collect()
    } else {
        Vec::new()
    }
}

pub(crate) fn phase(spec: &PodSpec, view: &PodView, old: Option<&str>) -> &'static str {
    match old {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ => {}
    }
    let all_idle = view.containers.values().all(ContainerView::is_idle);
    if view.doomed.is_some() && all_idle || init_failed(spec, view) && sidecars_idle(spec, view) {
        return "Failed";
    }
    if all_idle && (is_finished(spec, view) || view.terminating.is_some()) {
        return ended_phase(spec, view);
    }
    let started =
        |c: &Container| view.container(&c.name).current.is_some() || view.container(&c.name).restarts > 0;
    let running = spec.containers.iter().any(|c| view.container(&c.name).is_running());
    if has_initialized(spec, view)
        && (running || !spec.containers.is_empty())
        && spec.containers.iter().all(started_or_ran(view, &started))
    {
        "Running"
    } else {
        "Pending"
    }
}

/// A container that could not be made yet (waiting, no last state) keeps the pod Pending.
fn started_or_ran<'a>(
    view: &'a PodView,
    started: &'a dyn Fn(&Container) -> bool,
) -> impl Fn(&Container) -> bool + 'a {
    move |c| {
        let v = view.container(&c.name);
        let created_only = v.last.is_none()
            && v.current.as_ref().is_some_and(|r| matches!(r.state, ContainerState::Created { .. }));
        started(c) && !created_only
    }
}

fn sidecars_idle(spec: &PodSpec, view: &PodView) -> bool {
    init_containers(spec).iter().all(|c| view.container(&c.name).is_idle())
}

fn ended_phase(spec: &PodSpec, view: &PodView) -> &'static str {
    let ok = |c: &Container| view.container(&c.name).exit_code() == Some(0);
    if spec.containers.iter().all(ok) { "Succeeded" } else { "Failed" }
}

fn container_status(
    pod: &Pod,
    name: &str,
    role: Role,
    view: &PodView,
    phase: &str,
    now: Timestamp,
) -> ContainerStatus {
    let spec = spec_of(pod);
    let v = view.container(name);
    let c = find_container(spec, name).map(|(_, c)| c).unwrap_or_default();
    let state = state(pod, &c, role, view, v, phase, now);
    let running = state.running.is_some();
    let waiting = state.waiting.is_some();
    let last = if waiting && v.exit_code().is_some() { v.current.as_ref() } else { v.last.as_ref() };
    let succeeded_init = role == Role::Init && v.exit_code() == Some(0);
    // One that is about to start is told of when it runs, not twice.
    let first = v.launching && v.last.is_none();
    let starting = |r: &&ContainerRecord| first && matches!(r.state, ContainerState::Created { .. });
    let shown = v.current.as_ref().filter(|r| !starting(r));
    let (allocated, resources) = resources::container_status_resources(&c, v.actual.as_ref(), running);
    ContainerStatus {
        name: name.to_owned(),
        image: shown.map_or_else(|| c.image.clone().unwrap_or_default(), |r| r.image.clone()),
        image_id: if v.image_ref.is_empty() {
            shown.map(|r| r.image_id.clone()).unwrap_or_default()
        } else {
            v.image_ref.clone()
        },
        container_id: shown.map(|r| format!("coracle://{}", r.id)),
        ready: if role == Role::Init { succeeded_init } else { running && v.probe.ready },
        started: Some(running && v.probe.started),
        restart_count: i32::try_from(v.restart_count()).unwrap_or(i32::MAX),
        last_state: Some(
            last.and_then(|r| terminated(r, v))
                .map_or_else(ApiState::default, |t| ApiState { terminated: Some(t), ..ApiState::default() }),
        ),
        state: Some(state),
        allocated_resources: allocated,
        resources: Some(resources),
        volume_mounts: volume_mounts(&c),
        user: shown.and_then(|r| r.user.as_ref()).map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: i64::from(user.uid),
                gid: i64::from(user.gid),
                supplemental_groups: Some(user.groups.iter().copied().map(i64::from).collect()),
            }),
        }),
        ..ContainerStatus::default()
    }
}

fn volume_mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = c.volume_mounts.as_ref()?;
    let status = |m: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: (m.read_only == Some(true)).then(|| match m.recursive_read_only.as_deref() {
            Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
            _ => "Disabled".to_owned(),
        }),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(status).collect())
}

fn state(
    pod: &Pod,
    c: &Container,
    role: Role,
    view: &PodView,
    v: &ContainerView,
    phase: &str,
    now: Timestamp,
) -> ApiState {
    let spec = spec_of(pod);
    let over = view.terminating.is_some() || view.doomed.is_some() || is_over(phase);
    if let Some(ContainerRecord { state: ContainerState::Running { started, .. }, .. }) = &v.current {
        let running = ContainerStateRunning { started_at: Some(Time(*started)) };
        return ApiState { running: Some(running), ..ApiState::default() };
    }
    if let Some(w) = v.waiting.as_ref().filter(|_| !over) {
        return waiting(&w.reason, Some(w.message.clone()));
    }
    if v.exit_code().is_some() {
        if !over && !is_finished(spec, view) && is_crash_looping(spec, &c.name, v, now) {
            return waiting("CrashLoopBackOff", Some(crash_message(pod, &c.name, v)));
        }
        let terminated = v.current.as_ref().and_then(|r| terminated(r, v));
        return ApiState { terminated, ..ApiState::default() };
    }
    let init_pending =
        role == Role::Main && !has_initialized(spec, view) && !init_containers(spec).is_empty();
    waiting(
        if init_pending || role == Role::Init && !init_containers(spec).is_empty() {
            "PodInitializing"
        } else {
            "ContainerCreating"
        },
        None,
    )
}

pub(crate) fn crash_message(pod: &Pod, container: &str, v: &ContainerView) -> String {
    let delay = print_span(Duration::from_secs(v.crash.delay.unsigned_abs()));
    format!(
        "back-off {delay} restarting failed container={container} pod={}_{}({})",
        name_of(pod),
        namespace_of(pod),
        uid_of(pod)
    )
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    let waiting =
        ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.filter(|m| !m.is_empty()) };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn terminated(r: &ContainerRecord, v: &ContainerView) -> Option<ContainerStateTerminated> {
    let container_id = Some(format!("coracle://{}", r.id));
    match &r.state {
        ContainerState::Exited { started, finished, code, oom, message, .. } => {
            let file = v.messages.get(&r.id).filter(|m| !m.is_empty()).cloned();
            let reason = match (started, oom, code) {
                (None, _, _) => "StartError",
                (_, true, _) => "OOMKilled",
                (_, _, 0) => "Completed",
                _ => "Error",
            };
            Some(ContainerStateTerminated {
                container_id,
                exit_code: *code,
                reason: Some(reason.to_owned()),
                message: file.or_else(|| Some(message.clone()).filter(|m| !m.is_empty())),
                started_at: Some(Time(started.unwrap_or(Timestamp::UNIX_EPOCH))),
                finished_at: Some(Time(*finished)),
                ..ContainerStateTerminated::default()
            })
        }
        ContainerState::Unknown => Some(ContainerStateTerminated {
            container_id,
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ContainerState::Created { .. } | ContainerState::Running { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_pod_reads_the_same_after_a_restart() {
        let now = Timestamp::UNIX_EPOCH;
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Failed", "reason": "UserNamespaces", "message": "Pod was rejected: no"}}))
        .unwrap();
        let old = pod.status.as_ref().unwrap();
        let view = PodView { start_time: begun(old, now), ..PodView::default() };
        let told = status(&pod, &view, &[], now);
        let words = (told.phase.as_deref(), told.reason.as_deref(), told.message.as_deref());
        assert_eq!(words, (Some("Failed"), Some("UserNamespaces"), Some("Pod was rejected: no")));
        assert_eq!((told.start_time, told.container_statuses), (None, None), "it never began");
        assert_eq!(begun(&PodStatus::default(), now), Some(now));
    }
}
