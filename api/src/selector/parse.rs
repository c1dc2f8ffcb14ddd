//! The text forms of selectors, as query strings have them.

use super::{FieldSelector, FieldTerm, Operator, Requirement, Result, SelectorError};

pub(super) fn labels(text: &str) -> Result<Vec<Requirement>> {
    Parser { tokens: lex(text), at: 0 }.selector()
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
            "=" | "==" => (Operator::Equals, self.one_value()),
            "!=" => (Operator::NotEquals, self.one_value()),
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
                    values.sort_unstable();
                    values.dedup();
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
