//! Services in nftables: each Service is rendered to chains and verdicts, and changes go in as one transaction.

pub mod catalog;
mod render;
mod ruleset;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::net::{Cidr, NetError, apply_rules};
use catalog::{Catalog, Key};
pub use render::Guarded;
use ruleset::Ruleset;

pub const TABLE: &str = "coracle";

#[derive(Clone, Debug)]
pub struct ProxyConfig {
    pub node_name: String,
    /// All pods of the cluster.
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    /// Cluster addresses that this node serves by itself (DNS): no rules are made for them.
    pub own_addresses: Vec<Ipv4Addr>,
}

/// Keeps the table equal to the catalog until `shutdown`. The table stays when this ends: pods go on.
///
/// `kubelets` are where all of them listen, once that is known: nothing is taken from them. `damaged` says that others have
/// changed the table.
pub async fn run(
    config: ProxyConfig,
    catalog: Catalog,
    mut kubelets: watch::Receiver<Option<Guarded>>,
    damaged: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), NetError> {
    let known = kubelets.wait_for(Option::is_some);
    if shutdown.run_until_cancelled(known).await.is_none() {
        return Ok(());
    }
    let mut proxy = Proxy { config, guarded: Guarded::new(), applied: HashMap::new(), whole: true };
    loop {
        let changed = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = catalog.changed() => changed,
            // Those that come before the Services are known go with them.
            Ok(()) = kubelets.changed(), if !proxy.whole => BTreeSet::new(),
            () = damaged.notified() => {
                proxy.whole = true;
                proxy.applied.keys().cloned().collect()
            }
        };
        let mut guarded = kubelets.borrow_and_update().clone().unwrap_or_default();
        guarded.extend(api_servers(&catalog));
        if let Err(error) = proxy.apply(&catalog, &guarded, &changed).await {
            error!(%error, "cannot apply the rules of services; the whole table is replaced");
            proxy.whole = true;
            let all: BTreeSet<Key> = proxy.applied.keys().cloned().chain(changed).collect();
            if let Err(error) = proxy.apply(&catalog, &guarded, &all).await {
                error!(%error, "cannot replace the table of services");
            }
        }
    }
}

struct Proxy {
    config: ProxyConfig,
    guarded: Guarded,
    /// What each Service has in the kernel.
    applied: HashMap<Key, Ruleset>,
    /// Whether the table must be made anew.
    whole: bool,
}

// === impl Proxy ===

impl Proxy {
    async fn apply(
        &mut self,
        catalog: &Catalog,
        guarded: &Guarded,
        changed: &BTreeSet<Key>,
    ) -> Result<(), NetError> {
        let mut changed = Cow::Borrowed(changed);
        if *guarded != self.guarded {
            self.guarded = guarded.clone();
            changed.to_mut().extend(self.applied.keys().cloned());
        }
        let (mut old, mut new) = (Ruleset::default(), Ruleset::default());
        let mut fresh = Vec::new();
        for key in changed.iter() {
            let rules = catalog
                .service(key)
                .map(|s| render::render(&self.config, &self.guarded, key, &s, &catalog.endpoints(key)));
            if let Some(before) = self.applied.get(key) {
                old.merge(before.clone());
            }
            new.merge(rules.clone().unwrap_or_default());
            fresh.push((key.clone(), rules));
        }
        if self.whole {
            let stale = std::mem::take(&mut old);
            let text = render::frame(&self.config) + &ruleset::diff(&Ruleset::default(), &new);
            apply_rules(&text).await?;
            self.whole = false;
            forget_udp(&stale, &new).await;
        } else if old != new {
            apply_rules(&ruleset::diff(&old, &new)).await?;
            apply_rules(&ruleset::sweep(&old, &new)).await?;
            forget_udp(&old, &new).await;
        }
        for (key, rules) in fresh {
            match rules.filter(|r| *r != Ruleset::default()) {
                Some(rules) => drop(self.applied.insert(key, rules)),
                None => drop(self.applied.remove(&key)),
            }
        }
        Ok(())
    }
}

/// Where the cluster's API servers listen: the endpoints of `default/kubernetes`.
fn api_servers(catalog: &Catalog) -> impl Iterator<Item = (Ipv4Addr, u16)> {
    let service = ("default".to_owned(), "kubernetes".to_owned());
    let endpoints = catalog.endpoints(&service).into_iter();
    endpoints.flat_map(|e| e.ports.into_iter().map(move |(_, _, port)| (e.ip, port)))
}

/// UDP has no end of a connection: flows to endpoints that are gone must be forgotten, or clients with a fixed source
/// port would talk to nobody until the entries age.
async fn forget_udp(old: &Ruleset, new: &Ruleset) {
    for (_, rules) in
        old.chains.iter().filter(|(name, _)| name.starts_with("ep_") && !new.chains.contains_key(*name))
    {
        let target = rules.iter().find_map(|r| r.strip_prefix("meta l4proto udp dnat to "));
        let Some((ip, port)) = target.and_then(|t| t.split_once(':')) else { continue };
        let arguments = ["-D", "-p", "udp", "--reply-src", ip, "--reply-port-src", port];
        let ran = tokio::process::Command::new("conntrack").args(arguments).output().await;
        // An exit code above zero says only that no flow was found.
        if let Err(error) = ran {
            return warn!(%error, "cannot run conntrack: UDP clients keep removed endpoints until their flows age");
        }
    }
}
