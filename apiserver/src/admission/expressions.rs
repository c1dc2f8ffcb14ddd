//! CEL in admission: what is declared to expressions, and what it stands for in one request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::LazyLock;

use coracle_api::Object;
use serde_json::Value as Json;

use super::{Attributes, matching};
use crate::Server;
use crate::authn::User;
use crate::authz::{Asked, Decision};
use crate::cel::{
    CONDITIONS_BUDGET, Context, Environment, Failure, Program, Query, Scope, Stage, Type, Value, Verdict,
};

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What is declared in every expression of admission.
static BASE: LazyLock<Environment> = LazyLock::new(|| {
    Environment::default()
        .with("object", Type::Dyn)
        .with("oldObject", Type::Dyn)
        .with("request", request_type())
        .with("namespaceObject", namespace_type())
});

/// Which variables an expression may use besides.
#[derive(Clone, Copy, Default)]
pub struct Declared {
    pub params: bool,
    pub authorizer: bool,
    /// Whether it may make `Object{...}` and `JSONPatch{...}`.
    pub patches: bool,
}

/// The variables and functions of one place for expressions.
pub fn environment(declared: Declared) -> Environment {
    let mut environment = BASE.clone();
    if declared.params {
        environment.declare("params", Type::Dyn);
    }
    if declared.authorizer {
        environment.declare("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
        let resource = Type::Opaque("kubernetes.authorization.ResourceCheck");
        environment.declare("authorizer.requestResource", resource);
    }
    environment.patches = declared.patches;
    environment
}

/// The type of an `applyConfiguration` expression.
pub fn configuration_type() -> Type {
    Type::object("Object", [])
}

/// The type of a `jsonPatch` expression.
pub fn patches_type() -> Type {
    Type::list(Type::object("JSONPatch", []))
}

/// Compiles a policy's variable and declares it as `variables.name`; one that does not compile is declared all the same.
pub fn declare_variable(declared: &mut Environment, name: &str, text: &str) -> Result<Program, String> {
    let program = declared.compile(text).map_err(|why| format!("compilation failed: {why}"));
    let ty = program.as_ref().map_or(Type::Dyn, |program| program.output.clone());
    declared.declare_field("variables", "kubernetes.variables", name, ty);
    program
}

fn request_type() -> Type {
    let text = Type::String;
    let kind = Type::object(
        "kubernetes.GroupVersionKind",
        [("group", text.clone()), ("version", text.clone()), ("kind", text.clone())],
    );
    let resource = Type::object(
        "kubernetes.GroupVersionResource",
        [("group", text.clone()), ("version", text.clone()), ("resource", text.clone())],
    );
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", text.clone()),
            ("uid", text.clone()),
            ("groups", Type::list(text.clone())),
            ("extra", Type::map(text.clone(), Type::list(text.clone()))),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text.clone()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text.clone()),
            ("name", text.clone()),
            ("namespace", text.clone()),
            ("operation", text),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

fn namespace_type() -> Type {
    let text = Type::String;
    let labels = Type::map(text.clone(), text.clone());
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text.clone()),
            ("generateName", text.clone()),
            ("namespace", text.clone()),
            ("labels", labels.clone()),
            ("annotations", labels),
            ("UID", text.clone()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", text.clone()),
            ("finalizers", Type::list(text.clone())),
        ],
    );
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text.clone()),
            ("type", text.clone()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", text.clone()),
            ("reason", text.clone()),
        ],
    );
    let spec = Type::object("kubernetes.NamespaceSpec", [("finalizers", Type::list(text.clone()))]);
    let status =
        Type::object("kubernetes.NamespaceStatus", [("conditions", Type::list(condition)), ("phase", text)]);
    Type::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}

/// An expression with its text, for errors name it. One that no longer compiles is kept, with why.
#[derive(Debug)]
pub struct Expression {
    pub text: String,
    pub program: Result<Program, String>,
}

/// A named condition: a webhook or policy applies only where all hold.
#[derive(Debug)]
pub(super) struct Condition(Expression);

/// What the variables stand for in one request.
pub(super) struct Inputs<'a> {
    pub(super) server: &'a Server,
    pub(super) what: &'a Attributes<'a>,
    pub(super) object: Option<&'a Object>,
    pub(super) old: Option<&'a Object>,
    pub(super) request: &'a Json,
    pub(super) namespace: Option<&'a Json>,
    pub(super) params: Option<&'a Json>,
    /// `variables.x`: evaluated when first used.
    pub(super) variables: &'a [(String, Expression)],
    pub(super) known: RefCell<HashMap<String, Result<Value<'a>, Failure>>>,
}

// === impl Expression ===

impl Expression {
    pub(super) fn compile(environment: &Environment, text: &str, wanted: &[Type]) -> Self {
        let program = environment.compile_as(text, wanted).map_err(|why| format!("compilation error: {why}"));
        Expression { text: text.to_owned(), program }
    }

    /// The value, or why there is none, in the words that clients see.
    pub(super) fn evaluate<'a>(&self, context: &mut Context<'a, '_>) -> Result<Value<'a>, String> {
        let program = self.program.as_ref().map_err(Clone::clone)?;
        program.evaluate(context).map_err(|failure| match failure {
            Failure::OutOfBudget => OUT_OF_BUDGET.to_owned(),
            why => format!("expression '{}' resulted in error: {why}", self.text),
        })
    }
}

/// The conditions of a webhook or policy.
pub(super) fn conditions(list: &Json, params: bool) -> Vec<Condition> {
    let environment = environment(Declared { params, authorizer: true, patches: false });
    let texts = list.as_array().into_iter().flatten().map(|c| c["expression"].as_str().unwrap_or_default());
    texts.map(|text| Condition(Expression::compile(&environment, text, &[Type::Bool]))).collect()
}

/// Whether all conditions hold. One that is false decides, even where another fails; the error is the failures' text.
pub(super) fn hold(conditions: &[Condition], inputs: &Inputs<'_>) -> Result<bool, String> {
    let mut context = Context::new(inputs, CONDITIONS_BUDGET);
    let mut failures = vec![];
    for Condition(expression) in conditions {
        match expression.evaluate(&mut context) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => return Ok(false),
            Err(why) => failures.push(why),
        }
    }
    match &failures[..] {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

// === impl Inputs ===

impl<'a> Inputs<'a> {
    fn query(&self) -> Query {
        let (what, gvr) = (self.what, &self.what.resource.gvr);
        Query {
            stage: Stage::Resource,
            group: gvr.group.clone(),
            resource: gvr.resource.clone(),
            subresource: what.subresource.to_owned(),
            namespace: matching::effective_namespace(what).to_owned(),
            name: what.name.to_owned(),
            ..Query::default()
        }
    }

    fn composed(&self, name: &str, context: &mut Context<'a, '_>) -> Option<Result<Value<'a>, Failure>> {
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        let (_, expression) = self.variables.iter().find(|(own, _)| own == name)?;
        let value = match &expression.program {
            Ok(program) => program.evaluate(context),
            Err(why) => Err(Failure::Error(why.clone())),
        };
        self.known.borrow_mut().insert(name.to_owned(), value.clone());
        Some(value)
    }
}

impl<'a> Scope<'a> for Inputs<'a> {
    fn variable(&self, name: &str, context: &mut Context<'a, '_>) -> Option<Result<Value<'a>, Failure>> {
        let json = |json: Option<&'a Json>| Some(Ok(json.map_or(Value::Null, Value::from)));
        match name {
            "object" => json(self.object.map(|o| &o.0)),
            "oldObject" => json(self.old.map(|o| &o.0)),
            "request" => json(Some(self.request)),
            "namespaceObject" => json(self.namespace),
            "params" => json(self.params),
            "authorizer" => Some(Ok(Value::Query(Rc::new(Query::default())))),
            "authorizer.requestResource" => Some(Ok(Value::Query(Rc::new(self.query())))),
            name => self.composed(name.strip_prefix("variables.")?, context),
        }
    }

    fn authorize(&self, query: &Query) -> Verdict {
        let account = query.service_account.as_ref().map(|(namespace, name)| {
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            User::component(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
        });
        let asked = Asked {
            verb: &query.verb,
            is_resource: query.stage != Stage::Path,
            group: &query.group,
            resource: &query.resource,
            subresource: &query.subresource,
            namespace: &query.namespace,
            name: &query.name,
            path: &query.path,
            ..Asked::RESOURCE
        };
        let user = account.as_ref().unwrap_or(self.what.user);
        let (allowed, reason) = match self.server.access.authz.decide(self.server, user, &asked) {
            Decision::Allow(reason) => (true, reason),
            Decision::Deny(reason) => (false, reason),
        };
        Verdict { allowed, reason, error: None }
    }
}
