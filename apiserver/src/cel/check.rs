//! Types: every name must be declared, every call must fit a signature. Resolves both in the tree.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Call, Element, Entry, Expr, Fold, FoldKind, Kind, Literal, Select};
use super::lexer::Issue;
use super::parser::{escaped_keyword, is_keyword};
use super::types::Type;
use super::{Environment, functions, library};

pub(super) struct Checker<'e> {
    environment: &'e Environment,
    /// Variables of macros, the innermost last.
    locals: Vec<(String, Type)>,
    issues: Vec<Issue>,
    /// What is looked at only where all types are well.
    late: Vec<Issue>,
    /// Whether a list may hold values of different types.
    mixed: bool,
    /// Why no program can be made of it.
    pub(super) unmakeable: Option<String>,
    /// The types of the elements of such a list, by where they stand.
    known: HashMap<usize, Type>,
}

// === impl Checker ===

impl<'e> Checker<'e> {
    pub(super) fn new(environment: &'e Environment) -> Self {
        Checker {
            environment,
            locals: vec![],
            issues: vec![],
            late: vec![],
            mixed: false,
            unmakeable: None,
            known: HashMap::new(),
        }
    }

    pub(super) fn check(&mut self, e: &mut Expr) -> Type {
        if let Some(ty) = self.resolve(e) {
            e.is(&ty);
            return ty;
        }
        let at = e.at;
        // In one frame: expressions are as deep as a stack allows.
        let ty = match &mut e.kind {
            Kind::Literal(literal) => type_of(literal),
            Kind::Ident(name) => {
                let message = format!("undeclared reference to '{name}' (in container '')");
                self.issue(at, message)
            }
            Kind::Select(select) => self.select(at, select),
            Kind::And(all) | Kind::Or(all) => self.logical(all),
            Kind::Ternary(parts) => self.ternary(at, parts),
            Kind::Call(call) => self.call(at, call),
            Kind::List(items) => {
                let mut item = None;
                for element in items {
                    let mut ty = self.check(&mut element.value);
                    if element.optional {
                        ty = self.unwrapped(element.value.at, &ty);
                    }
                    if self.mixed {
                        self.known.insert(element.value.at, ty.clone());
                    }
                    item = Some(self.alike(element.value.at, item, ty));
                }
                Type::list(item.unwrap_or(Type::Dyn))
            }
            Kind::Map(entries) => {
                let (mut key, mut value) = (None, None);
                for entry in entries {
                    let (of_key, of_value) = (self.check(&mut entry.key), self.entry(entry));
                    key = Some(self.alike(entry.key.at, key, of_key));
                    value = Some(self.alike(entry.value.at, value, of_value));
                }
                Type::map(key.unwrap_or(Type::Dyn), value.unwrap_or(Type::Dyn))
            }
            Kind::Struct(name, entries) => self.message(at, name, entries),
            Kind::Fold(fold) => self.fold(at, fold),
        };
        e.is(&ty);
        ty
    }

    /// Everything wrong, from left to right.
    pub(super) fn finish(self) -> Vec<Issue> {
        if self.issues.is_empty() { self.late } else { self.issues }
    }

    fn issue(&mut self, at: usize, message: String) -> Type {
        self.issues.push(Issue { at, message });
        Type::Dyn
    }

    /// A variable or the name of a type, qualified ones included: they become one identifier.
    fn resolve(&self, e: &mut Expr) -> Option<Type> {
        let name = e.qualified()?;
        let root = name.split('.').next().unwrap_or_default();
        if let Some((_, ty)) = self.locals.iter().rev().find(|(local, _)| local == root) {
            return (root == name).then(|| ty.clone());
        }
        if let Some(ty) = self.environment.variable(&name) {
            let ty = ty.clone();
            e.kind = Kind::Ident(name);
            return Some(ty);
        }
        let named = Type::named(&name).filter(|ty| *ty != Type::Dyn)?;
        e.kind = Kind::Literal(Literal::Type(named));
        Some(Type::Type)
    }

    fn select(&mut self, at: usize, select: &mut Select) -> Type {
        let operand = self.check(&mut select.operand);
        let (inner, through) = match &operand {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        };
        let field = match &inner {
            Type::Dyn => Type::Dyn,
            Type::Map(both) => both.1.clone(),
            Type::Object(object) => match object.fields.get(&select.field) {
                Some(ty) => ty.clone(),
                // `self.namespace`: a field that is named by a reserved word is found under its escaped name.
                None if is_keyword(&select.field)
                    && let Some(ty) = object.fields.get(&escaped_keyword(&select.field)) =>
                {
                    select.field = escaped_keyword(&select.field);
                    ty.clone()
                }
                None if object.open => Type::Dyn,
                None => self.issue(at, format!("undefined field '{}'", select.field)),
            },
            other => {
                let message = format!("type '{other}' does not support field selection");
                self.issue(at, message)
            }
        };
        match (select.test, select.optional || through) {
            (true, _) => Type::Bool,
            (false, true) => Type::optional(field),
            (false, false) => field,
        }
    }

    fn logical(&mut self, all: &mut [Expr]) -> Type {
        for operand in all {
            let found = self.check(operand);
            self.must_be_bool(operand.at, &found);
        }
        Type::Bool
    }

    fn ternary(&mut self, at: usize, parts: &mut [Expr; 3]) -> Type {
        let [condition, yes, no] = parts.each_mut().map(|e| self.check(e));
        let matching = yes.fits(&no, &mut vec![]) || no.fits(&yes, &mut vec![]);
        if !matches!(condition, Type::Bool | Type::Dyn) || !matching {
            return self.issue(at, no_overload("_?_:_", false, &[condition, yes, no]));
        }
        yes.join(no)
    }

    fn call(&mut self, at: usize, call: &mut Call) -> Type {
        if call.member
            && let Some(namespace) = call.args[0].qualified()
            && self.resolve(&mut call.args[0].clone()).is_none()
            && functions::lookup(&format!("{namespace}.{}", call.function)).is_some()
            // What is for patches is there where patches are made.
            && (namespace != "jsonpatch" || self.environment.patches)
        {
            call.function = format!("{namespace}.{}", call.function);
            call.member = false;
            call.args.remove(0);
        }
        // A format takes arguments of any types.
        let mixed = self.mixed;
        self.mixed |= call.member && call.function == "format";
        let types: Vec<Type> = call.args.iter_mut().map(|e| self.check(e)).collect();
        self.mixed = mixed;
        if call.function == "_[_]" || call.function == "_[?_]" {
            return self.index(at, call, &types);
        }
        let Some(overloads) = functions::lookup(&call.function) else {
            return self.issue(at, format!("undeclared reference to '{}' (in container '')", call.function));
        };
        let mut result = None;
        for overload in overloads {
            let mut bound = vec![];
            let fits = overload.member == call.member
                && overload.args.len() == types.len()
                && types.iter().zip(&overload.args).all(|(ty, wanted)| ty.fits(wanted, &mut bound));
            if fits {
                call.overloads.push(overload);
                result = Some(joined(result, overload.result.bind(&bound)));
            }
        }
        match result {
            Some(ty) => {
                self.check_literals(at, call, &types);
                ty
            }
            None => self.issue(at, no_overload(&call.function, call.member, &types)),
        }
    }

    /// An index is of the element's type, which no signature can say for messages and optionals at once.
    fn index(&mut self, at: usize, call: &mut Call, types: &[Type]) -> Type {
        call.overloads.extend(functions::lookup(&call.function).unwrap_or_default());
        let (operand, through) = match &types[0] {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        };
        let element = match &operand {
            Type::List(item) if matches!(types[1], Type::Int | Type::Dyn) => (**item).clone(),
            Type::Map(both) if types[1].fits(&both.0, &mut vec![]) => both.1.clone(),
            Type::Dyn => Type::Dyn,
            _ => return self.issue(at, no_overload(&call.function, false, types)),
        };
        if through || call.function == "_[?_]" { Type::optional(element) } else { element }
    }

    fn entry(&mut self, entry: &mut Entry) -> Type {
        let ty = self.check(&mut entry.value);
        if entry.optional { self.unwrapped(entry.value.at, &ty) } else { ty }
    }

    /// The elements of a literal are all of one type.
    fn alike(&mut self, at: usize, first: Option<Type>, next: Type) -> Type {
        if let Some(first) = &first
            && !self.mixed
            && !alike(first, &next)
        {
            let message = format!("expected type '{first}' but found '{next}'");
            self.late.push(Issue { at, message });
        }
        joined(first, next)
    }

    fn unwrapped(&mut self, at: usize, ty: &Type) -> Type {
        match ty {
            Type::Optional(inner) => (**inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!("expected type 'optional_type({other})' but found '{other}'");
                self.issue(at, message)
            }
        }
    }

    fn message(&mut self, at: usize, name: &str, entries: &mut [Entry]) -> Type {
        let Some(object) = self.environment.message(name) else {
            return self.issue(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        for entry in entries {
            let found = self.entry(entry);
            let Kind::Literal(Literal::String(field)) = &entry.key.kind else { continue };
            match object.fields.get(&**field) {
                Some(wanted) if !found.fits(wanted, &mut vec![]) => {
                    let message = format!(
                        "expected type of field '{field}' is '{wanted}' but provided type is '{found}'"
                    );
                    self.issue(entry.key.at, message);
                }
                None if !object.open => {
                    self.issue(entry.key.at, format!("undefined field '{field}'"));
                }
                _ => {}
            }
        }
        Type::Object(Arc::clone(&object))
    }

    fn fold(&mut self, at: usize, fold: &mut Fold) -> Type {
        let range = self.check(&mut fold.range);
        let inside = matches!(fold.kind, FoldKind::OptMap | FoldKind::OptFlatMap);
        let vars: Vec<Type> = match (&range, fold.vars.len(), inside) {
            (Type::Dyn, count, _) => vec![Type::Dyn; count],
            (Type::Optional(inner), _, true) => vec![(**inner).clone()],
            (Type::List(item), 1, false) => vec![(**item).clone()],
            (Type::List(item), _, false) => vec![Type::Int, (**item).clone()],
            (Type::Map(both), 1, false) => vec![both.0.clone()],
            (Type::Map(both), _, false) => vec![both.0.clone(), both.1.clone()],
            _ => {
                let why = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.issue(fold.range.at, format!("expression of type '{range}' {why}"));
                vec![Type::Dyn; fold.vars.len()]
            }
        };
        let outer = self.locals.len();
        self.locals.extend(fold.vars.iter().cloned().zip(vars.iter().cloned()));
        let filter = fold.filter.as_mut().map(|filter| self.check(filter));
        let body = self.check(&mut fold.body);
        if let Some(filter) = filter {
            self.condition(at, filter, &Type::list(body.clone()));
        }
        self.locals.truncate(outer);
        match fold.kind {
            FoldKind::All | FoldKind::Exists => self.must_be_bool(fold.body.at, &body),
            FoldKind::ExistsOne => {
                self.condition(at, body, &Type::Int);
                Type::Bool
            }
            FoldKind::Filter => self.condition(at, body, &Type::list(vars[0].clone())),
            FoldKind::Map => Type::list(body),
            FoldKind::SortBy => range,
            FoldKind::TransformMap => Type::map(vars[0].clone(), body),
            FoldKind::TransformMapEntry => body,
            FoldKind::OptMap => Type::optional(body),
            FoldKind::OptFlatMap => match body {
                Type::Optional(_) => body,
                Type::Dyn => Type::optional(Type::Dyn),
                other => {
                    let none = Type::optional(Type::Dyn);
                    self.issue(at, no_overload("_?_:_", false, &[Type::Bool, other, none]))
                }
            },
        }
    }

    fn must_be_bool(&mut self, at: usize, found: &Type) -> Type {
        if !matches!(found, Type::Bool | Type::Dyn) {
            self.issue(at, format!("expected type 'bool' but found '{found}'"));
        }
        Type::Bool
    }

    /// The condition of a macro that takes or leaves elements: upstream's is written as `condition ? result : result`.
    fn condition(&mut self, at: usize, found: Type, result: &Type) -> Type {
        if !matches!(found, Type::Bool | Type::Dyn) {
            self.issue(at, no_overload("_?_:_", false, &[found, result.clone(), result.clone()]));
        }
        result.clone()
    }

    /// A text's format, where it is written out with its arguments.
    fn check_format(&mut self, at: usize, pattern: &str, args: &[Element]) {
        let verbs = match library::verbs(pattern, args.len()) {
            Ok(verbs) => verbs,
            Err(message) => return self.late.push(Issue { at, message }),
        };
        for (verb, arg) in verbs.iter().zip(args) {
            let Some(ty) = self.known.get(&arg.value.at) else { continue };
            if let Err(message) = library::takes(*verb, ty) {
                return self.late.push(Issue { at: arg.value.at, message });
            }
        }
        if args.len() > verbs.len() {
            let (expected, got) = (verbs.len(), args.len());
            let message =
                format!("too many arguments supplied to string.format (expected {expected}, got {got})");
            self.late.push(Issue { at, message });
        }
    }

    /// Arguments that are wrong as they stand.
    fn check_literals(&mut self, at: usize, call: &Call, types: &[Type]) {
        if let ("format", [pattern, Expr { kind: Kind::List(args), .. }]) = (&*call.function, &call.args[..])
            && let Kind::Literal(Literal::String(pattern)) = &pattern.kind
            && let Some(Type::List(_)) = types.get(1)
        {
            self.check_format(at, pattern, args);
        }
        let Some(Expr { at, kind: Kind::Literal(Literal::String(text)), .. }) = call.args.last() else {
            return;
        };
        let well = match (call.function.as_str(), call.args.len()) {
            ("duration", 1) => coracle_api::duration::parse(text).is_ok(),
            ("timestamp", 1) => library::parse_timestamp(text).is_some(),
            ("matches", 2) => crate::regexp::Regexp::new(text).is_ok(),
            ("find" | "findAll", 2) => {
                // Upstream finds this when it makes a program of what is otherwise well.
                self.unmakeable = crate::regexp::Regexp::new(text).err().map(|e| e.to_string());
                true
            }
            _ => true,
        };
        if !well {
            self.late.push(Issue { at: *at, message: format!("invalid {} argument", call.function) });
        }
    }
}

/// Whether two types are one, as far as is known.
fn alike(first: &Type, next: &Type) -> bool {
    let known = |ty: &Type| *ty != Type::Dyn;
    match (first, next) {
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
            !known(a) || !known(b) || alike(a, b)
        }
        (Type::Map(a), Type::Map(b)) => !known(&a.1) || !known(&b.1) || alike(&a.1, &b.1),
        _ => first == next,
    }
}

fn joined(so_far: Option<Type>, next: Type) -> Type {
    match so_far {
        Some(ty) => ty.join(next),
        None => next,
    }
}

fn type_of(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
        Literal::Type(_) => Type::Type,
    }
}

fn no_overload(function: &str, member: bool, types: &[Type]) -> String {
    let names: Vec<String> = types.iter().map(ToString::to_string).collect();
    let applied = match (member, &names[..]) {
        (true, [receiver, args @ ..]) => format!("{receiver}.({})", args.join(", ")),
        (_, all) => format!("({})", all.join(", ")),
    };
    format!("found no matching overload for '{function}' applied to '{applied}'")
}
