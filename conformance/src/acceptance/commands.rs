//! Every kubectl command a working day uses, with each kubectl at hand.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::World;
use crate::kubectl::{Kubectl, contains, output_of, pause};

/// Runs the same for each kubectl program, saying which one it was when something fails.
fn each(world: &World, check: impl Fn(&Kubectl) -> Result<()>) -> Result<()> {
    for k in &world.kubectls {
        check(k).with_context(|| format!("with {}", k.program.display()))?;
    }
    Ok(())
}

/// The columns of a table's first line.
fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()
}

pub(super) fn reading(world: &mut World) -> Result<()> {
    each(world, |k| {
        let tables: &[(&str, &[&str])] = &[
            ("-n shop get pods", &["NAME", "READY", "STATUS", "RESTARTS", "AGE"]),
            (
                "-n shop get pods -o wide",
                &[
                    "NAME",
                    "READY",
                    "STATUS",
                    "RESTARTS",
                    "AGE",
                    "IP",
                    "NODE",
                    "NOMINATED NODE",
                    "READINESS GATES",
                ],
            ),
            ("-n shop get deployments", &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]),
            (
                "-n shop get deployments -o wide",
                &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"],
            ),
            ("-n shop get replicasets", &["NAME", "DESIRED", "CURRENT", "READY", "AGE"]),
            ("-n shop get services", &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]),
            ("-n shop get configmaps", &["NAME", "DATA", "AGE"]),
            ("-n shop get secrets", &["NAME", "TYPE", "DATA", "AGE"]),
            ("-n shop get endpointslices", &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]),
            ("-n shop get events", &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]),
            ("get namespaces", &["NAME", "STATUS", "AGE"]),
            ("get nodes", &["NAME", "STATUS", "ROLES", "AGE", "VERSION"]),
            ("get pods -A", &["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]),
            ("-n shop get pods --show-labels", &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "LABELS"]),
            ("-n shop get pods -o custom-columns=POD:.metadata.name,ON:.spec.nodeName", &["POD", "ON"]),
        ];
        for (line, want) in tables {
            let table = k.ok(line)?;
            ensure!(columns(&table) == *want, "`kubectl {line}` has columns {:?}", columns(&table));
        }
        k.prints("-n shop get deploy web", &["web", "3/3", "3"])?;
        k.prints("-n shop get svc web", &["NodePort", "80:30080/TCP"])?;
        k.prints(
            "-n shop get pod client -o yaml",
            &["apiVersion: v1", "kind: Pod", "podIP:", "qosClass: BestEffort"],
        )?;
        let json: serde_json::Value = serde_json::from_str(&k.ok("-n shop get pods -o json")?)?;
        ensure!(
            json["kind"] == "List" && json["items"].as_array().is_some_and(|i| i.len() == 4),
            "get -o json"
        );
        ensure!(k.ok("-n shop get pod client -o jsonpath={.status.phase}")? == "Running");
        ensure!(k.ok("-n shop get pods -l role=client -o name")? == "pod/client\n");
        ensure!(k.ok("-n shop get pods --field-selector=metadata.name=client -o name")? == "pod/client\n");
        ensure!(k.ok("-n shop get pods -l app=web --sort-by=.metadata.name -o name")?.lines().count() == 3);
        k.prints(
            "-n shop describe pod client",
            &[
                "Name:             client",
                "Status:           Running",
                "Container ID:  coracle://",
                "Events:",
                "Scheduled",
                "Started",
            ],
        )?;
        k.prints(
            "-n shop describe deployment web",
            &[
                "Replicas:               3 desired | 3 updated | 3 total | 3 available",
                "ScalingReplicaSet",
                "RollingUpdateStrategy:  25% max unavailable, 25% max surge",
            ],
        )?;
        k.prints(
            "-n shop describe service web",
            &["Type:                     NodePort", "Endpoints:", ":8080"],
        )?;
        k.prints("describe node n1", &["Capacity:", "Allocated resources:", "Ready", "KubeletReady"])?;
        k.prints(
            "explain deployment.spec.strategy",
            &["GROUP:      apps", "KIND:       Deployment", "rollingUpdate"],
        )?;
        k.prints("explain pod.spec.containers.livenessProbe --recursive", &["httpGet", "periodSeconds"])?;
        k.prints("-n shop events", &["LAST SEEN", "Scheduled"])?;
        k.prints(
            "-n shop get all",
            &["pod/client", "service/web", "deployment.apps/web", "replicaset.apps/web-"],
        )?;
        watching(k)
    })
}

/// `get -w` prints changes as they come.
fn watching(k: &Kubectl) -> Result<()> {
    k.ok("-n shop create configmap watched --from-literal=a=1")?;
    let child = k
        .command("-n shop get configmap watched -w --output-watch-events")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    pause(Duration::from_millis(700));
    k.ok("-n shop label configmap watched seen=yes")?;
    k.ok("-n shop delete configmap watched")?;
    pause(Duration::from_millis(700));
    let output = stop(child)?;
    contains("get -w", &output, &["ADDED", "MODIFIED", "DELETED"])
}

/// Ends a program that runs until it is told, and gives what it printed.
fn stop(child: std::process::Child) -> Result<String> {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

const TALKER: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"talker","namespace":"shop"},
 "spec":{"terminationGracePeriodSeconds":1,"containers":[
  {"name":"main","image":"busybox:1.35","stdin":true,"tty":false,"command":["sh","-c","i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done"]},
  {"name":"echo","image":"busybox:1.35","stdin":true,"command":["sh","-c","while read l; do echo heard $l; done"]}]}}"#;

pub(super) fn streaming(world: &mut World) -> Result<()> {
    world.kubectl().ok_with("apply -f -", TALKER)?;
    world.kubectl().ok("-n shop wait --for=condition=Ready pod/talker --timeout=60s")?;
    each(world, |k| {
        k.until(10, "-n shop logs talker -c main", |log| log.lines().count() > 3)?;
        k.prints("-n shop logs talker -c main --tail=2", &["line "])?;
        ensure!(k.ok("-n shop logs talker -c main --tail=3")?.lines().count() == 3);
        ensure!(k.ok("-n shop logs talker -c main --timestamps --tail=1")?.starts_with("20"));
        k.ok("-n shop logs talker -c main --since=1s")?;
        k.refuses(
            "-n shop logs talker -c main --previous",
            "",
            &["previous terminated container \"main\" in pod \"talker\" not found"],
        )?;
        let follow = k.command("-n shop logs -f talker -c main --tail=1").stdout(Stdio::piped()).spawn()?;
        pause(Duration::from_secs(1));
        ensure!(stop(follow)?.lines().count() >= 3, "logs -f goes on");
        k.prints("-n shop logs deploy/web --all-containers --tail=1", &[])?;

        ensure!(k.ok("-n shop exec client -- echo hi")? == "hi\n");
        let p = k.run("-n shop exec client -- sh -c 'echo out; echo err >&2; exit 7'")?;
        ensure!(p.code == Some(7) && p.out == "out\n" && p.err.contains("err\n"), "{p:?}");
        ensure!(
            k.ok_with("-n shop exec -i client -- sh -c 'wc -c'", &"x".repeat(300_000))?.trim() == "300000"
        );
        // A terminal: kubectl asks for one only when it has one itself, which `script` gives it.
        let tty = format!(
            "KUBECONFIG={} {} -n shop exec -it client -- sh -c 'tty; stty size'",
            k.kubeconfig.display(),
            k.program.display()
        );
        let out = output_of("script", &["-qec", &tty, "/dev/null"])?;
        contains("exec -it", &out, &["/dev/pts/0"])?;
        k.refuses("-n shop exec client -- nosuchprogram", "", &["nosuchprogram"])?;

        let out = attached(k)?;
        contains("attach -i", &out, &["heard hello"])?;

        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        std::fs::write(&file, "carried\n".repeat(10_000))?;
        k.ok(&format!("-n shop cp {} client:/tmp/file", file.display()))?;
        k.ok(&format!("-n shop cp client:/tmp/file {}/back", dir.path().display()))?;
        ensure!(std::fs::read(&file)? == std::fs::read(dir.path().join("back"))?, "cp there and back");
        forwarded(k)
    })
}

/// Says one line to a container's standard input and reads the answer.
fn attached(k: &Kubectl) -> Result<String> {
    let mut child = k
        .command("-n shop attach -i talker -c echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    pause(Duration::from_millis(700));
    std::io::Write::write_all(&mut stdin, b"hello\n")?;
    pause(Duration::from_millis(700));
    let printed = stop(child);
    drop(stdin);
    printed
}

fn forwarded(k: &Kubectl) -> Result<()> {
    let child = k
        .command("-n shop port-forward service/web 18080:80")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut page = String::new();
    for _ in 0..50 {
        page = output_of("curl", &["-s", "-m", "5", "http://127.0.0.1:18080/"])?;
        if !page.is_empty() {
            break;
        }
        pause(Duration::from_millis(100));
    }
    let again = output_of("curl", &["-s", "-m", "5", "http://127.0.0.1:18080/healthz"])?;
    contains("port-forward", &stop(child)?, &["Forwarding from 127.0.0.1:18080 -> 8080"])?;
    ensure!(
        page == "hello from the shop\n" && again == "fine\n",
        "port-forward gives {page:?} and {again:?}"
    );
    Ok(())
}

pub(super) fn creating(world: &mut World) -> Result<()> {
    each(world, |k| {
        k.prints("create namespace made", &["namespace/made created"])?;
        k.until(10, "-n made get serviceaccount default -o name", |o| o == "serviceaccount/default\n")?;
        let lines: &[(&str, &str)] = &[
            ("create deployment d1 --image=nginx:1.22 --replicas=1 --port=80", "deployment.apps/d1 created"),
            ("create configmap c1 --from-literal=a=b", "configmap/c1 created"),
            ("create secret generic s1 --from-literal=a=b", "secret/s1 created"),
            ("create job j1 --image=busybox:1.35 -- sh -c 'echo done'", "job.batch/j1 created"),
            ("create serviceaccount sa1", "serviceaccount/sa1 created"),
            ("create role r1 --verb=get,list --resource=pods", "role.rbac.authorization.k8s.io/r1 created"),
            (
                "create rolebinding rb1 --role=r1 --serviceaccount=made:sa1",
                "rolebinding.rbac.authorization.k8s.io/rb1 created",
            ),
            ("run p1 --image=busybox:1.35 --restart=Never -- sleep 1000", "pod/p1 created"),
            ("expose deployment d1 --port=80", "service/d1 exposed"),
            ("create quota q1 --hard=pods=10", "resourcequota/q1 created"),
        ];
        for (line, says) in lines {
            k.prints(&format!("-n made {line}"), &[says])?;
        }
        let token = k.ok("-n made create token sa1")?;
        ensure!(token.trim().split('.').count() == 3, "create token prints a JWT");
        k.ok("-n made wait --for=condition=complete job/j1 --timeout=60s")?;
        ensure!(k.ok("-n made logs job/j1")? == "done\n");
        k.ok("-n made rollout status deployment/d1 --timeout=60s")?;
        k.prints(
            "-n made run once --image=busybox:1.35 --restart=Never --rm -i --quiet -- echo once",
            &["once"],
        )?;
        k.prints(
            "-n made create deployment dry --image=x --dry-run=server -o name",
            &["deployment.apps/dry"],
        )?;
        k.refuses("-n made get deployment dry", "", &["deployments.apps \"dry\" not found"])?;
        k.refuses(
            "create namespace made",
            "",
            &["Error from server (AlreadyExists): namespaces \"made\" already exists"],
        )?;
        k.ok("delete namespace made --timeout=60s")?;
        k.refuses("get namespace made", "", &["Error from server (NotFound): namespaces \"made\" not found"])
    })
}

pub(super) fn changing(world: &mut World) -> Result<()> {
    each(world, |k| {
        k.ok("-n shop create deployment c --image=nginx:1.22")?;
        k.prints("-n shop scale deployment c --replicas=2", &["deployment.apps/c scaled"])?;
        k.until(60, "-n shop get deploy c -o jsonpath={.status.readyReplicas}", |o| o == "2")?;
        k.prints("-n shop label deployment c tier=x", &["deployment.apps/c labeled"])?;
        k.prints("-n shop annotate deployment c note=y", &["deployment.apps/c annotated"])?;
        k.prints(r#"-n shop patch deployment c --type=json -p '[{"op":"replace","path":"/spec/replicas","value":1}]'"#, &["patched"])?;
        k.prints(
            r#"-n shop patch deployment c --type=merge -p '{"metadata":{"labels":{"tier":null}}}'"#,
            &["patched"],
        )?;
        k.prints(r#"-n shop patch deployment c -p '{"spec":{"template":{"spec":{"containers":[{"name":"nginx","env":[{"name":"A","value":"1"}]}]}}}}'"#, &["patched"])?;
        ensure!(k.ok("-n shop get deploy c -o jsonpath={.spec.template.spec.containers[0].image}{.metadata.labels.tier}")? == "nginx:1.22");
        let edit = k
            .command("-n shop edit deployment c")
            .env("KUBE_EDITOR", "sed -i 's/replicas: 1/replicas: 2/'")
            .output()?;
        contains("edit", &String::from_utf8_lossy(&edit.stdout), &["deployment.apps/c edited"])?;
        let yaml = k.ok("-n shop get deployment c -o yaml")?;
        k.ok("-n shop wait --for=jsonpath={.status.readyReplicas}=2 deployment/c --timeout=60s")?;
        let fresh = k.ok("-n shop get configmap page -o yaml")?;
        let p = k.run_with("-n shop replace -f -", &fresh.replace("hello", "hallo"))?;
        ensure!(p.out.contains("configmap/page replaced"), "{p:?}");
        k.ok_with(
            "-n shop replace --force -f -",
            &k.ok("-n shop get configmap page -o yaml")?.replace("hallo", "hello"),
        )?;
        let diff = k.run_with("diff -f -", &yaml.replace("replicas: 2", "replicas: 3"))?;
        ensure!(diff.code == Some(1) && diff.out.contains("+  replicas: 3"), "diff: {diff:?}");
        k.prints("-n shop delete deployment c", &["deployment.apps \"c\" deleted"])?;
        k.until(60, "-n shop get pods -l app=c -o name", str::is_empty).map(drop)
    })
}

pub(super) fn rollouts(world: &mut World) -> Result<()> {
    each(world, |k| {
        k.ok("-n shop create deployment r --image=nginx:1.22")?;
        k.prints("-n shop rollout status deployment/r --timeout=60s", &["successfully rolled out"])?;
        k.prints("-n shop set image deployment/r nginx=docker.io/library/nginx:1.22", &["image updated"])?;
        k.ok("-n shop rollout status deployment/r --timeout=60s")?;
        k.prints("-n shop rollout history deployment/r", &["REVISION", "1 ", "2 "])?;
        k.prints("-n shop rollout history deployment/r --revision=2", &["docker.io/library/nginx:1.22"])?;
        k.prints("-n shop rollout undo deployment/r", &["rolled back"])?;
        k.ok("-n shop rollout status deployment/r --timeout=60s")?;
        ensure!(
            k.ok("-n shop get deploy r -o jsonpath={.spec.template.spec.containers[0].image}")?
                == "nginx:1.22"
        );
        k.prints("-n shop rollout restart deployment/r", &["restarted"])?;
        k.ok("-n shop rollout status deployment/r --timeout=60s")?;
        k.prints("-n shop rollout pause deployment/r", &["paused"])?;
        k.ok("-n shop set env deployment/r A=1")?;
        pause(Duration::from_millis(500));
        ensure!(
            k.ok("-n shop get rs -l app=r -o name")?.lines().count() == 3,
            "a paused rollout makes no ReplicaSet"
        );
        k.prints("-n shop rollout resume deployment/r", &["resumed"])?;
        k.ok("-n shop rollout status deployment/r --timeout=60s")?;
        k.ok("-n shop delete deployment r").map(drop)
    })
}

pub(super) fn nodes(world: &mut World) -> Result<()> {
    each(world, |k| {
        k.prints("cordon n1", &["node/n1 cordoned"])?;
        k.prints("get node n1", &["Ready,SchedulingDisabled"])?;
        k.ok("-n shop run waits --image=busybox:1.35 --restart=Never -- sleep 1000")?;
        k.until(20, "-n shop events --for pod/waits", |o| {
            o.contains("0/1 nodes are available: 1 node(s) were unschedulable")
        })?;
        k.prints("uncordon n1", &["node/n1 uncordoned"])?;
        k.ok("-n shop wait --for=condition=Ready pod/waits --timeout=60s")?;
        k.prints("taint nodes n1 key=value:NoSchedule", &["node/n1 tainted"])?;
        k.prints("taint nodes n1 key-", &["node/n1 untainted"])?;
        k.prints(
            "drain n1 --pod-selector=run=waits --force --grace-period=1 --timeout=60s",
            &["pod/waits evicted", "node/n1 drained"],
        )?;
        k.ok("uncordon n1").map(drop)
    })
}

pub(super) fn discovery(world: &mut World) -> Result<()> {
    each(world, |k| {
        k.prints("api-resources", &["deployments", "deploy", "apps/v1", "Deployment", "cronjobs"])?;
        k.prints("api-versions", &["apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1", "v1"])?;
        k.prints("version", &["Server Version: v1.36"])?;
        k.prints("cluster-info", &["Kubernetes control plane", "is running at"])?;
        ensure!(k.ok("auth can-i create deployments")? == "yes\n");
        k.refuses("auth can-i get pods --as=nobody", "", &[])?;
        k.prints("auth whoami", &["Username", "kubernetes-admin", "system:masters"])?;
        for (path, says) in [
            ("/version", "\"minor\": \"36\""),
            ("/livez?verbose", "livez check passed"),
            ("/readyz?verbose", "readyz check passed"),
            ("/healthz", "ok"),
            ("/metrics", "apiserver_request_total"),
        ] {
            k.prints(&format!("get --raw {path}"), &[says])?;
        }
        Ok(())
    })
}

/// Served by later versions: until then a clear answer, no crash and no hang.
pub(super) fn later(world: &mut World) -> Result<()> {
    let apply = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"ssa\",\"namespace\":\"shop\"}}";
    each(world, |k| {
        k.refuses("top nodes", "", &["Metrics API not available"])?;
        let p = k.run_with("apply --server-side -f -", apply)?;
        ensure!(
            p.code == Some(0) || p.err.starts_with("Error from server") || p.err.starts_with("error:"),
            "{p:?}"
        );
        let p = k.run("-n shop autoscale deployment web --max=5")?;
        ensure!(p.code == Some(0) || p.err.starts_with("Error from server"), "{p:?}");
        k.run("-n shop delete hpa web --ignore-not-found").map(drop)
    })
}
