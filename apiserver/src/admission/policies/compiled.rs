//! A policy with its bindings, compiled.

use coracle_api::Object;
use serde_json::Value;

use super::super::expressions::{
    self, Condition, Declared, Expression, configuration_type, declare_variable, environment, patches_type,
};
use super::super::matching::Criteria;
use crate::cel::{Environment, Type};

pub(super) struct Policy {
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) ignores_failure: bool,
    /// `apiVersion` and kind of its parameters.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) conditions: Vec<Condition>,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) validations: Vec<Validation>,
    /// What would be written to an audit log; evaluated, for what fails here refuses the request.
    pub(super) audit_annotations: Vec<Expression>,
    pub(super) mutations: Vec<Mutation>,
    pub(super) reinvocable: bool,
    pub(super) bindings: Vec<Binding>,
}

pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: String,
}

pub(super) enum Mutation {
    Apply(Expression),
    Patch(Expression),
}

pub(super) struct Binding {
    pub(super) name: String,
    /// Absent: whatever the policy is about.
    pub(super) criteria: Option<Criteria>,
    pub(super) param_ref: Option<Value>,
    pub(super) denies: bool,
    pub(super) warns: bool,
}

// === impl Policy ===

impl Policy {
    /// `None`: nothing binds it, and so it does nothing.
    pub(super) fn compile(policy: &Object, bindings: &[Object]) -> Option<Self> {
        let bound = bindings.iter().filter(|b| b.str_at(&["spec", "policyName"]) == policy.name());
        let bindings: Vec<Binding> = bound.map(Binding::new).collect();
        if bindings.is_empty() {
            return None;
        }
        let spec = policy.at(&["spec"]).unwrap_or(&Value::Null);
        let param_kind = spec["paramKind"].as_object().map(|kind| {
            let text = |key: &str| kind.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("apiVersion"), text("kind"))
        });
        let params = param_kind.is_some();
        let mut declared = environment(Declared {
            params,
            authorizer: true,
            patches: policy.kind() == "MutatingAdmissionPolicy",
        });
        let mut messages = environment(Declared { params, ..Declared::default() });
        // What is declared to messages are the same variables; those that ask the authorizer are of no type there.
        variables(spec, &mut messages);
        let variables = variables(spec, &mut declared);
        let validations =
            items(spec, "validations").map(|v| Validation::new(v, &declared, &messages)).collect();
        let annotation = |a: &Value| {
            Expression::compile(
                &declared,
                a["valueExpression"].as_str().unwrap_or_default(),
                &[Type::String, Type::Null],
            )
        };
        Some(Policy {
            name: policy.name().to_owned(),
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            ignores_failure: spec["failurePolicy"] == "Ignore",
            conditions: expressions::conditions(&spec["matchConditions"], params),
            validations,
            audit_annotations: items(spec, "auditAnnotations").map(annotation).collect(),
            mutations: items(spec, "mutations").map(|m| Mutation::new(m, &declared)).collect(),
            reinvocable: spec["reinvocationPolicy"] == "IfNeeded",
            variables,
            param_kind,
            bindings,
        })
    }
}

/// `spec.variables`, each of which may use those before it.
fn variables(spec: &Value, declared: &mut Environment) -> Vec<(String, Expression)> {
    let variables = items(spec, "variables").map(|variable| {
        let text = |key: &str| variable[key].as_str().unwrap_or_default();
        let program = declare_variable(declared, text("name"), text("expression"));
        let program = program.map_err(|why| format!("compilation error: {why}"));
        (text("name").to_owned(), Expression { text: text("expression").to_owned(), program })
    });
    variables.collect()
}

fn items<'a>(spec: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    spec[key].as_array().into_iter().flatten()
}

// === impl Validation ===

impl Validation {
    fn new(validation: &Value, declared: &Environment, messages: &Environment) -> Self {
        let text = |key: &str| validation[key].as_str().unwrap_or_default();
        let message = text("messageExpression");
        Validation {
            expression: Expression::compile(declared, text("expression"), &[Type::Bool]),
            message: text("message").trim().to_owned(),
            message_expression: (!message.is_empty())
                .then(|| Expression::compile(messages, message, &[Type::String])),
            reason: text("reason").to_owned(),
        }
    }
}

// === impl Mutation ===

impl Mutation {
    fn new(mutation: &Value, declared: &Environment) -> Self {
        let text = |key: &str| mutation[key]["expression"].as_str().unwrap_or_default();
        match mutation["patchType"].as_str() {
            Some("JSONPatch") => {
                Mutation::Patch(Expression::compile(declared, text("jsonPatch"), &[patches_type()]))
            }
            _ => Mutation::Apply(Expression::compile(
                declared,
                text("applyConfiguration"),
                &[configuration_type()],
            )),
        }
    }
}

// === impl Binding ===

impl Binding {
    fn new(binding: &Object) -> Self {
        let does =
            |action: &str| binding.items_at(&["spec", "validationActions"]).iter().any(|a| a == action);
        Binding {
            name: binding.name().to_owned(),
            criteria: binding.at(&["spec", "matchResources"]).map(Criteria::of_policy),
            param_ref: binding.at(&["spec", "paramRef"]).cloned(),
            denies: does("Deny"),
            warns: does("Warn"),
        }
    }
}
