//! Making a pod's sandbox, network, volumes and files.

use std::{io, net::IpAddr, sync::Arc};

use coracle_api::resources::QosClass;
use k8s_openapi::api::{
    core::v1::{ContainerPort, Pod, PodSpec},
    node::v1::RuntimeClass,
};
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    env::PodFacts,
    naming,
    node_context::NodeContext,
    own_users::{COUNTS, has_own},
    resources,
    view::{name_of, namespace_of, spec_of, uid_of},
};
use crate::{
    Config,
    beneath::{Access, Dir, Links, off_workers},
    cri::{Resources, SandboxSpec},
    net::{HostPort, Protocol},
    volumes::{
        self, Paths, VolumeError,
        projection::{Inputs, Tokens},
    },
};

pub(super) fn facts(node: &NodeContext, pod: &Pod, ips: Vec<IpAddr>) -> PodFacts {
    let pod_ips = if spec_of(pod).host_network == Some(true) { node.host_ips() } else { ips };
    PodFacts {
        pod_ips,
        host_ips: node.host_ips(),
        cpu_milli: node.capacity.cpus * 1000,
        memory: node.capacity.memory,
        ephemeral_storage: node.capacity.storage,
    }
}

/// Why a pod has no sandbox or no volumes.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetUpError {
    #[error("Failed to create pod sandbox: {0}")]
    Sandbox(String),
    #[error(transparent)]
    Volumes(#[from] VolumeError),
    #[error("the pod is to end")]
    Ending,
}

// === impl SetUpError ===

impl SetUpError {
    /// Of the event that tells of it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            SetUpError::Volumes(_) => "FailedMount",
            SetUpError::Sandbox(_) | SetUpError::Ending => "FailedCreatePodSandBox",
        }
    }
}

fn sandbox_error(error: impl std::fmt::Display) -> SetUpError {
    SetUpError::Sandbox(error.to_string())
}

/// May be repeated: what is there stays. `stop` ends the wait for volumes only, never a step half done.
pub(super) async fn set_up(
    node: &Arc<NodeContext>,
    pod: &Arc<Pod>,
    wake: &Arc<Notify>,
    tokens: &Tokens,
    stop: &CancellationToken,
) -> Result<(Vec<IpAddr>, Paths), SetUpError> {
    let begins = node.runtime.users_of(uid_of(pod)).is_none();
    if begins {
        COUNTS.begin(pod);
    }
    let made = make(node, pod, wake, tokens, stop).await;
    if begins && made.is_err() {
        COUNTS.fail(pod);
    }
    made
}

async fn make(
    node: &Arc<NodeContext>,
    pod: &Arc<Pod>,
    wake: &Arc<Notify>,
    tokens: &Tokens,
    stop: &CancellationToken,
) -> Result<(Vec<IpAddr>, Paths), SetUpError> {
    let places = node.places(pod).map_err(sandbox_error)?;
    let config = &node.config;
    let sandbox = sandbox(config, pod).map_err(SetUpError::Sandbox)?;
    handler(&config.client, spec_of(pod)).await.map_err(SetUpError::Sandbox)?;
    let made = node.runtime.create_sandbox(&sandbox).await.map_err(sandbox_error)?;
    let ips = match &made.netns {
        Some(netns) => {
            let address = node.network().setup(uid_of(pod), netns, &host_ports(pod)).await;
            vec![address.map_err(sandbox_error)?.ip.into()]
        }
        None => node.host_ips(),
    };
    let facts = facts(node, pod, ips.clone());
    let inputs = Inputs { client: &config.client, sources: &node.sources, wake, facts: &facts, tokens };
    let mounted = stop.run_until_cancelled(volumes::mount_all(&places, pod, &inputs)).await;
    let paths = mounted.ok_or(SetUpError::Ending)??;
    let (node, pod, addresses) = (node.clone(), pod.clone(), ips.clone());
    off_workers(move || write_files(&node, &pod, &addresses)).await.map_err(sandbox_error)?;
    Ok((ips, paths))
}

/// The files that every container of the pod has mounted, by the name they have in the pod's directory.
pub(super) const FILES: [(&str, &str); 3] =
    [("etc-hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")];

fn write_files(node: &NodeContext, pod: &Pod, ips: &[IpAddr]) -> io::Result<()> {
    let (config, dir) = (&node.config, node.places(pod)?.open()?);
    for (file, _) in FILES {
        // Containers have it mounted, and may have written to it.
        if dir.entry(file)?.is_some() {
            continue;
        }
        let text = match file {
            "etc-hosts" => {
                naming::hosts_file(pod, ips, &config.node_name, &config.cluster_domain, &of_host("etc/hosts"))
            }
            "resolv.conf" => naming::resolv_conf(
                spec_of(pod),
                namespace_of(pod),
                config.cluster_dns,
                &config.cluster_domain,
                &of_host("etc/resolv.conf"),
            ),
            _ => {
                let name = naming::kernel_hostname(pod, &config.node_name, &config.cluster_domain);
                format!("{}\n", name.map_err(io::Error::other)?)
            }
        };
        dir.write(file, text.as_bytes(), Access::mode(0o644))?;
    }
    Ok(())
}

/// A file of the host's own; what it does not have is empty.
fn of_host(path: &str) -> String {
    const MOST: u64 = 1 << 20;
    let data = Dir::open("/").and_then(|root| root.read(path, Links::AsRoot, MOST));
    data.map_or_else(|_| String::new(), |data| String::from_utf8_lossy(&data).into_owned())
}

/// What a RuntimeClass may name as its handler here.
pub(crate) const OWN_HANDLERS: [&str; 2] = ["coracle", "runc"];

/// Another way to run containers than ours cannot be had: a pod that needs stronger walls must not run without them.
async fn handler(client: &Client, spec: &PodSpec) -> Result<(), String> {
    let Some(name) = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let classes: Api<RuntimeClass> = Api::all(client.clone());
    let class = match classes.get_opt(name).await {
        Ok(Some(class)) => class,
        Ok(None) => return Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
        Err(error) => return Err(format!("failed to lookup RuntimeClass {name}: {error}")),
    };
    if OWN_HANDLERS.contains(&class.handler.as_str()) {
        Ok(())
    } else {
        Err(format!("failed to get sandbox runtime: no runtime for {:?} is configured", class.handler))
    }
}

fn sandbox(config: &Config, pod: &Pod) -> Result<SandboxSpec, String> {
    let spec = spec_of(pod);
    let sysctls = spec.security_context.iter().filter_map(|s| s.sysctls.as_ref()).flatten();
    Ok(SandboxSpec {
        pod_uid: uid_of(pod).to_owned(),
        namespace: namespace_of(pod).to_owned(),
        name: name_of(pod).to_owned(),
        hostname: naming::kernel_hostname(pod, &config.node_name, &config.cluster_domain)?,
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        own_users: has_own(pod),
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
        resources: Resources { pids_limit: config.pod_max_pids, ..resources::pod_resources(pod) },
        qos: QosClass::of_pod(pod),
    })
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = spec_of(pod);
    let ports =
        spec.init_containers.iter().flatten().chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
    let own_ip = |p: &ContainerPort| p.host_ip.as_deref().and_then(|ip| ip.parse().ok());
    let port = |p: &ContainerPort| {
        Some(HostPort {
            host_ip: own_ip(p).filter(|ip: &std::net::Ipv4Addr| !ip.is_unspecified()),
            host_port: u16::try_from(p.host_port?).ok().filter(|p| *p > 0)?,
            container_port: u16::try_from(p.container_port).ok()?,
            protocol: Protocol::parse(p.protocol.as_deref().unwrap_or_default())?,
        })
    };
    ports.filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::client;

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    #[tokio::test]
    async fn a_pod_whose_runtime_this_node_does_not_have_gets_no_sandbox() {
        let api = client(|path| {
            let handler = match path.strip_prefix("/apis/node.k8s.io/v1/runtimeclasses/")? {
                "ours" => "runc",
                "sealed" => "kata",
                _ => return None,
            };
            Some(json!({"metadata": {"name": "x"}, "handler": handler}))
        });
        for (class, refused) in [
            (None, None),
            (Some(""), None),
            (Some("ours"), None),
            (Some("sealed"), Some("failed to get sandbox runtime: no runtime for \"kata\" is configured")),
            (Some("missing"), Some("runtimeclass.node.k8s.io \"missing\" not found")),
        ] {
            let pod = pod(&json!({"containers": [], "runtimeClassName": class}));
            let answer = handler(&api, spec_of(&pod)).await;
            assert_eq!(answer.err().as_deref(), refused, "{class:?}");
        }
    }

    #[tokio::test]
    async fn the_nodes_limit_of_processes_is_that_of_every_pods_group() {
        let mut config = Config::new(client(|_| None), "node", IpAddr::from([192, 0, 2, 1]));
        assert_eq!(config.pod_max_pids, Some(4096), "a fork bomb ends at its pod's wall by default");
        for limit in [None, Some(20)] {
            config.pod_max_pids = limit;
            let own = json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}}}]});
            for spec in [json!({"containers": [{"name": "c"}]}), own] {
                assert_eq!(sandbox(&config, &pod(&spec)).unwrap().resources.pids_limit, limit, "{spec}");
            }
        }
    }
}
