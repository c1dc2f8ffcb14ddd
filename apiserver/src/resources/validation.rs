//! The vocabulary of validation: one line for each rule, so that hooks read like a table.

use coracle_api::selector::LabelSelector;
use serde_json::Value;

use super::located::Located;
use crate::field::{Cause, FieldError};
use crate::field_names::{label_value, qualified_name};

/// All that is wrong, in the order it was found.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) Vec<FieldError>);

// === impl Errors ===

impl Errors {
    pub(super) fn required(&mut self, at: impl Into<String>, detail: &str) {
        self.0.push(FieldError::required(at, detail));
    }

    pub(super) fn forbidden(&mut self, at: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(at, detail));
    }

    pub(super) fn invalid(
        &mut self,
        at: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.0.push(FieldError::invalid(at, &value.into(), detail));
    }

    /// One error for each rule broken.
    pub(super) fn all_invalid(
        &mut self,
        at: impl Into<String>,
        value: impl Into<Value>,
        details: Vec<String>,
    ) {
        let (at, value) = (at.into(), value.into());
        self.0.extend(details.into_iter().map(|d| FieldError::invalid(at.clone(), &value, d)));
    }

    /// A value shown as upstream prints its own type, not as the JSON of ours.
    pub(super) fn invalid_text(&mut self, at: impl Into<String>, value: String, detail: impl Into<String>) {
        let (field, detail) = (at.into(), detail.into());
        self.0.push(FieldError { field, cause: Cause::Invalid, value, detail });
    }

    /// An unknown word, or a whole object that holds one; the known words stay in the order given.
    pub(super) fn unsupported_text(&mut self, at: impl Into<String>, value: String, words: &[&str]) {
        let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
        let detail = format!("supported values: {}", words.join(", "));
        self.0.push(FieldError { field: at.into(), cause: Cause::NotSupported, value, detail });
    }

    pub(super) fn duplicate(&mut self, at: impl Into<String>, value: impl Into<Value>) {
        self.0.push(FieldError::duplicate(at, &value.into()));
    }

    /// A duplicate whose value is no JSON of ours but upstream's printed form.
    pub(super) fn duplicate_text(&mut self, at: impl Into<String>, value: String) {
        let (field, detail) = (at.into(), String::new());
        self.0.push(FieldError { field, cause: Cause::Duplicate, value, detail });
    }

    pub(super) fn internal(&mut self, at: impl Into<String>, detail: String) {
        let (field, value) = (at.into(), String::new());
        self.0.push(FieldError { field, cause: Cause::Internal, value, detail });
    }

    pub(super) fn not_found(&mut self, at: impl Into<String>, value: &str) {
        self.0.push(FieldError::not_found(at, &value.into()));
    }

    /// A word of a closed set: `Required value` where empty, `Unsupported value` where unknown.
    pub(super) fn one_of(&mut self, at: impl Into<String>, value: &str, words: &[&str]) {
        match value {
            "" => self.required(at, ""),
            known if words.contains(&known) => {}
            other => self.unsupported_text(at, format!("{other:?}"), words),
        }
    }

    /// A word of a closed set in which the empty word is as unknown as others.
    pub(super) fn supported(&mut self, at: impl Into<String>, value: &str, words: &[&str]) {
        if !words.contains(&value) {
            self.unsupported_text(at, format!("{value:?}"), words);
        }
    }

    pub(super) fn non_negative(&mut self, at: impl Into<String>, value: Option<i64>) {
        if let Some(negative) = value.filter(|v| *v < 0) {
            self.invalid(at, negative, "must be greater than or equal to 0");
        }
    }

    pub(super) fn immutable(&mut self, at: impl Into<String>, new: Option<&Value>, old: Option<&Value>) {
        if new != old {
            self.invalid(at, new.cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }
}

/// A map of labels: keys and values.
pub(super) fn labels(at: &str, map: Option<&Value>, errors: &mut Errors) {
    for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
        errors.all_invalid(at, &**key, qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.all_invalid(at, value, label_value(value));
    }
}

/// What may be said of objects that will be made: annotations and labels.
pub(super) fn template_metadata(metadata: &Located<'_>, errors: &mut Errors) {
    /// The rest, in the order of upstream's type, and as it spells them.
    const OTHERS: [(&str, &str); 13] = [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ];
    let given = metadata.at("annotations");
    annotations(given.path(), given.value(), errors);
    metadata.at("labels").labels(errors);
    for (field, called) in OTHERS {
        let value = metadata.at(field).value();
        // Upstream's is a pointer.
        let pointed = field == "deletionGracePeriodSeconds" && *value == 0;
        let zero =
            value.is_null() || *value == "" || *value == 0 || value.as_array().is_some_and(Vec::is_empty);
        let zero = zero && !pointed;
        if !zero {
            errors.forbidden(format!("{}.{called}", metadata.path()), "cannot be set");
        }
    }
}

/// A map of annotations: their keys, and how much there is of them.
pub(super) fn annotations(at: &str, map: &Value, errors: &mut Errors) {
    const BYTES: usize = 256 << 10;
    let all = || map.as_object().into_iter().flatten();
    for (key, _) in all() {
        errors.all_invalid(at, &**key, qualified_name(&key.to_lowercase()));
    }
    if all().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum::<usize>() > BYTES {
        errors.0.push(FieldError::too_long(at, BYTES));
    }
}

/// A `metav1.LabelSelector`.
pub(super) fn label_selector(at: &str, selector: &Value, errors: &mut Errors) {
    labels(&format!("{at}.matchLabels"), selector.get("matchLabels"), errors);
    for (i, e) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = e["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        match e["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => errors
                .required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.invalid(format!("{at}.operator"), other, "not a valid selector operator");
            }
        }
        let key = e["key"].as_str().unwrap_or_default();
        errors.all_invalid(format!("{at}.key"), key, qualified_name(key));
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.all_invalid(format!("{at}.values[{j}]"), value, label_value(value));
        }
    }
}

/// A `LabelSelector` as upstream prints it: fields in the order of their type.
pub(super) fn selector_text(selector: &Value) -> String {
    let mut parts = vec![];
    if let Some(labels) = selector.get("matchLabels").filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
    {
        parts.push(format!("\"matchLabels\":{labels}"));
    }
    let expression = |e: &Value| {
        let text = |key: &str| e.get(key).cloned().unwrap_or_else(|| Value::from(""));
        let values = match e["values"].as_array().is_some_and(|v| !v.is_empty()) {
            true => format!(",\"values\":{}", e["values"]),
            false => String::new(),
        };
        format!("{{\"key\":{},\"operator\":{}{values}}}", text("key"), text("operator"))
    };
    let all: Vec<String> =
        selector["matchExpressions"].as_array().into_iter().flatten().map(expression).collect();
    if !all.is_empty() {
        parts.push(format!("\"matchExpressions\":[{}]", all.join(",")));
    }
    format!("{{{}}}", parts.join(","))
}

/// Whether a `LabelSelector` names nothing.
pub(super) fn is_empty_selector(selector: &Value) -> bool {
    LabelSelector::of_json(selector).is_empty()
}

/// Whether labels satisfy a `LabelSelector`.
pub(super) fn selector_matches(selector: &Value, labels: &Value) -> bool {
    LabelSelector::of_json(selector).matches(|key| labels.get(key)?.as_str())
}
