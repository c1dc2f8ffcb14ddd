//! One webhook, compiled: whom it is called for, and the call itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Object;
use serde_json::Value;

use super::super::Attributes;
use super::super::expressions::{self, Condition, Inputs};
use super::super::matching::{Criteria, Matched};
use super::review::{self, Response};
use crate::Server;
use crate::patch::Operations;
use crate::status::{Result, Status};
use crate::webhook::Hook;

pub(super) struct Compiled {
    /// Tells webhooks apart, and one configuration's editions.
    pub(super) id: String,
    pub(super) name: String,
    criteria: Criteria,
    conditions: Vec<Condition>,
    address: Result<Hook, String>,
    timeout: Duration,
    ignores_failure: bool,
    has_side_effects: bool,
    /// The version of reviews it is sent: the first it lists that this server knows.
    version: Option<&'static str>,
    pub(super) reinvocable: bool,
}

/// Why a call did not answer "allowed".
pub(super) enum CallError {
    /// It could not be asked; the failure policy decides.
    Failed(String),
    /// It, or this server, has refused.
    Refused(Status),
}

/// The webhooks of a configuration; those of an edition that is known already keep their connections.
pub(super) fn compile(configuration: &Object, known: &[Arc<Compiled>]) -> Vec<Arc<Compiled>> {
    let hooks = configuration.items_at(&["webhooks"]).iter().enumerate();
    let edition = format!("{}/{}", configuration.uid(), configuration.revision());
    let compiled = hooks.map(|(i, hook)| {
        let id = format!("{edition}/{i}");
        let same = known.iter().find(|k| k.id == id).cloned();
        same.unwrap_or_else(|| Arc::new(Compiled::new(id, hook)))
    });
    compiled.collect()
}

/// Applies a webhook's patch to what it has seen. Whether anything has changed.
pub(super) fn apply(
    what: &Attributes<'_>,
    matched: &Matched,
    patch: &Operations,
    new: &mut Object,
) -> Result<bool> {
    let mut view = matched.view(what, new).into_owned();
    let before = new.clone();
    patch.apply(&mut view.0).map_err(Status::internal)?;
    matched.take_back(what, view, new)?;
    Ok(*new != before)
}

// === impl Compiled ===

impl Compiled {
    fn new(id: String, hook: &Value) -> Self {
        let text = |key: &str| hook[key].as_str().unwrap_or_default();
        let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten();
        let known = |version: &Value| ["v1", "v1beta1"].into_iter().find(|v| version == v);
        Compiled {
            id,
            name: text("name").to_owned(),
            criteria: Criteria::of_webhook(hook),
            conditions: expressions::conditions(&hook["matchConditions"], false),
            address: Hook::new(&hook["clientConfig"]),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            ignores_failure: text("failurePolicy") == "Ignore",
            has_side_effects: !matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            version: versions.into_iter().find_map(known),
            reinvocable: text("reinvocationPolicy") == "IfNeeded",
        }
    }

    /// Whether, and as what, it is to be called.
    pub(super) fn applies(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Option<Matched>> {
        let Some(matched) = self.criteria.find(server, what, new, old)? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(matched));
        }
        let (new, old) = (new.map(|o| matched.view(what, o)), old.map(|o| matched.view(what, o)));
        let request = matched.request(what);
        let inputs = Inputs {
            server,
            what,
            object: new.as_deref(),
            old: old.as_deref(),
            request: &request,
            namespace: None,
            params: None,
            variables: &[],
            known: RefCell::new(HashMap::new()),
        };
        match expressions::hold(&self.conditions, &inputs) {
            Ok(holds) => Ok(holds.then_some(matched)),
            Err(_) if self.ignores_failure => Ok(None),
            Err(why) => Err(what.refuse(why)),
        }
    }

    pub(super) async fn call(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        matched: &Matched,
        new: Option<&Object>,
        old: Option<&Object>,
        mutating: bool,
    ) -> Result<Response, CallError> {
        if what.dry_run && self.has_side_effects {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(CallError::Refused(Status::bad_request(why)));
        }
        let Some(version) = self.version else {
            let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(CallError::Failed(why.to_owned()));
        };
        let unreachable = |why: &String| CallError::Failed(format!("could not get REST client: {why}"));
        let address = self.address.as_ref().map_err(unreachable)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = {
            let (new, old) = (new.map(|o| matched.view(what, o)), old.map(|o| matched.view(what, o)));
            review::encode(version, &uid, &matched.request(what), new.as_deref(), old.as_deref())
        };
        let answer = address.post(server, body, self.timeout).await;
        let answer = answer.map_err(|why| CallError::Failed(format!("failed to call webhook: {why}")))?;
        review::decode(version, &uid, mutating, &answer).map_err(CallError::Failed)
    }

    /// What a failure means to the request, by the failure policy.
    pub(super) fn judge(&self, error: CallError) -> Result<()> {
        match error {
            CallError::Refused(status) => Err(status),
            CallError::Failed(why) => {
                let failed = format!("failed calling webhook {:?}: {why}", self.name);
                if !self.ignores_failure {
                    return Err(Status::internal(failed));
                }
                tracing::warn!(webhook = self.name, why, "a webhook failed; its policy is to go on");
                Ok(())
            }
        }
    }
}
