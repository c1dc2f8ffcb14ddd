//! The tree of an expression, macros expanded, as the checker resolves and the evaluator walks it.

use std::sync::Arc;

use super::functions::Overload;
use super::types::Type;

/// One node, and where its text begins.
#[derive(Clone, Debug)]
pub(super) struct Expr {
    /// Offset in characters.
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// What the checker found it to be; `None`: anything.
    pub(super) ty: Option<Box<Type>>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Literal(Literal),
    /// A variable; the checker joins qualified names (`authorizer.requestResource`) into one.
    Ident(String),
    Select(Box<Select>),
    /// `&&`: any number of operands, so that long chains stay shallow.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Ternary(Box<[Expr; 3]>),
    Call(Call),
    List(Vec<Element>),
    Map(Vec<Entry>),
    /// `Object.spec{replicas: 1}`
    Struct(String, Vec<Entry>),
    Fold(Box<Fold>),
}

#[derive(Clone, Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    Type(Type),
}

#[derive(Clone, Debug)]
pub(super) struct Select {
    pub(super) operand: Expr,
    pub(super) field: String,
    /// `has(x.field)`
    pub(super) test: bool,
    /// `x.?field`
    pub(super) optional: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) function: String,
    /// Whether the first argument stands before the dot.
    pub(super) member: bool,
    pub(super) args: Vec<Expr>,
    /// What the checker found possible, in the order of declaration.
    pub(super) overloads: Vec<&'static Overload>,
}

/// `x`, or `?x` which is left out where it is none.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Expr,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    TransformMap,
    TransformMapEntry,
    SortBy,
    OptMap,
    OptFlatMap,
}

/// A macro that looks at every element of a list or map (or at what an optional holds).
#[derive(Clone, Debug)]
pub(super) struct Fold {
    pub(super) kind: FoldKind,
    pub(super) range: Expr,
    /// One variable: the element of a list, the key of a map. Two: index and element, or key and value.
    pub(super) vars: Vec<String>,
    pub(super) filter: Option<Expr>,
    pub(super) body: Expr,
}

// === impl Expr ===

impl Expr {
    pub(super) fn new(at: usize, kind: Kind) -> Self {
        Expr { at, kind, ty: None }
    }

    /// Notes its type.
    pub(super) fn is(&mut self, ty: &Type) {
        self.ty = (*ty != Type::Dyn).then(|| Box::new(ty.clone()));
    }

    pub(super) fn ty(&self) -> &Type {
        self.ty.as_deref().unwrap_or(&Type::Dyn)
    }

    pub(super) fn call(at: usize, function: &str, args: Vec<Expr>) -> Self {
        let call = Call { function: function.to_owned(), member: false, args, overloads: vec![] };
        Expr::new(at, Kind::Call(call))
    }

    /// `a.b.c` as a dotted name, where it is nothing but names.
    pub(super) fn qualified(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select(s) if !s.test && !s.optional => {
                Some(format!("{}.{}", s.operand.qualified()?, s.field))
            }
            _ => None,
        }
    }
}
