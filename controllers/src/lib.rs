//! The controllers: one runtime, one file per reconciler.
//!
//! Every controller is an ordinary client of the API: it reads shared caches, decides with pure functions and writes
//! through the API server. Nothing here knows who serves the API.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::type_complexity, reason = "tests, and tables of cases"))]

mod catalog;
mod certificates;
mod claims;
mod cluster_role_aggregation;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod gc;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_control;
mod pod_gc;
mod pods;
mod pods_by_node;
mod replicaset;
mod resource_quota;
mod revisions;
mod root_ca;
mod runtime;
mod service_account;
mod service_account_tokens;
mod statefulset;
mod taint_eviction;
mod volume_protection;

use std::sync::Arc;

use coracle_api::Cidr;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the controllers need to know.
#[derive(Clone)]
pub struct Config {
    /// The way to the API server; its user needs the rights of `system:kube-controller-manager`, and those of every
    /// controller where these have no accounts of their own.
    pub client: kube::Client,
    /// Where each controller has an account of its own, as upstream's `--use-service-account-credentials`; what all
    /// share, the watches and the events, goes through `client` even then.
    pub accounts: Option<ClientOf>,
    /// Names of controllers to run, as upstream's `--controllers`: `*` for all, `-name` to leave one out.
    pub controllers: Vec<String>,
    /// Signs the certificate requests of the `kubernetes.io` signers, as it is from time to time; nobody does without it.
    pub signing: Option<watch::Receiver<Signing>>,
    /// Under which names and addresses the administrator lets a node serve; requests for serving certificates are approved
    /// for these, and for none without it. May block.
    pub names_of_node: Option<NamesOfNode>,
    /// Signs the tokens of ServiceAccounts' Secrets; none are made without it.
    pub sign_token: Option<SignToken>,
    /// PEM bundle, as it is from time to time, published as `kube-root-ca.crt` in every namespace; the publisher rests
    /// without it.
    pub root_ca: Option<watch::Receiver<String>>,
    /// The pods' addresses, of which each Node gets a range; without it none is handed out.
    pub cluster_cidr: Option<Cidr>,
    /// The Services' addresses: no Node gets a range that meets them.
    pub service_cidr: Option<Cidr>,
}

/// An authority: certificate and key, PEM.
#[derive(Clone)]
pub struct Signing {
    pub certificate: String,
    pub key: String,
}

/// Signs the claims of a token that has no end; `None` where that fails.
pub type SignToken = Arc<dyn Fn(&serde_json::Value) -> Option<String> + Send + Sync>;

/// The names and addresses of a node, as text.
pub type NamesOfNode = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// Makes the client of an account: the ServiceAccount of this name in `kube-system`.
pub type ClientOf = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// What stays as it is for as long as the program runs.
pub fn fixed<T>(value: T) -> watch::Receiver<T> {
    watch::channel(value).1
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown controller {0:?}; there are: {known}", known = controller_names().join(", "))]
    UnknownController(String),
}

// === impl Config ===

impl Config {
    /// All controllers.
    pub fn new(client: kube::Client) -> Self {
        Config {
            client,
            accounts: None,
            controllers: vec!["*".to_owned()],
            signing: None,
            names_of_node: None,
            sign_token: None,
            root_ca: None,
            cluster_cidr: None,
            service_cidr: None,
        }
    }
}

/// Upstream's names of the controllers there are.
pub fn controller_names() -> Vec<&'static str> {
    catalog::CONTROLLERS.iter().map(|c| c.name).collect()
}

/// Runs the chosen controllers until `shutdown`; returns when all of them have stopped. A panic outside of a reconciler is
/// one of this function: its caller begins it anew, with caches that are whole.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let chosen = catalog::choose(&config.controllers)?;
    let mut runtime = runtime::Runtime::new(config.client.clone(), shutdown);
    for controller in chosen {
        let accounts = config.accounts.as_ref().filter(|_| !controller.account.is_empty());
        runtime.begin(accounts.map_or_else(|| config.client.clone(), |of| of(controller.account)));
        (controller.start)(&mut runtime, &config);
    }
    runtime.run().await;
    Ok(())
}
