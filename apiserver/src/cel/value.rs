//! What expressions are about at run time. JSON is looked into where it stands; nothing is converted that is not asked for.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use coracle_api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;

use super::library::authorizer::{Query, Verdict};
use super::library::kubernetes::{Format, SemVer, Url};
use super::types::Type;

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, str>),
    Bytes(Rc<[u8]>),
    /// An array or object as it came.
    Json(&'a Json),
    List(Rc<Vec<Value<'a>>>),
    Map(Rc<BTreeMap<Key, Value<'a>>>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    Type(Rc<Type>),
    Optional(Option<Rc<Value<'a>>>),
    /// A message an expression has made: its type's name and its fields.
    Object(Rc<(String, BTreeMap<String, Value<'a>>)>),
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Rc<Url>),
    SemVer(Rc<SemVer>),
    Format(&'static Format),
    Query(Rc<Query>),
    Verdict(Rc<Verdict>),
}

/// A map's key; numbers that are equal are one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(String),
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Error(String),
    /// No function takes these arguments. What was called follows, where it is known.
    #[error("no such overload{0}")]
    NoOverload(String),
    /// The budget is spent: nothing more is to be evaluated.
    #[error("operation cancelled: actual cost limit exceeded")]
    OutOfBudget,
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

pub(super) fn fail<T>(why: impl Into<String>) -> Result<T> {
    Err(Failure::Error(why.into()))
}

/// `called` may be empty.
pub(super) fn no_overload<T>(called: &str) -> Result<T> {
    let called = if called.is_empty() { String::new() } else { format!(": {called}") };
    Err(Failure::NoOverload(called))
}

// === impl Key ===

impl Key {
    pub(super) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            // 1.0 finds the key 1.
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Key::Int(*d as i64),
            Value::String(s) => Key::String(s.to_string()),
            _ => return None,
        })
    }

    pub(super) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(s) => Value::String(s.clone().into()),
        }
    }
}

// === impl Value ===

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(u)) => Value::Uint(u),
                (None, None) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::String(s.into()),
            Json::Array(_) | Json::Object(_) => Value::Json(json),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn string(text: impl Into<String>) -> Self {
        Value::String(Cow::Owned(text.into()))
    }

    pub(super) fn list(items: Vec<Value<'a>>) -> Self {
        Value::List(Rc::new(items))
    }

    pub(super) fn some(value: Value<'a>) -> Self {
        Value::Optional(Some(Rc::new(value)))
    }

    /// The elements, where this is a list.
    pub(super) fn items(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Value::List(items) => Some(items.to_vec()),
            Value::Json(Json::Array(items)) => Some(items.iter().map(Value::from).collect()),
            _ => None,
        }
    }

    /// Keys and values, where this is a map.
    pub(super) fn entries(&self) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        match self {
            Value::Map(map) => Some(map.iter().map(|(k, v)| (k.value(), v.clone())).collect()),
            Value::Json(Json::Object(map)) => {
                Some(map.iter().map(|(k, v)| (Value::String(k.into()), Value::from(v))).collect())
            }
            _ => None,
        }
    }

    pub(super) fn size(&self) -> Option<usize> {
        Some(match self {
            Value::String(s) => s.chars().count(),
            Value::Bytes(b) => b.len(),
            Value::List(items) => items.len(),
            Value::Map(map) => map.len(),
            Value::Json(Json::Array(items)) => items.len(),
            Value::Json(Json::Object(map)) => map.len(),
            _ => return None,
        })
    }

    /// What stands under a key of a map, or in a field of a message.
    pub(super) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Value::Json(Json::Object(map)), Value::String(key)) => map.get(&**key).map(Value::from),
            (Value::Map(map), key) => map.get(&Key::of(key)?).cloned(),
            (Value::Object(object), Value::String(key)) => object.1.get(&**key).cloned(),
            _ => None,
        }
    }

    pub(super) fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::List(_) | Value::Json(Json::Array(_)) => Type::list(Type::Dyn),
            Value::Map(_) | Value::Json(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::Type(_) => Type::Type,
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Object(object) => Type::object(&object.0, []),
            Value::Quantity(_) => Type::Opaque("kubernetes.Quantity"),
            Value::Ip(_) => Type::Opaque("net.IP"),
            Value::Cidr(..) => Type::Opaque("net.CIDR"),
            Value::Url(_) => Type::Opaque("kubernetes.URL"),
            Value::SemVer(_) => Type::Opaque("kubernetes.Semver"),
            Value::Format(_) => Type::Opaque("kubernetes.NamedFormat"),
            Value::Query(query) => Type::Opaque(query.type_name()),
            Value::Verdict(_) => Type::Opaque("kubernetes.authorization.Decision"),
        }
    }

    /// CEL's equality: numbers by value whatever their type, lists and maps by their elements.
    pub(super) fn equals(&self, other: &Value<'_>) -> bool {
        use Value::{
            Bool, Bytes, Cidr, Double, Duration, Format, Int, Ip, Null, Object, Optional, SemVer, String,
            Timestamp, Uint, Url,
        };
        match (self, other) {
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => {
                self.compare(other) == Some(Ordering::Equal)
            }
            (String(a), String(b)) => a == b,
            (Bytes(a), Bytes(b)) => a == b,
            (Timestamp(a), Timestamp(b)) => a == b,
            (Duration(a), Duration(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a.to_string() == b.to_string(),
            (Optional(a), Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (Value::Quantity(a), Value::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Ip(a), Ip(b)) => a == b,
            (Cidr(a, n), Cidr(b, m)) => a == b && n == m,
            (Url(a), Url(b)) => a == b,
            (SemVer(a), SemVer(b)) => a.compare(b) == Ordering::Equal,
            (Format(a), Format(b)) => a.name == b.name,
            (Object(a), Object(b)) => {
                let same =
                    |(k, v): (&std::string::String, &Value<'_>)| b.1.get(k).is_some_and(|w| v.equals(w));
                a.0 == b.0 && a.1.len() == b.1.len() && a.1.iter().all(same)
            }
            (Value::Json(a), Value::Json(b)) if a == b => true,
            _ => match (self.items(), other.items(), self.entries(), other.entries()) {
                (Some(a), Some(b), ..) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b)),
                (_, _, Some(a), Some(b)) => {
                    a.len() == b.len() && a.iter().all(|(k, v)| other.get(k).is_some_and(|w| v.equals(&w)))
                }
                _ => false,
            },
        }
    }

    /// The order of two values that have one.
    pub(super) fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        use Value::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
        Some(match (self, other) {
            (Int(a), Int(b)) => a.cmp(b),
            (Uint(a), Uint(b)) => a.cmp(b),
            (Int(a), Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Uint(a), Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Double(a), Double(b)) => a.partial_cmp(b)?,
            (Double(a), Int(b)) => a.partial_cmp(&(*b as f64))?,
            (Int(a), Double(b)) => (*a as f64).partial_cmp(b)?,
            (Double(a), Uint(b)) => a.partial_cmp(&(*b as f64))?,
            (Uint(a), Double(b)) => (*a as f64).partial_cmp(b)?,
            (String(a), String(b)) => a.cmp(b),
            (Bool(a), Bool(b)) => a.cmp(b),
            (Bytes(a), Bytes(b)) => a.cmp(b),
            (Timestamp(a), Timestamp(b)) => a.cmp(b),
            (Duration(a), Duration(b)) => a.cmp(b),
            _ => return None,
        })
    }

    /// The JSON of a value; `None` where it has none.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Uint(u) => (*u).into(),
            Value::Double(d) => serde_json::Number::from_f64(*d)?.into(),
            Value::String(s) => s.to_string().into(),
            Value::Json(json) => (*json).clone(),
            Value::Timestamp(at) => at.to_string().into(),
            Value::Quantity(q) => q.to_string().into(),
            Value::List(items) => items.iter().map(Value::to_json).collect::<Option<Vec<_>>>()?.into(),
            Value::Map(map) => {
                let entry = |(k, v): (&Key, &Value<'_>)| match k {
                    Key::String(key) => Some((key.clone(), v.to_json()?)),
                    Key::Bool(_) | Key::Int(_) | Key::Uint(_) => None,
                };
                Json::Object(map.iter().map(entry).collect::<Option<_>>()?)
            }
            Value::Object(object) => {
                let fields = object.1.iter().map(|(k, v)| Some((k.clone(), v.to_json()?)));
                Json::Object(fields.collect::<Option<_>>()?)
            }
            Value::Optional(Some(inner)) => inner.to_json()?,
            Value::Bytes(_)
            | Value::Duration(_)
            | Value::Type(_)
            | Value::Optional(None)
            | Value::Ip(_)
            | Value::Cidr(..)
            | Value::Url(_)
            | Value::SemVer(_)
            | Value::Format(_)
            | Value::Query(_)
            | Value::Verdict(_) => return None,
        })
    }
}
