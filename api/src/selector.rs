//! Label and field selectors: their text forms, and what they match.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

/// A label selector as in a query string: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(pub Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
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
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { tokens: lex(text), at: 0 };
        parser.selector().map(LabelSelector)
    }

    /// A `metav1.LabelSelector` as JSON; what is absent or empty selects everything.
    pub fn of_json(selector: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = labels.map(|(key, value)| Requirement::new(key, Operator::In, vec![text(value)]));
        let expression = |e: &Value| {
            let operator = match e["operator"].as_str() {
                Some("In") => Operator::In,
                Some("NotIn") => Operator::NotIn,
                Some("DoesNotExist") => Operator::DoesNotExist,
                _ => Operator::Exists,
            };
            let values = e["values"].as_array().into_iter().flatten().map(text).collect();
            Requirement::new(text(&e["key"]), operator, values)
        };
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(expression);
        LabelSelector(equal.chain(expressions).collect())
    }

    /// The selector every label of `labels` must equal (`matchLabels` alone).
    pub fn of_labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let requirement =
            |(key, value): (&str, &str)| Requirement::new(key, Operator::In, vec![value.to_owned()]);
        LabelSelector(labels.map(requirement).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.matches(label(&r.key)))
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
}

// === impl Requirement ===

impl Requirement {
    pub fn new(key: impl Into<String>, operator: Operator, values: Vec<String>) -> Self {
        Requirement { key: key.into(), operator, values }
    }

    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        let number = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number().is_some_and(|(have, bound)| have > bound),
            Operator::LessThan => number().is_some_and(|(have, bound)| have < bound),
        }
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
                Operator::In if r.values.len() == 1 => write!(f, "{}={values}", r.key)?,
                Operator::NotIn if r.values.len() == 1 => write!(f, "{}!={values}", r.key)?,
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

// === impl FieldSelector ===

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self> {
        let mut terms = vec![];
        for term in split_terms(text).into_iter().filter(|t| !t.is_empty()) {
            let operators = [("!=", false), ("==", true), ("=", true)];
            let Some((field, value, equal)) = first_operator(term, &operators) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal });
        }
        Ok(FieldSelector(terms))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value a field is required to have, where one is.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.field == field).map(|t| &*t.value)
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (vec![], 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn first_operator<'a>(term: &'a str, operators: &[(&str, bool)]) -> Option<(&'a str, &'a str, bool)> {
    (0..term.len()).filter(|&i| term.is_char_boundary(i)).find_map(|i| {
        let (op, equal) = operators.iter().find(|(op, _)| term[i..].starts_with(op))?;
        Some((&term[..i], &term[i + op.len()..], *equal))
    })
}

fn unescape(value: &str) -> Result<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: \\{c}"
                    )));
                }
                None => {
                    return Err(SelectorError("invalid field selector: invalid escape sequence: \\".into()));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Upstream's tokens: punctuation, or a word (which is an operator only where one may stand).
fn lex(text: &str) -> Vec<&str> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '=' if rest.starts_with("==") => 2,
            '!' if rest.starts_with("!=") => 2,
            c if special(c) => 1,
            _ => rest.find(|c: char| special(c) || c.is_whitespace()).unwrap_or(rest.len()),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

// === impl Parser ===

impl<'a> Parser<'a> {
    /// The token here, `""` at the end.
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn take(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>> {
        let mut requirements = vec![];
        loop {
            match self.peek() {
                "" => return Ok(requirements),
                token if token == "!" || is_word(token) => {}
                token => return fail(token, "expected: !, identifier, or 'end of string'"),
            }
            let one = self.requirement();
            requirements
                .push(one.map_err(|e| SelectorError(format!("unable to parse requirement: {}", e.0)))?);
            match self.take() {
                "" => return Ok(requirements),
                "," => match self.peek() {
                    token if token == "!" || is_word(token) => {}
                    token => return fail(token, "expected: identifier after ','"),
                },
                token => return fail(token, "expected: ',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement> {
        let negated = self.peek() == "!";
        if negated {
            self.at += 1;
        }
        let key = self.take();
        if !is_word(key) {
            return fail(key, "expected: identifier");
        }
        if negated {
            return Ok(Requirement::new(key, Operator::DoesNotExist, vec![]));
        }
        let (operator, values) = match self.peek() {
            "" | "," => return Ok(Requirement::new(key, Operator::Exists, vec![])),
            "=" | "==" => (Operator::In, self.one_value()),
            "!=" => (Operator::NotIn, self.one_value()),
            ">" => (Operator::GreaterThan, self.one_value()),
            "<" => (Operator::LessThan, self.one_value()),
            "in" => (Operator::In, self.set()?),
            "notin" => (Operator::NotIn, self.set()?),
            other => return fail(other, "expected: in, notin, =, ==, !=, gt, lt"),
        };
        for (i, value) in values.iter().enumerate() {
            check_value(operator, key, i, value)?;
        }
        Ok(Requirement::new(key, operator, values))
    }

    fn one_value(&mut self) -> Vec<String> {
        self.at += 1;
        match self.peek() {
            word if is_word(word) => vec![self.take().to_owned()],
            _ => vec![String::new()],
        }
    }

    fn set(&mut self) -> Result<Vec<String>> {
        self.at += 1;
        match self.take() {
            "(" => {}
            token => return Err(SelectorError(format!("found '{token}' expected: '('"))),
        }
        let mut values = vec![];
        loop {
            match self.take() {
                ")" => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    // It is a set.
                    let mut seen = HashSet::new();
                    values.retain(|value| seen.insert(value.clone()));
                    return Ok(values);
                }
                "," if values.is_empty() || self.peek() == ")" => values.push(String::new()),
                "," => {}
                token if is_word(token) => values.push(token.to_owned()),
                token => {
                    return Err(SelectorError(format!("found '{token}', expected: ',', ')' or identifier")));
                }
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|c| !matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<'))
}

fn fail<T>(token: &str, expected: &str) -> Result<T> {
    Err(SelectorError(format!("found '{token}', {expected}")))
}

fn check_value(operator: Operator, key: &str, at: usize, value: &str) -> Result<()> {
    if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
        return Err(SelectorError(format!(
            "values[{at}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
        )));
    }
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.len() > 63 {
        return Err(SelectorError(format!(
            "values[{at}][{key}]: Invalid value: {value:?}: must be no more than 63 bytes"
        )));
    }
    if !edge(value.chars().next()) || !edge(value.chars().last()) || !value.chars().all(inner) {
        return Err(SelectorError(format!(
            "values[{at}][{key}]: Invalid value: {value:?}: a valid label must be an empty string or consist of \
             alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
             'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
            [("a in (,,)", "a="), ("a in (b,b)", "a=b"), ("a notin (c,b,c)", "a notin (c,b)")]
        {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), written, "{text}");
        }
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
