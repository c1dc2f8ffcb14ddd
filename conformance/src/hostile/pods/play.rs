//! Running a row's pod, and looking at what became of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod as KubePod};
use kube::Api;
use kube::api::{ListParams, LogParams, PostParams};
use serde_json::{Value, json};

use super::{Ends, Pod};
use crate::hostile::book::By;
use crate::hostile::cost::{MB, disk};
use crate::hostile::scene::{Scene, tally};
use crate::wire::{Connection, JSON};

/// The name of every row's pod, and of the container that the row is about.
pub(super) const NAME: &str = "attacker";
const CONTAINER: &str = "c";
/// The tests' image, as everywhere.
pub(super) const IMAGE: &str = "busybox:1.35";
/// How long a pod may take to become what it must.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// What a container's kept logs may take: upstream keeps 5 files of 10 MiB; one more is being written, or made smaller.
const LOGS: u64 = 70 << 20;
/// As much is kept of a termination message: 4096 bytes, and what is no text becomes three bytes each.
const MESSAGE: usize = 3 * 4096;

/// Before each script: says what held, and what did not.
const PRELUDE: &str = r#"held() { what=$1; shift; if "$@" >/tmp/said 2>&1; then echo "BROKE $what: $(head -c 300 /tmp/said)"; else echo "held $what"; fi; }
"#;

/// The pod's state, as far as rows ask for it.
enum State {
    Waits,
    Runs,
    Ended,
    /// With the reason.
    Never(String),
    Killed(String),
}

pub(in crate::hostile) async fn play(scene: &Scene<'_>, row: &Pod) -> Result<String> {
    let mut tenant = objects(scene, row).await?;
    let pod = manifest(scene, row)?;
    let answer = scene.send(&mut tenant, Method::POST, &scene.path("pods"), JSON, pod.to_string()).await?;
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = said["message"].as_str().unwrap_or_default().to_owned();
    if let Ends::Refused(codes) = row.ends {
        ensure!(codes.contains(&answer.code), "{}: {message}", answer.code);
        return Ok(format!("{}: {}", answer.code, message.chars().take(150).collect::<String>()));
    }
    ensure!(answer.code == 201, "the pod was refused: {}: {message}", answer.code);
    let pods: Api<KubePod> = Api::namespaced(scene.arena.client.clone(), &scene.namespace);
    let outcome = watch(scene, row, &pods).await;
    let logs = look(scene, &pods).await;
    let (outcome, logs) = (outcome?, logs?);
    let broke: Vec<&str> = logs.lines().filter(|l| l.contains("BROKE")).collect();
    ensure!(broke.is_empty(), "{}", broke.join("; "));
    let held = logs.lines().filter(|l| l.starts_with("held")).count();
    ensure!(row.ends != Ends::Held || held > 0, "nothing was tried; the log: {logs}");
    Ok(if held > 0 { format!("{outcome}, {held} deeds held") } else { outcome })
}

/// Makes what a row's pod needs, and gives the connection that did it.
pub(super) async fn objects(scene: &Scene<'_>, row: &Pod) -> Result<Connection> {
    let mut tenant = scene.connect(By::Tenant).await?;
    for (path, object) in row.objects {
        let made = scene.send(&mut tenant, Method::POST, &scene.path(path), JSON, scene.fill(object)).await?;
        ensure!(made.code < 300, "making {path}: {}", made.code);
    }
    Ok(tenant)
}

/// The pod of a row, with this scene's names.
pub(in crate::hostile) fn manifest(scene: &Scene<'_>, row: &Pod) -> Result<Value> {
    let read = |text: &str| -> Result<Value> {
        serde_json::from_str(&scene.fill(text)).with_context(|| format!("a row's JSON: {text}"))
    };
    let script = format!("{PRELUDE}{}", scene.fill(row.script));
    let mut container = json!({"name": CONTAINER, "image": IMAGE, "command": ["sh", "-c", script]});
    merge(&mut container, read(row.container)?);
    let mut spec =
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]});
    merge(&mut spec, read(row.spec)?);
    Ok(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "namespace": scene.namespace}, "spec": spec}),
    )
}

/// Adds objects field by field and lists item by item.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(more)) => into.extend(more),
        (into, more) => *into = more,
    }
}

async fn watch(scene: &Scene<'_>, row: &Pod, pods: &Api<KubePod>) -> Result<String> {
    let begun = Instant::now();
    let mut ran = None;
    loop {
        let pod = pods.get(NAME).await?;
        let (state, ends) = (state(scene, &pod).await?, row.ends);
        match (state, ends) {
            (State::Runs, Ends::Lasts(seconds)) => {
                let since = *ran.get_or_insert_with(Instant::now);
                let long = if scene.arena.quick { seconds / 5 + 1 } else { seconds };
                if since.elapsed() > Duration::from_secs(long) {
                    return Ok("ran on".to_owned());
                }
            }
            // Who uses up what it may is ended by the kernel; that is in order.
            (State::Killed(reason), Ends::Lasts(_)) => return Ok(reason),
            (State::Ended, Ends::Lasts(_)) if !comes_again(&pod) => return Ok("ended".to_owned()),
            (State::Ended, Ends::Held | Ends::NeverOrHeld) => return Ok("ended".to_owned()),
            (State::Never(why), Ends::Never | Ends::NeverOrHeld | Ends::NeverOrKilled(_)) => return Ok(why),
            (State::Killed(reason), Ends::Killed(wanted) | Ends::NeverOrKilled(wanted))
                if reason.contains(wanted) =>
            {
                return Ok(reason);
            }
            (State::Killed(reason), ends) => bail!("the pod was killed ({reason}), and should be {ends:?}"),
            (State::Never(why), Ends::Held) => bail!("the pod does not run: {why}"),
            (State::Runs | State::Ended, Ends::Never) => bail!("the pod ran"),
            _ => {}
        }
        let patience =
            PATIENCE + Duration::from_secs(if let Ends::Lasts(seconds) = ends { seconds } else { 0 });
        ensure!(
            begun.elapsed() < patience,
            "after {patience:?} the pod is {:?}",
            pod.status.map(|s| s.phase)
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether its containers are started again, however they end.
fn comes_again(pod: &KubePod) -> bool {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("Always")
}

async fn state(scene: &Scene<'_>, pod: &KubePod) -> Result<State> {
    let Some(status) = &pod.status else { return Ok(State::Waits) };
    if let Some(reason) = &status.reason {
        let told = format!("{reason}: {}", status.message.as_deref().unwrap_or_default());
        return Ok(if reason == "Evicted" { State::Killed(told) } else { State::Never(told) });
    }
    let own: Vec<&ContainerStatus> =
        status.container_statuses.iter().flatten().filter(|s| s.name == CONTAINER).collect();
    if comes_again(pod) && own.first().is_some_and(|s| s.restart_count > 0) {
        // It comes again, however often it ends.
        return Ok(State::Runs);
    }
    if let Some(ContainerState { terminated: Some(end), .. }) = own.first().and_then(|s| s.state.as_ref()) {
        let reason = end.reason.clone().unwrap_or_default();
        return Ok(match reason.as_str() {
            "OOMKilled" => State::Killed(reason),
            "ContainerCannotRun" | "StartError" | "CreateContainerError" => {
                State::Never(end.message.clone().unwrap_or(reason))
            }
            _ => State::Ended,
        });
    }
    if own.first().and_then(|s| s.state.as_ref()).is_some_and(|s| s.running.is_some()) {
        return Ok(State::Runs);
    }
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let waiting = all.filter_map(|s| s.state.as_ref()?.waiting.clone());
    for wait in waiting {
        let reason = wait.reason.unwrap_or_default();
        if !["", "ContainerCreating", "PodInitializing", "CrashLoopBackOff"].contains(&reason.as_str()) {
            return Ok(State::Never(format!("{reason}: {}", wait.message.unwrap_or_default())));
        }
    }
    Ok(match refusals(scene).await?.into_iter().next() {
        Some(refusal) => State::Never(refusal),
        None => State::Waits,
    })
}

/// Events that say that the pod cannot be run.
async fn refusals(scene: &Scene<'_>) -> Result<Vec<String>> {
    let mut admin = scene.connect(By::Operator).await?;
    let path = scene.path("events?fieldSelector=type%3DWarning");
    let events = scene.send(&mut admin, Method::GET, &path, JSON, Bytes::new()).await?;
    let events: Value = serde_json::from_slice(&events.body)?;
    let refusals = events["items"].as_array().into_iter().flatten().filter_map(|event| {
        let reason = event["reason"].as_str()?;
        // A pod may come before its volume's object, and before its node.
        (!["FailedScheduling", "BackOff", "Unhealthy"].contains(&reason))
            .then(|| format!("{reason}: {}", event["message"].as_str().unwrap_or_default()))
    });
    Ok(refusals.collect())
}

/// The logs of all containers, in which, as in the pod's status, nothing may be that does not belong there.
async fn look(scene: &Scene<'_>, pods: &Api<KubePod>) -> Result<String> {
    let pod = pods.get(NAME).await?;
    let status = serde_json::to_string(&pod.status)?;
    ensure!(!scene.arena.canary.is_in(&status), "the pod's status holds what nobody must see");
    let statuses =
        pod.status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses));
    for container in statuses.flatten() {
        let states = [&container.state, &container.last_state];
        let messages = states.into_iter().flatten().filter_map(|s| s.terminated.as_ref()?.message.as_ref());
        for message in messages {
            ensure!(message.len() <= MESSAGE, "a termination message of {} bytes", message.len());
        }
    }
    let spec = pod.spec.context("a spec")?;
    let names = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.name.clone());
    let mut all = String::new();
    for container in names {
        for previous in [false, true] {
            let params = LogParams {
                container: Some(container.clone()),
                previous,
                limit_bytes: Some(1 << 20),
                ..LogParams::default()
            };
            // Some have never run.
            let log = pods.logs(NAME, &params).await.unwrap_or_default();
            ensure!(!scene.arena.canary.is_in(&log), "container {container} has read what it must not see");
            all.push_str(&log);
        }
    }
    let logs = disk(&scene.arena.layout.node().join("logs"));
    let containers = u64::try_from(spec.containers.len())?;
    ensure!(logs < LOGS * (containers + 1), "logs take {:.0} MB", logs as f64 / MB);
    Ok(all)
}

/// A pod of the tests' image that runs on, in the attack's namespace.
pub(in crate::hostile) async fn start(scene: &Scene<'_>, row: &Pod) -> Result<Api<KubePod>> {
    let pods: Api<KubePod> = Api::namespaced(scene.arena.client_of(By::Tenant).await?, &scene.namespace);
    let pod = serde_json::from_value(manifest(scene, row)?)?;
    pods.create(&PostParams::default(), &pod).await?;
    let running = kube::runtime::wait::await_condition(
        pods.clone(),
        NAME,
        kube::runtime::wait::conditions::is_pod_running(),
    );
    tokio::time::timeout(PATIENCE, running).await.context("the pod does not run")??;
    Ok(pods)
}

/// Ends the pod as a user does, and waits until it is gone.
pub(in crate::hostile) async fn end(pods: &Api<KubePod>, within: Duration) -> Result<Duration> {
    let begun = Instant::now();
    pods.delete(NAME, &kube::api::DeleteParams::default().grace_period(1)).await?;
    while !pods.list(&ListParams::default()).await?.items.is_empty() {
        ensure!(begun.elapsed() < within, "the pod is still there {within:?} after it was deleted");
        tokio::time::sleep(LOOK).await;
    }
    Ok(begun.elapsed())
}

/// What many did, counted.
pub(super) fn said<T>(outcomes: Vec<Result<T>>) -> String {
    tally(outcomes.into_iter().map(|outcome| match outcome {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{error:#}").chars().take(80).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_to_what_every_pod_has() {
        let mut pod = json!({"a": {"b": 1}, "containers": [{"name": "c"}]});
        merge(&mut pod, json!({"a": {"c": 2}, "containers": [{"name": "d"}]}));
        assert_eq!(pod, json!({"a": {"b": 1, "c": 2}, "containers": [{"name": "c"}, {"name": "d"}]}));
    }

    #[test]
    fn every_row_is_json() {
        let how = super::super::attacks().into_iter().map(|a| a.how);
        for how in how {
            if let crate::hostile::book::How::Pod(row) = how {
                let texts = [row.spec, row.container].into_iter().chain(row.objects.iter().map(|o| o.1));
                for text in texts {
                    assert!(serde_json::from_str::<Value>(text).is_ok(), "{text}");
                }
            }
        }
    }
}
