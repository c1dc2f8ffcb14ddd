//! Hostile expressions: refused or evaluated within their budget, whatever they are about.

use serde_json::Value as Json;

use super::{Context, Environment, Failure, POLICY_BUDGET, Query, Scope, Type, Value, Verdict};
use crate::fuzz::parts;

struct Variables<'a>(&'a Json);

impl<'a> Scope<'a> for Variables<'a> {
    fn variable(&self, name: &str, _: &mut Context<'a, '_>) -> Option<Result<Value<'a>, Failure>> {
        let found = if name == "object" { Some(self.0) } else { self.0.get(name) };
        found.map(|json| Ok(Value::from(json)))
    }

    fn authorize(&self, query: &Query) -> Verdict {
        Verdict { allowed: query.verb == "get", reason: String::new(), error: None }
    }
}

/// An expression, and the JSON it is about.
pub(crate) fn expression(bytes: &[u8]) {
    let [text, json] = parts(bytes);
    let json: Json = serde_json::from_slice(json).unwrap_or_default();
    let mut environment = Environment::default()
        .with("object", Type::Dyn)
        .with("s", Type::String)
        .with("n", Type::Int)
        .with("l", Type::list(Type::String))
        .with("m", Type::map(Type::String, Type::Int));
    environment.patches = true;
    let text = String::from_utf8_lossy(text);
    let Ok(program) = environment.compile(&text) else { return };
    let scope = Variables(&json);
    let mut context = Context::new(&scope, POLICY_BUDGET);
    if let Ok(value) = program.evaluate(&mut context) {
        let _ = (value.to_json(), value.type_of().to_string());
    }
    assert!(context.budget <= POLICY_BUDGET);
}
