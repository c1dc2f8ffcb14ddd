//! ResourceQuota: the last plugin, which charges what is about to be written to every quota that covers it.
//!
//! A quota's status is the account. It is written with what is charged to it, as one commit that happens if nobody else has
//! written either meanwhile, so that writers who race cannot exceed it together, and nothing is charged that is not there.
//! Upstream writes the account first, and what a write is charged that then fails is given back only by the controller.

use coracle_api::names::GROUP_MASTERS;
use coracle_api::quota::Counted;
use coracle_api::resources::{self, ResourceList};
use coracle_api::{Object, Quantity};
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use jiff::Timestamp;
use serde_json::json;

use super::{Attributes, Operation};
use crate::Server;
use crate::authn::User;
use crate::cluster::{Cluster, core};
use crate::resource::Persistence;
use crate::status::Result;
use crate::store::Write;

/// What is to be charged.
struct Charge<'a> {
    what: &'a Attributes<'a>,
    kind: Counted<'a>,
    new: &'a Object,
    old: Option<&'a Object>,
    now: Timestamp,
}

/// The new accounts of the quotas that a write is charged to, to be committed with it; none for a dry run.
///
/// Boxed: an account is written as everything is, and every write passes here.
///
/// # Errors
/// The refusal where a quota is exceeded, or not known to cover the write.
pub(super) fn charge<'a>(
    server: &'a Server,
    what: &'a Attributes<'a>,
    new: &'a Object,
    old: Option<&'a Object>,
) -> BoxFuture<'a, Result<Vec<Write>>> {
    if !handles(what, new, old) {
        return future::ready(Ok(vec![])).boxed();
    }
    let quotas = Cluster::list(server, &core("resourcequotas"), what.namespace);
    if quotas.is_empty() {
        return future::ready(Ok(vec![])).boxed();
    }
    let gvr = &what.resource.gvr;
    let kind = Counted { group: &gvr.group, plural: &gvr.resource };
    let charge = Charge { what, kind, new, old, now: Timestamp::now() };
    async move { charge.all(server, &quotas).await }.boxed()
}

/// Whether a write can change what its namespace uses.
fn handles(what: &Attributes<'_>, new: &Object, old: Option<&Object>) -> bool {
    if what.namespace.is_empty() || !matches!(what.resource.persistence, Persistence::Stored) {
        return false;
    }
    let core = what.resource.gvr.group.is_empty();
    match (what.resource.gvr.resource.as_str(), what.subresource, what.operation) {
        (_, "", Operation::Create) | ("services" | "persistentvolumeclaims", "", Operation::Update) => {
            what.operation == Operation::Create || core
        }
        ("pods", "resize", Operation::Update) => core,
        ("pods", "", Operation::Update) => {
            let limited = |o: &Object| o.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|s| s >= 0);
            core && old.is_some_and(|old| limited(old) != limited(new))
        }
        ("persistentvolumeclaims", "status", Operation::Update) => {
            let class = &["status", "currentVolumeAttributesClassName"][..];
            let differs = |path: &[&str]| old.is_some_and(|old| old.at(path) != new.at(path));
            core && (differs(&["status", "allocatedResources"]) || differs(class))
        }
        _ => false,
    }
}

// === impl Charge ===

impl Charge<'_> {
    async fn all(&self, server: &Server, quotas: &[Object]) -> Result<Vec<Write>> {
        let mut touched = vec![];
        for quota in quotas {
            if self.new_usage(quota)?.is_some() {
                touched.push(quota.name());
            }
        }
        if self.what.dry_run {
            return Ok(vec![]);
        }
        let myself = User::component(coracle_api::names::USER_APISERVER, &[GROUP_MASTERS]);
        let mut booked = vec![];
        for name in touched {
            let book = |quota: &mut Object| {
                if let Some(used) = self.new_usage(quota)? {
                    quota.set(&["status", "used"], json!(used));
                }
                Ok(())
            };
            let namespace = self.what.namespace;
            match server.stage(&myself, &core("resourcequotas"), "status", namespace, name, &book).await {
                Err(gone) if gone.code() == 404 => {}
                account => booked.extend(account?),
            }
        }
        Ok(booked)
    }

    /// What the quota's usage becomes; `None` where this write changes nothing of it. The refusal where it is exceeded.
    fn new_usage(&self, quota: &Object) -> Result<Option<ResourceList>> {
        let list = |field: &str| quota.at(&["status", field]).map(resources::list).unwrap_or_default();
        let (hard, used) = (list("hard"), list("used"));
        if !self.kind.matches(quota, &hard, self.new) {
            return Ok(None);
        }
        if let Some(missing) = self.kind.unspecified(&hard, self.new) {
            return Err(self.what.refuse(format!("failed quota: {}: must specify {missing}", quota.name())));
        }
        let tracked: Vec<&str> = hard.keys().map(String::as_str).filter(|n| self.kind.touches(n)).collect();
        if tracked.iter().any(|name| !used.contains_key(*name)) {
            return Err(self.what.refuse(format!(
                "status unknown for quota: {}, resources: {}",
                quota.name(),
                tracked.join(",")
            )));
        }
        let mut delta = self.delta(quota, &hard)?;
        delta.retain(|name, amount| hard.contains_key(name) && !amount.is_zero());
        if delta.is_empty() {
            return Ok(None);
        }
        let mut total = used.clone();
        resources::add(&mut total, &delta);
        let exceeded = |name: &str| delta.contains_key(name) && total[name] > hard[name];
        if self.what.subresource != "status" && hard.keys().any(|name| exceeded(name)) {
            let part = |list: &ResourceList| shown(list, &exceeded);
            return Err(self.what.refuse(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name(),
                part(&delta),
                part(&used),
                part(&hard)
            )));
        }
        Ok(Some(total))
    }

    /// What the write adds: on update what it takes more than before, if the quota covered it before.
    fn delta(&self, quota: &Object, hard: &ResourceList) -> Result<ResourceList> {
        let mut usage = self.kind.usage(self.new, self.now);
        let negative: Vec<&str> =
            usage.iter().filter(|(_, q)| q.is_negative()).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
            return Err(self.what.refuse(why));
        }
        let Some(old) = self.old.filter(|old| self.kind.matches(quota, hard, old)) else { return Ok(usage) };
        let before = self.kind.usage(old, self.now);
        for (name, amount) in &mut usage {
            let more = *amount - before.get(name).copied().unwrap_or_default();
            *amount = if more.is_negative() { Quantity::ZERO } else { more };
        }
        Ok(usage)
    }
}

/// `cpu=1,memory=1Gi` of the names in question.
fn shown(list: &ResourceList, wanted: &dyn Fn(&str) -> bool) -> String {
    let parts = list.iter().filter(|(name, _)| wanted(name)).map(|(name, amount)| format!("{name}={amount}"));
    parts.collect::<Vec<_>>().join(",")
}
