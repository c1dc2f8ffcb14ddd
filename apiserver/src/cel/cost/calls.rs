//! What functions cost: their arguments are counted already.

use super::super::ast::{Call, Expr, Kind, Literal};
use super::super::types::Type;
use super::{CALLED, Estimator, Found, LIST, Size, TRAVERSED, scaled};

/// By character of a regular expression.
const MATCHED: f64 = 0.25;
/// The longest regular expression of a named format, and the longest name of one.
const FORMAT_PATTERN: f64 = 128.0;
const FORMAT_NAME: u64 = 64;
const AUTHORIZATION: u64 = 350_000;

impl<'e> Estimator<'e> {
    /// What a call costs beside its arguments, and how large its result is where that is known.
    pub(super) fn own(&self, call: &Call, args: &[Found<'e>]) -> (u64, Option<Size>) {
        let size = |at: usize| args.get(at).map_or(Size::UNKNOWN, Found::size);
        let ty = |at: usize| call.args.get(at).map_or(&Type::Dyn, |arg| arg.ty());
        let called = (CALLED, None);
        let through = |at: usize, factor: f64| (size(at).cost(factor), None);
        let kept = |factor: f64| (size(0).cost(factor), Some(size(0)));
        match (call.function.as_str(), call.member) {
            ("check", true) => (AUTHORIZATION, None),
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", true) => match ty(0) {
                Type::List(item) => {
                    let text = matches!(**item, Type::String | Type::Bytes);
                    let each = if text { self.item_size(args[0].place).cost(TRAVERSED) } else { 0 };
                    (size(0).most.saturating_mul(each.saturating_add(1)), None)
                }
                _ => through(0, TRAVERSED),
            },
            ("url" | "jsonpatch.escapeKey", false)
            | ("lowerAscii" | "upperAscii" | "substring" | "trim", true) => kept(TRAVERSED),
            ("replace", true) => (size(0).cost(2.0 * TRAVERSED), Some(replaced(size(0), size(1), size(2)))),
            ("split", true) => {
                let limit = call.args.get(2).and_then(|limit| match limit.kind {
                    // A negative limit is none, and upstream reads it as a large one.
                    Kind::Literal(Literal::Int(n)) => Some(n.cast_unsigned()),
                    _ => None,
                });
                let most = limit.unwrap_or(size(0).most);
                (size(0).cost(2.0 * TRAVERSED), Some(Size { least: 0, most }))
            }
            ("join", true) => {
                let list = size(0);
                let mut joined = list.times(self.item_size(args[0].place));
                if args.len() > 1 {
                    let gaps =
                        Size { least: list.least.saturating_sub(1), most: list.most.saturating_sub(1) };
                    joined = joined.plus(size(1).times(gaps));
                }
                (joined.cost(TRAVERSED), Some(joined))
            }
            ("find" | "findAll", true) => {
                (matching(size(0), size(1)), Some(Size { least: 0, most: size(0).most }))
            }
            ("matches", true) => (matching(size(0), size(1)), None),
            ("cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver", _)
            | ("ip", false) => through(0, TRAVERSED),
            ("ip.isCanonical", _) => through(0, 2.0 * TRAVERSED),
            // Addresses have sixteen bytes at most; those of both are looked at.
            ("containsIP" | "containsCIDR", true) => {
                let masked = if call.function == "containsCIDR" { scaled(16, TRAVERSED) + 1 } else { 0 };
                let parsed = if *ty(1) == Type::String { size(1).cost(TRAVERSED) } else { 0 };
                (parsed.saturating_add(scaled(32, TRAVERSED) + masked), None)
            }
            ("validate", true) => {
                let text = size(1).cost(TRAVERSED);
                (scaled(text, FORMAT_PATTERN * MATCHED), None)
            }
            ("sets.contains" | "sets.intersects" | "sets.equivalent", false) => {
                let factor = if call.function == "sets.equivalent" { 2 } else { 1 };
                let pairs = size(0).times(size(1)).most.saturating_mul(factor);
                (pairs.saturating_add(CALLED), None)
            }
            ("startsWith" | "endsWith", true) => through(1, TRAVERSED),
            ("contains", true) => {
                let cost = size(0).cost(TRAVERSED).saturating_mul(size(1).cost(TRAVERSED));
                (cost, None)
            }
            ("format", true) => through(0, TRAVERSED),
            ("string", false) if *ty(0) == Type::Bytes => {
                let size = size(0);
                (size.cost(TRAVERSED), Some(Size { least: size.least / 4, most: size.most }))
            }
            ("bytes", false) if *ty(0) == Type::String => {
                let size = size(0);
                (size.cost(TRAVERSED), Some(Size { least: size.least, most: size.most.saturating_mul(4) }))
            }
            ("strings.quote", false) => {
                let size = size(0);
                let quoted = size.plus(Size { least: 0, most: size.most }).plus(Size::exact(2));
                (size.cost(TRAVERSED), Some(quoted))
            }
            ("@in", false) if matches!(ty(1), Type::List(_) | Type::Dyn) => (size(1).most, None),
            ("_+_", false) => match (ty(0), ty(1)) {
                (Type::String | Type::Bytes, _) | (_, Type::String | Type::Bytes) => {
                    let both = size(0).plus(size(1));
                    (both.cost(TRAVERSED), Some(both))
                }
                (Type::List(_), _) | (_, Type::List(_)) => (CALLED, Some(size(0).plus(size(1)))),
                _ => called,
            },
            ("_==_" | "_!=_", false) => match ty(0) {
                Type::Opaque("kubernetes.NamedFormat") => (scaled(FORMAT_NAME, TRAVERSED), None),
                Type::Opaque(_) if ty(0) == ty(1) && call.function == "_==_" => called,
                _ => (compared(size(0), size(1)), None),
            },
            ("_<_" | "_<=_" | "_>_" | "_>=_", false)
                if matches!(ty(0), Type::String | Type::Bytes)
                    || matches!(ty(1), Type::String | Type::Bytes)
                    || (*ty(0) == Type::Dyn && *ty(1) == Type::Dyn) =>
            {
                (compared(size(0), size(1)), None)
            }
            ("slice", true) => allocated(Size::exact(span(&call.args)), 1),
            ("lists.range", false) => allocated(Size::exact(literal(call.args.first(), u64::MAX)), 1),
            ("reverse", true) if matches!(ty(0), Type::List(_)) => allocated(size(0), 1),
            ("flatten", true) => {
                let depth = if args.len() > 1 { literal(call.args.get(1), u64::MAX) } else { 1 };
                allocated(size(0), depth)
            }
            ("distinct", true) => {
                let (cost, _) = allocated(size(0).times(size(0)), 2);
                (cost, Some(size(0)))
            }
            ("sort", true) => {
                let item = match ty(0) {
                    Type::List(item) => item,
                    other => other,
                };
                (sorted(size(0), item), Some(size(0)))
            }
            _ => called,
        }
    }
}

/// A regular expression over a text: one is added, so that an empty text has a cost, too.
fn matching(text: Size, pattern: Size) -> u64 {
    text.plus(Size::exact(1)).cost(TRAVERSED).saturating_mul(pattern.cost(MATCHED))
}

/// Two values are looked at as far as the smaller goes.
fn compared(left: Size, right: Size) -> u64 {
    scaled(left.most.min(right.most), TRAVERSED)
}

fn replaced(text: Size, old: Size, new: Size) -> Size {
    let most = match () {
        () if old.least == 0 => (text.most.saturating_add(1), text.most),
        () if new.most <= old.least => (0, text.most),
        () => (text.most.div_ceil(old.least), 0),
    };
    let least = match () {
        () if old.most == 0 => (text.least.saturating_add(1), text.least),
        () if old.most <= new.least => (0, text.least),
        () => (text.least.div_ceil(old.most), 0),
    };
    let of = |(count, kept): (u64, u64), new: u64| count.saturating_mul(new).saturating_add(kept);
    Size { least: of(least, new.least), most: of(most, new.most) }
}

/// Each element is compared with each, and once more where that is a text.
pub(super) fn sorted(list: Size, item: &Type) -> u64 {
    let factor = if matches!(item, Type::String | Type::Bytes) { 2.0 + TRAVERSED } else { 2.0 };
    list.times(list).cost(factor).saturating_add(CALLED + LIST)
}

/// A new list, by so much for each of its elements.
fn allocated(size: Size, each: u64) -> (u64, Option<Size>) {
    (size.most.saturating_mul(each).saturating_add(CALLED + LIST), Some(size))
}

fn literal(e: Option<&Expr>, absent: u64) -> u64 {
    match e.map(|e| &e.kind) {
        Some(Kind::Literal(Literal::Int(n))) => u64::try_from(*n).unwrap_or(absent),
        _ => absent,
    }
}

/// From one index of a list to another.
fn span(args: &[Expr]) -> u64 {
    let (from, to) = (literal(args.get(1), 0), literal(args.get(2), u64::MAX));
    to.saturating_sub(from)
}
