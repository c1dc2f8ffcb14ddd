//! Plans as tables: a pod's spec, the state of its containers, and what is done next.

use super::*;
use crate::{
    cri::{ContainerRecord, ContainerState},
    pods::view::{Condemned, Doom, Stopping, Terminating, Waiting},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn record(name: &str, attempt: u32, state: ContainerState) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}{attempt}"),
        pod_uid: "u".to_owned(),
        pod_namespace: "n".to_owned(),
        pod_name: "p".to_owned(),
        name: name.to_owned(),
        attempt,
        init: false,
        image: String::new(),
        image_id: String::new(),
        log_path: "/nowhere".into(),
        user: None,
        state,
    }
}

fn running() -> ContainerState {
    ContainerState::Running { started: at(0), pid: 1 }
}

fn exited(code: i32, finished: i64) -> ContainerState {
    let started = (code != 128).then(|| at(0));
    ContainerState::Exited {
        started,
        finished: at(finished),
        code,
        signal: None,
        oom: false,
        message: String::new(),
    }
}

/// `a=run`, `a=exit:1@5#2+10`: exit code, time, attempt, crash delay; `a=launching`, `a=created`, `a=pull-failed@5`.
pub(crate) fn view(text: &str) -> PodView {
    let mut view =
        PodView { sandbox: SandboxView::Ready { ips: vec![] }, mounted: true, ..PodView::default() };
    for word in text.split_whitespace() {
        let Some((name, state)) = word.split_once('=') else {
            match word {
                "absent" => (view.sandbox, view.mounted) = (SandboxView::Absent, false),
                "adopted" => view.mounted = false,
                "setting-up" => (view.setting_up, view.mounted) = (true, false),
                "over" => view.over = true,
                "deleted" => view.terminating = Some(Terminating { since: at(100), grace: 30 }),
                "evicted" => {
                    let (reason, message) = ("Evicted".to_owned(), "low".to_owned());
                    view.doomed = Some(Doom { reason, message, grace: Some(1), disruption: true });
                }
                "expired" => view.doomed = Some(Doom::default()),
                "ended" => view.torn_down = TornDown::Ended,
                "removed" => view.torn_down = TornDown::Removed,
                other => panic!("{other}"),
            }
            continue;
        };
        let mut v = ContainerView {
            probe: crate::pods::view::ProbeView { started: true, ready: true },
            ..Default::default()
        };
        let (state, delay) = state.split_once('+').map_or((state, None), |(s, d)| (s, d.parse().ok()));
        let (state, attempt) = state.split_once('#').map_or((state, 0), |(s, a)| (s, a.parse().unwrap()));
        let (state, time) = state.split_once('@').map_or((state, 0), |(s, t)| (s, t.parse().unwrap()));
        v.crash.until = delay.map(|seconds: i64| at(time + seconds));
        match state.split_once(':').unwrap_or((state, "")) {
            ("run", _) => v.current = Some(record(name, attempt, running())),
            ("exit", code) => v.current = Some(record(name, attempt, exited(code.parse().unwrap(), time))),
            ("created", _) => v.current = Some(record(name, attempt, ContainerState::Created { at: at(0) })),
            ("launching", _) => v.launching = true,
            ("pull-failed", _) => {
                let (reason, message) = ("ErrImagePull".to_owned(), String::new());
                v.waiting = Some(Waiting { reason, message, image: None });
                (v.pull_failed_at, v.retry_at) = (Some(at(time)), Some(at(time + 10)));
            }
            other => panic!("{other:?}"),
        }
        view.containers.insert(name.to_owned(), v);
    }
    view
}

fn spec(policy: &str) -> PodSpec {
    serde_json::from_value(serde_json::json!({
        "restartPolicy": policy,
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    }))
    .unwrap()
}

fn told(actions: &[Action]) -> String {
    let one = |a: &Action| match a {
        Action::SetUp => "set-up".to_owned(),
        Action::Launch { name, attempt, .. } => format!("launch {name}#{attempt}"),
        Action::Stop { name, grace, .. } => format!("stop {name} {grace}s"),
        Action::Signal { name } => format!("signal {name}"),
        Action::Kill { name } => format!("kill {name}"),
        Action::Resize => "resize".to_owned(),
        Action::BackOff { name } => format!("back-off {name}"),
        Action::TearDown { to: TornDown::Ended } => "tear-down".to_owned(),
        Action::TearDown { .. } => "remove".to_owned(),
        Action::WakeAt(at) => format!("wake@{}", at.as_second()),
    };
    actions.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn pods_are_brought_up_in_the_order_of_their_containers() {
    for (state, expected) in [
        ("absent", "set-up"),
        ("adopted i=exit:0 s=run a=run b=run", "set-up"),
        ("setting-up", ""),
        ("", "launch i#0"),
        ("i=launching", ""),
        ("i=exit:1@99+0", "launch i#1"),
        ("i=exit:1@99#1+10", "back-off i, wake@109"),
        ("i=exit:0", "launch s#0"),
        ("i=exit:0 s=run", "launch a#0"),
        ("i=exit:0 s=run a=run", "launch b#0"),
        ("i=exit:0 s=run a=run b=run", ""),
        // Init containers are not run again once the main ones were reached.
        ("s=run a=run b=run", ""),
        ("i=exit:0 s=exit:1@99#3+0 a=run b=run", "launch s#4"),
        // The process that made it was killed before it could start it: the same attempt is made anew.
        ("i=exit:0 s=run a=created#2 b=run", "launch a#2"),
        // A start that failed is an end like any other.
        ("i=exit:0 s=run a=exit:128@100+0 b=run", "launch a#1"),
        ("i=exit:0 s=run a=exit:128@95#2+20 b=run", "back-off a, wake@115"),
        ("i=exit:0 s=run a=pull-failed@99 b=run", "wake@101, wake@109"),
        ("i=exit:0 s=run a=pull-failed@98 b=run", "back-off a, wake@108"),
        ("i=exit:0 s=run a=pull-failed@90 b=run", "launch a#0"),
    ] {
        assert_eq!(told(&plan(&spec("Always"), &view(state), at(100))), expected, "{state:?}");
    }
}

#[test]
fn restart_policies_decide_what_is_run_again() {
    for (policy, state, expected) in [
        ("Always", "s=run a=exit:0@99+0 b=run", "launch a#1"),
        ("OnFailure", "s=run a=exit:0@99+0 b=run", ""),
        ("OnFailure", "s=run a=exit:3@99+0 b=run", "launch a#1"),
        ("Never", "s=run a=exit:3@99+0 b=run", ""),
        // The last main container takes the sidecars with it.
        ("Never", "s=run a=exit:3 b=exit:0", "stop s 30s"),
        ("Never", "s=exit:0 a=exit:3 b=exit:0", "tear-down"),
        ("Never", "s=exit:0 a=exit:3 b=exit:0 ended", ""),
        ("Never", "i=exit:1", "tear-down"),
    ] {
        assert_eq!(told(&plan(&spec(policy), &view(state), at(100))), expected, "{policy} {state:?}");
    }
}

#[test]
fn an_evicted_pod_ends_at_once_and_leaves_nothing_but_its_status() {
    for (state, expected) in [
        ("evicted s=run a=run b=run", "stop a 1s, stop b 1s"),
        ("evicted s=exit:0 a=exit:137 b=exit:137", "remove"),
        ("evicted s=exit:0 a=exit:137 b=exit:137 removed", ""),
        // What was killed for a shorter word is not waited for.
        ("evicted deleted a=run", "stop a 1s"),
        // One that ended for another reason keeps its containers for whoever asks.
        ("expired s=run a=run", "stop a 30s"),
        ("expired s=exit:0 a=exit:137", "tear-down"),
    ] {
        assert_eq!(told(&plan(&spec("Always"), &view(state), at(100))), expected, "{state:?}");
    }
    let mut evicted = view("evicted a=run b=exit:0");
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "uid": "u"}, "spec": spec("Always"), "status": {"phase": "Running"}}))
    .unwrap();
    let status = |view: &PodView| crate::pods::status::status(&pod, view, &[], at(100));
    let ending = status(&evicted);
    let told = (ending.phase.as_deref(), ending.reason.as_deref(), ending.message.as_deref());
    assert_eq!(told, (Some("Running"), None, None), "not before all has stopped");
    assert!(!ending.conditions.into_iter().flatten().any(|c| c.type_ == "DisruptionTarget"));
    evicted.containers.clear();
    let ended = status(&evicted);
    let told = (ended.phase.as_deref(), ended.reason.as_deref(), ended.message.as_deref());
    assert_eq!(told, (Some("Failed"), Some("Evicted"), Some("low")));
    let target = ended.conditions.into_iter().flatten().find(|c| c.type_ == "DisruptionTarget").unwrap();
    let told = (&*target.status, target.reason.as_deref(), target.message.as_deref());
    assert_eq!(told, ("True", Some("TerminationByKubelet"), Some("low")));
}

#[test]
fn a_pod_that_ended_is_never_run_again() {
    for (state, expected) in [
        // No record of its containers is left, as after the loss of the node's disk.
        ("absent over", "tear-down"),
        ("absent over ended", ""),
        ("absent over ended deleted", "remove"),
        ("over s=run", "stop s 30s"),
    ] {
        assert_eq!(told(&plan(&spec("Always"), &view(state), at(100))), expected, "{state:?}");
    }
}

#[test]
fn deletion_ends_everything_whatever_the_pod_was_at() {
    for (state, expected) in [
        ("absent deleted", "remove"),
        ("setting-up deleted", ""),
        ("adopted s=run a=run deleted", "stop a 30s"),
        ("a=launching deleted", ""),
        ("a=created deleted", "remove"),
        ("i=run deleted", "stop i 30s"),
        ("s=run a=run b=run deleted", "stop a 30s, stop b 30s"),
        ("s=run a=exit:0 b=exit:137 deleted", "stop s 25s"),
        ("s=exit:0 a=exit:0 b=exit:137 deleted", "remove"),
        ("a=pull-failed@90 deleted", "remove"),
        ("removed deleted", ""),
    ] {
        assert_eq!(told(&plan(&spec("Always"), &view(state), at(105))), expected, "{state:?}");
    }
}

#[test]
fn a_stop_goes_from_the_hook_to_the_signal_to_the_kill() {
    let stop = |hook_done, signalled, killed, grace| Stopping {
        id: "a0".to_owned(),
        since: at(100),
        grace,
        hook_done,
        signalled,
        killed,
    };
    for (stopping, now, expected) in [
        (stop(false, false, false, 30), 105, "wake@130"),
        (stop(true, false, false, 30), 105, "signal a, wake@130"),
        // The hook used up the period: the process gets two seconds of its own.
        (stop(false, false, false, 30), 130, "signal a, wake@132"),
        (stop(true, true, false, 30), 110, "wake@130"),
        (stop(true, true, false, 30), 130, "kill a"),
        (stop(true, true, true, 30), 140, ""),
    ] {
        let mut v = view("s=run a=run b=exit:0 deleted");
        v.containers.get_mut("a").unwrap().stopping = Some(stopping);
        assert_eq!(told(&plan(&spec("Always"), &v, at(now))), expected, "{now}");
    }
    let mut v = view("s=run a=run b=run");
    v.containers.get_mut("a").unwrap().condemned = Some(Condemned { message: String::new(), grace: Some(3) });
    assert_eq!(told(&plan(&spec("Always"), &v, at(100))), "stop a 3s", "a probe's own grace period");
}

#[test]
fn a_resize_restarts_what_it_must_and_sets_the_cgroups_between() {
    for (policy, state, fresh, expected) in [
        ("Always", "s=run a=run b=run", false, "stop a 30s"),
        ("Always", "s=run a=run b=run", true, "stop a 30s"),
        ("OnFailure", "s=run a=exit:0@99+300 b=run", true, "resize, launch a#1"),
        ("Always", "s=run a=exit:1@99+300 b=run", false, "launch a#1"),
        ("Always", "s=run a=exit:1@99+300 b=run deleted", true, "stop b 30s"),
    ] {
        let mut view = view(state);
        let a = view.containers.get_mut("a").unwrap();
        a.renewing = a.current.as_ref().map(|c| c.id.clone());
        let (error, generation, since) = (None, None, at(90));
        view.progress = Some(resize::Progress { error, generation, since, retry_at: None, fresh });
        assert_eq!(told(&plan(&spec(policy), &view, at(100))), expected, "{policy} {state:?}");
    }
    let mut view = view("s=run a=run b=run");
    let failed = Some("no".to_owned());
    view.progress = Some(resize::Progress {
        error: failed,
        generation: None,
        since: at(90),
        retry_at: Some(at(105)),
        fresh: true,
    });
    assert_eq!(told(&plan(&spec("Always"), &view, at(100))), "wake@105", "not at once after a failure");
    assert_eq!(told(&plan(&spec("Always"), &view, at(105))), "resize");
}
