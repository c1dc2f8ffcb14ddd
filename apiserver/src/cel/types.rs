//! The types an expression is checked against.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Known only when it is evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type,
    /// A type that functions make and take: `kubernetes.Quantity`, `net.IP` ...
    Opaque(&'static str),
    Object(Arc<ObjectType>),
    /// A type parameter of a function.
    Param(char),
}

/// A message: its fields by name.
#[derive(Debug, Default)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
    /// Whether any other field may be there, of any type.
    pub open: bool,
}

impl PartialEq for ObjectType {
    /// A name means one type.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

// === impl Type ===

impl Type {
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Type {
        let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), ty)).collect();
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }))
    }

    /// A type by the name that expressions (`type(x) == int`) and signatures give it.
    pub(super) fn named(name: &str) -> Option<Type> {
        Some(match name {
            "dyn" => Type::Dyn,
            "null_type" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "timestamp" | "google.protobuf.Timestamp" => Type::Timestamp,
            "duration" | "google.protobuf.Duration" => Type::Duration,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "type" => Type::Type,
            "optional_type" => Type::optional(Type::Dyn),
            _ => return None,
        })
    }

    /// Whether a value of `self` may stand where `wanted` is; binds the parameters of `wanted`.
    pub(super) fn fits(&self, wanted: &Type, bound: &mut Vec<(char, Type)>) -> bool {
        match (self, wanted) {
            (_, Type::Param(p)) => match bound.iter().position(|(q, _)| q == p) {
                Some(at) if bound[at].1 == Type::Dyn || *self == Type::Dyn => {
                    bound[at].1 = Type::Dyn;
                    true
                }
                Some(at) => {
                    let known = bound[at].1.clone();
                    if self.fits(&known, &mut vec![]) {
                        return true;
                    }
                    // `null`, which stands first, is of the type of what follows.
                    let wider = known.fits(self, &mut vec![]);
                    if wider {
                        bound[at].1 = self.clone();
                    }
                    wider
                }
                None => {
                    bound.push((*p, self.clone()));
                    true
                }
            },
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (
                Type::Null,
                Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_),
            ) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.fits(b, bound),
            (Type::Map(a), Type::Map(b)) => a.0.fits(&b.0, bound) && a.1.fits(&b.1, bound),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            _ => self == wanted,
        }
    }

    /// With parameters replaced by what they were bound to.
    pub(super) fn bind(&self, bound: &[(char, Type)]) -> Type {
        match self {
            Type::Param(p) => bound.iter().find(|(q, _)| q == p).map_or(Type::Dyn, |(_, ty)| ty.clone()),
            Type::List(item) => Type::list(item.bind(bound)),
            Type::Optional(inner) => Type::optional(inner.bind(bound)),
            Type::Map(both) => Type::map(both.0.bind(bound), both.1.bind(bound)),
            other => other.clone(),
        }
    }

    /// What two types have in common: one of them, or `dyn`.
    pub(super) fn join(self, other: Type) -> Type {
        if self == other || other.fits(&self, &mut vec![]) && self != Type::Null {
            if matches!(other, Type::Dyn) { other } else { self }
        } else if self.fits(&other, &mut vec![]) {
            other
        } else {
            Type::Dyn
        }
    }
}

impl Type {
    /// The name of a value's type, which says nothing of what it holds.
    pub(super) fn base_name(&self) -> String {
        match self {
            Type::Null => "null_type".to_owned(),
            Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Type::Duration => "google.protobuf.Duration".to_owned(),
            Type::List(_) => "list".to_owned(),
            Type::Map(_) => "map".to_owned(),
            Type::Optional(_) => "optional_type".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(both) => write!(f, "map({}, {})", both.0, both.1),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Type => f.write_str("type"),
            Type::Opaque(name) => f.write_str(name),
            Type::Object(object) => f.write_str(&object.name),
            Type::Param(p) => write!(f, "{p}"),
        }
    }
}
