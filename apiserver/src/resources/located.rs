//! The vocabulary of rules that know where they stand: a value of an object with its path, so that a path is said once
//! and a rule is one line. In debug builds a name that its type does not have is a failure: no path can be mistyped.

use coracle_api::{Object, Quantity};
use serde_json::Value;

use super::go_form::go_form;
use super::validation::{Errors, label_selector, labels};
use crate::field::FieldError;
use crate::field_names::qualified_name;
use crate::schema::{Node, Schema};

static ABSENT: Value = Value::Null;

/// A value, or the place where one is missing, and its path: `spec.ports[0].name`.
#[derive(Clone)]
pub(super) struct Located<'a> {
    path: String,
    value: &'a Value,
    node: Option<Node<'static>>,
    /// Whether upstream's type tells an absent value from an empty one.
    optional: bool,
}

// === impl Located ===

impl<'a> Located<'a> {
    /// The whole object.
    pub(super) fn root(object: &'a Object) -> Self {
        let node = Schema::builtin_root(&object.gvk());
        Located { path: String::new(), value: &object.0, node, optional: false }
    }

    /// A field, whether it is there or not.
    pub(super) fn at(&self, name: &str) -> Located<'a> {
        let node = self.node.and_then(|n| n.child(name));
        debug_assert!(
            self.node.is_none() || node.is_some(),
            "{:?} has no field {name:?}: {}",
            self.node.and_then(Node::as_struct).map(|s| &*s.name),
            self.path
        );
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let optional = self.node.and_then(|n| n.field(name)).is_none_or(|field| field.pointer);
        Located { path, value: self.value.get(name).unwrap_or(&ABSENT), node, optional }
    }

    /// The same value under the path that upstream calls it by where that is not its own.
    pub(super) fn called(mut self, path: &str) -> Located<'a> {
        path.clone_into(&mut self.path);
        self
    }

    /// Another value at the same place.
    pub(super) fn with<'b>(&self, value: &'b Value) -> Located<'b> {
        Located { path: self.path.clone(), value, node: self.node, optional: self.optional }
    }

    /// A value at a path, of a type that nobody knows here.
    pub(super) fn placed(path: impl Into<String>, value: &'a Value) -> Located<'a> {
        Located { path: path.into(), value, node: None, optional: true }
    }

    /// The elements of a list.
    pub(super) fn each(&self) -> impl Iterator<Item = Located<'a>> + use<'a> {
        let (path, node) = (self.path.clone(), self.node.and_then(Node::item));
        let all = self.value.as_array().into_iter().flatten().enumerate();
        all.map(move |(i, value)| Located { path: format!("{path}[{i}]"), value, node, optional: false })
    }

    /// The entries of a map, by key.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Located<'a>)> + use<'a> {
        let (path, node) = (self.path.clone(), self.node.and_then(|n| n.child("")));
        let all = self.value.as_object().into_iter().flatten();
        all.map(move |(key, value)| {
            (&**key, Located { path: format!("{path}[{key}]"), value, node, optional: false })
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// The text; empty where there is none.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub(super) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(super) fn is_true(&self) -> bool {
        *self.value == true
    }

    pub(super) fn quantity(&self) -> Option<Quantity> {
        Quantity::from_json(self.value).ok()
    }

    /// How many elements or entries there are.
    pub(super) fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value as upstream prints its own type.
    pub(super) fn shown(&self) -> String {
        go_form(self.node, self.value, self.optional)
    }
}

/// Rules.
impl Located<'_> {
    /// This value is wrong.
    pub(super) fn wrong(&self, detail: impl Into<String>, errors: &mut Errors) {
        errors.invalid_text(&*self.path, self.shown(), detail);
    }

    /// This value breaks these rules.
    pub(super) fn breaks(&self, details: Vec<String>, errors: &mut Errors) {
        for detail in details {
            self.wrong(detail, errors);
        }
    }

    pub(super) fn missing(&self, detail: &str, errors: &mut Errors) {
        errors.required(&*self.path, detail);
    }

    pub(super) fn forbidden(&self, detail: impl Into<String>, errors: &mut Errors) {
        errors.forbidden(&*self.path, detail);
    }

    pub(super) fn duplicate(&self, errors: &mut Errors) {
        errors.duplicate_text(&*self.path, self.shown());
    }

    /// A text that is not empty; whether it is.
    pub(super) fn required(&self, errors: &mut Errors) -> bool {
        if self.text().is_empty() {
            self.missing("", errors);
        }
        !self.text().is_empty()
    }

    /// A text that is not empty and obeys a rule.
    pub(super) fn required_as(&self, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
        if self.required(errors) {
            self.obeys(rule, errors);
        }
    }

    /// A text, the empty one included, obeys a rule.
    pub(super) fn obeys(&self, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
        self.breaks(rule(self.text()), errors);
    }

    /// A text that somebody gave obeys a rule; the empty one is none.
    pub(super) fn optional_as(&self, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
        if !self.text().is_empty() {
            self.obeys(rule, errors);
        }
    }

    /// A word of a closed set, if there is one.
    pub(super) fn one_of(&self, words: &[&str], errors: &mut Errors) {
        if self.value.as_str().is_some_and(|word| !words.contains(&word)) {
            errors.unsupported_text(&*self.path, self.shown(), words);
        }
    }

    /// A number, if there is one, is so large at least.
    pub(super) fn at_least(&self, least: i64, detail: &str, errors: &mut Errors) {
        if self.number().is_some_and(|n| n < least) {
            self.wrong(detail, errors);
        }
    }

    pub(super) fn not_negative(&self, errors: &mut Errors) {
        self.at_least(0, "must be greater than or equal to 0", errors);
    }

    /// A quantity, if there is one, is none below zero.
    pub(super) fn quantity_not_negative(&self, errors: &mut Errors) {
        if self.quantity().is_some_and(|q| q.is_negative()) {
            self.wrong("must be greater than or equal to 0", errors);
        }
    }

    /// A text of so many bytes at most.
    pub(super) fn at_most_bytes(&self, most: usize, errors: &mut Errors) {
        if self.text().len() > most {
            errors.0.push(FieldError::too_long(&*self.path, most));
        }
    }

    /// A list or map of so many elements at most; whether it is.
    pub(super) fn at_most_items(&self, most: usize, errors: &mut Errors) -> bool {
        let fits = self.len() <= most;
        if !fits {
            errors.0.push(FieldError::too_many(&*self.path, self.len(), most));
        }
        fits
    }

    /// What was there before is still there, and nothing else.
    pub(super) fn immutable(&self, old: &Located<'_>, errors: &mut Errors) {
        if self.value != old.value {
            self.wrong("field is immutable", errors);
        }
    }

    pub(super) fn labels(&self, errors: &mut Errors) {
        labels(&self.path, Some(self.value), errors);
    }

    pub(super) fn label_selector(&self, errors: &mut Errors) {
        label_selector(&self.path, self.value, errors);
    }

    /// A selector whose values are not looked at where the one before was wrong already.
    pub(super) fn label_selector_unlike(&self, old: Option<&Located<'_>>, errors: &mut Errors) {
        let mut before = Errors::default();
        if let Some(old) = old {
            old.label_selector(&mut before);
        }
        let mut found = Errors::default();
        self.label_selector(&mut found);
        let of_values = format!("{}.matchExpressions[", self.path);
        let lenient = !before.0.is_empty();
        found.0.retain(|e| {
            let value = e.field.strip_prefix(&of_values).is_some_and(|rest| rest.contains("].values["));
            !(lenient && value)
        });
        errors.0.extend(found.0);
    }
}

/// A list of `metav1.Condition`.
pub(super) fn conditions(list: &Located<'_>, errors: &mut Errors) {
    let mut types = vec![];
    for condition in list.each() {
        let [kind, status, reason] = ["type", "status", "reason"].map(|field| condition.at(field));
        if types.contains(&kind.text()) {
            kind.duplicate(errors);
        } else {
            types.push(kind.text());
        }
        kind.obeys(qualified_name, errors);
        if !["False", "True", "Unknown"].contains(&status.text()) {
            let shown = format!("{:?}", status.text());
            errors.unsupported_text(status.path(), shown, &["False", "True", "Unknown"]);
        }
        condition.at("observedGeneration").at_least(0, "must be greater than or equal to zero", errors);
        if !condition.at("lastTransitionTime").is_set() {
            condition.at("lastTransitionTime").missing("", errors);
        }
        if reason.required(errors) {
            reason.obeys(condition_reason, errors);
            reason.at_most_bytes(1 << 10, errors);
        }
        condition.at("message").at_most_bytes(32 << 10, errors);
    }
}

fn condition_reason(reason: &str) -> Vec<String> {
    const RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    let inner = |c: char| c.is_ascii_alphanumeric() || "_,:".contains(c);
    let good = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(inner)
        && reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if good { vec![] } else { vec![RULE.to_owned()] }
}
