//! Two nodes in namespaces of their own, one pod on each: the pods fetch from each other by address, by Service and by name,
//! and the API server reaches both kubelets. Needs root; a program of its own, since a namespace is for one thread.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use coracle_conformance::cluster::{self, Cluster};
use coracle_conformance::kubectl::{Kubectl, programs};
use coracle_conformance::netns;
use nix::sys::signal::Signal;

const PODS: &str = include_str!("two_nodes.yaml");

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: nodes need root");
        return ExitCode::SUCCESS;
    }
    let Some(kubectl) = programs().into_iter().next() else {
        println!("skipped: kubectl is not installed");
        return ExitCode::SUCCESS;
    };
    match run(&kubectl) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(kubectl: &Path) -> Result<()> {
    let test = std::env::current_exe()?;
    let program = test.parent().and_then(Path::parent).context("a target folder")?.join("coracle");
    cluster::build(&program)?;
    let namespace = netns::enter_new_with(2)?;
    let scratch = tempfile::Builder::new().prefix("coracle-two-nodes-").tempdir()?;
    let cluster = Cluster::new(&program, &scratch.path().join("data"), &[]);
    let mut cluster = cluster.with_machines(&namespace.machines, &[])?;
    coracle_conformance::clients::import(
        &cluster,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/images"),
        &["build"],
    )?;
    cluster.up()?;
    let kubectl = cluster.kubectl(kubectl);
    let checked = pods(&kubectl).and_then(|()| silence(&kubectl, &mut cluster));
    cluster.purge()?;
    checked
}

fn pods(kubectl: &Kubectl) -> Result<()> {
    let ranges = kubectl.ok("get nodes -o jsonpath='{.items[*].spec.podCIDR}'")?;
    ensure!(ranges == "10.244.0.0/24 10.244.1.0/24", "each node has a range of its own: {ranges}");
    kubectl.ok_with("apply -f -", PODS)?;
    kubectl.ok("wait --for=condition=Ready pod --all --timeout=60s")?;
    for (from, to) in [("a", "b"), ("b", "a")] {
        let ip = kubectl.ok(&format!("get pod {to} -o jsonpath='{{.status.podIP}}'"))?;
        let own = kubectl.ok(&format!("get pod {from} -o jsonpath='{{.status.podIP}}'"))?;
        // In this order: by the pod's address, by a Service's name, by a node port of the other node.
        let node = if to == "a" { "192.0.2.1" } else { "192.0.2.2" };
        for url in [
            format!("{ip}:8080/cgi-bin/who"),
            format!("{to}/cgi-bin/who"),
            format!("{node}:30080/cgi-bin/who"),
        ] {
            let said = kubectl.ok(&format!("exec {from} -- curl -sS -m 10 http://{url}"))?;
            let name = said.split_whitespace().next().unwrap_or_default();
            ensure!(name == to || url.contains("30080"), "{from} asked {url} and heard {said:?}");
            // What a node port answers may have come through the node.
            ensure!(
                said.contains(&own) || url.contains("30080"),
                "{to} saw another address than {own}: {said:?}"
            );
        }
        let said =
            kubectl.ok(&format!("get --raw /api/v1/namespaces/default/pods/{to}:8080/proxy/cgi-bin/who"))?;
        ensure!(said.starts_with(to), "the API server's proxy to {to} said {said:?}");
        kubectl.prints(&format!("logs {to}"), &["serving"])?;
    }
    Ok(())
}

/// A kubelet that is gone: its pods go on, and the node comes back as it was.
fn silence(kubectl: &Kubectl, cluster: &mut Cluster) -> Result<()> {
    cluster.further[0].signal(Signal::SIGKILL)?;
    let ip = kubectl.ok("get pod b -o jsonpath='{.status.podIP}'")?;
    kubectl.ok(&format!("exec a -- curl -sS -m 10 http://{ip}:8080/cgi-bin/who"))?;
    ensure!(cluster.restart_if_gone()?, "the node was gone");
    kubectl.prints("exec b -- echo back", &["back"])?;
    kubectl.prints("get pod b -o jsonpath='{.status.containerStatuses[0].restartCount}'", &["0"]).map(drop)
}
