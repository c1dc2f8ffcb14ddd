//! `coracle up`: everything on this machine, in the foreground, step by step.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use coracle_api::names;
use coracle_apiserver::authn::User;
use coracle_apiserver::bootstrap::service_address;
use coracle_apiserver::pki::{self, Leaf, Pki, ServingCertificate};
use coracle_apiserver::{Listen, Running, Server};
use jiff::Timestamp;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Up;
use crate::cluster_facts::ClusterFacts;
use crate::data_dir::Layout;
use crate::progress::Progress;
use crate::{node, preflight, shutdown};

/// Everything decided before the first step: what the user asked for, with the gaps filled in and checked.
pub(crate) struct Plan {
    pub layout: Layout,
    pub options: Up,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub service_cidr: (Ipv4Addr, u8),
    pub facts: ClusterFacts,
    /// Why no node runs; `None` when one does.
    pub no_node: Option<String>,
}

/// How long components may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

pub async fn run(options: Up) -> Result<()> {
    let progress = Progress::begin();
    let stop = shutdown::on_signal()?;
    let plan = Plan::of(options)?;
    let (pki, running) = control_plane(&plan, &progress).await?;

    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    start_loops(&mut parts, &running, &plan.node_name, Some(pki.ca()), &stop);
    progress.step("scheduler and controllers started");
    match &plan.no_node {
        None => node::start(&mut parts, &plan, &running, &pki, &progress, &stop).await?,
        Some(why) => progress.step(format_args!("no node: {why}; this is the control plane alone")),
    }
    advise(&plan, &progress);
    wait(&mut parts, &stop).await?;
    progress.step("stopping; pods go on running");
    finish(parts, running).await;
    Ok(())
}

/// The API server alone: upstream's scheduler and controllers, or ours, may join it.
pub(crate) async fn control_plane_without_loops(mut options: Up) -> Result<()> {
    options.no_node = true;
    let progress = Progress::begin();
    let stop = shutdown::on_signal()?;
    let plan = Plan::of(options)?;
    let (_, running) = control_plane(&plan, &progress).await?;
    advise(&plan, &progress);
    stop.cancelled().await;
    finish(JoinSet::new(), running).await;
    Ok(())
}

async fn control_plane(plan: &Plan, progress: &Progress) -> Result<(Arc<Pki>, Running)> {
    let known = plan.layout.open()?;
    plan.facts.keep(&plan.layout)?;
    let found = if known { "found" } else { "made" };
    progress.step(format_args!("data directory {} {found}", plan.layout.data.display()));

    let now = Timestamp::now();
    let pki = Arc::new(Pki::open(&plan.layout.pki(), now).context("certificates")?);
    let kubeconfig = write_kubeconfig(plan, &pki, now)?;
    progress.step(format_args!("certificates ready, kubeconfig {}", kubeconfig.display()));

    let mut addresses = plan.options.tls_san.clone();
    addresses.extend([
        plan.node_ip,
        plan.options.bind_address,
        IpAddr::V4(service_address(plan.service_cidr)),
    ]);
    let leaf = Leaf::api_server(&plan.node_name, &addresses, &plan.options.cluster_domain);
    let certificate = ServingCertificate::new(&pki.issue(&leaf, now)?)?;
    let config = coracle_apiserver::Config {
        data_dir: Some(plan.layout.data.clone()),
        pki: Some(pki.clone()),
        listen: Some(Listen {
            addr: SocketAddr::new(plan.options.bind_address, plan.options.port),
            tls: pki::server_config(&pki, certificate)?,
        }),
        service_cidr: plan.service_cidr,
        advertise: SocketAddr::new(plan.node_ip, plan.options.port),
        ..coracle_apiserver::Config::default()
    };
    let running = Server::start(config, CancellationToken::new()).await.context("API server")?;
    progress.step(format_args!(
        "API server ready on {}",
        running.addr.context("the API server has no listener")?
    ));
    Ok((pki, running))
}

/// The administrator's kubeconfig, in the data directory and where else the user wants it.
fn write_kubeconfig(plan: &Plan, pki: &Pki, now: Timestamp) -> Result<PathBuf> {
    let admin = pki.issue(&Leaf::admin(), now)?;
    let text = pki::kubeconfig("coracle", &plan.server_url(), pki.ca(), &admin);
    let file = plan.options.kubeconfig.clone().unwrap_or_else(|| plan.layout.kubeconfig());
    pki::write_private(&plan.layout.kubeconfig(), &text)?;
    if file != plan.layout.kubeconfig() {
        pki::write_private(&file, &text)?;
    }
    Ok(file)
}

/// Scheduler and controllers, each as its own user, in process.
pub(crate) fn start_loops(
    parts: &mut JoinSet<Result<()>>,
    running: &Running,
    host: &str,
    root_ca: Option<&str>,
    stop: &CancellationToken,
) {
    let scheduler = coracle_scheduler::Config::new(in_process(running, names::USER_SCHEDULER, &[]), host);
    let token = stop.child_token();
    parts.spawn(async move { coracle_scheduler::run(scheduler, token).await.context("scheduler") });

    let mut controllers = coracle_controllers::Config::new(in_process(
        running,
        names::USER_CONTROLLER_MANAGER,
        &[names::GROUP_MASTERS],
    ));
    controllers.root_ca = root_ca.map(str::to_owned);
    let token = stop.child_token();
    parts.spawn(async move { coracle_controllers::run(controllers, token).await.context("controllers") });
}

/// A client of the server in this process, as the given user.
pub(crate) fn in_process(running: &Running, user: &str, groups: &[&str]) -> Client {
    let groups = groups.iter().chain(&[names::GROUP_AUTHENTICATED]).map(|&g| g.to_owned()).collect();
    let user = User { name: user.to_owned(), groups, ..User::default() };
    Client::new(running.router(user), names::NAMESPACE_DEFAULT)
}

/// What the user needs next.
fn advise(plan: &Plan, progress: &Progress) {
    let kubeconfig = plan.options.kubeconfig.clone().unwrap_or_else(|| plan.layout.kubeconfig());
    progress.line(format_args!("\nserver:  {}", plan.server_url()));
    progress.line(format_args!("export KUBECONFIG={}", kubeconfig.display()));
    progress.line("kubectl get nodes,pods -A");
}

/// Until the user stops it, or a part fails.
async fn wait(parts: &mut JoinSet<Result<()>>, stop: &CancellationToken) -> Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = parts.join_next() => match ended.context("a component panicked").flatten() {
            _ if stop.is_cancelled() => Ok(()),
            Ok(()) => bail!("a component ended by itself"),
            Err(error) => Err(error),
        },
    }
}

async fn finish(mut parts: JoinSet<Result<()>>, running: Running) {
    let stopped = async {
        while let Some(ended) = parts.join_next().await {
            if let Err(error) = ended.context("a component panicked").flatten() {
                tracing::warn!("while stopping: {error:#}");
            }
        }
        running.stop().await;
    };
    if tokio::time::timeout(STOP_WITHIN, stopped).await.is_err() {
        tracing::warn!("not everything stopped within {STOP_WITHIN:?}");
    }
}

// === impl Plan ===

impl Plan {
    fn of(options: Up) -> Result<Self> {
        let layout = Layout::of(options.data.data_dir.as_deref())?;
        let no_node = if options.no_node { Some("--no-node".to_owned()) } else { preflight::why_no_node() };
        let node_ip = match (options.node_ip, preflight::node_ip()) {
            (Some(ip), _) => ip,
            (None, Ok(ip)) => ip,
            // Without pods nobody but this machine needs to reach it.
            (None, Err(_)) if no_node.is_some() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (None, Err(error)) => return Err(error),
        };
        let node_name = options.node_name.clone().map_or_else(preflight::host_name, Ok)?;
        let service_cidr = cidr(&options.service_cidr).context("--service-cidr")?;
        cidr(&options.cluster_cidr).context("--cluster-cidr")?;
        ensure!(service_cidr.1 <= 24, "--service-cidr {}: at least a /24 is needed", options.service_cidr);
        let cluster_dns = options.cluster_dns.unwrap_or_else(|| tenth(service_cidr));
        preflight::port_is_free("API server", "--port", SocketAddr::new(options.bind_address, options.port))?;
        if no_node.is_none() {
            preflight::nft()?;
            let kubelet = SocketAddr::new(options.bind_address, options.kubelet_port);
            preflight::port_is_free("node", "--kubelet-port", kubelet)?;
        }
        let facts = ClusterFacts {
            service_cidr: options.service_cidr.clone(),
            cluster_cidr: options.cluster_cidr.clone(),
            cluster_dns,
            cluster_domain: options.cluster_domain.clone(),
        };
        Ok(Plan { layout, node_name, node_ip, service_cidr, facts, no_node, options })
    }

    fn server_url(&self) -> String {
        let host = match self.options.bind_address {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        format!("https://{}", SocketAddr::new(host, self.options.port))
    }
}

/// The tenth address of a range: where upstream's installers put the cluster's DNS.
fn tenth((network, _): (Ipv4Addr, u8)) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(network) + 10))
}

/// An IPv4 range in CIDR notation, its host bits cleared.
pub(crate) fn cidr(text: &str) -> Result<(Ipv4Addr, u8)> {
    let parsed = text
        .split_once('/')
        .and_then(|(ip, bits)| Some((ip.parse::<Ipv4Addr>().ok()?, bits.parse::<u8>().ok()?)));
    match parsed {
        Some((ip, bits @ 1..=32)) => Ok((Ipv4Addr::from(u32::from(ip) & (u32::MAX << (32 - bits))), bits)),
        _ => bail!("{text:?} is no IPv4 range such as 10.96.0.0/16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_and_refused() {
        assert_eq!(cidr("10.96.3.0/16").unwrap(), (Ipv4Addr::new(10, 96, 0, 0), 16));
        assert_eq!(tenth(cidr("10.96.0.0/16").unwrap()), IpAddr::from([10, 96, 0, 10]));
        for bad in ["", "10.96.0.0", "10.96.0.0/0", "10.96.0.0/33", "fd00::/64", "x/8"] {
            assert!(format!("{:#}", cidr(bad).unwrap_err()).contains("is no IPv4 range"), "{bad}");
        }
    }
}
