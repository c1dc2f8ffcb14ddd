//! Validating policies: every binding's verdict, and the first denial as the answer.

use coracle_api::Object;
use serde_json::json;

use super::super::Attributes;
use super::super::expressions::{self, Inputs};
use super::compiled::{Binding, Policy, Validation};
use super::{Invocation, invocations, namespace};
use crate::Server;
use crate::cel::{Context, POLICY_BUDGET, Value};
use crate::status::{Result, Status};

/// The longest text a message expression may give.
const MAX_MESSAGE: usize = 5 * 1024;

/// One validation that did not hold, or could not be decided.
struct Denial {
    reason: String,
    message: String,
}

pub(super) fn validate(
    policies: &[Policy],
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<Vec<String>> {
    let (found, wrong) = invocations(policies, server, what, new, old);
    let mut warnings = vec![];
    let mut denied: Option<Status> = None;
    for wrong in wrong.into_iter().filter(|w| !w.policy.ignores_failure) {
        let denial = Denial { reason: String::new(), message: wrong.why };
        denied.get_or_insert_with(|| refusal(what, wrong.policy, wrong.binding, &denial));
    }
    let namespace = if found.is_empty() { None } else { namespace(server, what) };
    for invocation in &found {
        let (policy, binding) = (invocation.policy, invocation.binding);
        let views =
            (new.map(|o| invocation.matched.view(what, o)), old.map(|o| invocation.matched.view(what, o)));
        let request = invocation.matched.request(what);
        let objects = (views.0.as_deref(), views.1.as_deref());
        let inputs = invocation.inputs(server, what, objects, &request, namespace.as_ref());
        for denial in judge(invocation, &inputs) {
            if binding.warns {
                warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, denial.message
                ));
            }
            if binding.denies {
                denied.get_or_insert_with(|| refusal(what, policy, Some(binding), &denial));
            }
        }
        // What would go to an audit log is not written; what cannot be said refuses the request whatever is to be done.
        for why in audit(policy, &inputs) {
            let denial = Denial { reason: String::new(), message: why };
            denied.get_or_insert_with(|| refusal(what, policy, Some(binding), &denial));
        }
    }
    match denied {
        Some(status) => Err(status.with_warnings(warnings)),
        None => Ok(warnings),
    }
}

/// What one policy, with one parameter, has against a request.
fn judge(invocation: &Invocation<'_>, inputs: &Inputs<'_>) -> Vec<Denial> {
    let policy = invocation.policy;
    let undecided = |message: String| match policy.ignores_failure {
        true => None,
        false => Some(Denial { reason: String::new(), message }),
    };
    match expressions::hold(&policy.conditions, inputs) {
        Ok(true) => {}
        Ok(false) => return vec![],
        Err(why) => return undecided(why).into_iter().collect(),
    }
    let mut context = Context::new(inputs, POLICY_BUDGET);
    let mut denials = vec![];
    for validation in &policy.validations {
        match validation.expression.evaluate(&mut context) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => denials.push(Denial {
                reason: validation.reason.clone(),
                message: message(validation, &mut context),
            }),
            Err(why) => denials.extend(undecided(why)),
        }
    }
    denials
}

/// What is said of a validation that does not hold: the first of what its author offers that is fit to be shown.
fn message<'a>(validation: &Validation, context: &mut Context<'a, '_>) -> String {
    if let Some(expression) = &validation.message_expression
        && let Ok(Value::String(text)) = expression.evaluate(context)
    {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
            return text.to_owned();
        }
    }
    match validation.message.as_str() {
        "" => format!("failed expression: {}", validation.expression.text.trim()),
        message => message.to_owned(),
    }
}

fn audit(policy: &Policy, inputs: &Inputs<'_>) -> Vec<String> {
    if policy.audit_annotations.is_empty() || policy.ignores_failure {
        return vec![];
    }
    if !matches!(expressions::hold(&policy.conditions, inputs), Ok(true)) {
        return vec![];
    }
    let mut context = Context::new(inputs, POLICY_BUDGET);
    policy.audit_annotations.iter().filter_map(|annotation| annotation.evaluate(&mut context).err()).collect()
}

fn refusal(what: &Attributes<'_>, policy: &Policy, binding: Option<&Binding>, denial: &Denial) -> Status {
    let with = binding.map(|b| format!(" with binding '{}'", b.name)).unwrap_or_default();
    let message =
        format!("ValidatingAdmissionPolicy '{}'{with} denied request: {}", policy.name, denial.message);
    let mut status = what.refuse(&message);
    let reason = if denial.reason.is_empty() { "Invalid" } else { &denial.reason };
    status.0.code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.0.reason = reason.to_owned().into();
    if let Some(details) = &mut status.0.details {
        details["causes"] = json!([{"message": message}]);
    }
    status
}
