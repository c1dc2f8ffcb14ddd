//! authorization.k8s.io: what may somebody do?

use std::sync::Arc;

use coracle_api::names::GROUP_NODES;
use coracle_api::selector::{FieldSelector, FieldTerm};
use coracle_api::{Gvk, Object};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::located::Located;
use super::validation::Errors;
use crate::Server;
use crate::authn::User;
use crate::authz::{Asked, Decision};
use crate::field::FieldError;
use crate::field_names::{label_value, qualified_name};
use crate::resource::{CLUSTER, Call, Invocation, NAMESPACED, Persistence, Row};
use crate::status::{Result, Status};

const GROUP: &str = "authorization.k8s.io";

pub(super) const ROWS: &[Row] = &[
    Row {
        group: GROUP,
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        verbs: &["create"],
        persistence: Persistence::Computed(&Review { own: false }),
        ..NAMESPACED
    },
    Row {
        group: GROUP,
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        verbs: &["create"],
        persistence: Persistence::Computed(&Review { own: true }),
        ..CLUSTER
    },
    Row {
        group: GROUP,
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        verbs: &["create"],
        persistence: Persistence::Computed(&Rules),
        ..CLUSTER
    },
    Row {
        group: GROUP,
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        verbs: &["create"],
        persistence: Persistence::Computed(&Review { own: false }),
        ..CLUSTER
    },
];

/// One question, about oneself or about anybody.
struct Review {
    own: bool,
}

impl Call for Review {
    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move {
            let mut answer = call.body;
            let errors = review_errors(&answer, self.own, call.namespace);
            if !errors.is_empty() {
                // Upstream's error names the group alone.
                let nameless = Gvk { kind: String::new(), ..call.resource.gvk.clone() };
                return Err(Status::invalid(&nameless, "", &errors));
            }
            let somebody = if self.own { call.user.clone() } else { subject(&answer) };
            let fields = fields(&answer);
            let decision = server.access.authz.decide(&**server, &somebody, &asked(&answer, &fields));
            let (allowed, reason) = match decision {
                Decision::Allow(why) => (true, why),
                Decision::Deny(why) => (false, why),
            };
            let mut status = json!({"allowed": allowed});
            if !reason.is_empty() {
                status["reason"] = reason.into();
            }
            answer.set(&["status"], status);
            Ok(answer)
        }
        .boxed()
    }
}

fn review_errors(review: &Object, own: bool, namespace: &str) -> Vec<FieldError> {
    let has = |field: &str| review.at(&["spec", field]).is_some();
    let mut errors = vec![];
    // As upstream's internal type prints itself.
    let plain = || {
        let text = |field: &str| review.str_at(&["spec", "nonResourceAttributes", field]);
        json!({"Path": text("path"), "Verb": text("verb")})
    };
    if has("resourceAttributes") && has("nonResourceAttributes") {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", &plain(), why));
    }
    if !has("resourceAttributes") && !has("nonResourceAttributes") {
        let value = review.at(&["spec", "resourceAttributes"]).cloned().unwrap_or_default();
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid("spec.resourceAttributes", &value, why));
    }
    if !own && review.str_at(&["spec", "user"]).is_empty() && review.items_at(&["spec", "groups"]).is_empty()
    {
        errors.push(FieldError::invalid(
            "spec.user",
            &json!(""),
            "at least one of user or group must be specified",
        ));
    }
    let mut selectors = Errors::default();
    let attributes = Located::root(review).at("spec").at("resourceAttributes");
    for field in ["fieldSelector", "labelSelector"] {
        if attributes.at(field).is_set() {
            selector(&attributes.at(field), &mut selectors);
        }
    }
    errors.extend(selectors.0);
    if namespace.is_empty() {
        return errors;
    }
    let asked = review.str_at(&["spec", "resourceAttributes", "namespace"]);
    if has("resourceAttributes") && asked != namespace {
        let why = "must match metadata.namespace";
        errors.push(FieldError::invalid("spec.resourceAttributes.namespace", &json!(asked), why));
    }
    if has("nonResourceAttributes") {
        let why = "disallowed on this kind of request";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", &plain(), why));
    }
    errors
}

/// A selector of fields or of labels: as text or as requirements, whose operators may be of a time to come.
fn selector(selector: &Located<'_>, errors: &mut Errors) {
    let [raw, requirements] = ["rawSelector", "requirements"].map(|field| selector.at(field));
    if !raw.text().is_empty() && !requirements.is_empty() {
        raw.wrong("may not specified at the same time as requirements", errors);
    }
    if raw.text().is_empty() && requirements.is_empty() {
        let at = selector.path();
        let why = format!("when {at} is specified, requirements or rawSelector is required");
        requirements.missing(&why, errors);
    }
    let of_labels = selector.path().ends_with("labelSelector");
    for requirement in requirements.each() {
        let [key, operator, values] = ["key", "operator", "values"].map(|field| requirement.at(field));
        if !of_labels && key.text().is_empty() {
            key.missing("must be specified", errors);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.missing("must be specified when `operator` is 'In' or 'NotIn'", errors);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values
                    .forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", errors);
            }
            _ => {}
        }
        if of_labels {
            key.obeys(qualified_name, errors);
            values.each().for_each(|value| value.obeys(label_value, errors));
        }
    }
}

fn subject(review: &Object) -> User {
    let extra = review.at(&["spec", "extra"]).cloned().unwrap_or_default();
    User {
        name: review.str_at(&["spec", "user"]).to_owned(),
        uid: review.str_at(&["spec", "uid"]).to_owned(),
        groups: review
            .items_at(&["spec", "groups"])
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        extra: serde_json::from_value(extra).unwrap_or_default(),
    }
}

/// What the field selector in question demands, as text or as requirements. What cannot be read is left out: then more is
/// asked for, not less.
fn fields(review: &Object) -> Vec<FieldTerm> {
    let selector = ["spec", "resourceAttributes", "fieldSelector"];
    let requirements = review.items_at(&[&selector[..], &["requirements"]].concat());
    if requirements.is_empty() {
        let raw = review.str_at(&[&selector[..], &["rawSelector"]].concat());
        return FieldSelector::parse(raw).unwrap_or_default().0;
    }
    let term = |r: &Value| {
        let equal = match r["operator"].as_str()? {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        let [value] = r["values"].as_array()?.as_slice() else { return None };
        Some(FieldTerm { field: r["key"].as_str()?.to_owned(), value: value.as_str()?.to_owned(), equal })
    };
    requirements.iter().filter_map(term).collect()
}

fn asked<'a>(review: &'a Object, fields: &'a [FieldTerm]) -> Asked<'a> {
    let is_resource = review.at(&["spec", "resourceAttributes"]).is_some();
    let text = |field: &str| {
        let part = if is_resource { "resourceAttributes" } else { "nonResourceAttributes" };
        review.str_at(&["spec", part, field])
    };
    Asked {
        verb: text("verb"),
        is_resource,
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        path: text("path"),
        fields,
    }
}

/// All a user may do in a namespace.
struct Rules;

impl Call for Rules {
    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move {
            let mut answer = call.body;
            let namespace = answer.str_at(&["spec", "namespace"]).to_owned();
            if namespace.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            let is_node = call.user.in_group(GROUP_NODES) && call.user.name.starts_with("system:node:");
            let rules = server.access.authz.rbac.rules_of(&**server, call.user, &namespace);
            let (urls, resources): (Vec<_>, Vec<_>) =
                rules.into_iter().partition(|r| !r.non_resource_urls.is_empty());
            // The answer is the rules and nothing of the question.
            answer.set(&["metadata"], json!({}));
            answer.set(&["spec"], json!({}));
            answer.set(
                &["status"],
                json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": is_node}),
            );
            if is_node {
                // What a node may do depends on its pods.
                let why = "node authorizer does not support user rule resolution";
                answer.set(&["status", "evaluationError"], why);
            }
            Ok(answer)
        }
        .boxed()
    }
}
