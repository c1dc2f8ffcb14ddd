//! Admission: one ordered list of plugins that may change, then refuse, what is about to be written.
//!
//! A plugin is a function from what is asked and what the cluster holds to a changed object or a refusal.

use std::time::Instant;

use coracle_api::{Gvr, Object};

use crate::Server;
use crate::authn::User;
use crate::cluster::Cluster;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::Write;

mod certificates;
mod defaults;
mod devices;
mod escalation;
pub mod expressions;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod limits;
mod matching;
mod namespace;
mod node_restriction;
mod optional;
mod pod_security;
mod policies;
mod priority;
mod quota;
mod service_account;
mod webhooks;

use optional::Optional;
pub use optional::Plugin;
use policies::Policies;

pub(crate) use policies::follow as follow_policies;
use webhooks::{Rounds, Webhooks};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is about to happen. Upstream's `admission.Attributes` without the objects.
pub struct Attributes<'a> {
    pub user: &'a User,
    pub operation: Operation,
    pub resource: &'a Resource,
    /// Empty for the main endpoint.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty while `generateName` has not been resolved.
    pub name: &'a str,
    pub dry_run: bool,
}

type Mutator = fn(&dyn Cluster, &Attributes<'_>, &mut Object, Option<&Object>) -> Result<()>;
type Validator = fn(&Server, &Attributes<'_>, Option<&Object>, Option<&Object>) -> Result<()>;

/// Plugins that change objects, in upstream's order.
const MUTATORS: &[Mutator] = &[
    limits::mutate,
    service_account::mutate,
    defaults::taint_new_node,
    priority::mutate,
    defaults::toleration_seconds,
    defaults::storage_class,
    defaults::protect_storage,
    defaults::runtime_class,
    defaults::ingress_class,
];

/// Plugins that only refuse. `new` is absent on delete.
const VALIDATORS: &[Validator] = &[
    limits::validate,
    priority::validate,
    defaults::overhead,
    devices::validate,
    certificates::validate,
    escalation::validate,
];

/// All plugins in their order.
#[derive(Default)]
pub struct Chain {
    optional: Optional,
    policies: Policies,
    webhooks: Webhooks,
}

// === impl Chain ===

impl Chain {
    /// With these plugins besides those that are always there.
    pub fn new(plugins: &[Plugin]) -> Self {
        Chain { optional: Optional::new(plugins), ..Chain::default() }
    }

    /// Before anything else is done for a write: whether its namespace takes it; then every change of the object.
    /// For create and update. Answers warnings for the client.
    pub async fn mutate(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: &mut Object,
        old: Option<&Object>,
    ) -> Result<Vec<String>> {
        namespace::admit(server, what)?;
        node_restriction::check(server, what, Some(new), old)?;
        let mut warnings = vec![];
        let (mut policies, mut webhooks) = (Rounds::default(), Rounds::default());
        loop {
            for plugin in MUTATORS {
                warned(plugin(server, what, new, old), &mut warnings)?;
            }
            self.optional.mutate(what, new, old);
            let by_policies = self.policies.mutate(server, what, new, old, &mut policies);
            let by_policies = warned(by_policies, &mut warnings)?;
            let called =
                self.webhooks.mutate(server, what, Some(new), old, &mut webhooks, &mut warnings).await;
            let by_webhooks = warned(called, &mut warnings)?;
            if policies.again || !(by_policies || by_webhooks) {
                warnings.extend(crate::verbs::metadata::drop_repeated_owners(new, true));
                return Ok(warnings);
            }
            // What others have changed goes once more through all, that the built-in rules hold for it, too.
            (policies.again, webhooks.again) = (true, true);
        }
    }

    /// For calls (tokens, evictions, bindings), whose body is not an object that is stored, and for connections, whose
    /// body is made of their options.
    pub async fn admit_call(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        body: &mut Object,
    ) -> Result<Vec<String>> {
        namespace::admit(server, what)?;
        node_restriction::check(server, what, Some(body), None)?;
        let (mut warnings, mut rounds) = (vec![], Rounds::default());
        let changed = self.webhooks.mutate(server, what, Some(body), None, &mut rounds, &mut warnings).await;
        warned(changed, &mut warnings)?;
        let body = Some(&*body);
        warnings.extend(self.policies.validate(server, what, body, None)?);
        let judged = self.webhooks.validate(server, what, body, None, &mut warnings).await;
        warned(judged, &mut warnings)?;
        Ok(warnings)
    }

    /// The last word before the commit; for create, update and (without `new`) delete. Answers warnings for the client.
    pub async fn validate(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Vec<String>> {
        let mut warnings = vec![];
        if what.operation == Operation::Delete {
            namespace::admit(server, what)?;
            node_restriction::check(server, what, new, old)?;
            let mut rounds = Rounds::default();
            let called = self.webhooks.mutate(server, what, None, old, &mut rounds, &mut warnings).await;
            warned(called, &mut warnings)?;
        }
        if let Some(new) = new {
            warned(self.optional.validate(what, new, old, Instant::now()), &mut warnings)?;
            let told = warned(pod_security::validate(server, what, new, old), &mut warnings)?;
            warnings.extend(told);
        }
        for plugin in VALIDATORS {
            warned(plugin(server, what, new, old), &mut warnings)?;
        }
        let told = warned(self.policies.validate(server, what, new, old), &mut warnings)?;
        warnings.extend(told);
        let judged = self.webhooks.validate(server, what, new, old, &mut warnings).await;
        warned(judged, &mut warnings)?;
        Ok(warnings)
    }

    /// The last plugin: what a create or an update that all others let pass is charged to quotas, as writes to be committed
    /// with it.
    pub async fn charge(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<Vec<Write>> {
        quota::charge(server, what, new, old).await
    }
}

/// A refusal carries the warnings that came before it.
pub(crate) fn warned<T>(outcome: Result<T>, warnings: &mut Vec<String>) -> Result<T> {
    outcome.map_err(|mut status| {
        status.0.warnings.append(warnings);
        status
    })
}

// === impl Operation ===

impl Operation {
    /// As rules and reviews write it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

// === impl Attributes ===

impl Attributes<'_> {
    /// Whether this is about the main endpoint of a kind, named by group and plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty()
            && self.resource.gvr.group == group
            && self.resource.gvr.resource == plural
    }

    pub fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }

    /// `pods "x" is forbidden: <why>`
    pub fn refuse(&self, why: impl AsRef<str>) -> Status {
        self.refuse_named(self.name, why)
    }

    pub fn refuse_named(&self, name: &str, why: impl AsRef<str>) -> Status {
        Status::forbidden(&self.resource.gvr, name, why.as_ref())
    }
}

/// A resource by group, version and plural.
fn gvr(group: &str, version: &str, plural: &str) -> Gvr {
    Gvr::new(group, version, plural)
}
