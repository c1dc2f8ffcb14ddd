//! What others take away of the pod network comes back at once: routes, addresses, links and tables.
//!
//! Restarts of network managers delete routes that they do not know, firewalls begin with `flush ruleset`. The kernel tells of
//! both; nothing is polled.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::links::{Links, Loss};
use super::nft_events::NftEvents;
use super::{NetError, PodNetwork, rules};

/// What is taken away together is mended together.
const GATHER: Duration = Duration::from_millis(50);
/// The pause after a repair that failed.
const RETRY: Duration = Duration::from_secs(2);

const TABLES: &[&str] = &[rules::TABLE, crate::proxy::TABLE];

/// Mends the network of this node until `shutdown`. `local` are addresses that are to be this node's beside the pods' gateway;
/// `services` is told when the service proxy's table must be made anew.
pub async fn run_repair(
    network: PodNetwork,
    local: Vec<Ipv4Addr>,
    services: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), NetError> {
    let mut losses = Links::losses()?;
    let mut tables = NftEvents::open(TABLES)?;
    // What was lost before anybody listened.
    let (mut lost, mut damaged) = (true, BTreeSet::new());
    loop {
        if lost {
            match network.mend(&local).await {
                Ok(0) => lost = false,
                Ok(mended) => {
                    info!(mended, "routes and links of pods that others had removed are there again");
                    lost = false;
                }
                Err(error) => warn!(?error, "the pod network cannot be mended; it is tried again"),
            }
        }
        if damaged.remove(rules::TABLE) {
            match network.replace_rules().await {
                Ok(()) => info!("the pod network's rules, which others had changed, are there again"),
                Err(error) => {
                    warn!(?error, "the pod network's rules cannot be restored; it is tried again");
                    damaged.insert(rules::TABLE);
                }
            }
        }
        if damaged.remove(crate::proxy::TABLE) {
            info!("others have changed the rules of services; they are made anew");
            services.notify_one();
        }
        let failed = lost || !damaged.is_empty();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            loss = losses.next() => match loss {
                Some(loss) => lost |= network.misses(&loss),
                None => return Ok(()),
            },
            found = tables.damaged() => damaged.extend(found?),
            () = tokio::time::sleep(RETRY), if failed => continue,
        }
        if lost || !damaged.is_empty() {
            tokio::time::sleep(GATHER).await;
            while let Some(Some(loss)) = futures::FutureExt::now_or_never(losses.next()) {
                lost |= network.misses(&loss);
            }
        }
    }
}

impl PodNetwork {
    /// Whether what was lost is ours and still wanted.
    fn misses(&self, loss: &Loss) -> bool {
        let wanted = self.inner.wanted.lock();
        match loss {
            Loss::Link(name) => wanted.contains_key(name),
            Loss::Route(to) => {
                *to == self.inner.config.service_cidr
                    || to.prefix() == 32 && wanted.values().any(|link| link.ip == to.address())
            }
            Loss::Address => true,
        }
    }
}
