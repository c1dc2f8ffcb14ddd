//! Label and field selectors: their text forms, and what they match.
//!
//! [`Operator::holds`] is the one rule; the forms of a selector (text, typed, JSON) are read into it.

mod parse;
pub mod typed;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use serde_json::Value;

pub use typed::Labels;

/// A label selector: all requirements must hold. They are in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(pub Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// The first two have one value and are how the second two are written short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// A field selector: every term must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    /// Whether the field must have the value, or must not.
    pub equal: bool,
}

/// What is wrong with a selector's text, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

type Result<T> = std::result::Result<T, SelectorError>;

// === impl LabelSelector ===

impl LabelSelector {
    /// A selector as in a query string.
    pub fn parse(text: &str) -> Result<Self> {
        parse::labels(text).map(LabelSelector::of)
    }

    /// A selector that selects nothing: as absent ones do where an empty one selects everything.
    pub fn nothing() -> Self {
        LabelSelector(vec![Requirement::impossible("")])
    }

    /// A `metav1.LabelSelector`; an empty one selects everything.
    pub fn of_typed(selector: &v1::LabelSelector) -> Self {
        let equal =
            selector.match_labels.iter().flatten().map(|(key, value)| Requirement::equals(key, value));
        let expressions = selector.match_expressions.iter().flatten();
        let expressions = expressions
            .map(|e| Requirement::named(&*e.key, &e.operator, e.values.clone().unwrap_or_default()));
        LabelSelector::of(equal.chain(expressions).collect())
    }

    /// The same of JSON; what is absent selects everything, too.
    pub fn of_json(selector: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = labels.map(|(key, value)| Requirement::equals(key, &text(value)));
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        let expressions = expressions.map(|e| {
            let values = e["values"].as_array().into_iter().flatten().map(text).collect();
            Requirement::named(text(&e["key"]), e["operator"].as_str().unwrap_or_default(), values)
        });
        LabelSelector::of(equal.chain(expressions).collect())
    }

    /// The selector every label of `labels` must equal (`matchLabels` alone), as Services select.
    pub fn of_labels(labels: &Labels) -> Self {
        LabelSelector::of(labels.iter().map(|(key, value)| Requirement::equals(key, value)).collect())
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector(requirements)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds requirements.
    pub fn and(&mut self, more: impl IntoIterator<Item = Requirement>) {
        self.0.extend(more);
        self.0.sort_by(|a, b| a.key.cmp(&b.key));
    }

    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.matches(label(&r.key)))
    }

    pub fn selects(&self, labels: &Labels) -> bool {
        self.matches(|key| labels.get(key).map(String::as_str))
    }
}

// === impl Operator ===

impl Operator {
    /// As API objects write it (`In`, `Gt`).
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        })
    }

    /// Whether a label with this value, or its absence, meets a requirement with these.
    pub fn holds(self, value: Option<&str>, values: &[String]) -> bool {
        let listed = |v: &str| values.iter().any(|x| x == v);
        let number = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
        match self {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number().is_some_and(|(have, bound)| have > bound),
            Operator::LessThan => number().is_some_and(|(have, bound)| have < bound),
        }
    }
}

// === impl Requirement ===

impl Requirement {
    /// The values are written in order. Those of texts are a set; upstream keeps what an object says twice.
    pub fn new(key: impl Into<String>, operator: Operator, mut values: Vec<String>) -> Self {
        values.sort_unstable();
        Requirement { key: key.into(), operator, values }
    }

    pub fn equals(key: &str, value: &str) -> Self {
        Requirement::new(key, Operator::Equals, vec![value.to_owned()])
    }

    /// With an operator as API objects write it. Nothing meets one that is not known.
    pub fn named(key: impl Into<String>, operator: &str, values: Vec<String>) -> Self {
        match Operator::named(operator) {
            Some(operator) => Requirement::new(key, operator, values),
            None => Requirement::impossible(key),
        }
    }

    fn impossible(key: impl Into<String>) -> Self {
        Requirement::new(key, Operator::In, vec![])
    }

    pub fn matches(&self, value: Option<&str>) -> bool {
        self.operator.holds(value, &self.values)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let values = r.values.join(",");
            match r.operator {
                Operator::Equals => write!(f, "{}={values}", r.key)?,
                Operator::NotEquals => write!(f, "{}!={values}", r.key)?,
                Operator::In => write!(f, "{} in ({values})", r.key)?,
                Operator::NotIn => write!(f, "{} notin ({values})", r.key)?,
                Operator::Exists => f.write_str(&r.key)?,
                Operator::DoesNotExist => write!(f, "!{}", r.key)?,
                Operator::GreaterThan => write!(f, "{}>{values}", r.key)?,
                Operator::LessThan => write!(f, "{}<{values}", r.key)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_match_as_upstream() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "7")];
        let get = |key: &str| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier in (front, back)", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("missing notin (a,b)", true),
            ("tier notin (front)", false),
            ("app", true),
            ("!app", false),
            ("! missing", true),
            ("n>6,n<8", true),
            ("n>7", false),
            ("app=", false),
            ("in in (in)", false),
            ("app in (web,web,,),app notin (x,x)", true),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(get), expected, "{text}");
        }
    }

    #[test]
    fn values_are_sets() {
        for (text, written) in
            [("a in (,,)", "a in ()"), ("a in (b,b)", "a in (b)"), ("a notin (c,b,c)", "a notin (b,c)")]
        {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn every_form_is_read_alike_and_written_in_the_order_of_its_keys() {
        let labels = Labels::from([("app".to_owned(), "web".to_owned()), ("n".to_owned(), "5".to_owned())]);
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, want, text) in [
            (json!({}), true, ""),
            (json!({"matchLabels": {"n": "5", "app": "web"}}), true, "app=web,n=5"),
            (json!({"matchLabels": {"app": "db"}}), false, "app=db"),
            (json!({"matchLabels": {"tier": "db"}}), false, "tier=db"),
            (expression("app", "In", &["web", "a"]), true, "app in (a,web)"),
            (expression("app", "In", &["web"]), true, "app in (web)"),
            (expression("app", "In", &["web", "web"]), true, "app in (web,web)"),
            (expression("app", "NotIn", &["web"]), false, "app notin (web)"),
            (expression("tier", "NotIn", &["web"]), true, "tier notin (web)"),
            (expression("app", "Exists", &[]), true, "app"),
            (expression("tier", "DoesNotExist", &[]), true, "!tier"),
            (expression("n", "Gt", &["4"]), true, "n>4"),
            (expression("n", "Lt", &["5"]), false, "n<5"),
            (expression("tier", "Gt", &["0"]), false, "tier>0"),
            (expression("app", "Strange", &["web"]), false, "app in ()"),
            (expression("app", "", &[]), false, "app in ()"),
        ] {
            let typed: v1::LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            let read = LabelSelector::of_json(&selector);
            assert_eq!(read, LabelSelector::of_typed(&typed), "{selector}");
            assert_eq!((read.selects(&labels), read.to_string()), (want, text.to_owned()), "{selector}");
            assert_eq!(typed::matches(&typed, Some(&labels)), want, "{selector}");
            assert_eq!(typed::matches(&typed, None), read.selects(&Labels::new()), "{selector}");
            assert_eq!(typed::is_empty(&typed), read.is_empty(), "{selector}");
        }
        assert!(!LabelSelector::nothing().selects(&labels));
        assert!(
            !typed::picks(None, Some(&labels)) && !typed::picks(Some(&v1::LabelSelector::default()), None)
        );
    }

    #[test]
    fn label_selector_errors_are_upstreams() {
        for (text, message) in [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().0, message, "{text}");
        }
    }

    #[test]
    fn field_selectors_split_and_unescape() {
        let s = FieldSelector::parse(r"spec.nodeName=a\,b,status.phase!=Failed,metadata.name==x").unwrap();
        let got: Vec<_> = s.0.iter().map(|t| (&*t.field, &*t.value, t.equal)).collect();
        assert_eq!(
            got,
            [("spec.nodeName", "a,b", true), ("status.phase", "Failed", false), ("metadata.name", "x", true)]
        );
        let e = FieldSelector::parse("what").unwrap_err().0;
        assert_eq!(e, "invalid selector: 'what'; can't understand 'what'");
    }
}
