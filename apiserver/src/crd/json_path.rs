//! The JSON paths of printer columns: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// `[2]`, `[-1]`
    Index(i64),
    /// `[*]`, `.*`
    All,
    /// `..name`
    Below(String),
    /// `[?(@.type=="Ready")]`: the path in the item, the operator and the literal; no operator asks for presence.
    Filter(JsonPath, String, Value),
}

// === impl JsonPath ===

impl JsonPath {
    /// `None` where the text is no path.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut steps = vec![];
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                let (name, after) = name(after)?;
                steps.push(Step::Below(name));
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                let (name, after) = name(after)?;
                steps.push(if name == "*" { Step::All } else { Step::Field(name) });
                rest = after;
            } else {
                let end = closing(rest.strip_prefix('[')?)?;
                steps.extend(bracket(&rest[1..=end])?);
                rest = &rest[end + 2..];
            }
        }
        Some(JsonPath(steps))
    }

    /// The first value there.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        find(&self.0, value)
    }
}

/// A field's name up to the next separator; a backslash takes the next character as it is.
fn name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => return (!name.is_empty()).then_some((name, &text[at..])),
            '{' | '}' | '(' | ')' | ']' | '"' | '\'' => return None,
            c => name.push(c),
        }
    }
    (!name.is_empty()).then_some((name, ""))
}

/// Where the bracket that is open closes, quotes and inner brackets aside.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(c),
            ('[', None) => depth += 1,
            (']', None) if depth == 0 => return Some(at),
            (']', None) => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What stands in brackets. A name in quotes is read as if it stood behind a dot, so that its own dots are escaped.
fn bracket(text: &str) -> Option<Vec<Step>> {
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_step(filter.trim()).map(|step| vec![step]);
    }
    match (text, unquoted(text)) {
        ("*" | ":", _) => Some(vec![Step::All]),
        (_, Some(name)) => JsonPath::parse(&format!(".{name}")).map(|path| path.0),
        (_, None) => text.parse().ok().map(|at| vec![Step::Index(at)]),
    }
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))
}

fn filter_step(text: &str) -> Option<Step> {
    const OPERATORS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];
    let split = OPERATORS.iter().find_map(|op| text.split_once(op).map(|(left, right)| (left, *op, right)));
    let (left, operator, right) = split.unwrap_or((text, "", ""));
    let path = JsonPath::parse(left.trim().strip_prefix('@')?)?;
    let right = right.trim();
    let literal = match unquoted(right) {
        Some(text) => text.into(),
        None if right.is_empty() => Value::Null,
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter(path, operator.to_owned(), literal))
}

fn find<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => find(rest, value.get(name)?),
        Step::Index(at) => {
            let items = value.as_array()?;
            let at = if *at < 0 {
                items.len().checked_sub(usize::try_from(-at).ok()?)?
            } else {
                usize::try_from(*at).ok()?
            };
            find(rest, items.get(at)?)
        }
        Step::All => children(value).into_iter().find_map(|v| find(rest, v)),
        Step::Below(name) => {
            let here = value.get(name).and_then(|v| find(rest, v));
            here.or_else(|| children(value).into_iter().find_map(|v| find(steps, v)))
        }
        Step::Filter(path, operator, literal) => {
            let items = value.as_array()?;
            items.iter().filter(|item| holds(path.first(item), operator, literal)).find_map(|v| find(rest, v))
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => vec![],
    }
}

fn holds(found: Option<&Value>, operator: &str, literal: &Value) -> bool {
    let Some(found) = found else { return false };
    let order = match (found, literal) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    match operator {
        "" => true,
        "==" => found == literal,
        "!=" => found != literal,
        "<" => order.is_some_and(std::cmp::Ordering::is_lt),
        "<=" => order.is_some_and(std::cmp::Ordering::is_le),
        ">" => order.is_some_and(std::cmp::Ordering::is_gt),
        _ => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_the_first_value() {
        let object = json!({"spec": {"replicas": 3, "a.b": 1}, "metadata": {"labels": {"x.io/y": "z"}},
            "status": {"conditions": [{"type": "Old", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        let table = [
            (".spec.replicas", Some(json!(3))),
            (".spec['a\\.b']", Some(json!(1))),
            (".spec['a.b']", None),
            (".metadata.labels['x\\.io/y']", Some(json!("z"))),
            (".metadata['labels.x\\.io/y']", Some(json!("z"))),
            (".metadata.labels.x\\.io/y", Some(json!("z"))),
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".status.conditions[?(@.type=='None')].status", None),
            (".status.conditions[-1].type", Some(json!("Ready"))),
            (".status.conditions[*].type", Some(json!("Old"))),
            ("..replicas", Some(json!(3))),
            (".nothing", None),
        ];
        for (path, wanted) in table {
            let found = JsonPath::parse(path).expect(path).first(&object).cloned();
            assert_eq!(found, wanted, "{path}");
        }
        for wrong in ["spec", ".a[", ".a.", ".a[?(b)]", ".{a}"] {
            assert_eq!(JsonPath::parse(wrong), None, "{wrong}");
        }
    }
}
