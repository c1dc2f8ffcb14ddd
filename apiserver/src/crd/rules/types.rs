//! How a schema looks to expressions: the type of each place, and what becomes of its JSON there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value as Json;

use crate::cel::{Key, ObjectType, Type, Value, escaped_keyword, is_keyword};

/// The type of a place and the form of its values.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) ty: Type,
    pub(super) form: Arc<Form>,
}

/// What becomes of JSON before an expression sees it.
#[derive(Debug)]
pub(super) enum Form {
    /// It stays as it is, with all that is in it.
    Plain,
    Double,
    Bytes,
    Time,
    Duration,
    List(Arc<Form>),
    Map(Arc<Form>),
    /// Fields by their names in JSON, with those in expressions.
    Object(BTreeMap<String, (String, Arc<Form>)>),
}

/// The type of a schema; `None` where expressions do not see it. `root`: it is that of a whole object.
pub(super) fn of(schema: &Json, name: &str, root: bool) -> Option<Typed> {
    let simple = |ty: Type, form: Form| Some(Typed { ty, form: Arc::new(form) });
    if schema["x-kubernetes-int-or-string"] == true {
        return simple(Type::Dyn, Form::Plain);
    }
    match (schema["type"].as_str().unwrap_or_default(), schema["format"].as_str().unwrap_or_default()) {
        ("array", _) => {
            let item = of(&schema["items"], &format!("{name}.@items"), is_embedded(&schema["items"]))?;
            let form = if item.is_plain() { Form::Plain } else { Form::List(item.form) };
            simple(Type::list(item.ty), form)
        }
        ("object", _) if schema["additionalProperties"].is_object() => {
            let schema = &schema["additionalProperties"];
            let value = of(schema, &format!("{name}.@values"), is_embedded(schema))?;
            let form = if value.is_plain() { Form::Plain } else { Form::Map(value.form) };
            simple(Type::map(Type::String, value.ty), form)
        }
        ("object", _) => Some(object(schema, name, root)),
        ("string", "byte") => simple(Type::Bytes, Form::Bytes),
        ("string", "duration") => simple(Type::Duration, Form::Duration),
        ("string", "date" | "date-time") => simple(Type::Timestamp, Form::Time),
        ("string", _) => simple(Type::String, Form::Plain),
        ("boolean", _) => simple(Type::Bool, Form::Plain),
        ("integer", _) => simple(Type::Int, Form::Plain),
        ("number", _) => simple(Type::Double, Form::Double),
        _ => None,
    }
}

pub(super) fn is_embedded(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

fn object(schema: &Json, name: &str, root: bool) -> Typed {
    let (mut types, mut forms) = (BTreeMap::new(), BTreeMap::new());
    let mut plain = true;
    let mut add = |key: &str, field: Option<Typed>| {
        let (Some(field), Some(escaped)) = (field, escape(key)) else { return };
        plain &= field.is_plain() && escaped == key;
        types.insert(escaped.clone(), field.ty);
        forms.insert(key.to_owned(), (escaped, field.form));
    };
    for (key, field) in schema["properties"].as_object().into_iter().flatten() {
        add(key, of(field, &format!("{name}.{key}"), is_embedded(field)));
    }
    if root {
        let text = || Some(Typed { ty: Type::String, form: Arc::new(Form::Plain) });
        add("apiVersion", text());
        add("kind", text());
        let fields = ["name", "generateName"].map(|field| (field.to_owned(), Type::String));
        let metadata = ObjectType {
            name: format!("{name}.metadata"),
            fields: fields.into_iter().collect(),
            open: false,
        };
        add("metadata", Some(Typed { ty: Type::Object(Arc::new(metadata)), form: Arc::new(Form::Plain) }));
    }
    let ty = ObjectType { name: name.to_owned(), fields: types, open: false };
    let form = if plain { Form::Plain } else { Form::Object(forms) };
    Typed { ty: Type::Object(Arc::new(ty)), form: Arc::new(form) }
}

/// A field's name as an identifier; `None` where it has none.
pub fn escape(name: &str) -> Option<String> {
    if is_keyword(name) {
        return Some(escaped_keyword(name));
    }
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() || !name.chars().all(word) {
        return None;
    }
    let whole = name.replace("__", "__underscores__");
    Some(whole.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

// === impl Typed ===

impl Typed {
    fn is_plain(&self) -> bool {
        matches!(*self.form, Form::Plain)
    }
}

// === impl Form ===

impl Form {
    /// What an expression sees of a value. A text that is none of its format stays a text.
    pub(super) fn value<'a>(&self, json: &'a Json) -> Value<'a> {
        match (self, json) {
            (Form::Double, Json::Number(number)) => number.as_f64().map_or(Value::Null, Value::Double),
            (Form::Bytes, Json::String(text)) => match BASE64.decode(text) {
                Ok(bytes) => Value::Bytes(bytes.into()),
                Err(_) => Value::from(json),
            },
            (Form::Time, Json::String(text)) => time(text).map_or_else(|| json.into(), Value::Timestamp),
            (Form::Duration, Json::String(text)) => {
                let nanos = coracle_api::duration::parse(text);
                nanos.map_or_else(|_| json.into(), |n| Value::Duration(jiff::SignedDuration::from_nanos(n)))
            }
            (Form::List(item), Json::Array(items)) => {
                Value::List(Rc::new(items.iter().map(|i| item.value(i)).collect()))
            }
            (Form::Map(value), Json::Object(map)) => {
                let entries = map.iter().map(|(k, v)| (Key::String(k.clone()), value.value(v)));
                Value::Map(Rc::new(entries.collect()))
            }
            (Form::Object(fields), Json::Object(map)) => {
                let known = map.iter().filter_map(|(k, v)| {
                    let (name, form) = fields.get(k)?;
                    Some((Key::String(name.clone()), form.value(v)))
                });
                Value::Map(Rc::new(known.collect()))
            }
            _ => json.into(),
        }
    }
}

fn time(text: &str) -> Option<jiff::Timestamp> {
    let day =
        || Some(text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp());
    text.parse().ok().or_else(day)
}

/// A text of an expression's own.
pub(super) fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::String(Cow::Borrowed(text)) => Some(text),
        Value::String(Cow::Owned(text)) => Some(text),
        _ => None,
    }
}
