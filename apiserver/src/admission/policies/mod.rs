//! Admission policies: CEL that the cluster's own objects hold, bound to what it shall be applied to.
//!
//! Policies and their bindings are compiled once and used until one of them changes; where there are none, a request pays
//! for the comparison of two numbers.

mod compiled;
mod mutating;
mod params;
mod type_check;
mod validating;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::{Gvr, Object};
use parking_lot::Mutex;
use serde_json::Value;

use super::expressions::Inputs;
use super::matching::{self, Matched};
use super::webhooks::Rounds;
use super::{Attributes, Operation};
use crate::Server;
use crate::cel::beside_workers;
use crate::cluster::{Cluster, core};
use crate::status::Result;
use compiled::{Binding, Policy};

pub(crate) use type_check::run as follow;

/// Both kinds of policies.
pub(super) struct Policies {
    validating: Source,
    mutating: Source,
}

/// The bound policies of one kind, as of one generation of policies and of bindings.
struct Source {
    /// Plurals of policies and bindings, and what they are stored as.
    plurals: [&'static str; 2],
    storages: [&'static str; 2],
    current: Mutex<Option<Edition>>,
}

/// Generations of policies and bindings, and what those made.
type Edition = ([u64; 2], Arc<[Policy]>);

/// A binding of a policy that a request falls under, with what it is evaluated against.
struct Invocation<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    matched: Matched,
    param: Option<Value>,
}

/// A policy that could not be evaluated as it is configured.
struct Misconfigured<'p> {
    policy: &'p Policy,
    binding: Option<&'p Binding>,
    why: String,
}

// === impl Policies ===

impl Default for Policies {
    fn default() -> Self {
        let source = |plurals, storages| Source { plurals, storages, current: Mutex::default() };
        Policies {
            validating: source(
                ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
                [
                    "admissionregistration.k8s.io/validatingadmissionpolicies",
                    "admissionregistration.k8s.io/validatingadmissionpolicybindings",
                ],
            ),
            mutating: source(
                ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"],
                [
                    "admissionregistration.k8s.io/mutatingadmissionpolicies",
                    "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
                ],
            ),
        }
    }
}

impl Policies {
    /// Lets validating policies judge; answers warnings.
    pub(super) fn validate(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Vec<String>> {
        let policies = self.validating.current(server);
        if policies.is_empty() || is_exempt(server, what) {
            return Ok(vec![]);
        }
        beside_workers(|| validating::validate(&policies, server, what, new, old))
    }

    /// Lets mutating policies change an object. Whether it has changed.
    pub(super) fn mutate(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: &mut Object,
        old: Option<&Object>,
        rounds: &mut Rounds,
    ) -> Result<bool> {
        let writes = matches!(what.operation, Operation::Create | Operation::Update);
        let policies = self.mutating.current(server);
        if policies.is_empty() || !writes || is_exempt(server, what) {
            return Ok(false);
        }
        rounds.enter(Some(new));
        let changed = beside_workers(|| mutating::mutate(&policies, server, what, new, old, rounds))?;
        rounds.leave(Some(new));
        Ok(changed)
    }
}

/// Besides what no admission of the cluster's own is about: reviews, which are questions and not objects.
fn is_exempt(server: &Server, what: &Attributes<'_>) -> bool {
    let gvr = &what.resource.gvr;
    let review = matches!(gvr.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io");
    review || matching::is_exempt(what) || !server.is_ready()
}

// === impl Source ===

impl Source {
    fn current(&self, server: &Server) -> Arc<[Policy]> {
        let seen = self.storages.map(|storage| server.store.resource_revision(storage));
        let mut current = self.current.lock();
        if let Some((at, policies)) = &*current
            && *at == seen
        {
            return policies.clone();
        }
        let [policies, bindings] = self.plurals.map(|plural| {
            let gvr = Gvr::new("admissionregistration.k8s.io", "v1", plural);
            server.list(&gvr, "").unwrap_or_default()
        });
        let compiled = policies.iter().filter_map(|policy| Policy::compile(policy, &bindings));
        let compiled: Arc<[Policy]> = compiled.collect();
        *current = Some((seen, compiled.clone()));
        compiled
    }
}

/// Every policy, binding and parameter that a request falls under; and those that cannot be evaluated.
fn invocations<'p>(
    policies: &'p [Policy],
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> (Vec<Invocation<'p>>, Vec<Misconfigured<'p>>) {
    let (mut found, mut wrong) = (vec![], vec![]);
    for policy in policies {
        let matched = match policy.criteria.find(server, what, new, old) {
            Ok(Some(matched)) => matched,
            Ok(None) => continue,
            Err(why) => {
                let why = format!("failed to configure policy: {why}");
                wrong.push(Misconfigured { policy, binding: None, why });
                continue;
            }
        };
        let kind = match params::resource(server, policy) {
            Ok(kind) => kind,
            Err(why) => {
                let why = format!("failed to configure policy: {why}");
                wrong.push(Misconfigured { policy, binding: None, why });
                continue;
            }
        };
        for binding in &policy.bindings {
            let applies = match &binding.criteria {
                None => Ok(true),
                Some(criteria) => criteria.find(server, what, new, old).map(|m| m.is_some()),
            };
            let params = applies.map_err(|e| e.to_string()).and_then(|applies| match applies {
                true => {
                    params::collect(server, kind.as_deref(), binding, matching::effective_namespace(what))
                }
                false => Ok(vec![]),
            });
            match params {
                Ok(params) => found.extend(params.into_iter().map(|param| Invocation {
                    policy,
                    binding,
                    matched: matched.clone(),
                    param,
                })),
                Err(why) => {
                    let why = format!("failed to configure binding: {why}");
                    wrong.push(Misconfigured { policy, binding: Some(binding), why });
                }
            }
        }
    }
    (found, wrong)
}

/// The Namespace a request is in, as `namespaceObject` shows it.
fn namespace(server: &Server, what: &Attributes<'_>) -> Option<Value> {
    if what.namespace.is_empty() {
        return None;
    }
    let mut namespace = Cluster::get(server, &core("namespaces"), "", what.namespace)?;
    for field in ["managedFields", "ownerReferences"] {
        namespace.remove(&["metadata", field]);
    }
    Some(namespace.0)
}

impl<'p> Invocation<'p> {
    fn inputs<'a>(
        &'a self,
        server: &'a Server,
        what: &'a Attributes<'a>,
        objects: (Option<&'a Object>, Option<&'a Object>),
        request: &'a Value,
        namespace: Option<&'a Value>,
    ) -> Inputs<'a>
    where
        'p: 'a,
    {
        Inputs {
            server,
            what,
            object: objects.0,
            old: objects.1,
            request,
            namespace,
            params: self.param.as_ref(),
            variables: &self.policy.variables,
            known: RefCell::new(HashMap::new()),
        }
    }
}
