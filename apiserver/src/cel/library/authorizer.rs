//! `authorizer`: expressions may ask what the user of the request (or a service account) may do.

use std::rc::Rc;

use super::super::eval::Context;
use super::super::functions::Row;
use super::super::value::{Result, Value, fail, no_overload};
use super::text;

/// A question as far as it has been put.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub stage: Stage,
    /// Namespace and name of the service account that is asked about instead of the request's user.
    pub service_account: Option<(String, String)>,
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub verb: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Stage {
    #[default]
    Authorizer,
    Path,
    Group,
    Resource,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

pub(super) static ROWS: &[Row] = &[
    Row("Authorizer.path(string): PathCheck", |_, a| match text(&a[1]) {
        "" => fail("path must not be empty"),
        path => with(&a[0], |q| (q.stage, q.path) = (Stage::Path, path.to_owned())),
    }),
    Row("Authorizer.group(string): GroupCheck", |_, a| {
        with(&a[0], |q| (q.stage, q.group) = (Stage::Group, text(&a[1]).to_owned()))
    }),
    Row("Authorizer.serviceAccount(string, string): Authorizer", |_, a| {
        let (namespace, name) = (text(&a[1]), text(&a[2]));
        if !crate::field_names::dns1123_label(namespace).is_empty() {
            return fail("Invalid service account namespace");
        }
        if !crate::field_names::dns1123_subdomain(name).is_empty() {
            return fail("Invalid service account name");
        }
        with(&a[0], |q| q.service_account = Some((namespace.to_owned(), name.to_owned())))
    }),
    Row("GroupCheck.resource(string): ResourceCheck", |_, a| {
        with(&a[0], |q| (q.stage, q.resource) = (Stage::Resource, text(&a[1]).to_owned()))
    }),
    Row("ResourceCheck.subresource(string): ResourceCheck", |_, a| {
        with(&a[0], |q| q.subresource = text(&a[1]).to_owned())
    }),
    Row("ResourceCheck.namespace(string): ResourceCheck", |_, a| {
        with(&a[0], |q| q.namespace = text(&a[1]).to_owned())
    }),
    Row("ResourceCheck.name(string): ResourceCheck", |_, a| with(&a[0], |q| q.name = text(&a[1]).to_owned())),
    // No authorizer of ours decides by selectors, and so they change nothing.
    Row("ResourceCheck.fieldSelector(string): ResourceCheck", |_, a| Ok(a[0].clone())),
    Row("ResourceCheck.labelSelector(string): ResourceCheck", |_, a| Ok(a[0].clone())),
    Row("PathCheck.check(string): Decision", check),
    Row("ResourceCheck.check(string): Decision", check),
    Row("Decision.allowed(): bool", |_, a| verdict(&a[0], |v| Value::Bool(v.allowed))),
    Row("Decision.reason(): string", |_, a| verdict(&a[0], |v| Value::string(&*v.reason))),
    Row("Decision.errored(): bool", |_, a| verdict(&a[0], |v| Value::Bool(v.error.is_some()))),
    Row("Decision.error(): string", |_, a| {
        verdict(&a[0], |v| Value::string(v.error.clone().unwrap_or_default()))
    }),
];

// === impl Query ===

impl Query {
    pub fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

fn with<'a>(value: &Value<'a>, change: impl FnOnce(&mut Query)) -> Result<Value<'a>> {
    let Value::Query(query) = value else { return no_overload("") };
    let mut query = (**query).clone();
    change(&mut query);
    Ok(Value::Query(Rc::new(query)))
}

/// A decision is upstream's dearest call.
fn check<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>]) -> Result<Value<'a>> {
    const COST: usize = 350_000;
    cx.spend(COST)?;
    let Value::Query(query) = &a[0] else { return no_overload("") };
    let mut query = (**query).clone();
    text(&a[1]).clone_into(&mut query.verb);
    Ok(Value::Verdict(Rc::new(cx.scope.authorize(&query))))
}

fn verdict<'a>(value: &Value<'a>, of: impl Fn(&Verdict) -> Value<'a>) -> Result<Value<'a>> {
    if let Value::Verdict(verdict) = value { Ok(of(verdict)) } else { no_overload("") }
}
