//! `coracle up`: everything on this machine, in the foreground, step by step.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use coracle_api::{Cidr, names};
use coracle_apiserver::authn::User;
use coracle_apiserver::bootstrap::service_address;
use coracle_apiserver::pki::renewal::{self, Renewed};
use coracle_apiserver::pki::{self, Authority, Identity, Leaf, Pki, ServingCertificate};
use coracle_apiserver::{Listen, Running, Server};
use coracle_kubelet::tasks::supervised;
use jiff::Timestamp;
use kube::Client;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::{Part, Up};
use crate::place::Place;
use crate::progress::Progress;
use crate::service_manager::ServiceManager;
use crate::{admin, flags, node, preflight, shutdown};

/// Everything decided before the first step: what the user asked for, with the gaps filled in and checked.
pub(crate) struct Plan {
    pub place: Place,
    pub options: Up,
    pub service_cidr: (Ipv4Addr, u8),
    /// Why no node runs; `None` when one does.
    pub no_node: Option<String>,
}

/// How long components may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Runs until the user ends it; the API server on workers of `api`'s.
pub async fn run(options: Up, api: &Handle) -> Result<()> {
    let progress = Progress::begin();
    let stop = shutdown::on_signal()?;
    let plan = Plan::of(options)?;
    let (pki, running, renewed) = control_plane(&plan, &progress, api).await?;

    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    keep_valid(&mut parts, &pki, renewed, &stop);
    let without = &plan.options.without;
    let controllers = Controllers {
        cluster_cidr: Some(plan.place.facts.cluster_cidr.parse()?),
        service_cidr: Some(plan.place.facts.service_cidr.parse()?),
        ..Controllers::trusted(&pki)
    };
    start_loops(&mut parts, &running, &plan.place.node_name, controllers, without, &stop);
    progress.step(match (without.contains(&Part::Scheduler), without.contains(&Part::Controllers)) {
        (false, false) => "scheduler and controllers started",
        (true, false) => "controllers started; the scheduler is left out",
        (false, true) => "scheduler started; the controllers are left out",
        (true, true) => "scheduler and controllers are left out",
    });
    match &plan.no_node {
        None => node::start(&mut parts, &plan.place, &running, &pki, &progress, &stop).await?,
        Some(why) => progress.step(format_args!("no node: {why}; this is the control plane alone")),
    }
    advise(&plan, &progress);
    announce(&mut parts, &running, &plan.server_url(), &stop).await;
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
    let (pki, running, renewed) = control_plane(&plan, &progress, &Handle::current()).await?;
    let mut parts = JoinSet::new();
    keep_valid(&mut parts, &pki, renewed, &stop);
    advise(&plan, &progress);
    announce(&mut parts, &running, &plan.server_url(), &stop).await;
    stop.cancelled().await;
    finish(parts, running).await;
    Ok(())
}

/// Renews certificates until the end.
pub(crate) fn keep_valid(
    parts: &mut JoinSet<Result<()>>,
    pki: &Pki,
    renewed: Vec<Arc<Renewed>>,
    stop: &CancellationToken,
) {
    let (clock, token) = (pki.clock(), stop.child_token());
    parts.spawn(async move {
        renewal::run(renewed, clock, token).await;
        Ok(())
    });
}

async fn control_plane(
    plan: &Plan,
    progress: &Progress,
    api: &Handle,
) -> Result<(Arc<Pki>, Running, Vec<Arc<Renewed>>)> {
    let Place { layout, node_name, node_ip, facts, options } = &plan.place;
    let known = layout.open()?;
    facts.keep(layout)?;
    let found = if known { "found" } else { "made" };
    progress.step(format_args!("data directory {} {found}", layout.data.display()));

    let now = Timestamp::now();
    let pki = Arc::new(Pki::open(&layout.pki(), now).context("certificates")?);
    let (own, wanted) = (layout.kubeconfig(), plan.options.kubeconfig.as_deref());
    let kubeconfig = admin::kubeconfig(&pki, &plan.server_url(), &own, wanted)?;
    progress.step(format_args!("certificates ready, kubeconfig {}", wanted.unwrap_or(&own).display()));

    let mut addresses = plan.options.tls_san.clone();
    addresses.extend([*node_ip, options.bind_address, IpAddr::V4(service_address(plan.service_cidr))]);
    let leaf = Leaf::api_server(node_name, &addresses, &options.cluster_domain);
    let advertise = SocketAddr::new(*node_ip, plan.options.port);
    layout.advertise(advertise)?;
    let certificate = ServingCertificate::new(&pki.issue(&leaf, now)?)?;
    let config = coracle_apiserver::Config {
        data_dir: Some(layout.data.clone()),
        pki: Some(pki.clone()),
        listen: Some(Listen {
            addr: SocketAddr::new(options.bind_address, plan.options.port),
            tls: pki::server_config(&pki, certificate.clone())?,
        }),
        service_cidr: plan.service_cidr,
        advertise,
        access: plan.options.access.options()?,
        max_watches_per_user: plan.options.bounds.max_watches_per_user,
        max_sessions_per_user: plan.options.bounds.max_sessions_per_user,
        ..coracle_apiserver::Config::default()
    };
    let started = api.spawn(Server::start(config, CancellationToken::new())).await.context("API server")?;
    let running = started.context("API server")?;
    progress.step(format_args!(
        "API server ready on {}",
        running.addr.context("the API server has no listener")?
    ));
    let serving = pki.renewed(leaf, vec![certificate])?;
    Ok((pki, running, vec![kubeconfig, serving]))
}

/// What the controllers are told of the cluster.
#[derive(Default)]
pub(crate) struct Controllers {
    pub root_ca: Option<watch::Receiver<String>>,
    pub signing: Option<watch::Receiver<coracle_controllers::Signing>>,
    pub names_of_node: Option<coracle_controllers::NamesOfNode>,
    pub sign_token: Option<coracle_controllers::SignToken>,
    pub cluster_cidr: Option<Cidr>,
    pub service_cidr: Option<Cidr>,
}

impl Controllers {
    /// With what the cluster's authorities hold, now and when they are renewed: what to trust, and what to sign with.
    pub(crate) fn trusted(pki: &Arc<Pki>) -> Self {
        let (key, given) = (pki.signing_key(), pki.clone());
        let signing = |authority: &Identity| coracle_controllers::Signing {
            certificate: authority.certificate.clone(),
            key: authority.key.clone(),
        };
        Controllers {
            root_ca: Some(each(pki.follow(Authority::Cluster), |authority| authority.certificate.clone())),
            signing: Some(each(pki.follow(Authority::Cluster), signing)),
            names_of_node: Some(Arc::new(move |node| given.names_given_to(node))),
            sign_token: Some(Arc::new(move |claims| key.jws(&claims.to_string()))),
            ..Controllers::default()
        }
    }
}

/// What follows from each value, for as long as anybody looks.
fn each<T, U>(mut values: watch::Receiver<T>, what: impl Fn(&T) -> U + Send + 'static) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: Send + Sync + 'static,
{
    let (follow, followed) = watch::channel(what(&values.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = follow.closed() => return,
                changed = values.changed() => if changed.is_err() { return },
            }
            follow.send_replace(what(&values.borrow()));
        }
    });
    followed
}

/// Scheduler and controllers, each of them as its own user, in process. None is an administrator.
pub(crate) fn start_loops(
    parts: &mut JoinSet<Result<()>>,
    running: &Running,
    host: &str,
    controllers: Controllers,
    without: &[Part],
    stop: &CancellationToken,
) {
    if !without.contains(&Part::Scheduler) {
        let user = in_process(running, "kube-scheduler", names::USER_SCHEDULER, &[]);
        let config = coracle_scheduler::Config::new(user, host);
        let token = stop.child_token();
        parts.spawn(async move {
            let run = supervised("scheduler", || coracle_scheduler::run(config.clone(), token.clone()));
            run.await.context("scheduler")
        });
    }
    if !without.contains(&Part::Controllers) {
        let user = in_process(running, "kube-controller-manager", names::USER_CONTROLLER_MANAGER, &[]);
        let api = running.router(User::default()).as_program("kube-controller-manager");
        let Controllers { root_ca, signing, names_of_node, sign_token, cluster_cidr, service_cidr } =
            controllers;
        let config = coracle_controllers::Config {
            accounts: Some(Arc::new(move |account: &str| {
                Client::new(api.clone().as_user(system_account(account)), names::NAMESPACE_DEFAULT)
            })),
            root_ca,
            signing,
            names_of_node,
            sign_token,
            cluster_cidr,
            service_cidr,
            ..coracle_controllers::Config::new(user)
        };
        let token = stop.child_token();
        parts.spawn(async move {
            let run = supervised("controllers", || coracle_controllers::run(config.clone(), token.clone()));
            run.await.context("controllers")
        });
    }
}

/// The user that a ServiceAccount of `kube-system` is.
fn system_account(name: &str) -> User {
    let (all, namespace) = (names::GROUP_SERVICE_ACCOUNTS, names::NAMESPACE_SYSTEM);
    let user = format!("system:serviceaccount:{namespace}:{name}");
    User::component(&user, &[all, &format!("{all}:{namespace}")])
}

/// A client of the server in this process, as the given program and user.
pub(crate) fn in_process(running: &Running, program: &'static str, user: &str, groups: &[&str]) -> Client {
    let groups = groups.iter().chain(&[names::GROUP_AUTHENTICATED]).map(|&g| g.to_owned()).collect();
    let user = User { name: user.to_owned(), groups, ..User::default() };
    Client::new(running.router(user).as_program(program), names::NAMESPACE_DEFAULT)
}

/// Tells the service manager that all is up, and from then on, where it asks for it, that the API server answers.
async fn announce(parts: &mut JoinSet<Result<()>>, running: &Running, url: &str, stop: &CancellationToken) {
    let (manager, stop) = (ServiceManager::of_environment(), stop.child_token());
    manager.ready(&format!("Serving {url}")).await;
    let client = in_process(running, "coracle", names::USER_APISERVER, &[]);
    parts.spawn(async move {
        let lives = || {
            let client = client.clone();
            async move {
                let question = http::Request::get("/livez").body(vec![]).expect("the path is one");
                client.request_text(question).await.is_ok()
            }
        };
        stop.run_until_cancelled(manager.watch(lives)).await;
        Ok(())
    });
}

/// What the user needs next.
fn advise(plan: &Plan, progress: &Progress) {
    let kubeconfig = plan.options.kubeconfig.clone().unwrap_or_else(|| plan.place.layout.kubeconfig());
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
        let no_node = if options.no_node { Some("--no-node".to_owned()) } else { preflight::why_no_node() };
        flags::check(&options.node)?;
        if let Some(file) = &options.kubeconfig {
            flags::writable_file("--kubeconfig", file)?;
        }
        let service_cidr = cidr(&options.node.service_cidr).context("--service-cidr")?;
        let listen = SocketAddr::new(options.node.bind_address, options.port);
        preflight::port_is_free("API server", "--port", listen)?;
        let place = Place::of(options.node.clone(), no_node.is_none())?;
        Ok(Plan { place, service_cidr, no_node, options })
    }

    fn server_url(&self) -> String {
        let host = match self.options.node.bind_address {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        format!("https://{}", SocketAddr::new(host, self.options.port))
    }
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
        for bad in ["", "10.96.0.0", "10.96.0.0/0", "10.96.0.0/33", "fd00::/64", "x/8"] {
            assert!(format!("{:#}", cidr(bad).unwrap_err()).contains("is no IPv4 range"), "{bad}");
        }
    }
}
