//! Sessions with containers: exec, logs, port-forward; and containers that play tricks on them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{AsyncReadExt as _, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::Api;
use kube::api::{AttachParams, LogParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::play::{NAME, end, said, start};
use super::{BASELINE, Ends, Pod};
use crate::hostile::book::{Attack, By, How};
use crate::hostile::scene::Scene;

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Tenant,
    does: "",
    must: "bounded, and gone with the pod",
    quick: false,
    how: How::Asks(&[]),
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "exec sessions that stay", findings: "issue 11.9", does: "400 exec sessions in one pod, held", how: How::Tenant(|s| Box::pin(held_sessions(s))), ..ROW },
    Attack { name: "exec sessions that come and go", findings: "issue 11.9", does: "2,000 exec sessions, 16 at a time", how: How::Tenant(|s| Box::pin(short_sessions(s))), ..ROW },
    Attack { name: "attaches that come and go", findings: "CVE-2025-64329", does: "2,000 times attached to a container that talks and left without a word, 16 at a time", how: How::Tenant(|s| Box::pin(attaches(s))), ..ROW },
    Attack { name: "sessions that are not read", findings: "issue 11.9", does: "50 exec sessions of `yes` whose output nobody reads, and 10 fed without a reader", must: "what is not read is not kept", how: How::Tenant(|s| Box::pin(unread_sessions(s))), ..ROW },
    Attack { name: "followed logs", findings: "issue 11.9", does: "500 `logs -f` of a busy container, most of them not read", how: How::Tenant(|s| Box::pin(followed_logs(s))), ..ROW },
    Attack { name: "port-forwards", findings: "issue 11.9", does: "200 port-forwards of 5 ports each, held", how: How::Tenant(|s| Box::pin(port_forwards(s))), ..ROW },
    Attack { name: "a container that stops what is exec'd", findings: "security M6", by: By::Pod, does: "sends SIGSTOP to every process that comes in; 10 exec sessions; then the pod is deleted", must: "the pod is gone in 20 s, and so is every process", how: How::Tenant(|s| Box::pin(stopped(s))), ..ROW },
    Attack { name: "a container that takes the runtime's program", findings: "CVE-2019-5736; security minor", by: By::Pod, does: "opens /proc/PID/exe of whatever comes in for writing, and is exec'd as #!/proc/self/exe", must: "the program is not changed", how: How::Tenant(|s| Box::pin(runtime_program(s))), ..ROW },
];

const SLEEPS: Pod = Pod { spec: "{}", script: "sleep 100000", ends: Ends::Lasts(0), ..BASELINE };
/// How long a pod may take to go, with a grace period of a second.
const GONE_WITHIN: Duration = Duration::from_secs(20);

fn quiet() -> AttachParams {
    AttachParams::default().stdin(false).stdout(true).stderr(false)
}

async fn held_sessions(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let count = scene.amount(400, 20);
    let opening = (0..count).map(|_| {
        let pods = pods.clone();
        async move { Ok(pods.exec(NAME, ["sleep", "1000"], &quiet()).await?) }
    });
    let sessions: Vec<Result<_>> = stream::iter(opening).buffer_unordered(8).collect().await;
    scene.hold().await;
    let opened = sessions.iter().filter(|s| s.is_ok()).count();
    ensure!(opened > 0, "no session was opened: {}", said(sessions));
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{opened} of {count} opened; the pod went in {:.1} s", took.as_secs_f64()))
}

async fn run(pods: &Api<KubePod>, command: &[&str]) -> Result<String> {
    let mut session = pods.exec(NAME, command.iter().copied(), &quiet()).await?;
    let mut out = String::new();
    if let Some(mut stdout) = session.stdout() {
        stdout.read_to_string(&mut out).await?;
    }
    session.join().await?;
    Ok(out)
}

async fn short_sessions(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let running = (0..scene.amount(2_000, 60)).map(|_| {
        let pods = pods.clone();
        async move { tokio::time::timeout(Duration::from_secs(30), run(&pods, &["true"])).await? }
    });
    let ran: Vec<Result<String>> = stream::iter(running).buffer_unordered(16).collect().await;
    ensure!(ran.iter().any(Result::is_ok), "{}", said(ran));
    end(&pods, GONE_WITHIN).await?;
    Ok(said(ran))
}

async fn attaches(scene: &Scene<'_>) -> Result<String> {
    const TALKS: Pod = Pod { script: "while true; do seq 1000; sleep 0.1; done", ..SLEEPS };
    let pods = start(scene, &TALKS).await?;
    let attaching = (0..scene.amount(2_000, 60)).map(|n| {
        let pods = pods.clone();
        async move {
            let mut session =
                tokio::time::timeout(Duration::from_secs(30), pods.attach(NAME, &quiet())).await??;
            if n % 2 == 0 {
                let mut piece = [0; 100];
                session.stdout().context("output")?.read_exact(&mut piece).await?;
            }
            anyhow::Ok(())
        }
    });
    let came: Vec<Result<()>> = stream::iter(attaching).buffer_unordered(16).collect().await;
    ensure!(came.iter().any(Result::is_ok), "{}", said(came));
    ensure!(run(&pods, &["echo", "here"]).await? == "here\n", "the container cannot be used any more");
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{}; the pod went in {:.1} s", said(came), took.as_secs_f64()))
}

async fn unread_sessions(scene: &Scene<'_>) -> Result<String> {
    let pods = start(scene, &SLEEPS).await?;
    let mut sessions = vec![];
    for _ in 0..scene.amount(50, 5) {
        sessions.push(pods.exec(NAME, ["yes"], &quiet()).await?);
    }
    let mut fed = 0;
    for _ in 0..scene.amount(10, 2) {
        let both = AttachParams::default().stdin(true).stdout(true).stderr(false);
        let mut session = pods.exec(NAME, ["sleep", "1000"], &both).await?;
        if let Some(mut stdin) = session.stdin() {
            let piece = vec![b'x'; 1 << 16];
            for _ in 0..200 {
                let wrote = tokio::time::timeout(Duration::from_millis(200), stdin.write_all(&piece)).await;
                if !matches!(wrote, Ok(Ok(()))) {
                    break;
                }
                fed += piece.len();
            }
        }
        sessions.push(session);
    }
    scene.hold().await;
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!(
        "{} sessions, {} MB fed; the pod went in {:.1} s",
        sessions.len(),
        fed >> 20,
        took.as_secs_f64()
    ))
}

async fn followed_logs(scene: &Scene<'_>) -> Result<String> {
    const TALKS: Pod = Pod { script: "while true; do seq 1000; sleep 0.1; done", ..SLEEPS };
    let pods = start(scene, &TALKS).await?;
    let params = LogParams { follow: true, ..LogParams::default() };
    let opening = (0..scene.amount(500, 20)).map(|_| {
        let (pods, params) = (pods.clone(), params.clone());
        async move { Ok(pods.log_stream(NAME, &params).await?) }
    });
    let mut streams: Vec<Result<_>> = stream::iter(opening).buffer_unordered(8).collect().await;
    let mut piece = vec![0; 1 << 16];
    let mut read = 0;
    for stream in streams.iter_mut().flatten().take(5) {
        read += stream.read(&mut piece).await?;
    }
    ensure!(read > 0, "nothing is followed");
    scene.hold().await;
    let opened = streams.iter().filter(|s| s.is_ok()).count();
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{opened} of {} followed; the pod went in {:.1} s", streams.len(), took.as_secs_f64()))
}

async fn port_forwards(scene: &Scene<'_>) -> Result<String> {
    const LISTENS: Pod =
        Pod { script: "for p in 8001 8002 8003 8004 8005; do httpd -p $p; done; sleep 100000", ..SLEEPS };
    let pods = start(scene, &LISTENS).await?;
    let opening = (0..scene.amount(200, 10)).map(|_| {
        let pods = pods.clone();
        async move { Ok(pods.portforward(NAME, &[8001, 8002, 8003, 8004, 8005]).await?) }
    });
    let mut sessions: Vec<Result<_>> = stream::iter(opening).buffer_unordered(8).collect().await;
    let mut streams = vec![];
    for session in sessions.iter_mut().flatten() {
        for port in [8001, 8002] {
            if let Some(mut stream) = session.take_stream(port) {
                // The head of a request that is never finished.
                let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(b"GET / HTTP/1.1\r\n"))
                    .await;
                streams.push(stream);
            }
        }
    }
    scene.hold().await;
    let opened = sessions.iter().filter(|s| s.is_ok()).count();
    ensure!(opened > 0, "no port-forward was opened");
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("{opened} of {} opened; the pod went in {:.1} s", sessions.len(), took.as_secs_f64()))
}

async fn stopped(scene: &Scene<'_>) -> Result<String> {
    const STOPS: Pod = Pod {
        script: "while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || [ $p = $$ ] || kill -STOP $p; done; done 2>/dev/null",
        ..SLEEPS
    };
    let pods = start(scene, &STOPS).await?;
    let opening = (0..10).map(|_| {
        let pods = pods.clone();
        async move {
            let params = quiet();
            let opening = pods.exec(NAME, ["sleep", "1000"], &params);
            Ok(tokio::time::timeout(Duration::from_secs(5), opening).await??)
        }
    });
    let sessions: Vec<Result<_>> = stream::iter(opening).buffer_unordered(10).collect().await;
    let took = end(&pods, GONE_WITHIN).await?;
    Ok(format!("sessions: {}; the pod went in {:.1} s", said(sessions), took.as_secs_f64()))
}

async fn runtime_program(scene: &Scene<'_>) -> Result<String> {
    const TAKES: Pod = Pod {
        script: "printf '#!/proc/self/exe\n' >/bin/evil; chmod 755 /bin/evil; while :; do for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || [ $p = /proc/1 ] || (exec 3>>$p/exe && echo BROKE >&3 && echo BROKE $p); done; done 2>/dev/null",
        ..SLEEPS
    };
    let exe = format!("/proc/{}/exe", scene.arena.pid);
    let of = |path: &str| -> Result<_> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path)?;
        Ok((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.mode()))
    };
    let before = of(&exe)?;
    let pods = start(scene, &TAKES).await?;
    let mut outcomes = vec![];
    for n in 0..scene.amount(60, 10) {
        let command = if n % 2 == 0 { "/bin/evil" } else { "true" };
        let ran = tokio::time::timeout(Duration::from_secs(10), run(&pods, &[command])).await;
        outcomes.push(ran.context("no end in 10 s").and_then(|ran| ran));
    }
    let log = pods.logs(NAME, &LogParams::default()).await?;
    ensure!(!log.contains("BROKE"), "{log}");
    ensure!(of(&exe)? == before, "the program was changed");
    end(&pods, GONE_WITHIN).await?;
    Ok(said(outcomes))
}
