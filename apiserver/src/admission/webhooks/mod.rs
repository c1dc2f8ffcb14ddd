//! Admission webhooks: what configurations in the cluster ask to be called for.
//!
//! Configurations are compiled once and used until one of them changes; where there are none, a request pays for one
//! comparison of two numbers.

mod hook;
mod review;

use std::collections::HashSet;
use std::sync::Arc;

use coracle_api::{Gvr, Object};
use futures::future::join_all;
use parking_lot::Mutex;

use super::{Attributes, matching};
use crate::Server;
use crate::status::{Result, Status};
use hook::{CallError, Compiled};

/// Both kinds of webhooks.
#[derive(Default)]
pub(super) struct Webhooks {
    mutating: Configurations,
    validating: Configurations,
}

/// The webhooks of all configurations of one kind, as of one generation of those.
#[derive(Default)]
struct Configurations {
    current: Mutex<Option<Edition>>,
}

/// A generation of configurations, and its webhooks.
type Edition = (u64, Arc<[Arc<Compiled>]>);

/// What is known of a chain of mutators that may run twice.
#[derive(Default)]
pub(super) struct Rounds {
    /// Whether this is the second round.
    pub(super) again: bool,
    /// Those that may be called again, in case something changes after them.
    called: HashSet<String>,
    /// Those that are to be called again.
    due: HashSet<String>,
    output: Option<Object>,
}

// === impl Rounds ===

impl Rounds {
    /// In a second round: whether this one shall run again.
    pub(super) fn skips(&self, id: &str) -> bool {
        self.again && !self.due.contains(id)
    }

    /// Others changed the object since this chain was left.
    pub(super) fn enter(&mut self, object: Option<&Object>) {
        if self.again && self.output.as_ref().is_some_and(|output| Some(output) != object) {
            self.due.extend(self.called.iter().cloned());
        }
    }

    pub(super) fn leave(&mut self, object: Option<&Object>) {
        self.output = object.filter(|_| !self.again && !self.called.is_empty()).cloned();
    }

    /// A mutator has run: those before it see its change in the second round.
    pub(super) fn ran(&mut self, id: &str, changed: bool, reinvocable: bool) {
        if changed {
            self.due.extend(self.called.iter().cloned());
        }
        if reinvocable {
            self.called.insert(id.to_owned());
        }
    }
}

// === impl Webhooks ===

impl Webhooks {
    /// Calls mutating webhooks, one after the other. Whether the object has changed.
    pub(super) async fn mutate(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        mut new: Option<&mut Object>,
        old: Option<&Object>,
        rounds: &mut Rounds,
        warnings: &mut Vec<String>,
    ) -> Result<bool> {
        let hooks = self.mutating.current(server, "mutatingwebhookconfigurations");
        if hooks.is_empty() || is_exempt(server, what) {
            return Ok(false);
        }
        let mut any = false;
        rounds.enter(new.as_deref());
        for hook in hooks.iter() {
            if rounds.skips(&hook.id) {
                continue;
            }
            let Some(matched) = hook.applies(server, what, new.as_deref(), old)? else { continue };
            let answer = hook.call(server, what, &matched, new.as_deref(), old, true).await;
            let patched = answer.and_then(|response| {
                warnings.extend(response.warnings.iter().cloned());
                let patch = response.patch().map_err(CallError::Failed)?;
                if !response.allowed {
                    return Err(CallError::Refused(response.refusal(&hook.name)));
                }
                match new.as_deref_mut() {
                    _ if patch.is_empty() => Ok(false),
                    None => Err(CallError::Refused(Status::internal(format!(
                        "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                        hook.name
                    )))),
                    Some(new) => hook::apply(what, &matched, &patch, new).map_err(CallError::Refused),
                }
            });
            let changed = match patched {
                Ok(changed) => changed,
                Err(error) => {
                    hook.judge(error)?;
                    false
                }
            };
            rounds.ran(&hook.id, changed, hook.reinvocable);
            any |= changed;
        }
        rounds.leave(new.as_deref());
        Ok(any)
    }

    /// Calls validating webhooks, all at once; the first refusal in their order is the answer.
    pub(super) async fn validate(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: Option<&Object>,
        old: Option<&Object>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let hooks = self.validating.current(server, "validatingwebhookconfigurations");
        if hooks.is_empty() || is_exempt(server, what) {
            return Ok(());
        }
        let mut calls = vec![];
        for hook in hooks.iter() {
            if let Some(matched) = hook.applies(server, what, new, old)? {
                calls.push(async move {
                    let answer = hook.call(server, what, &matched, new, old, false).await;
                    (hook, answer)
                });
            }
        }
        let mut outcome = Ok(());
        for (hook, answer) in join_all(calls).await {
            let judged = match answer {
                Ok(mut response) => {
                    warnings.append(&mut response.warnings);
                    if response.allowed { Ok(()) } else { Err(response.refusal(&hook.name)) }
                }
                Err(error) => hook.judge(error),
            };
            outcome = outcome.and(judged);
        }
        outcome
    }
}

/// Nobody shall lock themselves out of configurations; and before the server is ready it only writes its own first objects.
fn is_exempt(server: &Server, what: &Attributes<'_>) -> bool {
    matching::is_exempt(what) || !server.is_ready()
}

// === impl Configurations ===

impl Configurations {
    fn current(&self, server: &Server, plural: &'static str) -> Arc<[Arc<Compiled>]> {
        let generation = server.store.resource_revision(match plural {
            "mutatingwebhookconfigurations" => "admissionregistration.k8s.io/mutatingwebhookconfigurations",
            _ => "admissionregistration.k8s.io/validatingwebhookconfigurations",
        });
        let mut current = self.current.lock();
        let known = match &*current {
            Some((seen, hooks)) if *seen == generation => return hooks.clone(),
            Some((_, hooks)) => hooks.clone(),
            None => Arc::default(),
        };
        let gvr = Gvr::new("admissionregistration.k8s.io", "v1", plural);
        let all = server.list(&gvr, "").unwrap_or_default();
        let compiled = all.iter().flat_map(|configuration| hook::compile(configuration, &known));
        let compiled: Arc<[_]> = compiled.collect();
        *current = Some((generation, compiled.clone()));
        compiled
    }
}

/// A webhook's answer as a write sees it: refused, or its patch applied.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_answer(
    version: &str,
    uid: &str,
    mutating: bool,
    body: &[u8],
    object: &mut serde_json::Value,
) {
    let Ok(response) = review::decode(version, uid, mutating, body) else { return };
    if response.allowed {
        if let Ok(patch) = response.patch() {
            let _ = patch.apply(object);
        }
    } else {
        assert!((400..600).contains(&response.refusal("hook").code()));
    }
}
