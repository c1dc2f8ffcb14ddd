//! Functions: a table of signatures and what they do. The checker reads the signatures, the evaluator calls.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::eval::Context;
use super::library;
use super::types::Type;
use super::value::{Result, Value};

/// What a function does with its (already evaluated) arguments; a member function's first is what stands before the dot.
pub(super) type Implementation = for<'a> fn(&mut Context<'a, '_>, &[Value<'a>]) -> Result<Value<'a>>;

/// One row of a library: `"string.startsWith(string): bool"`, and what it does.
pub(super) struct Row(pub(super) &'static str, pub(super) Implementation);

/// A signature, read.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) member: bool,
    pub(super) args: Vec<Type>,
    pub(super) result: Type,
    pub(super) call: Implementation,
}

static FUNCTIONS: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<String, Vec<Overload>> = HashMap::new();
    for row in library::ALL.iter().flat_map(|rows| rows.iter()) {
        let (name, overload) = read(row);
        functions.entry(name).or_default().push(overload);
    }
    functions
});

/// All overloads of a function.
pub(super) fn lookup(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

fn read(row: &Row) -> (String, Overload) {
    let (call, result) = row.0.rsplit_once(": ").expect("a signature has a result");
    let open = opening(call);
    let head = &call[..open];
    let mut args: Vec<Type> = split(&call[open + 1..call.len() - 1]).map(ty).collect();
    // A prefix that is no type is a namespace: `sets.contains`.
    let receiver = head.rsplit_once('.').and_then(|(receiver, name)| Some((parse_type(receiver)?, name)));
    let member = receiver.is_some();
    let name = match receiver {
        Some((receiver, name)) => {
            args.insert(0, receiver);
            name
        }
        None => head,
    };
    (name.to_owned(), Overload { member, args, result: ty(result), call: row.1 })
}

/// Where the arguments of a signature begin.
fn opening(call: &str) -> usize {
    let mut depth = 0;
    for (at, c) in call.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' if depth == 1 => return at,
            '(' => depth -= 1,
            _ => {}
        }
    }
    0
}

/// The parts between commas that are in no brackets.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let parts = list.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|p| !p.is_empty())
}

fn ty(text: &str) -> Type {
    parse_type(text).expect("a signature names known types")
}

fn parse_type(text: &str) -> Option<Type> {
    if let Some((outer, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let mut parts = split(inner).map(ty);
        let first = parts.next()?;
        return Some(match outer {
            "list" => Type::list(first),
            "optional" => Type::optional(first),
            "map" => Type::map(first, parts.next()?),
            _ => return None,
        });
    }
    match text {
        "A" | "B" => text.chars().next().map(Type::Param),
        "IP" => Some(Type::Opaque("net.IP")),
        "CIDR" => Some(Type::Opaque("net.CIDR")),
        "URL" => Some(Type::Opaque("kubernetes.URL")),
        "Quantity" => Some(Type::Opaque("kubernetes.Quantity")),
        "Semver" => Some(Type::Opaque("kubernetes.Semver")),
        "Format" => Some(Type::Opaque("kubernetes.NamedFormat")),
        "Authorizer" => Some(Type::Opaque("kubernetes.authorization.Authorizer")),
        "PathCheck" => Some(Type::Opaque("kubernetes.authorization.PathCheck")),
        "GroupCheck" => Some(Type::Opaque("kubernetes.authorization.GroupCheck")),
        "ResourceCheck" => Some(Type::Opaque("kubernetes.authorization.ResourceCheck")),
        "Decision" => Some(Type::Opaque("kubernetes.authorization.Decision")),
        "list" | "map" => None,
        name => Type::named(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_of_the_libraries_is_readable_and_namespaces_are_no_receivers() {
        assert!(FUNCTIONS.len() > 100);
        let of = |name: &str| lookup(name).unwrap_or_default();
        assert!(of("sets.contains").iter().all(|o| !o.member));
        assert!(of("startsWith").iter().all(|o| o.member && o.args.len() == 2));
        assert!(of("ip.isCanonical").iter().all(|o| !o.member));
    }
}
