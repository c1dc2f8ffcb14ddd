//! What an expression may cost at most, before it has ever run: upstream's estimate, by which rules of custom resources are
//! refused that no object could be judged by within its budget. Changing a number here changes what may be written.

mod calls;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Call, Expr, Fold, FoldKind, Kind, Literal, Select};
use super::types::Type;
use calls::sorted;

/// How much can stand at a place: upstream's declared types, as far as they tell sizes.
#[derive(Debug, Default)]
pub struct Extent {
    /// Characters of a text, elements of a list or map; 0 of all else.
    pub most: u64,
    pub below: Below,
}

/// What stands below a place.
#[derive(Debug, Default)]
pub enum Below {
    #[default]
    Nothing,
    /// The items of a list, or the values of a map.
    Elements(Arc<Extent>),
    /// By their names in expressions.
    Fields(BTreeMap<String, Arc<Extent>>),
}

// What is charged, in upstream's units.
const NAMED: u64 = 1;
const CALLED: u64 = 1;
const LIST: u64 = 10;
const MAP: u64 = 30;
const MESSAGE: u64 = 40;
/// By character of a text that is gone through.
const TRAVERSED: f64 = 0.1;

/// The keys of a map have no bound that anybody has stated: upstream takes them for nothing.
static KEYS: Extent = Extent { most: 0, below: Below::Nothing };

/// The most that an expression costs whose variables all look like `root`.
pub(super) fn most(expr: &Expr, root: &Extent) -> u64 {
    Estimator { root, locals: vec![] }.of(expr).cost
}

/// So much at least, and so much at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    least: u64,
    most: u64,
}

/// Where in the declared types a value stands.
#[derive(Clone, Copy)]
enum Place<'e> {
    /// It is a result of something, and of no place.
    None,
    /// Somewhere that is not declared.
    Lost,
    At(&'e Extent),
}

/// The sizes of what a list or map that the expression makes holds.
#[derive(Clone, Copy)]
struct Held {
    key: Size,
    value: Size,
}

/// What is known of a part of the expression.
#[derive(Clone, Copy)]
struct Found<'e> {
    cost: u64,
    place: Place<'e>,
    size: Option<Size>,
    held: Option<Held>,
}

/// A variable of a macro.
struct Local<'e> {
    name: String,
    place: Place<'e>,
    size: Option<Size>,
}

struct Estimator<'e> {
    root: &'e Extent,
    /// The innermost last.
    locals: Vec<Local<'e>>,
}

// === impl Size ===

impl Size {
    const UNKNOWN: Size = Size { least: 0, most: u64::MAX };

    fn exact(n: u64) -> Size {
        Size { least: n, most: n }
    }

    fn plus(self, other: Size) -> Size {
        Size { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    fn times(self, other: Size) -> Size {
        Size { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    fn or(self, other: Size) -> Size {
        Size { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    /// What it costs to go through all of it.
    fn cost(self, factor: f64) -> u64 {
        scaled(self.most, factor)
    }
}

/// Rounded up; `u64::MAX` for all that is more.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and the cast saturates"
)]
fn scaled(n: u64, factor: f64) -> u64 {
    (n as f64 * factor).ceil() as u64
}

// === impl Found ===

impl Found<'_> {
    fn costing(cost: u64) -> Self {
        Found { cost, place: Place::None, size: None, held: None }
    }

    fn sized(self, size: Size) -> Self {
        Found { size: Some(size), ..self }
    }

    fn size(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }
}

// === impl Estimator ===

impl<'e> Estimator<'e> {
    fn of(&mut self, e: &Expr) -> Found<'e> {
        match &e.kind {
            // The name of a type is a variable upstream.
            Kind::Literal(Literal::Type(_)) => self.placed(NAMED, Place::At(self.root), e.ty()),
            Kind::Literal(literal) => Found::costing(0).sized(Size::exact(length(literal))),
            Kind::Ident(name) => match self.locals.iter().rev().find(|local| local.name == *name) {
                Some(local) => {
                    let (place, size) = (local.place, local.size);
                    let found = self.placed(NAMED, place, e.ty());
                    Found { size: found.size.or(size), ..found }
                }
                None => self.placed(NAMED, Place::At(self.root), e.ty()),
            },
            Kind::Select(select) => self.select(select, e.ty()),
            Kind::And(all) | Kind::Or(all) => {
                let cost = all.iter().fold(0_u64, |sum, e| sum.saturating_add(self.of(e).cost));
                Found::costing(cost).sized(Size::exact(1))
            }
            Kind::Ternary(parts) => {
                let [condition, yes, no] = parts.each_ref().map(|e| self.of(e));
                let cost = condition.cost.saturating_add(yes.cost.max(no.cost));
                let held = yes.held.zip(no.held).map(|(yes, no)| yes.or(no));
                Found { held, ..Found::costing(cost).sized(yes.size().or(no.size())) }
            }
            Kind::Call(call) => self.call(call, e.ty()),
            Kind::List(elements) => {
                let all: Vec<Found<'_>> = elements.iter().map(|element| self.of(&element.value)).collect();
                let held = Held { key: Size::exact(1), value: union(all.iter()) };
                let found = Found::costing(sum(all.iter(), LIST)).sized(Size::exact(count(elements)));
                Found { held: Some(held), ..found }
            }
            Kind::Map(entries) => {
                let both: Vec<[Found<'_>; 2]> =
                    entries.iter().map(|entry| [&entry.key, &entry.value].map(|e| self.of(e))).collect();
                let held = Held {
                    key: union(both.iter().map(|[key, _]| key)),
                    value: union(both.iter().map(|[_, value]| value)),
                };
                let found =
                    Found::costing(sum(both.iter().flatten(), MAP)).sized(Size::exact(count(entries)));
                Found { held: Some(held), ..found }
            }
            Kind::Struct(_, entries) => {
                let all: Vec<Found<'_>> = entries.iter().map(|entry| self.of(&entry.value)).collect();
                Found::costing(sum(all.iter(), MESSAGE))
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    /// What stands at a place: its size is the place's, or its type's where that is always one.
    fn placed(&self, cost: u64, place: Place<'e>, ty: &Type) -> Found<'e> {
        let size = match place {
            Place::At(extent) => Some(Size { least: 0, most: extent.most }),
            Place::None | Place::Lost => is_scalar(ty).then_some(Size::exact(1)),
        };
        Found { cost, place, size, held: None }
    }

    fn below(&self, place: Place<'e>, step: impl FnOnce(&'e Extent) -> Option<&'e Extent>) -> Place<'e> {
        match place {
            Place::At(extent) => step(extent).map_or(Place::Lost, Place::At),
            // Upstream takes the first step of a path for the variable, whatever it is.
            Place::None => Place::At(self.root),
            Place::Lost => Place::Lost,
        }
    }

    fn elements(&self, place: Place<'e>) -> Place<'e> {
        self.below(place, |extent| match &extent.below {
            Below::Elements(element) => Some(element),
            Below::Nothing | Below::Fields(_) => None,
        })
    }

    fn select(&mut self, select: &Select, ty: &Type) -> Found<'e> {
        let operand = self.of(&select.operand);
        if select.test {
            return self.placed(operand.cost, Place::None, ty);
        }
        if select.optional {
            return self.placed(operand.cost.saturating_add(CALLED), Place::None, ty);
        }
        let named = matches!(select.operand.ty(), Type::Map(_) | Type::Object(_));
        let cost = operand.cost.saturating_add(if named { NAMED } else { 0 });
        let place = self.below(operand.place, |extent| match &extent.below {
            Below::Fields(fields) => fields.get(&select.field).map(|field| &**field),
            Below::Nothing | Below::Elements(_) => None,
        });
        self.placed(cost, place, ty)
    }

    fn call(&mut self, call: &Call, ty: &Type) -> Found<'e> {
        let args: Vec<Found<'_>> = call.args.iter().map(|arg| self.of(arg)).collect();
        // `dyn` is not called: it lets what stands there be of any type.
        if call.function == "dyn"
            && let [only] = &args[..]
        {
            let cost = only.cost.saturating_add(CALLED);
            return Found { cost, place: Place::None, ..*only };
        }
        let (own, size) = self.own(call, &args);
        let cost = sum(args.iter(), own);
        let index = (call.function == "_[_]").then(|| call.args[0].ty());
        let found = match index {
            Some(Type::List(_) | Type::Map(_) | Type::Dyn) => {
                let found = self.placed(cost, self.elements(args[0].place), ty);
                Found { size: args[0].held.map(|held| held.value).or(found.size), ..found }
            }
            _ => self.placed(cost, Place::None, ty),
        };
        let concatenated = call.function == "_+_" && matches!(ty, Type::List(_));
        let held = match &args[..] {
            [left, right] if concatenated => left.held.zip(right.held).map(|(left, right)| left.or(right)),
            _ => None,
        };
        Found { size: size.or(found.size), held, ..found }
    }

    fn item_size(&self, list: Place<'e>) -> Size {
        let items = match list {
            // Where the list is of no place, nothing is known of its items.
            Place::None => Place::Lost,
            _ => self.elements(list),
        };
        match items {
            Place::At(extent) => Size { least: 0, most: extent.most },
            Place::None | Place::Lost => Size::UNKNOWN,
        }
    }

    /// A macro, as upstream writes it out: a loop over the range that carries a result along.
    fn fold(&mut self, fold: &Fold) -> Found<'e> {
        let range = self.of(&fold.range);
        if matches!(fold.kind, FoldKind::OptMap | FoldKind::OptFlatMap) {
            return self.inside(fold, &range);
        }
        let outer = self.locals.len();
        self.declare(fold, &range);
        let filter = fold.filter.as_ref().map(|filter| self.of(filter).cost);
        let body = self.of(&fold.body);
        self.locals.truncate(outer);
        // What each element costs beside the body, and what the loop costs beside its elements.
        let appended = |cost: u64| cost.saturating_add(CALLED + NAMED + LIST);
        let (each, around) = match fold.kind {
            // `not_strictly_false(result)`, `result && body`
            FoldKind::All => (body.cost.saturating_add(CALLED + NAMED + NAMED), NAMED),
            // `not_strictly_false(!result)`, `result || body`
            FoldKind::Exists => (body.cost.saturating_add(2 * CALLED + NAMED + NAMED), NAMED),
            // `body ? result + 1 : result`, `result == 1`
            FoldKind::ExistsOne => (body.cost.saturating_add(CALLED + NAMED), CALLED + NAMED),
            // `body ? result + [element] : result`
            FoldKind::Filter => (body.cost.saturating_add(appended(NAMED)), LIST + NAMED),
            FoldKind::Map | FoldKind::SortBy => {
                (filter.unwrap_or(0).saturating_add(appended(body.cost)), LIST + NAMED)
            }
            // `insert(result, key, body)`, `insert(result, body)`
            FoldKind::TransformMap | FoldKind::TransformMapEntry => {
                let key = if fold.kind == FoldKind::TransformMap { NAMED } else { 0 };
                let inserted = body.cost.saturating_add(CALLED + NAMED + key);
                (filter.unwrap_or(0).saturating_add(inserted), MAP + NAMED)
            }
            FoldKind::OptMap | FoldKind::OptFlatMap => (0, 0),
        };
        let size = range.size();
        let cost = sum([range].iter(), size.most.saturating_mul(each).saturating_add(around));
        let empty = Size::exact(0);
        match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => {
                Found::costing(cost).sized(Size::exact(1))
            }
            FoldKind::Filter | FoldKind::Map => {
                let element = match fold.kind {
                    FoldKind::Map => body.size(),
                    _ => self.element(&range).1.unwrap_or(Size::UNKNOWN),
                };
                let held = Held { key: Size::exact(1), value: element.or(empty) };
                Found { held: Some(held), ..Found::costing(cost).sized(size) }
            }
            FoldKind::SortBy => {
                // The range has a name meanwhile, by which it is asked for twice.
                let sorted = sorted(size, fold.body.ty()).saturating_add(LIST + 2 * NAMED);
                Found::costing(cost.saturating_add(sorted)).sized(size)
            }
            _ => Found::costing(cost).sized(size),
        }
    }

    /// `range.hasValue() ? optional.of(body of range.value()) : optional.none()`
    fn inside(&mut self, fold: &Fold, range: &Found<'e>) -> Found<'e> {
        let outer = self.locals.len();
        self.locals.push(Local { name: fold.vars[0].clone(), place: Place::None, size: None });
        let body = self.of(&fold.body);
        self.locals.truncate(outer);
        let bound = sum([*range, body].iter(), LIST + CALLED);
        let of = if fold.kind == FoldKind::OptMap { CALLED } else { 0 };
        Found::costing(sum([*range].iter(), bound.saturating_add(CALLED + of)))
    }

    fn declare(&mut self, fold: &Fold, range: &Found<'e>) {
        let is_map = matches!(fold.range.ty(), Type::Map(_));
        let key = if is_map { range.held.map(|held| held.key) } else { Some(Size::exact(1)) };
        let keys = match range.place {
            Place::At(_) if is_map => Place::At(&KEYS),
            Place::At(_) | Place::Lost => Place::Lost,
            Place::None => Place::At(self.root),
        };
        let (values, value) = self.element(range);
        let both = match &fold.vars[..] {
            [_] if is_map => vec![(keys, key)],
            [_] => vec![(values, value)],
            _ => vec![(keys, key), (values, value)],
        };
        let named = fold.vars.iter().cloned().zip(both);
        self.locals.extend(named.map(|(name, (place, size))| Local { name, place, size }));
    }

    /// The elements of a list, or the values of a map.
    fn element(&self, found: &Found<'e>) -> (Place<'e>, Option<Size>) {
        (self.elements(found.place), found.held.map(|held| held.value))
    }
}

// === impl Held ===

impl Held {
    fn or(self, other: Held) -> Held {
        Held { key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Found<'a>>, own: u64) -> u64 {
    all.fold(own, |sum, found| sum.saturating_add(found.cost))
}

/// The sizes of all elements of a literal; nothing of one without.
fn union<'a>(all: impl Iterator<Item = &'a Found<'a>>) -> Size {
    all.map(Found::size).reduce(Size::or).unwrap_or(Size::exact(0))
}

fn count<T>(all: &[T]) -> u64 {
    all.len() as u64
}

fn length(literal: &Literal) -> u64 {
    match literal {
        Literal::String(text) => text.chars().count() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }
}

/// Whether values of a type are all of one size.
fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
