//! From a checked tree and what its variables stand for to a value, within a budget.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value as Json;

use super::ast::{Call, Expr, Fold, FoldKind, Kind, Literal, Select};
use super::library::authorizer::{Query, Verdict};
use super::types::Type;
use super::value::{Failure, Key, Result, Value, fail, no_overload};

/// Where an expression's variables come from.
pub trait Scope<'a> {
    /// `None`: there is none of that name.
    fn variable(&self, name: &str, context: &mut Context<'a, '_>) -> Option<Result<Value<'a>>>;

    /// Whether the user of the request may do something; asked by `authorizer`.
    fn authorize(&self, query: &Query) -> Verdict;
}

/// One evaluation: its variables and what is left of its budget.
pub struct Context<'a, 's> {
    pub(super) scope: &'s dyn Scope<'a>,
    /// Variables of macros, the innermost last.
    locals: Vec<(String, Value<'a>)>,
    pub budget: u64,
}

// === impl Context ===

impl<'a, 's> Context<'a, 's> {
    pub fn new(scope: &'s dyn Scope<'a>, budget: u64) -> Self {
        Context { scope, locals: vec![], budget }
    }

    /// Evaluates another expression with the same budget but without this one's local variables.
    pub(super) fn apart<T>(&mut self, evaluate: impl FnOnce(&mut Self) -> T) -> T {
        let locals = std::mem::take(&mut self.locals);
        let result = evaluate(self);
        self.locals = locals;
        result
    }

    pub(super) fn spend(&mut self, cost: usize) -> Result<()> {
        let left = self.budget.checked_sub(cost as u64);
        self.budget = left.unwrap_or(0);
        if left.is_some() { Ok(()) } else { Err(Failure::OutOfBudget) }
    }

    pub(super) fn eval(&mut self, e: &Expr) -> Result<Value<'a>> {
        match &e.kind {
            Kind::Literal(literal) => Ok(value_of(literal)),
            Kind::Ident(name) => self.ident(name),
            Kind::Select(select) => self.select(select),
            Kind::And(all) => self.logical(all, false),
            Kind::Or(all) => self.logical(all, true),
            Kind::Ternary(parts) => match self.eval(&parts[0])? {
                Value::Bool(true) => self.eval(&parts[1]),
                Value::Bool(false) => self.eval(&parts[2]),
                _ => no_overload(""),
            },
            Kind::Call(call) => self.call(call),
            Kind::List(items) => {
                self.spend(10)?;
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    let value = self.eval(&item.value)?;
                    list.extend(present(value, item.optional)?);
                }
                Ok(Value::list(list))
            }
            Kind::Map(_) => self.map(e),
            Kind::Struct(..) => self.message(e),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &str) -> Result<Value<'a>> {
        self.spend(1)?;
        if let Some((_, value)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Ok(value.clone());
        }
        let scope = self.scope;
        match scope.variable(name, self) {
            Some(found) => found,
            None => fail(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, select: &Select) -> Result<Value<'a>> {
        let operand = self.eval(&select.operand)?;
        self.spend(1)?;
        let key = Value::String(select.field.as_str().to_owned().into());
        let (inner, through) = match operand {
            Value::Optional(None) if select.test => return Ok(Value::Bool(false)),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        let holds_fields = matches!(inner, Value::Map(_) | Value::Object(_) | Value::Json(Json::Object(_)));
        if !holds_fields {
            return match inner {
                _ if select.test => Ok(Value::Bool(false)),
                Value::List(_) | Value::Json(Json::Array(_)) => {
                    fail("unsupported index type 'string' in list")
                }
                _ => fail(format!("no such key: {}", select.field)),
            };
        }
        let found = inner.get(&key);
        match (select.test, select.optional || through, found) {
            (true, _, found) => Ok(Value::Bool(found.is_some())),
            (false, true, found) => Ok(Value::Optional(found.map(Rc::new))),
            (false, false, Some(value)) => Ok(value),
            (false, false, None) => fail(format!("no such key: {}", select.field)),
        }
    }

    /// `&&` and `||` as CEL has them: one deciding operand outweighs errors of others.
    fn logical(&mut self, all: &[Expr], decides: bool) -> Result<Value<'a>> {
        let mut error = None;
        for e in all {
            match self.eval(e) {
                Ok(Value::Bool(b)) if b == decides => return Ok(Value::Bool(b)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or(Some(Failure::NoOverload(String::new()))),
                Err(Failure::OutOfBudget) => return Err(Failure::OutOfBudget),
                Err(other) => error = error.or(Some(other)),
            }
        }
        error.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn call(&mut self, call: &Call) -> Result<Value<'a>> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        let texts = args.iter().map(|a| if let Value::String(s) = a { s.len() / 10 } else { 0 });
        self.spend(1 + texts.sum::<usize>())?;
        for overload in &call.overloads {
            if args.iter().zip(&overload.args).all(|(value, ty)| is_of(value, ty)) {
                return (overload.call)(self, &args);
            }
        }
        fail(match (&*call.function, &args[..]) {
            ("size", _) => "no such overload: size".to_owned(),
            (conversion, [one]) if Type::named(conversion).is_some() => {
                format!("no such overload: {conversion}({})", one.type_of().base_name())
            }
            _ => "no such overload".to_owned(),
        })
    }

    fn map(&mut self, e: &Expr) -> Result<Value<'a>> {
        self.spend(30)?;
        let Kind::Map(entries) = &e.kind else { return no_overload("") };
        let mut map = BTreeMap::new();
        for entry in entries {
            let key = self.key(&entry.key)?;
            let value = self.eval(&entry.value)?;
            if let Some(value) = present(value, entry.optional)? {
                map.insert(key, value);
            }
        }
        Ok(Value::Map(Rc::new(map)))
    }

    fn key(&mut self, e: &Expr) -> Result<Key> {
        let value = self.eval(e)?;
        Key::of(&value).map_or_else(|| fail(format!("unsupported key type: {}", value.type_of())), Ok)
    }

    fn message(&mut self, e: &Expr) -> Result<Value<'a>> {
        self.spend(40)?;
        let Kind::Struct(name, entries) = &e.kind else { return no_overload("") };
        let mut fields = BTreeMap::new();
        for entry in entries {
            let Kind::Literal(Literal::String(field)) = &entry.key.kind else { continue };
            let value = self.eval(&entry.value)?;
            if let Some(value) = present(value, entry.optional)? {
                fields.insert(field.to_string(), value);
            }
        }
        Ok(Value::Object(Rc::new((name.clone(), fields))))
    }

    fn fold(&mut self, fold: &Fold) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        let outer = self.locals.len();
        self.locals.extend(fold.vars.iter().map(|name| (name.clone(), Value::Null)));
        let result = match (fold.kind, &range) {
            (FoldKind::OptMap | FoldKind::OptFlatMap, Value::Optional(None)) => Ok(Value::Optional(None)),
            (FoldKind::OptMap | FoldKind::OptFlatMap, Value::Optional(Some(inner))) => {
                self.locals[outer].1 = (**inner).clone();
                let body = self.eval(&fold.body);
                if fold.kind == FoldKind::OptMap { body.map(Value::some) } else { body }
            }
            _ => self.fold_over(fold, &range, outer),
        };
        self.locals.truncate(outer);
        result
    }

    fn fold_over(&mut self, fold: &Fold, range: &Value<'a>, at: usize) -> Result<Value<'a>> {
        let mut state = Folded::default();
        let two = fold.vars.len() == 2;
        if let Some(items) = range.items() {
            for (i, item) in items.into_iter().enumerate() {
                let index = Value::Int(i64::try_from(i).unwrap_or(i64::MAX));
                let (first, second) = if two { (index, Some(item)) } else { (item, None) };
                if self.step(fold, at, first, second, &mut state)? {
                    break;
                }
            }
        } else if let Some(entries) = range.entries() {
            for (key, value) in entries {
                if self.step(fold, at, key, two.then_some(value), &mut state)? {
                    break;
                }
            }
        } else {
            return no_overload("");
        }
        state.finish(fold.kind)
    }

    /// One element. Whether nothing further needs to be looked at.
    fn step(
        &mut self,
        fold: &Fold,
        at: usize,
        first: Value<'a>,
        second: Option<Value<'a>>,
        state: &mut Folded<'a>,
    ) -> Result<bool> {
        self.spend(1)?;
        if let Some(second) = second {
            self.locals[at + 1].1 = second;
        }
        self.locals[at].1 = first.clone();
        if let Some(filter) = &fold.filter {
            match self.eval(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(false),
                _ => return no_overload(""),
            }
        }
        let body = self.eval(&fold.body);
        match fold.kind {
            FoldKind::All | FoldKind::Exists => {
                let decides = fold.kind == FoldKind::Exists;
                match body {
                    Ok(Value::Bool(b)) => state.decided |= b == decides,
                    Ok(_) => state.error = Some(Failure::NoOverload(String::new())),
                    Err(Failure::OutOfBudget) => return Err(Failure::OutOfBudget),
                    Err(other) => state.error = Some(other),
                }
                return Ok(state.decided);
            }
            FoldKind::ExistsOne => state.count += usize::from(truth(&body?)?),
            FoldKind::Filter => {
                if truth(&body?)? {
                    state.items.push(first);
                }
            }
            FoldKind::SortBy => state.keyed.push((body?, first)),
            FoldKind::TransformMap => {
                let key = Key::of(&first).ok_or(Failure::Error("unsupported key type".to_owned()))?;
                state.map.insert(key, body?);
            }
            FoldKind::TransformMapEntry => {
                for (key, value) in body?.entries().unwrap_or_default() {
                    let key = Key::of(&key).ok_or(Failure::Error("unsupported key type".to_owned()))?;
                    if state.map.insert(key.clone(), value).is_some() {
                        return fail(format!("insert failed: key {key:?} already exists"));
                    }
                }
            }
            FoldKind::Map | FoldKind::OptMap | FoldKind::OptFlatMap => state.items.push(body?),
        }
        Ok(false)
    }
}

/// What a macro has gathered so far.
#[derive(Default)]
struct Folded<'a> {
    decided: bool,
    error: Option<Failure>,
    count: usize,
    items: Vec<Value<'a>>,
    keyed: Vec<(Value<'a>, Value<'a>)>,
    map: BTreeMap<Key, Value<'a>>,
}

impl<'a> Folded<'a> {
    fn finish(mut self, kind: FoldKind) -> Result<Value<'a>> {
        match (kind, self.error) {
            (FoldKind::All | FoldKind::Exists, _) if self.decided => {
                Ok(Value::Bool(kind == FoldKind::Exists))
            }
            (FoldKind::All | FoldKind::Exists, Some(error)) => Err(error),
            (FoldKind::All | FoldKind::Exists, None) => Ok(Value::Bool(kind == FoldKind::All)),
            (FoldKind::ExistsOne, _) => Ok(Value::Bool(self.count == 1)),
            (FoldKind::TransformMap | FoldKind::TransformMapEntry, _) => Ok(Value::Map(Rc::new(self.map))),
            (FoldKind::SortBy, _) => {
                self.keyed.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(std::cmp::Ordering::Equal));
                Ok(Value::list(self.keyed.into_iter().map(|(_, item)| item).collect()))
            }
            (FoldKind::Filter | FoldKind::Map | FoldKind::OptMap | FoldKind::OptFlatMap, _) => {
                Ok(Value::list(self.items))
            }
        }
    }
}

fn truth(value: &Value<'_>) -> Result<bool> {
    if let Value::Bool(b) = value { Ok(*b) } else { no_overload("") }
}

/// What an element or entry adds: nothing where it is optional and none.
fn present<'a>(value: Value<'a>, optional: bool) -> Result<Option<Value<'a>>> {
    match value {
        Value::Optional(inner) if optional => Ok(inner.map(|v| (*v).clone())),
        _ if optional => no_overload(""),
        value => Ok(Some(value)),
    }
}

fn value_of<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::string(&**s),
        Literal::Bytes(b) => Value::Bytes(Rc::from(&**b)),
        Literal::Type(ty) => Value::Type(Rc::new(ty.clone())),
    }
}

/// Whether a value may be an argument of a type; what lists and maps hold shows when it is used.
fn is_of(value: &Value<'_>, ty: &Type) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_), _)
        | (Type::List(_), Value::List(_) | Value::Json(Json::Array(_)))
        | (Type::Map(_), Value::Map(_) | Value::Json(Json::Object(_)))
        | (Type::Optional(_), Value::Optional(_))
        | (Type::Null, Value::Null)
        | (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Uint, Value::Uint(_))
        | (Type::Double, Value::Double(_))
        | (Type::String, Value::String(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Timestamp, Value::Timestamp(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::Type, Value::Type(_)) => true,
        (Type::Opaque(name), value) => matches!(value.type_of(), Type::Opaque(own) if own == *name),
        _ => false,
    }
}
