//! The conditions of a pod, in upstream's words. Pure.

use coracle_api::pod::is_over;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::view::{PodView, Role, SandboxView, init_containers, role_of_init, spec_of};

/// One condition before it is compared with the old one.
struct Draft {
    kind: &'static str,
    reason: Option<&'static str>,
    message: Option<String>,
    met: bool,
}

fn met(kind: &'static str) -> Draft {
    Draft { kind, met: true, reason: None, message: None }
}

fn unmet(kind: &'static str, reason: &'static str, message: Option<String>) -> Draft {
    Draft { kind, met: false, reason: Some(reason), message }
}

pub(crate) fn conditions(
    pod: &Pod,
    view: &PodView,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let sandbox_ready = matches!(view.sandbox, SandboxView::Ready { .. });
    let network = if sandbox_ready {
        met("PodReadyToStartContainers")
    } else {
        Draft { kind: "PodReadyToStartContainers", met: false, reason: None, message: None }
    };
    let containers = containers_ready("ContainersReady", pod, phase, init, main);
    let ready = ready(pod, phase, init, main, containers.met);
    let drafts = [network, initialized(pod, phase, init, main), ready, containers, met("PodScheduled")];
    let old = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let finish = |draft: Draft| finish(draft, old, pod.metadata.generation, now);
    let mut conditions: Vec<PodCondition> = drafts.into_iter().map(finish).collect();
    conditions.extend(resize_conditions(view, phase));
    if let Some(doom) = view.doomed.as_ref().filter(|d| d.disruption && is_over(phase)) {
        let draft = Draft {
            kind: "DisruptionTarget",
            met: true,
            reason: Some("TerminationByKubelet"),
            message: Some(doom.message.clone()),
        };
        conditions.push(self::finish(draft, old, pod.metadata.generation, now));
    }
    conditions
}

/// The conditions of a resize, which a pod has only while it goes on.
pub(crate) const OF_RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

fn resize_conditions(view: &PodView, phase: &str) -> Vec<PodCondition> {
    let condition =
        |kind: &str, reason: Option<&str>, message: Option<&String>, generation, since| PodCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message: message.cloned(),
            last_probe_time: Some(whole_second(since)),
            last_transition_time: Some(whole_second(since)),
            observed_generation: generation,
        };
    if is_over(phase) {
        return Vec::new();
    }
    let [pending, progress] = OF_RESIZE;
    let pending = view
        .pending
        .iter()
        .map(|p| condition(pending, Some(p.reason), Some(&p.message), p.generation, p.since));
    let progress = view.progress.iter().map(|p| {
        let reason = p.error.is_some().then_some("Error");
        condition(progress, reason, p.error.as_ref(), p.generation, p.since)
    });
    pending.chain(progress).collect()
}

fn finish(draft: Draft, old: &[PodCondition], generation: Option<i64>, now: Timestamp) -> PodCondition {
    let status = if draft.met { "True" } else { "False" };
    let since = old
        .iter()
        .find(|c| c.type_ == draft.kind && c.status == status)
        .and_then(|c| c.last_transition_time.clone())
        .unwrap_or_else(|| whole_second(now));
    PodCondition {
        type_: draft.kind.to_owned(),
        status: status.to_owned(),
        reason: draft.reason.map(str::to_owned),
        message: draft.message,
        last_transition_time: Some(since),
        observed_generation: generation,
        ..PodCondition::default()
    }
}

/// metav1.Time has whole seconds.
pub(crate) fn whole_second(at: Timestamp) -> Time {
    Time(coracle_api::time::whole_second(at))
}

fn initialized(pod: &Pod, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Draft {
    let spec = spec_of(pod);
    if phase == "Succeeded" {
        return Draft { kind: "Initialized", met: true, reason: Some("PodCompleted"), message: None };
    }
    let ran = main.iter().any(|s| {
        let state = s.state.as_ref();
        state.is_some_and(|s| s.running.is_some() || s.terminated.is_some()) || s.restart_count > 0
    });
    let incomplete: Vec<&str> = init_containers(spec)
        .iter()
        .zip(init)
        .filter(|(c, s)| match role_of_init(c) {
            Role::Sidecar => s.started != Some(true),
            Role::Init | Role::Main | Role::Ephemeral => !s.ready,
        })
        .map(|(c, _)| c.name.as_str())
        .collect();
    if incomplete.is_empty() || ran {
        met("Initialized")
    } else {
        unmet(
            "Initialized",
            "ContainersNotInitialized",
            Some(format!("containers with incomplete status: {}", list(&incomplete))),
        )
    }
}

fn containers_ready(
    kind: &'static str,
    pod: &Pod,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Draft {
    if phase == "Succeeded" {
        return unmet(kind, "PodCompleted", None);
    }
    let sidecars =
        init_containers(spec_of(pod)).iter().zip(init).filter(|(c, _)| role_of_init(c) == Role::Sidecar);
    let unready: Vec<&str> =
        sidecars.map(|(_, s)| s).chain(main).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if phase == "Failed" {
        return unmet(kind, "PodFailed", None);
    }
    if unready.is_empty() {
        met(kind)
    } else {
        unmet(kind, "ContainersNotReady", Some(format!("containers with unready status: {}", list(&unready))))
    }
}

fn ready(
    pod: &Pod,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    containers: bool,
) -> Draft {
    if !containers {
        return containers_ready("Ready", pod, phase, init, main);
    }
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let gates = spec_of(pod).readiness_gates.as_deref().unwrap_or_default();
    let unmet_gates: Vec<String> = gates
        .iter()
        .filter_map(|gate| match conditions.iter().find(|c| c.type_ == gate.condition_type) {
            None => Some(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => Some(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => None,
        })
        .collect();
    if unmet_gates.is_empty() {
        met("Ready")
    } else {
        unmet("Ready", "ReadinessGatesNotReady", Some(unmet_gates.join(", ")))
    }
}

/// Go's `%s` of a slice of strings.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}
