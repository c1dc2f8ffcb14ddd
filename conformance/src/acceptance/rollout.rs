//! Rollouts that go well, and containers that do not.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::World;
use crate::netns::NODE_IP;

/// Requests one after the other, as fast as curl starts, until its input closes; prints failures and at last the count.
const LOAD: &str = r#"n=0; while ! read -t 0.001 x; do n=$((n+1)); curl -s -m 5 -o /dev/null --fail "$1" || echo "failed: $?"; [ $n -gt 100000 ] && break; done; echo "requests: $n""#;

pub(super) fn under_load(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    let cluster_ip = k.ok("-n shop get service web -o jsonpath={.spec.clusterIP}")?;
    let url = format!("http://{cluster_ip}/");
    let mut load = Command::new("bash")
        .args(["-c", LOAD, "load", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    for round in 1..=2 {
        k.ok(&format!("-n shop set env deployment/web ROUND={round}"))?;
        k.ok("-n shop rollout status deployment/web --timeout=120s")?;
    }
    use std::io::Write;
    load.stdin.take().context("stdin")?.write_all(b"stop\n")?;
    let lines: Vec<String> =
        BufReader::new(load.stdout.take().context("stdout")?).lines().collect::<Result<_, _>>()?;
    load.wait()?;
    let failed = lines.iter().filter(|l| l.starts_with("failed")).count();
    let count = lines.last().cloned().unwrap_or_default();
    println!("        {count} through {url} on {NODE_IP}, {failed} failed");
    ensure!(failed == 0 && !count.ends_with(" 0"), "{lines:?}");
    Ok(())
}

pub(super) fn bad_image(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    k.ok("-n shop set image deployment/web nginx=nginx:no-such-tag")?;
    k.until(60, "-n shop get pods -l app=web", |o| {
        o.contains("ErrImagePull") || o.contains("ImagePullBackOff")
    })?;
    ensure!(k.ok("-n shop get deploy web -o jsonpath={.status.readyReplicas}")? == "3", "the old pods stay");
    k.until(60, "-n shop get pods -l app=web", |o| o.contains("ImagePullBackOff"))?;
    k.ok("-n shop rollout undo deployment/web")?;
    k.prints("-n shop rollout status deployment/web --timeout=90s", &["successfully rolled out"])?;
    k.until(60, "-n shop get pods -l app=web", |o| {
        !o.contains("ImagePull") && o.matches("Running").count() == 3
    })
    .map(drop)
}

pub(super) fn crash(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    k.ok("-n shop run crash --image=busybox:1.35 -- sh -c 'echo about to fall; exit 3'")?;
    k.until(60, "-n shop get pod crash", |o| o.contains("CrashLoopBackOff"))?;
    k.until(60, "-n shop get pod crash -o jsonpath={.status.containerStatuses[0].restartCount}", |o| {
        o.parse::<u32>().is_ok_and(|n| n >= 2)
    })?;
    ensure!(
        k.ok(
            "-n shop get pod crash -o jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}"
        )? == "3"
    );
    ensure!(k.ok("-n shop logs crash --previous")? == "about to fall\n");
    k.prints(
        "-n shop describe pod crash",
        &["Back-off restarting failed container crash in pod crash_shop"],
    )?;
    k.ok("-n shop delete pod crash --now").map(drop)
}

const HUNGRY: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hungry","namespace":"shop"},
 "spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"busybox:1.35","resources":{"limits":{"memory":"16Mi"}},
  "command":["sh","-c","tail -c 200m /dev/zero"]}]}}"#;

pub(super) fn out_of_memory(world: &mut World) -> Result<()> {
    let k = world.kubectl();
    k.ok_with("apply -f -", HUNGRY)?;
    k.until(60, "-n shop get pod hungry", |o| o.contains("OOMKilled"))?;
    let state = k.ok("-n shop get pod hungry -o jsonpath={.status.containerStatuses[0].state.terminated}")?;
    ensure!(state.contains("\"reason\":\"OOMKilled\"") && state.contains("\"exitCode\":137"), "{state}");
    k.ok("-n shop delete pod hungry").map(drop)
}
