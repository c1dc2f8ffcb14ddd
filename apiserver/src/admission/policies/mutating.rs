//! Mutating policies: each changes what the one before it has left.

use coracle_api::Object;
use serde_json::{Value as Json, json};

use super::super::Attributes;
use super::super::expressions::{self, Expression, Inputs};
use super::super::webhooks::Rounds;
use super::compiled::{Binding, Mutation, Policy};
use super::{Invocation, invocations, namespace};
use crate::Server;
use crate::cel::{Context, POLICY_BUDGET, Value};
use crate::patch::{Operations, Unapplied};
use crate::status::Result;

pub(super) fn mutate(
    policies: &[Policy],
    server: &Server,
    what: &Attributes<'_>,
    new: &mut Object,
    old: Option<&Object>,
    rounds: &mut Rounds,
) -> Result<bool> {
    let (found, wrong) = invocations(policies, server, what, Some(new), old);
    let mut refusals: Vec<String> = wrong
        .into_iter()
        .filter(|w| !w.policy.ignores_failure)
        .map(|w| refusal(w.policy, w.binding, &w.why))
        .collect();
    // What is configured wrongly is forbidden; what has been evaluated and failed is invalid.
    let misconfigured = !refusals.is_empty();
    let namespace = if found.is_empty() { None } else { namespace(server, what) };
    let mut any = false;
    for invocation in &found {
        let id = key(invocation);
        if rounds.skips(&id) {
            continue;
        }
        let changed = match run(invocation, server, what, new, old, namespace.as_ref()) {
            Ok(Some(changed)) => changed,
            Ok(None) => continue,
            Err(why) => {
                if !invocation.policy.ignores_failure {
                    refusals.push(refusal(invocation.policy, Some(invocation.binding), &why));
                }
                continue;
            }
        };
        rounds.ran(&id, changed, invocation.policy.reinvocable);
        any |= changed;
    }
    let [first, ..] = &refusals[..] else { return Ok(any) };
    let mut status = what.refuse("admission request denied by policy");
    status.0.message.clone_from(first);
    if !misconfigured {
        status.0.reason = "Invalid".into();
    }
    if let Some(details) = &mut status.0.details {
        details["causes"] = refusals.iter().map(|message| json!({"message": message})).collect();
    }
    Err(status)
}

/// A policy with a binding and a parameter, which may run again in the second round.
fn key(invocation: &Invocation<'_>) -> String {
    let param = invocation.param.as_ref().map(|p| &p["metadata"]);
    let text = |key: &str| param.and_then(|m| m[key].as_str()).unwrap_or_default();
    format!("{}/{}/{}/{}", invocation.policy.name, invocation.binding.name, text("namespace"), text("name"))
}

/// Whether the policy has changed the object; `None` where its conditions do not hold.
fn run(
    invocation: &Invocation<'_>,
    server: &Server,
    what: &Attributes<'_>,
    new: &mut Object,
    old: Option<&Object>,
    namespace: Option<&Json>,
) -> Result<Option<bool>, String> {
    let request = invocation.matched.request(what);
    let old = old.map(|o| invocation.matched.view(what, o));
    let before = new.clone();
    let mut budget = POLICY_BUDGET;
    for (i, mutation) in invocation.policy.mutations.iter().enumerate() {
        let view = invocation.matched.view(what, new).into_owned();
        let inputs = invocation.inputs(server, what, (Some(&view), old.as_deref()), &request, namespace);
        if i == 0 && !expressions::hold(&invocation.policy.conditions, &inputs)? {
            return Ok(None);
        }
        let changed = match mutation {
            Mutation::Apply(expression) => {
                let configuration = evaluate(expression, &inputs, &mut budget, applied)?;
                let schema = invocation.matched.schema(what);
                crate::patch::apply::overlay(&schema, &view, configuration)
                    .map_err(|why| format!("error applying patch: {why}"))?
            }
            Mutation::Patch(expression) => {
                let operations = evaluate(expression, &inputs, &mut budget, operations)?;
                patched(&view, operations)?
            }
        };
        invocation.matched.take_back(what, changed, new).map_err(|e| e.to_string())?;
    }
    Ok(Some(*new != before))
}

fn evaluate(
    expression: &Expression,
    inputs: &Inputs<'_>,
    budget: &mut u64,
    read: fn(&Value<'_>) -> Result<Json, String>,
) -> Result<Json, String> {
    let mut context = Context::new(inputs, *budget);
    let value = expression.evaluate(&mut context)?;
    *budget = context.budget;
    read(&value)
}

/// The configuration an expression has made.
fn applied(value: &Value<'_>) -> Result<Json, String> {
    check_names(value, "Object").map_err(|why| format!("type mismatch: {why}"))?;
    value.to_json().ok_or_else(|| format!("invalid return type: {value:?}"))
}

/// Every message inside is named by the path of fields that it stands under.
fn check_names(value: &Value<'_>, path: &str) -> Result<(), String> {
    match value {
        Value::Object(object) => {
            if object.0 != path {
                return Err(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    object.0
                ));
            }
            object.1.iter().try_for_each(|(field, value)| check_names(value, &format!("{path}.{field}")))
        }
        Value::List(items) => items.iter().try_for_each(|item| check_names(item, path)),
        _ => Ok(()),
    }
}

/// The operations of a JSON patch as an expression has made them.
fn operations(value: &Value<'_>) -> Result<Json, String> {
    let Some(mut operations) = value.to_json() else {
        let why = "JSONPath valueExpression evaluated to a type that could not marshal to JSON";
        return Err(why.to_owned());
    };
    for operation in operations.as_array_mut().into_iter().flatten() {
        // `add` of nothing is `add` of null.
        let adds = matches!(operation["op"].as_str(), Some("add" | "replace" | "test"));
        if adds && operation.get("value").is_none() {
            operation["value"] = Json::Null;
        }
    }
    Ok(operations)
}

/// The patched object; the same one where a `test` of the patch does not hold.
fn patched(view: &Object, operations: Json) -> Result<Object, String> {
    let refused = |why: &dyn std::fmt::Display| format!("JSON Patch: {why}");
    let operations =
        Operations::read(operations).map_err(|found| refused(&format!("a patch is a list, not {found}")))?;
    let mut changed = view.clone();
    match operations.apply(&mut changed.0) {
        Ok(()) => Ok(changed),
        Err(Unapplied::Test(_)) => Ok(view.clone()),
        Err(e) => Err(refused(&e)),
    }
}

fn refusal(policy: &Policy, binding: Option<&Binding>, why: &str) -> String {
    match binding {
        Some(binding) => {
            format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name)
        }
        None => format!("policy {:?} denied request: {why}", policy.name),
    }
}
