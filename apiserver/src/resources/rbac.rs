//! rbac.authorization.k8s.io: roles and bindings.

use coracle_api::Object;
use serde_json::{Value, json};

use super::located::Located;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::path_segment;
use crate::resource::{CLUSTER, Cell, Column, NAMESPACED, Row, Strategy, WriteContext};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const ROWS: &[Row] = &[
    Row {
        group: GROUP,
        kind: "ClusterRoleBinding",
        metadata_looks: [2, 1],
        plural: "clusterrolebindings",
        columns: BINDING_COLUMNS,
        strategy: &Binding,
        create_on_update: true,
        ..CLUSTER
    },
    Row {
        group: GROUP,
        kind: "ClusterRole",
        metadata_looks: [2, 1],
        plural: "clusterroles",
        columns: ROLE_COLUMNS,
        strategy: &Role,
        create_on_update: true,
        ..CLUSTER
    },
    Row {
        group: GROUP,
        kind: "RoleBinding",
        metadata_looks: [2, 1],
        plural: "rolebindings",
        columns: BINDING_COLUMNS,
        strategy: &Binding,
        create_on_update: true,
        ..NAMESPACED
    },
    Row {
        group: GROUP,
        kind: "Role",
        metadata_looks: [2, 1],
        plural: "roles",
        columns: ROLE_COLUMNS,
        strategy: &Role,
        create_on_update: true,
        ..NAMESPACED
    },
];

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    cell: Cell::Path(&["metadata", "name"]),
};
const AGE: Column = Column { name: "Age", kind: "string", format: "", priority: 0, cell: Cell::Age };
const ROLE_COLUMNS: &[Column] = &[
    NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
        cell: Cell::Path(&["metadata", "creationTimestamp"]),
    },
];
const BINDING_COLUMNS: &[Column] = &[
    NAME,
    Column {
        name: "Role",
        kind: "string",
        format: "",
        priority: 0,
        cell: Cell::Compute(|o, _| {
            format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"])).into()
        }),
    },
    AGE,
    Column {
        name: "Users",
        kind: "string",
        format: "",
        priority: 1,
        cell: Cell::Compute(|o, _| subjects(o, "User")),
    },
    Column {
        name: "Groups",
        kind: "string",
        format: "",
        priority: 1,
        cell: Cell::Compute(|o, _| subjects(o, "Group")),
    },
    Column {
        name: "ServiceAccounts",
        kind: "string",
        format: "",
        priority: 1,
        cell: Cell::Compute(|o, _| subjects(o, "ServiceAccount")),
    },
];

fn subjects(binding: &Object, kind: &str) -> Value {
    let shown = |s: &Value| {
        let text = |field: &str| s.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("kind") == kind).then(|| match kind {
            "ServiceAccount" => format!("{}/{}", text("namespace"), text("name")),
            _ => text("name"),
        })
    };
    binding.items_at(&["subjects"]).iter().filter_map(shown).collect::<Vec<_>>().join(", ").into()
}

struct Role;

impl Strategy for Role {
    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        path_segment(name)
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let namespaced = cx.resource.scope == crate::resource::Scope::Namespaced;
        let rules = new.items_at(&["rules"]).iter().enumerate();
        let mut errors = Errors(
            rules.flat_map(|(i, rule)| rule_errors(&format!("rules[{i}]"), rule, namespaced)).collect(),
        );
        if !namespaced {
            aggregation(&Located::root(new), old.map(Located::root).as_ref(), &mut errors);
        }
        errors.0
    }
}

/// Selectors of the roles that one is made of.
fn aggregation(role: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
    let rule = role.at("aggregationRule");
    let selectors = rule.at("clusterRoleSelectors");
    if rule.is_set() && selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        selectors.missing(why, errors);
    }
    let wrong = |selector: &Located<'_>| {
        let mut found = Errors::default();
        selector.label_selector(&mut found);
        !found.0.is_empty()
    };
    // What was stored with a value that is none may be changed elsewhere.
    let before = old.map(|o| o.at("aggregationRule").at("clusterRoleSelectors"));
    let before = before.and_then(|list| list.each().find(wrong));
    for selector in selectors.each() {
        selector.label_selector_unlike(before.as_ref(), errors);
        if wrong(&selector) {
            errors.invalid_text(selector.path(), "null".to_owned(), "invalid label selector.");
        }
    }
}

fn rule_errors(at: &str, rule: &Value, namespaced: bool) -> Vec<FieldError> {
    let list = |field: &str| rule.get(field).and_then(Value::as_array).map(Vec::len).unwrap_or_default();
    let mut errors = vec![];
    if list("verbs") == 0 {
        errors.push(FieldError::required(format!("{at}.verbs"), "verbs must contain at least one value"));
    }
    if list("nonResourceURLs") > 0 {
        let (field, urls) =
            (format!("{at}.nonResourceURLs"), rule.get("nonResourceURLs").unwrap_or(&Value::Null));
        if namespaced {
            errors.push(FieldError::invalid(
                &field,
                urls,
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if list("apiGroups") + list("resources") + list("resourceNames") > 0 {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(field, urls, why));
        }
        return errors;
    }
    if list("apiGroups") == 0 {
        errors.push(FieldError::required(
            format!("{at}.apiGroups"),
            "resource rules must supply at least one api group",
        ));
    }
    if list("resources") == 0 {
        errors.push(FieldError::required(
            format!("{at}.resources"),
            "resource rules must supply at least one resource",
        ));
    }
    errors
}

struct Binding;

impl Strategy for Binding {
    fn default(&self, new: &mut Object) {
        new.set_default(&["roleRef", "apiGroup"], GROUP);
        if new.str_at(&["roleRef", "apiGroup"]).is_empty() {
            new.set(&["roleRef", "apiGroup"], GROUP);
        }
        for subject in new.0.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(subject) = subject.as_object_mut() else { continue };
            let empty = subject.get("apiGroup").and_then(Value::as_str).unwrap_or_default().is_empty();
            if empty && matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
                subject.insert("apiGroup".to_owned(), GROUP.into());
            }
        }
    }

    fn validate_name(&self, name: &str, _of: &Object) -> Vec<String> {
        path_segment(name)
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let namespaced = cx.resource.scope == crate::resource::Scope::Namespaced;
        let mut errors = role_ref_errors(new, namespaced);
        for (i, subject) in new.items_at(&["subjects"]).iter().enumerate() {
            errors.extend(subject_errors(&format!("subjects[{i}]"), subject, namespaced));
        }
        if old.is_some_and(|old| old.at(&["roleRef"]) != new.at(&["roleRef"])) {
            let text = |field: &str| new.str_at(&["roleRef", field]);
            // As upstream's internal type prints itself.
            let value = json!({"APIGroup": text("apiGroup"), "Kind": text("kind"), "Name": text("name")});
            errors.push(FieldError::invalid("roleRef", &value, "cannot change roleRef"));
        }
        errors
    }
}

fn role_ref_errors(new: &Object, namespaced: bool) -> Vec<FieldError> {
    let text = |field: &str| new.str_at(&["roleRef", field]);
    let mut errors = vec![];
    if text("apiGroup") != GROUP {
        errors.push(FieldError::not_supported("roleRef.apiGroup", &json!(text("apiGroup")), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text("kind")) {
        let mut error = FieldError::not_supported("roleRef.kind", &json!(text("kind")), kinds);
        if namespaced {
            "supported values: \"Role\", \"ClusterRole\"".clone_into(&mut error.detail);
        }
        errors.push(error);
    }
    if text("name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    let bad = path_segment(text("name")).into_iter();
    errors.extend(bad.map(|why| FieldError::invalid("roleRef.name", &json!(text("name")), why)));
    errors
}

fn subject_errors(at: &str, subject: &Value, namespaced: bool) -> Vec<FieldError> {
    let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
    let mut errors = vec![];
    if text("name").is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    match text("kind") {
        "ServiceAccount" => {
            let bad = if text("name").is_empty() {
                vec![]
            } else {
                crate::field_names::dns1123_subdomain(text("name"))
            };
            errors.extend(
                bad.into_iter()
                    .map(|why| FieldError::invalid(format!("{at}.name"), &json!(text("name")), why)),
            );
            if !text("apiGroup").is_empty() {
                errors.push(FieldError::not_supported(
                    format!("{at}.apiGroup"),
                    &json!(text("apiGroup")),
                    &[""],
                ));
            }
            if !namespaced && text("namespace").is_empty() {
                errors.push(FieldError::required(format!("{at}.namespace"), ""));
            }
        }
        "User" | "Group" => {
            if text("apiGroup") != GROUP {
                errors.push(FieldError::not_supported(
                    format!("{at}.apiGroup"),
                    &json!(text("apiGroup")),
                    &[GROUP],
                ));
            }
        }
        kind => {
            let mut unknown = Errors::default();
            let kinds = ["ServiceAccount", "User", "Group"];
            unknown.unsupported_text(format!("{at}.kind"), json!(kind).to_string(), &kinds);
            errors.extend(unknown.0);
        }
    }
    errors
}
