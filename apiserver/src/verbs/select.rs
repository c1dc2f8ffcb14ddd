//! Which objects a list or watch is about: namespace, label selector, field selector.

use coracle_api::Object;
use coracle_api::selector::{FieldSelector, LabelSelector, Operator, Requirement};

use crate::field::FieldError;
use crate::field_names;
use crate::request::RequestInfo;
use crate::resource::{IndexedField, Resource};
use crate::status::{Result, Status};
use crate::store::{Stored, field_value};

/// A compiled selection: cheap to ask for every object.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: Vec<Term>,
    /// Fields of a version that is not the stored one, and those of custom resources, which come and go, are not indexed:
    /// they are read from the stored object.
    by_object: Option<Vec<IndexedField>>,
}

#[derive(Clone, Debug)]
struct Term {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Name,
    Namespace,
    /// The n-th selectable field of the kind.
    Listed(usize),
}

// === impl Selection ===

impl Selection {
    pub fn parse(info: &RequestInfo, resource: &Resource) -> Result<Self> {
        let bad = |e: coracle_api::selector::SelectorError| Status::bad_request(e.to_string());
        let labels = LabelSelector::parse(&info.param("labelSelector").unwrap_or_default()).map_err(bad)?;
        labels.0.iter().try_for_each(check_requirement)?;
        let mut selector =
            FieldSelector::parse(&info.param("fieldSelector").unwrap_or_default()).map_err(bad)?;
        if !info.name.is_empty() && !matches!(info.verb.as_str(), "get") {
            let field = "metadata.name".to_owned();
            selector.0.push(coracle_api::selector::FieldTerm {
                field,
                value: info.name.clone(),
                equal: true,
            });
        }
        let fields: Result<Vec<Term>> = selector
            .0
            .into_iter()
            .map(|t| Ok(Term { field: find(resource, &t.field)?, value: t.value, equal: t.equal }))
            .collect();
        let by_object = (resource.conversion.is_some() || !resource.typed).then(|| resource.fields.clone());
        Ok(Selection { labels, fields: fields?, by_object })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, stored: &Stored) -> bool {
        if self.is_everything() {
            return true;
        }
        let object: Option<Object> = self
            .by_object
            .as_ref()
            .filter(|_| self.fields.iter().any(|t| matches!(t.field, Field::Listed(_))))
            .map(|_| stored.object());
        self.labels.matches(|key| stored.index.label(key))
            && self.fields.iter().all(|term| {
                let equal = match (term.field, &object, &self.by_object) {
                    (Field::Name, ..) => stored.name() == term.value,
                    (Field::Namespace, ..) => stored.namespace() == term.value,
                    (Field::Listed(at), Some(object), Some(fields)) => {
                        field_value(object, &fields[at]) == term.value
                    }
                    (Field::Listed(at), ..) => stored.index.field(at) == term.value,
                };
                equal == term.equal
            })
    }
}

/// Keys and values must be such as labels can have.
fn check_requirement(requirement: &Requirement) -> Result<()> {
    let key = &requirement.key;
    let mut values: Vec<&String> = requirement.values.iter().collect();
    values.sort_unstable();
    let mut wrong = vec![];
    let mut judge = |path: String, value: &str, why: Vec<String>| {
        if !why.is_empty() {
            wrong.push(FieldError::invalid(path, &value.into(), why.join("; ")).to_string());
        }
    };
    // Upstream has no path for the key.
    judge("<nil>".to_owned(), key, field_names::qualified_name(key));
    for (i, value) in values.into_iter().enumerate() {
        if matches!(requirement.operator, Operator::GreaterThan | Operator::LessThan)
            && value.parse::<i64>().is_err()
        {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer".to_owned();
            judge(format!("values[{i}]"), value, vec![why]);
        }
        judge(format!("values[{i}][{key}]"), value, field_names::label_value(value));
    }
    let why = match wrong.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(Status::bad_request(format!("unable to parse requirement: {why}")))
}

fn find(resource: &Resource, label: &str) -> Result<Field> {
    match label {
        "metadata.name" => Ok(Field::Name),
        // Kinds without fields of their own take both, wherever they are.
        "metadata.namespace" if resource.namespaced() || (resource.typed && resource.fields.is_empty()) => {
            Ok(Field::Namespace)
        }
        _ => match resource.fields.iter().position(|f| *f.label == *label) {
            Some(at) => Ok(Field::Listed(at)),
            None if resource.typed && resource.fields.is_empty() => Err(Status::bad_request(format!(
                "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            ))),
            None => Err(Status::bad_request(resource.unknown_label.replace("{}", label))),
        },
    }
}
