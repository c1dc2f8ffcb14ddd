//! The heart of the kubelet: what to do next for a pod, given what it should be and what it is. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::resize;
use super::view::{
    ContainerView, PodView, Role, SandboxView, TornDown, ephemeral_containers, find_container,
    init_containers, role_of_init,
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Mount the volumes, make the sandbox and its network.
    SetUp,
    Launch {
        name: String,
        role: Role,
        attempt: u32,
    },
    /// Begin to stop a running container: event, preStop hook, then the signal.
    Stop {
        name: String,
        grace: i64,
        message: String,
    },
    /// The hook is over: send the stop signal.
    Signal {
        name: String,
    },
    /// The grace period is over: SIGKILL.
    Kill {
        name: String,
    },
    /// A back-off has begun: tell it once.
    BackOff {
        name: String,
    },
    /// Bring the cgroups to what was granted.
    Resize,
    /// Nothing runs and nothing will: unmount and give the address back, or remove the containers too.
    TearDown {
        to: TornDown,
    },
    /// Look again at this moment.
    WakeAt(Timestamp),
}

/// A failed pull is shown as such for a moment, then as a back-off.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);

/// Whether a container that ended with `code` is to run again.
pub(crate) fn restarts(spec: &PodSpec, role: Role, c: &Container, code: i32) -> bool {
    if role == Role::Ephemeral {
        return false;
    }
    let in_rule = |rule: &k8s_openapi::api::core::v1::ContainerRestartRule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
            if codes.operator == "NotIn" { !listed } else { listed }
        })
    };
    if c.restart_policy_rules.as_deref().unwrap_or_default().iter().any(in_rule) {
        return true;
    }
    let policy = match (c.restart_policy.as_deref(), role) {
        (Some(own), _) => own,
        // A failed init container is tried again under OnFailure and Always, never after success.
        (None, Role::Init) if spec.restart_policy.as_deref() != Some("Never") => "OnFailure",
        (None, _) => spec.restart_policy.as_deref().unwrap_or("Always"),
    };
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => role != Role::Init || code != 0,
    }
}

/// Everything to do now. The caller carries it out and asks again when something has changed.
pub(crate) fn plan(spec: &PodSpec, view: &PodView, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if view.terminating.is_some() || view.doomed.is_some() || view.over {
        wind_down(spec, view, now, &mut actions);
    } else if is_finished(spec, view) {
        // Sidecars end with the last main container.
        wind_down(spec, view, now, &mut actions);
    } else {
        bring_up(spec, view, now, &mut actions);
    }
    actions
}

/// All main containers ended for good, or an init container did so in failure.
pub(crate) fn is_finished(spec: &PodSpec, view: &PodView) -> bool {
    init_failed(spec, view)
        || (!spec.containers.is_empty()
            && spec.containers.iter().all(|c| ended_for_good(spec, Role::Main, c, view.container(&c.name))))
}

pub(crate) fn init_failed(spec: &PodSpec, view: &PodView) -> bool {
    init_containers(spec).iter().filter(|c| role_of_init(c) == Role::Init).any(|c| {
        let v = view.container(&c.name);
        v.exit_code().is_some_and(|code| code != 0) && ended_for_good(spec, Role::Init, c, v)
    })
}

pub(crate) fn ended_for_good(spec: &PodSpec, role: Role, c: &Container, v: &ContainerView) -> bool {
    !v.launching && !v.is_renewing() && v.exit_code().is_some_and(|code| !restarts(spec, role, c, code))
}

fn bring_up(spec: &PodSpec, view: &PodView, now: Timestamp, actions: &mut Vec<Action>) {
    match &view.sandbox {
        _ if view.setting_up => return,
        SandboxView::Ready { .. } if view.mounted => {}
        SandboxView::Pending { retry_at: Some(at) } if *at > now => return actions.push(Action::WakeAt(*at)),
        SandboxView::Absent | SandboxView::Pending { .. } | SandboxView::Ready { .. } => {
            return actions.push(Action::SetUp);
        }
    }
    tell_back_offs(spec, view, now, actions);
    stop_condemned(spec, view, now, actions);
    match resize::actuate_at(spec, view) {
        Some(at) if at > now => actions.push(Action::WakeAt(at)),
        Some(_) => actions.push(Action::Resize),
        None => {}
    }
    // One launch at a time keeps the spec's order: a postStart hook holds back the containers after it.
    if view.containers.values().any(|c| c.launching) {
        return;
    }
    let mut launched = false;
    if !bring_up_init(spec, view, now, actions, &mut launched) {
        return;
    }
    for c in &spec.containers {
        launch_if_due(spec, Role::Main, c, view.container(&c.name), now, actions, &mut launched);
    }
    for c in ephemeral_containers(spec) {
        let v = view.container(&c.name);
        if (v.current.is_none() || v.was_abandoned()) && due(v, now, actions) && !launched {
            launched = true;
            actions.push(Action::Launch { name: c.name.clone(), role: Role::Ephemeral, attempt: 0 });
        }
    }
}

/// Walks the init containers in order; true when the main containers may start.
fn bring_up_init(
    spec: &PodSpec,
    view: &PodView,
    now: Timestamp,
    actions: &mut Vec<Action>,
    launched: &mut bool,
) -> bool {
    let initialized = has_initialized(spec, view);
    for c in init_containers(spec) {
        let v = view.container(&c.name);
        let role = role_of_init(c);
        if role == Role::Init && (initialized || v.exit_code() == Some(0)) {
            continue;
        }
        launch_if_due(spec, role, c, v, now, actions, launched);
        let passed = role == Role::Sidecar && v.is_running() && v.probe.started;
        if !initialized && !passed {
            return false;
        }
    }
    true
}

/// Main containers were reached once: init containers are not run again.
pub(crate) fn has_initialized(spec: &PodSpec, view: &PodView) -> bool {
    spec.containers.iter().any(|c| {
        let v = view.container(&c.name);
        v.current.is_some() || v.restarts > 0 || v.launching
    })
}

fn launch_if_due(
    spec: &PodSpec,
    role: Role,
    c: &Container,
    v: &ContainerView,
    now: Timestamp,
    actions: &mut Vec<Action>,
    launched: &mut bool,
) {
    if !v.is_idle() {
        return;
    }
    let attempt = match (&v.current, v.exit_code()) {
        (Some(record), Some(code)) => {
            if !v.is_renewing() && !restarts(spec, role, c, code) {
                return;
            }
            record.attempt.max(v.restarts) + 1
        }
        (Some(record), None) => record.attempt,
        (None, _) => v.restarts,
    };
    if due(v, now, actions) && !*launched {
        *launched = true;
        actions.push(Action::Launch { name: c.name.clone(), role, attempt });
    }
}

/// Whether no back-off holds the container back; else asks for a wake-up at its end.
fn due(v: &ContainerView, now: Timestamp, actions: &mut Vec<Action>) -> bool {
    match launch_not_before(v) {
        Some(at) if at > now => {
            actions.push(Action::WakeAt(at));
            false
        }
        Some(_) | None => true,
    }
}

/// The end of the back-off: of a failed launch or of a crash, whichever is later.
pub(crate) fn launch_not_before(v: &ContainerView) -> Option<Timestamp> {
    let crashed = v.finished_at().filter(|_| !v.is_renewing());
    crashed.and(v.crash.until).max(v.retry_at)
}

/// Containers that wait and were not yet said to.
fn tell_back_offs(spec: &PodSpec, view: &PodView, now: Timestamp, actions: &mut Vec<Action>) {
    for (name, v) in view.containers.iter().filter(|(_, v)| v.is_idle() && !v.backoff_told) {
        let held = launch_not_before(v).is_some_and(|at| at > now);
        if let Some(shown) = v.pull_failed_at.filter(|_| held).map(|at| at + PULL_ERROR_SHOWN) {
            actions.push(if now < shown {
                Action::WakeAt(shown)
            } else {
                Action::BackOff { name: name.clone() }
            });
        } else if is_crash_looping(spec, name, v, now) {
            actions.push(Action::BackOff { name: name.clone() });
        }
    }
}

/// Whether a container that ended waits out its back-off before the next start.
pub(crate) fn is_crash_looping(spec: &PodSpec, name: &str, v: &ContainerView, now: Timestamp) -> bool {
    let held = launch_not_before(v).is_some_and(|at| at > now);
    let again = |code| find_container(spec, name).is_some_and(|(role, c)| restarts(spec, role, &c, code));
    held && v.exit_code().is_some_and(again)
}

fn stop_condemned(spec: &PodSpec, view: &PodView, now: Timestamp, actions: &mut Vec<Action>) {
    let pod_grace = spec.termination_grace_period_seconds.unwrap_or(30);
    for (name, v) in view.containers.iter().filter(|(_, v)| v.is_running()) {
        match (&v.stopping, &v.condemned) {
            (None, Some(why)) => actions.push(Action::Stop {
                name: name.clone(),
                grace: why.grace.unwrap_or(pod_grace),
                message: why.message.clone(),
            }),
            (Some(_), _) => press_on(name, v, None, now, actions),
            (None, None) if v.is_renewing() => actions.push(Action::Stop {
                name: name.clone(),
                grace: pod_grace,
                message: format!("Container {name} resize requires restart"),
            }),
            (None, None) => {}
        }
    }
}

/// Stops main and ephemeral containers together, then sidecars in reverse order, then takes the sandbox down.
fn wind_down(spec: &PodSpec, view: &PodView, now: Timestamp, actions: &mut Vec<Action>) {
    let since = view.terminating.map(|t| t.since);
    let grace = view.grace().or(spec.termination_grace_period_seconds).unwrap_or(30);
    let left = |at: Option<Timestamp>| match at {
        Some(since) => (grace - now.duration_since(since).as_secs()).clamp(0, grace),
        None => grace,
    };
    let sidecars: Vec<&str> = init_containers(spec)
        .iter()
        .filter(|c| role_of_init(c) == Role::Sidecar)
        .map(|c| c.name.as_str())
        .collect();
    let mut busy = view.setting_up || view.tearing_down;
    for (name, v) in &view.containers {
        busy |= v.launching;
        if sidecars.contains(&name.as_str()) || !v.is_running() {
            continue;
        }
        busy = true;
        stop_or_press(name, v, left(None).max(1), view, now, actions);
    }
    for name in sidecars.iter().rev() {
        let v = view.container(name);
        if busy {
            break;
        }
        if v.is_running() {
            busy = true;
            stop_or_press(name, v, left(since).max(1), view, now, actions);
        }
    }
    let evicted = view.doomed.as_ref().is_some_and(|d| d.grace.is_some());
    let to = if view.terminating.is_some() || evicted { TornDown::Removed } else { TornDown::Ended };
    if !busy && view.torn_down < to {
        actions.push(Action::TearDown { to });
    }
}

fn stop_or_press(
    name: &str,
    v: &ContainerView,
    grace: i64,
    view: &PodView,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    if v.stopping.is_some() {
        return press_on(name, v, view.grace(), now, actions);
    }
    actions.push(Action::Stop {
        name: name.to_owned(),
        grace,
        message: format!("Stopping container {name}"),
    });
}

/// Carries a stop forward: signal once the hook is over, SIGKILL at the deadline (which a second delete may bring closer).
fn press_on(name: &str, v: &ContainerView, shorter: Option<i64>, now: Timestamp, actions: &mut Vec<Action>) {
    let Some(stop) = &v.stopping else { return };
    let grace = shorter.map_or(stop.grace, |s| s.min(stop.grace)).max(1);
    let deadline = stop.since + SignedDuration::from_secs(grace);
    if stop.killed {
        return;
    }
    if !stop.signalled {
        if stop.hook_done || now >= deadline {
            actions.push(Action::Signal { name: name.to_owned() });
        }
        // A hook that used up the period leaves the process two seconds, as upstream does.
        return actions.push(Action::WakeAt(deadline.max(now + SignedDuration::from_secs(2))));
    }
    if now >= deadline {
        actions.push(Action::Kill { name: name.to_owned() });
    } else {
        actions.push(Action::WakeAt(deadline));
    }
}

#[cfg(test)]
pub(crate) mod tests;
