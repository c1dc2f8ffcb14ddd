//! What all processes of one user share on a machine, whatever container they are in: a pod that runs as root takes all of
//! root's. Who is beside it goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::Api;
use kube::api::{AttachParams, LogParams, PostParams};
use kube::runtime::wait::{await_condition, conditions::is_pod_running};
use tokio::io::AsyncReadExt;

use super::play::{NAME, end, manifest, start};
use super::{BASELINE, Ends, Pod};
use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::Scene;

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Pod,
    does: "",
    must: "logs are followed, sessions opened and pods started meanwhile; nothing is left",
    quick: false,
    how: How::Asks(&[]),
};

/// A container without a filter that can make any system call, and one beside it that talks.
const HOG: Pod = Pod {
    spec: r#"{"volumes":[{"name":"t","configMap":{"name":"t","defaultMode":493}},{"name":"v","emptyDir":{}}],
 "containers":[{"name":"talks","image":"busybox:1.35","command":["sh","-c","while :; do echo word; sleep 0.2; done"]}]}"#,
    container: r#"{"volumeMounts":[{"name":"t","mountPath":"/t"},{"name":"v","mountPath":"/v"}]}"#,
    objects: &[("configmaps", r#"{"metadata":{"name":"t"},"binaryData":{"call":"{call}"}}"#)],
    ends: Ends::Lasts(0),
    ..BASELINE
};

macro_rules! hog {
    ($script:expr) => {
        How::Tenant(|s| Box::pin(beside(s, &Pod { script: $script, ..HOG })))
    };
}

const INSTANCES: &str = r#"
/t/call $(seq 400 | sed 's|.*|{sys:inotify_init1} 0 /|') {sys:ppoll} 0 0 0 0 0 &
sleep 1; /t/call {sys:inotify_init1} 0; echo "full $?"; wait"#;
const WATCHES: &str = r#"
mkdir /v/w; cd /v/w; seq 250000 | xargs touch
all=$(cat /proc/sys/fs/inotify/max_user_watches)
i=0; while [ $i -lt 60 ]; do
  /t/call {sys:inotify_init1} 0 + $(seq $((i*4200+1)) $((i*4200+4200)) | sed 's/./3&/g' | awk '{print "{sys:inotify_add_watch} 3 x2f762f772f" $0 " 2 /"}') {sys:ppoll} 0 0 0 0 0 &
  i=$((i+1)); done
sleep 5; /t/call {sys:inotify_init1} 0 + {sys:inotify_add_watch} % x2f 256; echo "full $? of $all"; wait"#;
const KEYS: &str = r#"
many=x$(head -c 40000 /dev/zero | tr '\0' 1)
i=0; while [ $i -lt 1500 ] && /t/call {sys:add_key} x75736572 x$(printf %d $((i+100000)) | sed 's/./3&/g') $many 20000 -3; do i=$((i+1)); done
echo "full after $i"; sleep 100000"#;
const QUEUES: &str = r#"
i=0; while [ $i -lt 2000 ] && { true >/dev/mqueue/q$i; } 2>/dev/null; do i=$((i+1)); done
[ $i -lt 2000 ] || echo BROKE no bound
echo "full after $i"; sleep 100000"#;
const PIPES: &str = r#"
n=0; while [ $n -lt 8 ]; do /t/call $(seq 200 | sed 's|.*|{sys:pipe2} x0000000000000000 0 /|') {sys:ppoll} 0 0 0 0 0 & n=$((n+1)); done
sleep 1; echo full; wait"#;
const INODES: &str = r#"
for d in /dev/shm /v /tmp; do mkdir $d/i; cd $d/i; seq 60000 | xargs touch; done 2>/dev/null
echo full; sleep 100000"#;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "an inotify hog", findings: "issue 11.4", does: "as root: takes all instances of inotify (fs.inotify.max_user_instances)", how: hog!(INSTANCES), ..ROW },
    Attack { name: "an inotify watch hog", findings: "issue 11.4", does: "as root: takes all watches of inotify (fs.inotify.max_user_watches)", how: hog!(WATCHES), ..ROW },
    Attack { name: "a keyring hog", findings: "issue 11.4", does: "as root without a filter: takes all room for keys (kernel.keys.root_maxbytes)", how: hog!(KEYS), ..ROW },
    Attack { name: "a message queue hog", findings: "issue 11.4", does: "makes message queues until there are no more", how: hog!(QUEUES), ..ROW },
    Attack { name: "a pipe hog", findings: "issue 11.4", does: "as root: 1,600 pipes, so that further ones are small (fs.pipe-user-pages-soft)", how: hog!(PIPES), ..ROW },
    Attack { name: "an inode hog", findings: "issue 11.4", does: "180,000 empty files in /dev/shm, a volume and its root file system", how: hog!(INODES), ..ROW },
];

/// How long what is asked of the node meanwhile may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the hog, waits until it is full, and uses the node as others do.
async fn beside(scene: &Scene<'_>, row: &Pod) -> Result<String> {
    super::play::objects(scene, row).await?;
    let pods = start(scene, row).await?;
    let full = full(&pods).await?;
    let used = tokio::time::timeout(PATIENCE, uses(scene, &pods)).await;
    used.with_context(|| format!("{full}: the node is not of use after {PATIENCE:?}"))?
        .with_context(|| full.clone())?;
    let took = end(&pods, Duration::from_secs(60)).await?;
    Ok(format!("{full}; others went on; it went in {:.1} s", took.as_secs_f64()))
}

/// What the hog says when it has all that it can get.
async fn full(pods: &Api<KubePod>) -> Result<String> {
    let params = LogParams { container: Some("c".to_owned()), ..LogParams::default() };
    for _ in 0..600 {
        let log = pods.logs(NAME, &params).await.unwrap_or_default();
        ensure!(!log.contains("BROKE"), "{log}");
        if let Some(line) = log.lines().find(|line| line.starts_with("full")) {
            return Ok(line.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("it does not say that it is full: {}", pods.logs(NAME, &params).await.unwrap_or_default())
}

/// Follows a log, opens a session, and starts a pod.
async fn uses(scene: &Scene<'_>, pods: &Api<KubePod>) -> Result<()> {
    let talks = LogParams {
        container: Some("talks".to_owned()),
        follow: true,
        since_seconds: Some(1),
        ..LogParams::default()
    };
    let mut log = pods.log_stream(NAME, &talks).await.context("following a log")?;
    let (mut words, mut piece) = (0, vec![0; 4096]);
    while words < 15 {
        let read = log.read(&mut piece).await.context("following a log")?;
        let said = String::from_utf8_lossy(&piece[..read]).into_owned();
        ensure!(read > 0, "the followed log ends after {words} words");
        words += said.matches("word").count();
        ensure!(!said.contains("inotify"), "the followed log says: {said}");
    }
    let params = AttachParams::default().container("talks").stdout(true).stderr(false);
    let mut session = pods.exec(NAME, ["echo", "here"], &params).await.context("opening a session")?;
    let mut said = String::new();
    session.stdout().context("a session's output")?.read_to_string(&mut said).await?;
    ensure!(said == "here\n", "the session says {said:?}");
    let mut another = manifest(scene, &Pod { script: "sleep 100000", ..BASELINE })?;
    another["metadata"]["name"] = "another".into();
    pods.create(&PostParams::default(), &serde_json::from_value(another)?).await?;
    await_condition(pods.clone(), "another", is_pod_running()).await.context("starting a pod")?;
    pods.delete("another", &kube::api::DeleteParams::default().grace_period(0)).await?;
    Ok(())
}
