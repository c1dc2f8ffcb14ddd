//! Macros: calls whose arguments are not evaluated as they stand.

use super::ast::{Call, Expr, Fold, FoldKind, Kind};
use super::lexer::Issue;

type Result<T> = std::result::Result<T, Issue>;

/// `name(args)`
pub(super) fn global(at: usize, name: &str, mut args: Vec<Expr>) -> Result<Expr> {
    if name != "has" || args.len() != 1 {
        return Ok(Expr::call(at, name, args));
    }
    let mut field = args.remove(0);
    match &mut field.kind {
        Kind::Select(select) if !select.optional => {
            select.test = true;
            field.at = at;
            Ok(field)
        }
        _ => Err(Issue { at: field.at, message: "invalid argument to has() macro".to_owned() }),
    }
}

/// `operand.name(args)`
pub(super) fn member(at: usize, operand: Expr, name: &str, mut args: Vec<Expr>) -> Result<Expr> {
    use FoldKind::{
        All, Exists, ExistsOne, Filter, Map, OptFlatMap, OptMap, SortBy, TransformMap, TransformMapEntry,
    };
    // How many arguments are variables, and whether a filter stands before the body.
    let shape = match (name, args.len()) {
        ("all", 2) => (All, 1, false),
        ("all", 3) => (All, 2, false),
        ("exists", 2) => (Exists, 1, false),
        ("exists", 3) => (Exists, 2, false),
        ("exists_one", 2) => (ExistsOne, 1, false),
        ("exists_one" | "existsOne", 3) => (ExistsOne, 2, false),
        ("filter", 2) => (Filter, 1, false),
        ("map", 2) => (Map, 1, false),
        ("map", 3) => (Map, 1, true),
        ("transformList", 3) => (Map, 2, false),
        ("transformList", 4) => (Map, 2, true),
        ("transformMap", 3) => (TransformMap, 2, false),
        ("transformMap", 4) => (TransformMap, 2, true),
        ("transformMapEntry", 3) => (TransformMapEntry, 2, false),
        ("transformMapEntry", 4) => (TransformMapEntry, 2, true),
        ("sortBy", 2) => (SortBy, 1, false),
        ("optMap", 2) => (OptMap, 1, false),
        ("optFlatMap", 2) => (OptFlatMap, 1, false),
        _ => {
            args.insert(0, operand);
            let call = Call { function: name.to_owned(), member: true, args, overloads: vec![] };
            return Ok(Expr::new(at, Kind::Call(call)));
        }
    };
    let (kind, count, filtered) = shape;
    let vars =
        args[..count].iter().map(|a| variable(a, "argument must be a simple name")).collect::<Result<_>>()?;
    let mut rest = args.split_off(count);
    let body = rest.pop().expect("every macro has a body");
    let filter = if filtered { rest.pop() } else { None };
    Ok(Expr::new(at, Kind::Fold(Box::new(Fold { kind, range: operand, vars, filter, body }))))
}

fn variable(arg: &Expr, why: &str) -> Result<String> {
    match &arg.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err(Issue { at: arg.at, message: why.to_owned() }),
    }
}
