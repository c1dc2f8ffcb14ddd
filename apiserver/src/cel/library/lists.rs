//! Lists and sets.

use std::cmp::Ordering;

use super::super::eval::Context;
use super::super::functions::Row;
use super::super::value::{Result, Value, fail, no_overload};
use super::{int, items, length};

pub(super) static ROWS: &[Row] = &[
    Row("list(A).isSorted(): bool", |cx, a| {
        let items = items(cx, &a[0])?;
        Ok(Value::Bool(items.windows(2).all(|w| w[0].compare(&w[1]).is_some_and(Ordering::is_le))))
    }),
    Row("list(A).first(): optional(A)", |cx, a| {
        Ok(items(cx, &a[0])?.into_iter().next().map_or(Value::Optional(None), Value::some))
    }),
    Row("list(A).last(): optional(A)", |cx, a| {
        Ok(items(cx, &a[0])?.pop().map_or(Value::Optional(None), Value::some))
    }),
    Row("list(int).sum(): int", |cx, a| sum(cx, &a[0])),
    Row("list(uint).sum(): uint", |cx, a| sum(cx, &a[0])),
    Row("list(double).sum(): double", |cx, a| sum(cx, &a[0])),
    Row("list(duration).sum(): duration", |cx, a| sum(cx, &a[0])),
    Row("list(A).min(): A", |cx, a| extreme(cx, &a[0], "min", Ordering::is_lt)),
    Row("list(A).max(): A", |cx, a| extreme(cx, &a[0], "max", Ordering::is_gt)),
    Row("list(A).indexOf(A): int", |cx, a| {
        let found = items(cx, &a[0])?.iter().position(|item| item.equals(&a[1]));
        Ok(found.map_or(Value::Int(-1), length))
    }),
    Row("list(A).lastIndexOf(A): int", |cx, a| {
        let found = items(cx, &a[0])?.iter().rposition(|item| item.equals(&a[1]));
        Ok(found.map_or(Value::Int(-1), length))
    }),
    Row("list(A).slice(int, int): list(A)", |cx, a| {
        let all = items(cx, &a[0])?;
        let (start, end) = (int(&a[1]), int(&a[2]));
        let cannot = |why: &str| fail(format!("cannot slice({start}, {end}), {why}"));
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(from), Ok(to)) if from > to => cannot("start index must be less than or equal to end index"),
            (Ok(_), Ok(to)) if to > all.len() => cannot(&format!("list is length {}", all.len())),
            (Ok(from), Ok(to)) => Ok(Value::list(all[from..to].to_vec())),
            _ => cannot("negative indexes not supported"),
        }
    }),
    Row("list(A).flatten(): list(dyn)", |cx, a| flatten(cx, &a[0], 1)),
    Row("list(A).flatten(int): list(dyn)", |cx, a| flatten(cx, &a[0], int(&a[1]))),
    Row("list(A).reverse(): list(A)", |cx, a| {
        let mut all = items(cx, &a[0])?;
        all.reverse();
        Ok(Value::list(all))
    }),
    Row("list(A).distinct(): list(A)", |cx, a| {
        let mut seen: Vec<Value<'_>> = vec![];
        for item in items(cx, &a[0])? {
            cx.spend(seen.len())?;
            if !seen.iter().any(|s| s.equals(&item)) {
                seen.push(item);
            }
        }
        Ok(Value::list(seen))
    }),
    Row("list(A).sort(): list(A)", |cx, a| {
        let mut all = items(cx, &a[0])?;
        if all.windows(2).any(|w| w[0].compare(&w[1]).is_none()) {
            return fail("list elements must be comparable");
        }
        all.sort_by(|x, y| x.compare(y).unwrap_or(Ordering::Equal));
        Ok(Value::list(all))
    }),
    Row("lists.range(int): list(int)", |cx, a| {
        let count = usize::try_from(int(&a[0])).unwrap_or(0);
        cx.spend(count)?;
        Ok(Value::list((0..count).map(length).collect()))
    }),
    Row("sets.contains(list(A), list(A)): bool", |cx, a| {
        let (all, wanted) = sets(cx, a)?;
        Ok(Value::Bool(wanted.iter().all(|w| all.iter().any(|item| item.equals(w)))))
    }),
    Row("sets.intersects(list(A), list(A)): bool", |cx, a| {
        let (all, wanted) = sets(cx, a)?;
        Ok(Value::Bool(wanted.iter().any(|w| all.iter().any(|item| item.equals(w)))))
    }),
    Row("sets.equivalent(list(A), list(A)): bool", |cx, a| {
        let (x, y) = sets(cx, a)?;
        let within =
            |some: &[Value<'_>], all: &[Value<'_>]| some.iter().all(|s| all.iter().any(|i| i.equals(s)));
        Ok(Value::Bool(within(&x, &y) && within(&y, &x)))
    }),
];

type Sets<'a> = (Vec<Value<'a>>, Vec<Value<'a>>);

fn sets<'a>(cx: &mut Context<'a, '_>, a: &[Value<'a>]) -> Result<Sets<'a>> {
    let both = (items(cx, &a[0])?, items(cx, &a[1])?);
    cx.spend(both.0.len() * both.1.len())?;
    Ok(both)
}

fn sum<'a>(cx: &mut Context<'a, '_>, list: &Value<'a>) -> Result<Value<'a>> {
    let mut total: Option<Value<'a>> = None;
    for item in items(cx, list)? {
        total = Some(match (total, item) {
            (None, item @ (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_))) => item,
            (Some(Value::Int(x)), Value::Int(y)) => match x.checked_add(y) {
                Some(sum) => Value::Int(sum),
                None => return fail("integer overflow"),
            },
            (Some(Value::Uint(x)), Value::Uint(y)) => match x.checked_add(y) {
                Some(sum) => Value::Uint(sum),
                None => return fail("unsigned integer overflow"),
            },
            (Some(Value::Double(x)), Value::Double(y)) => Value::Double(x + y),
            (Some(Value::Duration(x)), Value::Duration(y)) => match x.checked_add(y) {
                Some(sum) => Value::Duration(sum),
                None => return fail("duration overflow"),
            },
            _ => return no_overload("sum(list)"),
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(
    cx: &mut Context<'a, '_>,
    list: &Value<'a>,
    name: &str,
    wins: fn(Ordering) -> bool,
) -> Result<Value<'a>> {
    let mut best: Option<Value<'a>> = None;
    for item in items(cx, list)? {
        best = match best {
            None => Some(item),
            Some(b) => match item.compare(&b) {
                None => return no_overload(&format!("{name}(list)")),
                Some(order) if wins(order) => Some(item),
                Some(_) => Some(b),
            },
        };
    }
    best.map_or_else(|| fail(format!("{name} called on empty list")), Ok)
}

fn flatten<'a>(cx: &mut Context<'a, '_>, list: &Value<'a>, depth: i64) -> Result<Value<'a>> {
    if depth < 0 {
        return fail("level must be non-negative");
    }
    let mut all = items(cx, list)?;
    // No list is nested deeper than an expression or a request may be.
    for _ in 0..depth.min(64) {
        if !all.iter().any(|item| item.items().is_some()) {
            break;
        }
        let mut flat = vec![];
        for item in all {
            match item.items() {
                Some(inner) => {
                    cx.spend(inner.len())?;
                    flat.extend(inner);
                }
                None => flat.push(item),
            }
        }
        all = flat;
    }
    Ok(Value::list(all))
}
