//! How much an object of a schema can hold, for estimates of what its rules may cost. Where the schema sets no bound, the
//! largest request is one: so many items of the least size fit in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::types::{escape, is_embedded};
use crate::cel::{Below, Extent};

/// Upstream's largest request, in bytes.
const REQUEST: u64 = 3 << 20;
/// The longest text in a request: two bytes are its quotes.
const TEXT: u64 = REQUEST - 2;
const TIME: u64 = 32;
const DATE: u64 = 12;
/// The bytes that a character takes at most.
const CHARACTER: u64 = 4;

/// What stands at a place, and the least that it takes as JSON, in bytes.
#[derive(Clone)]
pub(super) struct Declared {
    pub(super) extent: Arc<Extent>,
    least: u64,
}

// === impl Declared ===

impl Declared {
    /// How many of it there can be in one request.
    pub(super) fn cardinality(&self) -> u64 {
        REQUEST / (self.least + 1)
    }

    fn plain(most: u64, least: u64) -> Option<Self> {
        Some(Declared { extent: Arc::new(Extent { most, below: Below::Nothing }), least })
    }
}

/// Of a schema; `None` where expressions do not see it. `root`: it is that of a whole object.
pub(super) fn of(schema: &Json, root: bool) -> Option<Declared> {
    let bound = |key: &str| schema[key].as_i64().map(|bound| u64::try_from(bound).unwrap_or(0));
    let length = || bound("maxLength").map(|length| length.saturating_mul(CHARACTER));
    if schema["x-kubernetes-int-or-string"] == true {
        return Declared::plain(length().unwrap_or(TEXT), 1);
    }
    match (schema["type"].as_str().unwrap_or_default(), schema["format"].as_str().unwrap_or_default()) {
        ("array", _) => {
            let item = of(&schema["items"], is_embedded(&schema["items"]))?;
            let most = bound("maxItems").unwrap_or(TEXT / (item.least + 1));
            Some(elements(most, item))
        }
        ("object", _) if schema["additionalProperties"].is_object() => {
            let values = &schema["additionalProperties"];
            let value = of(values, is_embedded(values))?;
            // Beside the value: a key of two bytes, its quotes, a colon and a comma.
            let most = bound("maxProperties").unwrap_or(TEXT / (value.least + 6));
            Some(elements(most, value))
        }
        ("object", _) => Some(object(schema, root)),
        ("string", "byte") => Declared::plain(bound("maxLength").unwrap_or(TEXT), 2),
        ("string", "duration") => Declared::plain(TIME, 3),
        ("string", "date") => Declared::plain(DATE, DATE),
        ("string", "date-time") => Declared::plain(TIME, 21),
        ("string", _) => Declared::plain(length().or_else(|| longest(schema)).unwrap_or(TEXT), 2),
        ("boolean", _) => Declared::plain(0, 4),
        ("integer" | "number", _) => Declared::plain(0, 1),
        _ => None,
    }
}

fn elements(most: u64, element: Declared) -> Declared {
    Declared { extent: Arc::new(Extent { most, below: Below::Elements(element.extent) }), least: 2 }
}

/// The longest of the values that a text may have.
fn longest(schema: &Json) -> Option<u64> {
    let values = schema["enum"].as_array().filter(|values| !values.is_empty())?;
    Some(values.iter().filter_map(Json::as_str).map(|text| text.len() as u64).max().unwrap_or(0))
}

fn object(schema: &Json, root: bool) -> Declared {
    let mut fields: BTreeMap<String, Declared> = BTreeMap::new();
    let mut least = 2;
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let mut add = |name: &str, declared: Option<Declared>, has_default: bool| {
        let Some(declared) = declared else { return };
        if required.contains(&name) && !has_default {
            least += name.len() as u64 + declared.least + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, declared);
        }
    };
    let whole = ["apiVersion", "kind", "metadata"];
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if !(root && whole.contains(&name.as_str())) {
            add(name, of(field, is_embedded(field)), !field["default"].is_null());
        }
    }
    if root {
        let text = || Declared::plain(TEXT, 2);
        add("apiVersion", text(), false);
        add("kind", text(), false);
        let names = ["name", "generateName"].map(|name| (name.to_owned(), text()));
        let names = names.into_iter().filter_map(|(name, text)| Some((name, text?.extent))).collect();
        let extent = Arc::new(Extent { most: 0, below: Below::Fields(names) });
        add("metadata", Some(Declared { extent, least: 2 }), false);
    }
    let fields = fields.into_iter().map(|(name, field)| (name, field.extent)).collect();
    Declared { extent: Arc::new(Extent { most: 0, below: Below::Fields(fields) }), least }
}
